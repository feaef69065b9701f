"""The page of MLflow that compares the trials of a search, with runs and columns chosen.

What its page shows, MLflow keeps in the browser or, where a page is shared, in a tag of the experiment: an address
names the tag, whose name derives from what it holds, so that opening the page again adds none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from orchestrator.tracking.content import CMC, SHEETS
from orchestrator.tracking.database import EXPERIMENT
from orchestrator.tracking.rest import call, without_password

VIEW_TAG = "mlflow.sharedViewState."
KEY_LENGTH = 16
SECTION = "reidsearch"
SHOWN_RUNS = 100
PATIENCE_S = 30.0
METRICS = ("best/mAP", "best/rank1", "best/rank5", "best/reranked/mAP", "best/epoch")


def view_of(search: str | None, parameters: Sequence[str]) -> dict[str, Any]:
    """What the page shows: all runs of the search (of all searches where None), the best mAP first."""
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
        "compareRunSections": [_section()],
        "compareRunCharts": list(_charts(parameters)),
        "isAccordionReordered": True,
    }


def _section() -> dict[str, Any]:
    """Of the charts that come first; MLflow adds one for every other figure."""
    return {"uuid": SECTION, "name": "Comparison", "display": True, "isReordered": False, "deleted": False}


def _charts(parameters: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Best mAP, CMC curves and learning curves, what parameters lead to, and the same queries side by side."""
    yield _chart("BAR", "best/mAP", metricKey="best/mAP")
    yield _chart("LINE", "CMC: share of queries by rank", metricKey=CMC)
    yield _chart("LINE", "mAP by epoch", metricKey="mAP")
    if parameters:
        yield _chart("PARALLEL", None, selectedParams=list(parameters), selectedMetrics=["best/mAP"], showAllRuns=True)
    for key in SHEETS:
        yield _chart("IMAGE", key, imageKeys=[key], step=0, showRunParams=False)


def _chart(kind: str, name: str | None, **settings: Any) -> dict[str, Any]:
    """A chart as MLflow's page describes its own."""
    chart = {"type": kind, "uuid": f"{SECTION}-{name or kind}", "metricSectionId": SECTION, **settings}
    if kind == "LINE":
        chart |= {"xAxisKey": "step", "lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear"}
        chart |= {"range": {}, "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False}
        chart |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "selectedXAxisMetricKey": ""}
    named = {} if name is None else {"displayName": name}
    return {**chart, **named, "runsCountToCompare": SHOWN_RUNS, "deleted": False, "isGenerated": False}


def comparison_view(server: str, view: dict[str, Any]) -> str:
    """The address of the page, once the server knows what it shows.

    Raises:
        EnvironmentProblem: the server does not answer, or holds no search.
    """
    text = json.dumps(view, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
    found = call(server, f"experiments/get-by-name?experiment_name={quote(EXPERIMENT)}", patience=PATIENCE_S)
    experiment = str(found["experiment"]["experiment_id"])
    tag = {"experiment_id": experiment, "key": f"{VIEW_TAG}{key}", "value": text}
    call(server, "experiments/set-experiment-tag", tag, patience=PATIENCE_S)
    page = f"/#/experiments/{experiment}/runs?viewStateShareKey={key}&compareRunsMode=CHART"
    return without_password(server).rstrip("/") + page
