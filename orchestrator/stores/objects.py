"""Objects in a bucket, by URI: read, written, listed and deleted, also on the condition that nobody else wrote."""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import os
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.stores.base import StorageProblem
from orchestrator.stores.uri import Address, parsed
from trainer.files import replacing
from trainer.formatting import first_line

if TYPE_CHECKING:
    from obstore import PutMode, PutResult, UpdateVersion

# Far above what a healthy store needs.
CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 15.0
ATTEMPTS = 2
BLOCK = 8 * 2**20
DENIED = r"PermissionDenied|Unauthenticated|AccessDenied|Forbidden|Unauthorized|InvalidAccessKey|Signature|ExpiredToken"
UNREACHABLE = r"HTTP error|error sending request|timed? ?out|dns error|connect"
NO_BUCKET = r"NoSuchBucket|ContainerNotFound|specified bucket does not exist"
PROBES = ".probe"


class Version(NamedTuple):
    """Identifies the content of an object, for conditional writes."""

    e_tag: str | None
    version: str | None


class Object(NamedTuple):
    """An object as it was read."""

    content: bytes
    version: Version
    modified: float
    """Seconds since 1970, by the storage's clock."""


class Listed(NamedTuple):
    """An object in a listing."""

    path: str
    """Relative to the storage."""
    size: int
    """Bytes."""
    e_tag: str | None


class ConflictError(Exception):
    """A conditional write was refused: the object is not what it was when it was read."""


class Objects:
    """The objects below the prefix of a URI. Safe to use from several threads; connects when first asked.

    Every method raises StorageProblem if the storage cannot be reached or refuses.
    """

    def __init__(self, uri: str) -> None:
        """Remembers the URI.

        Raises:
            SearchError: the URI is not valid.
        """
        self._address = parsed(uri)

    @property
    def uri(self) -> str:
        """The storage, for people."""
        return self._address.uri

    @cached_property
    def _client(self) -> Any:
        with self._problems():
            return _client(self._address)

    def check(self) -> None:
        """Raises StorageProblem unless the bucket exists and may be listed; writes nothing."""
        self.listing(PROBES)

    def probe(self) -> None:
        """Raises StorageProblem unless the storage refuses writes whose condition is not met; leaves nothing."""
        path = f"{PROBES}/{secrets.token_hex(8)}"
        try:
            first = self.create(path, b"1")
            refuses = self._refuses(lambda: self.create(path, b"2"))
            self.replace(path, b"3", first)
            refuses = refuses and self._refuses(lambda: self.replace(path, b"4", first))
        except ConflictError:
            refuses = False
        finally:
            with contextlib.suppress(StorageProblem):
                self.delete([path])
        if not refuses:
            raise StorageProblem(
                f"{self.uri}: has no conditional writes, by which a search is kept from two drivers at once; choose "
                "another --storage"
            )

    @staticmethod
    def _refuses(write: Callable[[], object]) -> bool:
        try:
            write()
        except ConflictError:
            return True
        return False

    def read(self, path: str) -> bytes:
        """The content of an object.

        Raises:
            FileNotFoundError: there is none.
        """
        return self.get(path).content

    def get(self, path: str) -> Object:
        """An object with its version.

        Raises:
            FileNotFoundError: there is none.
        """
        import obstore

        with self._problems():
            found = obstore.get(self._client, path)
            content = bytes(found.bytes())
        meta = found.meta
        return Object(content, Version(meta["e_tag"], meta["version"]), meta["last_modified"].timestamp())

    def fetch(self, path: str, target: Path) -> str:
        """Copies an object into a file, atomically; returns the SHA-256 of what arrived.

        Raises:
            FileNotFoundError: there is no such object.
            OSError: the file cannot be written.
        """
        import obstore

        with self._problems():
            blocks = iter(obstore.get(self._client, path).stream(min_chunk_size=BLOCK))
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with replacing(target) as file:
            while True:
                with self._problems():
                    block = next(blocks, None)
                if block is None:
                    return digest.hexdigest()
                digest.update(block)
                file.write(block)

    def write(self, path: str, content: Any) -> None:
        """Writes bytes, or all of an open file, whatever was there."""
        self._put(path, content, "overwrite")

    def create(self, path: str, content: bytes) -> Version:
        """Writes an object that must not exist.

        Raises:
            ConflictError: it exists with another content.
        """
        return self._put_if(path, content, "create")

    def replace(self, path: str, content: bytes, version: Version) -> Version:
        """Writes an object that must still be what it was when it was read or written.

        Raises:
            ConflictError: it is not, nor has it this content.
        """
        condition: UpdateVersion = {}
        if version.e_tag is not None:
            condition["e_tag"] = version.e_tag
        if version.version not in (None, "null"):  # what S3 says of a bucket without versions
            condition["version"] = version.version
        return self._put_if(path, content, condition)

    def _put_if(self, path: str, content: bytes, mode: PutMode) -> Version:
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        try:
            return self._put(path, content, mode)
        except FileNotFoundError as error:
            raise ConflictError(path) from error
        except (AlreadyExistsError, PreconditionError) as error:
            # An earlier attempt of ours may have succeeded while its answer was lost.
            with contextlib.suppress(FileNotFoundError):
                if (found := self.get(path)).content == content:
                    return found.version
            raise ConflictError(path) from error
        except NotSupportedError as error:
            raise StorageProblem(f"{self.uri}: has no conditional writes; choose another --storage") from error

    def _put(self, path: str, content: Any, mode: PutMode) -> Version:
        import obstore

        with self._problems():
            result: PutResult = obstore.put(self._client, path, content, mode=mode)
        return Version(result["e_tag"], result["version"])

    def delete(self, paths: Sequence[str]) -> None:
        """Deletes objects; those that are not there are left out."""
        import obstore

        if paths:
            with contextlib.suppress(FileNotFoundError), self._problems():
                obstore.delete(self._client, list(paths))

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        import obstore

        try:
            with self._problems():
                obstore.head(self._client, path)
        except FileNotFoundError:
            return False
        return True

    def listing(self, folder: str) -> list[Listed]:
        """All objects below a folder, by path."""
        import obstore

        with self._problems():
            found = obstore.list(self._client, folder).collect()
        return sorted(Listed(meta["path"], meta["size"], meta["e_tag"]) for meta in found)

    def files(self, folder: str) -> list[Listed]:
        """The objects directly in a folder, by path."""
        import obstore

        with self._problems():
            found = obstore.list_with_delimiter(self._client, folder)["objects"]
        return sorted(Listed(meta["path"], meta["size"], meta["e_tag"]) for meta in found)

    def folders(self) -> list[str]:
        """Names of the folders at the top."""
        import obstore

        with self._problems():
            return sorted(obstore.list_with_delimiter(self._client)["common_prefixes"])

    def now(self) -> float:
        """The storage's clock, in seconds since 1970; writes an object to find out."""
        path = f"{PROBES}/{secrets.token_hex(8)}"
        self.write(path, b"")
        try:
            return self.get(path).modified
        finally:
            self.delete([path])

    @contextmanager
    def _problems(self) -> Iterator[None]:
        """Turns the library's errors into StorageProblem; refused conditions and missing objects stay as they are."""
        from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError

        try:
            yield
        except FileNotFoundError as error:
            if re.search(NO_BUCKET, str(error)):
                raise StorageProblem(self._no_bucket()) from error
            raise
        except (AlreadyExistsError, PreconditionError, NotSupportedError):
            raise
        except BaseError as error:
            raise StorageProblem(self._explained(error)) from error

    def _no_bucket(self) -> str:
        bucket = self._address.path.partition("/")[0]
        return f"{self.uri}: there is no bucket {bucket!r}; make it, or name another one"

    def _explained(self, error: Exception) -> str:
        """What the library's error means, and its first line."""
        said, words = f"{type(error).__name__} {error}", first_line(error)
        if re.search(NO_BUCKET, said):
            return self._no_bucket()
        if re.search(DENIED, said) or "169.254." in said:
            return f"{self.uri}: the credentials of this machine are missing or not enough ({words})"
        if re.search(UNREACHABLE, said):
            return f"{self.uri}: cannot be reached ({words})"
        return f"{self.uri}: {words}"


