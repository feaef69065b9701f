"""Two evaluations compared: intervals that hold what they promise, changes where they are, and damaged folders."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import evaluation, queries
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick, seeds

from trainer.commands import comparison_text
from trainer.data.dataset import Tracklet
from trainer.errors import DataError
from trainer.evaluation.analysis import precision_by_camera
from trainer.evaluation.compare import compare_evaluations, paired_bootstrap
from trainer.evaluation.query_metrics import FILE, query_metrics, read_query_metrics, write_query_metrics
from trainer.evaluation.retrieval import RetrievalData, rank

QUERIES = 6


def mistake(before: Path, after: Path) -> str:
    with pytest.raises(DataError) as caught:
        compare_evaluations(before, after)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- the bootstrap


@quick
@given(seed=seeds, count=st.integers(2, 30))
def test_equal_evaluations_differ_by_nothing_for_certain(seed: int, count: int) -> None:
    precision = np.random.default_rng(seed).random(count)
    found = paired_bootstrap(precision, precision.copy(), draws=100)
    assert found == (0, 0, 0, 1, 0, 0, count)


def test_two_queries_have_the_three_means_that_can_be_drawn() -> None:
    found = paired_bootstrap(np.array([0.1, 0.5]), np.array([0.3, 0.5]))
    assert found.delta == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0, 0.2))  # each a quarter of the draws
    assert found.p_value > 0.5
    assert (found.better, found.worse, found.equal) == (1, 0, 1)


def test_a_gain_of_every_query_is_significant() -> None:
    before = np.random.default_rng(0).random(200) / 2
    found = paired_bootstrap(before, before + 0.1, draws=1000)
    assert (found.delta, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert 0 < found.p_value < 0.005


def test_queries_invalid_in_either_are_left_out() -> None:
    before, after = np.array([0.2, math.nan, 0.5, math.nan]), np.array([0.4, 0.9, math.nan, math.nan])
    found = paired_bootstrap(before, after, groups=np.array([1, 2, 3, 4]))
    assert found.delta == pytest.approx(0.2)
    assert found.better + found.worse + found.equal == 1


def test_one_identity_has_no_interval() -> None:
    found = paired_bootstrap(np.zeros(5), np.full(5, 0.5), groups=np.zeros(5))
    assert (found.delta, found.low, found.high, found.p_value) == (0.5, -1, 1, 1)


@quick
@given(seed=seeds)
def test_exchanging_before_and_after_turns_everything_around(seed: int) -> None:
    before, after = np.random.default_rng(seed).random((2, 20))
    one, other = (paired_bootstrap(*pair, draws=200) for pair in ((before, after), (after, before)))
    np.testing.assert_allclose([other.delta, other.low, other.high], [-one.delta, -one.high, -one.low], atol=1e-12)
    assert (other.p_value, other.better, other.worse) == (one.p_value, one.worse, one.better)


def test_the_seed_decides_and_the_size_of_blocks_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = np.random.default_rng(0).random((2, 50))
    first = paired_bootstrap(before, after, draws=300, seed=3)
    monkeypatch.setattr("trainer.evaluation.compare.DRAWN_AT_ONCE", 700)
    assert paired_bootstrap(before, after, draws=300, seed=3) == first
    assert paired_bootstrap(before, after, draws=300, seed=4) != first


def simulated_coverage(identities: int, *, by_identity: bool) -> float:
    """Share of intervals that hold the true difference, where the 4 queries of an identity change together."""
    generator, held = np.random.default_rng(0), 0
    identity = np.repeat(np.arange(identities), 4)
    for _ in range(300):
        change = (
            0.02
            + 0.1 * generator.standard_normal(identities)[identity]
            + 0.05 * generator.standard_normal(len(identity))
        )
        before = generator.random(len(identity))
        found = paired_bootstrap(before, before + change, groups=identity if by_identity else None, draws=400)
        held += found.low <= 0.02 <= found.high
    return held / 300


@pytest.mark.parametrize("identities", [8, 60])
def test_interval_by_identity_holds_the_truth_as_often_as_promised(identities: int) -> None:
    assert (
        0.91 <= simulated_coverage(identities, by_identity=True) <= 0.985
    )  # 0.95 +- 3 standard errors of 300 data sets


def test_interval_that_takes_a_identity_s_queries_as_independent_does_not() -> None:
    assert simulated_coverage(60, by_identity=False) < 0.85


@pytest.mark.parametrize(("before", "after", "draws"), [(2, 3, 10), (2, 2, 0)])
def test_sizes_that_disagree_and_no_draws_are_refused(before: int, after: int, draws: int) -> None:
    with pytest.raises(ValueError, match="must agree"):
        paired_bootstrap(np.zeros(before), np.zeros(after), draws=draws)


def test_evaluations_without_a_common_query_are_refused() -> None:
    with pytest.raises(ValueError, match="no query"):
        paired_bootstrap(np.array([math.nan, 1.0]), np.array([1.0, math.nan]))


# --- folders


def test_changes_are_named_by_query_and_by_pair_of_cameras(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", queries([0.5, 0.5, 0.5, 0.5, math.nan, 0.5]))
    second = evaluation(tmp_path / "b", queries([0.5, 0.8, 0.6, 0.1, math.nan, 0.5]), synthetic=True)
    found = compare_evaluations(first, second, count=2)
    assert (found.protocol, found.queries, found.synthetic) == ("mars", 5, True)
    assert (found.before, found.after, found.comparison.delta) == pytest.approx((0.5, 0.5, 0))
    assert [(change.place, change.first_frame) for change in found.gains] == [(1, "0001.jpg"), (2, "0002.jpg")]
    assert [(change.place, change.identity, change.camera) for change in found.losses] == [(3, 2, 2)]
    assert found.losses[0].delta == pytest.approx(-0.4)
    by_pair = {(change.query_camera, change.gallery_camera): change for change in found.cameras}
    assert by_pair[1, 3].delta == pytest.approx(0.05)
    assert (by_pair[1, 3].queries, by_pair[2, 3].queries) == (2, 3)
    gained = [change.delta * change.queries for change in found.cameras]
    assert gained == sorted(gained, reverse=True)
    np.testing.assert_allclose(found.deltas, [0, 0.3, 0.1, -0.4, math.nan, 0])


def test_a_pair_of_cameras_with_one_query_does_not_lead_by_that_query_alone(tmp_path: Path) -> None:
    before = queries([0.2] * 9)
    before = before._replace(camera=np.array([2] + [1] * 8))
    after = before._replace(average_precision=np.array([0.9] + [0.4] * 8))
    after = after._replace(by_camera=np.repeat(after.average_precision[:, None], 3, axis=1))
    found = compare_evaluations(evaluation(tmp_path / "a", before), evaluation(tmp_path / "b", after))
    assert [(change.query_camera, change.queries) for change in found.cameras][:3] == [(1, 8)] * 3
    assert found.cameras[-1].delta == pytest.approx(0.7), "the largest change, of one query"
    text = comparison_text(found)
    assert "(1 query)" in text and "(8 queries)" in text and "1 queries" not in text


def test_what_a_ranking_gives_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    vectors = torch.randn(14, 4, generator=torch.Generator().manual_seed(0))
    tracklets = [Tracklet((f"x/{place}.jpg",), place % 3 + 1, place % 2 + 1) for place in range(14)]
    data = RetrievalData(tracklets[:4], tracklets[4:], vectors[:4], vectors[4:])
    written = query_metrics(rank(data), data.query, precision_by_camera(data))
    write_query_metrics(tmp_path, written)
    for one, other in zip(written, read_query_metrics(tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)
    assert written.first_frame.tolist() == [f"{place}.jpg" for place in range(4)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"protocol": "mars_official"}, "protocol 'mars_official', but"),
        ({"fingerprint": "cd"}, "another gallery was searched"),
        ({"protocol": 5}, "evaluation.json: protocol: not as an evaluation writes it"),
    ],
)
def test_other_protocols_and_galleries_are_refused(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    same = queries([0.5] * QUERIES)
    assert expected in mistake(evaluation(tmp_path / "a", same), evaluation(tmp_path / "b", same, **changes))


@pytest.mark.parametrize("field", ["identity", "camera", "frames", "first_frame"])
def test_other_queries_are_refused_with_the_first_that_differs(tmp_path: Path, field: str) -> None:
    same = queries([0.5] * QUERIES)
    changed = getattr(same, field).copy()
    changed[2] = 9
    folders = evaluation(tmp_path / "a", same), evaluation(tmp_path / "b", same._replace(**{field: changed}))
    assert "query 2 starts with" in mistake(*folders)


def test_other_numbers_of_queries_are_refused(tmp_path: Path) -> None:
    folders = evaluation(tmp_path / "a", queries([0.5] * 4)), evaluation(tmp_path / "b", queries([0.5] * 6))
    assert "6 queries, but" in mistake(*folders)


def test_no_query_valid_in_both_is_refused(tmp_path: Path) -> None:
    first, second = queries([0.5, math.nan]), queries([math.nan, 0.5])
    assert "nothing to compare" in mistake(evaluation(tmp_path / "a", first), evaluation(tmp_path / "b", second))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 5000, '{"protocol": "mars"}', "\x00"])
def test_a_damaged_description_is_one_line_with_its_name(tmp_path: Path, text: str) -> None:
    folder = evaluation(tmp_path / "a", queries([0.5]))
    (folder / "evaluation.json").write_text(text)
    assert mistake(folder, folder).startswith(f"{folder / 'evaluation.json'}: ")


@pytest.mark.parametrize("name", ["evaluation.json", FILE])
def test_a_folder_that_no_evaluation_wrote_is_refused(tmp_path: Path, name: str) -> None:
    folder = evaluation(tmp_path / "a", queries([0.5]))
    (folder / name).unlink()
    assert str(folder / name) in mistake(folder, folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"identity": np.ones(QUERIES)}, "identity is of another kind"),
        ({"valid": np.ones(QUERIES - 1, dtype=bool)}, "average_precision is of another size"),
        ({"valid": np.array(True)}, "average_precision is of another size"),
        ({"by_camera": np.ones((QUERIES, 2))}, "by_camera is of another size"),
        ({"average_precision": np.full(QUERIES, 2.0)}, "not between 0 and 1"),
        ({"average_precision": np.full(QUERIES, np.nan)}, "not between 0 and 1"),
        ({"first_frame": np.array([{}] * QUERIES)}, "allow_pickle"),
    ],
)
def test_arrays_of_another_kind_size_or_value_are_refused(
    tmp_path: Path, changes: dict[str, np.ndarray], expected: str
) -> None:
    write_query_metrics(tmp_path, queries([0.5] * QUERIES)._replace(**changes))
    with pytest.raises(DataError, match=expected) as caught:
        read_query_metrics(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_query_metrics(tmp_path, queries([0.5] * QUERIES))
    monkeypatch.setattr("trainer.evaluation.query_metrics.MAX_BYTES", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        read_query_metrics(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_query_metrics(tmp_path / "file", queries([0.5]))
