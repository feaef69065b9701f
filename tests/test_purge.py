"""A search deleted, and what is said to remain."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from searches import a_search, completed, write_search

from orchestrator.__main__ import cli, run
from orchestrator.history.events import Observation, ObservationsAttached
from orchestrator.results import purging
from orchestrator.space import SearchSpace


def test_the_folder_and_the_drafts_of_killed_launches_go_and_other_searches_stay(tmp_path: Path) -> None:
    folder = a_search(tmp_path / "first")
    (folder.trial("t0000") / "checkpoint").mkdir(parents=True)
    (folder.trial("t0000") / "checkpoint/best.pt").write_bytes(b"weights")
    (tmp_path / "link").symlink_to(folder.path)
    other = a_search(tmp_path / "first-2")
    (tmp_path / ".first.4711").mkdir()
    (tmp_path / ".first-2.4711").mkdir()
    copies = purging.find(folder)
    assert copies.files == 4  # search.yaml, journal, its reserve, weights
    assert copies.bytes > 7
    purging.purge(copies)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".first-2.4711", "first-2", "link"]
    assert other.journal.is_file()


def test_what_a_link_in_the_folder_points_to_stays(tmp_path: Path) -> None:
    folder = a_search(tmp_path / "runs/first")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    folder.trial("t0000").parent.mkdir()
    folder.trial("t0000").symlink_to(precious)
    (folder.path / "data").symlink_to(precious)
    purging.purge(purging.find(folder))
    assert (precious / "file").is_file()


def test_a_purge_that_was_cut_short_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_search(tmp_path / "first")
    (folder.path / "trials").mkdir()
    copies = purging.find(folder)

    def cut_short(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", cut_short)
        with pytest.raises(KeyboardInterrupt):
            purging.purge(copies)
    purging.purge(purging.find(folder))
    assert not folder.path.exists()


def test_searches_that_have_learned_from_it_are_named(tmp_path: Path) -> None:
    folder = a_search(tmp_path / "first")
    known = Observation(trial="t0000", params={}, value=0.5, standard_error=None)
    attached = ObservationsAttached(search="first", observations=[known, known])
    space = SearchSpace.from_yaml("smoke.yaml")
    warm = write_search(tmp_path / "warm", space, [attached, *completed(0, 0.5)])
    weights = SearchSpace.from_yaml(
        "smoke.yaml", overrides=[f"model.weights={folder.trial('t0001')}/checkpoint/best.pt"]
    )
    started = write_search(tmp_path / "started", weights, completed(0, 0.5))
    damaged = a_search(tmp_path / "damaged")
    damaged.journal.write_text("garbage\n" + damaged.journal.read_text())
    remains = purging.purge(purging.find(folder)).remains
    assert f"{warm.path}: settings and scores of 2 of its trials, from a warm start" in remains
    assert f"{started.path}: its networks were started from weights of this search" in remains
    assert f"{damaged.path}: cannot be read; it may have been started from this search" in remains


def test_without_yes_the_name_has_to_be_typed(tmp_path: Path) -> None:
    folder = a_search(tmp_path / "first")
    command = ["purge", "first", "--storage", str(tmp_path)]
    refused = CliRunner().invoke(cli, command, input="yes\n", standalone_mode=False)
    assert "nothing was deleted" in refused.output
    assert refused.return_value == 2
    assert folder.journal.is_file()
    done = CliRunner().invoke(cli, command, input="first\n", standalone_mode=False)
    assert "deleted   first" in done.output
    assert not folder.path.exists()


def test_without_an_answer_nothing_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_search(tmp_path / "first")
    monkeypatch.setattr("sys.stdin", (tmp_path / "empty").open("w+"))
    assert run(["purge", "first", "--storage", str(tmp_path)]) == 130
    assert folder.journal.is_file()
