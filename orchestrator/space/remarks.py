"""Settings of a search space that are allowed and have no effect together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.space.layers import read_layers
from orchestrator.space.options import CONFIRMING_SEEDS
from orchestrator.space.parameters import Choice, StrictConfig, parse_parameter
from orchestrator.space.schema import flattened
from trainer.formatting import counted, listed, shown

if TYPE_CHECKING:
    from orchestrator.space.search_space import SearchSpace
    from trainer.config import TrialConfig

# Settings that only some rules, and some ways to choose the winner, use.
STOPPING_SETTINGS = {
    "first": ("promote", "freeze_thaw"),
    "grace": ("asha", "percentile"),
    "reduction": ("asha", "promote"),
    "percentile": ("percentile",),
    "curves": ("percentile",),
}
REPLICATES_SETTINGS = {"leaders": ("leaders",), "trainings": ("model",)}


def remarks(space: SearchSpace, config: TrialConfig) -> list[str]:
    """A line for each setting without effect; `config` is the trainer's at any point of the space."""
    of_the_search = (*_on_stopping(space), *_on_replicates(space), *_on_priors(space))
    return [*_on_warmup(space, config), *_on_milestones(config), *of_the_search]


def fixed_settings(path_or_name: str | Path, space: SearchSpace) -> list[str]:
    """A line for each setting that the file searches and the space, which has overrides laid over it, fixes."""
    fixed, found = {".".join(keys): value for keys, value in flattened(space.trainer)}, []
    searched = read_layers(path_or_name).data.get("parameters")
    for path, data in searched.items() if isinstance(searched, dict) else ():
        parameter = parse_parameter(data)
        if parameter is not None and path in fixed and path not in space.parameters:
            ends = list(map(shown, parameter.ends().values()))
            where = listed(ends) if isinstance(parameter, Choice) else " to ".join(ends)
            found.append(f"{path}: fixed at {shown(fixed[path])}, not searched (space: {where})")
    return found


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
        found.append(f"optim.milestones: with {counted(config.optim.epochs, 'epoch', 'epochs')} two of them {what}")
    if any(epoch >= config.optim.epochs for epoch in epochs):
        found.append("optim.milestones: the last one is at the end of the training and has no effect")
    return found


def _on_stopping(space: SearchSpace) -> list[str]:
    return _without_effect(space.stopping, "stopping", "rule", STOPPING_SETTINGS)


def _on_replicates(space: SearchSpace) -> list[str]:
    seeds = space.replicates.seeds
    found = _without_effect(space.replicates, "replicates", "choose", REPLICATES_SETTINGS)
    if 0 < seeds < CONFIRMING_SEEDS:
        found.append(f"replicates.seeds: {seeds} confirm no configuration as the best; {CONFIRMING_SEEDS} at least do")
    return found


def _without_effect(
    options: StrictConfig, section: str, switch: str, settings: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Settings with another value than the default that only other values of the switch use."""
    chosen = getattr(options, switch)
    return [
        f"{section}.{key}: has no effect with {switch} {chosen!r}, only with {' or '.join(map(repr, users))}"
        for key, users in settings.items()
        if chosen not in users and getattr(options, key) != type(options).model_fields[key].default
    ]


def _on_priors(space: SearchSpace) -> list[str]:
    path = next((path for path, parameter in space.parameters.items() if parameter.prior is not None), None)
    if path is None or space.has_curve_model:
        return []
    what = "only the model of algorithm 'ax' with method 'fast' and one objective without constraints uses priors"
    return [f"parameters.{path}.prior: {what}"]
