"""The page on one's own data, followed to the letter, with tracklets that were cut from videos."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from documented import ROOT, block_commands
from miniatures import write_frames
from running import command as reidsearch
from tracked import write_source

from orchestrator.__main__ import run

PAGE = ROOT / "docs/howto-own-data.md"
CAMERAS = ("front door", "back door", "yard 1", "yard 2")
IDENTITIES = {track: f"Person {chr(64 + track)}" for track in range(1, 18)}
FEWER = {"launch": ("--trials", "2"), "finalize": ()}
"""The commands that start Ray, each in a process of its own, with what they get beside the words of the page."""


@pytest.mark.e2e
def test_the_way_from_videos_to_an_exported_network_that_finds_tracklets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_source(Path("videos"), CAMERAS, IDENTITIES)
    assert run(["data", "import", "videos", "tracks"]) == 0
    write_source(Path("cameras"))
    write_frames(Path("people"), [f"{name}/{c}/t/{n}.jpg" for name in "abcd" for c in "xy" for n in (1, 2)])
    said = {}
    for command in block_commands(PAGE):
        words = list(command.words[1:])
        if words[0] in FEWER:
            done = reidsearch(*words, *FEWER[words[0]], cwd=tmp_path)
            code, printed = done.returncode, (done.stdout, done.stderr)
        else:
            capfd.readouterr()
            code, printed = run(words), capfd.readouterr()
        with capfd.disabled():
            print(f"{PAGE.name}: exit {code}: {command}")
        assert code == 0, f"{command}\n{''.join(printed)}"
        said[" ".join(words[:2])] = printed[0]
    (search,) = re.findall(r"`reidsearch (launch attn_cl\.yaml .*?)`", PAGE.read_text())
    monkeypatch.setattr("orchestrator.show.dry_run.run_smoke_test", lambda *_, **__: {}["the data suffice"])
    with pytest.raises(KeyError, match="the data suffice"):
        run([*search.split(), "--set", "model.weights=none", "--dry-run"])
    assert "yard 1" in said["data stats"]
    assert "data      own data: these metrics must not stand beside published results" in said["status mine"]
    assert "| own data |" in said["tables mine"]
    assert "Person" in said["match exported"]
    card = Path("exported/README.md").read_text()
    assert "Per cent (own data)" in card
    assert "Person" not in card
    config = json.loads(Path("exported/config.json").read_text())
    assert config["data"]["name"] == "tracklets"
