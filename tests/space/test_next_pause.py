"""When trials pause: the epochs of each rule."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.space.options import StoppingConfig, chunk_ends, next_pause


def pauses(epochs: int, every: int, stopping: StoppingConfig) -> list[int]:
    """All epochs after which a trial pauses that is continued each time."""
    found = list[int]()
    while (until := next_pause(found[-1] if found else 0, epochs, every, stopping)) is not None:
        found.append(until)
    return found


def test_promote_pauses_at_first_times_powers_of_reduction() -> None:
    assert pauses(100, 1, StoppingConfig(rule="promote", first=0.1, reduction=3)) == [10, 30, 90]
    assert pauses(81, 1, StoppingConfig(rule="promote", first=1 / 81, reduction=3)) == [1, 3, 9, 27]
    assert pauses(30, 1, StoppingConfig(rule="promote", first=0.1)) == [3, 9, 27], (
        "0.1 * 30 is a bit more than 3 in floats"
    )
    assert pauses(10, 1, StoppingConfig(rule="promote", first=0.5)) == [5], "no rung lies at the end or beyond"


def test_freeze_thaw_pauses_at_first_times_powers_of_two() -> None:
    assert pauses(36, 1, StoppingConfig(rule="freeze_thaw", first=0.25)) == [9, 18]
    assert pauses(51, 1, StoppingConfig(rule="freeze_thaw", first=1 / 16)) == [4, 7, 13, 26]
    assert chunk_ends(7, 51, 1, StoppingConfig(rule="freeze_thaw", first=1 / 16)) == [13, 26, 51]


def test_pauses_fall_on_evaluated_epochs() -> None:
    assert pauses(40, 10, StoppingConfig(rule="promote", first=0.1)) == [10, 20], "0.9 of 40 is evaluated at the end"
    assert pauses(40, 10, StoppingConfig(rule="freeze_thaw", first=0.25)) == [10, 20]
    assert pauses(40, 40, StoppingConfig(rule="promote", first=0.1)) == [], "there is one evaluation, at the end"


def test_other_rules_pause_nothing() -> None:
    for rule in ("none", "asha", "percentile"):
        assert pauses(100, 1, StoppingConfig(rule=rule)) == []


@given(
    rule=st.sampled_from(["promote", "freeze_thaw"]),
    first=st.floats(0.001, 0.999),
    reduction=st.integers(2, 9),
    epochs=st.integers(1, 300),
    every=st.integers(1, 50),
)
def test_every_trial_comes_to_its_end_in_pauses_that_grow(
    rule: str, first: float, reduction: int, epochs: int, every: int
) -> None:
    stopping = StoppingConfig.model_validate({"rule": rule, "first": first, "reduction": reduction})
    found = pauses(epochs, every, stopping)
    assert found == sorted(set(found))
    assert all(epoch % every == 0 and epoch < epochs for epoch in found)
    earliest = math.ceil(math.ceil(epochs * first - 1e-3 * epochs) / every) * every
    assert all(epoch >= min(earliest, epochs) for epoch in found)
