"""From what the user asked for to a space that can be searched here: data found or generated, weights that fit."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.base.hints import hint
from orchestrator.base.progress import step_progress
from orchestrator.space.schema import flattened, setting_schemas
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import Store
from trainer.errors import DataError

# Mistakes are answered without waiting for torch and scipy.
if TYPE_CHECKING:
    from trainer import TrialConfig
    from trainer.data.synthetic.scene import SizeName

MINI_MARS = "mini-mars"
# The space whose small network and images any other one borrows to run on generated data without a GPU.
SMALL_SPACE = "demo.yaml"
# What it borrows: the size of things. What the space is about, its losses and the kind of its network, stays its own.
SMALL_SPLIT = ("data.validation.share", "data.validation.distractors", "data.validation.seed")
SMALL_SIZES = (
    *("clips.frames", "clips.identities", "clips.tracklets", "clips.pad"),
    *("model.backbone", "model.weights", "model.height", "model.width"),
    *("optim.epochs", "evaluation.every"),
)

NETWORK = frozenset({"model.weights", "model.backbone"})  # settings that decide which weights fit
NETWORKS_TRIED = 64  # random points of a space that searches one of them


def prepare_space(
    given: str, *, data: str | None, overrides: Sequence[str], storage: Store, dry_run: bool
) -> SearchSpace:
    """The space as it will be searched, its data in place.

    Args:
        given: file or built-in name of the space.
        data: folder of the data set, `mini-mars` for a generated one, None for what the space says.
        overrides: the user's `path=value` settings, which win over everything.
        storage: where generated data is kept.
        dry_run: write nothing.

    Raises:
        SpaceError: the space is not valid.
        DataError: the data set is not where it was looked for.
        ConfigError: on generated data, the network's weights are not to be had or do not fit.
    """
    parsed = SearchSpace.parse(given, overrides=overrides)
    if data == MINI_MARS:
        overrides = [*small_settings(parsed), *overrides]
    elif data is not None:
        overrides = [*overrides, _setting("data.root", Path(data).absolute())]
    if any(override.partition("=")[0].strip().endswith("data.root") for override in overrides):
        overrides = ["synthetic=null", *overrides]
    parsed = SearchSpace.parse(given, overrides=overrides)
    root = _data_root(parsed, storage.path)
    if parsed.synthetic is None and not root.is_dir():
        raise DataError(
            f"no data set at {root.absolute()} (data.root of {parsed.name}); say where it is with --data DIR, or "
            "try the search on generated data: "
            + hint("launch", "--space", given, "--data", MINI_MARS, storage=storage.name)
        )
    space = SearchSpace.load(given, overrides=overrides)
    config = any_config(space)
    if space.synthetic is not None:
        check_weights(space)  # before time goes into drawing
        if not dry_run:
            generate(root, space.synthetic)
    # A search may be resumed from any folder, so its paths are absolute.
    places = [_setting("data.root", root.absolute())]
    if config.model.weights not in ("imagenet", "none"):
        places.append(_setting("model.weights", Path(config.model.weights).absolute()))
    return SearchSpace.load(given, overrides=[*overrides, *places])


def _data_root(space: SearchSpace, storage: Path) -> Path:
    """Where the data set is, or will be generated; does not ask the trainer."""
    if space.synthetic is not None:
        return storage / f"{MINI_MARS}-{space.synthetic}"
    data = space.trainer.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    return Path(str(setting_schemas()["data.root"]["default"] if root is None else root))


def _setting(path: str, value: Path) -> str:
    """An override with a path as its value, quoted: file names may hold anything."""
    return f"{path}={json.dumps(str(value))}"


def any_config(space: SearchSpace) -> TrialConfig:
    """The trainer's configuration in the middle of the space, for settings that no trial varies."""
    return space.config(space.any_sample())


def check_weights(space: SearchSpace) -> None:
    """Whether the weights of every network that the space can choose are to be had and fit it; downloads them.

    Raises:
        ConfigError: they are not, or do not.
    """
    models = {any_config(space).model}
    if not NETWORK.isdisjoint(space.parameters):
        points = (*space.start, *islice(space.samples(0), NETWORKS_TRIED))
        models |= {space.config(point).model for point in points}
    from trainer import require_weights

    for model in {(model.weights, model.backbone): model for model in models}.values():
        require_weights(model)


