"""MLflow's pages: a server that is safe to start, and a page that shows in a browser what it should."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, await_script, chromium
from running import served
from searches import write_search
from waiting import PATIENCE_S

from orchestrator.__main__ import run
from orchestrator.base.errors import EnvironmentProblem
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import Event, SessionEnded, TrialCompleted, TrialReported, TrialStarted, TrialSuggested
from orchestrator.tracking.pages import view_of
from orchestrator.tracking.server import mlflow_server, server_command, server_environment
from orchestrator.tracking.sync import sync
from trainer import TrialConfig, fit

# --- the server


def test_the_server_listens_to_this_machine_only_and_takes_no_jobs() -> None:
    command = server_command(5000, Path("artifacts"))
    options = dict(zip(command[5::2], command[6::2], strict=True))
    assert options["--host"] == "127.0.0.1"
    assert options["--allowed-hosts"] == "localhost:*,mlflow.localhost:*,127.0.0.1:*"
    assert options["--cors-allowed-origins"] == "http://mlflow.localhost:5000"
    assert options["--x-frame-options"] == "DENY"
    environment = server_environment("sqlite:///x", {"PATH": "p", "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true"})
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_ENABLE_ASSISTANT_SANDBOX"] == "true"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["PATH"] == "p"
    assert "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE" not in environment


def test_a_password_of_the_database_is_no_argument_that_others_can_read() -> None:
    uri = "postgresql://me:secret@host/db"
    assert "secret" not in " ".join(server_command(5000, Path("artifacts")))
    assert server_environment(uri, {})["MLFLOW_BACKEND_STORE_URI"] == uri


def test_a_port_that_is_taken_is_said_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(EnvironmentProblem, match=f"port {port} of 127.0.0.1 is taken .*--port"),
            mlflow_server("sqlite:///x.db", tmp_path, port, tmp_path / "log"),
        ):
            pytest.fail("not reached")


def test_a_storage_without_runs_has_no_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ui", "--storage", str(tmp_path)]) == 3
    assert "no search was tracked" in capsys.readouterr().err


# --- what the page shows


def test_the_page_shows_the_trials_of_the_search_with_its_parameters_as_columns() -> None:
    view = view_of("demo-24ed", ["loss.osm_share"])
    assert view["searchFilter"] == "tags.search = 'demo-24ed' and tags.trial LIKE 't%'"
    assert "params.`loss.osm_share`" in view["selectedColumns"]
    assert "metrics.`best/mAP`" in view["selectedColumns"]
    assert {"CMC: share of queries by rank", "ranking"} < {
        chart.get("displayName") for chart in view["compareRunCharts"]
    }
    assert "groupBy" not in view
    assert view_of("demo-24ed", [], grouped=True)["groupBy"]["groupByKeys"][0]["groupByData"] == "configuration"
    assert len(json.dumps(view_of("x" * 64, ["p" * 60] * 40))) < 20_000, "what a tag of an experiment holds"


# --- in a browser


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, mini_mars: Path) -> SearchFolder:
    """A search of two trials that were trained, in MLflow."""
    storage = tmp_path_factory.mktemp("runs")
    space = SearchSpace.load("smoke.yaml", overrides=[f"data.root={mini_mars}", "evaluation.folder=true"])
    events: list[Event] = []
    for index, rate in enumerate((1e-3, 5e-3)):
        key = f"t{index:04d}"
        params = {"optim.learning_rate": rate, "clips.identities": 4, "model.attention_gate": "softmax"}
        suggested = {"trial": key, "index": index, "params": params, "source": "sobol", "seed": 0, "epochs": 3}
        config: TrialConfig = space.config(params)
        results = fit(config, out=storage / "trained" / key).history
        events += [TrialSuggested.model_validate(suggested), TrialStarted(trial=key, attempt=1)]
        events += [*(TrialReported(trial=key, result=result) for result in results), TrialCompleted(trial=key)]
    folder = write_search(storage / "shown", space, [*events, SessionEnded(state="finished", reason="2 trials")])
    (storage / "trained").rename(folder.path / "trials")
    shutil.copy(folder.trial("t0000") / "split.json", folder.split)
    assert sync(folder, tracking=None, patience=PATIENCE_S).unsent == 0
    return folder


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver")
def test_a_browser_shows_the_trials_their_cmc_curves_and_the_same_queries_side_by_side(
    tracked: SearchFolder,
) -> None:
    words = ("ui", "shown", "--storage", tracked.storage)
    with served(*words) as (address, process), chromium(1600, 1700) as browser:
        browser.get(address)
        body = "document.body.innerText"
        await_script(browser, f"{body}.includes('shown/t0000') && {body}.includes('shown/t0001')")
        assert "shown/t0002" not in browser.find_element("tag name", "body").text
        await_script(browser, f"{body}.includes('Comparison') && {body}.includes('cmc')")
        # Of CMC curves and learning curves, each as a line per trial.
        await_script(browser, "document.querySelectorAll('.scatterlayer .trace').length >= 4")
        loaded = (
            "[...document.querySelectorAll('img')].filter(i => i.src.includes('get-artifact') && i.naturalWidth > 100)"
        )
        await_script(browser, f"{loaded}.length >= 4")  # two sheets of each trial
        assert not [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address.partition("#")[0], timeout=5)
