"""The documentation and the JSON Schema of search spaces agree with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from checkout import ROOT

from orchestrator.space.layers import builtin_files
from orchestrator.space.search_space import SearchSpace
from trainer.yaml_file import parse_yaml, read_yaml

EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/spaces.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SearchSpace.schema_text()))
LEAST = {
    "version": 1,
    "name": "x",
    "budget": {"trials": 1},
    "parameters": {"optim.gamma": {"type": "float", "low": 0.1, "high": 0.5}},
}


def accepted(data: object) -> bool:
    return next(VALIDATOR.iter_errors(data), None) is None


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_of_the_documentation_is_a_space_and_fits_the_schema(text: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(text, encoding="utf-8")
    space = SearchSpace.load(path)
    space.config(next(space.samples(0)))
    assert accepted(parse_yaml(text, name="example").data)


def test_the_documentation_shows_every_field_of_a_space() -> None:
    shown = {key for text in EXAMPLES for key in re.findall(r"^(\w+):", text, re.MULTILINE)}
    assert set(SearchSpace.model_fields) - shown <= {"synthetic"}


def test_the_committed_schema_is_that_of_the_code() -> None:
    committed = (ROOT / "search_spaces/schema.json").read_text("utf-8")
    assert committed == SearchSpace.schema_text(), "reidsearch space schema > search_spaces/schema.json"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SearchSpace.schema_text()))


@pytest.mark.parametrize("path", builtin_files().values(), ids=builtin_files())
def test_the_schema_accepts_every_shipped_space(path: Path) -> None:
    assert accepted(read_yaml(path).data)


@pytest.mark.parametrize(
    "change",
    [
        {"bugdet": 1},
        {"budget": {}},
        {"parameters": {}},
        {"parameters": {"optim.gama": {"type": "float", "low": 0.1, "high": 0.5}}},
        {"parameters": {"data.fold": {"type": "int", "low": 0, "high": 5}}},
        {"parameters": {"optim.gamma": {"low": 0.2}}},
        {"parameters": {"optim.gamma": {"type": "float", "low": 0.1, "hihg": 0.5}}},
        {"derived": {"model.neck": "optim.gamma"}},
        {"trainer": {"optim": {"epochs": 0}}},
        {"trainer": {"optm": {}}},
        {"stopping": {"rule": "median"}},
        {"objective": {"metric": "map"}},
        {"objective": {"metric": "mAP, -gpu"}},
        {"algorithm": {"noise": "none"}},
    ],
)
def test_the_schema_refuses_what_the_check_refuses(change: dict[str, object]) -> None:
    assert accepted(LEAST)
    assert not accepted({**LEAST, **change})


@pytest.mark.parametrize("metric", ["mINP", "-mAP", "mAP, -gpu_hours", "mAP,-hours"])
def test_the_schema_accepts_several_objectives(metric: str) -> None:
    assert accepted({**LEAST, "objective": {"metric": metric}})


def test_a_space_that_extends_another_may_leave_out_what_that_says() -> None:
    assert accepted({"extends": "demo.yaml", "parameters": {"optim.gamma": {"low": 0.2}}})
    assert not accepted({"extends": "demo.yaml", "parameters": {"optim.gamma": {"lwo": 0.2}}})
