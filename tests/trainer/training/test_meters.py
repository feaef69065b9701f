"""What an epoch adds up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainer.errors import DivergedError
from trainer.input.loader import Batch
from trainer.model.network import ModelOutput
from trainer.training.meters import EpochMeters

UNIFORM = torch.full((2, 4), 0.25)
NARROW = torch.tensor([[1.0, 0, 0, 0]] * 2)


def tallied(*steps: dict[str, float], weights: Tensor = UNIFORM, erased: Tensor | None = None) -> EpochMeters:
    """A tally of one batch per step, of two clips of four frames each."""
    tally = EpochMeters()
    marks = torch.zeros(2, 4, dtype=torch.bool) if erased is None else erased
    batch = Batch(torch.zeros(2, 4, 3, 8, 4, dtype=torch.uint8), torch.tensor([0, 1]), marks, None)
    scores = torch.tensor([[0.0, 1, 2, 3], [0, 0, 1, 1]])
    output = ModelOutput(torch.zeros(2, 2), torch.zeros(2, 3), scores, weights, torch.zeros(2, 3))
    for terms in steps:
        tally.add(batch, output, {name: torch.tensor(value) for name, value in terms.items()}, attention=True)
    return tally


def test_losses_are_means_over_batches() -> None:
    assert tallied({"total": 3.0, "identity": 1.0}, {"total": 5.0, "identity": 2.0}).losses(0) == {
        "total": 4.0,
        "identity": 1.5,
    }


def test_images_and_batches_are_counted() -> None:
    tally = tallied({"total": 1.0}, {"total": 1.0})
    assert (tally.batches, tally.images) == (2, 16)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_term_that_was_bad_first_is_named_and_not_the_total(bad: float) -> None:
    fine = {"total": 1.0, "identity": 1.0, "osm": 1.0}
    later = dict.fromkeys(fine, float("nan"))
    with pytest.raises(DivergedError, match=r"loss/osm is -?(nan|inf) in epoch 3, batch 2"):
        tallied(fine, {"total": bad, "identity": 1.0, "osm": bad}, later).losses(2)


def test_uniform_weights_have_entropy_one_and_a_single_frame_zero() -> None:
    assert tallied({"total": 1.0}).attention()["entropy"] == pytest.approx(1)
    assert tallied({"total": 1.0}, weights=NARROW).attention()["entropy"] == pytest.approx(0)


def test_scores_of_exactly_zero_are_dead() -> None:
    assert tallied({"total": 1.0}, {"total": 1.0}).attention()["dead_scores"] == pytest.approx(3 / 8)


def test_weight_of_erased_frames_is_one_where_attention_is_uniform_and_none_where_they_get_none() -> None:
    erased = torch.tensor([[False, True, False, False], [False, False, True, True]])
    assert tallied({"total": 1.0}, erased=erased).attention()["erased_weight"] == pytest.approx(1)
    assert tallied({"total": 1.0}, weights=NARROW, erased=erased).attention()["erased_weight"] == 0


def test_without_erased_frames_their_weight_is_not_reported() -> None:
    assert "erased_weight" not in tallied({"total": 1.0}).attention()


def test_a_tally_survives_an_interruption() -> None:
    tally = tallied({"total": 1.0, "identity": 2.0})
    again = EpochMeters.restored(tally.state(), torch.device("cpu"))
    assert again.losses(0) == tally.losses(0)
    assert again.attention() == tally.attention()
    assert (again.batches, again.images) == (tally.batches, tally.images)


def test_an_empty_tally_survives_it_too() -> None:
    again = EpochMeters.restored(EpochMeters().state(), torch.device("cpu"))
    assert (again.batches, again.attention()) == (0, {})
