"""Whether a cluster demands Ray's token, found out before anything else is said to it.

Whoever reaches a Ray cluster that demands no token runs code on it, and whatever joins it runs theirs (CVE-2023-48022).
Ray itself joins such a cluster without a word, and tries a wrong token for 20 s before it says that it cannot connect.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import stat
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from orchestrator.base.errors import EnvironmentProblem
from trainer.formatting import first_line, one_line

log = logging.getLogger(__name__)

MODE = "RAY_AUTH_MODE"
"""Ray's own variable: `token` or `disabled`."""
PATIENCE_S = 5.0
GCS_PORT = 6379
# An address of no network: connecting a UDP socket to it sends nothing, but tells which of our addresses would be used.
FAR_AWAY = ("8.8.8.8", 80)
# What a cluster tells to whom; needs nothing but the name, and answers nobody who fails to authenticate.
METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"
JOBS = "/api/jobs/"
HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
DOCUMENT = "docs/security.md"

Answer = Literal["open", "accepted", "refused"]
"""`open`: it answers without a token. `accepted`, `refused`: it demands one, and ours is right, or wrong or missing."""


class Admission(NamedTuple):
    """How a cluster is to be joined."""

    address: str
    """HOST:PORT of its head (GCS), or the URL of its dashboard."""
    mode: Literal["token", "disabled"]
    """For RAY_AUTH_MODE; a cluster that demands no token is not shown ours either."""
    only_here: bool
    """Whether it listens to this machine only."""


def admit(address: str, *, insecure: bool) -> Admission:
    """How to join the cluster at `address`, having found out whether it demands a token and takes ours.

    Args:
        address: HOST:PORT of the head, or `auto` for the cluster that a node of this machine belongs to.
        insecure: whether a cluster without a token may be joined beyond this machine.

    Raises:
        EnvironmentProblem: it cannot be reached, does not take our token, or lets in everybody.
    """
    host, port = _host_and_port(_found() if address == "auto" else address)
    token = existing_token()
    why = ""
    for candidate, only_here in _ways_to(host):
        where = f"{_bracketed(candidate)}:{port}"
        try:
            answer = ask_gcs(where, token)
        except EnvironmentProblem as error:
            why = str(error)  # the last one is about 127.0.0.1, of which the user spoke
            continue
        _check(answer, address, token, insecure=insecure or only_here)
        return Admission(where, "disabled" if answer == "open" else "token", only_here)
    raise EnvironmentProblem(why)


def admit_dashboard(url: str, *, insecure: bool) -> Admission:
    """As `admit`, for the address of a dashboard, which takes jobs: http://HOST:8265.

    One on 127.0.0.1 gets no pardon: it is where dashboards listen whose clusters listen everywhere, and where tunnels
    to other machines end.

    Raises:
        EnvironmentProblem: it cannot be reached, does not take our token, or lets in everybody.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise EnvironmentProblem(f"{one_line(url)}: not the address of a dashboard; give http://HOST:8265")
    token = existing_token()
    answer = ask_dashboard(url, token)
    _check(answer, url, token, insecure=insecure)
    return Admission(url, "disabled" if answer == "open" else "token", only_here=False)


def _check(answer: Answer, address: str, token: str | None, *, insecure: bool) -> None:
    address = one_line(address)
    if answer == "open" and not insecure:
        raise EnvironmentProblem(
            f"the cluster at {address} demands no token: everybody who reaches it can run code there. Start all its "
            f"nodes with {MODE}=token and one token ({DOCUMENT}), or accept that with --insecure"
        )
    if answer == "refused" and token is None:
        raise EnvironmentProblem(
            f"the cluster at {address} demands a token, and there is none here: copy the one of its head "
            f"(`ray get-auth-token` there) to {TOKEN_FILE}, mode 0600, or name its file in {TOKEN_PATH}"
        )
    if answer == "refused":
        raise EnvironmentProblem(
            f"the cluster at {address} does not take the token from {token_source()}: copy the one of its head there "
            "(`ray get-auth-token` on the head), mode 0600"
        )


def ask_gcs(address: str, token: str | None) -> Answer:
    """Whether the head at HOST:PORT demands a token, and whether it is this one; it sees the token only if it does.

    Raises:
        EnvironmentProblem: no Ray of a kind that we know answers there.
    """
    import grpc

    credentials = _certificates()
    options = [("grpc.enable_http_proxy", 0)]
    channel = (
        grpc.insecure_channel(address, options=options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options=options)
    )

    def ask(metadata: Sequence[tuple[str, str]]) -> bool:
        try:
            channel.unary_unary(METHOD)(b"", timeout=PATIENCE_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            raise EnvironmentProblem(_why_not(address, error)) from error
        return True

    with channel:
        if ask(()):
            # Certificates that both sides demand are as good as a token.
            return "open" if credentials is None else "accepted"
        return "accepted" if token is not None and ask((("authorization", f"Bearer {token}"),)) else "refused"


def _certificates() -> Any:
    """What Ray's own variables say of TLS, None where it is off."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    import grpc

    names = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT")
    if missing := [name for name in names if name not in os.environ]:
        raise EnvironmentProblem(f"RAY_USE_TLS is set and {missing[0]} is not; name the file in it")
    try:
        authority, key, chain = (Path(os.environ[name]).read_bytes() for name in names)
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename}: cannot be read ({error.strerror}); see RAY_TLS_*") from error
    return grpc.ssl_channel_credentials(authority, key, chain)


