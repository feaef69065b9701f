"""Ray's token, and one probe that tells whether a cluster demands it.

Anyone who can reach a Ray cluster without a token can run code on it, and on every machine that joins it
(CVE-2023-48022). Ray itself joins such a cluster without a warning, and retries a wrong token for 20 s before it fails.
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
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from orchestrator.base.errors import EnvironmentProblem
from trainer.formatting import first_line, one_line

log = logging.getLogger(__name__)

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Ray's own variables: `token` or `disabled`; the token; a file that holds it."""
TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray looks for the token if neither variable is set."""
PRINTABLE_WORD = re.compile("[!-~]+")
TIMEOUT_S, CONNECT_TIMEOUT_S = 5.0, 3.0
GCS_PORT = 6379
DOCUMENT = "docs/security.md"
HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
# Connecting a UDP socket sends nothing; it tells which address of this machine reaches other networks.
OUTSIDE = ("8.8.8.8", 80)

Mode = Literal["token", "disabled"]


# --- the token


def own_token() -> str:
    """The token of this user; generated, in a file of mode 0600, if there is none.

    Raises:
        EnvironmentProblem: the file cannot be read or written, or holds no token.
    """
    return existing_token() or _generated(TOKEN_FILE.expanduser())


def existing_token() -> str | None:
    """The token of this user, looked up in the same order as by Ray; None if there is none.

    Raises:
        EnvironmentProblem: the file cannot be read, or holds no token.
    """
    if token := os.environ.get(TOKEN, "").strip():
        return token
    named = os.environ.get(TOKEN_PATH)
    path = Path(named or TOKEN_FILE).expanduser()
    try:
        token = path.read_text(encoding="ascii", errors="replace").strip()
        if not named:
            _make_private(path)
    except FileNotFoundError:
        if named:
            raise EnvironmentProblem(f"{TOKEN_PATH}={one_line(named)}: no such file") from None
        return None
    except OSError as error:
        raise EnvironmentProblem(f"{path}: Ray's token cannot be read ({error.strerror})") from error
    if not PRINTABLE_WORD.fullmatch(token):
        raise EnvironmentProblem(f"{path}: holds no token; write one word into it, or remove it for a new one")
    return token


def _make_private(path: Path) -> None:
    """Ray 2.60 creates the file with mode 0644."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        path.chmod(0o600)
        log.warning(
            "%s could be read by other users (mode %04o); it is 0600 now. Anyone who read it can use your clusters: "
            "remove it for a new one",
            path,
            mode,
        )


