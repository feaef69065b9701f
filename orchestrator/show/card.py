"""The model card of an exported network: what it is, how well it was measured to work, and its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.replicates import Confirmation
from orchestrator.base.escaping import markdown_code, markdown_text
from orchestrator.base.formatting import number
from orchestrator.show.search_text import spread
from orchestrator.study.study import Trial
from orchestrator.summary import Mean, Summary
from trainer.data.dataset import PROTOCOLS
from trainer.result import Evaluation, RetrievalMetrics, VerificationMetrics

if TYPE_CHECKING:
    from trainer import ExportedNetwork

CARD = "README.md"
SYNTHETIC_NOTE = (
    "> **SYNTHETIC**: trained and judged on drawn people. "
    "Its metrics say nothing about real people or published results."
)
RANKS = ("mAP", "mINP", "rank1", "rank5", "rank10", "rank20")
NO_LICENCE_READ = (
    "This project has not found the text of its licence. Until you have read its authors' terms, use it for research "
    "only, do not pass it on, and ask them whether weights trained on it may be passed on."
)
DATA_NOTES: Mapping[str, str] = {
    "mars": "MARS (Zheng et al. 2016) shows real people filmed on a campus. " + NO_LICENCE_READ,
    "prid2011": "PRID 2011 (Hirzer et al. 2011) shows real people filmed in streets. " + NO_LICENCE_READ,
    "ilids_vid": "iLIDS-VID (Wang et al. 2014) shows real people filmed in an airport. " + NO_LICENCE_READ,
    "ls_vid": "LS-VID (Li et al. 2019) shows real people and is given out on a signed agreement: its terms hold for "
    "what is made of it. " + NO_LICENCE_READ,
    "youtube_faces": "YouTube Faces (Wolf et al. 2011) shows real people, named, in videos that others put on YouTube. "
    + NO_LICENCE_READ,
    "tracklets": "Own data, no published data set: only its owner can say what it shows, by what right it was recorded "
    "and whether weights trained on it may be passed on. Its metrics must not stand beside published ones.",
    "joined": "Several data sets joined for training, which this card does not know: name them here, as the terms of "
    "each hold. Its metrics on the validation split must not stand beside published ones.",
}
SYNTHETIC_DATA = "People drawn by this program (`reidsearch data synth`); no person was filmed. No licence is needed."
INTENDED_USE = """\
- Research on video person re-identification: comparing methods, studying errors, a start for further training.
- Ranking a gallery of tracklets that were cut already, by similarity to a query, for people who know that most of what
  ranks high may be wrong: the metrics above say how often it is."""
OUT_OF_SCOPE = """\
- Finding, following or identifying people without a legal ground and their knowledge; remote biometric identification,
  which the EU's AI Act forbids or counts as high-risk.
- Any decision about a person: it gives similarities, not identities; a threshold holds for data like those it was
  chosen on.
- Other cameras, places, seasons or crops than those it was trained on: that was not measured, and such networks lose
  much of their accuracy there.
- Groups of people: no metric was broken down by age, sex, skin or disability."""
PRIVACY = """\
Weights and embeddings of real people are personal data: embeddings of one person are similar, which is their purpose,
and rows of the classifier stand for the people of the training data. Keep them as safe as the pictures, delete them
with the pictures, and do not publish them without asking the data set's authors. `reidsearch purge` does not delete
exported files."""


class CardMetrics(NamedTuple):
    """What was measured of the exported weights, and of their configuration."""

    validation: Evaluation | None
    """On the search's validation split after the epoch of the weights; None where that epoch was not evaluated."""
    test: Evaluation | None
    """On the test set, of these weights; None where it was not opened for them."""
    confirmation: Confirmation | None
    """Of the configuration with fresh seeds."""


def card_metrics(search: Summary, trial: Trial, epoch: int) -> CardMetrics:
    """Metrics of a trial's weights as they were after an epoch, counted from 1."""
    validation = next((result.validation for result in trial.results if result.epoch == epoch), None)
    original = trial.repeats or trial.key
    confirmation = next((each for each in search.confirmations if each.trial == original), None)
    return CardMetrics(validation, trial.test, confirmation)


