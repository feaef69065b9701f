"""Single calls of an MLflow server's REST interface, without MLflow's client, which takes seconds to import."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from orchestrator.base.errors import EnvironmentProblem


def call(server: str, path: str, body: dict[str, str] | None = None, *, patience: float) -> Any:
    """What the server answers; `body` is posted.

    Who asks is said as MLflow's own client says it: by the address or MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN.

    Raises:
        EnvironmentProblem: it does not answer within so many seconds, or refuses.
    """
    request = urllib.request.Request(
        f"{without_password(server).rstrip('/')}/api/2.0/mlflow/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **_credentials(server)},
    )
    what = path.partition("?")[0]
    try:
        with urllib.request.urlopen(request, timeout=patience) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise EnvironmentProblem(f"{without_password(server)}: refuses {what} ({error.code} {error.reason})") from error
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"{without_password(server)}: does not answer ({error})") from error


def without_password(uri: str) -> str:
    """The address without the user and the password that it may hold."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _credentials(server: str) -> dict[str, str]:
    parts = urlsplit(server)
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if user:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
