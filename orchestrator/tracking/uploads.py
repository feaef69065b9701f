"""What a run gets: files, artifacts, data sets, params, metrics and tags. Each step can be repeated."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.base.uris import without_passwords
from orchestrator.stores.base import SearchFolder, StorageProblem
from orchestrator.tracking.content import (
    BEST_PREFIX,
    About,
    Artifact,
    Content,
    digest_of,
    evaluation_content,
    may_show_people,
)
from orchestrator.tracking.projection import Run, Writes
from trainer.files import read_regular

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONTEXT_TAG = "mlflow.data.context"
# MLflow's own thumbnails have 256 pixels, too few for a sheet of many frames.
THUMBNAIL_PIXELS = 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where the content of a search's runs comes from."""

    folder: SearchFolder
    uid: str
    """Tells this search from others of the same name."""
    about: About | None
    """None sends what the events say, and nothing else."""

    def fill_in(self, writes: Writes, run: Run) -> None:
        """Reads the evaluation of a completed trial, or the summary of an ended session, into the writes.

        Best metrics that the journal holds as well are sent once.
        """
        found = Content()
        if writes.evaluation is not None:
            found = self._evaluation(writes.key, writes.evaluation)
            known = {point.metric for point in writes.points if point.metric.startswith(BEST_PREFIX)} | run.last.keys()
            found.points = [point for point in found.points if point.metric not in known]
        elif writes.summary is not None and self.about is not None:
            found = self.about.tell(writes.summary)
        writes.evaluation = writes.summary = None
        writes.artifacts += found.artifacts
        writes.points += found.points
        writes.tags |= found.tags

    def _evaluation(self, trial: str, moment: int) -> Content:
        """An evaluation that another node wrote is fetched first; a failure does not hold up the rest."""
        try:
            self.folder.store.pull_trial(self.folder, trial, "config.json", "evaluation/*")
        except StorageProblem as problem:
            log.warning("MLflow gets no evaluation of trial %s: %s", trial, problem)
        out = self.folder.trial(trial)
        people = (self.about is not None and self.about.synthetic) or may_show_people(out / "config.json")
        return evaluation_content(out / "evaluation", f"{self.uid}/{trial}", moment, people=people)


def upload_steps(client: MlflowClient, uri: str) -> tuple[Callable[[Run, Writes], None], ...]:
    """The steps that send the writes of a run, in order. Each clears what it has sent."""
    return (
        lambda run, writes: _upload_files(uri, run, writes),
        lambda run, writes: _upload_artifacts(uri, run, writes),
        lambda run, writes: _log_data_sets(client, run, writes),
        lambda run, writes: _log_batch(client, run, writes),
    )


def _upload_files(uri: str, run: Run, writes: Writes) -> None:
    # The client would ask the server for the artifact location again before each file.
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    while writes.files:
        # A trial's folder may have been deleted by hand; the rest is sent.
        if writes.files[0].exists():
            with without_secrets(writes.files[0]) as file:
                get_artifact_repository(run.artifacts, tracking_uri=uri).log_artifact(str(file))  # type: ignore[no-untyped-call]
        del writes.files[0]


def _upload_artifacts(uri: str, run: Run, writes: Writes) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if writes.artifacts:
        with staged(writes.artifacts) as folder:
            get_artifact_repository(run.artifacts, tracking_uri=uri).log_artifacts(str(folder))  # type: ignore[no-untyped-call]
        writes.artifacts.clear()


def _log_data_sets(client: MlflowClient, run: Run, writes: Writes) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for each in writes.data_sets:
        digest = each.digest if each.split is None else digest_of(each.split)
        if digest is not None:
            source = json.dumps({"name": each.name})
            dataset = Dataset(name=each.name, digest=digest, source_type="reidsearch", source=source)
            inputs.append(DatasetInput(dataset, [InputTag(CONTEXT_TAG, each.context)]))
    if inputs:
        client.log_inputs(run.id, inputs)
    writes.data_sets.clear()


def _log_batch(client: MlflowClient, run: Run, writes: Writes) -> None:
    """One call, as long as it stays below MLflow's limits."""
    from mlflow.entities import Metric, Param, RunTag

    client.log_batch(
        run.id,
        metrics=[Metric(point.metric, point.value, point.time, point.step) for point in writes.points],
        params=[Param(name, value) for name, value in writes.params.items()],
        tags=[RunTag(name, value) for name, value in writes.tags.items()],
    )
    writes.points, writes.params, writes.tags = [], {}, {}


@contextmanager
def staged(artifacts: Iterable[Artifact]) -> Iterator[Path]:
    """A temporary folder with the artifacts in their places; files that are not there are left out."""
    with tempfile.TemporaryDirectory(prefix="reidsearch-") as name:
        for artifact in artifacts:
            _stage(artifact, Path(name) / artifact.place)
        yield Path(name)


def _stage(artifact: Artifact, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(artifact.source, str):
        place.write_text(artifact.source, encoding="utf-8")
    elif artifact.source.is_file():
        shutil.copyfile(artifact.source, place)
        if artifact.is_image:
            _write_thumbnail(place)


def _write_thumbnail(picture: Path) -> None:
    """The image grid shows it until the picture is clicked on."""
    from PIL import Image

    with Image.open(picture, formats=["PNG"]) as image:  # noqa: TID251 - with formats=
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        image.convert("RGB").save(picture.with_name(f"{picture.stem}+compressed.webp"), quality=80)


@contextmanager
def without_secrets(path: Path) -> Iterator[Path]:
    """The file, or a copy of the same name without the passwords of the addresses in it."""
    text = read_regular(path).decode()
    clean = without_passwords(text)
    if clean == text:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="reidsearch-") as name:
        copy = Path(name) / path.name
        copy.write_text(clean, encoding="utf-8")
        yield copy
