"""The report's page of a search that goes on: read when its journal has grown, its charts made when they are seen."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlencode

from orchestrator.show.logs import news
from orchestrator.show.report import charts, model_charts, page, tables
from orchestrator.show.report.evaluations import FOLDER, PICTURES, EvaluationView, read_evaluation, webp
from orchestrator.show.report.model import LEAST_TRIALS, ModelProcess, ModelView
from orchestrator.show.report.parallel_chart import parallel_chart
from orchestrator.show.report.report_data import ReportData
from orchestrator.show.search_text import progress_parts, running_trials, summary_line
from orchestrator.stores.base import SearchFolder, StorageProblem
from orchestrator.study.study import Trial
from orchestrator.summary import SearchReader, Summary
from orchestrator.summary.costs import share_done

EVENTS = 30
SHARE = 0.05  # of a core that a search which goes on takes at most while somebody looks
GROWTH = 1.1  # times as many completed trials after which Ax's model, which takes many seconds, is asked again
LATER_S = 2.0  # after which that begins: importing what it needs would keep the page from being painted
ASKED = ModelView([], "Ax's model is being asked, which takes some seconds")


class SearchPage:
    """One search between requests: what was read of its journal, and its page as of the last change."""

    def __init__(self, folder: SearchFolder, link: Link, *, images: bool) -> None:
        """Links of the page are made by `link`; pictures of real people are in it with `images`."""
        self._reader, self._link, self._images = SearchReader(folder), link, images
        self._lock = threading.Lock()
        self._stamp: tuple[object, ...] = ()
        self._report: ReportData | None = None
        self._texts: dict[str | None, str] = {}
        self._figures: dict[str, Callable[[], Any] | str] = {}
        self._not_before, self._spent = 0.0, 0.0
        self._model, self._fitted = ASKED, 0
        self._evaluations: dict[tuple[str, int], EvaluationView | None] = {}
        self._thread: threading.Thread | None = None
        self._stopping: tuple[str | None, ...] = ()  # trials, or the search, that are asked to stop

    def text(self, trial: str | None, **values: Any) -> str:
        """The page, with the evaluation of a trial, or of the best one."""
        with self._lock:
            began = time.thread_time()
            report = self._current()
            if trial not in self._texts:
                self._texts[trial] = self._rendered(report, trial, values)
            self._spent += time.thread_time() - began
            return self._texts[trial]

    def figure(self, name: str) -> str | None:
        """A figure of the page as JSON; None where it has none of this name."""
        with self._lock:
            began = time.thread_time()
            found = self._figures.get(name)
            if callable(found):
                found = self._figures[name] = json.dumps(page.plain(found()), allow_nan=False, separators=(",", ":"))
            self._spent += time.thread_time() - began
            return found

    def csv(self) -> str:
        """All trials as CSV."""
        with self._lock:
            return tables.csv_text(self._current())

    def picture(self, trial: str, name: str, problems: list[str]) -> bytes | None:
        """A sheet of a trial; None where there is none, where it shows real people unasked, or with a problem.

        Raises:
            SearchError: there is no such trial.
        """
        with self._lock:
            summary = self._current().summary
        key, folder = summary.trial(trial).key, summary.folder
        if name not in PICTURES or not (self._images or summary.description.synthetic):
            return None
        folder.store.pull_trial(folder, key, f"{FOLDER}/{PICTURES[name]}")
        return webp(folder.trial(key) / FOLDER / PICTURES[name], problems)

    @contextlib.contextmanager
    def stopping(self, trial: str | None) -> Iterator[None]:
        """Shows that a trial, or the search where it is None, is asked to stop; then at once what became of it."""
        self._stopping += (trial,)
        self._not_before = 0.0
        try:
            yield
        finally:
            self._stopping = tuple(each for each in self._stopping if each != trial)
            self._not_before = 0.0

    def _current(self) -> ReportData:
        """The search as it is now or, where it takes long to read and to draw, as it was shortly before."""
        folder = self._reader.folder
        found = folder.journal.stat()
        known = (id(self._model), len(self._evaluations), self._stopping)
        stamp = (found.st_ino, found.st_size, folder.store.driver(folder), *known)
        if self._report is None or (stamp != self._stamp and time.monotonic() >= self._not_before):
            self._not_before, self._spent = time.monotonic() + self._spent / SHARE, 0.0
            summary = self._reader.read()
            self._report = ReportData(summary, None, model=self._model)
            self._stamp, self._texts, self._figures = stamp, {}, {}
            self._look_further(summary)
        return self._report

    def _rendered(self, report: ReportData, trial: str | None, values: dict[str, Any]) -> str:
        summary = report.summary
        report.evaluation = self._evaluation(summary, trial)
        is_running = summary.state == "running"
        return page.render(
            "dashboard.html.j2",
            report=report,
            title=summary.name,
            live=True,
            done=share_done(summary.study, summary.space),
            now_line=", ".join(progress_parts(summary)) if is_running else summary_line(summary, best=False),
            running=running_trials(summary),
            stopping=self._stopping,
            events=news(self._reader.recent)[:EVENTS],
            charts=_Later(charts),
            model_charts=_Later(model_charts),
            parallel_chart=partial(partial, parallel_chart),
            later=partial(self._keep, trial),
            csv_uri=self._link(f"{summary.folder.name}/trials.csv"),
            **values,
        )

    def _keep(self, trial: str | None, place: str, figure: Callable[[], Any]) -> str:
        """Keeps a chart that the browser asks for when it comes near the screen; its address."""
        name = f"{trial or 'best'}-{place}"
        self._figures[name] = figure
        return self._link(f"{self._reader.folder.name}/figures/{name}")

    def _evaluation(self, summary: Summary, trial: str | None) -> EvaluationView | None:
        """The evaluation of a trial; of the best one only once a thread has read it."""
        if trial is None and summary.best is None:
            return None
        asked = summary.trial(trial or "best")
        key = (asked.key, asked.epoch)
        if trial is not None and key not in self._evaluations:
            self._evaluations[key] = read_evaluation(summary.folder, trial, pictures=False)
        if (found := self._evaluations.get(key)) is None or not (self._images or summary.description.synthetic):
            return found
        place = summary.folder.trial(asked.key) / FOLDER
        there = [name for name, file in PICTURES.items() if (place / file).is_file()]
        return found._replace(
            pictures={name: self._link(f"{summary.folder.name}/{asked.key}/{name}") for name in there}
        )

    def _look_further(self, summary: Summary) -> None:
        """Starts a thread for what takes seconds and is not known yet: the best trial's evaluation, Ax's model."""
        completed, best = summary.counts["completed"], summary.best
        if best is None or (self._thread is not None and self._thread.is_alive()):
            return
        grown = completed > self._fitted * (GROWTH if summary.state == "running" else 1) and completed >= LEAST_TRIALS
        if grown or (best.trial.key, best.trial.epoch) not in self._evaluations:
            self._thread = threading.Timer(LATER_S, self._further, args=(summary, best.trial, grown))
            self._thread.daemon = True
            self._thread.start()

    def _further(self, summary: Summary, best: Trial, grown: bool) -> None:
        folder = summary.folder
        found = None
        with contextlib.suppress(StorageProblem):
            found = read_evaluation(folder, best.key, pictures=False)
        self._evaluations[best.key, best.epoch] = found
        if grown:
            with ModelProcess(folder.logs / "report.log" if folder.logs.is_dir() else None) as process:
                process.ask(summary)
                self._model, self._fitted = process.answer(summary), summary.counts["completed"]


class Link:
    """Makes addresses relative to the page, with the token."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, path: str = "", **query: str) -> str:
        """The address of a path, or of the page itself."""
        return f"{path}?{urlencode({'token': self.token, **query})}"


class _Later:
    """A module of charts: a call of one of its functions gives a function that makes the chart."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return partial(partial, getattr(self._module, name))