def _why_not(address: str, error: Any) -> str:
    """What a failed call means, in one line."""
    import grpc

    details = str(error.details() or "")
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        why = f"no answer within {PATIENCE_S:g} s"
    elif "HTTP/2" in details or "http1" in details:
        return f"{address} is no head of Ray but a page; give HOST:{GCS_PORT}, and a dashboard to --submit"
    elif error.code() == grpc.StatusCode.UNIMPLEMENTED:
        return f"{address} is no head of Ray; give HOST:{GCS_PORT}"
    else:
        why = one_line(details.rpartition(": ")[2]) or error.code().name.lower()
    return (
        f"no Ray answers at {address} ({why}); start the head (ray start --head), open its port in the firewall, or "
        "give another --address"
    )


def ask_dashboard(url: str, token: str | None) -> Answer:
    """Whether the dashboard at `url` demands a token for its jobs, and whether it is this one.

    Raises:
        EnvironmentProblem: no dashboard of Ray answers there.
    """
    status = _status_of_jobs(url, None)
    if status == 200:
        return "open"
    if status in (401, 403):
        return "accepted" if token is not None and _status_of_jobs(url, token) == 200 else "refused"
    raise EnvironmentProblem(f"{one_line(url)}: HTTP {status}; is it a Ray dashboard?")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is for the address that it was given to."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _status_of_jobs(url: str, token: str | None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(
            urllib.request.Request(url.rstrip("/") + JOBS, headers=headers), timeout=PATIENCE_S
        ) as response:
            json.load(response)
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        why = reason.strerror if isinstance(reason, OSError) and reason.strerror else first_line(error)
        raise EnvironmentProblem(
            f"no dashboard of Ray answers at {one_line(url)} ({one_line(why)}); give http://HOST:8265"
        ) from error


# --- addresses


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach that host."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    return False


def own_address() -> str | None:
    """The address under which others reach this machine; Ray takes it for its nodes. None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.connect(FAR_AWAY)
        except OSError:
            return None
        own = str(udp.getsockname()[0])
    return None if is_loopback(own) else own


def _ways_to(host: str) -> list[tuple[str, bool]]:
    """Under which addresses a head may be found, and whether it is for this machine only if it is found there.

    A head that answers on 127.0.0.1 usually listens everywhere, which is tried first.
    """
    if not is_loopback(host):
        return [(host, False)]
    own = own_address()
    return [*([] if own is None else [(own, False)]), ("127.0.0.1", True)]


def _host_and_port(address: str) -> tuple[str, int]:
    wrong = f"--address {one_line(address)}: not an address; give HOST:PORT of the head, or `auto`"
    if address.startswith("ray://"):
        raise EnvironmentProblem(
            f"--address {one_line(address)}: a search does not run through Ray Client; run it on a node of the "
            f"cluster with --address HOST:{GCS_PORT}, or hand it over with --submit http://HOST:8265"
        )
    if address.startswith("http"):
        raise EnvironmentProblem(
            f"--address {one_line(address)}: that is a dashboard; give HOST:{GCS_PORT}, or hand the search over with "
            f"--submit {one_line(address)}"
        )
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is none, for one
        raise EnvironmentProblem(wrong) from None
    if not host or parts.netloc != address or parts.username is not None or not HOST.fullmatch(host):
        raise EnvironmentProblem(wrong)
    return host, port or GCS_PORT


def _found() -> str:
    """The cluster of this machine, as Ray finds it: RAY_ADDRESS, or the node that was started here last."""
    named = os.environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto", "local"):
        return named
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError) as error:
        found, why = None, first_line(error)
    else:
        why = "none was started"
    if found is None:
        raise EnvironmentProblem(
            f"--address auto: no Ray cluster has a node on this machine ({one_line(why)}); start one with "
            "`ray start`, or give HOST:PORT of the head"
        )
    return str(found)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


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
