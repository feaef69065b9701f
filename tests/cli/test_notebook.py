"""Searches from a notebook or a program; the notebook of the documentation runs in tests/project/test_documents.py."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from searches import POINT, a_pausing_search, a_search, completed, write_search

import orchestrator
import reidsearch
from orchestrator import Search, commands, launch, load, notebook, resume, searches
from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace

STAND_IN = """\
import signal, sys, time
if "slow" in sys.argv:
    signal.signal(signal.SIGINT, lambda *_: sys.exit("demo: stopped"))
    print("working", flush=True)
    time.sleep(30)
print(" ".join(sys.argv[1:]))
code = [part.removeprefix("code") for part in sys.argv if part.startswith("code")]
sys.exit(int(code[0]) if code else 0)
"""


@pytest.fixture
def search(tmp_path: Path) -> Search:
    a_search(tmp_path / "demo")
    return load("demo", tmp_path)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of `python -m orchestrator`: says its arguments and ends as they ask."""
    (tmp_path / "program").mkdir()
    (tmp_path / "program/orchestrator.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "program"))
    monkeypatch.chdir(tmp_path / "program")
    a_search(tmp_path / "runs/demo")
    return tmp_path / "runs"


def test_the_package_imports_nothing_heavy_and_its_functions_hide_no_module() -> None:
    program = (
        "import sys, orchestrator; light = not {'ray', 'torch', 'ax', 'mlflow', 'pandas'} & set(sys.modules); "
        "from orchestrator import launch, load; light &= not {'ray', 'torch', 'pandas'} & set(sys.modules); "
        "import orchestrator.runner.session; from orchestrator import launch as again; print(light, launch is again)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_reidsearch_has_the_names_of_the_orchestrator() -> None:
    assert dir(reidsearch) == list(reidsearch.__all__) == list(orchestrator.__all__)
    assert all(getattr(reidsearch, name) is getattr(orchestrator, name) for name in reidsearch.__all__)


def test_a_package_without_such_a_name_says_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        orchestrator.lunch  # noqa: B018


def test_a_loaded_search_tells_what_status_tells(search: Search) -> None:
    assert search.best is not None
    assert (search.best["trial"], search.best["value"]) == ("t0001", 0.6)
    assert [trial["trial"] for trial in search.trials] == ["t0000", "t0001"]
    assert search.trials[0]["params"] == POINT
    assert len(repr(search.trial("best"))) < 1000, "without its epochs"
    assert repr(search) == "demo: finished; 2/2 trials completed, best mAP 60.0 (t0001, one seed, not confirmed)"


def test_the_frame_has_a_row_per_trial_with_figures_and_settings(search: Search) -> None:
    frame = search.frame()
    assert list(frame.index) == ["t0000", "t0001"]
    assert list(frame["mAP"]) == [0.4, 0.6]
    assert list(frame["clips.identities"]) == [3, 4]
    assert list(frame["status"]) == ["completed"] * 2


def test_the_frame_of_a_search_that_pauses_has_forecasts(tmp_path: Path) -> None:
    a_pausing_search(tmp_path / "demo")
    frame = load("demo", tmp_path).frame()
    assert list(frame["status"]) == ["paused", "completed", "pending", "stopped"]
    assert (frame["forecast"]["t0000"], frame["forecast_error"]["t0000"]) == (0.5, 0.04)
    assert (frame["epoch"]["t0002"], frame["epochs"]["t0002"]) == (7, 20)
    assert "<th>forecast</th>" in load("demo", tmp_path)._repr_html_()


def test_curves_have_a_column_per_trial_and_a_row_per_epoch(search: Search) -> None:
    curves = search.curves()
    assert curves.index.name == "epoch"
    assert {key: curves[key].iloc[-1] for key in curves} == {"t0000": 0.4, "t0001": 0.6}


def test_a_figure_that_no_trial_has_is_refused_with_those_that_there_are(search: Search) -> None:
    with pytest.raises(SearchError, match=r"demo has no metric 'map' \(there are: .*mAP"):
        search.curves("map")


def test_a_search_without_trials_is_empty_and_has_no_best(tmp_path: Path) -> None:
    write_search(tmp_path / "new", SearchSpace.load("smoke.yaml"), [])
    search = load("new", tmp_path)
    assert search.best is None
    assert search.trials == []
    assert search.frame().empty
    with pytest.raises(SearchError, match="none yet"):
        search.curves()


def test_a_notebook_shows_the_table_with_its_synthetic_mark_and_no_markup_of_others(tmp_path: Path) -> None:
    events = completed(0, 0.4, **{"model.attention_gate": "<script>"})
    write_search(tmp_path / "demo", SearchSpace.load("smoke.yaml"), events)
    shown = load("demo", tmp_path)._repr_html_()
    assert "SYNTHETIC" in shown
    assert "t0000" in shown
    assert "<script>" not in shown


def test_a_format_that_there_is_not_is_answered_with_those_that_there_are(search: Search, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind: 'pdf' is not one of html, md, csv, json"):
        search.report(kind="pdf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form: 'html' is not one of md"):
        search.tables(form="html")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="formats: 'pt' is not one of checkpoint"):
        search.export(tmp_path, "pt")  # type: ignore[arg-type]


def test_a_search_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="nothing"):
        load("nothing", tmp_path)


def test_launch_gives_the_command_all_that_it_was_told(stand_in: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = launch(
        "smoke.yaml", data="mini-mars", name="demo", storage=stand_in, trials=3, settings=["optim.epochs=2"], seed=1
    )
    assert found.name == "demo"
    assert capfd.readouterr().out.split() == [
        *("launch", "--space", "smoke.yaml", "--name", "demo", "--data", "mini-mars", "--trials", "3", "--seed", "1"),
        *("--storage", str(stand_in), "--set", "optim.epochs=2"),
    ]


def test_resume_gives_the_command_all_that_it_was_told(stand_in: Path, capfd: pytest.CaptureFixture[str]) -> None:
    resume("demo", stand_in, retry_failed=True, hang_after=60.5)
    assert capfd.readouterr().out.split() == [
        *("resume", "demo", "--errored", "retry", "--storage", str(stand_in), "--hang-after", "60.5")
    ]
    resume("demo", stand_in, show=False)
    assert capfd.readouterr().out == ""


def test_the_functions_show_the_options_of_the_commands_and_refuse_those_of_a_terminal() -> None:
    shown = inspect.signature(launch).parameters
    assert {"data", "trials", "seed", "gpus_per_trial", "storage", "hang_after"} <= set(shown)
    assert not {"submit", "follow", "dry_run", "file", "strict", "options"} & set(shown)
    assert "        trials: Trials in all, repeats not counted.  [default: the space's]\n" in (launch.__doc__ or "")
    with pytest.raises(TypeError, match="submit is an option of the command line only"):
        launch("smoke.yaml", submit="http://head:8265")
    with pytest.raises(TypeError, match="no argument 'trails' - did you mean 'trials'"):
        launch("smoke.yaml", name="demo", trails=3)
    with pytest.raises(TypeError, match=r"no argument 'epochs'; a setting is given as settings={'optim.epochs': 3}"):
        launch("smoke.yaml", name="demo", epochs=3)


def test_a_space_may_be_a_mapping_and_gives_the_search_its_name(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebook.secrets, "token_hex", lambda size: "00" * size)
    a_search(stand_in / "mine-0000")
    assert launch({"extends": "smoke.yaml", "name": "mine"}, storage=stand_in).name == "mine-0000"
    arguments = capfd.readouterr().out.split()
    assert arguments[arguments.index("--name") + 1] == "mine-0000"
    assert not Path(arguments[arguments.index("--space") + 1]).exists()


def test_a_wrong_space_is_refused_before_anything_starts(stand_in: Path) -> None:
    with pytest.raises(SpaceError, match=r"^settings optim\.epoch=2: "):
        launch("smoke.yaml", storage=stand_in, settings=["optim.epoch=2"])


def test_what_the_command_finds_wrong_is_in_the_error_alone_and_names_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpaceError, match=r"dmeo\.yaml: no such file, .* did you mean 'demo'\?$"):
        launch("dmeo.yaml", name="x")
    wrong = {"extends": "smoke.yaml", "budget": {"trial": 3}, "trainer": {"optim": {"epoch": 3}}}
    with pytest.raises(SpaceError) as caught:
        launch(wrong, name="x")
    assert [problem.partition(": ")[2].split(": ")[0] for problem in caught.value.problems] == [
        *("budget.trial", "trainer.optim.epoch")
    ]
    assert str(caught.value).startswith("the given space: ")
    with pytest.raises(SearchError, match="say where it is with data=DIR"):
        launch("attn_cl.yaml", name="x")
    with pytest.raises(SearchError, match=r"^Invalid value for 'concurrent'"):
        launch("smoke.yaml", name="x", concurrent=0)
    with pytest.raises(SearchError, match=r"^no search 'x' in runs"):
        resume("x")
    assert capfd.readouterr() == ("", "")


def test_settings_are_a_mapping_or_a_list(stand_in: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {
        "optim.epochs": 2,
        "optim.learning_rate": np.float64(1e-5),
        "clips.identities": np.int64(4),
        "data.root": Path("/a b"),
        "replicates": {"seeds": 3},
        "start": [],
        "synthetic": None,
    }
    launch("smoke.yaml", name="demo", storage=stand_in, settings=given)
    told = capfd.readouterr().out
    for setting in ("optim.epochs=2", "optim.learning_rate=1e-05", "clips.identities=4", 'data.root="/a b"'):
        assert f"--set {setting}" in told
    for setting in ('replicates={"seeds": 3}', "start=[]", "synthetic=null"):
        assert f"--set {setting}" in told
    launch("smoke.yaml", name="demo", storage=stand_in, settings=("optim.epochs=2",))
    assert "--set optim.epochs=2" in capfd.readouterr().out
    for wrong in ("optim.epochs=2", [("optim.epochs", 2)]):
        with pytest.raises(TypeError, match=r"settings: .* a mapping such as {'optim.epochs': 10} nor a list"):
            launch("smoke.yaml", name="demo", storage=stand_in, settings=wrong)  # type: ignore[arg-type]


def test_a_space_of_objects_is_refused_with_the_object(stand_in: Path) -> None:
    with pytest.raises(SpaceError, match=r"space: PosixPath\('/x'\) is no text"):
        launch({"extends": "smoke.yaml", "trainer": {"data": {"root": Path("/x")}}}, storage=stand_in)


@pytest.mark.parametrize(("code", "error"), [(1, SearchError), (3, SearchError), (5, EnvironmentProblem)])
def test_a_command_that_fails_raises_its_last_line(stand_in: Path, code: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="--storage"):
        launch("smoke.yaml", name="demo", data=f"code{code}", storage=stand_in, show=False)


@pytest.mark.parametrize("code", [4, 75, 130])
def test_a_search_that_can_be_looked_at_is_given_back_all_the_same(stand_in: Path, code: int) -> None:
    assert launch("smoke.yaml", name="demo", data=f"code{code}", storage=stand_in, show=False).name == "demo"


def test_an_interrupted_call_stops_the_command_and_then_says_so(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The stand-in prints its first line when it listens to signals.
    monkeypatch.setattr(commands, "print", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT), raising=False)
    # As in a kernel; where the tests were started in the background the shell has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="demo: stopped"):
            launch("smoke.yaml", name="demo", data="slow", storage=stand_in)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_launch_that_does_not_wait_raises_what_the_command_finds_wrong(stand_in: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="--storage"):
        launch("smoke.yaml", name="demo", data="code5", storage=stand_in, wait=False, show=False)


def test_all_searches_of_a_storage_are_read_and_a_damaged_one_is_warned_of(search: Search, tmp_path: Path) -> None:
    a_search(tmp_path / "broken")
    (tmp_path / "broken/search.yaml").write_text("search: [")
    with pytest.warns(UserWarning, match=r"broken/search\.yaml"):
        assert [each.name for each in searches(tmp_path)] == ["demo"]


def test_the_charts_of_the_report_are_figures_whose_texts_are_no_markup(tmp_path: Path) -> None:
    write_search(tmp_path / "demo", SearchSpace.load("smoke.yaml"), [*completed(0, 0.4), *completed(1, 0.6)])
    search = load("demo", tmp_path)
    assert {"best so far", "completed"} <= {trace.name for trace in search.plot_trace().data}
    assert {trace.name for trace in search.plot_curves("rank1").data} == {"best: t0001", "completed"}
    assert len(search.plot_parallel().data) > 1
    assert {trace.name for trace in search.plot_cmc().data} == {"t0000", "t0001"}
    with pytest.raises(SearchError, match="no configuration was repeated"):
        search.plot_seeds()
    with pytest.raises(SearchError, match="demo has no metric 'map'"):
        search.plot_curves("map")
    with pytest.raises(SearchError, match="no importance: the model needs 3 completed trials at least"):
        search.plot_importance()


def test_the_commands_are_methods_that_give_the_new_state(search: Search, tmp_path: Path) -> None:
    assert search.extend(trials="+2", settings={"replicates": 3}).space.budget.trials == search.space.budget.trials + 2
    assert search.extend(settings=["budget.trials=90"]).space.budget.trials == 90
    with pytest.raises(SearchError, match="nothing would change"):
        search.extend()
    with pytest.raises(SearchError, match="is over already"):
        search.stop("best")
    assert search.stop().state == search.wait().state == "interrupted"
    assert search.events()[-1].event.kind == "search_extended"
    assert search.report(tmp_path / "report.csv", "csv").path == tmp_path / "report.csv"
    assert "t0001" in search.report(kind="md", model=False).text
    assert search.tables(form="csv").startswith("table,")
    with pytest.raises(SearchError, match="has saved no network"):
        search.best_model()
    with pytest.raises(SearchError, match="has saved no network"):
        search.export(tmp_path / "out")


def test_finalize_gives_the_command_all_that_it_was_told(stand_in: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load("demo", stand_in).finalize(top=1, settings={"evaluation.max_clips": 9})
    assert capfd.readouterr().out.split() == [
        *("finalize", "demo", "--top", "1", "--storage", str(stand_in), "--set", "evaluation.max_clips=9")
    ]
