"""One step of learning: what it changes, what it averages, and that it never waits for the device."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.batches import Batch
from trainer.config import TrialConfig
from trainer.learner import Learner, in_groups
from trainer.tally import EpochTally

CPU = torch.device("cpu")


def learner(**settings: dict[str, Any]) -> Learner:
    config = TrialConfig.model_validate(
        {
            "clips": {"persons": 2, "tracklets": 2, "frames": 2},
            "model": {"backbone": "tiny", "weights": "none", "height": 32, "width": 16},
            "loss": {"osm_share": 0.5, "center_weight": 5e-4, "attention_weight": 0.1},
            **settings,
        }
    )
    made = Learner(config, 3, CPU, own_weights=True)
    made.begin_epoch(0)
    return made


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (4, 2, 3, 32, 16), dtype=torch.uint8, generator=generator)
    return Batch(frames, torch.tensor([0, 0, 1, 1]), torch.tensor([[True, False]] * 4), None)


def ignore(*_: object) -> None:
    """An observer that does not look."""


def parameters(of: Learner) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in of.model.named_parameters()}


def close(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    for name, value in left.items():
        torch.testing.assert_close(value, right[name])


def test_a_step_on_the_same_batch_twice_is_the_step_on_it_once() -> None:
    once, twice = learner(), learner()
    once.step([batch()], ignore)
    twice.step([batch(), batch()], ignore)
    close(parameters(once), parameters(twice))
    assert once.loss.centers is not None and twice.loss.centers is not None
    torch.testing.assert_close(once.loss.centers, twice.loss.centers)


def test_batches_are_grouped_and_none_is_lost() -> None:
    batches = [batch(seed) for seed in range(5)]
    assert [len(group) for group in in_groups(batches, 2)] == [2, 2, 1]


def test_gradients_are_no_longer_than_the_clip() -> None:
    clipped = learner(optim={"clip_norm": 1e-3})
    clipped.step([batch()], ignore)
    grads = [parameter.grad for parameter in clipped.model.parameters() if parameter.grad is not None]
    assert torch.nn.utils.get_total_norm(grads) == pytest.approx(1e-3, rel=1e-3)


def test_the_average_is_what_gets_evaluated_and_follows_the_weights() -> None:
    averaged = learner(optim={"ema_decay": 0.75})
    averaged.step([batch(0)], ignore)
    first = parameters(averaged)
    close(dict(averaged.evaluated.named_parameters()), first)
    averaged.step([batch(1)], ignore)
    second = parameters(averaged)
    close(
        {name: value.detach() for name, value in averaged.evaluated.named_parameters()},
        {name: 0.75 * first[name] + 0.25 * second[name] for name in first},
    )
    assert averaged.evaluated is not averaged.model


def test_without_an_average_the_network_itself_is_evaluated() -> None:
    plain = learner()
    assert plain.evaluated is plain.model


def test_bf16_learns_in_float32_weights_with_finite_losses() -> None:
    tally = EpochTally()
    half = learner(compute={"precision": "bf16"})
    for seed in range(3):
        half.step([batch(seed)], lambda *seen: tally.add(*seen, attention=True))
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    assert all(value == value for value in tally.losses(0).values())


@pytest.mark.parametrize("optim", [{}, {"ema_decay": 0.9, "clip_norm": 1.0, "optimizer": "adamw"}])
def test_a_learner_restored_from_its_state_goes_on_bit_identically(optim: dict[str, Any]) -> None:
    one = learner(optim=optim)
    one.step([batch(0)], ignore)
    other = learner(optim=optim)
    other.restore(copy.deepcopy(one.state()))  # as a file would; tensors are taken over, not copied
    for each in (one, other):
        each.step([batch(1)], ignore)
    assert all(torch.equal(value, parameters(other)[name]) for name, value in parameters(one).items())
    assert one.loss.centers is not None and other.loss.centers is not None
    assert torch.equal(one.loss.centers, other.loss.centers)
    left, right = one.evaluated.state_dict(), other.evaluated.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


class NothingReadBack(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading one of its values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation unless it reads a value back."""
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was read back"
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_back_during_a_step_and_its_tally() -> None:
    made, tally = learner(), EpochTally()
    made.step([batch(0)], ignore)  # the optimizer makes its state in the first step
    with NothingReadBack():
        made.step([batch(1)], lambda *seen: tally.add(*seen, attention=True))
    assert tally.batches == 1


def test_a_scaled_loss_takes_the_step_of_the_loss_itself() -> None:
    plain, scaled = learner(), learner()
    scaled._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # as fp16 has it, on a GPU
    for each in (plain, scaled):
        each.step([batch()], ignore)
    close(parameters(plain), parameters(scaled))
    assert plain.loss.centers is not None and scaled.loss.centers is not None
    torch.testing.assert_close(plain.loss.centers, scaled.loss.centers)


def test_a_step_whose_scaled_gradients_overflow_is_left_out_altogether() -> None:
    overflowing = learner(optim={"ema_decay": 0.5}, loss={"center_weight": 1000.0})
    overflowing._scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    before = parameters(overflowing)
    assert overflowing.loss.centers is not None
    centers = overflowing.loss.centers.detach().clone()
    overflowing.step([batch()], ignore)
    close(parameters(overflowing), before)
    assert torch.equal(overflowing.loss.centers, centers)
    assert overflowing._scaler.get_scale() < 3e38
