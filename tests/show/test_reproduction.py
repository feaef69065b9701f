"""A trial trained again: equal to the last bit, and what is said where it is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from events import epoch_result
from searches import completed, write_search

from orchestrator.__main__ import run
from orchestrator.base.errors import SearchError
from orchestrator.runner.splits import cut_splits, write_splits
from orchestrator.runner.trial_spec import AttemptResult, WorkerMessage
from orchestrator.show.environment_diff import Condition, restoring_commands
from orchestrator.show.metrics_diff import metrics_diff
from orchestrator.show.reproduce import ReproductionPlan, compared, new_folder, plan_reproduction, verdict
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.local import local_search
from orchestrator.study.description import read_description, write_description
from orchestrator.study.events import SessionEnded, TrialReported, TrialStarted
from orchestrator.summary import read_summary
from trainer import fit
from trainer.data import read_splits
from trainer.data.dataset import dataset_fingerprint
from trainer.files import write_atomically
from trainer.result import EpochResult


def test_an_epoch_agrees_with_itself_whatever_the_clock_says() -> None:
    then = epoch_result(3, 0.5)
    now = then.model_copy(update={"seconds": 9.0, "time": 5.0, "images_per_second": 1.0, "data_wait_share": 0.9})
    found = metrics_diff(then, now, 0)
    assert found.first is None
    assert found.largest == 0
    assert found.compared > 10


def test_the_first_figure_that_differs_in_its_last_bit_is_named() -> None:
    then = epoch_result(3, 0.5)
    assert then.validation is not None
    moved = then.validation.model_copy(update={"mAP": 0.5 + 2**-53})
    found = metrics_diff(then, then.model_copy(update={"validation": moved}), 0)
    assert found.first == (3, "validation/mAP", 0.5, 0.5 + 2**-53)
    assert metrics_diff(then, then.model_copy(update={"validation": moved}), 1e-9).first is None


def test_a_figure_that_is_gone_differs_and_one_that_is_new_does_not() -> None:
    with_figures, without = epoch_result(3, 0.5), epoch_result(3)
    missing = metrics_diff(with_figures, without, tolerance=1.0).first
    assert missing is not None
    assert (missing.metric, missing.now) == ("validation/mAP", None)
    assert metrics_diff(without, with_figures, 0).first is None


def test_a_tolerance_is_relative_for_large_figures_and_absolute_for_small_ones() -> None:
    then = epoch_result(1).model_copy(update={"losses": {"center": 100.0, "triplet": 0.5}})
    near = then.model_copy(update={"losses": {"center": 101.0, "triplet": 0.509}})
    assert metrics_diff(then, near, 0.01).first is None
    first = metrics_diff(then, near, 0.0095).first
    assert first is not None
    assert first.metric == "losses/center"


def test_text_and_counts_are_compared_too() -> None:
    then = epoch_result(3, 0.5)
    assert then.validation is not None
    other = then.validation.model_copy(update={"protocol": "mars_official"})
    first = metrics_diff(then, then.model_copy(update={"validation": other}), 0.5).first
    assert first == (3, "validation/protocol", "mars", "mars_official")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, mini_mars: Path) -> Path:
    """A storage with a search whose only trial was trained here, on one thread, as an attempt trains."""
    storage = tmp_path_factory.mktemp("storage")
    root = storage / "data"
    shutil.copytree(mini_mars, root)
    space = SearchSpace.load("smoke.yaml", overrides=[f"data.root={root}", "budget.trials=1"])
    suggested = completed(0, 0.5)[0]
    config = space.config(suggested.params, seed=suggested.seed)
    splits = read_splits(config.data)
    draft = local_search(storage / "draft")
    draft.trial("t0000").mkdir(parents=True)
    write_splits(draft, cut_splits(space, splits.train), splits.train)
    torch.set_flush_denormal(True)
    try:
        done = fit(config, out=draft.trial("t0000"), split=draft.split, device="cpu")
    finally:
        torch.set_flush_denormal(False)
    told = [TrialReported(trial="t0000", result=result) for result in done.history]
    started = TrialStarted(trial="t0000", attempt=1, threads=1)
    ending = [completed(0, 0.5)[-1], SessionEnded(state="finished", reason="")]
    fingerprint = dataset_fingerprint(splits)
    folder = write_search(storage / "first", space, [suggested, started, *told, *ending], fingerprint=fingerprint)
    shutil.move(draft.split, folder.split)
    folder.trial("t0000").mkdir(parents=True)
    write_atomically(folder.trial("t0000") / "config.json", config.model_dump_json(indent=2) + "\n")
    return storage


@pytest.fixture
def storage(trained: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy whose data set stays where it is."""
    shutil.copytree(trained / "first", tmp_path / "first")
    yield tmp_path


