"""Problems of a search space: what is wrong, where it was written, and which name was meant."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from trainer.formatting import KeyPath, did_you_mean, one_line, shown, spelled

MAX_SHOWN = 50  # problems printed before the rest is only counted
LOG = "with 'log: true'"
THEIRS: Mapping[str, str] = {
    # Kinds of parameter.
    "float": "uniform real double continuous float_uniform quniform",
    f"float {LOG}": "loguniform log_uniform log_uniform_values qloguniform q_log_uniform_values float_log_uniform "
    "reciprocal",
    "int": "integer int_uniform q_uniform randint qrandint uniformint",
    f"int {LOG}": "int_loguniform int_log_uniform lograndint qlograndint",
    "choice": "categorical category cat enum ordinal grid grid_search pchoice",
    # Keys of a parameter.
    "type": "distribution dist kind value_type parameter_type",
    "low": "min lower lower_bound minimum",
    "high": "max upper upper_bound maximum",
    "log": "log_scale logscale",
    "step": "q quantum",
    "values": "value choices categories options",
    "ordered": "is_ordered",
    "when": "condition conditions dependents depends_on",
    # Algorithms and stopping rules.
    "ax": "tpe bayes bayesian bayesopt bo gp gpei botorch optuna hyperopt skopt cmaes bohb smac",
    "random": "randomsearch random_search",
    "grid": "gridsearch grid_search bruteforce",
    "sobol": "qmc halton quasirandom",
    "asha": "hyperband halving successive_halving sha asynchyperband pbt",
    "promote": "promotion asha_promotion pause",
    "freeze_thaw": "freezethaw freeze-thaw dyhpo",
    "percentile": "median medianstopping median_stopping",
    "none": "fifo nop off",
    # Parts of a space.
    "objective": "metric metrics mode direction directions goal",
    "algorithm": "method search_alg searcher sampler strategy tuner",
    "stopping": "scheduler pruner early_terminate early_stopping",
    "replicates": "repeats seeds",
    "parameters": "space search_space param_space params hyperparameters",
    "start": "points_to_evaluate initial_points enqueue_trial",
    "constraints": "parameter_constraints",
    "goal": "mode direction",
    "trials": "n_trials num_trials num_samples max_trials total_trials run_cap",
    "concurrent": "max_concurrent max_concurrent_trials n_jobs parallelism",
    "hours": "timeout time_budget time_budget_s max_time",
    "grace": "grace_period min_iter min_resource n_warmup_steps",
    "reduction": "reduction_factor eta",
    # Options of commands.
    "space": "config config_name config_file",
    "gpus_per_trial": "gpus gpu device devices",
    "storage": "output_dir out_dir save_dir local_dir project",
    # Settings of the trainer.
    "resources.gpus_per_trial (which GPUs: CUDA_VISIBLE_DEVICES)": "device devices gpu gpus",
    "stopping.rule": "scheduler pruner early_stopping",
    "algorithm.name": "sampler search_alg searcher",
    "clips.identities times clips.tracklets": "batch_size train_batch batch",
    "model.height and model.width": "imgsz img_size image_size input_size",
    "clips.tracklets": "num_instances instances",
    "clips.frames": "seq_len sequence_length num_frames",
    "clips.workers": "num_workers workers",
    "optim.epochs": "max_epoch max_epochs num_epochs",
    "optim.learning_rate": "lr base_lr init_lr",
    "optim.optimizer": "optim",
    "optim.weight_decay": "wd l2",
    "model.backbone": "arch architecture",
    "loss.triplet_margin": "margin",
}
"""Names in Optuna, Ray Tune, Ax, Hyperopt, W&B sweeps and torchreid, by the name here."""
KINDS = ("float", "int", "choice")
NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


class SpaceError(ValueError):
    """A search space that cannot be used; `problems` holds one line for each thing to correct."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems: list[str] = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class Place(NamedTuple):
    """Where a value was written: a file with line and column from 1, or an override, which has no line."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Problems:
    """The problems of one space, collected so that all are reported at once."""

    def __init__(self, places: Mapping[KeyPath, Place], others: Sequence[str] = ()) -> None:
        self.places = places
        self._others = others
        self._lines: dict[KeyPath, tuple[Place, str]] = {}

    def add(self, path: KeyPath, what: str, *, wrong: str = "", known: Iterable[str] = ()) -> None:
        """Notes a problem, only the first one of each path, with the name in `known` that `wrong` probably means."""
        if path in self._lines:
            return
        meant = name_hint(wrong, known) if len(self._lines) < MAX_SHOWN else ""
        where = f"{spelled(path)}: " if path else ""
        place = self.place(path)
        self._lines[path] = place, one_line(f"{place}: {where}{what}{meant}")

    def place(self, path: KeyPath) -> Place:
        """Where the value at `path` was written, or the nearest mapping around it."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def below(self, path: KeyPath) -> bool:
        """Whether there is a problem at `path` or inside it."""
        return any(known[: len(path)] == path for known in self._lines)

    def raise_if_any(self) -> None:
        """Raises all problems as one error, in the order of the files."""
        lines = [*self._others, *(line for _, line in sorted(self._lines.values()))]
        if len(lines) > MAX_SHOWN:
            lines[MAX_SHOWN:] = [f"… and {len(lines) - MAX_SHOWN} more problems"]
        if lines:
            raise SpaceError(*lines)


