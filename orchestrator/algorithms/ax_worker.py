"""The child process that runs Ax: given these trials, which point comes next, or which paused trial?

One objective without constraints has our model of learning curves (`orchestrator.algorithms.freeze_thaw`), which Ax's
experiment reaches through a generation node of our own; several objectives, constraints and `method: quality` have Ax's
models.

It keeps no state between questions: Ax's client is rebuilt from the trials in the question, which takes hundredths of a
second and makes the answer a function of the question alone. As a process of its own it imports Ax (ten seconds or
more) while the first trials train, has a deadline, and can fail without harming the search.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pandas
import torch
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
from ax.api.utils.generation_strategy_dispatch import choose_generation_strategy
from ax.api.utils.instantiation.from_struct import experiment_from_struct
from ax.api.utils.structs import ExperimentStruct, GenerationStrategyDispatchStruct
from ax.core.data import Data
from ax.core.experiment import Experiment
from ax.core.types import TParameterization
from ax.generation_strategy.external_generation_node import ExternalGenerationNode
from ax.generation_strategy.generation_strategy import GenerationStrategy
from botorch.optim.optimize_mixed import ALTERNATING_OPTIMIZER_THRESHOLD

from orchestrator.algorithms.curve_history import History
from orchestrator.algorithms.freeze_thaw import Decision, Start, answer, decisions
from trainer.child import Parent
from trainer.formatting import first_line

# BoTorch's defaults, as Ax 1.3 passes them on.
RESTARTS, RAW_SAMPLES = 20, 1024
# Steps of L-BFGS for each of several points of one answer. It takes some 160 if nothing ends it; what the rest of them
# is worth to a search was tried together with the number of random points only (docs/experiments.md).
STEPS = 40


class NothingUntried(Exception):
    """The model found no point that was not tried; the message says so."""


class CurveNode(ExternalGenerationNode):
    """Ax's generation node for our model of learning curves: gives Ax the new points that a decision starts.

    Ax has no words for trials that continue, so the node decides (`decide`), and hands over the point of a start.
    """

    def __init__(self, history: History) -> None:
        """A node that decides about the trials of `history`, which stays as it was."""
        super().__init__(name="LearningCurves")
        self._space = history.space
        self._decisions = decisions(history)
        self._decision: Decision | None = None

    def decide(self) -> Decision:
        """The next decision, as if those before it were carried out.

        Raises:
            NothingUntried: there is no point left to start.
        """
        self._decision = next(self._decisions, None)
        if self._decision is None:
            raise NothingUntried("each point that the model looked at had been tried")
        return self._decision

    def update_generator_state(self, experiment: Experiment, data: Data) -> None:
        """Does nothing: the history has all that the experiment has."""

    def get_next_candidate(self, pending_parameters: list[TParameterization]) -> TParameterization:
        """The point of the latest decision, which is a start; without one that of the next decision."""
        decision = self._decision or self.decide()
        assert isinstance(decision, Start)
        self._decision = None
        return dict(self._space.codes(decision.places))


def answers(question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Answers to `orchestrator.algorithms.ax_experiment.ax_experiment`: points, or paused trials that go on.

    As many as the question's `count` says, one if it says nothing, each as if those before it were running. The model
    is fitted once for all of them. `{"params": codes}` is a point, from our model with the epoch after which it pauses,
    `until`, and maybe a `note`; `{"continue": key, "until": epoch, "forecast": [mean, sd], "reason": text}` is a paused
    trial that goes on.
    """
    count = question.get("count", 1)
    if question["model"] == "ax":
        client = told_client(question, _strategy(question))
        torch.manual_seed(question["seed"])
        for _ in range(count):
            yield {"params": _next_point(client)}
        return
    history = History.of(question)
    node = CurveNode(history)
    # Ax would refuse a point of an earlier search, which this one may try.
    own = [trial for trial in question["trials"] if not trial.get("search")]
    client = told_client({**question, "trials": own}, GenerationStrategy(nodes=[node]))
    for _ in range(count):
        decision = node.decide()
        told = answer(question, history.space, decision)
        yield told | {"params": _next_point(client)} if isinstance(decision, Start) else told


def _next_point(client: Client) -> dict[str, Any]:
    (params,) = client.get_next_trials(max_trials=1).values()
    return dict(params)


def told_client(question: dict[str, Any], strategy: GenerationStrategy | None = None) -> Client:
    """A client that knows the space and every trial of a question, and has fitted no model yet.

    Args:
        question: see `answers`.
        strategy: what suggests points; None for Ax's own choice.
    """
    client = Client(random_seed=question["seed"])
    experiment = experiment_from_struct(
        ExperimentStruct(
            parameters=[_parameter(path, spec) for path, spec in question["parameters"].items()],
            parameter_constraints=question["constraints"],
            name=None,
            description=None,
            experiment_type=None,
            owner=None,
        )
    )
    client.set_experiment(experiment)
    client.configure_optimization(question["objective"], outcome_constraints=question["outcome_constraints"])
    _tell(client, experiment, question)
    client.set_generation_strategy(strategy or _strategy(question))
    return client


