"""Prepares a search space for this machine: finds or generates its data set, checks the weights of its networks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.base.hints import hint
from orchestrator.base.progress import step_progress
from orchestrator.base.project import default
from orchestrator.space.schema import flattened, setting_schemas
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import Store
from trainer.errors import DataError
from trainer.formatting import shown

# They import torch and scipy; errors in a space are reported without waiting for these.
if TYPE_CHECKING:
    from trainer import TrialConfig
    from trainer.data.synthetic.scene import SizeName

log = logging.getLogger(__name__)

MINI_MARS = "mini-mars"
# Other spaces take their network and image sizes from this one to run on generated data without a GPU.
SMALL_SPACE = "demo.yaml"
# The settings they take: sizes only. The losses and the kind of network stay those of the space.
SMALL_SPLIT = ("data.validation.share", "data.validation.distractors", "data.validation.seed")
SMALL_SIZES = (
    *("clips.frames", "clips.identities", "clips.tracklets", "clips.pad"),
    *("model.backbone", "model.weights", "model.height", "model.width"),
    *("optim.epochs", "evaluation.every"),
)

NETWORK = frozenset({"model.weights", "model.backbone"})  # settings that decide which weights fit
NETWORKS_TRIED = 64  # random points of a space that searches one of them


def prepare_space(
    given: str,
    *,
    data: str | None,
    overrides: Sequence[str],
    storage: Store,
    dry_run: bool,
    say: Callable[[str], None] = log.debug,
) -> SearchSpace:
    """The space as it will be searched; its data set exists afterwards.

    Args:
        given: file or built-in name of the space.
        data: folder of the data set, `mini-mars` for a generated one; None for the generated one of the space, or for
            REIDSEARCH_DATA's or the project file's, or the space's own.
        overrides: the user's `path=value` settings; they take precedence over all others.
        storage: where generated data is kept.
        dry_run: whether nothing is written.
        say: called with what is done before the first step that takes a second.

    Raises:
        SpaceError: the space is not valid.
        DataError: the data set is not there.
        ConfigError: on generated data, the network's weights are not available or do not fit.
    """
    own = parsed = SearchSpace.parse(given, overrides=overrides)
    if data is None and parsed.synthetic is None and not _names_root(overrides) and (known := default("data")):
        data = known.value
        log.warning("data      %s (%s)", data, known.origin)
    busy = f"{parsed.name}: checking the space, its data and its weights"
    if data == MINI_MARS:
        say(busy)
        overrides = [*small_settings(parsed), *overrides]
    elif data is not None:
        overrides = [*_name_override(parsed, Path(data)), *overrides, _setting("data.root", Path(data).absolute())]
    if _names_root(overrides):
        overrides = ["synthetic=null", *overrides]
    parsed = SearchSpace.parse(given, overrides=overrides)
    root = _data_root(parsed, storage.path)
    if parsed.synthetic is None and not root.is_dir():
        raise DataError(
            f"no data set at {root.absolute()} (data.root of {parsed.name}); say where it is with --data DIR, or "
            "try the search on generated data: " + hint("launch", given, "--data", MINI_MARS, storage=storage.name)
        )
    if data != MINI_MARS:
        say(busy)
    space = SearchSpace.load(given, overrides=overrides)
    config = any_config(space)
    if space.synthetic is not None:
        check_weights(space)  # before time goes into drawing
        if not dry_run:
            generate(root, space.synthetic)
    # A search may be resumed from any folder, so its paths are absolute.
    places = [_setting("data.root", root.absolute())]
    if config.model.weights_file is not None:
        places.append(_setting("model.weights", config.model.weights_file.absolute()))
    space = SearchSpace.load(given, overrides=[*overrides, *places])
    if data == MINI_MARS and (replaced := _replaced(own, space)):
        say(f"note small data, small settings: {replaced}")
    return space


def _replaced(own: SearchSpace, small: SearchSpace) -> str:
    """The settings of the space that `small_settings` has replaced, with both values."""
    both = [
        {**any_config(each).model_dump(mode="json"), "budget": {"trials": each.budget.trials}} for each in (own, small)
    ]
    old, new = (dict(flattened(each)) for each in both)
    keys = (tuple(path.split(".")) for path in (*SMALL_SIZES, *SMALL_SPLIT, "budget.trials"))
    return ", ".join(
        f"{'.'.join(key)} {shown(new[key])} (was {shown(old[key])})" for key in keys if new[key] != old[key]
    )


def _names_root(overrides: Sequence[str]) -> bool:
    return any(override.partition("=")[0].strip().endswith("data.root") for override in overrides)


def _data_root(space: SearchSpace, storage: Path) -> Path:
    """The folder where the data set is, or will be generated. Does not import the trainer."""
    if space.synthetic is not None:
        return storage / f"{MINI_MARS}-{space.synthetic}"
    data = space.trainer.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    return Path(str(setting_schemas()["data.root"]["default"] if root is None else root))


def _name_override(space: SearchSpace, root: Path) -> list[str]:
    """The `data.name` of what lies in the folder; none where that is no known data set, or a plug-in reads it."""
    from trainer.data import recognised
    from trainer.plugins import is_plugin

    data = space.trainer.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    found = None if isinstance(name, str) and is_plugin(name) else recognised(root)
    return [] if found is None else [f"data.name={found}"]


def _setting(path: str, value: Path) -> str:
    """An override with a path as its value, quoted: file names may hold anything."""
    return f"{path}={json.dumps(str(value))}"


def any_config(space: SearchSpace) -> TrialConfig:
    """The trainer's configuration in the middle of the space, for settings that no trial varies."""
    return space.config(space.any_sample())


def check_weights(space: SearchSpace) -> set[tuple[str, str]]:
    """Downloads the weights of every network of the space, and checks that they fit.

    Returns:
        The pairs of `model.weights` and `model.backbone`.

    Raises:
        ConfigError: weights are not available or do not fit.
    """
    models = {any_config(space).model}
    if not NETWORK.isdisjoint(space.parameters):
        points = (*space.start, *islice(space.samples(0), NETWORKS_TRIED))
        models |= {space.config(point).model for point in points}
    from trainer import require_weights

    found = {(model.weights, model.backbone): model for model in models}
    for model in found.values():
        require_weights(model)
    return set(found)


def generate(root: Path, size: SizeName) -> None:
    """Generates a data set unless the folder holds one."""
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
    """Overrides that let a space run on generated data: with a GPU its own network on the demo's data set, without one
    the demo's small network, images and budget. Searched settings stay searched."""
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
