"""Ray's token of this user: where it comes from, and the file it is kept in."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import uuid
from pathlib import Path

from orchestrator.base.errors import EnvironmentProblem
from trainer.formatting import one_line

log = logging.getLogger(__name__)

TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Ray's own variables; the token is looked up in this order, and in the file last."""
TOKEN_FILE = Path("~/.ray/auth_token")
MAX_TOKEN_BYTES = 64 * 1024  # Kubernetes' own tokens have about 1 KiB


def own_token() -> str:
    """The token of this user, made where there is none; its file can be read by its owner only.

    Raises:
        EnvironmentProblem: the file is not safe to use, or cannot be read or written.
    """
    return existing_token() or _made(TOKEN_FILE.expanduser())


def existing_token() -> str | None:
    """The token of this user, or None where there is none.

    Raises:
        EnvironmentProblem: the file is not safe to use, or cannot be read.
    """
    if token := os.environ.get(TOKEN, "").strip():
        return token
    if named := os.environ.get(TOKEN_PATH):
        found = _read(Path(named).expanduser(), named=True)
        if found is None:
            raise EnvironmentProblem(f"{TOKEN_PATH}={one_line(named)}: no such file; name the file with Ray's token")
        return found
    return _read(TOKEN_FILE.expanduser(), named=False)


def _read(path: Path, *, named: bool) -> str | None:
    """The token in a file that nobody else can read or change, None where there is no file.

    Ray makes this file readable by all; where it is ours, that is mended and said, once by its nature. A file that
    the user named may be a link, and root's: secrets of Kubernetes are mounted so.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if named else os.O_NOFOLLOW))
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "is a symbolic link" if path.is_symlink() else f"cannot be read ({error.strerror})"
        raise EnvironmentProblem(f"{path}: {why}; Ray's token belongs into a file of your own, mode 0600") from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        _check_owner(path, facts, named=named)
        if stat.S_IMODE(facts.st_mode) & 0o077 and facts.st_uid == os.getuid() and not path.is_symlink():
            try:
                os.fchmod(descriptor, 0o600)
            except OSError as error:
                raise EnvironmentProblem(
                    f"{path}: others can read Ray's token, and its mode cannot be changed ({error.strerror}); "
                    "move it to a disk that keeps modes"
                ) from error
            log.warning(
                "%s could be read by other users (mode %04o); it is 0600 now. Whoever read it can use your clusters: "
                "remove it for a new one",
                path,
                stat.S_IMODE(facts.st_mode),
            )
        content = file.read(MAX_TOKEN_BYTES + 1)
    return _token_in(content, path)


def _check_owner(path: Path, facts: os.stat_result, *, named: bool) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise EnvironmentProblem(f"{path}: is no regular file; Ray's token belongs into a file of your own, mode 0600")
    owners = {os.getuid(), 0} if named else {os.getuid()}
    if facts.st_uid not in owners:
        raise EnvironmentProblem(
            f"{path}: belongs to user {facts.st_uid}, who could replace the token; make a file of your own, mode 0600"
        )
    if facts.st_uid != os.getuid() and stat.S_IMODE(facts.st_mode) & 0o022:
        raise EnvironmentProblem(f"{path}: others can change it; ask its owner to take the right to write away")


def _token_in(content: bytes, path: Path) -> str:
    """What a header may hold: printable ASCII without blanks. The message never repeats it."""
    token = content.decode("ascii", errors="replace").strip()
    if not token:
        raise EnvironmentProblem(f"{path}: is empty; write the token into it, or remove it for a new one")
    if len(content) > MAX_TOKEN_BYTES or not all("!" <= character <= "~" for character in token):
        raise EnvironmentProblem(f"{path}: holds no token; write one word into it, or remove it for a new one")
    return token


def _made(path: Path) -> str:
    """A new token. It appears whole under its name, or somebody else's does: two searches may start at once."""
    part = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
        finally:
            part.unlink()
    except OSError as error:
        raise EnvironmentProblem(
            f"{path}: cannot be written ({error.strerror}); set {TOKEN_PATH} to a file of your own, mode 0600"
        ) from error
    token = _read(path, named=False)
    if token is None:
        raise EnvironmentProblem(f"{path}: was removed while it was made; start again")
    return token


def token_source() -> str:
    """Where the token of this user comes from, for people."""
    if os.environ.get(TOKEN, "").strip():
        return TOKEN
    return one_line(os.environ.get(TOKEN_PATH) or str(TOKEN_FILE))
