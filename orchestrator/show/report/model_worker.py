"""A child process that fits Ax's model to a search and prints what it says, one card per line of JSON.

As a process of its own it keeps Ax's import out of every other command, can be given a deadline, and can fail without
harming the report. Its input is one JSON object on standard input: see `orchestrator.show.report.model.model_request`.

Importance and cross-validation are Ax's own analyses. Slices and contours ask Ax's model for its prediction on a grid:
Ax's own plots of them predict every pair of a sampled x and a sampled y, which with 200 trials are 44,100 points each,
and refuse choices without an order.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from ax.analysis.plotly.cross_validation import CrossValidationPlot
from ax.analysis.plotly.sensitivity import SensitivityAnalysisPlot
from ax.api.client import Client
from ax.core.analysis_card import AnalysisCardBase, ErrorAnalysisCard, NotApplicableStateAnalysisCard

from orchestrator.algorithms.ax_worker import told_client
from trainer.child import die_with_parent
from trainer.formatting import first_line


class CardFailed(Exception):
    """Ax did not make the card; the message says why."""


def cards(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each card as `{"card", "about", "data"}`, or with `"skipped"` and why in place of the data.

    What is the most important decides which slices and contours there are.
    """
    client = told_client(request["question"])
    torch.manual_seed(request["question"]["seed"])
    first, *others = request["metrics"]
    found = _card("importance", [first], partial(importance, client))
    yield found
    for metric in others:
        yield _card("importance", [metric], partial(importance, client))
    for metric in request["metrics"]:
        yield _card("fit", [metric], partial(fit, client))
    important = found.get("data", {}).get("names") or list(request["grids"])
    for name in important[: request["slices"]]:
        yield _card("slice", [name], partial(slice_of, client, request, first))
    for x, y in pairs(important, request["contours"]):
        yield _card("contour", [x, y], partial(contour, client, request, first))


def pairs(names: Sequence[str], most: int) -> list[tuple[str, str]]:
    """The pairs of the names, those of the first names first."""
    found = [(names[j], names[i]) for i in range(len(names)) for j in range(i)]
    return found[:most]


def _card(kind: str, about: list[str], make: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    try:
        data = make(*about)
        json.dumps(data, allow_nan=False)
    except Exception as error:  # noqa: BLE001  # any failure of Ax costs one card and is reported
        traceback.print_exc()
        return {"card": kind, "about": about, "skipped": _described(error)}
    return {"card": kind, "about": about, "data": data}


def importance(client: Client, metric: str) -> dict[str, Any]:
    """Total-order Sobol indices, scaled to a sum of 1, with the sign of the mean slope; the largest first."""
    (card,) = _leaves(client.compute_analyses([SensitivityAnalysisPlot(metric, "total", None)], display=False))
    rows = sorted(
        zip(card.df["parameter_name"].tolist(), card.df["sensitivity"].tolist(), strict=True),
        key=lambda row: -abs(row[1]),
    )
    return {"names": [name for name, _ in rows], "values": [float(value) for _, value in rows]}


def fit(client: Client, metric: str) -> dict[str, Any]:
    """Every observed value beside its prediction by the model that was told all others, its settings kept."""
    analysis = CrossValidationPlot([metric], untransform=True)
    card = _leaves(client.compute_analyses([analysis], display=False))[0]
    observed, predicted, margin = (
        card.df[name].astype(float).tolist() for name in ("observed", "predicted", "predicted_95_ci")
    )
    return {"observed": observed, "predicted": predicted, "margin": margin, "r2": r_squared(observed, predicted)}


def r_squared(observed: Sequence[float], predicted: Sequence[float]) -> float | None:
    """Share of the variance that the predictions explain; None where nothing varies."""
    mean = sum(observed) / len(observed)
    total = sum((value - mean) ** 2 for value in observed)
    missed = sum((value - told) ** 2 for value, told in zip(observed, predicted, strict=True))
    return 1 - missed / total if total > 0 else None


def slice_of(client: Client, request: dict[str, Any], metric: str, name: str) -> dict[str, Any]:
    """Predictions along one parameter, the others as in the best configuration."""
    grid = request["grids"][name]["slice"]
    told = client.predict([{**request["centre"], name: value} for value in grid])
    return {"x": grid, "mean": [each[metric][0] for each in told], "sem": [each[metric][1] for each in told]}


def contour(client: Client, request: dict[str, Any], metric: str, x: str, y: str) -> dict[str, Any]:
    """Predictions over two parameters, the others as in the best configuration; rows are values of y."""
    across, up = request["grids"][x]["contour"], request["grids"][y]["contour"]
    told = client.predict([{**request["centre"], x: left, y: low} for low in up for left in across])
    means = [each[metric][0] for each in told]
    return {"x": across, "y": up, "mean": [means[at : at + len(across)] for at in range(0, len(means), len(across))]}


def _leaves(found: Sequence[AnalysisCardBase]) -> list[Any]:
    """The cards of groups of cards.

    Raises:
        CardFailed: one of them only says why it could not be made.
    """
    flat = [leaf for card in found for leaf in card.flatten()]
    for card in flat:
        if isinstance(card, ErrorAnalysisCard | NotApplicableStateAnalysisCard):
            raise CardFailed(_last_line(card.blob))
    return flat


def _last_line(text: str) -> str:
    """Of a traceback, its message."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "Ax gives no reason"


def _described(error: Exception) -> str:
    try:
        return first_line(error) if isinstance(error, CardFailed) else f"{type(error).__name__}: {first_line(error)}"
    except Exception:  # noqa: BLE001  # some of Ax's errors cannot be put into words
        return type(error).__name__


def main() -> None:
    """Answers the request on standard input."""
    die_with_parent()
    torch.set_num_threads(1)
    # Whatever libraries print belongs into the log; standard output carries cards only.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for card in cards(json.load(sys.stdin)):
        print(json.dumps(card, allow_nan=False), file=answers, flush=True)


if __name__ == "__main__":
    main()
