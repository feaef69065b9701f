"""The benchmark of search algorithms: problems, counting and statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick, seeds

from benchmarks import bench_search
from benchmarks.search.engine import Continue, Start, Verdict, regret_area, run
from benchmarks.search.problems import FAMILIES
from benchmarks.search.statistics import Outcome, compare, mean_ranks
from benchmarks.search.tables import Table

FUNCTIONS = ("branin", "hartmann6", "levy10", "rosenbrock5", "ackley8")


# --- problems


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_point_has_more_than_the_merit_of_the_optimum(name: str) -> None:
    problem = FAMILIES[name](3)
    points = np.random.default_rng(0).random((2000, problem.dimensions))
    merits = np.array([problem.merit(point) for point in points])
    assert merits.max() <= 1 + 1e-6
    assert abs(np.median(merits)) < 0.1


@pytest.mark.parametrize("name", (*FUNCTIONS, "reid5"))
def test_a_problem_is_the_same_for_the_same_seed_and_another_one_for_another(name: str) -> None:
    point = [0.3] * FAMILIES[name](0).dimensions
    first, again, other = (FAMILIES[name](seed).merit(point) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def table(folder: Path, valid: np.ndarray) -> Table:
    count = len(valid)
    hp = np.stack([np.geomspace(1e-5, 1e-1, count), np.linspace(0, 1, count)], 1)
    np.savez(folder / "t.npz", names=np.array(["rate", "share"]), log=np.array([True, False]), hp=hp, valid=valid)
    return Table(folder / "t.npz")


def test_a_table_answers_with_the_nearest_training_that_is_free(tmp_path: Path) -> None:
    found = table(tmp_path, np.linspace(1, 0, 5)[:, None] * np.ones(3))
    near = found.place([0.26, 0.26], set())
    assert near == pytest.approx([0.25, 0.25])  # logarithmic scales are equally spaced
    assert found.place([0.26, 0.26], {tuple(near)}) == pytest.approx([0.5, 0.5])
    assert [found.merit(found.place([x, x], set())) for x in (0.0, 0.5, 1.0)] == pytest.approx([-1, 0, 1])


def test_a_diverged_training_shows_nan_from_then_on_and_has_the_worst_merit(tmp_path: Path) -> None:
    valid = np.linspace(1, 0, 5)[:, None] * np.ones(4)
    valid[4, 2:] = [np.inf, 0.0]
    found = table(tmp_path, valid)
    curve = found.curve(found.place([1, 1], set()), np.random.default_rng(0))
    assert np.isnan(curve).tolist() == [False, False, True, True]
    assert found.merit(found.place([1, 1], set())) == -3


@quick
@given(seed=seeds, spread=st.floats(0.01, 10))
def test_the_intraclass_correlation_is_the_share_of_the_variance_between_points(
    seed: int, spread: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    draw = np.random.default_rng(seed)
    ends = draw.standard_normal((600, 1)) * spread + draw.standard_normal((600, 3))
    found = table(tmp_path_factory.mktemp("icc"), ends[:, :, None] - ends.min())
    # Merit is cut below, so that only scales that are not cut can be compared.
    if found.merit(found.place([0, 0], set())) > -3 and found._curves.min() > -3:
        assert found.intraclass_correlation == pytest.approx(spread**2 / (spread**2 + 1), abs=0.1)


# --- counting


class Steps:
    """A problem whose merit is the point, reached in three epochs."""

    name, dimensions, epochs, trials = "steps", 1, 3, 4

    def place(self, point: Sequence[float], taken: Set[tuple[float, ...]]) -> list[float]:
        return list(point)

    def merit(self, point: Sequence[float]) -> float:
        return point[0]

    def curve(self, point: Sequence[float], noise: np.random.Generator) -> np.ndarray:
        end = point[0]
        return np.array([end - 0.2, np.nan if end < 0 else end - 0.1, end])

    def standard_error(self, point: Sequence[float]) -> float:
        return 0.0


class Scripted:
    """Starts the given points; pauses each trial once where it is told to."""

    def __init__(self, points: list[float], *, pauses: bool = False) -> None:
        self._points, self._pauses = list(points), pauses
        self.paused: list[int] = []
        self.heard: list[tuple[str, int, int]] = []

    def decide(self) -> Start | Continue:
        if self._points:
            return Start([self._points.pop(0)])
        return Continue(self.paused.pop(0))

    def started(self, trial: int, point: list[float]) -> None:
        self.heard.append(("started", trial, 0))

    def report(self, trial: int, values: list[float]) -> Verdict:
        self.heard.append(("report", trial, len(values)))
        if self._pauses and len(values) == 1:
            self.paused.append(trial)
            return Verdict.PAUSE
        return Verdict.GO

    def completed(self, trial: int, values: list[float]) -> None:
        self.heard.append(("completed", trial, len(values)))

    def failed(self, trial: int, values: list[float]) -> None:
        self.heard.append(("failed", trial, len(values)))


def test_epochs_are_counted_until_the_best_trial_reaches_each_goal() -> None:
    found = run(Scripted([0.5, 0.85, 0.92, 0.99]), Steps(), 0)
    assert found.epochs == {0.8: 6, 0.9: 9, 0.95: 12}
    assert (found.trials, found.completed, found.best) == (4, 4, 0.99)


def test_a_paused_trial_goes_on_where_it_stopped() -> None:
    contestant = Scripted([0.5, 0.99], pauses=True)
    found = run(contestant, Steps(), 0)
    assert found.epochs[0.95] == 6
    assert [each for each in contestant.heard if each[1] == 1] == [
        *(("started", 1, 0), ("report", 1, 1), ("report", 1, 2), ("completed", 1, 3)),
    ]


def test_a_trial_that_diverges_costs_its_epochs_and_frees_its_slot() -> None:
    contestant = Scripted([-0.5, 0.96])
    found = run(contestant, Steps(), 0)
    assert ("failed", 0, 1) in contestant.heard
    assert found.epochs[0.95] == 2 + 3


def test_the_area_is_the_mean_regret_over_the_budget() -> None:
    assert regret_area([], 10) == 1
    assert regret_area([(4, 0.5), (6, 1.2)], 10) == pytest.approx((4 * 1 + 2 * 0.5) / 10)
    assert regret_area([(4, -3.0)], 10) == 1


# --- statistics


def outcomes(seed: int, factor: float = 1.0, area: float = 0.0) -> dict[tuple[str, int], Outcome]:
    draw = np.random.default_rng(seed)
    return {
        (problem, number): Outcome(int(factor * draw.integers(100, 400)), 0.5 + area, 1000)
        for problem in ("a", "b", "c")
        for number in range(40)
    }


def test_equal_searches_have_a_ratio_of_one_and_an_interval_of_no_width() -> None:
    found = compare(outcomes(1), outcomes(1))
    assert found.epochs_ratio == (1, 1, 1)
    assert found.area_difference == (0, 0, 0)
    assert found.reached == (120, 120, 120)


def test_half_the_epochs_are_a_ratio_of_a_half() -> None:
    found = compare(outcomes(1, 0.5, -0.1), outcomes(1))
    assert found.epochs_ratio.value == pytest.approx(0.5, abs=0.01)
    assert found.area_difference.value == pytest.approx(-0.1)


def test_the_interval_of_two_equally_good_searches_holds_one() -> None:
    low, high = zip(*(compare(outcomes(2 * n), outcomes(2 * n + 1)).epochs_ratio[1:] for n in range(10)), strict=True)
    assert sum(a <= 1 <= b for a, b in zip(low, high, strict=True)) >= 8


def test_a_goal_that_was_not_reached_counts_as_the_budget() -> None:
    never = {("a", 0): Outcome(None, 1.0, 1000), ("a", 1): Outcome(None, 1.0, 1000)}
    once = {("a", 0): Outcome(100, 0.2, 1000), ("a", 1): Outcome(None, 1.0, 1000)}
    found = compare(once, never)
    assert found.epochs_ratio.value == pytest.approx(0.55)
    assert found.reached == (1, 0, 2)


def test_ranks_are_shared_by_ties() -> None:
    best, other = {("a", 0): Outcome(1, 0.1, 10)}, {("a", 0): Outcome(2, 0.2, 10)}
    assert mean_ranks({"x": best, "y": other, "z": other}) == {"x": 1, "y": 2.5, "z": 2.5}


# --- the command


def test_a_run_is_a_line_of_the_file_and_the_last_line_of_output_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs.csv"
    line = bench_search.run_job(bench_search.Job("branin", "random", 1, 0), None)
    bench_search.append(out, line)
    bench_search.append(out, {**line, "contestant": "sobol"})
    command = ["bench_search", "--only-print", "--out", str(out), "--contestants", "sobol,random"]
    monkeypatch.setattr("sys.argv", [*command, "--problems", "branin", "--seeds", "0:1"])
    assert bench_search.main() == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["against"]["random"]["epochs_ratio"] == [1, 1, 1]
    assert (found["problems"], found["seeds"]) == (["branin"], 1)


def test_names_with_settings_are_told_apart() -> None:
    assert bench_search.split_names("ours, ax+asha(grace: 2, reduction: 4),tpe") == [
        *("ours", "ax+asha(grace: 2, reduction: 4)", "tpe"),
    ]