def _generated(path: Path) -> str:
    """Writes a new token; of two processes that do so at once, both return the token of the first."""
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.touch(mode=0o600)
        part.write_text(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
        part.unlink()
        return path.read_text()
    except OSError as error:
        raise EnvironmentProblem(f"{path}: Ray's token cannot be written ({error.strerror})") from error


# --- the probe


class Admission(NamedTuple):
    """How a cluster is to be joined."""

    address: str
    """HOST:PORT of its head (GCS), or the URL of its dashboard."""
    mode: Mode
    """For `RAY_AUTH_MODE`."""
    only_here: bool
    """Whether the head listens on this machine's loopback address only."""


def admit(address: str, *, insecure: bool) -> Admission:
    """Asks the head at HOST:PORT whether it demands a token and accepts ours.

    A head that answers on a loopback address usually listens on all addresses of its machine, which is looked at first.

    Raises:
        EnvironmentProblem: it does not answer, refuses our token, or demands none although others can reach it.
    """
    host, port = _host_and_port(address)
    own = own_address() if is_loopback(host) else None
    if own is not None and answers(own, port):
        host = own
    only_here = is_loopback(host)
    where = f"[{host}]:{port}" if ":" in host else f"{'127.0.0.1' if only_here else host}:{port}"
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return Admission(where, "token" if existing_token() else "disabled", only_here)  # certificates on both sides
    return Admission(where, _probed(head_accepts, where, insecure=insecure or only_here), only_here)


def admit_dashboard(url: str, *, insecure: bool) -> Admission:
    """Asks the dashboard at `url` the same; a loopback address is no excuse, as tunnels to other machines have one.

    Raises:
        EnvironmentProblem: it does not answer, refuses our token, or demands none.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise EnvironmentProblem(f"{one_line(url)}: not the address of a dashboard; give http://HOST:8265")
    mode = _probed(dashboard_accepts, url, insecure=insecure)
    return Admission(url, mode, only_here=False)


def _probed(accepts: Callable[[str, str | None], bool], address: str, *, insecure: bool) -> Mode:
    """The mode to join with. Asks without a token first: a cluster that demands none never sees ours."""
    shown = one_line(address)
    if accepts(address, None):
        if insecure:
            return "disabled"
        raise EnvironmentProblem(
            f"the cluster at {shown} demands no token: anyone who can reach it can run code on it. Start all its "
            f"nodes with {MODE}=token and one token ({DOCUMENT}), or accept that with --insecure"
        )
    token = existing_token()
    if token is None or not accepts(address, token):
        source = TOKEN if os.environ.get(TOKEN) else one_line(os.environ.get(TOKEN_PATH) or str(TOKEN_FILE))
        ours = "there is none here" if token is None else f"it refuses the one in {source}"
        raise EnvironmentProblem(
            f"the cluster at {shown} demands a token, and {ours}: copy the output of `ray get-auth-token` on its "
            f"head to {TOKEN_FILE}, mode 0600, or name its file in {TOKEN_PATH}"
        )
    return "token"


def head_accepts(address: str, token: str | None) -> bool:
    """Whether the head at HOST:PORT answers a call that carries this token, or none.

    Raises:
        EnvironmentProblem: no head of Ray answers there.
    """
    import grpc

    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            call(b"", timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            why = one_line(str(error.details()).rpartition(": ")[2]).rstrip("]") or error.code().name.lower()
            raise EnvironmentProblem(
                f"no Ray head answers at {address} ({why}); start it (ray start --head), open port {GCS_PORT} in the "
                "firewall, or give another --address; a dashboard's URL is for --submit"
            ) from error
    return True


def dashboard_accepts(url: str, token: str | None) -> bool:
    """Whether the dashboard lists its jobs to a request that carries this token, or none.

    Raises:
        EnvironmentProblem: no dashboard of Ray answers there.
    """
    try:
        dashboard_json(url, "/api/jobs/", token)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return False
        raise EnvironmentProblem(f"{one_line(url)}: HTTP {error.code}; is it a Ray dashboard?") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        why = reason.strerror if isinstance(reason, OSError) and reason.strerror else first_line(error)
        raise EnvironmentProblem(
            f"no Ray dashboard answers at {one_line(url)} ({one_line(why)}); give http://HOST:8265"
        ) from error
    return True


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes only to the address that it was given for."""

    def redirect_request(self, *_: Any) -> None:
        return None


def dashboard_json(url: str, path: str, token: str | None) -> Any:
    """The JSON document at a path of a dashboard, requested without a proxy.

    Raises:
        OSError: it cannot be reached, or answers with an HTTP error.
        ValueError: the answer is no JSON.
    """
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    request = urllib.request.Request(url.rstrip("/") + path, headers=headers)
    with opener.open(request, timeout=TIMEOUT_S) as reply:
        return json.load(reply)


# --- addresses


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach that host."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    return False


def own_address() -> str | None:
    """The address by which other machines reach this one; Ray gives it to its nodes. None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.connect(OUTSIDE)
        except OSError:
            return None
        own = str(udp.getsockname()[0])
    return None if is_loopback(own) else own


def answers(host: str, port: int) -> bool:
    """Whether something listens on a TCP port; takes up to `CONNECT_TIMEOUT_S` seconds."""
    with contextlib.suppress(OSError, UnicodeError):  # the latter of names with an empty part
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
        return True
    return False


def _host_and_port(address: str) -> tuple[str, int]:
    with contextlib.suppress(ValueError):  # of a port that is no number
        parts = urlsplit(f"//{address}")
        if parts.hostname and HOST.fullmatch(parts.hostname) and parts.netloc == address and parts.username is None:
            return parts.hostname, parts.port or GCS_PORT
    raise EnvironmentProblem(
        f"--address {one_line(address)}: not the address of a head; give HOST:PORT of the cluster's head, or `auto`, "
        "on one of its nodes. A dashboard (http://HOST:8265) is for --submit; Ray Client (ray://) cannot run a search"
    )
