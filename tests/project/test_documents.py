"""Every command of the documentation is one, and does what is shown; its notebook runs; its reference is that of the
code; what it names is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import nbformat
import pytest
from documented import (
    LANGUAGES,
    PAGES,
    ROOT,
    Command,
    block_commands,
    comparable,
    fences,
    inline_commands,
    named_places,
    steps,
)
from miniatures import write_miniature
from nbclient import NotebookClient
from searches import a_search

from orchestrator import Search, load, reference
from orchestrator.__main__ import cli, run
from orchestrator.cli.options import LaunchOptions, ResumeOptions
from orchestrator.stores.base import SearchFolder
from trainer.__main__ import parser as trainer_parser
from trainer.__main__ import run as run_trainer
from trainer.data.synthetic.dataset import write_synthetic

NOTEBOOK = ROOT / "docs/tutorial.ipynb"
DATA = "runs/mini-mars-tiny"
"""The data of the finished search."""
LONG = ("handing-on.md",)
"""Pages whose commands take long; most of their verbs are on other pages, too."""
DRAWN = ("demo.yaml", "mine.yaml")
"""Spaces that draw their data."""

# What becomes of a command of a block. One that none of these takes, or two, fails a test: put it where it belongs.
RUN = "run with data and searches that are at hand"
UNDRIVEN = "run up to the training, in whose place a finished search is put"
PARSED = "only parsed"
WAYS = {
    RUN: (
        r"reidsearch (status|report|compare|tables|simulate|logs|export|reproduce|completion|doctor|evaluate|train)\b",
        r"reidsearch (config show|data (check|import|stats|preview|pack)|purge)\b",
        r"reidsearch space (check|show|sample|diff|schema)\b",
        r"reidsearch cluster (slurm|k8s|ray-up)\b",
        r"python -m trainer (fit|evaluate|compare|embed) ",
        r"python -m orchestrator\.reference\b",
        r"eval \$\(reidsearch completion ",
    ),
    UNDRIVEN: (r"reidsearch (launch(?!.* --submit)|finalize)\b",),
    # They do not end, train for minutes, are the shell's, or have a test of their own (test_exported.py).
    PARSED: (r"reidsearch (ui|dashboard|ablate|cluster plan|launch .*--submit|embed|match)\b", r"make ", r"source "),
}
SEARCH_FIRST = ("status", "report", "tables", "simulate", "logs", "export", "reproduce", "purge", "finalize", "compare")
BESIDE = {
    "report": ["--without-model"],
    "purge": ["--yes", "--keep-mlflow"],  # a copy of a storage names the first one's MLflow files
}
"""Arguments that a command gets beside those shown."""


def block(command: Command) -> str:
    return f"{command.page}: {command}"


BLOCK_COMMANDS = [command for page in PAGES for command in block_commands(page)]
SHOWN = [*BLOCK_COMMANDS, *(command for page in PAGES for command in inline_commands(page))]


# What is written


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fenced_block_says_what_it_is(page: Path) -> None:
    assert {language for language, _ in fences(page)} <= set(LANGUAGES)


@pytest.mark.parametrize("command", dict.fromkeys(BLOCK_COMMANDS), ids=block)
def test_every_command_of_a_block_is_in_one_category(command: Command) -> None:
    found = [way for way, patterns in WAYS.items() if any(re.match(pattern, str(command)) for pattern in patterns)]
    assert len(found) == 1, found


@pytest.mark.parametrize("command", dict.fromkeys(SHOWN), ids=block)
def test_every_command_shown_is_one_with_all_its_options(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # a storage by URI has a folder there
    check(list(command.words), whole=command in BLOCK_COMMANDS)


def check(words: list[str], *, whole: bool) -> None:
    """Fails where a program, a verb, an option or a file of a command line is not there.

    Args:
        words: of the command line.
        whole: whether required arguments have to be there, too, which running text may leave out.
    """
    words = words[: words.index(">")] if ">" in words else words
    if words[0] == "eval":
        words = shlex.split(words[1].strip("$()"))
    match words:
        case ["reidsearch", *arguments]:
            check_reidsearch(arguments, whole=whole)
        case ["python", "-m", "trainer", *arguments]:
            check_trainer(arguments)
        case ["python", "-m", module, *options]:
            check_options(ROOT / f"{module.replace('.', '/')}.py", options)
        case ["python", "-c", program]:
            compile(program, "documentation", "exec")
        case ["python", file, *options]:
            check_options(ROOT / file, options)
        case ["pytest", *arguments]:
            files = [word for word in arguments if word.startswith("tests/")]
            assert files
            assert all((ROOT / file).is_file() for file in files)
        case ["make", *targets]:
            made = (ROOT / "Makefile").read_text("utf-8")
            assert all(re.search(rf"^{target}:", made, re.MULTILINE) for target in targets if "=" not in target)
        case ["source", file]:
            assert file == ".venv/bin/activate"
        case _:
            raise AssertionError(f"an unknown program: {words[0]}")


def check_reidsearch(arguments: list[str], *, whole: bool) -> None:
    group: click.Command = cli
    context = click.Context(cli, info_name="reidsearch")
    while isinstance(group, click.Group):
        name, *arguments = arguments
        found = group.get_command(context, name)
        assert found is not None, name
        context, group = click.Context(found, parent=context, info_name=name), found
    try:
        group.make_context(context.info_name, list(arguments), parent=context.parent)
    except click.MissingParameter:
        assert not whole
    except click.BadOptionUsage:  # an option without its value
        assert not whole


def check_trainer(arguments: list[str]) -> None:
    if arguments:
        trainer_parser().parse_args(arguments)


def check_options(file: Path, words: list[str]) -> None:
    source = file.read_text("utf-8")
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in source, option


@pytest.mark.parametrize(
    "line",
    [
        "reidsearch lunch --space demo.yaml",
        "reidsearch launch --spaec demo.yaml",
        "reidsearch status --watch=no",
        "reidsearch simulate NAME --stopping median",
        "python -m trainer fti trial.yaml",
        "python -m benchmarks.bench_nothing",
        "python tests/helpers/chaos.py journal --kill 3",
        "pytest tests/test_nothing.py",
        "make dinner",
        "rm -rf runs",
    ],
)
def test_a_command_that_is_none_is_found(line: str) -> None:
    with pytest.raises((AssertionError, click.UsageError, SystemExit, FileNotFoundError)):
        check(shlex.split(line), whole=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_that_a_page_names_are_there(page: Path) -> None:
    for file, name in named_places(page):
        assert (ROOT / file).is_file(), file
        assert name in (ROOT / file).read_text("utf-8"), f"{file}: {name}"


def test_the_site_has_no_broken_link_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    # Not --quiet: mkdocs 1.6 then lets warnings pass that fail a strict build.
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", tmp_path]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        assert not re.search(
            r'<(?:link|script|img|iframe)\b[^>]* (?:src|href)="(?:https?:)?//', page.read_text("utf-8")
        ), page


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[\w-]+)?\)", (ROOT / "README.md").read_text("utf-8")):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if "python" in dict(fences(page))], ids=lambda page: page.name)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finished(verb: str, name: str, given: LaunchOptions | ResumeOptions, **_: object) -> Search:
        a_search(tmp_path / "runs" / name)
        return load(name)

    monkeypatch.setattr("orchestrator.notebook._run", finished)
    monkeypatch.chdir(tmp_path)
    for language, text in fences(page):
        if language == "python":
            subject: dict[str, object] = {}
            exec(compile(text, page.name, "exec"), subject)  # noqa: S102 - the documentation's
            assert isinstance(subject["search"], Search)


# The reference


def test_the_reference_is_that_of_the_code() -> None:
    assert reference.stale(ROOT / "docs/reference") == [], "run: python -m orchestrator.reference --write"


def test_the_reference_holds_every_command_option_and_setting() -> None:
    from orchestrator.space.schema import trainer_settings

    written = reference.pages()
    for name, command in reference.all_commands(cli):
        assert f"\n## {name}\n" in written["cli.md"]
        assert all(option.opts[0] in written["cli.md"] for option in command.params if isinstance(option, click.Option))
    assert all(f"| `{path}` |" in written["settings.md"] for path in trainer_settings())


def test_a_page_of_the_reference_that_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    for name, text in reference.pages().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert reference.stale(tmp_path) == []
    (tmp_path / "cli.md").write_text("changed", encoding="utf-8")
    assert reference.stale(tmp_path) == ["cli.md"]


OTHERS_MESSAGES = (
    "command not found",
    "No such command",
    "No such option",
    "No space left on device",
    "not authenticated",
)
"""Messages of the shell, of Click, of the system and of MLflow."""


def test_the_messages_in_troubleshooting_are_those_of_the_code() -> None:
    files = [*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]
    source = re.sub(r'"\s*(?:\+ )?f?"', "", "\n".join(file.read_text("utf-8") for file in files))
    source = re.sub(r"\{[^{}]*\}", "…", source).replace("{{", "{").replace("}}", "}")
    source += (ROOT / "Makefile").read_text("utf-8")
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8").partition("\n## Installation\n")[2]
    for heading in re.findall(r"^### (.*)$", page, re.MULTILINE):
        if not any(message in heading for message in OTHERS_MESSAGES):
            assert [part for part in re.split("[…`]", heading) if part.strip(" :;,") not in source] == []


# The notebook, and the commands on the search that it leaves


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the notebook was executed."""
    folder = tmp_path_factory.mktemp("notebook")
    cells = nbformat.read(NOTEBOOK, as_version=4)
    # Fails with the cell's traceback where one raises.
    NotebookClient(cells, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.write(cells, folder / "executed.ipynb")
    return folder


def test_the_notebook_is_valid_and_committed_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(cells)
    assert all(not cell.outputs and cell.execution_count is None for cell in cells.cells if cell.cell_type == "code")


@pytest.mark.e2e
def test_the_notebook_runs_a_search_and_shows_it(notebook: Path) -> None:
    search = load("first", notebook / "runs")
    assert search.state == "finished"
    assert len(search.trials) == 4
    cells = nbformat.read(notebook / "executed.ipynb", as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    lines = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "trial=t0000 completed" in lines
    assert "\x1b" not in lines, "the kernel is no terminal"
    kinds = {kind for output in outputs if "data" in output for kind in output.data}
    assert {"text/html", "image/png"} <= kinds


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of the demo, and that of a page with another layout."""
    folder = tmp_path_factory.mktemp("drawn")
    write_synthetic(folder / "mini-mars-demo", size="demo", seed=0, workers=1)
    write_miniature("prid2011", folder / "prid2011")
    return folder


class Home:
    """A folder where the commands of a page are run, with copies of the finished search under every name they use."""

    def __init__(self, folder: Path, finished: Path, drawn: Path) -> None:
        self.folder = folder
        self.drawn = drawn
        self.finished = finished / "runs/first"
        runs = folder / "runs"
        runs.mkdir()
        (runs / "mini-mars-demo").symlink_to(drawn / "mini-mars-demo")
        (runs / "mini-mars-tiny").symlink_to(finished / "runs/mini-mars-tiny")
        shutil.copy(finished / "runs/mlflow.db", runs)
        self.evaluated: Path | None = None
        best = load("first", finished / "runs").best
        assert best is not None
        self.not_best = "t0001" if best["trial"] == "t0000" else "t0000"

    def search(self, name: str) -> None:
        """Makes a copy of the finished search, if there is none of this name yet."""
        copy = self.folder / "runs" / name
        if not copy.exists():
            shutil.copytree(self.finished, copy)
            description = copy / "search.yaml"
            description.write_text(description.read_text().replace("search: first\n", f"search: {name}\n"))

    def run_of(self, path: str) -> None:
        """Makes what a path below `runs/` needs: a search, a run of the trainer, or an evaluation like the last one."""
        name = path.split("/")[1]
        if "/trials/" in path:
            self.search(name)
        elif path.endswith("/evaluation") and self.evaluated is not None and not (self.folder / path).exists():
            shutil.copytree(self.evaluated, self.folder / path)
        elif not path.endswith("/evaluation") and not (self.folder / "runs" / name).exists():
            trial = self.finished / "trials/t0000"
            shutil.copytree(trial, self.folder / "runs" / name, ignore=shutil.ignore_patterns("evaluation"))

    def adapted(self, words: list[str]) -> list[str]:
        """The command with data and searches that are here in place of those that it names."""
        if words[1] == "cluster":
            return words
        launches, checks = words[:2] == ["reidsearch", "launch"], words[:3] == ["reidsearch", "data", "check"]
        if launches and "--data" not in words and not set(DRAWN) & set(words):
            words = [*words, "--data", "/data/mars"]
        if words[:2] == ["reidsearch", "compare"] and not any("/" in word for word in words[2:4]):
            words = [*words[:3], f"{words[3]}/{self.not_best}", *words[4:]]  # equal searches would not differ
        found: list[str] = []
        for before, word in zip(["", *words], words, strict=False):
            if before == "--address" or word == "--address" or "model.weights=" in word:
                if "model.weights=" in word:
                    found.pop()
            elif word == "/data/prid2011" and checks:
                found += [str(self.drawn / "prid2011"), "--any-counts"]
            elif word == "/data/prid2011" and words[1] in ("evaluate", "finalize"):
                found.append(str(self.drawn / "prid2011"))
            elif word.startswith(("/data/", "/shared/mars")) or word == "FOLDER":
                found.append("mini-mars" if launches else DATA)
            elif word.startswith("s3://"):
                found.append("runs")
            elif word.startswith(("/scratch/", "/shared/")):
                found.append(word.rpartition("/")[2])
            else:
                found.append(word)
        return [self.known_trial(word) for word in found] + BESIDE.get(words[1], [])

    def known_trial(self, word: str) -> str:
        """Trials that the finished search does not have become ones that it has, different ones different."""
        known = {"t0007": "t0001", "t0009": "t0002"}
        return re.sub(r"\bt\d{4}\b", lambda match: known.get(match.group(), match.group()), word)

    def prepare(self, words: list[str]) -> None:
        """Makes the searches and runs that the command names."""
        match words:
            case ["reidsearch", verb, *arguments] if verb in SEARCH_FIRST:
                named = [word.partition("/")[0] for word in arguments if re.match(r"[A-Za-z][\w.-]*(/|$)", word)]
                count = 2 if verb == "compare" else 1
                for name in named[:count]:
                    self.search(name)
            case ["python", "-m", "trainer", *arguments] | ["reidsearch", "evaluate" | "train", *arguments]:
                for before, word in zip(["", *arguments], arguments, strict=False):
                    if word.startswith("runs/") and before != "--out":
                        self.run_of(word)

    def ran(self, words: list[str]) -> None:
        """Remembers the last evaluation."""
        if "evaluate" in words and "--out" in words:
            self.evaluated = self.folder / words[words.index("--out") + 1]


@pytest.fixture
def home(notebook: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = Home(tmp_path, notebook, drawn)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def finished(folder: SearchFolder, *_: object, **__: object) -> int:
        """In place of the training: what it would have left."""
        if not (folder.path / "trials").exists():
            shutil.rmtree(folder.path)
            made.search(folder.name)
        return 0

    monkeypatch.setattr("orchestrator.cli.launch.drive_and_show", finished)
    monkeypatch.setattr("orchestrator.cli.finalize.drive_and_show", finished)
    monkeypatch.setattr("orchestrator.show.dry_run.dry_run_of", lambda *_, **__: None)
    return made


def way_of(command: Command) -> str:
    return next(way for way, patterns in WAYS.items() if any(re.match(each, str(command)) for each in patterns))


@pytest.mark.e2e
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=pytest.mark.long if page.name in LONG else ())
        for page in PAGES
        if block_commands(page) and page.name != "howto-own-data.md"  # run for real by test_own_data_page.py
    ],
)
def test_the_commands_of_a_page_do_what_they_should(page: Path, home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    for language, text in fences(page):
        if language == "yaml" and (name := re.search(r"^name: (\w+)$", text, re.MULTILINE)):
            (home.folder / f"{name.group(1)}.yaml").write_text(text)
    for command in block_commands(page):
        if way_of(command) == PARSED:
            continue
        words = home.adapted(list(command.words))
        home.prepare(words)
        code = perform(words)
        said = capfd.readouterr()
        with capfd.disabled():
            print(f"{page.name}: exit {code}: {command}")
        allowed = (0, 5) if words[1] == "doctor" else (0,)
        assert code in allowed, f"{command}\n{said.out}{said.err}"
        home.ran(words)


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["tutorial.md", "spaces.md"])
def test_a_reader_who_follows_the_page_in_an_empty_folder_sees_what_it_shows(name: str, tmp_path: Path) -> None:
    page = ROOT / "docs" / name
    yaml = next((text for language, text in fences(page) if language == "yaml"), "")
    (tmp_path / "mine.yaml").write_text(yaml)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("REIDSEARCH_STORAGE", None)
    for step in steps(page):
        if step.line.startswith("source "):
            continue
        done = subprocess.run(
            ["bash", "-c", step.line], cwd=tmp_path, env=environment, input="first\n", capture_output=True, text=True
        )
        print(f"{name}: exit {done.returncode}: {step.line}")
        assert done.returncode == 0, done.stdout + done.stderr
        said = [comparable(line) for line in done.stdout.splitlines()]
        assert [line for line in step.shown if comparable(line) not in said] == [], done.stdout


@pytest.mark.e2e
@pytest.mark.long
def test_the_demo_ends_as_the_readme_shows(tmp_path: Path) -> None:
    (step,) = (step for step in steps(ROOT / "README.md") if step.line == "make demo")
    storage = tmp_path / "runs"
    command, folder = ["make", "demo", f"DEMO_STORAGE={storage}"], ROOT
    if not Path(reference.__file__).is_relative_to(ROOT / "orchestrator"):  # a wheel has no Makefile
        command, folder = (
            [str(Path(sys.executable).with_name("reidsearch")), "demo", "--storage", str(storage)],
            tmp_path,
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200)
    print(f"README.md: exit {done.returncode}: {' '.join(command)}\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    said = [without_numbers(line) for line in done.stdout.splitlines()]
    assert [line for line in step.shown if without_numbers(line) not in said] == []


def without_numbers(line: str) -> str:
    """A line of output without what differs between two searches, and between folders."""
    return " ".join(re.sub(r"demo-\w+|\S*/runs|[\w./]*/(?=reidsearch)|-?\d[\d.]*(e-?\d+)?", "#", line).split())


def perform(words: list[str]) -> int:
    """Runs a command line in this process, or one of the project's modules in a process of its own."""
    words = words[: words.index(">")] if ">" in words else words
    if words[0] == "eval":
        words = shlex.split(words[1].strip("$()"))
    if words[0] == "reidsearch":
        return run(words[1:])
    if words[:3] == ["python", "-m", "trainer"]:
        return run_trainer(words[3:])
    return subprocess.run([sys.executable, *words[1:]], check=False, capture_output=True).returncode


def test_the_licence_is_that_of_mit_to_the_letter() -> None:
    text = " ".join((ROOT / "LICENSE").read_text(encoding="utf-8").split())
    assert "hereby granted, free of charge, to any person obtaining a copy of this software" in text
    assert "and to permit persons to whom the Software is furnished to do so" in text
