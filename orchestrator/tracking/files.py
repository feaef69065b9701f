"""Files on their way to MLflow: gathered in a folder of their own, or without what must stay here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.base.uris import without_passwords
from orchestrator.tracking.content import Artifact
from trainer.reading import read_regular

# MLflow's own small copies have 256 pixels, of which a sheet of many frames shows nothing.
SMALL_PIXELS = 1024


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
            _write_small_copy(place)


def _write_small_copy(picture: Path) -> None:
    """What the image grid shows before a picture is clicked on."""
    from PIL import Image

    with Image.open(picture, formats=["PNG"]) as image:
        image.thumbnail((SMALL_PIXELS, SMALL_PIXELS))
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
