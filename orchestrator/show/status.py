"""What is known of a search, for machines and for people, read from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from orchestrator.algorithms.fallbacks import proposals
from orchestrator.algorithms.replicates import Confirmation, best_configuration, confirmations
from orchestrator.algorithms.scoring import pareto_front
from orchestrator.space.objective import Objective
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.cache import storage_name
from orchestrator.stores.loading import LoadedSearch, load_search
from orchestrator.study.study import Finalization, Study, Trial, TrialStatus, UseOfTestSet


def read_status(folder: SearchFolder) -> dict[str, Any]:
    """The search as one document; see the README for its keys. Shares and precisions are in [0, 1].

    Raises:
        JournalError: the journal is damaged.
        SearchError: `search.yaml` is damaged.
    """
    return status_document(load_search(folder))


def status_document(search: LoadedSearch) -> dict[str, Any]:
    """The document of a search that was read."""
    study, space, state = search.study, search.space, search.state
    trials = sorted(study.trials.values(), key=lambda trial: trial.index)
    configurations = [_trial_document(trial, running=state == "running") for trial in trials]
    repeats = [_trial_document(trial, running=state == "running") for trial in study.replicates.values()]
    return {
        "search": search.name,
        "state": state,
        "reason": study.reason,
        "synthetic": search.description.synthetic,
        "storage": storage_name(search.folder.path.parent),
        "objective": space.objective.model_dump(mode="json"),
        "budget": space.budget.trials,
        "replicates": space.replicates.model_dump(mode="json"),
        "proposals": _proposals_document(study),
        "counts": _counts(configurations),
        "repeats": _counts(repeats),
        "best": _best_document(study, space.objective),
        "confirmations": [
            {"trial": each.trial, "values": each.values, **_confirmation_document(each)}
            for each in confirmations(study, space.objective)
        ],
        "front": _front_document(study, space.objective),
        "trials": configurations + repeats,
        "finalizations": [_finalization_document(each) for each in study.finalizations],
        "test_set_uses": [_use_document(each) for each in study.test_set_uses],
        "finals": [
            {**_trial_document(trial, running=state == "running"), **_test_document(trial)}
            for trial in study.finals.values()
        ],
    }


def _finalization_document(finalization: Finalization) -> dict[str, Any]:
    """That the test set was opened; `time` is in seconds since 1970 UTC."""
    asked = finalization.asked
    return {
        "number": asked.finalization,
        "time": finalization.moment,
        "by": asked.by,
        "leaders": asked.leaders,
        "seeds": asked.seeds,
        "epochs": asked.epochs,
        "evaluation": asked.evaluation,
    }


def _use_document(use: UseOfTestSet) -> dict[str, Any]:
    """That the test set was opened for one trial's network; `time` is in seconds since 1970 UTC."""
    return {
        "time": use.moment,
        "by": use.asked.by,
        "trial": use.asked.trial,
        "use": use.asked.use,
        "weights": use.asked.weights,
    }


def _test_document(trial: Trial) -> dict[str, Any]:
    """What the test set says of a trial's network."""
    test = trial.test
    return {
        "finalization": trial.finalization,
        "test": None if test is None else test.metrics(),
        "protocol": None if test is None else test.protocol,
        "sampling": None if test is None else test.sampling,
        "queries": None if test is None else test.queries,
        "dropped_queries": None if test is None else test.dropped_queries,
    }


def _proposals_document(study: Study) -> dict[str, Any]:
    """Who proposed the trials that the model was to propose."""
    found = proposals(study)
    return {
        "by_model": found.by_model,
        "random": found.random,
        "reason": found.reason or None,
        "fails": found.fails,
        "text": str(found) if found.fails else None,
    }


def _counts(documents: Sequence[Mapping[str, Any]]) -> dict[TrialStatus, int]:
    """Number of trials in each status, all statuses named."""
    found = Counter(document["status"] for document in documents)
    return {status: found[status] for status in get_args(TrialStatus)}


def _best_document(study: Study, objective: Objective) -> dict[str, Any] | None:
    best = best_configuration(study, objective)
    if best is None:
        return None
    return {
        "trial": best.trial.key,
        "value": best.score.value,
        "metrics": best.score.result.metrics(),
        "params": best.trial.params,
        **_confirmation_document(best.confirmation),
    }


def _front_document(study: Study, objective: Objective) -> list[dict[str, Any]]:
    names = [term.metric for term in objective.terms]
    return [
        {"trial": trial.key, "values": dict(zip(names, found.values, strict=True))}
        for trial, found in pareto_front(study, objective)
    ]


def _confirmation_document(found: Confirmation | None) -> dict[str, Any]:
    """What the fresh seeds say; all of it is None without one."""
    return {
        "confirmed": found is not None and found.confirmed,
        "seeds": 0 if found is None else len(found.values),
        "lost": 0 if found is None else found.lost,
        "mean": None if found is None else found.mean,
        "standard_deviation": None if found is None else found.standard_deviation,
        "interval": None if found is None else found.interval,
        "means": None if found is None else found.metrics,
    }


def latest_metrics(trial: Trial) -> dict[str, float]:
    """The figures of the trial's last epoch, and those of its last evaluation."""
    evaluated = [result for result in trial.results if result.validation is not None]
    return {
        name: value for result in [*evaluated[-1:], *trial.results[-1:]] for name, value in result.metrics().items()
    }


def _trial_document(trial: Trial, *, running: bool) -> dict[str, Any]:
    # A trial that was running when its driver was killed waits for a resume.
    status = "pending" if trial.status == "running" and not running else trial.status
    return {
        "trial": trial.key,
        "status": status,
        "attempts": trial.attempts,
        "epoch": trial.epoch,
        "metrics": latest_metrics(trial),
        "params": trial.params,
        "ax_index": trial.index,
        "source": trial.source,
        "note": trial.note,
        "seed": trial.seed,
        "repeats": trial.repeats,
        "fold": trial.fold,
        "mlflow_run_id": trial.mlflow_run_id,
        "reason": trial.reason,
    }
