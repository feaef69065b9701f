"""A trained network written for others: the same embeddings in every format, and nothing of this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.config import TrialConfig
from trainer.data import DataConfig, read_splits
from trainer.data.frames import read_clip
from trainer.errors import CheckpointError, DataError
from trainer.export import FORMATS, TOLERATED_DIFFERENCE, export_network, load_model, missing_packages
from trainer.input.augment import normalised
from trainer.model.network import ModelConfig, TemporalAttentionResNet

IDENTITIES = 5
CANARY = "canary-of-a-folder"


def trained(config: ModelConfig) -> TemporalAttentionResNet:
    """A network whose batch norms have seen something."""
    torch.manual_seed(1)
    model = TemporalAttentionResNet(config, IDENTITIES)
    for _ in range(3):
        model(torch.randn(4, 2, 3, config.height, config.width))
    return model.eval()


def saved(folder: Path, config: TrialConfig) -> tuple[Path, TemporalAttentionResNet]:
    model = trained(config.model.model_copy(update={"weights": "none"}))
    state = {"config": config.model_dump(mode="json"), "epoch": 3, "model": model.state_dict()}
    save_checkpoint(folder / "best.pt", state)
    return folder / "best.pt", model


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TemporalAttentionResNet]:
    """One network in all formats, whose training knew folders that nobody else should; torch takes seconds for ONNX."""
    secret = tmp_path_factory.mktemp(CANARY)
    config = TrialConfig.model_validate(
        {
            "data": {"root": str(secret / "mars")},
            "clips": {"frames": 2},
            "model": {"backbone": "tiny", "weights": str(secret / "weights.pt"), "height": 32, "width": 16},
        }
    )
    checkpoint, model = saved(secret, config)
    out = tmp_path_factory.mktemp("exported")
    for to in FORMATS:
        exported = export_network(checkpoint, out, to)
        assert exported.config.model.weights == "weights.pt"
    return out, model


def test_onnx_runtime_gives_the_networks_embeddings_of_real_frames_for_any_number_of_clips(
    everything: tuple[Path, TemporalAttentionResNet], mini_mars: Path
) -> None:
    out, model = everything
    query = read_splits(DataConfig(root=mini_mars)).query[:3]
    clips = torch.stack([normalised(frames(tracklet.frames[:2], *model.input_size)) for tracklet in query])
    session = onnxruntime.InferenceSession(out / "model.onnx")
    for batch in (clips, clips[:1]):
        assert_same_embeddings(session, model, batch)


def test_the_options_that_change_what_is_computed_reach_the_graph(tmp_path: Path, tiny_config: TrialConfig) -> None:
    options = {"attention_gate": "sigmoid", "attention_factorised": True, "attention_score_relu": False, "neck": "none"}
    config = tiny_config.model_copy(update={"model": tiny_config.model.model_copy(update=options)})
    checkpoint, model = saved(tmp_path, config)
    exported = export_network(checkpoint, tmp_path / "out", "onnx")
    assert exported.difference is not None
    assert exported.difference <= TOLERATED_DIFFERENCE
    clips = torch.randn(4, 2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    assert_same_embeddings(onnxruntime.InferenceSession(exported.file), model, clips)


def assert_same_embeddings(
    session: onnxruntime.InferenceSession, model: TemporalAttentionResNet, clips: Tensor
) -> None:
    embedding, weights = session.run(["embedding", "weights"], {"clips": clips.numpy()})
    with torch.inference_mode():
        expected = model(clips)
    # The graph has its batch norms folded into the convolutions: seen 5e-7 of the largest component.
    np.testing.assert_allclose(embedding, expected.embedding, atol=1e-5 * float(expected.embedding.abs().max()))
    np.testing.assert_allclose(weights, expected.weights, atol=1e-5)


def frames(paths: Sequence[str], height: int, width: int) -> Tensor:
    return torch.from_numpy(read_clip(paths, height, width)).permute(0, 3, 1, 2)


def test_a_clip_of_another_length_is_refused_by_the_graph(everything: tuple[Path, TemporalAttentionResNet]) -> None:
    session = onnxruntime.InferenceSession(everything[0] / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 2, 3, 32, 16]
    with pytest.raises(Exception, match="Got invalid dimensions"):
        session.run(["embedding"], {"clips": np.zeros((1, 3, 3, 32, 16), np.float32)})


def test_no_file_of_an_export_names_a_folder_of_this_machine(everything: tuple[Path, TemporalAttentionResNet]) -> None:
    written = sorted(file.name for file in everything[0].iterdir())
    assert written == ["config.json", "model.onnx", "model.pt", "model.pt.sha256", "model.safetensors"]
    for name in written:
        assert CANARY.encode() not in (everything[0] / name).read_bytes(), name


def test_an_exported_checkpoint_holds_the_same_weights_and_its_digest(tmp_path: Path, tiny_config: TrialConfig) -> None:
    checkpoint, model = saved(tmp_path, tiny_config)
    exported = export_network(checkpoint, tmp_path / "out", "checkpoint")
    state = load_checkpoint(exported.file)
    assert state["epoch"] == exported.epoch == 3
    assert exported.identities == IDENTITIES
    for name, tensor in model.state_dict().items():
        assert torch.equal(state["model"][name], tensor), name
    assert TrialConfig.model_validate_json((tmp_path / "out/config.json").read_text()) == exported.config


def test_safetensors_hold_the_same_weights_and_the_configuration(tmp_path: Path, tiny_config: TrialConfig) -> None:
    checkpoint, model = saved(tmp_path, tiny_config)
    exported = export_network(checkpoint, tmp_path / "out", "safetensors")
    with safe_open(exported.file, "pt") as opened:
        assert set(opened.keys()) == set(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(opened.get_tensor(name), tensor), name
        assert TrialConfig.model_validate(json.loads(opened.metadata()["config"])) == exported.config


def test_weights_of_another_network_than_the_configuration_says_are_refused(
    tmp_path: Path, tiny_config: TrialConfig
) -> None:
    model = trained(tiny_config.model)
    other = tiny_config.model_copy(update={"model": tiny_config.model.model_copy(update={"neck": "none"})})
    save_checkpoint(
        tmp_path / "best.pt", {"config": other.model_dump(mode="json"), "epoch": 1, "model": model.state_dict()}
    )
    with pytest.raises(CheckpointError, match=r"best\.pt: holds another architecture"):
        export_network(tmp_path / "best.pt", tmp_path / "out", "checkpoint")


def test_packages_of_a_format_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    assert missing_packages("onnx") == ["onnxscript"]
    assert missing_packages("safetensors") == missing_packages("checkpoint") == []


def test_a_loaded_network_refuses_a_clip_without_frames(everything: tuple[Path, TemporalAttentionResNet]) -> None:
    with pytest.raises(DataError, match="a clip without frames"):
        load_model(everything[0] / "model.pt").transform([])
