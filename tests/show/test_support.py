"""The archive for a report of a defect."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from canaries import SECRETS, told
from searches import a_search

from orchestrator.__main__ import run
from orchestrator.show.support import cleaner, write_archive
from orchestrator.study.events import SessionEnded
from orchestrator.study.journal import read_journal


def test_an_archive_has_journal_settings_and_logs_without_pictures_names_and_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**SECRETS, "LOGNAME": "maria", "HOME": "/srv/people/maria"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    trial = a_search(tmp_path / "runs/first").trial("t0001")
    (trial / "evaluation").mkdir(parents=True)
    (trial / "evaluation/ranking.png").write_bytes(b"\x89PNG")
    lines = [*SECRETS.values(), "/srv/people/maria/x", "/home/jens/mars: gone", "(/Users/anna/x)", "at /data/maria/x"]
    (trial / "log.txt").write_text("\n".join(lines))
    assert run(["support", "first"]) == 0
    listed = capsys.readouterr().out
    with zipfile.ZipFile("first-support.zip") as archive:
        texts = {name.removeprefix("first/"): archive.read(name).decode() for name in archive.namelist()}
    assert set(texts) == {"versions.json", "search.yaml", "journal.jsonl", "trials/t0001/log.txt"}
    assert all(name in listed for name in texts)
    assert texts["trials/t0001/log.txt"].splitlines()[-4:] == [
        *("~/x", "/home/USER/mars: gone", "(/Users/USER/x)", "at /data/USER/x")
    ]
    assert told("".join(texts.values())) == []


def test_the_archives_journal_can_be_read_though_texts_and_hosts_in_it_were_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_search(tmp_path / "first")
    events = read_journal(folder.journal)
    monkeypatch.setenv("SOME_TOKEN", "resnet-like")
    monkeypatch.setenv("LOGNAME", "data")
    with folder.store.record(folder) as recorder:
        recorder.record(SessionEnded(state="failed", reason="lost h: at /srv/data/x: resnet-like"))
    write_archive(folder, tmp_path / "first.zip")
    with zipfile.ZipFile(tmp_path / "first.zip") as archive:
        (tmp_path / "journal.jsonl").write_bytes(archive.read("first/journal.jsonl"))
        assert "host: node1\n" in archive.read("first/search.yaml").decode()
    found = read_journal(tmp_path / "journal.jsonl")
    assert found[0] == events[0]
    assert len(found) == len(events) + 1
    assert found[-1].event == SessionEnded(state="failed", reason="lost node1: at /srv/USER/x: ***")


@pytest.mark.parametrize(
    "text", ["https://h/x?token=abc", '{"password": "abc"}', "Bearer abc", "https://hooks.slack.com/services/abc"]
)
def test_a_secret_that_is_no_variable_is_replaced_where_its_form_tells(text: str) -> None:
    assert cleaner([])(text) == text.replace("abc", "***")
