"""What searches and trials are called where Ray, a process list or a log shows them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from orchestrator.cluster.names import (
    LONGEST_TITLE,
    job_metadata,
    leading_parameters,
    marked,
    named_after,
    process_title,
    trial_title,
    tune_name,
)
from orchestrator.runner import attempt_server
from orchestrator.runner.trial_spec import TrialSpec


def test_a_title_says_search_trial_and_the_first_parameters() -> None:
    params = {"optim.learning_rate": 3.7421e-4, "loss.triplet_margin": 0.31, "clips.identities": 4, "model.height": 256}
    title = trial_title("demo-24ed", "t0012", params)
    assert title == "demo-24ed/t0012 learning_rate=0.0003742 triplet_margin=0.31 identities=4"
    assert process_title(title).startswith("reid:demo-24ed/t0012 ")


def test_parameters_of_the_same_last_name_keep_their_path() -> None:
    assert leading_parameters({"a.rate": 1, "b.rate": 2, "c": "x"}) == "a.rate=1 b.rate=2 c=x"


@given(some.text(), some.dictionaries(some.text(min_size=1), some.text() | some.floats(), max_size=4))
def test_a_title_is_one_short_line_whatever_the_parameters_are(search: str, params: dict[str, str | float]) -> None:
    title = trial_title(search, "t0000", params)
    assert len(title) <= LONGEST_TITLE
    assert title.isascii() and "\n" not in title and "\0" not in title


def test_every_attempt_has_a_name_of_its_own_in_tune() -> None:
    assert tune_name({"trial": "t0003", "attempt": 2}) == "t0003-2"


def test_the_list_of_jobs_tells_where_a_search_is_kept_and_that_its_data_is_generated() -> None:
    data = marked("mini-mars", synthetic=True)
    metadata = job_metadata("demo-24ed", space="demo", data=data, storage="/runs", tracking="sqlite:////runs/mlflow.db")
    assert metadata["job_name"] == "reidsearch demo-24ed"
    assert metadata["data"] == "SYNTHETIC mini-mars"
    assert all(isinstance(value, str) for value in metadata.values())


def test_the_key_of_a_job_s_name_is_the_one_that_ray_reads() -> None:
    from ray.dashboard.modules.job.common import JOB_NAME_METADATA_KEY

    assert JOB_NAME_METADATA_KEY in job_metadata("s", space="", data="", storage="", tracking="")


def test_tune_calls_the_actors_by_the_name_of_the_search() -> None:
    from ray.tune.experiment import Experiment
    from ray.tune.trainable import wrap_function

    heard: list[dict[str, object]] = []
    function = named_after("demo-24ed", heard.append)
    assert Experiment.get_trainable_name(function) == "demo-24ed"
    assert wrap_function(function)._name == "demo-24ed"
    function({"a": 1})
    assert heard == [{"a": 1}]


def test_an_attempt_s_title_and_its_lines_in_the_shared_log_say_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    handler = logging.StreamHandler()
    monkeypatch.setattr("setproctitle.setproctitle", titles.append)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    spec = TrialSpec(
        search=tmp_path / "5%s", trial="t0012", attempt=1, config="{}", threads=1, title="5%s/t0012 rate=1"
    )
    attempt_server._say_who(spec)
    assert titles == ["reid:5%s/t0012 rate=1"]
    record = logging.makeLogRecord({"msg": "epoch %d", "args": (3,), "levelno": logging.INFO})
    assert handler.format(record).endswith(f" {os.getpid()} 5%s/t0012 epoch 3")
