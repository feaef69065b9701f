"""Searches and trials side by side: deltas, what they are worth, and when they must not be compared."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from evaluations import BETTER, WORSE, checkpoint, search
from events import epoch_result
from PIL import Image
from scipy import stats
from searches import POINT, completed, pausing_events

from orchestrator.__main__ import run
from orchestrator.base.errors import SearchError
from orchestrator.show.compare import compare
from orchestrator.show.compare_view import draw_sheet
from orchestrator.stores.local import LocalStore
from orchestrator.study.events import Event, TrialCompleted, TrialReported, TrialStarted, TrialSuggested
from orchestrator.summary.intervals import seed_difference
from orchestrator.tracking.pages import comparison_page, experiment_of
from trainer.config import TrialConfig
from trainer.data import read_splits
from trainer.data.splits import cut_validation, write_validation
from trainer.evaluation.folder import Network, draw_comparison


def repeats(of: int, *values: float, fold: int | None = None) -> list[Event]:
    """Completed repeats of a trial with the seeds 1, 2 ..."""
    events: list[Event] = []
    for number, value in enumerate(values, 1):
        key = f"t{of:04d}-r{number}"
        suggested = {"trial": key, "index": of, "params": POINT, "source": "repeat", "seed": number}
        events += [
            TrialSuggested.model_validate({**suggested, "epochs": 3, "repeats": f"t{of:04d}", "fold": fold}),
            TrialStarted(trial=key, attempt=1),
            TrialReported(trial=key, result=epoch_result(3, value)),
            TrialCompleted(trial=key),
        ]
    return events


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    events = [*completed(0, 0.5), *completed(1, 0.6, **{"clips.identities": 4})]
    search(tmp_path, "one", [*events, *repeats(1, 0.55, 0.56, 0.57)])
    return tmp_path


# --- noise


def test_repeats_of_both_give_students_interval_of_the_difference() -> None:
    before, after = [0.30, 0.34, 0.29], [0.36, 0.41, 0.38]
    found = seed_difference({(n, None): x for n, x in enumerate(before)}, {(n, None): x for n, x in enumerate(after)})
    expected = stats.ttest_ind(after, before).confidence_interval()
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.exceeds == (stats.ttest_ind(after, before).pvalue < 0.05)


def test_repeats_on_the_same_folds_are_compared_in_pairs() -> None:
    before, after = [0.30, 0.50, 0.10], [0.32, 0.53, 0.12]
    runs = [{(n, n): x for n, x in enumerate(values)} for values in (before, after)]
    found = seed_difference(*runs)
    expected = stats.ttest_rel(after, before).confidence_interval()
    assert found is not None and found.paired and found.exceeds
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_training_of_each_is_judged_by_the_noise_of_other_configurations() -> None:
    alone = {(0, None): 0.5}, {(0, None): 0.6}
    assert seed_difference(*alone) is None
    found = seed_difference(*alone, [[0.1, 0.2, 0.3], [0.5, 0.6]])
    assert found is not None
    assert (found.delta, found.freedom) == (pytest.approx(0.1), 3)
    deviation = np.sqrt((0.02 + 0.005) / 3)
    assert found.high - found.delta == pytest.approx(stats.t.ppf(0.975, 3) * deviation * np.sqrt(2))


# --- what is compared


def test_a_search_stands_for_its_best_trial_and_deltas_are_against_the_first(storage: Path) -> None:
    found = compare(LocalStore(storage), ["one/t0000", "one"])
    assert [side.name for side in found.sides] == ["one/t0000", "one/t0001"]
    (pair,) = found.pairs
    assert pair.metrics["mAP"].delta == pytest.approx(0.1)
    assert pair.queries is not None
    assert pair.queries.comparison.delta == pytest.approx(np.mean(BETTER) - np.mean(WORSE))
    assert pair.seeds is not None
    assert pair.seeds.delta == pytest.approx(0.56 - 0.5), "fresh seeds where there are any"
    assert found.settings == {"clips.identities": [3, 4]}


def test_trials_of_several_searches_are_compared_and_what_is_not_known_is_said(storage: Path) -> None:
    search(storage, "two", completed(0, 0.4), evaluated=False)
    found = compare(LocalStore(storage), ["one", "two", "one/t0000"])
    assert [pair.queries is None for pair in found.pairs] == [True, False]
    assert found.pairs[0].seeds is not None, "the noise of seeds is that of the other search"
    lacking, lonely, *_ = [note for note in found.notes if note.startswith("two/t0000")]
    assert "reidsearch evaluate" in lacking and "--part validation" in lacking
    assert "one seed" in lonely


def refusal(storage: Path, *names: str) -> str:
    with pytest.raises(SearchError) as caught:
        compare(LocalStore(storage), names)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_other_data_protocols_and_queries_are_refused(storage: Path) -> None:
    search(storage, "two", completed(0, 0.4), fingerprint="1")
    assert "was trained on other data" in refusal(storage, "one", "two")
    search(storage, "three", completed(0, 0.4))
    (storage / "three/split.json").write_text('{"identities": [2]}')
    assert "judged on other identities" in refusal(storage, "one", "three")
    result = epoch_result(3, 0.4)
    assert result.validation is not None
    official = result.validation.model_copy(update={"protocol": "mars_official"})
    events = completed(0, 0.4)
    events[2] = TrialReported(trial="t0000", result=result.model_copy(update={"validation": official}))
    search(storage, "four", events)
    assert "under protocol mars_official, one/t0001 under mars" in refusal(storage, "one", "four")


def test_the_command_for_a_missing_evaluation_can_be_pasted_whatever_the_folder_is_called(tmp_path: Path) -> None:
    storage = tmp_path / "my runs; date"
    search(storage, "one", [*completed(0, 0.4), *completed(1, 0.5)], evaluated=False)
    note = next(
        note for note in compare(LocalStore(storage), ["one/t0000", "one/t0001"]).notes if "make them with" in note
    )
    program, *arguments = shlex.split(note.split("make them with: ")[1])
    trial = storage.absolute() / "one/trials/t0000"
    assert program.endswith("reidsearch") and arguments[:2] == ["evaluate", str(trial / "config.json")]
    assert arguments[-1] == str(trial / "evaluation")


def test_a_trial_without_figures_and_one_named_twice_are_refused(storage: Path) -> None:
    search(storage, "two", completed(0, 0.4)[:2])
    assert "no epoch of it was evaluated" in refusal(storage, "one", "two/t0000")
    assert "name each trial once" in refusal(storage, "one", "one/best")


# --- what is said


def test_a_paused_trial_is_compared_by_its_best_epoch_so_far_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path, "first", pausing_events())
    assert run(["compare", "first/t0001", "first/t0000", "--storage", str(tmp_path)]) == 0
    assert "first/t0000 is paused: metrics of its best epoch so far, 5" in capsys.readouterr().out


def test_people_get_deltas_verdicts_and_only_what_differs(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "one/t0000", "one", "--storage", str(storage)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"mAP +50\.0 +60\.0 \(\+10\.0\)", text)
    assert re.search(r"queries +(within noise|better than noise explains) \(95 % interval", text)
    assert "2 degrees of freedom" in text
    assert re.search(r"clips\.identities +3 +4", text)
    assert "optim.learning_rate" not in text
    assert "SYNTHETIC" in text
    assert run(["compare", "one", "--storage", str(storage)]) == 2
    assert repr(compare(LocalStore(storage), ["one/t0000", "one"])) == text.rstrip(), "in Python the same"


def test_programs_get_one_document(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "one/t0000", "one", "--storage", str(storage), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (pair,) = document["pairs"]
    assert pair["metrics"]["mAP"]["delta"] == pytest.approx(0.1)
    assert pair["query_noise"]["exceeds"] in (True, False)
    assert {change["place"] for change in pair["query_noise"]["losses"]} == {5}
    assert len(document["sides"][1]["runs"]) == 3
    assert document["mlflow"] is None


def test_a_sheet_of_real_people_is_drawn_only_where_images_are_allowed(storage: Path) -> None:
    path = storage / "one/search.yaml"
    path.write_text(path.read_text().replace("synthetic: true", "synthetic: false", 1))
    with pytest.raises(SearchError, match="--images"):
        draw_sheet(compare(LocalStore(storage), ["one/t0000", "one"]), storage / "sheet.png", images=False)
    assert not (storage / "sheet.png").exists()


# --- the link


@pytest.fixture
def server() -> Iterator[str]:
    """Answers like MLflow's."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Authorization", "Basic bWU6c2VjcmV0")  # me:secret
            self.send_response(200 if asked == "Basic bWU6c2VjcmV0" else 401)
            self.end_headers()
            self.wfile.write(b'{"run": {"info": {"experiment_id": "7"}}}')

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_the_link_names_runs_and_experiment_and_no_password(server: str) -> None:
    assert experiment_of(server, "r1") == "7"
    assert experiment_of(server.replace("//", "//me:secret@"), "r1") == "7"
    assert experiment_of(server.replace("//", "//me:other@"), "r1") is None
    assert experiment_of("http://127.0.0.1:9", "r1") is None
    page = comparison_page("http://me:secret@host:5000/", ["r1", "r2"], "7")
    assert page == "http://host:5000/#/compare-runs?runs=%5B%22r1%22%2C%22r2%22%5D&experiments=%5B%227%22%5D"


def test_a_sheet_shows_every_query_as_each_network_answers_it(
    tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluation.evaluate.with_verification", lambda _: pytest.fail("not drawn"))
    networks = []
    for seed in (1, 2):
        path = checkpoint(tmp_path / f"{seed}.pt", tiny_config, classes=3, seed=seed)
        networks.append(Network(str(seed), tiny_config, path, tmp_path / "split.json"))
    train = read_splits(tiny_config.data).train
    write_validation(tmp_path / "split.json", cut_validation(train, tiny_config.data.validation), train)
    heights = []
    for places in ([0], [0, 1]):
        draw_comparison(networks, places, tmp_path / "sheet.png", synthetic=True)
        with Image.open(tmp_path / "sheet.png") as sheet:
            heights.append(sheet.height)
    one, two = heights
    assert two > 1.5 * one