@cache
def objects_at(uri: str) -> Objects:
    """The storage at a URI; a process connects to each once."""
    return Objects(uri)


def _client(address: Address) -> Any:
    """A client of the storage. Not to be made in a process that will fork: it starts threads."""
    from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

    bucket, _, prefix = address.path.partition("/")
    common: dict[str, Any] = {
        "prefix": prefix or None,
        "client_options": {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
        },
        "retry_config": {"max_retries": ATTEMPTS - 1, "retry_timeout": timedelta(seconds=REQUEST_TIMEOUT_S)},
    }
    match address.scheme:
        case "memory":
            return MemoryStore()
        case "s3":
            return S3Store(bucket, **common, **_s3_settings(address, bucket))
        case "az":
            return AzureStore(bucket, **common)
        case _:
            return GCSStore(bucket, **common)


def _s3_settings(address: Address, bucket: str) -> dict[str, Any]:
    """Endpoint, region and the keys of a profile; the library reads keys and roles from the environment by itself."""
    settings: dict[str, Any] = {}
    endpoint = _endpoint(address)
    if endpoint is not None:
        settings["endpoint"] = endpoint
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        settings |= _profile("AWS_SHARED_CREDENTIALS_FILE", "credentials", "aws_access_key_id", "aws_secret_access_key")
        settings |= _profile("AWS_SHARED_CREDENTIALS_FILE", "credentials", "aws_session_token")
    elsewhere = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_ACCESS_KEY_ID")
    is_alone = os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    if is_alone and "aws_access_key_id" not in settings and not any(name in os.environ for name in elsewhere):
        raise StorageProblem(f"{address.uri}: the credentials of this machine are missing; see the page on storage")
    settings["region"] = (
        address.settings.get("region")
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or _profile("AWS_CONFIG_FILE", "config", "region").get("region")
        or ("us-east-1" if endpoint else _bucket_region(address, bucket))
    )
    return settings


def _endpoint(address: Address) -> str | None:
    """URL of a server that is not Amazon's."""
    given = (
        address.settings.get("endpoint_override")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    if not given:
        return None
    scheme, separator, host = given.rpartition("://")
    return f"{address.settings.get('scheme') or (scheme if separator else 'https')}://{host.rstrip('/')}"


def _profile(variable: str, file: str, *names: str) -> dict[str, str]:
    """Settings of the profile `AWS_PROFILE` in one of Amazon's two files; nothing if one is missing."""
    profile = os.environ.get("AWS_PROFILE", "default")
    read = configparser.RawConfigParser()
    with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
        read.read(Path(os.environ.get(variable) or f"~/.aws/{file}").expanduser(), encoding="utf-8")
    sections = [section for section in (profile, f"profile {profile}") if read.has_section(section)]
    found = {name: read.get(section, name) for section in sections for name in names if read.has_option(section, name)}
    return found if len(found) == len(names) else {}


def _bucket_region(address: Address, bucket: str) -> str:
    """The region of a bucket of Amazon's, which the answer to any request names."""
    request = urllib.request.Request(f"https://{bucket}.s3.amazonaws.com", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
    except OSError as error:
        raise StorageProblem(f"{address.uri}: cannot be reached ({first_line(error)})") from error
    return str(headers.get("x-amz-bucket-region") or "us-east-1")
