"""`make release`: builds both distributions into dist/ and tries the wheel in an empty environment and folder."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
UV = (sys.executable, "-m", "uv")
PACKAGES = ("trainer", "orchestrator", "reidsearch", "search_spaces", "cluster")
# A place of the environment that leads to the checkout, or hides that a user lacks it.
NOT_INHERITED = ("PYTHONPATH", "VIRTUAL_ENV", "REIDSEARCH_STORAGE", "REIDSEARCH_DATA")


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """The output of a command; ends this program if it fails."""
    print("+", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}release: exit code {done.returncode}")
    return done.stdout


def check_tag(version: str) -> None:
    """Ends this program if the commit has a tag of a version, and that is not this one."""
    tags = [tag for tag in run("git", "tag", "--points-at", "HEAD").split() if tag.startswith("v")]
    if tags and f"v{version}" not in tags:
        sys.exit(f"release: the tag is {tags[0]} and setup.cfg says version = {version}; change one of them")
    print(f"version {version}, {'tagged' if tags else f'not tagged; git tag v{version} makes it a release'}")


def check_files(wheel: Path) -> None:
    """Ends this program if a tracked file of the packages is missing in the wheel."""
    tracked = run("git", "ls-files", *PACKAGES).split()
    missing = set(tracked) - set(zipfile.ZipFile(wheel).namelist())
    if missing := sorted(name for name in missing if not name.endswith(".dockerignore")):
        sys.exit(f"release: not in the wheel, see packages and package_data in setup.cfg: {', '.join(missing)}")


def try_wheel(wheel: Path) -> None:
    """Installs the wheel into an environment of its own and runs a search of two trials from an empty folder."""
    with tempfile.TemporaryDirectory(prefix="reidsearch-release-") as there:
        python, empty = Path(there) / "venv/bin/python", Path(there) / "empty"
        empty.mkdir()
        run(*UV, "venv", "--quiet", "--python", sys.executable, python.parents[1])
        run(*UV, "pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "constraints.txt", wheel)
        reidsearch = python.with_name("reidsearch")
        tried = ("--version", "space check attn_cl.yaml", "launch smoke.yaml --name first --trials 2", "status first")
        for words in (*tried, "report first --without-model"):
            print(run(reidsearch, *words.split(), folder=empty), end="")
        face = "import reidsearch as rs; print(rs.__file__, rs.load('first'))"
        print(run(python, "-c", face, folder=empty), end="")


def main() -> None:
    """Builds, checks and tries; leaves the files in dist/."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    check_tag(setup["metadata"]["version"])
    shutil.rmtree(DIST, ignore_errors=True)
    run(*UV, "build", "--quiet", "--out-dir", DIST)  # the wheel is made from the source distribution
    (wheel,) = DIST.glob("*.whl")
    check_files(wheel)
    run(*UV, "tool", "run", "twine", "check", "--strict", *DIST.glob("reidsearch-*"))
    try_wheel(wheel)
    print("release:", *(path.relative_to(ROOT) for path in sorted(DIST.glob("reidsearch-*"))))


if __name__ == "__main__":
    main()