@pytest.mark.e2e
def test_a_trial_on_cpu_cores_is_equal_to_the_last_bit_where_its_data_have_moved(
    storage: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = storage / "elsewhere"
    shutil.copytree(trained / "data", moved)
    command = ["reproduce", "first/best", "--storage", str(storage), "--data", str(moved), "--json"]
    assert run(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is True
    assert (found["epochs"], found["tolerance"], found["largest_difference"]) == (3, 0, 0)
    assert found["compared"] > 50
    assert found["threads"] == 1
    differing = {each["what"] for each in found["environment"] if each["differs"]}
    assert "data folder" in differing
    assert not differing & {"data lists", "validation split", "seed", "CPU threads"}
    assert (storage / "first/reproductions/t0000-1/trials/t0000/checkpoint/best.pt").is_file()


def planned(storage: Path, **changes: Any) -> ReproductionPlan:
    summary = read_summary(local_search(storage / "first"))
    options: dict[str, Any] = {"data": None, "threads": None, "tolerance": None, **changes}
    return plan_reproduction(summary, summary.trial("t0000"), **options)


def reported(*results: EpochResult) -> list[WorkerMessage]:
    """What a training sends."""
    return [WorkerMessage(epoch_result=result) for result in results]


def test_the_first_difference_is_named_and_ends_the_training(storage: Path) -> None:
    plan = planned(storage)
    first, second, third = plan.trial.results
    told = second.losses["total"]
    now = second.model_copy(update={"losses": {**second.losses, "total": told + 1e-6}})
    messages = iter(reported(first, now, third))
    done = compared(plan, messages, lambda *_: None)
    assert not done.is_equal
    assert len(list(messages)) == 1
    assert f"DIFFERS first in epoch 2: losses/total was {told!r} and is {told + 1e-6!r}" in verdict(done)


def test_a_training_that_fails_now_reproduces_nothing(storage: Path) -> None:
    plan = planned(storage)
    failed = AttemptResult(state="failed", failure="out_of_memory", reason="MemoryError: all of it")
    messages = [*reported(plan.trial.results[0]), WorkerMessage(attempt_result=failed)]
    done = compared(plan, messages, lambda *_: None)
    assert not done.is_equal
    assert "could not be trained again after 1 of 3 epochs" in verdict(done)
    assert "MemoryError: all of it" in verdict(done)


def test_of_a_trial_that_was_stopped_early_only_the_epochs_it_had_are_trained(storage: Path) -> None:
    journal = storage / "first/journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines[:5]))  # created, suggested, started, two epochs
    plan = planned(storage)
    messages = iter(reported(*plan.trial.results, epoch_result(3, 0.1)))
    done = compared(plan, messages, lambda *_: None)
    assert done.is_equal
    assert len(list(messages)) == 1
    assert "equal to the last bit (2 of 2 epochs" in verdict(done)


def test_another_data_set_or_none_is_refused_with_how_to_name_it(storage: Path) -> None:
    with pytest.raises(SearchError, match=r"gone: the data set of t0000 is not there; say where it is with --data"):
        planned(storage, data=storage / "gone")
    folder = local_search(storage / "first")
    described = read_description(folder.description)
    write_description(folder.description, described.model_copy(update={"data_fingerprint": "another"}))
    with pytest.raises(SearchError, match="is not the data set that first was trained on"):
        planned(storage)


def test_a_configuration_that_is_not_the_journals_is_refused(storage: Path) -> None:
    path = storage / "first/trials/t0000/config.json"
    path.write_text(path.read_text().replace('"epochs": 3', '"epochs": 4'))
    with pytest.raises(SearchError, match=r"is not what the journal says of t0000 \(differs: optim.epochs\)"):
        planned(storage)


def test_a_trial_is_repeated_with_what_auto_became(storage: Path) -> None:
    path = storage / "first/trials/t0000/config.json"
    path.write_text(
        path.read_text().replace('"tf32": "auto"', '"tf32": true').replace('"workers": "auto"', '"workers": 3')
    )
    config = planned(storage).config
    assert (config.compute.tf32, config.clips.workers) == (True, 3)


def test_a_trial_on_a_gpu_is_given_a_tolerance_and_one_on_cpu_cores_none(storage: Path) -> None:
    summary = read_summary(local_search(storage / "first"))
    summary.trial("t0000").gpus = 1.0
    plan = plan_reproduction(summary, summary.trial("t0000"), data=None, threads=3, tolerance=None)
    assert plan.tolerance == 0.02
    assert Condition("device", "GPU", "GPU" if torch.cuda.is_available() else "CPU") in plan.conditions
    assert Condition("CPU threads", "1", "3") in plan.conditions


def test_a_repetition_never_writes_into_a_folder_that_is_there(storage: Path) -> None:
    summary = read_summary(local_search(storage / "first"))
    new_folder(summary, summary.trial("t0000")).mkdir(parents=True)
    assert new_folder(summary, summary.trial("t0000")).name == "t0000-2"


def test_the_code_of_then_is_brought_back_by_commands_where_it_is_another(storage: Path) -> None:
    folder = local_search(storage / "first")
    (folder.path / "code.diff").write_text("a patch")
    described = read_description(folder.description).model_copy(update={"commit": "abc", "versions": {"torch": "1"}})
    write_description(folder.description, described)
    summary = read_summary(folder)
    there = Path("there")
    assert restoring_commands(summary, [Condition("torch", "1", "1"), Condition("host", "a", "b")], there) == []
    assert restoring_commands(summary, [Condition("torch", "1", "2")], there) == [
        "git worktree add there abc",
        f"git -C there apply {folder.path / 'code.diff'}",
        "make -C there install",
    ]
