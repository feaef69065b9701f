"""Content of MLflow runs besides events, as pure functions of the journal and of files.

Trials: best metrics, the CMC curve, charts and pictures, data sets with digests. The search: a table, a note, the best
so far. Computed again, it is identical, names and times included.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from orchestrator.algorithms.replicates import Best
from orchestrator.base.escaping import markdown_code, markdown_text
from orchestrator.base.formatting import number
from orchestrator.study.description import SearchDescription
from orchestrator.study.events import Forecast, NodeLoad
from orchestrator.study.study import Trial
from orchestrator.summary import Summary
from trainer.files import loads_checked, read_regular
from trainer.result import EpochResult, Evaluation

NOTE_TAG = "mlflow.note.content"
IMAGES_TAG = "mlflow.loggedImages"
TABLES_TAG = "mlflow.loggedArtifacts"
TABLE = "trials.json"
ENVIRONMENT = "environment.json"
LONGEST_NOTE = 5000
LONGEST_DIGEST = 36  # what MLflow takes
BEST_PREFIX = "best/"
CMC = "cmc"
TEST_PREFIX = "test/"
OTHER_DATA_PREFIX = "other_data/"
CHARTS = ("evaluation.json", "cmc.png", "distances.png", "cameras.png", "roc.png")
SHEETS = ("ranking", "attention")
"""Pictures that show people, of the same queries for every trial: keys of MLflow's image grid."""
NAMED_RANKS = (1, 5, 20)


class Point(NamedTuple):
    """One value of one metric."""

    metric: str
    value: float
    time: int
    """End of the epoch in milliseconds since 1970 UTC, so that a repeated point is the same point."""
    step: int


class DataSet(NamedTuple):
    """A data set that a run trains or is evaluated on."""

    name: str
    context: Literal["training", "validation", "test"]
    digest: str
    split: Path | None = None
    """File to digest when the data set is sent; None if `digest` is given."""


class Artifact(NamedTuple):
    """A file of a run."""

    place: str
    """Path within the run's artifacts."""
    source: Path | str
    """A file, or the text."""
    is_image: bool = False
    """Whether MLflow's image grid shows it, which needs a thumbnail."""


@dataclass
class Content:
    """Artifacts, points and tags of a run."""

    artifacts: list[Artifact] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


class About(NamedTuple):
    """Constant facts of a search, and its content at the end of a session."""

    data_set: str
    fingerprint: str
    synthetic: bool
    """Whether pictures show only generated people."""
    artifacts: tuple[Artifact, ...]
    """Of the search's own run."""
    tell: Callable[[int], Content]
    """Content of the search's run at the end of a session, at a time in milliseconds since 1970 UTC."""

    def data_sets(self, split: Path | None) -> list[DataSet]:
        """The data sets of a trial; without a validation split the trial is evaluated on the test set."""
        learned = DataSet(self.data_set, "training", self.fingerprint[:LONGEST_DIGEST])
        if split is None:
            return [learned, DataSet(f"{self.data_set} test", "test", self.fingerprint[:LONGEST_DIGEST])]
        return [learned, DataSet(f"{self.data_set} {split.stem}", "validation", "", split)]


def milliseconds(time: float) -> int:
    """Seconds as whole milliseconds, MLflow's unit of time."""
    return round(time * 1000)


# --- trials


def epoch_points(result: EpochResult) -> list[Point]:
    """The metrics of an epoch."""
    moment = milliseconds(result.time)
    return [Point(name, value, moment, result.epoch) for name, value in result.metrics().items()]


def load_points(load: NodeLoad, result: EpochResult) -> list[Point]:
    """System metrics of the node during an epoch."""
    moment = milliseconds(result.time)
    return [Point(name, value, moment, result.epoch) for name, value in load.system_metrics().items()]


