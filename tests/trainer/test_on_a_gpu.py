"""What only a GPU shows: the pretended one of other tests has no casts, no pinned memory, no streams and no TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from trainings import changed

from benchmarks.bench_step import IDENTITIES, in_memory_batch, step_config
from benchmarks.peers import case
from trainer.compute import ComputeConfig, exact_products, float32_products
from trainer.config import TrialConfig
from trainer.data import read_splits
from trainer.data.splits import applied_split, cut_validation
from trainer.data.synthetic.dataset import write_synthetic
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.metrics import rank_embeddings
from trainer.evaluation.rerank import k_reciprocal_distance
from trainer.input.loader import Batch, TrainingClips, to_device, training_loader
from trainer.input.sampler import IdentityBatches
from trainer.training.fit import fit
from trainer.training.learner import Learner

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
TINY = {"backbone": "tiny", "height": 64, "width": 32}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    """A training of a second on a data set; a fixture of its own, so that these tests need the trainer alone."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    write_synthetic(root, size="tiny", seed=0, workers=1)
    config = step_config({"backbone": "tiny", "height": 32, "width": 16}, {"precision": "fp32", "tf32": False}, clips=8)
    data = {"root": str(root), "validation": {"share": 0.4}}
    return changed(config, data=data, clips__frames=2, clips__tracklets=2, optim__epochs=2, evaluation__folder=False)


def trial(precision: str, **settings: Any) -> TrialConfig:
    """A trial of a tiny network with every loss, on batches of eight clips."""
    config = step_config(TINY, {"precision": precision, "tf32": False}, clips=8)
    return changed(config, optim__clip_norm=1.0, optim__ema_decay=0.9, **settings)


def learner_of(config: TrialConfig) -> Learner:
    learner = Learner(config, IDENTITIES, GPU, own_weights=True)
    learner.begin_epoch(0)
    return learner


def tensors(state: object) -> list[Tensor]:
    return [leaf.clone() for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(precision: str) -> None:
    config = trial(precision)
    learner, batch = learner_of(config), in_memory_batch(config, CPU)
    pinned = Batch(*(each.pin_memory() for each in batch[:3]), None)
    losses: list[Tensor] = []
    for number in range(4):
        if number < 2:  # what is kept is made
            learner.step([pinned], lambda *_: None)
            continue
        with no_waiting():
            learner.step([pinned], lambda _batch, _output, terms: losses.append(terms["total"].detach()))
    assert all(loss.isfinite() for loss in losses)


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_products_are_cast_and_losses_weights_and_gradients_are_not(precision: str, kind: torch.dtype) -> None:
    config = trial(precision)
    learner = learner_of(config)
    seen: dict[str, set[torch.dtype]] = {"convolutions": set(), "losses": set()}
    for layer in learner.model.backbone.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _layer, _given, maps: seen["convolutions"].add(maps.dtype))
    learner.step(
        [in_memory_batch(config, CPU)],
        lambda _batch, _output, terms: seen["losses"].update(term.dtype for term in terms.values()),
    )
    assert seen == {"convolutions": {kind}, "losses": {torch.float32}}
    gradients = [parameter.grad for parameter in learner.model.parameters() if parameter.grad is not None]
    assert {each.dtype for each in (*gradients, *learner.model.parameters())} == {torch.float32}


def test_fp16_leaves_out_a_step_that_overflows_and_halves_its_scale() -> None:
    config = trial("fp16")
    learner, batch = learner_of(config), in_memory_batch(config, CPU)
    learner.step([batch], lambda *_: None)
    learner.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**100)

    def parts() -> list[Tensor]:
        return tensors([learner.loss.state_dict(), learner.optimizer.state_dict(), [*learner.model.parameters()]])

    before = parts()
    learner.step([batch], lambda *_: None)
    assert all(map(torch.equal, parts(), before))
    assert learner.scaler.get_scale() == 2.0**99
    learner.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8)
    learner.step([batch], lambda *_: None)
    assert not all(map(torch.equal, parts(), before))


