"""Ray Tune, set up to do what the searcher says and to keep nothing that is read again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from orchestrator.cluster.names import named_after, tune_name
from orchestrator.cluster.resources import Allocation
from orchestrator.runner.scheduler import JournalScheduler
from orchestrator.runner.searcher import StopWith, TuneSearcher


def tuner_of(
    searcher: TuneSearcher, trainable: Any, share: Allocation, *, search: str, session: int, state: Path
) -> Any:
    """The `tune.Tuner` of one session.

    Args:
        searcher: decides everything.
        trainable: runs an attempt.
        share: what a trial gets, and how many run at once.
        search: name of the search.
        session: its number, from 1.
        state: folder for what Tune writes.
    """
    keep_secrets()
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(share.concurrent)
    per_trial = {"cpu": share.cpus, "gpu": share.gpus} | ({"memory": share.memory} if share.memory else {})
    return tune.Tuner(
        tune.with_resources(named_after(search, trainable), per_trial),
        # A reused worker saves the seconds that a new one needs; attempts are processes of their own anyway.
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=JournalScheduler(searcher),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: tune_name(trial.config),
            trial_dirname_creator=lambda trial: tune_name(trial.config),
        ),
        # Always a new experiment: Tune's own state is never read again.
        run_config=tune.RunConfig(
            name=f"session-{session}", storage_path=str(state), stop=StopWith(searcher), verbose=0
        ),
    )


def keep_secrets() -> None:
    """Lets Tune pass nothing of our environment to its workers but settings of Ray.

    It would pass AWS's keys, too, whatever the storage, on the command line of a worker, which others read in the list
    of processes, and which Ray logs. Workers find credentials where they run (docs/howto-storage.md).
    """
    passed = class_cache.ENV_VARS_TO_PROPAGATE
    passed.intersection_update({name for name in passed if name.startswith("RAY_")})
