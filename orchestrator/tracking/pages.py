"""Addresses of MLflow's pages, and REST calls to its server without MLflow's client, which takes seconds to import."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.study.description import EXPERIMENT
from orchestrator.tracking.content import CMC, SHEETS


def call(server: str, path: str, body: dict[str, str] | None = None, *, patience: float) -> Any:
    """What the server answers; `body` is posted.

    Who asks is said as MLflow's own client says it: by the address or MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN.

    Raises:
        EnvironmentProblem: it does not answer within so many seconds, or refuses.
    """
    request = urllib.request.Request(
        f"{without_password(server).rstrip('/')}/api/2.0/mlflow/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **_credentials(server)},
    )
    what = path.partition("?")[0]
    try:
        with urllib.request.urlopen(request, timeout=patience) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise EnvironmentProblem(f"{without_password(server)}: refuses {what} ({error.code} {error.reason})") from error
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"{without_password(server)}: does not answer ({error})") from error


def without_password(uri: str) -> str:
    """The address without the user and the password that it may hold."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _credentials(server: str) -> dict[str, str]:
    parts = urlsplit(server)
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if user:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


ASK_PATIENCE_S = 3.0


def comparison_page(uri: str, runs: Sequence[str], experiment: str) -> str:
    """The page of the server that compares the runs."""
    listed, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(runs), [experiment]))
    return f"{without_password(uri).rstrip('/')}/#/compare-runs?runs={listed}&experiments={experiments}"


def experiment_of(uri: str, run: str) -> str | None:
    """The experiment that a run of the server belongs to; None where the server does not say."""
    try:
        found = call(uri, f"runs/get?run_id={quote(run)}", patience=ASK_PATIENCE_S)
        return str(found["run"]["info"]["experiment_id"])
    except (EnvironmentProblem, KeyError, TypeError):
        return None


VIEW_TAG = "mlflow.sharedViewState."
KEY_LENGTH = 16
SECTION, PICTURES = "reidsearch", "reidsearch-pictures"
SHOWN_RUNS = 100
SET_PATIENCE_S = 30.0
METRICS = ("best/mAP", "best/rank1", "best/rank5", "best/reranked/mAP", "best/epoch")


def view_of(search: str | None, parameters: Sequence[str], *, grouped: bool = False) -> dict[str, Any]:
    """What the page shows: all runs of the search (of all searches where None), the best mAP first.

    With `grouped` a trial and its repeats are one: charts show their means. MLflow then draws no pictures.
    """
    columns = [
        *("attributes.`Dataset`", "tags.`trial`", "tags.`source`"),
        *([] if search else ["tags.`search`", "tags.`row`"]),
        *(f"metrics.`{name}`" for name in METRICS),
        *(f"params.`{path}`" for path in parameters),
    ]
    trials = "tags.trial LIKE 't%'"
    return {
        "searchFilter": trials if search is None else f"tags.search = '{search}' and {trials}",
        "orderByKey": "metrics.`best/mAP`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        # Our sections come first; MLflow adds a chart for every other metric.
        "compareRunSections": [
            _section(SECTION, "Comparison"),
            _section(PICTURES, "Pictures" + ": remove “Group by” to see them" * grouped),
        ],
        "compareRunCharts": list(_charts(parameters)),
        "isAccordionReordered": True,
        **(GROUPED if grouped else {}),
    }


GROUPED = {
    "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "configuration"}]},
    "useGroupedValuesInCharts": True,
}


def _section(key: str, name: str) -> dict[str, Any]:
    return {"uuid": key, "name": name, "display": True, "isReordered": False, "deleted": False, "columns": 2}


def _charts(parameters: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Best mAP, CMC curves and learning curves, what parameters lead to, and the same queries side by side."""
    yield _chart("BAR", "best/mAP", metricKey="best/mAP")
    yield _chart("LINE", "CMC: share of queries by rank", metricKey=CMC)
    yield _chart("LINE", "mAP by epoch", metricKey="mAP")
    if parameters:
        yield _chart("PARALLEL", None, selectedParams=list(parameters), selectedMetrics=["best/mAP"], showAllRuns=True)
    for key in SHEETS:
        yield _chart("IMAGE", key, imageKeys=[key], step=0, showRunParams=False, metricSectionId=PICTURES)


def _chart(kind: str, name: str | None, **settings: Any) -> dict[str, Any]:
    """A chart as MLflow's page describes its own."""
    chart = {"type": kind, "uuid": f"{SECTION}-{name or kind}", "metricSectionId": SECTION, **settings}
    if kind == "LINE":
        chart |= {"xAxisKey": "step", "lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear"}
        chart |= {"range": {}, "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False}
        chart |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "selectedXAxisMetricKey": ""}
    named = {} if name is None else {"displayName": name}
    return {**chart, **named, "runsCountToCompare": SHOWN_RUNS, "deleted": False, "isGenerated": False}


def comparison_view(server: str, view: dict[str, Any], experiment_name: str = EXPERIMENT) -> str:
    """The address of the page of an experiment, once the server knows what it shows.

    Raises:
        EnvironmentProblem: the server does not answer, or holds no search.
    """
    text = json.dumps(view, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
    found = call(server, f"experiments/get-by-name?experiment_name={quote(experiment_name)}", patience=SET_PATIENCE_S)
    experiment = str(found["experiment"]["experiment_id"])
    tag = {"experiment_id": experiment, "key": f"{VIEW_TAG}{key}", "value": text}
    call(server, "experiments/set-experiment-tag", tag, patience=SET_PATIENCE_S)
    page = f"/#/experiments/{experiment}/runs?viewStateShareKey={key}&compareRunsMode=CHART"
    return without_password(server).rstrip("/") + page
