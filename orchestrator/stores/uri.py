"""URIs of storages, and this machine's copies of them in the user's cache."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.base.uris import quoted_path
from trainer.files import write_atomically

SCHEMES = ("s3", "gs", "gcs", "az", "file", "memory")
"""`file` is another spelling of a path; `memory` lives in this process, for tests."""
# A path that was meant to be a URI: with a scheme, but without the colon or the two slashes.
MISSPELT = re.compile(r"(?P<scheme>s3|gs|gcs|file)(:/?(?!/)|//)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
# What may follow the question mark of an s3:// URI.
S3_SETTINGS = ("endpoint_override", "region", "scheme")
MARKER = "storage-uri.txt"
"""File in this machine's copy of a storage that holds the URI."""


class Address(NamedTuple):
    """A URI in its parts."""

    uri: str
    scheme: str
    path: str
    """Bucket and prefix, or an absolute folder; without a slash at its end."""
    settings: dict[str, str]
    """What followed the question mark."""


def is_uri(storage: str) -> bool:
    """Whether a storage is given by a URI, and not as a path.

    Raises:
        SearchError: it begins like a URI but is none, such as `s3:/bucket`; the message says what was probably meant.
    """
    if (misspelt := MISSPELT.fullmatch(storage)) is not None:
        scheme, rest = misspelt["scheme"].lower(), misspelt["rest"].lstrip("/")
        if scheme != "file":
            meant = f"{scheme}://{rest or 'BUCKET'}"
        else:
            meant = f"file:///{rest}" if "/" in misspelt[2] else f"the path {rest or 'alone'}"
        raise SearchError(f"{storage}: no URI; write {meant}, or ./{storage} for a folder of this name")
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", storage) is not None


def parsed(uri: str) -> Address:
    """The checked URI; nothing is asked of the network.

    Raises:
        SearchError: the scheme is unknown, credentials stand in it, or it names no bucket.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # brackets of an IPv6 address, for one
        raise SearchError(f"{uri}: is no URI of a storage ({error})") from error
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES[:-1])
        raise SearchError(f"{parts.scheme}://: no storage that is known here (known: {known}, or a path)")
    settings = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if any("@" in part for part in (parts.netloc, *settings.values())):
        # They would be written into search.yaml, into logs and onto the screen.
        raise SearchError(f"{scheme}://: no credentials in the URI; give them in the environment or a profile")
    unknown = sorted(settings.keys() - (set(S3_SETTINGS) if scheme == "s3" else set()))
    if unknown or parts.fragment:
        what = unknown[0] if unknown else f"#{parts.fragment}"
        allowed = f"; an s3:// URI takes {', '.join(S3_SETTINGS)}" if scheme == "s3" else ""
        plain = uri.partition("?")[0]  # what follows may be a key
        raise SearchError(f"{plain}: {what!r} is no setting of such a storage{allowed}")
    path = (parts.netloc + unquote(parts.path)).rstrip("/")
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise SearchError(f"{uri}: a file:// URI names no host; three slashes begin a path: file:///{path}")
        path = unquote(parts.path).rstrip("/")
    if not path or path.startswith("/") != (scheme == "file"):
        raise SearchError(f"{uri}: names no {'folder' if scheme == 'file' else 'bucket'}")
    if any(part in (".", "..") or "\0" in part for part in path.split("/")) or "//" in path:
        raise SearchError(f"{uri}: '.', '..' and empty names are no parts of a storage's path")
    root = f"{scheme}://{quoted_path(path)}"
    return Address(root + (f"?{parts.query}" if parts.query else ""), scheme, path, settings)


def cache_folder() -> Path:
    """Where this user's machine keeps what can be fetched again: `$XDG_CACHE_HOME/reidsearch`."""
    above = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.path.abspath(above)) / "reidsearch"  # noqa: PTH100 - links are not followed


def copy_folder(uri: str) -> Path:
    """The folder of the copy; made if missing, readable by its owner only."""
    address = parsed(uri)
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{address.scheme}-{address.path}").strip("-")[-48:].lstrip("-")
    digest = hashlib.sha256(address.uri.encode()).hexdigest()[:12]
    folder = cache_folder() / "storage" / f"{readable}-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise EnvironmentProblem(f"{folder}: belongs to another user; set XDG_CACHE_HOME to a folder of your own")
        folder.chmod(0o700)
        if uri_of_copy(folder) != address.uri:
            write_atomically(folder / MARKER, address.uri + "\n")
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME") from error
    return folder


def uri_of_copy(folder: Path) -> str | None:
    """The URI of the storage that a folder of this user's cache is a copy of; None for any other folder."""
    # A folder received from somebody else may hold such a file, too: only those in the user's own cache are believed.
    here = Path(os.path.abspath(folder))  # noqa: PTH100 - links are not followed
    if here.parent != cache_folder() / "storage":
        return None
    try:
        return (folder / MARKER).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
