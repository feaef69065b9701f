"""The estimate of a search: its arithmetic, its words, and the largest configuration that it rests on."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_spaces import GATE, mixed, space_of
from strategies import quick
from torch import Tensor, nn

from orchestrator.base.formatting import GIB, duration, size
from orchestrator.cluster.resources import Allocation
from orchestrator.show.dry_run import Estimate
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.space.worst_case import MAX_CORNERS, WorstCase, corners, worst_case
from trainer import StepCost, multiplications_per_batch
from trainer.config import TrialConfig
from trainer.model.backbones import BACKBONES
from trainer.model.network import ModelConfig, TemporalAttentionResNet, geometry

COST = StepCost(
    device="cpu",
    threads=2,
    precision="bf16",
    seconds_per_batch=0.5,
    steps=7,
    untimed_steps=9,
    images_per_batch=128,
    measured_images=128,
    batches_per_epoch=40,
    seconds_per_frame=0.01,
    evaluated_frames=512,
    evaluation_frames=6000,
    memory_bytes=3 * 2**30,
    gpu_memory_bytes=None,
    parameters=91_000_000,
    best_bytes=2**28,
    last_bytes=3 * 2**28,
    save_best_seconds=1.0,
    save_last_seconds=4.0,
    copy_seconds=0.5,
)
TRAINER: dict[str, Any] = {"optim": {"epochs": 10}, "evaluation": {"every": 4}}
SIDE_BY_SIDE = Allocation(concurrent=4, cpus=2, gpus=0, reason="no GPU in the cluster")


def searched(**fields: Any) -> SearchSpace:
    return space_of({"clips.erase": {"type": "float", "low": 0.1, "high": 0.9}}, **{"trainer": TRAINER, **fields})


def computed(space: SearchSpace, share: Allocation = SIDE_BY_SIDE, cost: StepCost = COST) -> tuple[Estimate, str]:
    config = space.config(space.any_sample())
    found = WorstCase(config, {"clips.erase": 0.5, "clips.identities": 8}, 70, config.optim.epochs)
    estimate = Estimate(space, cost, found, share)
    return estimate, estimate.text()


def test_an_epoch_is_its_batches_and_every_evaluation_its_frames() -> None:
    found, _ = computed(searched(trials=9))
    assert (found.training_s, found.evaluation_s) == (20.0, 60.0)
    assert found.evaluations == 3  # after epochs 4, 8 and the last
    assert found.trial_s == 10 * 20 + 3 * 60 + 10 * 0.5 + 5  # the state is copied after every epoch, and written beside
    assert found.wall_s == 3 * found.trial_s  # 9 trials, 4 at once


@pytest.mark.parametrize(("saved_every", "saves"), [(1, 10), (3, 6), (5, 4), (100, 3)])
def test_the_state_is_saved_when_due_and_with_every_evaluation_that_may_be_the_best(
    saved_every: int, saves: int
) -> None:
    # Evaluated after epochs 4, 8 and 10, each of which may be the best.
    trainer = {**TRAINER, "checkpoint": {"every": saved_every}}
    found, text = computed(searched(trials=4, trainer=trainer))
    assert found.saves == saves
    assert f"of {saves} saves: 500 ms to copy, last.pt (4 s) and best.pt (1 s) beside it" in text


@pytest.mark.parametrize(("every", "waits"), [("auto", 2), (1, 9), (2, 0)])
def test_a_training_that_is_faster_than_its_saves_waits_for_them(every: object, waits: int) -> None:
    fast = COST.model_copy(update={"seconds_per_batch": 0.1})  # 4 s an epoch, and 5 s to write both
    found, _ = computed(searched(trials=4, trainer={**TRAINER, "checkpoint": {"every": every}}), cost=fast)
    assert found.saving_s == pytest.approx(found.saves * 0.5 + waits * 1 + 5)


def test_repeats_come_in_rounds_of_their_own_after_the_trials() -> None:
    found, text = computed(searched(trials=8, replicates={"seeds": 3, "leaders": 2}))
    assert found.repeats == 6
    assert found.wall_s == (2 + 2) * found.trial_s
    assert "8 trials and 6 repeats" in text
    few, _ = computed(searched(trials=1, replicates={"seeds": 3, "leaders": 2}))
    assert few.repeats == 3


def test_gpu_hours_are_the_time_of_all_trials_times_their_share_of_a_gpu() -> None:
    found, text = computed(
        searched(trials=8),
        Allocation(concurrent=4, cpus=2, gpus=0.5, reason="4 at once, 0.5 of 2 GPUs and 2 CPU cores each"),
        COST.model_copy(update={"device": "a GPU", "gpu_memory_bytes": 5 * GIB}),
    )
    assert found.gpu_hours == 8 * found.trial_s * 0.5 / 3600
    assert "GPU hours about 0.43; 4 at once, 0.5 of 2 GPUs" in text


@pytest.mark.parametrize(
    ("share", "concurrent", "together"), [(1.0, 2, 1), (0.5, 4, 2), (1 / 3, 6, 3), (0.25, 2, 2), (0.1, 40, 10)]
)
def test_memory_of_a_gpu_is_that_of_all_trials_that_share_it(share: float, concurrent: int, together: int) -> None:
    found, text = computed(
        searched(trials=8),
        Allocation(concurrent=concurrent, cpus=2, gpus=share, reason=""),
        COST.model_copy(update={"device": "a GPU", "gpu_memory_bytes": 5 * GIB}),
    )
    assert found.gpu_memory_bytes == together * 5 * GIB
    assert "5 GB of a GPU per trial" in text
    assert (f"GB for {together}" in text) == (together > 1)


def test_checkpoints_are_kept_for_every_trial_and_one_is_there_twice_while_it_is_saved() -> None:
    found, text = computed(searched(trials=8))
    assert found.disk_bytes == 8 * 2**30 + 4 * 3 * 2**28
    assert "11 GB: 8 trials with last.pt (768 MB) and best.pt (256 MB)" in text
    assert "3 GB per trial at its peak, 12 GB for 4 at once" in text


def test_where_trials_pause_as_many_epochs_are_shared_by_more_configurations_which_all_take_disk() -> None:
    whole, _ = computed(searched(trials=8))
    found, text = computed(searched(trials=8, stopping={"rule": "promote", "first": 0.25}))
    assert found.wall_s == whole.wall_s
    assert found.configurations == 20, "each pauses after epoch 4 of 10, the first evaluation after a quarter"
    assert found.disk_bytes == 20 * 2**30 + 4 * 3 * 2**28
    assert "up to 20 configurations share these epochs" in text
    assert "at most 20 trials with last.pt" in text


def test_the_words_say_from_how_much_and_what_is_left_out() -> None:
    _, text = computed(searched(trials=8, stopping={"rule": "asha", "grace": 1}, budget={"trials": 8, "hours": 0.1}))
    assert "7 steps after 9 that are not counted, 500 ms per batch of 128 images" in text
    assert "an upper bound in this: the stopping rule asha ends trials earlier" in text
    assert "the budget ends it before: 0.1 hours" in text
    assert "GPU hours none" in text
    assert "clips.identities=8" in text and "clips.erase" in text
    assert all(len(line) <= 160 for line in text.splitlines())


def test_what_was_computed_from_smaller_batches_is_said_to_be() -> None:
    _, whole = computed(searched(trials=8))
    _, text = computed(searched(trials=8), cost=COST.model_copy(update={"measured_images": 48}))
    assert "500 ms per batch of 128 images, extrapolated from batches of 48;" in text
    assert "3 GB per trial at its peak, 12 GB for 4 at once, extrapolated; Ray" in text
    assert "extrapolated" not in whole


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0296, "29.6 ms"),
        (3.21, "3.2 s"),
        (42.3, "42 s"),
        (840, "14 min"),
        (12_000, "3 h 20 min"),
        (190_800, "2 d 5 h"),
    ],
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("count", "words"), [(3 * 2**19, "1.5 MB"), (745 * 2**20, "745 MB"), (3 * 2**29, "1.5 GB")])
def test_sizes_are_short(count: int, words: str) -> None:
    assert size(count) == words


def test_work_per_pixel_is_what_the_convolutions_multiply() -> None:
    for backbone, stride in product(BACKBONES, (1, 2)):
        config = ModelConfig.model_validate({"backbone": backbone, "weights": "none", "last_stride": stride})
        counted: list[int] = []

        def count(layer: nn.Module, _: object, maps: Tensor, counted: list[int] = counted) -> None:
            assert isinstance(layer, nn.Conv2d)
            counted.append(maps.numel() * layer.weight[0].numel())

        with torch.device("meta"):
            network = TemporalAttentionResNet(config, 5).eval().backbone
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.register_forward_hook(count)
            network(torch.empty(1, 3, 256, 128))
        assert sum(counted) == geometry(config).multiplications, (backbone, stride)


@quick
@given(
    path=st.sampled_from(
        ["clips.identities", "clips.tracklets", "clips.frames", "model.height", "model.attention_hidden"]
    ),
    backbone=st.sampled_from(sorted(BACKBONES)),
)
def test_more_of_anything_is_more_work(path: str, backbone: str) -> None:
    group, name = path.split(".")
    before = TrialConfig.model_validate({"model": {"backbone": backbone}})
    changed = getattr(before, group).model_copy(update={name: 2 * getattr(getattr(before, group), name)})
    after = before.model_copy(update={group: changed})
    assert multiplications_per_batch(after) > multiplications_per_batch(before)


def test_the_largest_configuration_is_a_corner_that_random_points_would_miss() -> None:
    parameters = {
        "clips.identities": {"type": "int", "low": 2, "high": 64},
        "clips.frames": {"type": "int", "low": 2, "high": 16},
        "optim.epochs": {"type": "int", "low": 10, "high": 90},
        "model.pooling": GATE,
        "loss.triplet_margin": {"type": "float", "low": 0.0, "high": 1.0},
    }
    found = worst_case(space_of(parameters))
    assert {path: found.point[path] for path in list(parameters)[:4]} == {
        "clips.identities": 64,
        "clips.frames": 16,
        "optim.epochs": 90,
        "model.pooling": "attention",
    }
    assert found.epochs == 90
    assert found.looked_at == 1 + 16 + 64


def test_what_a_size_is_derived_from_is_put_to_its_ends_too() -> None:
    space = space_of(
        {"loss.triplet_margin": {"type": "float", "low": 0.0, "high": 1.0}},
        derived={"clips.identities": "round(2 + 6 * loss.triplet_margin)"},
    )
    assert worst_case(space).config.clips.identities == 8


def test_corners_keep_the_constraints_and_are_no_more_than_so_many() -> None:
    bounded = space_of(
        {
            "clips.identities": {"type": "int", "low": 2, "high": 8},
            "clips.frames": {"type": "int", "low": 1, "high": 8},
        },
        constraints=["clips.identities + clips.frames <= 10"],
    )
    assert [tuple(point.values()) for point in corners(bounded)] == [(2, 1), (2, 8), (8, 1)]
    choices = {
        f"clips.{name}": {"type": "choice", "values": [2, 3, 4, 5]} for name in ("identities", "tracklets", "frames")
    }
    choices |= {"evaluation.clips": choices["clips.frames"], "evaluation.batch": choices["clips.frames"]}
    assert len(list(corners(space_of(choices)))) == MAX_CORNERS
    assert worst_case(mixed()).looked_at > 64


def test_a_corner_that_the_trainer_refuses_is_named() -> None:
    space = space_of(
        {
            "model.width": {"type": "int", "low": 8, "high": 64},
            "model.last_stride": {"type": "choice", "values": [2, 1]},
        },
        trainer={"model": {"backbone": "tiny", "weights": "none"}},
    )
    with pytest.raises(SpaceError, match=r"too small for tiny .* \(at model.width 8, model.last_stride 2\)"):
        worst_case(space)
