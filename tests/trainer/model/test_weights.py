"""Where weights come from: what a file fills, what is left out, and what is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import TINY, network, tiny
from torch import Tensor, nn
from torchvision.models._api import WeightsEnum

from trainer.errors import ConfigError
from trainer.model.network import ModelConfig, require_weights
from trainer.model.weights import LoadedWeights


def resnet18(**changes: Any) -> ModelConfig:
    return ModelConfig(backbone="resnet18", weights="none").model_copy(update=changes)


def saved(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def test_random_weights_load_nothing() -> None:
    report = network().loaded_weights
    assert (report.loaded, report.skipped) == ((), {})
    assert report.summary() == "loaded nothing; all weights are random"


def test_checkpoint_fills_all_but_classifier_and_tensors_of_another_shape(tmp_path: Path) -> None:
    source = network(identities=9)
    nn.init.constant_(source.neck.running_mean, 3)
    path = saved({"model": source.state_dict(), "epoch": 7}, tmp_path / "last.pt")
    model = network(TINY.model_copy(update={"weights": path, "height": 72}))
    report = model.loaded_weights
    assert report.skipped == {"classifier.weight": (9, 64), "attention.spatial.weight": (256, 64, 8, 4)}
    assert set(report.loaded) == set(source.state_dict()) - set(report.skipped)
    assert (model.neck.running_mean == 3).all()


def test_summary_names_source_and_what_was_left_out(tmp_path: Path) -> None:
    path = saved({"model": network(identities=9).state_dict()}, tmp_path / "mars.pt")
    report = network(tiny(weights=path, height=72)).loaded_weights
    assert report.summary() == (
        f"loaded 32 tensors from {path}; left out 2: "
        "attention.spatial.weight (256 x 64 x 8 x 4), classifier.weight (9 x 64)"
    )


def test_summary_of_a_file_that_fits_wholly_and_of_one_with_much_else() -> None:
    assert LoadedWeights("a.pt", ("x", "y"), {}).summary() == "loaded 2 tensors from a.pt"
    strange = {f"other{index}": torch.Size([index]) for index in range(7)} | {"n": torch.Size([])}
    summary = LoadedWeights("a.pt", ("x",), strange).summary()
    assert summary.endswith("left out 8: other0 (0), other1 (1), other2 (2), other3 (3), other4 (4), and 3 more")


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({"neck": "none"}, "neck."),
        ({"pooling": "mean"}, "attention."),
        ({"attention_factorised": True}, "attention.spatial.weight"),
    ],
    ids=str,
)
def test_what_the_network_does_not_have_is_left_out(options: dict[str, Any], left_out: str, tmp_path: Path) -> None:
    path = saved({"model": network().state_dict()}, tmp_path / "mars.pt")
    report = network(tiny(weights=path, **options)).loaded_weights
    assert "classifier.weight" in report.skipped
    assert all(name.startswith((left_out, "classifier.")) for name in report.skipped)
    assert any(name.startswith(left_out) for name in report.skipped)


def test_classifier_bias_is_left_out_too(tmp_path: Path) -> None:
    path = saved({"model": network(tiny(neck="none")).state_dict()}, tmp_path / "mars.pt")
    report = network(tiny(neck="none", weights=path)).loaded_weights
    assert set(report.skipped) == {"classifier.weight", "classifier.bias"}


def test_classifier_is_not_loaded_even_where_it_fits(tmp_path: Path) -> None:
    source = network()
    nn.init.ones_(source.classifier.weight)
    path = saved(source.state_dict(), tmp_path / "weights.pt")
    model = network(TINY.model_copy(update={"weights": path}))
    assert model.loaded_weights.skipped == {"classifier.weight": (5, 64)}
    assert (model.classifier.weight < 1).all()


def test_torchvisions_state_dict_fills_the_backbone(tmp_path: Path) -> None:
    source = torchvision.models.resnet18(weights=None)
    path = saved(source.state_dict(), tmp_path / "resnet18.pth")
    model = network(resnet18().model_copy(update={"weights": path}))
    assert set(model.loaded_weights.skipped) == {"fc.weight", "fc.bias"}
    assert torch.equal(model.backbone.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = saved(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    config = ModelConfig(backbone="resnet34", weights=path)
    with pytest.raises(ConfigError, match=r"resnet18\.pth: does not fit model\.backbone resnet34"):
        network(config)


def test_missing_file_is_named(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"weights": str(tmp_path / "none.pt")})
    with pytest.raises(ConfigError, match=r"none\.pt: no such file"):
        network(config)


@pytest.mark.parametrize("damage", [b"", b"not a file of torch", b"\x80\x02]q\x00(", b"PK\x03\x04"])
def test_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(damage)
    with pytest.raises(ConfigError, match=r"damaged\.pt: not a readable weights file \(.+\)$"):
        network(TINY.model_copy(update={"weights": str(path)}))


def test_file_cut_short_is_named(tmp_path: Path) -> None:
    path = Path(saved(network().state_dict(), tmp_path / "short.pt"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match=r"short\.pt: not a readable"):
        network(TINY.model_copy(update={"weights": str(path)}))


class Payload:
    """Something that only unsafe unpickling would make."""


def test_a_file_that_torch_did_not_write_is_said_to_be_one(tmp_path: Path) -> None:
    for content in (b"", b"hello" * 100, b"<!DOCTYPE html><html>log in</html>"):
        path = tmp_path / "page.pt"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"page\.pt: .* \(damaged, or not written by torch\.save\)$"):
            network(TINY.model_copy(update={"weights": str(path)}))


def test_a_checkpoint_with_another_key_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    path = saved({"epoch": 3, "net": network().state_dict()}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"or model_state_dict; the file begins with epoch, net$"):
        network(TINY.model_copy(update={"weights": path}))


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"epoch": 3}])
def test_file_without_a_state_dict_is_named(tmp_path: Path, content: object) -> None:
    path = saved(content, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"other\.pt: holds neither a state dict nor a checkpoint"):
        network(TINY.model_copy(update={"weights": path}))


STATE = {"model": {"weight": torch.zeros(2)}}
FOREIGN = {
    "an object": ({"model": Payload()}, "test_weights.Payload"),
    "a numpy scalar beside the tensors": ({**STATE, "rank1": np.float64(0.9)}, "numpy"),
    "a numpy array beside the tensors": ({**STATE, "ranks": np.zeros(3)}, "numpy"),
    "a whole network": (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "a function of the system": (os.getpid, "getpid"),
}


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "old format"])
@pytest.mark.parametrize("content", FOREIGN)
def test_objects_other_than_tensors_are_named_never_made_and_nobody_is_invited_to_make_them(
    tmp_path: Path, content: str, old_format: bool
) -> None:
    held, named = FOREIGN[content]
    torch.save(held, tmp_path / "pickle.pt", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(ConfigError, match=r"pickle\.pt: holds objects other than tensors \(.+\); save the") as caught:
        network(tiny(weights=str(tmp_path / "pickle.pt")))
    message = str(caught.value)
    assert named in message
    assert "weights_only" not in message
    assert message.isprintable()


# What others write: other keys around the state dict, other names before the tensors'


def torchvision_state() -> dict[str, Tensor]:
    return dict(torchvision.models.resnet18(weights=None).state_dict())


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


wrappings = st.lists(st.sampled_from(["model", "state_dict", "model_state_dict"]), max_size=3)
prefixes = st.lists(
    st.sampled_from(["module.", "base.", "backbone.", "_orig_mod.", "model.", "encoder.net."]), max_size=3
).map("".join)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(wrapping=wrappings, prefix=prefixes, ours=st.booleans())
def test_state_dicts_are_taken_under_any_known_key_and_any_prefix(
    tmp_path_factory: pytest.TempPathFactory, wrapping: list[str], prefix: str, ours: bool
) -> None:
    """On a backbone of ours: a network of this code, or its backbone alone as other code would name it."""
    source = network(identities=9)
    nn.init.constant_(source.neck.running_mean, 3)
    state = source.state_dict() if ours else source.backbone.state_dict()
    content: object = prefixed(prefix, state)
    for key in wrapping:
        content = {"epoch": 3, key: content, "optimizer": {"lr": 0.1}}
    path = saved(content, tmp_path_factory.getbasetemp() / "theirs.pt")
    model = network(tiny(weights=path))
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor)
    assert bool((model.neck.running_mean == 3).all()) is ours
    assert set(model.loaded_weights.skipped) == ({f"{prefix}classifier.weight"} if ours else set())


THEIRS: dict[str, Callable[[], dict[str, object]]] = {
    "torchreid": lambda: {
        "state_dict": prefixed("module.", {**torchvision_state(), "classifier.weight": torch.ones(9, 512)}),
        "epoch": 60,
        "rank1": 0.9,
    },
    "fast-reid": lambda: {
        "model": {
            **prefixed("backbone.", torchvision_state()),
            "heads.bottleneck.0.weight": torch.ones(512),
            "heads.weight": torch.ones(9, 512),
            "pixel_mean": torch.zeros(3),
        }
    },
}


@pytest.mark.parametrize("writer", THEIRS)
def test_what_other_writers_save_fills_the_whole_backbone(tmp_path: Path, writer: str) -> None:
    model = network(resnet18(weights=saved(THEIRS[writer](), tmp_path / "theirs.pth")))
    assert len(model.loaded_weights.loaded) == len(model.backbone.state_dict())


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    with pytest.raises(ConfigError, match="holds neither a state dict nor a checkpoint with model, state_dict or"):
        network(tiny(weights=saved(content, tmp_path / "loop.pt")))


def test_names_that_fit_nowhere_are_shown_beside_ours(tmp_path: Path) -> None:
    path = saved({"stem.conv.kernel": torch.zeros(4, 3), "stem.\x1b[2J": torch.zeros(())}, tmp_path / "other.pt")
    with pytest.raises(ConfigError) as caught:
        network(tiny(weights=path))
    message = str(caught.value)
    assert "The file begins with stem.conv.kernel (4 x 3), stem.\\x1b[2J (one number)" in message
    assert "the network with backbone.0.0.weight (16 x 3 x 3 x 3), " in message
    assert message.isprintable()


def test_another_shape_is_shown_beside_ours(tmp_path: Path) -> None:
    state = network().state_dict() | {"backbone.1.0.weight": torch.zeros(7, 16, 3, 3)}
    path = saved(prefixed("module.", state), tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="1 of its 20 tensors") as caught:
        network(tiny(weights=path))
    assert ("the first is module.backbone.1.0.weight (7 x 16 x 3 x 3) in the file and 32 x 16 x 3 x 3 here") in str(
        caught.value
    )


def test_weights_are_fitted_before_anything_trains_and_nothing_is_drawn(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    require_weights(tiny(weights=saved(network().state_dict(), tmp_path / "ours.pt")))
    with pytest.raises(ConfigError, match=r"does not fit model\.backbone resnet18"):
        require_weights(resnet18(weights=str(tmp_path / "ours.pt")))
    require_weights(resnet18())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_tiny_has_no_imagenet_weights() -> None:
    with pytest.raises(ConfigError, match="there are none for model"):
        network(TINY.model_copy(update={"weights": "imagenet"}))


def offline(error: Exception) -> Callable[..., dict[str, Tensor]]:
    def get_state_dict(*_: object, **__: object) -> dict[str, Tensor]:
        raise error

    return get_state_dict


@pytest.mark.parametrize(
    "error",
    [
        URLError("Name or service not known"),
        HTTPError("https://host/file", 503, "unavailable", None, None),
        TimeoutError("timed out"),
        RuntimeError("invalid hash value\n(expected ...)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failed_download_says_in_one_line_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline(error))
    with pytest.raises(ConfigError) as caught:
        network(resnet18().model_copy(update={"weights": "imagenet"}))
    message = str(caught.value)
    assert message.startswith("model.weights: imagenet: cannot download https://")
    assert message.endswith("); set model.weights to none or to the path of a weights file")
    assert "\n" not in message


def test_download_is_checked_quiet_and_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, object], float | None]] = []

    def get_state_dict(weights: WeightsEnum, **options: object) -> dict[str, Tensor]:
        asked.append((weights.name, options, socket.getdefaulttimeout()))
        return torchvision.models.resnet18(weights=None).state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    before = socket.getdefaulttimeout()
    model = network(resnet18().model_copy(update={"weights": "imagenet"}))
    options = {"check_hash": True, "progress": False, "weights_only": True}
    assert asked == [("IMAGENET1K_V1", options, 20)]
    assert socket.getdefaulttimeout() == before
    assert len(model.loaded_weights.loaded) == len(model.backbone.state_dict())