@pytest.mark.parametrize("augment_on", ["worker", "device"])
def test_batches_are_pinned_and_their_copies_have_the_pixels_of_the_cpu(whole: TrialConfig, augment_on: str) -> None:
    config = changed(whole, clips__augment_on=augment_on, clips__erase=0.5)
    train = read_splits(config.data).train
    data = applied_split(train, cut_validation(train, config.data.validation))
    clips = TrainingClips(data.train, data.labels, config.clips, size=config.input_size, seed=0)
    batches = IdentityBatches(data.labels, config.clips, 0)
    for batch in training_loader(clips, batches, workers=1, device=GPU):
        assert batch.frames.is_pinned() and batch.labels.is_pinned()
        to_device(batch, GPU, config.clips)  # what is kept is made
        with no_waiting():
            there = to_device(batch, GPU, config.clips)
        here = to_device(batch, CPU, config.clips)
        assert torch.equal(there.erased.cpu(), here.erased) and torch.equal(there.labels.cpu(), here.labels)
        # Where the GPU resizes, a rounding may go the other way.
        assert (there.frames.cpu().int() - here.frames.int()).abs().max() <= (augment_on == "device")


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="this GPU has no TF32"
)
def test_tf32_is_taken_where_it_is_asked_for_and_never_where_products_are_to_be_exact() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(2, 512, 512, device=GPU)
    maps, weights = torch.randn(8, 64, 32, 32, device=GPU), torch.randn(64, 64, 3, 3, device=GPU)
    product = left.double() @ right.double()
    convolved = nn.functional.conv2d(maps.double(), weights.double())

    def errors() -> list[float]:
        return [
            relative_error(left @ right, product),
            relative_error(nn.functional.conv2d(maps, weights), convolved),
        ]

    with float32_products(ComputeConfig(precision="fp32", tf32=False), GPU):
        assert max(errors()) < 1e-5
    with float32_products(ComputeConfig(precision="fp32", tf32=True), GPU):
        assert min(errors()) > 5e-5
        with exact_products():
            assert errors()[0] < 1e-5


def test_rankings_of_the_same_embeddings_have_the_metrics_of_the_cpu() -> None:
    given = case(200, 1000, 256, 60)
    there = [each.to(GPU) for each in given]
    for metric in ("cosine", "euclidean"):
        here, found = rank_embeddings(*given, metric=metric), rank_embeddings(*there, metric=metric)
        assert found.mean_ap == pytest.approx(here.mean_ap, abs=1e-6)
        assert found.cmc.tolist() == pytest.approx(here.cmc.tolist(), abs=1e-6)
    here_distances, distances = k_reciprocal_distance(*given[:2]), k_reciprocal_distance(*there[:2])
    assert ((here_distances - distances.cpu()).abs() > 2e-4).float().mean() < 1e-5


def test_an_evaluation_has_the_metrics_of_the_cpu(whole: TrialConfig) -> None:
    here, there = (evaluate(whole, None, part="validation", device=device) for device in (CPU, GPU))
    torch.testing.assert_close(there.data.query_embeddings.cpu(), here.data.query_embeddings, rtol=1e-3, atol=1e-4)
    assert there.ranking.mean_ap == pytest.approx(here.ranking.mean_ap, abs=1e-3)


def test_a_compiled_network_learns_what_the_network_learns() -> None:
    losses: dict[bool, list[float]] = {True: [], False: []}
    for compiled, seen in losses.items():
        config = trial("fp32", compute__compile=compiled)
        with float32_products(config.compute, GPU):
            learner, batch = learner_of(config), in_memory_batch(config, CPU)
            learner.compile()
            for _ in range(3):
                learner.step([batch], lambda _batch, _output, terms, seen=seen: seen.append(terms["total"].item()))
        assert (learner.model._compiled_call_impl is not None) == compiled
    assert losses[True] == pytest.approx(losses[False], rel=1e-2)


def test_a_training_is_resumed_on_the_gpu_and_from_it_on_the_cpu(whole: TrialConfig, tmp_path: Path) -> None:
    config = changed(whole, compute__precision="bf16")
    for device in (GPU, CPU):
        out = tmp_path / device.type
        fit(config, out=out, device=GPU, until=1)
        history = fit(config, out=out, device=device, resume_from=out / "checkpoint" / "last.pt").history
        assert [result.epoch for result in history] == [1, 2]