def our_name(name: str, known: Iterable[str]) -> str:
    """The known name for what other tools call `name`, with additions such as `LOG`; empty if there is none."""
    names = set(known)
    last = name.lower().replace("-", "_").rpartition(".")[2]
    word = last.removeprefix("suggest_")
    if word != last and word in names:
        return word
    if "." in name and any(each.endswith(f".{last}") for each in names):
        return ""  # the group is misspelt
    found = (ours for ours, theirs in THEIRS.items() if word in theirs.split() and ours.partition(" ")[0] in names)
    return next(found, "")


def name_hint(name: str, known: Iterable[str]) -> str:
    """` - did you mean 'x'?` with the name for another tool's word, otherwise with the nearest name; may be empty."""
    names = list(known)
    ours = our_name(name, names)
    if not ours:
        return did_you_mean(name, names)
    return f" - write {ours}" if " " in ours else f" - did you mean {ours!r}?"


def rewritten(parameter: Mapping[str, object], fields: Iterable[str]) -> str:
    """Another tool's parameter as it is written here, such as `{type: float, low: 0.1, high: 1}`.

    Empty if some of its keys have no counterpart.
    """
    names = tuple(fields)
    ours: dict[str, object] = {}
    for key, value in parameter.items():
        name = key if key in names else our_name(key, names)
        if key in ("bounds", "range") and isinstance(value, list) and len(value) == 2:
            ours |= {"low": value[0], "high": value[1]}
        elif name:
            ours[name] = value
        else:
            return ""
    given = ours.pop("type", None)
    kind = given if given in KINDS else our_name(str(given), KINDS) if isinstance(given, str) else ""
    if not kind and "values" in ours:
        kind = "choice"
    elif not kind and {"low", "high"} <= ours.keys():
        kind = "float" if any(isinstance(ours[end], float) for end in ("low", "high")) else "int"
    if kind.endswith(LOG):
        kind, ours["log"] = kind.partition(" ")[0], True
    if not kind:
        return ""
    written = [f"{key}: {_written(value)}" for key, value in {"type": kind, **ours}.items()]
    return "{" + ", ".join(written) + "}"


def sweep(typed: str | Sequence[object], kind: str | None, fields: Iterable[str]) -> str:
    """Values to try in another tool's syntax, such as `loguniform(1e-4, 0.1)`, `a,b` or `1..5`, as a parameter here.

    Args:
        typed: as it was written.
        kind: `int` for a setting of whole numbers.
        fields: keys of a parameter.
    """
    text = typed if isinstance(typed, str) else ""
    word, bracket, inside = text.partition("(")
    values = [_plain(each.strip(" '\"[]()")) for each in re.split(r"\.\.|,", inside or text)] if text else list(typed)
    if not (bracket or ".." in text) or (word if word in KINDS else our_name(word, KINDS)) == "choice":
        return rewritten({"values": values}, fields)
    numbers = [_plain(each) for each in re.findall(NUMBER, text.replace("..", ", "))]
    low, high = numbers if len(numbers) == 2 else (1, 10) if kind == "int" else (0.1, 1)
    log = {"log": True} if "log" in text.lower() else {}
    return rewritten({"type": "int" if kind == "int" else "float", "low": low, "high": high, **log}, fields)


def _plain(text: str) -> object:
    for kind in (int, float, json.loads):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _written(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return value if isinstance(value, str) and value in KINDS else shown(value)
