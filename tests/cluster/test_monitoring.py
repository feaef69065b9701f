"""What is watched: the files for Prometheus and Grafana, and a running search in both and in Ray's dashboard."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml
from browser import CHROMIUM, DRIVER
from checkout import ROOT
from prometheus import PROMETHEUS, PROMTOOL, Prometheus, prometheus
from running import Search, is_attempt, metric_points, mlflow_runs
from waiting import wait_until

from orchestrator.cluster.authentication import own_token
from orchestrator.cluster.metrics import KINDS

BOARD = json.loads((ROOT / "cluster" / "grafana" / "reidsearch.json").read_text())
CONFIGURATION = (ROOT / "cluster" / "prometheus.yml").read_text()
DISCOVERY = "prom_metrics_service_discovery.json"
# What Ray puts before the names of all gauges, and those of its own that the board shows.
RAY_PREFIX = "ray_"
OF_RAY = {"ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total", "ray_node_disk_free"}
# A trial of them takes some 20 s: long enough to be seen, and one is soon over.
EPOCHS = 120
METRIC = re.compile(r"\bray_\w+")


MONITOR, ALERTS = (
    each["spec"] for each in yaml.safe_load_all((ROOT / "cluster" / "prometheus-operator.yaml").read_text())
)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every PromQL expression of the board."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def variables() -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in BOARD["templating"]["list"]}


# --- the files


def test_the_board_shows_every_gauge_and_asks_for_nothing_that_does_not_exist() -> None:
    ours = {RAY_PREFIX + kind.name for kind in KINDS}
    assert {name for text in expressions() for name in METRIC.findall(text)} == ours | OF_RAY


def test_labels_on_the_board_are_those_of_the_gauges() -> None:
    known = {label for kind in KINDS for label in kind.labels} | {"ip"}
    for panel in panels():
        for target in panel["targets"]:
            for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", target["expr"]):
                assert set(group.split(", ")) <= known, target["expr"]
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known
            assert set(re.findall(r"[{,](\w+)=~?\"", target["expr"])) <= known


def test_every_line_of_a_trial_or_a_search_says_on_which_data() -> None:
    for panel in panels():
        for target in panel["targets"]:
            if "reidsearch" in target["expr"]:
                assert "data" in target["legendFormat"] or panel["type"] == "table", panel["title"]
                assert ", data" in target["expr"]


def test_the_board_is_one_that_grafana_can_load() -> None:
    assert BOARD["uid"] == "reidsearch" and BOARD["schemaVersion"] >= 36 and "id" not in BOARD
    every = BOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in every)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) < 24
    for panel in panels():
        assert panel["description"] and panel["title"] and panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == ["A", "B", "C"][: len(panel["targets"])]


def test_every_variable_is_described_and_every_one_used_is_there() -> None:
    assert all(each["description"] for each in variables().values())
    assert {name for text in expressions() for name in re.findall(r"\$(\w+)", text)} == {"search", "trial"}
    assert set(variables()) == {"datasource", "search", "trial"}


def test_grafana_is_told_where_the_board_is() -> None:
    provisioning = yaml.safe_load((ROOT / "cluster" / "grafana" / "provisioning.yml").read_text())
    [provider] = provisioning["providers"]
    assert provider["type"] == "file" and provider["options"]["path"].startswith("/etc/grafana/")


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    [job] = yaml.safe_load(CONFIGURATION)["scrape_configs"]
    [file] = job["file_sd_configs"][0]["files"]
    assert file == f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: apt-get install prometheus")
def test_prometheus_accepts_its_configuration_and_the_names_of_the_gauges(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    file = tmp_path / "prometheus.yml"
    file.write_text(CONFIGURATION.replace("/tmp/ray", str(tmp_path)))
    checked = subprocess.run([PROMTOOL, "check", "config", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    lines = [
        f"# HELP ray_{kind.name} {kind.meaning}\n# TYPE ray_{kind.name} gauge\nray_{kind.name} 1\n" for kind in KINDS
    ]
    linted = subprocess.run(
        [PROMTOOL, "check", "metrics"], input="".join(lines), capture_output=True, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_alerts_ask_for_gauges_that_there_are_and_pods_are_scraped_as_nodes_are() -> None:
    known = {RAY_PREFIX + kind.name for kind in KINDS}
    (group,) = ALERTS["groups"]
    assert {name for rule in group["rules"] for name in METRIC.findall(rule["expr"])} <= known | {"ray_io_cluster"}
    [job] = yaml.safe_load(CONFIGURATION)["scrape_configs"]
    [endpoint] = MONITOR["podMetricsEndpoints"]
    ours = [{**each, "sourceLabels": each.get("sourceLabels")} for each in endpoint["metricRelabelings"]]
    for there, here in zip(job["metric_relabel_configs"], ours, strict=True):
        assert (there["regex"], there["action"], there.get("source_labels")) == tuple(
            here[key] for key in ("regex", "action", "sourceLabels")
        )


ON_A_POD = 'namespace="lab", ray_io_cluster="first-x", app_kubernetes_io_component="search"'
OF_A_SEARCH = 'namespace="lab", ray_io_cluster="first-x", search="first"'


def check_alerts(folder: Path, minutes: dict[str, str], fires: dict[tuple[str, str], bool]) -> None:
    """Asserts which alerts fire at which moments, with series of a value a minute in promtool's notation."""
    rules = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
    checks = []
    for (alert, moment), expected in fires.items():
        rule = rules[alert]
        where = {"ray_io_cluster": "first-x"} if "ray_io_cluster" in rule["expr"] else {"search": "first"}
        [(label, value)] = where.items()
        summary = rule["annotations"]["summary"].replace(f"{{{{ $labels.{label} }}}}", value)
        firing = {
            "exp_labels": {"namespace": "lab", **where, **rule["labels"]},
            "exp_annotations": {**rule["annotations"], "summary": summary},
        }
        checks.append({"eval_time": moment, "alertname": alert, "exp_alerts": [firing] * expected})
    series = [{"series": name, "values": values} for name, values in minutes.items()]
    case = {"interval": "1m", "input_series": series, "alert_rule_test": checks}
    (folder / "rules.yml").write_text(yaml.safe_dump(ALERTS))
    (folder / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [case]}))
    command = [str(PROMTOOL), "test", "rules", "test.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


UP, SESSION = f"up{{{ON_A_POD}}}", f"ray_reidsearch_search_session{{{OF_A_SEARCH}}}"
REPORTED = f'ray_reidsearch_trial_last_report_timestamp_seconds{{{OF_A_SEARCH}, trial="t0000"}}'
FAILED = f'ray_reidsearch_search_failed_attempts{{{OF_A_SEARCH}, failure="error"}}'
UNSENT = f"ray_reidsearch_search_unsent_events{{{OF_A_SEARCH}}}"
# A search of two hours, which reports every ten minutes; its pods go two minutes after it.
WELL = {
    UP: "1x121 stale",
    SESSION: "1x119 stale",
    REPORTED: " ".join(str(600 * number) for number in range(12) for _ in range(10)) + " stale",
    FAILED: "0x119 stale",
    UNSENT: "0+1x10 10-1x10 0x98 stale",
}


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: apt-get install prometheus")
def test_no_alert_fires_while_a_search_runs_and_after_it_has_ended(tmp_path: Path) -> None:
    alerts = [rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]]
    moments = ("5m", "65m", "119m", "121m", "125m", "150m", "300m")
    check_alerts(tmp_path, WELL, dict.fromkeys(itertools.product(alerts, moments), False))


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: apt-get install prometheus")
@pytest.mark.parametrize(
    ("alert", "changed", "moment"),
    [
        ("ReidsearchNoDriver", {SESSION: "1x59 stale", UP: "1x300"}, "85m"),
        ("ReidsearchNoProgress", {REPORTED: "600x119", SESSION: "1x119"}, "80m"),
        ("ReidsearchAttemptsFail", {FAILED: "0+1x119"}, "65m"),
        ("ReidsearchMlflowBehind", {UNSENT: "5+20x119"}, "65m"),
    ],
)
def test_an_alert_fires_when_there_is_something_to_look_at(
    alert: str, changed: dict[str, str], moment: str, tmp_path: Path
) -> None:
    check_alerts(tmp_path, WELL | changed, {(alert, moment): True})


