"""A search as programs and notebooks see it: its state when it was read, and the commands on it as methods."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.cli.finalize import FinalizeOptions
from orchestrator.commands import RunningCommand, check_options, documented, setting_words
from orchestrator.runner import control
from orchestrator.show.status import status_document
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder, existing_search
from orchestrator.study.description import SearchDescription
from orchestrator.study.journal import Record, read_journal
from orchestrator.study.study import SearchState, Study, Trial
from orchestrator.summary import BEST, Summary, find_trial, read_summary

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from pandas import DataFrame

    from orchestrator.show.compare import Comparison
    from orchestrator.show.export import Export
    from orchestrator.show.report.formats import Written
    from orchestrator.show.report.model import Card, ModelView
    from orchestrator.show.report.report_data import ReportData
    from trainer.export import ExportFormat, LoadedModel

POLL_S = 1.0
# Of `finalize`: what is given otherwise here.
FINALIZE_ELSEWHERE = ("name", "evaluation", "storage", "strict")


@dataclass(frozen=True, repr=False)
class Search:
    """The state of a search when it was read, and what can be done with it.

    A method that changes the search returns its new state; `reload` reads it again.
    """

    summary: Summary
    """All that is known of the search, typed."""
    command: RunningCommand | None = field(default=None, compare=False)
    """The process that runs it, where `launch(wait=False)` or `resume(wait=False)` has started it; else None."""

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.summary.name

    @property
    def state(self) -> SearchState:
        """`running`, `finished`, `interrupted` or `failed`."""
        return self.summary.state

    @property
    def folder(self) -> SearchFolder:
        """The folder of the search."""
        return self.summary.folder

    @property
    def description(self) -> SearchDescription:
        """What does not change: options, versions, data set."""
        return self.summary.description

    @property
    def space(self) -> SearchSpace:
        """The space that holds now: that of the launch, or that to which the search was extended."""
        return self.summary.space

    @property
    def study(self) -> Study:
        """Trials and what happened to them."""
        return self.summary.study

    @cached_property
    def status(self) -> dict[str, Any]:
        """The document of `reidsearch status --json`."""
        return status_document(self.summary)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best configuration: trial, params, `mean` over fresh seeds; None before there is one.

        Report `mean`, which is None where `seeds` is 0. `value` and `metrics` are those of the first seed, by which the
        configuration was chosen, and too good on average.
        """
        best: dict[str, Any] | None = self.status["best"]
        return best

    @property
    def trials(self) -> list[dict[str, Any]]:
        """One record per trial and replicate, with `params` and the `metrics` of its last evaluation."""
        trials: list[dict[str, Any]] = self.status["trials"]
        return trials

    def frame(self) -> DataFrame:
        """A table with a row per trial, and a column per metric and per setting.

        Where the search made forecasts, also `forecast` and `forecast_error`: the objective at the end of training and
        its standard deviation.
        """
        import pandas

        named = ("trial", "status", "source", "seed", "repeats", "fold", "attempts", "epoch", "epochs", "reason")
        rows = [
            {name: trial[name] for name in named} | _forecast(trial) | trial["metrics"] | dict(trial["params"])
            for trial in self.trials
        ]
        return pandas.DataFrame(rows, columns=None if rows else list(named)).set_index("trial")

    def curves(self, metric: str = "mAP") -> DataFrame:
        """A metric by epoch, with a column per trial; cells are empty at epochs without evaluation.

        Args:
            metric: any name in the `metrics` of `trials`, such as `rank1` or `loss/total`.

        Raises:
            SearchError: no trial has this metric.
        """
        import pandas

        found: dict[str, dict[int, float]] = {}
        for key, trial in self.study.all_trials.items():
            for result in trial.results:
                if (value := result.metric(metric)) is not None:
                    found.setdefault(key, {})[result.epoch] = value
        if not found:
            raise self._unknown(metric)
        return pandas.DataFrame(found).sort_index().rename_axis(index="epoch", columns="trial")

    def events(self) -> list[Record]:
        """The journal: everything that has happened up to now, with times in seconds since 1970 UTC."""
        self.folder.store.pull(self.folder)
        return read_journal(self.folder.journal)

    def reload(self) -> Search:
        """The search as it is now."""
        return Search(read_summary(existing_search(self.folder.store, self.name)), self.command)

    def wait(self, *, show: bool = False) -> Search:
        """Waits until no process drives the search, wherever that is; the search as it is then.

        Interrupting the call stops a search that `launch(wait=False)` has started here; others go on.

        Args:
            show: Print one line per event of a search that was started here.

        Raises:
            OrchestratorError: the process that was started here has failed, as `launch` says.
        """
        if self.command is not None:
            self.command.wait(show=show)
        while self.folder.store.driver(self.folder) is not None:
            time.sleep(POLL_S)
        return self.reload()

    def stop(self, trial: str | None = None) -> Search:
        """Stops the search, or gives up one of its trials, as `reidsearch stop` does; waits until that is done.

        Args:
            trial: A key such as `t0003`.  [default: the whole search, which `resume` continues]

        Raises:
            SearchError: there is no such trial, or it is over.
            EnvironmentProblem: the process that drives the search does not answer.
        """
        answer = control.stop(self.folder, None if trial is None else self.trial(trial).key)
        if not answer.done:
            raise EnvironmentProblem(answer.text)
        return self.reload() if trial is not None else self.wait()

    def extend(self, trials: int | str | None = None, settings: Mapping[str, object] | Sequence[str] = ()) -> Search:
        """Gives the search more budget or wider bounds, as `reidsearch extend` does; `resume` then goes on with it.

        Args:
            trials: Trials in all, or such as `"+20"` how many more.
            settings: Budget, bounds, stopping, algorithm or replicates by their paths, such as `{"replicates": 3}`.

        Raises:
            SearchError: nothing would change, or existing trials would become meaningless.
            SpaceError: the space would not be valid.
            LeaseError: a process drives the search.
        """
        from orchestrator.runner import extension

        number = None if trials is None else str(trials)
        extension.extend(self.folder, trials=number, overrides=setting_words(settings))
        return self.reload()

    @documented(FinalizeOptions, without=FINALIZE_ELSEWHERE)
    def finalize(
        self, *, settings: Mapping[str, object] | Sequence[str] = (), show: bool = True, **options: Any
    ) -> Search:
        """Trains the best configurations on all identities and opens the test set once, as `reidsearch finalize` does.

        Args:
            settings: Of `evaluation`, how the test set is evaluated, such as `{"evaluation.sampling": "dense"}`.
            show: Print one line per event.
            **options:

        Raises:
            SearchError: the search is not finished, or its test set was opened before.
            EnvironmentProblem: the machine or the cluster cannot run it.
        """
        check_options(FinalizeOptions, options, without=FINALIZE_ELSEWHERE)
        words = tuple(setting_words(settings))
        given = FinalizeOptions(name=self.name, storage=self.folder.storage, evaluation=words, **options)
        RunningCommand("finalize", given).wait(show=show)
        return self.reload()

    def compare(self, *names: str) -> Comparison:
        """Trials side by side, measured against the first, and whether a difference is more than noise.

        Args:
            names: Trials of this search, such as `t0000` and `best`, and of others of the storage as `SEARCH/TRIAL`.

        Raises:
            SearchError: there is no such trial, or their metrics must not be compared.
        """
        from orchestrator.show.compare import compare

        return compare(self.folder.store, [name if "/" in name else f"{self.name}/{name}" for name in names])

    def report(
        self,
        out: Path | str | None = None,
        kind: Literal["html", "md", "csv", "json"] = "html",
        *,
        model: bool = True,
        images: bool = False,
    ) -> Written:
        """Writes a report, as `reidsearch report` does; its `path`, or its `text` where nothing is written.

        Args:
            out: The file.  [default: report.html in the search's folder; none for other formats]
            kind: A page, its tables as Markdown, the trials as CSV, or everything as JSON.
            model: Ask Ax's model, which takes ten seconds or more.
            images: Show pictures of people also of real data.

        Raises:
            ValueError: there is no such kind.
            OSError: the file cannot be written.
        """
        from orchestrator.show.report.formats import FORMATS, write_report

        _check("kind", [kind], FORMATS)
        file = None if out is None else Path(out)
        return write_report(self.folder, kind, file, model=model and kind != "csv", images=images)

    def tables(self, *others: str, form: Literal["md", "latex", "csv"] = "md") -> str:
        """The test results of this search and others of the storage beside those that the paper published.

        Raises:
            ValueError: there is no such form.
            SearchError: there is no such search.
        """
        from orchestrator.show.tables import FORMATS, tables_text

        _check("form", [form], FORMATS)
        return tables_text(self.folder.store, (self.name, *others), form)

    def export(
        self, out: Path | str, formats: ExportFormat | Sequence[ExportFormat] = "checkpoint", trial: str = BEST
    ) -> Export:
        """Writes the network of a trial, its configuration and a model card, as `reidsearch export` does.

        Args:
            out: Folder, new or empty.
            formats: `checkpoint`, `safetensors`, `onnx`; one or several.
            trial: Its key.

        Raises:
            ValueError: there is no such format.
            SearchError: there is no such trial, it has saved no network, or the folder is not empty.
            EnvironmentProblem: a package that a format needs is not installed.
        """
        from orchestrator.show.export import export_trial
        from trainer.export import FORMATS

        asked: Sequence[ExportFormat] = [formats] if isinstance(formats, str) else formats
        _check("formats", asked, FORMATS)
        return export_trial(*find_trial(self.folder.store, f"{self.name}/{trial}"), asked, Path(out))

    def best_model(self, trial: str = BEST) -> LoadedModel:
        """The network of a trial in evaluation mode, and what makes its input of image files: `model, transform`.

        `model(transform(files)[None])` gives the embedding [1 D] and the weights [1 T] of a clip's frames.

        Args:
            trial: Its key.

        Raises:
            SearchError: there is no such trial, or it has saved no network.
            CheckpointError: the checkpoint is damaged or of another version.
        """
        from orchestrator.show.export import best_checkpoint
        from trainer.export import load_model

        return load_model(best_checkpoint(*find_trial(self.folder.store, f"{self.name}/{trial}")))

    def plot_trace(self) -> go.Figure:
        """The value of every configuration in the order of suggestion, and the best so far."""
        from orchestrator.show.report.charts import trace_chart

        return _plain(trace_chart(self.summary.trace, self.summary.metric, self._report.best_key))

    def plot_curves(self, metric: str = "mAP") -> go.Figure:
        """A metric of every configuration by epoch, with the forecasts of the objective.

        Raises:
            SearchError: no trial has this metric.
        """
        from orchestrator.show.report.charts import curves_chart
        from orchestrator.show.report.theme import axis

        report = self._report
        found = report.curves(metric)
        if not found:
            raise self._unknown(metric)
        forecasts = report.forecasts if metric == self.summary.metric else {}
        return _plain(curves_chart(found, metric, report.best_key, title=axis(metric), forecasts=forecasts))

    def plot_parallel(self) -> go.Figure:
        """One line per trial through its settings and its value.

        Raises:
            SearchError: fewer than two trials have a value.
        """
        from orchestrator.show.report.parallel_chart import parallel_chart

        report, summary = self._report, self.summary
        if len(report.by_value) < 2:
            raise SearchError(f"{self.name}: fewer than two trials have a value yet")
        sign, searched = summary.objective.first.sign, summary.space.parameters
        return _plain(parallel_chart(report.by_value, summary.metric, searched, report.best_key, sign=sign))

    def plot_importance(self) -> go.Figure:
        """The share of each searched setting in the variation of the objective, by Ax's model: ten seconds or more.

        Raises:
            SearchError: the model has no answer, such as with fewer than three completed trials.
        """
        from orchestrator.show.report.model_charts import importance_chart

        return _plain(importance_chart(self._cards("importance")[0], self.space.parameters))

    def plot_slices(self) -> dict[str, go.Figure]:
        """The prediction of Ax's model along each of the settings that matter most, the others as in the best trial.

        Raises:
            SearchError: as `plot_importance`.
        """
        from orchestrator.show.report.model_charts import slice_chart

        best = self.summary.best
        values = {} if best is None else best.trial.params
        return {
            (path := card.about[0]): _plain(
                slice_chart(card, self.summary.metric, self.space.parameters[path], values.get(path))
            )
            for card in self._cards("slice")
        }

    def plot_seeds(self) -> go.Figure:
        """The value of each fresh seed of the configurations that were repeated.

        Raises:
            SearchError: none was.
        """
        from orchestrator.show.report.charts import seeds_chart

        if not self.summary.confirmations:
            raise SearchError(f"{self.name}: no configuration was repeated with fresh seeds yet")
        return _plain(seeds_chart(self.summary.confirmations, self._report.first_values, self.summary.metric))

    def plot_cmc(self) -> go.Figure:
        """The share of the queries with a match among the first so many gallery tracklets, of the best five trials."""
        from orchestrator.show.report.charts import cmc_chart

        return _plain(cmc_chart(self._report.cmc_curves))

    @cached_property
    def _report(self) -> ReportData:
        from orchestrator.show.report.report_data import ReportData
        from orchestrator.summary import with_forecasts

        return ReportData(with_forecasts(self.summary), None, "")

    @cached_property
    def _model(self) -> ModelView:
        from orchestrator.show.report.model import ModelProcess

        with ModelProcess(None) as process:
            process.ask(self.summary)
            return process.answer(self.summary)

    def _cards(self, kind: str) -> list[Card]:
        """The model's cards of a kind; raises SearchError where there are none."""
        if not (found := self._model.of_kind(kind)):
            raise SearchError(f"{self.name}: no {kind}: {self._model.missing or 'the model did not give it'}")
        return found

    def _unknown(self, metric: str) -> SearchError:
        trials = self.study.all_trials.values()
        known = dict.fromkeys(name for trial in trials for result in trial.results for name in result.metrics())
        return SearchError(f"{self.name} has no metric {metric!r} (there are: {', '.join(known) or 'none yet'})")

    def __repr__(self) -> str:
        from orchestrator.show.search_text import summary_line

        return summary_line(self.summary)

    def trial(self, key: str) -> Trial:
        """The trial with a key such as `t0003` or `t0003-r1`; `best` is the best configuration so far.

        Raises:
            SearchError: there is none.
        """
        return self.summary.trial(key)

    def _repr_html_(self) -> str:
        """The summary and the table, for notebooks."""
        from html import escape

        from orchestrator.show.search_text import data_mark

        said = data_mark(self.description)
        mark = f"<p><b>{said}</b></p>" if said else ""
        frame = self.frame()
        searched = [path for path in self.space.parameters if path in frame]
        shown = [
            *("status", "source", "epoch"),
            *(name for name in ("mAP", "rank1", "forecast") if name in frame),
            *searched,
        ]
        return f"<p>{escape(repr(self))}</p>{mark}{frame[shown].to_html(float_format='%.4g')}"


def _check(name: str, given: Sequence[str], known: Iterable[str]) -> None:
    """Raises ValueError if one of the given values is not known."""
    for value in given:
        if value not in known:
            raise ValueError(f"{name}: {value!r} is not one of {', '.join(known)}")


def _forecast(trial: Mapping[str, Any]) -> dict[str, float]:
    known = trial["forecast"]
    return {} if known is None else {"forecast": known["value"], "forecast_error": known["error"]}


def _plain(figure: go.Figure) -> go.Figure:
    """The figure with its texts escaped, as in a report."""
    import plotly.graph_objects as go

    from orchestrator.show.report.page import plain

    return go.Figure(plain(figure))