def best_points(best: EpochResult) -> list[Point]:
    """Metrics of the best checkpoint, beside those of each epoch, of which MLflow's tables show the last.

    All at step 0, because MLflow draws bars for metrics of one step; the epoch is a metric as well.
    """
    assert best.validation is not None
    moment = milliseconds(best.time)
    metrics = {"epoch": float(best.epoch), **best.validation.metrics()}
    return [Point(BEST_PREFIX + name, value, moment, 0) for name, value in metrics.items()]


def forecast_points(forecast: Forecast | None, epoch: int, moment: int) -> list[Point]:
    """What the trial was expected to reach after an epoch, and the standard deviation of that; nothing for None."""
    values = {} if forecast is None else {"value": forecast.value, "error": forecast.error}
    return [Point(f"forecast/{name}", value, moment, epoch) for name, value in values.items()]


def test_points(evaluation: Evaluation, moment: int, data: str | None = None) -> list[Point]:
    """The metrics on the test set, under a name of their own where it is that of another data set."""
    prefix = TEST_PREFIX if data is None else f"{OTHER_DATA_PREFIX}{data}/"
    return [Point(prefix + name, value, moment, 0) for name, value in evaluation.metrics().items()]


def evaluation_content(folder: Path, identity: str, moment: int, *, people: bool) -> Content:
    """The content of an evaluation folder: the CMC curve, one point per rank in [0, 1], and pictures.

    Args:
        folder: as the trainer writes it; a missing folder gives empty content.
        identity: unique identifier of the trial.
        moment: when the trial ended, in milliseconds since 1970 UTC.
        people: whether sheets that show people are sent.
    """
    try:
        description = loads_checked(read_regular(folder / "evaluation.json"))
        curves = dict(description.get("cmc", {}))
    except (OSError, ValueError, TypeError, AttributeError):  # not there, or not as an evaluation writes it
        return Content()
    content = Content([Artifact(f"evaluation/{name}", folder / name) for name in CHARTS])
    for name, key in (("embeddings", CMC), ("re-ranked", f"reranked/{CMC}")):
        content.points += [Point(key, share, moment, rank) for rank, share in enumerate(curves.get(name, ()), 1)]
    # The journal has them only where the kept network is that of the last epoch, which alone is re-ranked.
    again = description.get("reranked") or {}
    content.points += [Point(f"{BEST_PREFIX}reranked/{name}", value, moment, 0) for name, value in again.items()]
    if people:
        sheets = [key for key in SHEETS if (folder / f"{key}.png").is_file()]
        content.artifacts += [_grid_image(key, folder / f"{key}.png", identity, moment) for key in sheets]
        content.tags |= {IMAGES_TAG: "True"} if sheets else {}
    return content


def may_show_people(trial_config: Path) -> bool:
    """Whether the trial's configuration lets its pictures show real people."""
    try:
        return json.loads(read_regular(trial_config))["evaluation"]["images"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _grid_image(key: str, file: Path, identity: str, moment: int) -> Artifact:
    """As MLflow's own `log_image` names it, which takes the time and a random number: here both come of the trial."""
    known = uuid.uuid5(uuid.NAMESPACE_URL, f"{identity}/{key}")
    return Artifact(f"images/{key}+step+0+timestamp+{moment}+{known}.png", file, is_image=True)


# --- the search itself


def about(description: SearchDescription, tell: Callable[[int], Content]) -> About:
    """The constant facts of a search."""
    environment = {"versions": description.versions, "commit": description.commit, "seed": description.seed}
    return About(
        data_set=description.data_name,
        fingerprint=description.data_fingerprint,
        synthetic=description.synthetic,
        artifacts=(Artifact(ENVIRONMENT, json.dumps(environment, indent=2)),),
        tell=tell,
    )


def search_content(summary: Summary, moment: int) -> Content:
    """A table of all trials, a note that the run's page shows, and the best value so far after each trial."""
    rows = [_row(trial, summary) for trial in summary.trials]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}
    content = Content([Artifact(TABLE, json.dumps(table))])
    content.tags = {
        NOTE_TAG: _note(summary)[:LONGEST_NOTE],
        TABLES_TAG: json.dumps([{"path": TABLE, "type": "table"}]),
    }
    content.points = [*_best_so_far(summary), *_best_of_all(summary, moment)]
    return content