def card_text(
    search: Summary,
    trial: Trial,
    exported: Sequence[ExportedNetwork],
    verification: VerificationMetrics | None = None,
) -> str:
    """The card of all files that were exported of a trial, as Markdown.

    `verification` was measured on the validation split.
    """
    description, first = search.description, exported[0]
    metrics = card_metrics(search, trial, first.epoch)
    parts = [
        f"# {markdown_text(search.name)}/{trial.key}",
        *([SYNTHETIC_NOTE] if description.synthetic else []),
        "\n".join(_what(search, trial, first)),
        "## Files\n\n" + "\n".join(_files(exported)),
        "## Data\n\n" + _data(search, first),
        "## Metrics\n\n" + "\n".join(_metrics(search, trial, metrics)),
        "## Same identity or not\n\n" + "\n".join(_same_or_not(verification, metrics.test)),
        "## Input and output\n\n" + "\n".join(_interface(first)),
        f"## Intended use\n\n{INTENDED_USE}",
        f"## Out of scope\n\n{OUT_OF_SCOPE}",
        f"## Privacy\n\n{PRIVACY}",
    ]
    return "\n\n".join(parts) + "\n"


def _what(search: Summary, trial: Trial, exported: ExportedNetwork) -> Iterator[str]:
    description, model = search.description, exported.config.model
    yield (
        f"A {markdown_code(model.backbone)} at {model.height} x {model.width} with {model.pooling} pooling over time, "
        f"{exported.parameters:,} learned numbers, for video person re-identification."
    )
    yield ""
    again = f", the configuration of {trial.repeats} again" if trial.repeats else ""
    yield f"- trial {markdown_code(trial.key)} of search {markdown_code(search.name)} ({trial.status}{again})"
    yield f"- weights after epoch {exported.epoch} of {exported.config.optim.epochs}"
    yield f"- computed in {exported.config.compute.precision}" + " and TF32" * (exported.config.compute.tf32 is True)
    yield (
        f"- seed {trial.seed}; started from weights {markdown_code(model.weights)}; "
        f"recipe {markdown_code(exported.config.recipe)}"
    )
    yield f"- launched {markdown_text(description.created)}, commit {markdown_text(description.commit or 'unknown')}"
    yield "- " + ", ".join(markdown_text(f"{name} {version}") for name, version in description.versions.items())
    settings = (f"{markdown_code(path)} {markdown_text(number(value))}" for path, value in trial.params.items())
    yield f"- searched settings: {', '.join(settings)}"


def _files(exported: Sequence[ExportedNetwork]) -> Iterator[str]:
    for each in exported:
        proof = (
            ""
            if each.difference is None
            else f"; run with ONNX Runtime, its embeddings differ by {each.difference:.1e} of their largest component"
        )
        yield f"- {markdown_code(each.file.name)}{proof}"
    yield "- `config.json`: every setting of the training; `data.root` is to be set to your data set"


def _data(search: Summary, exported: ExportedNetwork) -> str:
    description, data = search.description, exported.config.data
    note = SYNTHETIC_DATA if description.synthetic else DATA_NOTES.get(data.name, DATA_NOTES["tracklets"])
    return (
        f"{note}\n\n- layout `{data.name}`, partition {data.fold}, {exported.identities} identities trained on\n"
        f"- fingerprint of its lists {markdown_code(description.data_fingerprint)}, of its files "
        f"{markdown_code(description.data_manifest or 'none')}"
    )


def _metrics(search: Summary, trial: Trial, metrics: CardMetrics) -> Iterator[str]:
    kind = search.description.data_kind
    mark = "" if kind == "real" else f" ({kind})"
    yield f"Per cent{mark}; ± is the standard error over queries, or the standard deviation over seeds.\n"
    yield "| measured on | " + " | ".join(RANKS) + " | protocol | sampling | queries | dropped |"
    yield "|---|" + "---|" * (len(RANKS) + 4)
    for name, found in (("validation split", metrics.validation), ("test set", metrics.test)):
        if found is not None:
            yield _row(name, found, found)
            if found.reranked is not None:
                yield _row(f"{name}, re-ranked", found.reranked, found)
    if metrics.validation is None and metrics.test is None:
        yield "| nothing: these weights were not evaluated |" + " |" * (len(RANKS) + 4)
    yield ""
    if any(found is not None and found.protocol == "no_camera" for found in (metrics.validation, metrics.test)):
        yield f"Protocol `no_camera`, {PROTOCOLS['no_camera'].about}."
    yield from _notes(search, trial, metrics)


def _same_or_not(validation: VerificationMetrics | None, test: Evaluation | None) -> Iterator[str]:
    """Error rates of a threshold on the distance, and the threshold that was chosen."""
    from trainer.commands import pairs_text, verification_text

    parts = (("validation split", validation), ("test set", None if test is None else test.verification))
    measured = [(name, found) for name, found in parts if found is not None]
    yield from (f"- {name}: {verification_text(found)}" for name, found in measured)
    if not measured:
        yield "- not measured of these weights"
    if test is not None and test.pairs is not None:
        yield f"- test set, the data set's own list of pairs: {pairs_text(test.pairs)}"
    threshold = None if validation is None else validation.threshold
    if threshold is None:
        yield "- no threshold was chosen"
    else:
        yield (
            f"- `threshold.json`: distance {threshold.distance:.4g}, chosen on the validation split, where "
            f"{100 * threshold.false_positive_rate:.2g} % of the pairs of different identities are not farther apart"
        )