def test_the_page_about_watching_has_the_table_of_all_gauges() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    for kind in KINDS:
        labels = ", ".join(f"`{label}`" for label in kind.labels[2:]) or "-"
        assert f"| `ray_{kind.name}` | {labels} | {kind.meaning} |" in page
    assert len(re.findall(r"^\| `ray_reidsearch_", page, re.MULTILINE)) == len(KINDS)


# --- a search that runs


class Watched(NamedTuple):
    """A search that runs, and what watches it."""

    search: Search
    prometheus: Prometheus
    dashboard: str
    token: str

    def ask(self, path: str) -> Any:
        """What the dashboard answers to one who has the token."""
        request = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """Trials of some 20 s each, of which one is over."""
    # Ray's sockets need a short path, and the file with the nodes' addresses one of our own.
    folder = Path(tempfile.mkdtemp(prefix="watch-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        search = Search(folder / "runs", "watched")
        settings = (f"trainer.optim.epochs={EPOCHS}", "replicates.seeds=0", "algorithm.name=random")
        search.launch("--trials", "100", *(word for setting in settings for word in ("--set", setting)))
    try:
        # Ray's own folder: see `orchestrator.cluster.ray`.
        discovery = folder / f"reidsearch-{os.getuid()}" / "ray" / DISCOVERY
        configuration = CONFIGURATION.replace(f"/tmp/ray/{DISCOVERY}", str(discovery))
        assert configuration != CONFIGURATION
        search.until(lambda status: status["counts"]["completed"] >= 1)
        found = re.search(r"http://127\.0\.0\.1:\d+", search.log.read_text())
        assert found is not None
        with prometheus(configuration, folder / "prometheus") as server:
            yield Watched(search, server, found[0], own_token())
    finally:
        assert search.process is not None
        if search.process.poll() is None:
            search.process.send_signal(signal.SIGINT)
            search.wait()
        shutil.rmtree(folder)


def of_everything(expression: str) -> str:
    """The expression as Grafana sends it with all searches and all trials chosen."""
    return expression.replace("$search", ".*").replace("$trial", ".*")


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus here: apt-get install prometheus")
def test_every_expression_of_the_board_gives_data_of_a_running_search(watched: Watched) -> None:
    def missing() -> list[str]:
        return [each for each in map(of_everything, expressions()) if not watched.prometheus.query(each)]

    def running() -> list[str]:
        found = watched.prometheus.query('ray_reidsearch_search_trials{state="running"}')
        return [series["value"][1] for series in found]

    wait_until(lambda: not missing(), lambda: str(missing()), pause=1)
    # Between two trials one is not running yet.
    wait_until(lambda: running() == ["2"], lambda: str(running()), pause=1)
    [best] = watched.prometheus.query("ray_reidsearch_search_best")
    assert best["metric"]["search"] == "watched"
    assert best["metric"]["data"] == "SYNTHETIC mini-mars"
    assert 0 < float(best["value"][1]) <= 1
    assert watched.prometheus.label_values("search", "ray_reidsearch_search_trials") == ["watched"]
    # Ray counts tasks by their names, of which each attempt has one of its own.
    assert watched.prometheus.query("ray_tasks")
    assert not watched.prometheus.query('ray_tasks{Name=~"watched/.*"}')
    # No token was sent: of Ray's servers these ask for none. A busy one may have missed a scrape.
    wait_until(lambda: {target["health"] for target in watched.prometheus.targets()} == {"up"}, pause=1)


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus here: apt-get install prometheus")
def test_ray_shows_the_search_and_its_trials_by_their_names(watched: Watched) -> None:
    [job] = watched.ask("/api/jobs/")
    storage = str(watched.search.storage)
    assert job["metadata"] == {
        "job_name": "reidsearch watched",
        "search": "watched",
        "space": "smoke",
        "data": "SYNTHETIC mini-mars",
        "storage": storage,
        "mlflow": f"sqlite:///{storage}/mlflow.db",
    }
    actors = watched.ask("/api/v0/actors?detail=true")["data"]["result"]["result"]
    assert {actor["repr_name"] for actor in actors if actor["state"] == "ALIVE"} == {"watched"}
    tasks = watched.ask("/api/v0/tasks?detail=true&limit=10000")["data"]["result"]["result"]
    first = "watched/t0000 learning_rate=0.001 identities=4 attention_gate=softmax"
    assert first in {task["name"] for task in tasks}
    status = watched.search.status()
    running = {trial["trial"] for trial in status["trials"] if trial["status"] == "running"}
    assert watched.search.process is not None
    below = psutil.Process(watched.search.process.pid).children(recursive=True)
    titles = [" ".join(each.cmdline()) for each in below if is_attempt(each)]
    known = running | {f"t{len(status['trials']):04d}"}  # one may have started since
    assert {title.split()[0] for title in titles} <= {f"reid:watched/{trial}" for trial in known}
    # A long title may be cut.
    assert titles and all(re.match(r"\S+ learning_rate=[\d.e-]+ identities=\d", title) for title in titles), titles
    log = (watched.search.folder / "logs" / "attempts.log").read_text()
    assert re.search(r"^\S+Z \d+ watched/t0001 attempt 1$", log, re.MULTILINE)


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.skipif(
    not (PROMETHEUS and CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver"
)
def test_a_browser_with_the_token_shows_the_job_its_actors_and_its_trials(watched: Watched, tmp_path: Path) -> None:
    from dashboard import dashboard_pages

    pictures = Path(os.environ.get("SCREENSHOTS", tmp_path))
    pages = dashboard_pages(watched.dashboard, watched.token, "reidsearch watched", "watched/", pictures)
    assert "watched" not in pages["without"]
    assert "SUCCEEDED" not in pages["jobs"]
    assert pages["actors"].count("watched") >= 2
    assert "watched/t0000 learning_rate=0.001 identities=4 attention_gate=softmax" in pages["trials"]


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus here: apt-get install prometheus")
def test_mlflow_has_the_load_of_the_machine_epoch_by_epoch(watched: Watched) -> None:
    assert watched.search.process is not None
    watched.search.process.send_signal(signal.SIGINT)
    watched.search.wait()
    [run] = mlflow_runs(watched.search.storage)["t0000"]
    assert run.data.tags["node"] == os.uname().nodename
    points = metric_points(watched.search.storage, run.info.run_id, "system/cpu_utilization_percentage")
    assert [step for step, _, _ in points] == list(range(1, EPOCHS + 1))
    assert all(0 <= value <= 100 for _, value, _ in points)
