"""Ax's process with children that misbehave: no exception but AxFailed, and no waiting."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from ax_children import ANSWER, LOOP, child, history, question_of
from bench import Bench
from ray.tune.search import Searcher
from small_spaces import mixed

from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.ax_process import AxFailed, AxProcess, deadline_for
from orchestrator.algorithms.suggest import Suggestion

REPLIES = {
    "NaN": LOOP + 'print(\'{"params": {"a": NaN}}\', flush=True)',
    "Infinity": LOOP + 'print(\'{"params": {"a": -Infinity}}\', flush=True)',
    "no JSON": LOOP + "print('Segmentation fault', flush=True)",
    "half a line": LOOP + "print('{\"params\": {', flush=True)",
    "null": LOOP + "print('null', flush=True)",
    "a list": LOOP + "print('[1, 2]', flush=True)",
    "an empty object": LOOP + "print('{}', flush=True)",
    "no point": LOOP + "print('{\"params\": 7}', flush=True)",
    "null for a point": LOOP + "print('{\"params\": null}', flush=True)",
    "an error": LOOP + 'print(\'{"error": "StopIteration: "}\', flush=True)',
    "an empty error": LOOP + "print('{\"error\": null}', flush=True)",
    "bytes that are no text": LOOP + "os.write(1, b'\\xff\\xfe\\n')",
    "a number beyond all floats": LOOP + "print('{\"params\": {\"clips.flip\": 1' + '0' * 400 + '}}', flush=True)",
    "brackets without end": LOOP + "print('[' * 100000, flush=True)",
    "death": LOOP + "os._exit(1)",
    "death by a signal": LOOP + "os.kill(os.getpid(), 9)",
    "death at once": "pass",
    "a hang": LOOP + "time.sleep(60)",
    "a hang before reading": "import time; time.sleep(60)",
    "silence": LOOP + "os.close(1); time.sleep(60)",
}


@pytest.mark.parametrize("fault", REPLIES)
def test_whatever_the_child_does_a_whole_search_completes(tmp_path: Path, fault: str) -> None:
    process = child(tmp_path, REPLIES[fault], deadline=0.1)
    bench = Bench(tmp_path / "s", process, trials=8, concurrent=1)
    try:
        for number in range(8):
            while (assignment := bench.searcher.suggest(f"x{number}")) is None:
                assert bench.searcher.failure is None
                time.sleep(0.005)
            bench.complete(f"x{number}", 0.1 * number)
        assert bench.searcher.suggest("x8") == Searcher.FINISHED
    finally:
        process.close()
    assert assignment["trial"] == "t0007"
    trials = list(bench.recorder.study.trials.values())
    assert [trial.status for trial in trials] == ["completed"] * 8
    assert [trial.source for trial in trials] == ["start", *["sobol"] * 4, *["random"] * 3]
    assert all(trial.note.startswith("Ax: ") and trial.note.isprintable() for trial in trials[5:])


def test_a_good_child_is_believed(tmp_path: Path) -> None:
    space = mixed()
    process = child(tmp_path, LOOP + f"print(json.dumps({{'params': {ANSWER!r}}}), flush=True)", deadline=30)
    ahead, study, found = AsyncSuggester(process, space, stale=False), history(space, 3), None
    try:
        while found is None:
            found = ahead.take(question_of(space, study), study)
    finally:
        process.close()
    assert isinstance(found, Suggestion)
    assert found.source == "ax"


def test_answers_come_one_by_one_and_one_that_fails_ends_them_all(tmp_path: Path) -> None:
    lines = [{"params": {"a": 1}}, {"params": 7}, {"params": {"a": 3}}]
    process = child(tmp_path, LOOP + f"[print(json.dumps(each), flush=True) for each in {lines!r}]", deadline=30)
    found: list[object] = []
    try:
        for _ in range(2):
            process.ask({"count": 3})
            while process.awaited:
                try:
                    found.append(process.poll())
                except AxFailed as error:
                    found.append(str(error))
    finally:
        process.close()
    assert [each for each in found if each is not None] == 2 * [{"params": {"a": 1}}, "the reply holds no point"]


def test_a_question_longer_than_the_pipe_is_put_without_waiting_for_the_child_to_read(tmp_path: Path) -> None:
    process = child(tmp_path, "import time; time.sleep(3600)", deadline=0.3)
    try:
        process.start()
        process.ask({"trials": ["x" * 1_000_000]})  # waiting for the child would take an hour
        with pytest.raises(AxFailed, match="no answer within"):
            while process.poll() is None:
                time.sleep(0.01)
    finally:
        process.close()


def test_a_number_that_is_not_finite_is_never_sent(tmp_path: Path) -> None:
    process = child(tmp_path, "pass")
    with pytest.raises(AxFailed, match="could not be asked"):
        process.ask({"trials": [float("nan")]})
    assert not process.awaited


def test_a_command_that_cannot_be_started_is_an_answer_of_ax(tmp_path: Path) -> None:
    with pytest.raises(AxFailed, match="could not be asked"):
        AxProcess(tmp_path / "ax.log", command=(str(tmp_path / "nothing"),)).ask({})


def test_no_child_is_left_after_a_hang_or_a_close(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    process = child(tmp_path, REPLIES["a hang"], deadline=0.1)
    process.ask({})
    with pytest.raises(AxFailed):
        while process.poll() is None:
            time.sleep(0.01)
    process.start()
    process.close()
    process.close()
    assert set(psutil.Process().children()) == before


def test_a_slower_model_and_each_further_objective_get_more_time() -> None:
    fast = deadline_for({"method": "fast", "objective": "mAP"})
    assert deadline_for({"method": "quality", "objective": "mAP"}) > fast
    assert deadline_for({"method": "fast", "objective": "mAP, -hours"}) == 2 * fast