def _row(trial: Trial, summary: Summary) -> dict[str, Any]:
    found, forecast = summary.scores.get(trial.key), summary.forecasts.get(trial.key)
    metrics = {} if found is None else found.metrics
    return {
        **{"trial": trial.key, "status": trial.status, "source": trial.source, "seed": trial.seed},
        **{"epoch": trial.epoch, summary.metric: None if found is None else found.value},
        **{name: metrics.get(name) for name in (f"rank{rank}" for rank in NAMED_RANKS)},
        **({} if forecast is None else {"forecast": forecast.value, "forecast_error": forecast.error}),
        **trial.params,
    }


def _note(summary: Summary) -> str:
    """A few paragraphs of Markdown."""
    description = summary.description
    counts = ", ".join(f"{many} {status}" for status, many in summary.counts.items() if many) or "no trials yet"
    paragraphs = [f"**{markdown_text(summary.name)}**: space {markdown_code(description.space.name)}, {counts}."]
    if description.synthetic:
        paragraphs.append("**SYNTHETIC data: these metrics say nothing about published results.**")
    elif description.own_data:
        paragraphs.append("**Own data: these metrics must not stand beside published results.**")
    if summary.best is not None:
        params = summary.best.trial.params.items()
        paragraphs.append(_best_line(summary.best, summary.metric))
        paragraphs.append(
            "\n".join(f"- {markdown_code(path)} = {markdown_text(number(value))}" for path, value in params)
        )
    return "\n\n".join([*paragraphs, f"All {len(summary.trials)} trials: artifact `{TABLE}`."])


def _best_line(best: Best, metric: str) -> str:
    head, confirmation = f"Best: {markdown_code(best.trial.key)}", best.confirmation
    if confirmation is None:
        return f"{head}, {metric} {best.score.value:.3f} with one seed, not confirmed."
    deviation = confirmation.standard_deviation
    spread = "" if deviation is None else f" ± {deviation:.3f}"
    sure = "" if confirmation.confirmed else ", not confirmed"
    return f"{head}, {metric} {confirmation.mean:.3f}{spread} over {len(confirmation.values)} fresh seeds{sure}."


def _best_so_far(summary: Summary) -> Iterator[Point]:
    """The best value after each completed configuration: step 1 is the first."""
    first, best = summary.objective.first, None
    for step, key in enumerate(summary.study.completed, 1):
        found = summary.scores.get(key)
        if found is None:
            continue
        best = found.value if best is None else max(best, found.value, key=lambda value: first.sign * value)
        ended = milliseconds(summary.study.trials[key].results[-1].time)
        yield Point(f"best_so_far/{first.metric}", best, ended, step)


def _best_of_all(summary: Summary, moment: int) -> Iterator[Point]:
    """Metrics of the best configuration's first seed and, where it was repeated, their means over fresh seeds."""
    best = summary.best
    if best is None:
        return
    validation = best.score.result.validation
    for name, value in best.score.result.metrics().items():
        if validation is not None and name in validation.metrics():
            yield Point(BEST_PREFIX + name, value, moment, 0)
    if best.confirmation is not None:
        for name, value in best.confirmation.metrics.items():
            if name in (summary.metric, "mINP", *(f"rank{rank}" for rank in NAMED_RANKS)):
                yield Point(f"confirmed/{name}", value, moment, 0)


# --- files


def digest_of(path: Path) -> str | None:
    """A digest of a file, as long as MLflow takes; None where there is none."""
    try:
        return hashlib.sha256(read_regular(path)).hexdigest()[:LONGEST_DIGEST]
    except OSError:
        return None
