"""The plug-ins by themselves, without an installation; reidsearch's own tests run these too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reidsearch_zoo.algorithm import hill
from reidsearch_zoo.backbone import CHANNELS, patches
from reidsearch_zoo.data import ZOO
from reidsearch_zoo.loss import uniformity

from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study
from trainer.errors import DataError
from trainer.model.network import ModelOutput


def test_the_reader_numbers_animals_from_1_across_the_parts(tmp_path: Path) -> None:
    for name in ("train/lion_1_a", "query/tiger_1_a", "gallery/tiger_2_b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").touch()
    splits = ZOO(tmp_path)
    assert [tracklet.identity for part in splits for tracklet in part] == [1, 2, 2]
    assert [tracklet.camera for part in splits for tracklet in part] == [1, 1, 2]


def test_the_reader_names_a_folder_that_it_cannot_read(tmp_path: Path) -> None:
    for part in ("train", "query", "gallery"):
        (tmp_path / part).mkdir()
    (tmp_path / "train" / "lion").mkdir()
    with pytest.raises(DataError, match="lion: is no folder"):
        ZOO(tmp_path)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_backbone_gives_maps_of_an_eighth_of_the_frame(stride: int) -> None:
    maps = patches((64, 32), stride)(torch.rand(2, 3, 64, 32))
    assert maps.shape == (2, CHANNELS, 8 // stride, 4 // stride)


def test_the_loss_is_higher_for_identities_that_are_alike() -> None:
    labels = torch.tensor([0, 1])

    def loss(vectors: torch.Tensor) -> float:
        blank = torch.zeros(2, 1)
        return float(uniformity(ModelOutput(blank, vectors, blank, blank, vectors), labels))

    assert loss(torch.tensor([[1.0, 0.0], [1.0, 0.1]])) > loss(torch.tensor([[1.0, 0.0], [-1.0, 0.1]]))


def test_the_climber_proposes_the_same_for_the_same_history() -> None:
    space = SearchSpace.load("demo.yaml")
    assert hill(space, 3, Study("s")).params == hill(space, 3, Study("s")).params
    assert hill(space, 3, Study("s")).params != hill(space, 4, Study("s")).params
