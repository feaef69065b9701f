"""Paths as URIs and back, as MLflow, SQLAlchemy, SQLite and storages by URI read them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import append_to_uri_path, resolve_uri_if_local
from sqlalchemy import make_url

from orchestrator.base.uris import SQLITE, absolute_database, database_path, database_uri, file_path, file_uri
from orchestrator.stores.uri import parsed

PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
PATHS = st.lists(PART.filter(lambda part: part not in (".", "..")), min_size=1, max_size=4).map(
    lambda parts: Path("/", *parts)
)
AWKWARD = Path("/a?b=c&d/%41%2F%/#;=@:*'\"\\ é\u202e\n+~/$HOME/.x")


@given(PATHS)
@example(AWKWARD)
def test_a_database_is_where_its_uri_says_to_sqlalchemy_and_to_us(path: Path) -> None:
    uri = database_uri(path)
    assert database_path(uri) == path
    url = make_url(uri)
    assert (url.database, url.query, url.host) == (str(path), {}, None)
    assert absolute_database(uri) == uri


@given(PATHS)
@example(AWKWARD)
def test_mlflow_makes_no_folder_but_that_of_its_database(path: Path) -> None:
    """It makes the folder that stands in the URI."""
    folder = Path(database_uri(path).removeprefix(SQLITE)).parent
    assert folder in (path.parent, Path())


@given(PATHS)
@example(AWKWARD)
def test_files_of_runs_are_where_their_uri_says_to_mlflow_and_to_us(path: Path) -> None:
    uri = file_uri(path)
    assert file_path(uri) == path
    assert resolve_uri_if_local(uri) == uri
    run = append_to_uri_path(uri, "0" * 32, "artifacts")
    assert local_file_uri_to_path(run) == str(path / ("0" * 32) / "artifacts")
    assert file_path(run) == path / ("0" * 32) / "artifacts"


@given(PATHS, st.sampled_from(["file", "s3", "gs"]))
@example(AWKWARD, "s3")
def test_the_uri_of_a_storage_means_the_same_read_again(path: Path, scheme: str) -> None:
    given_path = str(path) if scheme == "file" else f"bucket{path}"
    address = parsed(f"{scheme}://{urlsplit(file_uri(path)).path if scheme == 'file' else 'bucket' + _quoted(path)}")
    assert address.path == given_path
    assert parsed(address.uri) == address


def _quoted(path: Path) -> str:
    return urlsplit(file_uri(path)).path


def test_sqlite_opens_an_awkward_path_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "a?mode=memory&%41 #é"
    folder.mkdir()
    sqlite3.connect(folder / "mlflow.db").close()
    with closing(sqlite3.connect(f"{file_uri(folder / 'mlflow.db')}?mode=ro", uri=True)) as opened:
        assert opened.execute("PRAGMA database_list").fetchone()[2] == str(folder / "mlflow.db")


def test_settings_after_the_path_of_a_database_are_kept() -> None:
    assert absolute_database("sqlite:////a/b.db?timeout=5") == "sqlite:////a/b.db?timeout=5"
    assert absolute_database("sqlite:///b.db") == database_uri(Path("b.db"))
