"""Where the weights of a network come from: torchvision's ImageNet weights, a file, or nowhere."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.checkpoint import UNREADABLE
from trainer.errors import ConfigError
from trainer.formatting import first_line, listed, one_line, shortened

NAMED_WEIGHTS = ("imagenet", "none")  # what is no path
NAMED_AT_MOST = 5  # tensors in a summary
NAMED_TO_COMPARE = 3  # tensors of either side, where a file does not fit
# Where checkpoints keep their state dict: ours and fast-reid's, torchreid's and Lightning's, PyTorch's tutorials'.
STATE_KEYS = ("model", "state_dict", "model_state_dict")
MAX_NESTING = 4  # state dicts in checkpoints in checkpoints; a pickle may even hold itself
BACKBONE = "backbone."
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

    A file holds a state dict, ours or of torchvision's ResNet, alone or in a checkpoint under one of `STATE_KEYS`. All
    its names may have a prefix, as `module.` of DataParallel, `base.` of torchreid and `_orig_mod.` of a compiled
    network. Classifiers and tensors of another shape are left out (another data set has other identities, another frame
    size another attention kernel), but the backbone has to be there whole. Unlike the paper's code, which
    loses it by the name of its module, the neck comes along.

    Raises ConfigError when a download fails, a file is missing or damaged, or its backbone is another one.
    """
    if weights == "none":
        return LoadedWeights(weights, (), {})
    source = _imagenet(backbone) if weights == "imagenet" else _read(Path(weights))
    own = model.state_dict()
    named = _own_names(source, own)
    fitting = {
        mine: source[name]
        for name, mine in named.items()
        if mine in own and not mine.startswith("classifier.") and source[name].shape == own[mine].shape
    }
    _check_backbone(f"model.weights: {weights}: does not fit model.backbone {backbone}", fitting, named, source, own)
    if not any(tensor.is_meta for tensor in own.values()):  # such a network is only asked whether they fit
        model.load_state_dict(fitting, strict=False)
    skipped = {name: source[name].shape for name in source if named.get(name) not in fitting}
    return LoadedWeights(weights, tuple(fitting), skipped)


def _check_backbone(
    where: str,
    fitting: Mapping[str, Tensor],
    named: Mapping[str, str],
    source: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> None:
    needed = [name for name in own if name.startswith(BACKBONE) and not name.endswith("num_batches_tracked")]
    absent = [name for name in needed if name not in fitting]
    if not absent:
        return
    there = {mine: name for name, mine in named.items()}
    first = (
        f"{_described(there[absent[0]], source)} in the file and {_shape(own[absent[0]].shape)} here"
        if absent[0] in there
        else absent[0]
    )
    raise ConfigError(
        f"{where}: {len(absent)} of its {len(needed)} tensors are missing or have another shape, the first is {first}. "
        f"The file begins with {_beginning(source)}; the network with {_beginning(own)}"
    )


def _beginning(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(_described(name, tensors) for name in islice(tensors, NAMED_TO_COMPARE)) or "nothing"


def _described(name: str, tensors: Mapping[str, Tensor]) -> str:
    return f"{one_line(shortened(name))} ({_shape(tensors[name].shape)})"


def _shape(size: torch.Size) -> str:
    return " x ".join(map(str, size)) or "one number"


def _own_names(source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, str]:
    """Names in our network by those in the file, which may lack our `backbone.` and have a prefix of another's.

    Of all prefixes under which the file has the backbone's first tensor the one counts by which the most tensors fit.
    """
    first = next(name for name in own if name.startswith(BACKBONE))
    readings = [
        {name: added + name.removeprefix(prefix) for name in source if name.startswith(prefix)}
        for added in ("", BACKBONE)
        for prefix in _prefixes(source, first.removeprefix(added))
    ]
    return max(
        readings, key=lambda reading: _fits(reading, source, own), default=dict(zip(source, source, strict=True))
    )


def _prefixes(source: Mapping[str, Tensor], ending: str) -> list[str]:
    before = [name.removesuffix(ending) for name in source if name.endswith(ending)]
    return [prefix for prefix in before if not prefix or prefix.endswith(".")]


def _fits(reading: Mapping[str, str], source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    return sum(mine in own and own[mine].shape == source[name].shape for name, mine in reading.items())


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
    """State dict in a weights file or checkpoint; nothing but tensors and plain values is ever unpickled."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"model.weights: {path}: no such file (and neither imagenet nor none)") from error
    except UNREADABLE as error:
        raise ConfigError(f"model.weights: {path}: {_why_unreadable(error)}") from error
    outermost = content
    for _ in range(MAX_NESTING):
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(name, str) and isinstance(each, Tensor) for name, each in content.items()):
            return content
        content = next((content[key] for key in STATE_KEYS if key in content), None)
    held = ""
    if isinstance(outermost, Mapping):
        names = [one_line(shortened(str(name))) for name in islice(outermost, NAMED_TO_COMPARE)]
        held = f"; the file begins with {', '.join(names) or 'nothing'}"
    raise ConfigError(
        f"model.weights: {path}: holds neither a state dict nor a checkpoint with {listed(STATE_KEYS)}{held}"
    )


def _why_unreadable(error: Exception) -> str:
    """Torch's own text suggests unsafe loading, which runs whatever code a file holds."""
    text = str(error)
    foreign = re.search(r"GLOBAL (\S+)", text)
    if foreign is not None or "TorchScript" in text:
        what = "a TorchScript program" if foreign is None else one_line(shortened(foreign[1]))
        return (
            f"holds objects other than tensors ({what}); save the state dict alone, where the file was made: "
            "torch.save(model.state_dict(), FILE)"
        )
    if isinstance(error, EOFError | KeyError | UnpicklingError):
        return "not a readable weights file (damaged, or not written by torch.save)"
    reason = type(error).__name__ if "weights_only" in text else first_line(error)
    return f"not a readable weights file ({reason})"
