"""The gradient by hand of `geometry`: against autograd's, against finite differences, and where vectors vanish."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from strategies import Batch, batches, quick
from torch import Tensor

from trainer.losses.functional import Geometry, cosines, fast_cosines, geometry


def plain(embeddings: Tensor, class_vectors: Tensor, labels: Tensor) -> Geometry:
    """The formulas, left to autograd."""
    own = (embeddings - class_vectors[labels]).square().sum()
    return Geometry(cosines(embeddings, embeddings), cosines(embeddings, class_vectors), own)


def leaves(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.embeddings.clone().requires_grad_(), batch.class_vectors.clone().requires_grad_()


def mixed(found: Geometry, wanted: tuple[bool, bool, bool] = (True, True, True)) -> Tensor:
    """A number that depends on every entry of what is wanted, on each in its own way."""
    terms = []
    for part, asked in zip(found, wanted, strict=True):
        slopes = torch.linspace(-1, 2, part.numel(), dtype=part.dtype).reshape(part.shape)
        terms += [(slopes * part).sum() + part.square().sum()] if asked else []
    return torch.stack(terms).sum()


@quick
@given(batches())
def test_values_are_those_of_the_plain_formulas(batch: Batch) -> None:
    arguments = batch.embeddings, batch.class_vectors, batch.labels
    torch.testing.assert_close(tuple(geometry(*arguments)), tuple(plain(*arguments)))


@pytest.mark.parametrize(
    "wanted",
    [(True, True, True), (True, False, False), (False, True, False), (False, False, True), (True, False, True)],
)
@quick
@given(batch=batches())
def test_gradients_are_those_of_autograd_whatever_is_used(batch: Batch, wanted: tuple[bool, bool, bool]) -> None:
    ours, autograds = leaves(batch), leaves(batch)
    mixed(geometry(*ours, batch.labels), wanted).backward()
    mixed(plain(*autograds, batch.labels), wanted).backward()
    for mine, other in zip(ours, autograds, strict=True):
        expected = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close(mine.grad, expected, rtol=1e-9, atol=1e-9)


def test_geometry_passes_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    batch = Batch(rows[:4], torch.tensor([0, 0, 2, 1]), rows[4:])
    assert torch.autograd.gradcheck(lambda x, v: tuple(geometry(x, v, batch.labels)), leaves(batch))


def test_cosines_pass_gradcheck() -> None:
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(fast_cosines, rows.requires_grad_())


def test_one_argument_may_be_a_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings, vectors = (torch.randn(3, 4, generator=generator, requires_grad=True) for _ in range(2))
    labels = torch.tensor([0, 1, 1])
    mixed(geometry(embeddings, vectors.detach(), labels)).backward()
    mixed(geometry(embeddings.detach(), vectors, labels)).backward()
    together = [leaf.detach().clone().requires_grad_() for leaf in (embeddings, vectors)]
    mixed(geometry(*together, labels)).backward()
    torch.testing.assert_close([embeddings.grad, vectors.grad], [leaf.grad for leaf in together])


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_vectors_without_direction_have_cosine_0_and_finite_gradients(value: float) -> None:
    embeddings, vectors = torch.randn(3, 4), torch.randn(2, 4)
    embeddings[0], vectors[1] = value, value
    given_leaves = embeddings.requires_grad_(), vectors.requires_grad_()
    found = geometry(*given_leaves, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(found.clips[0], torch.zeros(3))
    torch.testing.assert_close(found.classes[:, 1], torch.zeros(3))
    mixed(found).backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in given_leaves)
