"""The archive for a report of a defect."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from canaries import SECRETS, told
from searches import a_search

from orchestrator.__main__ import run


def test_an_archive_has_journal_settings_and_logs_without_pictures_names_and_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**SECRETS, "LOGNAME": "maria", "HOME": "/srv/people/maria"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    trial = a_search(tmp_path / "runs/first").trial("t0001")
    (trial / "evaluation").mkdir(parents=True)
    (trial / "evaluation/ranking.png").write_bytes(b"\x89PNG")
    lines = [*SECRETS.values(), "/srv/people/maria/x", "/home/jens/mars: gone", "(/Users/anna/x)", "as maria"]
    (trial / "log.txt").write_text("\n".join(lines))
    assert run(["support", "first"]) == 0
    listed = capsys.readouterr().out
    with zipfile.ZipFile("first-support.zip") as archive:
        texts = {name.removeprefix("first/"): archive.read(name).decode() for name in archive.namelist()}
    assert set(texts) == {"versions.json", "search.yaml", "journal.jsonl", "trials/t0001/log.txt"}
    assert all(name in listed for name in texts)
    assert texts["trials/t0001/log.txt"].splitlines()[-4:] == [
        *("~/x", "/home/USER/mars: gone", "(/Users/USER/x)", "as USER")
    ]
    assert told("".join(texts.values())) == []
