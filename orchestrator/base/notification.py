"""Tells a person's own command or webhook that a search has ended; what is told is one line."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import urllib.error
import urllib.request

from orchestrator.base.project import default
from orchestrator.base.uris import without_passwords
from trainer.child import start_child
from trainer.formatting import one_line

TIMEOUT_S = 20.0
MESSAGE = "REIDSEARCH_MESSAGE"
"""Environment variable of the command: the text."""


def notify(text: str) -> str | None:
    """Tells it; returns why that failed, without the command or the address, which may be secrets, or None.

    Does nothing without `notify` in the environment or in a project file.
    """
    wanted = default("notify")
    if wanted is None:
        return None
    text = without_passwords(one_line(text))
    if wanted.value.startswith(("http://", "https://")):
        problem = _post(wanted.value, text)
    else:
        problem = _run(wanted.value, text)
    return None if problem is None else f"notify of {wanted.origin}: {problem}"


def _post(address: str, text: str) -> str | None:
    body, kind = json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return f"the webhook answered {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:  # whose texts may hold the address
        return f"the webhook was not reached ({type(error).__name__})"


def _run(command: str, text: str) -> str | None:
    pipe, silent = subprocess.PIPE, subprocess.DEVNULL
    try:
        child = start_child(
            ["sh", "-c", command], {**os.environ, MESSAGE: text}, stdin=pipe, stdout=silent, stderr=silent
        )
    except OSError as error:
        return f"no shell could be started ({error.strerror})"
    try:
        child.communicate(text.encode() + b"\n", timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return f"the command was ended after {TIMEOUT_S:.0f} s"
    return f"the command ended with {child.returncode}" if child.returncode else None
