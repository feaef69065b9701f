"""What only shows when a whole space is looked at: rules and budgets without effect, combinations that fail."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from orchestrator.space.objective import RelativeConstraint
from orchestrator.space.options import CONFIRMING_SEEDS, missing_for
from orchestrator.space.problems import Problems, SpaceError
from trainer.formatting import shown

if TYPE_CHECKING:
    from orchestrator.space.search_space import SearchSpace
    from trainer.config import TrialConfig

TRIED_POINTS = 64  # random ones of a space whose settings depend on each other; a tenth of a second


def check_whole(space: SearchSpace, problems: Problems) -> None:
    """Notes what no part of a space shows by itself; the parts are known to be sound."""
    if space.constraints and next(space.samples(0), None) is None:
        problems.add(("constraints",), "no point was found that satisfies all of them; loosen one")
        return
    _check_outcomes(space, problems)
    if (missing := missing_for(space.algorithm.method)) is not None:
        problems.add(("algorithm", "method"), missing)
    if space.derived or any(parameter.when for parameter in space.parameters.values()):
        _check_points(space, problems)
    if not problems.below(()):
        config = space.config(space.any_sample())
        if not config.data.validation.holds_out:
            what = "0 holds out nobody, and trials are compared on those held out; choose a share such as 0.1"
            problems.add(("trainer", "data", "validation", "share"), what)
        _check_stopping(space, config, problems)
        _check_epochs(space, config, problems)


def _check_outcomes(space: SearchSpace, problems: Problems) -> None:
    """Notes constraints on figures that Ax cannot keep, or that nothing decides."""
    objective = space.objective
    for index, bound in enumerate(objective.outcome_constraints()):
        place = ("objective", "constraints", index)
        # Of several objectives a bound says from where on one counts.
        if bound.metric == objective.first.metric and len(objective.terms) == 1:
            what = f"{bound.metric} is what the search improves anyway; bound another figure, or use budget.target"
            problems.add(place, what)
        elif isinstance(bound, RelativeConstraint) and not space.start:
            problems.add(
                place, "the baseline is the first point under 'start', and there is none; give one, or a number"
            )


def warnings(space: SearchSpace) -> list[str]:
    """What is allowed in a space, but hardly meant: settings that cancel each other out."""
    config = space.config(space.any_sample())
    return [*_on_warmup(space, config), *_on_milestones(config), *_on_replicates(space)]


def _check_points(space: SearchSpace, problems: Problems) -> None:
    """Notes random points that the trainer refuses."""
    for point in islice(space.samples(0), TRIED_POINTS):
        try:
            space.config(point)
        except SpaceError as error:
            where = ", ".join(f"{path} {shown(value)}" for path, value in point.items())
            problems.add(("parameters",), f"the trainer refuses a random point: {error.problems[0]} ({where})")
            return


def _check_stopping(space: SearchSpace, config: TrialConfig, problems: Problems) -> None:
    """Notes a stopping rule that is never asked before a trial is over."""
    if space.stopping.rule == "none" or _varies(space, "optim.epochs", "evaluation.every"):
        return
    epochs, every = config.optim.epochs, config.evaluation.every
    if (evaluations := math.ceil(epochs / every)) <= space.stopping.grace:
        problems.add(
            ("stopping", "grace"),
            f"{space.stopping.grace} of {evaluations} evaluations (optim.epochs {epochs}, evaluation.every {every}) "
            "leave nothing to stop; lower grace or evaluation.every",
        )


def _check_epochs(space: SearchSpace, config: TrialConfig, problems: Problems) -> None:
    """Notes a budget in which not even one trial is trained to its end."""
    budget, epochs = space.budget.epochs, config.optim.epochs
    if budget is not None and budget < epochs and not _varies(space, "optim.epochs"):
        problems.add(("budget", "epochs"), f"one trial alone trains {epochs} (is {budget}); raise it, or optim.epochs")


def _on_warmup(space: SearchSpace, config: TrialConfig) -> list[str]:
    if config.optim.schedule != "milestones" or not config.optim.milestones or "optim.warmup" in space.derived:
        return []
    parameter = space.parameters.get("optim.warmup")
    ends = [config.optim.warmup] if parameter is None else [end for end in parameter.ends().values()]
    longest, first = max(map(float, ends)), config.optim.milestones[0]
    if longest <= first:
        return []
    return [
        f"optim.warmup: {shown(longest)} of the epochs lasts beyond the first of optim.milestones, at {shown(first)}; "
        "the learning rate falls before it has risen"
    ]


def _on_milestones(config: TrialConfig) -> list[str]:
    if config.optim.schedule != "milestones":
        return []
    epochs = [max(1, round(share * config.optim.epochs)) for share in config.optim.milestones]
    found = []
    if len(set(epochs)) < len(epochs):
        what = "fall on the same epoch; the learning rate falls by more than optim.gamma at once"
        found.append(f"optim.milestones: with {config.optim.epochs} epochs two of them {what}")
    if any(epoch >= config.optim.epochs for epoch in epochs):
        found.append("optim.milestones: the last one is at the end of the training and has no effect")
    return found


def _on_replicates(space: SearchSpace) -> list[str]:
    seeds = space.replicates.seeds
    if not 0 < seeds < CONFIRMING_SEEDS:
        return []
    return [f"replicates.seeds: {seeds} confirm no configuration as the best; {CONFIRMING_SEEDS} at least do"]


def _varies(space: SearchSpace, *paths: str) -> bool:
    return any(path in space.parameters or path in space.derived for path in paths)