def generate(root: Path, size: SizeName) -> None:
    """Writes a generated data set, unless it is there."""
    from trainer.data.synthetic.dataset import is_synthetic, write_synthetic

    if is_synthetic(root):
        return
    with step_progress() as progress:
        write_synthetic(
            root,
            size=size,
            seed=0,
            progress=lambda done, total: progress(f"drawing {root.name}", done, total),
        )


def small_settings(space: SearchSpace) -> list[str]:
    """Overrides that let a space run on generated data here: on a GPU its own network on the demo set, otherwise the
    demo's small network, images and budget; searched settings stay searched."""
    import torch

    small = SearchSpace.load(SMALL_SPACE)
    # Generated data has MARS' layout and few identities.
    overrides = [f"synthetic={small.synthetic}", "data.name=mars", "data.fold=0", "data.validation.folds=null"]
    overrides += ["data.validation.fold=0", "evaluation.protocol=mars"]
    borrowed = SMALL_SPLIT if torch.cuda.is_available() else (*SMALL_SPLIT, *SMALL_SIZES)
    for keys, value in flattened(small.trainer):
        path = ".".join(keys)
        if path in borrowed and path not in space.parameters:
            overrides.append(f"{path}={value}")
    if not torch.cuda.is_available():
        overrides.append(f"budget.trials={min(space.budget.trials, small.budget.trials)}")
    return overrides


@contextmanager
def smoke_test_space(space: SearchSpace) -> Iterator[SearchSpace]:
    """The space on data that are there: its own or, where they are still to be generated, an outline of those.

    The outline lies in a temporary folder, not in the storage, and is gone at the end.

    Raises:
        DataError: there is no room for it.
    """
    if space.synthetic is None or any_config(space).data.root.is_dir():
        yield space
        return
    from trainer.data.synthetic.dataset import write_outline

    with tempfile.TemporaryDirectory(prefix="reidsearch-") as folder:
        root = Path(folder) / "outline"
        write_outline(root, size=space.synthetic, seed=0)
        data = space.trainer.get("data")
        there = {**(data if isinstance(data, dict) else {}), "root": str(root)}
        yield space.model_copy(update={"trainer": {**space.trainer, "data": there}})


def plan(space: SearchSpace, storage: Store) -> str:
    """What a launch would do, for people."""
    from orchestrator.algorithms.suggest import initial_trials

    config = any_config(space)
    first = initial_trials(space)
    lines = [
        f"space     {space.name}: {len(space.parameters)} searched parameters, {len(space.start)} known points",
        f"budget    {space.budget.trials} trials of {config.optim.epochs} epochs" + _other_budgets(space),
        f"algorithm {space.algorithm.name}"
        + (f", {first} trials before the model is asked" if space.algorithm.name == "ax" else "")
        + f"; stopping rule {space.stopping.rule}",
        f"repeats   {_repeats(space)}",
        f"objective {_objective(space)} of the {space.objective.epoch} evaluated epoch",
        f"data      {config.data.root}" + (" (SYNTHETIC, not written yet)" if not config.data.root.is_dir() else ""),
        f"network   {config.model.backbone} at {config.model.height}x{config.model.width}",
        f"storage   {storage.uri or storage.path.absolute()}",
        f"machine   {os.cpu_count()} CPU cores",
    ]
    return "\n".join(lines)


def _objective(space: SearchSpace) -> str:
    return ", ".join(f"{term.goal} {term.metric}" for term in space.objective.terms)


def _repeats(space: SearchSpace) -> str:
    replicates = space.replicates
    if replicates.seeds == 0:
        return "none: the best will be that of one seed, unconfirmed"
    of = "configuration" if replicates.leaders == 1 else f"{replicates.leaders} configurations"
    return f"the best {of} once more with each of {replicates.seeds} other seeds"


def _other_budgets(space: SearchSpace) -> str:
    budget = space.budget.model_dump(exclude={"trials", "concurrent"}, exclude_none=True)
    return "".join(f", {key.replace('_', ' ')} {value:g}" for key, value in budget.items())
