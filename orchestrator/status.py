"""What is known of a search, for machines and for people, read from its folder alone."""

from __future__ import annotations

from typing import Any

from orchestrator.description import SearchDescription, read_description
from orchestrator.extension import current_space
from orchestrator.folder import SearchFolder
from orchestrator.journal import read_journal
from orchestrator.lease import current_holder
from orchestrator.scores import ranked
from orchestrator.study import SearchState, Study, Trial, fold_records


def read_status(folder: SearchFolder) -> dict[str, Any]:
    """The search as one document; see the README for its keys. Shares and precisions are in [0, 1].

    Raises:
        JournalError: the journal is damaged.
        SearchError: `search.yaml` is damaged.
    """
    study = fold_records(read_journal(folder.journal))
    holder = current_holder(folder.lease)
    return status_document(folder, read_description(folder.description), study, driven=holder is not None)


def status_document(
    folder: SearchFolder, description: SearchDescription, study: Study, *, driven: bool
) -> dict[str, Any]:
    """The document of a study; `driven` says whether a live process drives it."""
    space = current_space(description, study)
    state: SearchState = study.ended or ("running" if driven else "interrupted")
    trials = sorted(study.trials.values(), key=lambda trial: trial.index)
    documents = [_trial_document(trial, running=state == "running") for trial in trials]
    best = ranked(study, space.objective)
    counts = dict.fromkeys(("pending", "running", "completed", "stopped", "failed"), 0)
    for document in documents:
        counts[document["status"]] += 1
    return {
        "search": description.search,
        "state": state,
        "reason": study.reason,
        "synthetic": description.synthetic,
        "storage": str(folder.path.parent),
        "objective": space.objective.model_dump(mode="json"),
        "budget": space.budget.trials,
        "counts": counts,
        "best": None
        if not best
        else {
            "trial": best[0][0].key,
            "value": best[0][1].value,
            "metrics": best[0][1].result.metrics(),
            "params": best[0][0].params,
        },
        "trials": documents,
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
        "mlflow_run_id": trial.mlflow_run_id,
        "reason": trial.reason,
    }
