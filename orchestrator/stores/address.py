"""The URI of a storage: what it may look like, and what reaches it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from orchestrator.base.errors import SearchError
from orchestrator.base.uris import quoted_path

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs", "gcs", "file")
# How a path begins that was meant to be a URI: with a scheme, but without the colon or the two slashes.
MISSPELT = re.compile(r"(?P<scheme>s3|gs|gcs|file)(:/?(?!/)|//)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
# What may follow the question mark of an s3:// URI.
S3_SETTINGS = ("endpoint_override", "region", "scheme")
# Far above what a healthy store needs. All attempts and a heartbeat of the lease together take less than the minute
# after which a driver is taken for dead: what it was writing then has arrived, or has failed.
CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 15.0
ATTEMPTS = 2


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
        raise SearchError(f"{storage}: no URI; write {meant}, or ./{storage} for a folder of that name")
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
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise SearchError(f"{parts.scheme}://: no storage that is known here (known: {known}, or a path)")
    if "@" in parts.netloc:
        # It would be written into search.yaml, into logs and onto the screen.
        raise SearchError(f"{scheme}://: no credentials in the URI; give them in the environment or a profile")
    settings = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    unknown = sorted(settings.keys() - (set(S3_SETTINGS) if scheme == "s3" else set()))
    if unknown or parts.fragment:
        what = unknown[0] if unknown else f"#{parts.fragment}"
        allowed = f"; an s3:// URI takes {', '.join(S3_SETTINGS)}" if scheme == "s3" else ""
        raise SearchError(f"{uri}: {what!r} is no setting of such a storage{allowed}")
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


def file_system(address: Address) -> FileSystem:
    """What reaches the storage; nothing is asked of the network but, for s3:// without an endpoint, the bucket's
    region.

    Not to be called in a process that will fork: the S3 client starts threads.

    Raises:
        OSError: the bucket's region cannot be found out.
    """
    from pyarrow import fs

    if address.scheme == "file":
        return fs.LocalFileSystem()
    if address.scheme in ("gs", "gcs"):
        from datetime import timedelta

        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=REQUEST_TIMEOUT_S))
    endpoint, scheme = _endpoint(address)
    region = address.settings.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if endpoint else fs.resolve_s3_region(address.path.partition("/")[0])
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        scheme=scheme,
        region=region,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        # A small object takes one request instead of three.
        allow_delayed_open=True,
        background_writes=False,
    )


def _endpoint(address: Address) -> tuple[str | None, str]:
    """Host and port of a server that is not Amazon's, and how it is spoken to."""
    given = (
        address.settings.get("endpoint_override")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    if not given:
        return None, address.settings.get("scheme", "https")
    scheme, separator, host = given.rpartition("://")
    return host.rstrip("/"), address.settings.get("scheme") or (scheme if separator else "https")
