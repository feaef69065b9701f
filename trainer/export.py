"""A trained network as files for others: its weights, or a graph that runs without this code.

B clips, T frames, H height, W width, D embedding.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor, nn

from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.compute import ComputeConfig
from trainer.config import TrialConfig
from trainer.data import DataConfig
from trainer.data.frames import read_clip
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.evaluation.evaluate import restored_network
from trainer.files import replacing, write_atomically
from trainer.formatting import spelled
from trainer.input.augment import IMAGENET_MEAN, IMAGENET_STD, normalised
from trainer.model.inference import inference_copy
from trainer.model.network import Feature, TemporalAttentionResNet
from trainer.settings import renamed_settings

ExportFormat = Literal["checkpoint", "safetensors", "onnx"]
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
FILE_NAMES: Mapping[ExportFormat, str] = {
    "checkpoint": "model.pt",
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
}
NEEDED_PACKAGES: Mapping[ExportFormat, tuple[str, ...]] = {
    "checkpoint": (),
    "safetensors": ("safetensors",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}
"""What has to be installed beside the trainer for a format."""
CONFIG_FILE = "config.json"
# What a graph is tried with: one clip, and a number that it was not traced with.
TRIED_BATCHES = (1, 3)
TRACED_BATCH = 2
# Of the largest component of an embedding. Seen: 3e-7 for the tiny network, 1.2e-6 for ResNet-50 with random weights; a
# graph that computes something else is off by its whole size.
TOLERATED_DIFFERENCE = 1e-4
# A file of ONNX is one message of protobuf, which holds no more.
MAX_ONNX_BYTES = 2**31 - 2**20


class ExportedNetwork(NamedTuple):
    """What an exported network takes and gives."""

    file: Path
    config: TrialConfig
    """As it is in `config.json` beside the file: without the paths of this machine."""
    epoch: int
    """Epochs after which the weights were saved."""
    identities: int
    """Classes of the classifier: identities that it was trained on."""
    embedding: int
    """Length of an embedding, D."""
    parameters: int
    """Numbers in the network that are learned."""
    difference: float | None
    """Largest difference between the embeddings of the graph and of the network, relative to the largest component, on
    random clips; None for formats that hold weights only."""


def missing_packages(to: ExportFormat) -> list[str]:
    """Packages that a format needs and that are not installed."""
    return [name for name in NEEDED_PACKAGES[to] if importlib.util.find_spec(name) is None]


def export_network(checkpoint: Path, out: Path, to: ExportFormat) -> ExportedNetwork:
    """Writes the network in a trial's checkpoint, and its configuration, into the folder `out`.

    `checkpoint` is a file that `trainer.evaluate` and `model.weights` take. `safetensors` holds the same weights by the
    same names, and the configuration as metadata. `onnx` is the network without its classifier: `clips` [B T 3 H W] of
    normalised frames to `embedding` [B D] and `weights` [B T] of the frames, for any B and the T of the training; it is
    run here and compared before it counts.

    Args:
        checkpoint: `best.pt` or `last.pt` of a training.
        out: folder, made if missing; files of the same names are replaced.
        to: the format.

    Raises:
        CheckpointError: the checkpoint is damaged or of another version.
        ConfigError: the network does not fit the format.
        ImportError: a package of `NEEDED_PACKAGES` is missing.
    """
    state = load_checkpoint(checkpoint)
    config = portable(_config_of(checkpoint, state["config"]))
    model = restored_network(config.model, checkpoint, state["model"]).eval()
    file = out / FILE_NAMES[to]
    out.mkdir(parents=True, exist_ok=True)
    difference = None
    if to == "checkpoint":
        weights: dict[str, Any] = {
            name: state[name] for name in ("data", "held_out", "epoch", "model") if name in state
        }
        weights["config"] = config.model_dump(mode="json")
        save_checkpoint(file, weights)
    elif to == "safetensors":
        _write_safetensors(file, state["model"], config)
    else:
        difference = _write_onnx(file, model, config)
    write_atomically(out / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")
    return ExportedNetwork(
        file=file,
        config=config,
        epoch=state["epoch"],
        identities=model.classifier.out_features,
        embedding=model.embedding_dim,
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        difference=difference,
    )


def _config_of(checkpoint: Path, settings: dict[str, Any]) -> TrialConfig:
    """The configuration in a checkpoint.

    Raises:
        CheckpointError: it is of another version.
    """
    try:
        return TrialConfig.model_validate(settings)
    except ValidationError as error:
        renamed = [what for _, what in renamed_settings(settings)]
        why = ", ".join(renamed) or spelled(error.errors()[0]["loc"])
        raise CheckpointError(f"{checkpoint}: its configuration is of another version ({why})") from error


def portable(config: TrialConfig) -> TrialConfig:
    """The configuration without what belongs to this machine: the data set at its default place, weights by file name,
    as many workers as another machine has cores for."""
    data = config.data.model_copy(update={"root": DataConfig().root})
    clips = config.clips.model_copy(update={"workers": "auto"})
    file = config.model.weights_file
    model = config.model if file is None else config.model.model_copy(update={"weights": file.name})
    return config.model_copy(update={"data": data, "model": model, "clips": clips})


def _write_safetensors(file: Path, weights: Mapping[str, Tensor], config: TrialConfig) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    with replacing(file) as opened:
        opened.write(save(tensors, metadata={"format": "pt", "config": config.model_dump_json()}))


class Embedder(nn.Module):
    """The part of the network that is of use to others: clips to embeddings, as an evaluation ranks them."""

    def __init__(self, model: TemporalAttentionResNet, feature: Feature) -> None:
        super().__init__()
        self.model = model
        self.feature: Feature = feature

    def forward(self, clips: Float[Tensor, "B T 3 H W"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B T"]]:
        """Embeddings, and the weights of the frames."""
        output = self.model(clips)
        return output.feature(self.feature), output.weights


def _embedder(model: TemporalAttentionResNet, config: TrialConfig) -> Embedder:
    # Plain layout and float32: what it computes then does not depend on how the network was trained.
    plain = inference_copy(model, ComputeConfig(precision="fp32", tf32=False, channels_last=False))
    return Embedder(plain, config.evaluation.feature).eval()


class LoadedModel(NamedTuple):
    """A network that embeds clips, and what makes a clip of image files."""

    model: Embedder
    """In evaluation mode, on the CPU, in float32."""
    transform: Callable[[Sequence[Path | str]], Float[Tensor, "T 3 H W"]]
    """Decodes the frames of a clip, in their order, and resizes and normalises them as in an evaluation; raises
    DataError for what is no image, and without frames."""


def load_model(checkpoint: Path) -> LoadedModel:
    """The network in a trial's checkpoint, ready to be used.

    Raises:
        CheckpointError: the checkpoint is damaged or of another version.
    """
    state = load_checkpoint(checkpoint)
    config = _config_of(checkpoint, state["config"])
    model = restored_network(config.model, checkpoint, state["model"]).eval()

    def transform(frames: Sequence[Path | str]) -> Float[Tensor, "T 3 H W"]:
        if not frames:
            raise DataError("a clip without frames; name one image file at least")
        pixels = read_clip([str(frame) for frame in frames], *config.input_size)
        return normalised(torch.from_numpy(pixels).movedim(-1, -3))

    return LoadedModel(_embedder(model, config), transform)


def _write_onnx(file: Path, model: TemporalAttentionResNet, config: TrialConfig) -> float:
    """Writes and tries the graph; returns the largest relative difference."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > MAX_ONNX_BYTES:
        raise ConfigError(f"{size / 1e9:.1f} GB of weights do not fit into one ONNX file; export safetensors")
    embedder = _embedder(model, config)
    program = torch.onnx.export(
        embedder,
        (_random_clips(config, TRACED_BATCH),),
        input_names=["clips"],
        output_names=["embedding", "weights"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    about = {"config": config.model_dump_json(), "mean": json.dumps(IMAGENET_MEAN), "std": json.dumps(IMAGENET_STD)}
    program.model.metadata_props.update(about)
    unproven = file.with_name(file.name + ".unproven")
    try:
        program.save(unproven, external_data=False)
        difference = largest_difference(unproven, embedder, config)
        if not difference <= TOLERATED_DIFFERENCE:
            raise ConfigError(
                f"the graph's embeddings differ from the network's by {difference:.1e} of their largest component "
                f"(tolerated: {TOLERATED_DIFFERENCE:.0e}); export safetensors, and report this as a defect"
            )
        unproven.replace(file)
    finally:
        unproven.unlink(missing_ok=True)
    return difference


def largest_difference(file: Path, embedder: Embedder, config: TrialConfig) -> float:
    """How far the graph's embeddings are from the network's on random clips, relative to the largest component."""
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    found = []
    for batch in TRIED_BATCHES:
        clips = _random_clips(config, batch)
        (embedding,) = session.run(["embedding"], {"clips": clips.numpy()})
        with torch.inference_mode():
            expected, _ = embedder(clips)
        found.append(float((torch.from_numpy(embedding) - expected).abs().max() / expected.abs().max()))
    return max(found)


def _random_clips(config: TrialConfig, batch: int) -> Float[Tensor, "B T 3 H W"]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, config.clips.frames, 3, config.model.height, config.model.width, generator=generator)
