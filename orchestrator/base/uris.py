"""Paths as URIs and back: quoted where a path enters a URI, unquoted where it leaves one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

SQLITE = "sqlite:///"
"""How the URI of an SQLite database begins; the path follows, an absolute one with its own slash."""
ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


def file_uri(path: Path) -> str:
    """The file:// URI of a path, which is made absolute."""
    return path.absolute().as_uri()


def file_path(uri: str) -> Path | None:
    """The path that a file:// URI names, or a plain path as MLflow reads one; None for what is not on this machine."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        return None
    return Path(unquote(parts.path))


def database_uri(path: Path) -> str:
    """The URI of the SQLite database at a path, which is made absolute, as SQLAlchemy 2.1 and later read it.

    If the path must be quoted, so are its slashes: MLflow creates the folder named in the URI, without unquoting it,
    before it opens the database.
    """
    plain = str(path.absolute())
    return SQLITE + (quote(os.fsencode(plain), safe="") if _needs_quotes(plain) else plain)


def database_path(uri: str) -> Path | None:
    """The path of the SQLite database at a URI; None for any other URI."""
    if not uri.startswith(SQLITE):
        return None
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def absolute_database(uri: str) -> str:
    """The URI, the path of an SQLite database in it made absolute."""
    path = database_path(uri)
    if path is None:
        return uri
    _, separator, settings = uri.partition("?")
    return database_uri(path) + separator + settings


def _needs_quotes(path: str) -> bool:
    return "?" in path or ESCAPE.search(path) is not None or not path.isprintable()


def quoted_path(path: str) -> str:
    """A path with the characters escaped that end the path of a URI, or begin an escape.

    All others stay: the URI remains readable, and equal to what earlier versions wrote.
    """
    return "".join(quote(each) if each in "%?#" or not each.isprintable() else each for each in path)


def lies_in(path: Path, folder: Path) -> bool:
    """Whether the path leads into the folder, links followed in both."""
    return path.resolve().is_relative_to(folder.resolve())


PASSWORD = re.compile(r"""(?<=://)[^/\s"'<>]*@|(?<=[?&]password=)[^&\s"'<>]+""")
# SQLAlchemy allows a slash in a password.
DATABASE_PASSWORD = re.compile(r"://[^/@]*:[^@]*@")


def without_passwords(text: str) -> str:
    """The text with the user and the password of every address in it taken out."""
    return PASSWORD.sub(lambda found: "***@" if found[0].endswith("@") else "***", text)


def has_password(uri: str) -> bool:
    """Whether a URI holds a password, or the user of a web server, which may be a token."""
    if uri.startswith(("http:", "https:")):
        return without_passwords(uri) != uri
    return DATABASE_PASSWORD.search(uri) is not None or re.search("[?&]password=", uri) is not None
