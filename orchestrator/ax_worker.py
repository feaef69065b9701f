"""A child process that answers one question: given these trials, what should be tried next? The only importer of Ax.

It holds no state between questions: Ax's client is rebuilt from the trials in the question, which takes a tenth of a
second and makes the answer a function of the question alone. As a process of its own it imports Ax (ten seconds or
more) while the first trials train, can be given a deadline, and can fail without harming the search. Questions and
answers are JSON, one per line, on standard input and output.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, Literal

import torch
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

from orchestrator.process import die_with_parent
from trainer.wording import first_line


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """The parameters that Ax's model proposes for `orchestrator.question.model_question`."""
    client = Client(random_seed=question["seed"])
    client.configure_experiment(
        [_parameter(path, spec) for path, spec in question["parameters"].items()],
        parameter_constraints=question["constraints"],
    )
    client.configure_optimization(question["objective"], outcome_constraints=question["outcome_constraints"])
    for trial in question["trials"]:
        _attach(client, trial, question["metric"])
    # The initial design is ours; Ax's strategy begins with its model.
    client.configure_generation_strategy(
        method=question["method"],
        initialization_budget=0,
        initialize_with_center=False,
        use_existing_trials_for_initialization=True,
        min_observed_initialization_trials=1,
        torch_device="cpu",
    )
    torch.manual_seed(question["seed"])
    (params,) = client.get_next_trials(max_trials=1).values()
    return dict(params)


def _parameter(path: str, spec: dict[str, Any]) -> RangeParameterConfig | ChoiceParameterConfig:
    if spec["type"] == "choice":
        values = spec["values"]
        kinds: dict[type, Literal["bool", "int", "float", "str"]]
        kinds = {bool: "bool", int: "int", float: "float", str: "str"}
        kind = "float" if {type(value) for value in values} == {int, float} else kinds[type(values[0])]
        return ChoiceParameterConfig(name=path, values=values, parameter_type=kind, is_ordered=spec["ordered"])
    return RangeParameterConfig(
        name=path,
        bounds=(spec["low"], spec["high"]),
        parameter_type=spec["type"],
        scaling="log" if spec["log"] else "linear",
    )


def _attach(client: Client, trial: dict[str, Any], metric: str) -> None:
    index = client.attach_trial(trial["params"])
    if trial["state"] == "completed":
        error = trial["standard_error"]
        value = trial["value"] if error is None else (trial["value"], error)
        client.complete_trial(index, raw_data={**trial["figures"], metric: value})
    elif trial["state"] == "abandoned":
        client.mark_trial_abandoned(index)


def _described(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {first_line(error)}"
    except Exception:  # noqa: BLE001  # some of Ax's errors cannot be put into words
        return type(error).__name__


def main() -> None:
    """Answers until standard input ends."""
    die_with_parent()
    torch.set_num_threads(1)
    # Whatever libraries print belongs into the log; standard output carries answers only.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            reply = {"params": answer(json.loads(line))}
            text = json.dumps(reply, allow_nan=False)
        except Exception as error:  # noqa: BLE001  # any failure of Ax is an answer; the searcher falls back
            traceback.print_exc()
            text = json.dumps({"error": _described(error)})
        print(text, file=answers, flush=True)


if __name__ == "__main__":
    main()
