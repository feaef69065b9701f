"""The best configuration of a status document in words, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.base.formatting import number, percent
from orchestrator.space.objective import first_metric

UNCONFIRMED = "one seed, not confirmed"


def best_value(document: Mapping[str, Any]) -> str:
    """The objective's value of the best configuration and its trial, in a few words."""
    best, metric = document["best"], first_metric(document["objective"]["metric"])
    if best["confirmed"]:
        return f"{metric} {_mean(best)} ({best['trial']}, {_seeds(best)})"
    return f"{metric} {100 * best['value']:.1f} ({best['trial']}, {UNCONFIRMED})"


def best_lines(document: Mapping[str, Any]) -> list[str]:
    """The best configuration with its settings, and what the fresh seeds say; nothing before a trial is completed."""
    best, metric = document["best"], first_metric(document["objective"]["metric"])
    if not best:
        return []
    settings = [f"{path} = {number(value)}" for path, value in best["params"].items()]
    repeated = confirmation_lines(document)
    if not best["confirmed"]:
        head = f"{best['trial']}: validation {_figures(best['metrics'])} ({UNCONFIRMED})"
        return [head, *settings, *repeated.values()]
    means = f"validation {_figures(best['means'])} (means; {metric} {100 * best['value']:.1f} with the first seed)"
    return [repeated.pop(best["trial"]), means, *settings, *repeated.values()]


def best_mark(document: Mapping[str, Any]) -> str:
    """What a table says beside the best trial: all that its last column has room for."""
    return "best" if document["best"]["confirmed"] else "best?"


def confirmation_lines(document: Mapping[str, Any]) -> dict[str, str]:
    """What the fresh seeds say of each configuration that was repeated, by its trial, the best first."""
    metric = first_metric(document["objective"]["metric"])
    return {each["trial"]: f"{each['trial']}: {metric} {_confirmation(each)}" for each in document["confirmations"]}


def _confirmation(each: Mapping[str, Any]) -> str:
    text = f"{_mean(each)} over {_seeds(each)}"
    if each["interval"] is not None:
        low, high = each["interval"]
        text += f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    return text + ("" if each["confirmed"] else ", not confirmed")


def _mean(each: Mapping[str, Any]) -> str:
    """The mean over fresh seeds and its standard deviation, in per cent: `41.2 ± 2.1`."""
    deviation = each["standard_deviation"]
    return f"{100 * each['mean']:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def _seeds(each: Mapping[str, Any]) -> str:
    """How many fresh seeds that is over: `3 seeds`, or `2 of 3 seeds` where one was lost."""
    seeds, asked = each["seeds"], each["seeds"] + each["lost"]
    return (f"{seeds} of {asked}" if asked > seeds else f"{seeds}") + f" seed{'s' * (asked > 1)}"


def _figures(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name} {percent(metrics, name)}" for name in ("mAP", "rank1", "rank5", "rank20"))
