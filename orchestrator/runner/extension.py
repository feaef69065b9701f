"""Extends a search by more budget or wider bounds than it was launched with."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from orchestrator.algorithms.budget import trainings_taken
from orchestrator.algorithms.replicates import interrupted_replicates
from orchestrator.base.errors import SearchError
from orchestrator.runner.splits import add_splits
from orchestrator.space.problems import SpaceError
from orchestrator.space.schema import flattened
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import current_space, read_description
from orchestrator.study.events import SearchExtended, TrialReopened
from orchestrator.study.study import Study
from trainer.files import write_atomically
from trainer.formatting import counted, shown

# Settings that may change without making the existing trials meaningless.
CHANGEABLE = ("budget", "parameters", "stopping", "algorithm", "replicates")


def extend(folder: SearchFolder, *, trials: str | None, overrides: Sequence[str]) -> list[str]:
    """Records another space for the search and returns the changes; nothing is run.

    Args:
        folder: a search that no process drives.
        trials: the budget of trials: a number, or `+20` for so many more.
        overrides: `path=value` settings of the budget, the bounds, the stopping rule, the algorithm or the replicates.

    Raises:
        SearchError: nothing would change, or existing trials would become meaningless.
        SpaceError: the space would not be valid.
        DataError: replicates need further folds, and the data set cannot be read.
        LeaseError: a process drives the search.
    """
    description = read_description(folder.description)
    with folder.store.record(folder) as recorder:
        before = current_space(description, recorder.study)
        if trials is not None:
            overrides = [*overrides, f"budget.trials={_number_of_trials(trials, before)}"]
        after = overlaid(before, overrides)
        changes = _changes(before.resolved(), after.resolved())
        _check(folder.name, changes, recorder.study, after)
        add_splits(folder, after)
        recorder.record(SearchExtended(changes=[text for _, text in changes], space=after.resolved()))
        for repeat in interrupted_replicates(recorder.study):
            recorder.record(TrialReopened(trial=repeat.key))
    return [text for _, text in changes]


def overlaid(space: SearchSpace, overrides: Sequence[str]) -> SearchSpace:
    """The space with `path=value` overrides laid over it.

    Raises:
        SpaceError: it would not be valid.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{space.name}.yaml"
        write_atomically(file, space.to_yaml())
        try:
            return SearchSpace.load(file, overrides=overrides)
        except SpaceError as error:
            # The file is nothing that a user has ever seen.
            raise SpaceError(*(problem.replace(f"{file}:", f"{space.name}:") for problem in error.problems)) from error


def _number_of_trials(text: str, space: SearchSpace) -> int:
    """`60`, or `+20` on top of the present budget."""
    digits = text.removeprefix("+")
    if not digits.isdecimal() or not int(digits):
        raise SearchError(f"--trials {text}: write how many in all, such as 60, or how many more, such as +20")
    return int(digits) + (space.budget.trials if text.startswith("+") else 0)


def _changes(before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    """The first key of every setting that differs, and the difference for people."""
    old, new = dict(flattened(before)), dict(flattened(after))
    return [
        (keys[0], f"{'.'.join(keys)} {_shown(old, keys)} -> {_shown(new, keys)}")
        for keys in dict.fromkeys([*old, *new])
        if keys not in old or keys not in new or old[keys] != new[keys]
    ]


def _shown(settings: Mapping[tuple[str, ...], JsonValue], keys: tuple[str, ...]) -> str:
    return shown(settings[keys]) if keys in settings else "nothing"


def _check(name: str, changes: Sequence[tuple[str, str]], study: Study, space: SearchSpace) -> None:
    if not changes:
        raise SearchError(f"{name}: nothing would change; give trials such as +10, or settings such as replicates=3")
    if (outside := next(_outside(study, space), None)) is not None:
        raise SearchError(f"{name}: {outside}; bounds can be widened, not narrowed")
    for key, text in changes:
        if key not in CHANGEABLE:
            raise SearchError(
                f"{name}: {text}: a search keeps its {key}, because its trials could not be compared any more; launch "
                f"a new one, with --warm-start {name} where it may learn from this one"
            )
    if space.budget.trials < (taken := math.ceil(trainings_taken(study, space))):
        raise SearchError(f"{name}: has {counted(taken, 'trial', 'trials')} already; the budget cannot be less")


def _outside(study: Study, space: SearchSpace) -> Iterator[str]:
    """Reasons why existing trials do not fit the new space."""
    for trial in study.trials.values():
        for path, value in trial.params.items():
            if path not in space.parameters:
                yield f"{path} is no longer searched, but {trial.key} has a value of it"
            elif (refusal := space.parameters[path].refusal(value)) is not None:
                yield f"{path} of {trial.key} {refusal}"
        for path, parameter in space.parameters.items():
            if path not in trial.params and not parameter.when:
                yield f"{path} is searched anew, but {trial.key} has no value of it"
