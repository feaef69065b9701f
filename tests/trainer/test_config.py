"""A trial's configuration: recipes, and settings that contradict each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import quick

from trainer.config import PAPER, WITH_ATTENTION_LOSS, WITH_CENTERS, TrialConfig
from trainer.config_file import read_trial_config
from trainer.errors import ConfigError


def config(**settings: Any) -> TrialConfig:
    return TrialConfig.model_validate(settings)


def test_the_default_recipe_is_fixed_and_fills_nothing_in() -> None:
    assert config() == config(recipe="fixed")
    assert config().clips.sampling == "chunks"


def test_the_papers_recipe_fills_in_what_is_not_given() -> None:
    trial = config(recipe="paper", loss={"attention_weight": 1.0, "center_weight": 5e-4})
    tree = trial.model_dump()
    for layer in (PAPER, WITH_ATTENTION_LOSS, WITH_CENTERS):
        for group, values in layer.items():
            assert {name: tree[group][name] for name in values} == values


def test_what_is_given_wins_over_the_recipe() -> None:
    trial = config(recipe="paper", clips={"sampling": "chunks"}, evaluation={"max_clips": None})
    assert (trial.clips.sampling, trial.evaluation.max_clips) == ("chunks", None)
    assert trial.clips.crop == "translate"


def test_without_attention_loss_the_paper_has_no_second_eraser_and_without_center_loss_no_centers() -> None:
    trial = config(recipe="paper")
    assert (trial.clips.second_erase, trial.clips.erased_labels) == (0, "every")
    assert trial.loss.center_count is None


@quick
@given(st.sampled_from(["paper", "fixed"]), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 5e-4]))
def test_a_configuration_written_and_read_again_is_the_same(recipe: str, attention: float, center: float) -> None:
    trial = config(recipe=recipe, loss={"attention_weight": attention, "center_weight": center})
    assert TrialConfig.model_validate_json(trial.model_dump_json(), strict=True) == trial


def test_strict_json_still_takes_a_list_of_milestones() -> None:
    text = json.dumps({"optim": {"milestones": [0.25, 0.5]}})
    assert TrialConfig.model_validate_json(text, strict=True).optim.milestones == (0.25, 0.5)


def test_a_recipe_over_a_broken_group_leaves_the_error_to_validation() -> None:
    with pytest.raises(ValidationError, match="clips"):
        config(recipe="paper", clips=3, loss=[1])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"model": {"pooling": "mean"}}, r"model\.pooling mean has no attention"),
        ({"clips": {"erase": 0.0}}, "no frame is ever erased"),
        ({"clips": {"erased_labels": "second"}}, r"clips\.second_erase is 0"),
        ({"clips": {"erase_per": "clip"}}, "erases all frames of a clip or none"),
        (
            {"model": {"attention_score_relu": False}, "loss": {"attention_on": "scores", "attention_weight": 1.0}},
            "no lower bound",
        ),
    ],
)
def test_an_attention_loss_that_cannot_work_is_refused_with_the_reason(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        config(**{"loss": {"attention_weight": 1.0}, **settings})


def test_the_same_settings_without_attention_loss_are_fine() -> None:
    config(model={"pooling": "mean", "attention_score_relu": False}, clips={"erase": 0.0, "erase_per": "clip"})


@pytest.mark.parametrize("overrides", [[], ["clips.persons=4"]])
def test_an_old_name_of_a_setting_is_answered_with_the_new_one(tmp_path: Path, overrides: list[str]) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text("clips: {tracklets: 2}\n" if overrides else "clips:\n  persons: 4\n")
    with pytest.raises(ConfigError) as refused:
        read_trial_config(file, overrides)
    where = "--set clips.persons=4" if overrides else f"{file}:2:3"
    assert str(refused.value) == f"{where}: clips.persons is called clips.identities"
