"""Secrets of an environment, each with a value of its own that nothing may write down."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

NAMES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("GOOGLE_API_KEY", "GOOGLE_CLIENT_SECRET", "GCLOUD_ACCESS_TOKEN"),
    *("AZURE_CLIENT_SECRET", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "COMET_API_KEY", "NEPTUNE_API_TOKEN", "PGPASSWORD"),
)
SECRETS = {name: f"canary-of-{name.lower()}-7b1f" for name in NAMES}
# Addresses with passwords in them.
SECRETS |= {
    "DATABASE_URL": "postgresql://lab:canary-of-database-7b1f@db/runs",
    "REIDSEARCH_NOTIFY": "http://127.0.0.1:1/canary-of-notify-7b1f",
    "PIP_INDEX_URL": "https://lab:canary-of-packages-7b1f@packages.invalid/simple",
}
CANARIES = tuple(value.rpartition("@")[0].rpartition(":")[2] or value for value in SECRETS.values())


def telling(paths: Iterable[Path], *others: str, since: float = 0.0) -> tuple[list[str], set[str]]:
    """Files that hold a canary or one of the `others`, with what they hold; and the names of all that were read.

    Args:
        paths: files and what is none, which is passed over.
        others: more that no file may hold.
        since: files that were changed last before this time, in seconds since 1970, are passed over.
    """
    words = [word.encode() for word in (*CANARIES, *others)]
    found, read = [], set()
    for path in paths:
        try:
            if not path.is_file() or path.stat().st_mtime < since:
                continue
            content = path.read_bytes()
        except OSError:  # another search of this user ends
            continue
        read.add(path.name)
        found += [f"{path}: {word.decode()}" for word in words if word in content]
    return found, read


def told(text: str) -> list[str]:
    """The canaries that a text holds."""
    return [word for word in CANARIES if word in text]
