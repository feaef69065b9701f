"""`search.yaml`: what was launched, with everything a resume needs besides the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from orchestrator.base.errors import SearchError
from orchestrator.space.options import Resources
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import NAME
from orchestrator.study.study import Study
from trainer.files import write_atomically
from trainer.formatting import located, plain_words
from trainer.settings import FrozenConfig
from trainer.yaml_file import YamlError, dump_yaml, read_yaml

# A step takes seconds at most; compiling a network or reading a cold file system may take minutes.
HANG_AFTER_S = 1800.0


EXPERIMENT = "reidsearch"


class Options(FrozenConfig):
    """How a search runs; none of it changes what a trial computes."""

    concurrent: int | None = None
    """Trials that run at once; None fills the machine."""
    cpus_per_trial: int | None = None
    """CPU cores of one trial; None is what the space says."""
    gpus_per_trial: float | None = None
    """GPUs of one trial, fractions allowed; None is what the space says."""
    memory_per_trial: str | None = None
    """Memory of one trial, such as `16 GiB`; None is what the space says."""
    tracking_uri: str | None = None
    """Where MLflow keeps runs; None is `mlflow.db` in the storage."""
    experiment: str = EXPERIMENT
    """MLflow's experiment that holds them."""
    address: str | None = None
    """Ray cluster to join; None starts one on this machine."""
    insecure: bool = False
    """Whether that cluster may be one that demands no token; asked for anew in every session."""
    hang_after: float = HANG_AFTER_S
    """Seconds without a step after which an attempt counts as hung."""
    data: str | None = None
    """Folder of the data set, where it is not where the launch found it."""
    stage_data: str | None = None
    """Folder, or URI, of the packed data set that every node fetches once; None reads the data where they are."""
    stage_sha256: str | None = None
    """SHA-256 of the index of this pack."""

    def resources(self, space: SearchSpace) -> Resources:
        """What one trial is given: what was asked for, otherwise what the space says.

        Raises:
            SearchError: an earlier version accepted an option that this one refuses; names it.
        """
        try:
            asked = Resources(
                cpus_per_trial=self.cpus_per_trial,
                gpus_per_trial=self.gpus_per_trial,
                memory_per_trial=self.memory_per_trial,
            )
        except ValidationError as error:
            first = error.errors()[0]
            option = "--" + str(first["loc"][0]).replace("_", "-")
            raise SearchError(f"{option}: {plain_words(first)}; resume with another {option}") from error
        return space.resources.overridden(asked)


class SearchDescription(FrozenConfig):
    """A search before its first trial."""

    format: Literal[1] = 1
    search: str = Field(pattern=rf"^{NAME.pattern}$")
    uid: str = Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """Tells this search from others of the same name, in MLflow."""
    created: str
    """ISO 8601, UTC."""
    seed: int
    synthetic: bool
    """Whether the data is generated; metrics are then not comparable with published ones."""
    data_fingerprint: str
    """SHA-256 over the lists of training, query and gallery tracklets."""
    tracklets: dict[str, int] | None = None
    """Numbers of tracklets by `train`, `query` and `gallery`; None in older searches."""
    data_manifest: str | None = None
    """SHA-256 of what `reidsearch data check` noted of every file's size; None where it was never run."""
    options: Options
    command: list[str]
    host: str
    commit: str | None
    versions: dict[str, str]
    space: SearchSpace
    """The resolved space."""

    @property
    def data_name(self) -> str:
        """Name of the data set; that of generated data begins with `mini-`."""
        return f"mini-{self._layout}" if self.synthetic else self._layout

    @property
    def own_data(self) -> bool:
        """Whether nothing is published of the data set, as of `tracklets`; results then stand beside no published ones.

        False for generated data.
        """
        if self.synthetic:
            return False
        from trainer.data import READERS  # numpy and readers take longer to import than everything else here

        return self._layout not in READERS or READERS[self._layout].own

    @property
    def data_kind(self) -> Literal["SYNTHETIC", "own data", "real"]:
        """What the data is, in short."""
        return "SYNTHETIC" if self.synthetic else "own data" if self.own_data else "real"

    @property
    def _layout(self) -> str:
        data = self.space.trainer.get("data")
        return str(data.get("name", "mars")) if isinstance(data, dict) else "mars"


def write_description(path: Path, description: SearchDescription) -> None:
    """Writes the file atomically."""
    fields = description.model_dump(mode="json", exclude={"space"})
    write_atomically(path, dump_yaml({**fields, "space": description.space.resolved()}))


def read_description(path: Path) -> SearchDescription:
    """Reads the file.

    Raises:
        SearchError: it is missing, damaged, or of another version; names the file.
    """
    try:
        return SearchDescription.model_validate(read_yaml(path).data)
    except YamlError as error:
        raise SearchError(str(error)) from error
    except ValidationError as error:
        raise SearchError(f"{path}: {located(error.errors()[0])}; the file is damaged or of another version") from error


def current_space(description: SearchDescription, study: Study) -> SearchSpace:
    """The space that holds now: that of the launch, or the one it was last extended to.

    Raises:
        SearchError: the journal's space is of another version of this program.
    """
    if study.extended is None:
        return description.space
    try:
        return SearchSpace.model_validate(study.extended)
    except ValidationError as error:
        raise SearchError(
            f"{study.name}: the space it was extended to is not one that this version knows "
            f"({located(error.errors()[0])})"
        ) from error
