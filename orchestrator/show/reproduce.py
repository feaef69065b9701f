"""`reidsearch reproduce`: a trial trained again from the start, every epoch compared with the journal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.base.errors import SearchError
from orchestrator.runner.trial_spec import TrialSpec, WorkerMessage, attempt_environment
from orchestrator.runner.worker import ATTEMPTS_LOG, AttemptServer
from orchestrator.show.environment_diff import Condition, environment_diff, recorded_config, restoring_commands
from orchestrator.show.metrics_diff import ChangedMetric, MetricsDiff, metrics_diff
from orchestrator.space.plugins import plugins_of
from orchestrator.stores.local import local_search
from orchestrator.study.study import Trial
from orchestrator.summary import Summary
from trainer.files import write_atomically
from trainer.formatting import shortened

if TYPE_CHECKING:
    from trainer import TrialConfig

# On a GPU sums are taken in an order that changes from run to run, and trainings drift apart. Chosen, not measured.
GPU_TOLERANCE = 0.02
KEPT_BELOW = "reproductions"
SHOWN_TEXT = 40  # characters of a version or a path in the table

OnEpoch = Callable[[int, MetricsDiff], None]
"""Called with every epoch that was compared."""


class ReproductionPlan(NamedTuple):
    """What is trained again, known before it is."""

    search: Summary
    trial: Trial
    config: TrialConfig
    threads: int
    tolerance: float
    """Of relative differences; 0 asks for equality to the last bit."""
    conditions: list[Condition]


class Reproduction(NamedTuple):
    """What the training gave."""

    plan: ReproductionPlan
    epochs: int
    """Compared."""
    compared: int
    """Numbers, over all epochs."""
    largest: float
    """Largest relative difference."""
    first: ChangedMetric | None
    """The first number beyond the tolerance; nothing after its epoch was trained."""
    failure: str | None
    """Why the training ended before its time."""

    @property
    def is_equal(self) -> bool:
        """Whether every epoch of the journal was found again."""
        return self.first is None and self.failure is None


def plan_reproduction(
    search: Summary, trial: Trial, *, data: Path | None, threads: int | None, tolerance: float | None
) -> ReproductionPlan:
    """Checks all that can be checked before anything is trained.

    Args:
        search: that the trial is of.
        trial: with its results.
        data: where its data set lies now; None where it did not move.
        threads: CPU threads; None are those that it had.
        tolerance: of relative differences; None is 0 for a trial on CPU cores.

    Raises:
        SearchError: the trial has reported nothing, its data are not where or what they were, or its number of CPU
            threads is not known.
        DataError: the data set or the split is damaged.
    """
    if trial.finalization:
        raise SearchError(f"{trial.key}: is judged on the test set, which is not opened for a repetition; take another")
    if not trial.results:
        raise SearchError(f"{trial.key}: has reported no epoch ({trial.status}), so that there is nothing to compare")
    plugins_of(search.space)  # a missing one would look like a damaged configuration
    then = recorded_config(search, trial)
    root = (then.data.root if data is None else data).absolute()
    if not root.is_dir():
        raise SearchError(f"{root}: the data set of {trial.key} is not there; say where it is with --data DIR")
    now = then.model_copy(update={"data": then.data.model_copy(update={"root": root})})
    if (used := threads or trial.threads) is None:
        raise SearchError(f"{trial.key}: its number of CPU threads was not recorded; name it with --threads")
    conditions = environment_diff(search, trial, then, now, used)
    if any(each.what.startswith("data") and each.matters for each in conditions):
        raise SearchError(f"{root}: is not the data set that {search.name} was trained on; --data DIR names another")
    default = GPU_TOLERANCE if trial.gpus else 0.0
    return ReproductionPlan(search, trial, now, used, default if tolerance is None else tolerance, conditions)


def new_folder(search: Summary, trial: Trial) -> Path:
    """A new folder below the search, where `purge` finds it."""
    below = search.folder.path / KEPT_BELOW
    number = 1
    while (below / f"{trial.key}-{number}").exists():
        number += 1
    return below / f"{trial.key}-{number}"


def reproduce(plan: ReproductionPlan, out: Path, on_epoch: OnEpoch) -> Reproduction:
    """Trains in `out` as an attempt of the search does, in a process of its own, until the first difference.

    Raises:
        SearchError: `out` is not empty, or the training's process died.
    """
    if out.exists() and any(out.iterdir()):
        raise SearchError(f"{out}: is not empty; choose another --out")
    trial, folder = plan.trial, local_search(out.absolute())
    folder.trial(trial.key).mkdir(parents=True, mode=0o700)
    shutil.copyfile(plan.search.folder.split_of(trial.fold), folder.split_of(trial.fold))
    config = plan.config.model_dump_json(indent=2) + "\n"
    write_atomically(folder.trial(trial.key) / "config.json", config)
    spec = TrialSpec(
        search=folder.path,
        trial=trial.key,
        attempt=1,
        config=config,
        threads=plan.threads,
        hang_after=plan.search.description.options.hang_after,
        fold=trial.fold,
    )
    log = folder.logs / ATTEMPTS_LOG
    server = AttemptServer(log, attempt_environment(plan.threads, trial.gpus))
    try:
        with closing(server.messages(spec)) as lines:
            return compared(plan, map(WorkerMessage.model_validate_json, lines), on_epoch)
    except ChildProcessError as error:
        raise SearchError(f"{trial.key}: {error}; its output is in {log}") from error
    finally:
        server.close()


def compared(plan: ReproductionPlan, messages: Iterable[WorkerMessage], on_epoch: OnEpoch) -> Reproduction:
    """Compares what a training reports with the journal; takes no message after the first difference."""
    left = {result.epoch: result for result in plan.trial.results}
    diffs: list[MetricsDiff] = []
    failure: str | None = None
    for message in messages:
        if message.attempt_result is not None and left:
            failure = message.attempt_result.reason or message.attempt_result.state
        if message.epoch_result is None or message.epoch_result.epoch not in left:
            continue
        epoch = message.epoch_result.epoch
        diffs.append(metrics_diff(left.pop(epoch), message.epoch_result, plan.tolerance))
        on_epoch(epoch, diffs[-1])
        # A trial that was stopped early reported fewer epochs than it would train now.
        if diffs[-1].first is not None or not left:
            break
    return Reproduction(
        plan,
        epochs=len(diffs),
        compared=sum(diff.compared for diff in diffs),
        largest=max((diff.largest for diff in diffs), default=0.0),
        first=diffs[-1].first if diffs else None,
        failure=failure,
    )


def conditions_table(conditions: Sequence[Condition]) -> str:
    """One line for each, those that differ marked."""
    texts = [tuple(shortened(text, SHOWN_TEXT) for text in (each.then, each.now)) for each in conditions]
    names, width = max(len(each.what) for each in conditions), max(len(then) for then, _ in texts)
    lines = [f"{'':<6}{'':<{names}}  {'then':<{width}}  now"]
    for each, (then, now) in zip(conditions, texts, strict=True):
        mark = "DIFF" if each.matters else "other" if each.differs else "same" if each.then == each.now else "?"
        lines.append(f"{mark:<6}{each.what:<{names}}  {then:<{width}}  {now}")
    return "\n".join(lines)


def restoring_text(plan: ReproductionPlan) -> str:
    """How to restore the code of the launch; empty where it is the same."""
    lines = restoring_commands(plan.search, plan.conditions, Path(f"../{plan.search.name}-code"))
    return "\n  ".join(["to train with the code and versions of the launch:", *lines]) if lines else ""


def verdict(done: Reproduction) -> str:
    """Whether the training was the same, in one or two lines."""
    plan, first = done.plan, done.first
    name = f"{plan.search.name}/{plan.trial.key}"
    numbers = f"{done.epochs} of {len(plan.trial.results)} epochs, {done.compared} numbers"
    if first is not None:
        others = ", ".join(each.what for each in plan.conditions if each.matters)
        why = f"; what else differs: {others}" if others else "; nothing that was recorded differs"
        return (
            f"{name}: DIFFERS first in epoch {first.epoch}: {first.metric} was {first.then!r} and is {first.now!r} "
            f"(tolerance {plan.tolerance:g}){why}"
        )
    if done.failure is not None:
        return f"{name}: could not be trained again after {numbers}: {done.failure}"
    if done.largest == 0:
        return f"{name}: equal to the last bit ({numbers}, {plan.threads} CPU threads)"
    return f"{name}: equal within {plan.tolerance:g} ({numbers}; largest relative difference {done.largest:.1e})"


def reproduction_document(done: Reproduction, out: Path) -> dict[str, Any]:
    """What `--json` prints."""
    plan = done.plan
    return {
        "search": plan.search.name,
        "trial": plan.trial.key,
        "synthetic": plan.search.description.synthetic,
        "equal": done.is_equal,
        "epochs": done.epochs,
        "compared": done.compared,
        "tolerance": plan.tolerance,
        "largest_difference": done.largest,
        "first_difference": None if done.first is None else done.first._asdict(),
        "failure": done.failure,
        "threads": plan.threads,
        "environment": [{**each._asdict(), "differs": each.differs} for each in plan.conditions],
        "out": str(out),
    }