def _strategy(question: Mapping[str, Any]) -> GenerationStrategy:
    """Ax's own choice of a model. The initial design is ours; Ax's strategy begins with its model."""
    strategy = choose_generation_strategy(
        GenerationStrategyDispatchStruct(
            method=question["method"],
            initialization_budget=0,
            initialize_with_center=False,
            use_existing_trials_for_initialization=True,
            min_observed_initialization_trials=1,
            torch_device="cpu",
        )
    )
    _share_effort(strategy, question["parameters"], question.get("count", 1))
    return strategy


def _parameter(path: str, spec: dict[str, Any]) -> RangeParameterConfig | ChoiceParameterConfig:
    if spec["type"] == "choice":
        values: list[Any] = spec["values"]
        kind: Literal["float", "int"] = "float" if spec["ordered"] else "int"
        return ChoiceParameterConfig(name=path, values=values, parameter_type=kind, is_ordered=spec["ordered"])
    return RangeParameterConfig(name=path, bounds=(spec["low"], spec["high"]), parameter_type=spec["type"])


# Ax's states of trials that are over and have no value of their own; it does not suggest them again.
ABANDONED = ("stopped", "diverged", "failed")


def _tell(client: Client, experiment: Experiment, question: Mapping[str, Any]) -> None:
    """Adds all trials at once: the client's own calls, one per trial, take longer with each trial it knows.

    At 150 trials that is 0.02 s instead of 2.1 s, for the same answers. Curves are values at steps (Ax's map data).
    """
    rows: list[dict[str, Any]] = []
    completed: list[int] = []
    for trial in question["trials"]:
        index = client.attach_trial(trial["params"])
        arm = experiment.trials[index].arms[0].name
        if trial["state"] in ABANDONED:
            client.mark_trial_abandoned(index)
        elif trial["state"] == "completed":
            completed.append(index)
        rows += [
            {"trial_index": index, "arm_name": arm, "metric_name": name, "metric_signature": name, **value}
            for name, value in _values(trial, question)
        ]
    if not completed:
        return
    client.configure_tracking_metrics(sorted({row["metric_name"] for row in rows} - set(experiment.metrics)))
    experiment.attach_data(Data(df=pandas.DataFrame(rows).astype({"mean": float, "sem": float})))
    for index in completed:
        experiment.trials[index].mark_completed()


def _values(trial: Mapping[str, Any], question: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, float | None]]]:
    """The values of a trial by metric; a curve has a step for each, other values none."""
    metric, sign = question["metric"], -1 if question["objective"].startswith("-") else 1
    if question["model"] == "curves":
        for epoch, value, _ in trial["curve"]:
            yield metric, {"mean": sign * value, "sem": None, "step": epoch / trial["epochs"]}
    elif trial["state"] == "completed":
        for name, value in {**trial["metrics"], metric: trial["value"]}.items():
            yield name, {"mean": value, "sem": None}


def _share_effort(strategy: GenerationStrategy, parameters: Mapping[str, Mapping[str, Any]], count: int) -> None:
    """Makes an answer cost the same with and without discrete parameters, and less per point for several points.

    BoTorch repeats the optimisation of the acquisition function for each combination of discrete values, as long as
    these are few. Its 20 starting points, and the 1,024 random ones that they are chosen from, are dealt among the
    combinations: at 300 trials of a space with 6 of them a suggestion takes 2.6 s of processor time instead of 11.8 s
    and agrees to six digits. Several points of one answer, which are asked for when slots stand idle, share the 20 and
    are optimised less far; with fewer random points than half of them searches got stuck (docs/experiments.md).
    """
    discrete = [number for spec in parameters.values() if (number := _number_of_values(spec)) is not None]
    combinations = math.prod(discrete)
    is_repeated = len(discrete) < len(parameters) and combinations <= ALTERNATING_OPTIMIZER_THRESHOLD
    shares = combinations if is_repeated else 1
    if shares * count == 1:
        return
    options: dict[str, Any] = {
        "num_restarts": max(4, RESTARTS // (shares * count)),
        "raw_samples": max(64, RAW_SAMPLES // (shares * min(count, 2))),
    }
    if is_repeated:  # BoTorch's other optimisers do not know these
        # One start that stalls among all these is no reason to do them all again.
        options["retry_on_optimization_warning"] = False
        if count > 1:
            options["options"] = {"maxiter": STEPS}
    (spec,) = strategy.nodes_by_name["MBM"].generator_specs
    spec.generator_gen_kwargs = {"model_gen_options": {"optimizer_kwargs": options}}


def _number_of_values(spec: Mapping[str, Any]) -> int | None:
    """Of a parameter; None where it is continuous, as choices without an order are for Ax: a share for each of them."""
    if spec["type"] == "choice":
        number = len(spec["values"])
        return number if spec["ordered"] or number == 2 else None
    return spec["high"] - spec["low"] + 1 if spec["type"] == "int" else None


def _described(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {first_line(error)}"
    except Exception:  # noqa: BLE001  # some of Ax's errors cannot be put into words
        return type(error).__name__


def main(parent: Parent) -> None:
    """Answers until there are no more questions."""
    torch.set_num_threads(1)
    for question in parent:
        try:
            for answer in answers(question):
                parent.send(answer)
        except Exception as error:  # noqa: BLE001  # any failure of Ax is an answer; the searcher falls back
            traceback.print_exc()
            parent.send({"error": _described(error)})
