"""One step of learning: what it changes, and what it averages."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer.config import TrialConfig
from trainer.data import DataConfig, read_splits
from trainer.input.clips import ClipConfig
from trainer.input.loader import Batch, TrainingClips, blank_batch, training_loader
from trainer.input.sampler import IdentityBatches
from trainer.losses.reid_loss import ReidLoss
from trainer.training.learner import Learner, in_groups
from trainer.training.meters import EpochMeters

CPU = torch.device("cpu")


def learner(**settings: dict[str, Any]) -> Learner:
    config = TrialConfig.model_validate(
        {
            "clips": {"identities": 2, "tracklets": 2, "frames": 2},
            "model": {"backbone": "tiny", "weights": "none", "height": 32, "width": 16},
            "loss": {"osm_share": 0.5, "center_weight": 5e-4, "attention_weight": 0.1},
            "compute": {"precision": "fp32"},
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


def test_bf16_learns_in_float32_weights_with_finite_losses() -> None:
    tally = EpochMeters()
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


def test_the_average_is_that_of_torch_and_starts_at_the_first_step_that_is_taken() -> None:
    ours, scaled = learner(optim={"ema_decay": 0.75}), learner(optim={"ema_decay": 0.75})
    theirs = AveragedModel(ours.model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    assert scaled.average is not None
    for seed in range(3):
        ours.step([batch(seed)], ignore)
        theirs.update_parameters(ours.model)
        for taken in (False, True, False):
            scaled.average.update(ours.model, torch.tensor(taken))
    expected = theirs.state_dict()
    for found in (ours.state()["average"], scaled.state()["average"]):
        assert set(found) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, msg=name)
    assert all(torch.equal(ours.state()["average"][name], value) for name, value in expected.items())


def test_a_scaled_loss_takes_the_step_of_the_loss_itself() -> None:
    plain, scaled = learner(), learner()
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # as fp16 has it, on a GPU
    for each in (plain, scaled):
        each.step([batch()], ignore)
    close(parameters(plain), parameters(scaled))
    assert plain.loss.centers is not None and scaled.loss.centers is not None
    torch.testing.assert_close(plain.loss.centers, scaled.loss.centers)


def test_a_step_whose_scaled_gradients_overflow_is_left_out_altogether() -> None:
    overflowing = learner(optim={"ema_decay": 0.5}, loss={"center_weight": 1000.0})
    overflowing.scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    before = parameters(overflowing)
    averaged = copy.deepcopy(dict(overflowing.evaluated.state_dict()))
    assert overflowing.loss.centers is not None
    centers = overflowing.loss.centers.detach().clone()
    overflowing.step([batch()], ignore)
    close(parameters(overflowing), before)
    assert torch.equal(overflowing.loss.centers, centers)
    assert all(torch.equal(value, averaged[name]) for name, value in overflowing.evaluated.state_dict().items())
    assert overflowing.scaler.get_scale() < 3e38


# --- compilation


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Graphs that torch.compile makes, by a compiler that takes no time; counted are forward and backward."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    made: Counter[str] = Counter()

    def counted(name: str) -> Any:
        return lambda graph, _: (made.update([name]), make_boxed_func(graph.forward))[1]

    real = nn.Module.compile
    backend = aot_autograd(fw_compiler=counted("forward"), bw_compiler=counted("backward"))
    monkeypatch.setattr(nn.Module, "compile", lambda module: real(module, backend=backend))
    torch._dynamo.reset()
    counters.clear()
    yield made
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("augment_on", "precision", "channels_last"), [("worker", "fp32", True), ("device", "bf16", False)]
)
def test_what_is_compiled_before_training_is_all_that_is_compiled(
    compilations: Counter[str], mini_mars: Path, augment_on: str, precision: str, channels_last: bool
) -> None:
    made = learner(
        clips={"identities": 2, "tracklets": 2, "frames": 2, "augment_on": augment_on},
        compute={"compile": True, "precision": precision, "channels_last": channels_last},
    )
    config = made.config
    train = read_splits(DataConfig(root=str(mini_mars))).train[:12]
    labels = [place // 2 for place in range(12)]
    made.loss = ReidLoss(config.loss, 6, made.model.embedding_dim)
    made.model.classifier = nn.Linear(made.model.embedding_dim, 6, bias=False)
    made.compile()
    assert compilations == {"forward": 1, "backward": 1}
    assert counters["stats"]["unique_graphs"] == 1
    clips = TrainingClips(train, labels, config.clips, size=(32, 16), seed=0)
    loader = training_loader(clips, IdentityBatches(labels, config.clips, 0), workers=0, device=CPU)
    for each in itertools.islice(loader, 2):
        made.step([each], ignore)
    assert compilations == {"forward": 1, "backward": 1}
    assert counters["stats"]["unique_graphs"] == 1


def test_a_blank_batch_is_as_those_of_the_loader(mini_mars: Path) -> None:
    train = read_splits(DataConfig(root=str(mini_mars))).train[:8]
    for augment_on in ("worker", "device"):
        config = ClipConfig(identities=2, tracklets=2, frames=2, augment_on=augment_on)
        labels = [place // 2 for place in range(8)]
        clips = TrainingClips(train, labels, config, size=(32, 16), seed=0)
        loaded = next(iter(training_loader(clips, IdentityBatches(labels, config, 0), workers=0, device=CPU)))
        for ours, theirs in zip(blank_batch(config, (32, 16))[:4], loaded[:4], strict=True):
            if ours is None or theirs is None:
                assert ours is theirs
                continue
            assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)


def backbone_state(of: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in of.model.backbone.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_frozen_backbone_keeps_weights_and_statistics_while_the_rest_learns_and_then_learns_too() -> None:
    made = learner(optim={"freeze_epochs": 1, "weight_decay": 0.1})
    backbone, everything = backbone_state(made), parameters(made)
    made.step([batch()], ignore)
    assert same(backbone_state(made), backbone)
    assert not torch.equal(made.model.classifier.weight, everything["classifier.weight"])
    made.begin_epoch(1)
    made.step([batch()], ignore)
    after = backbone_state(made)
    assert not any(torch.equal(after[name], backbone[name]) for name in ("0.0.weight", "0.1.running_mean"))


def test_the_backbone_learns_at_its_share_of_the_rate() -> None:
    made = learner(optim={"backbone_rate": 0.1})
    rates = {id(parameter): group["lr"] for group in made.optimizer.param_groups for parameter in group["params"]}
    whole = rates[id(made.model.classifier.weight)]
    for parameter in made.model.backbone.parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 * whole)
    made.begin_epoch(50)
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * made.optimizer.param_groups[-1]["lr"])
