"""Where the weights of a network come from: torchvision's ImageNet weights, a file, or nowhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.checkpoint import UNREADABLE
from trainer.errors import ConfigError
from trainer.wording import first_line, one_line, shortened

NAMED_AT_MOST = 5  # tensors in a summary
CONNECT_SECONDS = 20.0  # of silence on a socket before a download counts as failed


class LoadedWeights(NamedTuple):
    """Which tensors a weights file filled, and which of its tensors found no place."""

    source: str
    """`imagenet`, `none` or the path of the file."""
    loaded: tuple[str, ...]
    """Names in the network."""
    skipped: dict[str, torch.Size]
    """Names and shapes in the file: classifiers, tensors of another shape, tensors the network does not have."""

    def summary(self) -> str:
        """One line for people: how many tensors were loaded from where, and what was left out."""
        if self.source == "none":
            return "loaded nothing; all weights are random"
        line = f"loaded {len(self.loaded)} tensors from {self.source}"
        if not self.skipped:
            return line
        named = [f"{one_line(shortened(name))} ({_shape(size)})" for name, size in self.skipped.items()]
        more = [f"and {len(named) - NAMED_AT_MOST} more"] if len(named) > NAMED_AT_MOST else []
        return f"{line}; left out {len(named)}: {', '.join(named[:NAMED_AT_MOST] + more)}"


def load_weights(model: nn.Module, weights: str, backbone: str) -> LoadedWeights:
    """Fill `model` from where `weights` (as `ModelConfig.weights`) points, in place, and tell what was filled.

    A file holds a state dict of torchvision's ResNet, or a checkpoint with our state dict under "model".
    Classifiers and tensors of another shape are left out (another data set has other persons, another frame
    size another attention kernel), but the backbone has to be there whole. Unlike the paper's code, which
    loses it by the name of its module, the neck comes along.

    Raises ConfigError when a download fails, a file is missing or damaged, or its backbone is another one.
    """
    if weights == "none":
        return LoadedWeights(weights, (), {})
    source = _imagenet(backbone) if weights == "imagenet" else _read(Path(weights))
    own = model.state_dict()
    named = {name: _own_name(name, own) for name in source}
    fitting = {
        mine: source[name]
        for name, mine in named.items()
        if mine in own and not mine.startswith("classifier.") and source[name].shape == own[mine].shape
    }
    absent = [
        name
        for name in own
        if name.startswith("backbone.") and name not in fitting and not name.endswith("num_batches_tracked")
    ]
    if absent:
        raise ConfigError(
            f"model.weights: {weights}: does not fit model.backbone {backbone}: "
            f"{len(absent)} of its tensors are missing or have another shape, the first is {absent[0]}"
        )
    model.load_state_dict(fitting, strict=False)
    skipped = {name: source[name].shape for name, mine in named.items() if mine not in fitting}
    return LoadedWeights(weights, tuple(fitting), skipped)


def require_weights(weights: str, backbone: str) -> None:
    """Makes sure, before anything starts, that `load_weights` will find its source; downloads it if need be.

    Raises ConfigError as `load_weights` does.
    """
    if weights == "imagenet":
        _imagenet(backbone)
    elif weights != "none":
        _read(Path(weights))


def _shape(size: torch.Size) -> str:
    return " x ".join(map(str, size)) or "one number"


def _own_name(name: str, own: Mapping[str, Tensor]) -> str:
    """Name in our network of a tensor that the file may name as torchvision does."""
    return name if name in own else f"backbone.{name}"


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
    if backbone == "tiny":
        raise ConfigError("model.weights: imagenet: there are none for model.backbone tiny; set model.weights to none")
    from torchvision.models import get_model_weights  # takes seconds to import

    weights = get_model_weights(backbone)["IMAGENET1K_V1"]
    try:
        with _connect_timeout(CONNECT_SECONDS):
            state: Mapping[str, Tensor] = weights.get_state_dict(check_hash=True, progress=False, weights_only=True)
    except (HTTPException, *UNREADABLE) as error:
        # Among them OSError is URLError, HTTPError, time-outs and a full disk, RuntimeError a wrong hash.
        raise ConfigError(
            f"model.weights: imagenet: cannot download {weights.url} ({first_line(error)}); "
            "set model.weights to none or to the path of a weights file"
        ) from error
    return state


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    """Bound the waits of urllib, to which torch.hub passes no timeout, by the process's default."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(path: Path) -> Mapping[str, Tensor]:
    """State dict in a weights file or checkpoint."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"model.weights: {path}: no such file (and neither imagenet nor none)") from error
    except UNREADABLE as error:
        raise ConfigError(f"model.weights: {path}: not a readable weights file ({first_line(error)})") from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f'model.weights: {path}: holds neither a state dict nor a checkpoint with key "model"')
    return state
