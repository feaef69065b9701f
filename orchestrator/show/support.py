"""`reidsearch support`: an archive of a search for a report of a defect, without pictures, names of users, secrets."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import socket
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.base import provenance
from orchestrator.base.process import SECRETS
from orchestrator.base.uris import without_passwords
from orchestrator.cluster.authentication import existing_token
from orchestrator.runner.trial_spec import CONFIG_FILE, ERROR_FILE, HANG_FILE, LOG_FILE
from orchestrator.stores.base import SearchFolder
from orchestrator.study.journal import encode_fields
from trainer.files import read_regular, replacing

OF_SEARCH = ("search.yaml", "journal.jsonl", "logs/*.log")
OF_TRIALS = (CONFIG_FILE, LOG_FILE, ERROR_FILE, HANG_FILE)
MOST_BYTES = 4 * 2**20  # of the end of a log
MAX_BYTES = 2**30
HOST = re.compile(r"^host: (.+)$|\"(?:host|node)\": ?\"([^\"]+)", re.MULTILINE)  # in search.yaml and the journal
HOMES = re.compile(r"(/home\d*/|/[Uu]sers?/|/u/)[^/\s\"':,;)\]]+")
# In an address, a header or JSON.
GIVEN = re.compile(
    r"(?i)((?:token|api_?key|passw(?:or)?d|secret)\"?\s*[=:]\s*\"?|bearer\s+|hooks\.slack\.com/services/)"
    r"[^\s\"'&,;]+"
)
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|CONNECTION_STRING|API_?KEY|_KEY(_|$)", re.IGNORECASE)
LEAST = 4  # characters of a secret or of a user's name; shorter ones are parts of words


def write_archive(folder: SearchFolder, out: Path) -> list[tuple[str, int]]:
    """Writes the archive; returns the names in it and their bytes.

    Args:
        folder: of a search, which may be running.
        out: a .zip file, replaced if it is there.
    """
    folder.store.pull(folder)
    clean, written = cleaner(_hosts(folder)), []
    with replacing(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _texts(folder):
            text = _cleaned_journal(content, clean) if name == folder.journal.name else clean(content)
            archive.writestr(f"{folder.name}/{name}", text)
            written.append((name, len(text.encode())))
    return written


def _hosts(folder: SearchFolder) -> list[str]:
    """The names of the machines that ran the search, in the order of their use, and of this one."""
    known = "".join(
        read_regular(each, MAX_BYTES).decode(errors="replace") for each in (folder.description, folder.journal)
    )
    return list(dict.fromkeys([*(first or other for first, other in HOST.findall(known)), socket.gethostname()]))


def _texts(folder: SearchFolder) -> Iterator[tuple[str, str]]:
    about = {"platform": platform.platform(), "cores": os.cpu_count(), "commit": provenance.commit()}
    yield "versions.json", json.dumps({**about, **provenance.versions()}, indent=2) + "\n"
    places = [path for pattern in OF_SEARCH for path in sorted(folder.path.glob(pattern))]
    trials = folder.trial("any").parent
    for trial in sorted(trials.iterdir()) if trials.is_dir() else ():
        folder.store.pull_trial(folder, trial.name, *OF_TRIALS)
        places += [path for name in OF_TRIALS if (path := trial / name).is_file()]
    for place in places:
        content = read_regular(place, MAX_BYTES)
        if place.suffix in (".log", ".txt"):
            content = content[-MOST_BYTES:]
        yield str(place.relative_to(folder.path)), content.decode(errors="replace")


def _cleaned_journal(content: str, clean: Callable[[str], str]) -> str:
    """A journal whose texts are cleaned, with checksums that match them again."""

    def cleaned(value: Any) -> Any:
        match value:
            case str():
                return clean(value)
            case list():
                return [cleaned(each) for each in value]
            case dict():
                return {key: cleaned(each) for key, each in value.items()}
        return value

    lines = []
    for line in content.splitlines():
        try:
            fields = json.loads(line)
            del fields["crc"]
        except (ValueError, LookupError, TypeError):  # cut short or damaged
            lines.append(clean(line).encode())
        else:
            lines.append(encode_fields(cleaned(fields)).rstrip(b"\n"))
    return b"\n".join([*lines, b""]).decode()


def cleaner(hosts: Sequence[str]) -> Callable[[str], str]:
    """A function that replaces passwords, secrets of the environment, Ray's token, homes, the user's name and hosts.

    That name is replaced as a part of a path or of an address: elsewhere it may be a word of a search space. The hosts
    become node1, node2 and so on.
    """
    secrets = {value for name, value in os.environ.items() if name in SECRETS or SECRET_NAME.search(name)}
    secrets |= {existing_token() or ""}
    hidden = sorted((each for each in secrets if len(each) >= LEAST), key=len, reverse=True)
    user, home = getpass.getuser(), str(Path.home())
    nodes = {host: f"node{number}" for number, host in enumerate(hosts, 1)}
    machine = re.compile("|".join(rf"(?<![\w.-]){re.escape(host)}(?![\w-])" for host in nodes) or "(?!)")
    name = re.compile(rf"(?<=/){re.escape(user)}(?![A-Za-z0-9])|(?<![A-Za-z0-9]){re.escape(user)}(?=@)")

    def clean(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, "***")
        text = machine.sub(lambda found: nodes[found[0]], text)
        text = GIVEN.sub(r"\1***", HOMES.sub(r"\1USER", without_passwords(text.replace(f"{home}/", "~/"))))
        return text if user == "root" else name.sub("USER", text)

    return clean
