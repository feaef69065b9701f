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
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.cluster.token import TOKEN_FILE, TOKEN_PATH, existing_token, token_source
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