def _row(name: str, metrics: RetrievalMetrics, of: Evaluation) -> str:
    shown = [f"{100 * getattr(metrics, rank):.1f}" for rank in RANKS]
    shown[0] += f" ± {100 * metrics.mAP_standard_error:.1f}"
    about = (markdown_text(of.protocol), markdown_text(of.sampling), str(of.queries), str(of.dropped_queries))
    return f"| {name} | {' | '.join([*shown, *about])} |"


def _notes(search: Summary, trial: Trial, metrics: CardMetrics) -> Iterator[str]:
    completed, counts = len(search.study.completed), search.counts
    partly = counts["paused"] + counts["stopped"]
    others = f" and {partly} paused or stopped" if partly else ""
    if metrics.validation is not None:
        yield (
            f"The validation split shares no identity with the training part. The configuration is one of {completed} "
            f"completed{others} ones that were compared on it, and the epoch was "
            "chosen on it: its metrics are too good."
        )
    found = metrics.confirmation
    if found is None:
        yield "No other seed was tried, so that nothing is known of the spread over seeds."
    else:
        value = spread(Mean(found.mean, found.standard_deviation))
        interval = found.interval
        sure = "" if interval is None else f", 95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
        yield (
            f"The same configuration over {len(found.values)} fresh seeds, by which it was not chosen: "
            f"{search.metric} {value}{sure}."
        )
    yield _openings(search, trial, is_tested=metrics.test is not None)
    yield from _on_other_data(search, trial)


def _openings(search: Summary, trial: Trial, *, is_tested: bool) -> str:
    """How often the test set was opened for these weights and for others."""
    uses = [use.asked for use in search.study.own_test_set_uses]
    own = [use for use in uses if use.trial == trial.key]
    opened = len(search.study.finalizations) + len(uses)
    if is_tested:
        return f"The search has opened the test set {_times(opened)}."
    if own:
        by = ", ".join(dict.fromkeys(f"{markdown_text(use.by)} ({markdown_code(use.weights)})" for use in own))
        return (
            f"The test set was opened for this trial {_times(len(own))} by {by}, with results that the search does not "
            f"keep; in all the search's journal holds that it was opened {_times(opened)}."
        )
    return "The test set was not opened for these weights" + (
        f" (the search opened it {_times(opened)} for others)." if opened else ", nor by this search."
    )


def _on_other_data(search: Summary, trial: Trial) -> Iterator[str]:
    """Uses and results of these weights on the test sets of other data sets."""
    for use in (each.asked for each in search.study.test_set_uses):
        if use.data is not None and use.trial == trial.key and use.use != "finalize":
            name, by = markdown_text(use.data.name), markdown_text(use.by)
            yield f"The test set of {name} was opened for these weights by {by}."
    for test in trial.other_tests.values():
        shown = ", ".join(f"{name} {100 * getattr(test, name):.1f}" for name in RANKS)
        yield f"{markdown_text(test.other_data or '')}: {shown} ({markdown_text(test.protocol)} protocol)."


def _interface(exported: ExportedNetwork) -> Iterator[str]:
    config = exported.config
    clip = f"[B, {config.clips.frames}, 3, {config.model.height}, {config.model.width}]"
    neck = "after" if config.evaluation.feature == "after_neck" else "before"
    yield f"- `clips` float32 {clip}: any number of clips B; {config.clips.frames} frames each, in order, fixed."
    yield (
        "- A frame is RGB, resized (bicubic, antialiased), divided by 255, then normalised with mean (0.485, 0.456, "
        "0.406) and standard deviation (0.229, 0.224, 0.225)."
    )
    yield f"- `embedding` float32 [B, {exported.embedding}]: the feature {neck} the neck, not normalised."
    yield f"- `weights` float32 [B, {config.clips.frames}]: weights of the frames, which sum to 1."
    yield (
        f"- A tracklet's embedding was the {config.evaluation.pooling} over its clips' ({config.evaluation.sampling} "
        f"sampling), compared by {config.evaluation.distance} distance."
    )
    yield (
        "- With this program: `reidsearch evaluate config.json --checkpoint model.pt --set data.root=DIR`; "
        "`model.weights: .../model.pt` starts a training from it."
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
