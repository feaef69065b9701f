"""A child process that fits Ax's model to a search and sends its results as cards.

In a process of its own Ax stays out of the imports of every other command, has a deadline, and can fail without harm to
the report. The request is that of `orchestrator.show.report.model.model_request`.

Importance and cross-validation are Ax's own analyses. Slices and contours are the model's predictions on a grid: Ax's
own plots predict every pair of a sampled x and a sampled y, 44,100 points each with 200 trials, and refuse choices
without an order.
"""

from __future__ import annotations

import json
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
from trainer.child import Parent
from trainer.formatting import first_line


class CardFailed(Exception):
    """Ax did not make the card; the message says why."""


def cards(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each card as the fields of `orchestrator.show.report.model.Card`; one that fails says why instead of its data.

    The most important parameters have slices and contours.
    """
    client = told_client(request["question"])
    torch.manual_seed(request["question"]["seed"])
    first, *others = request["metrics"]
    found = _card("importance", [first], partial(importance, client, request))
    yield found
    for metric in others:
        yield _card("importance", [metric], partial(importance, client, request))
    for metric in request["metrics"]:
        yield _card("fit", [metric], partial(fit, client))
    important = found["data"].get("names") or list(request["grids"])
    for name in important[: request["slices"]]:
        yield _card("slice", [name], partial(slice_of, client, request, first))
    for x, y in pairs(important, request["contours"]):
        yield _card("contour", [x, y], partial(contour, client, request, first))


def pairs(names: Sequence[str], most: int) -> list[tuple[str, str]]:
    """Pairs of the names, those of the first names first."""
    found = [(names[j], names[i]) for i in range(len(names)) for j in range(i)]
    return found[:most]


def _card(kind: str, about: list[str], make: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    card = {"kind": kind, "about": about, "data": {}, "skipped": ""}
    try:
        data = make(*about)
        json.dumps(data, allow_nan=False)
    except Exception as error:  # noqa: BLE001  # any failure of Ax costs one card and is reported
        traceback.print_exc()
        return card | {"skipped": _described(error)}
    return card | {"data": data}


def importance(client: Client, request: dict[str, Any], metric: str) -> dict[str, Any]:
    """Total-order Sobol indices, scaled to a sum of 1, with the sign of the mean slope; the largest first."""
    if metric in request["flat"]:  # they would be NaN
        raise CardFailed("all trials have the same value")
    (card,) = _leaves(client.compute_analyses([SensitivityAnalysisPlot(metric, "total", None)], display=False))
    rows = sorted(
        zip(card.df["parameter_name"].tolist(), card.df["sensitivity"].tolist(), strict=True),
        key=lambda row: -abs(row[1]),
    )
    return {"names": [name for name, _ in rows], "values": [float(value) for _, value in rows]}


def fit(client: Client, metric: str) -> dict[str, Any]:
    """Every observed value beside its prediction from all others; the model's hyperparameters are not fitted again."""
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
    """The single cards of Ax's groups of cards.

    Raises:
        CardFailed: Ax gives an error in place of a card.
    """
    flat = [leaf for card in found for leaf in card.flatten()]
    for card in flat:
        if isinstance(card, ErrorAnalysisCard | NotApplicableStateAnalysisCard):
            raise CardFailed(_last_line(card.blob))
    return flat


def _last_line(text: str) -> str:
    """The message at the end of a traceback."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "Ax gives no reason"


def _described(error: Exception) -> str:
    try:
        return first_line(error) if isinstance(error, CardFailed) else f"{type(error).__name__}: {first_line(error)}"
    except Exception:  # noqa: BLE001  # some of Ax's errors cannot be put into words
        return type(error).__name__


def main(parent: Parent) -> None:
    """Answers requests with one message per card."""
    torch.set_num_threads(1)
    for request in parent:
        for card in cards(request):
            parent.send(card)
