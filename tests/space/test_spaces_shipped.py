"""The built-in search spaces: the rows of the paper's tables, and their ranges."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.space.layers import builtin_files
from orchestrator.space.parameters import Value
from orchestrator.space.schema import flattened
from orchestrator.space.search_space import SearchSpace
from trainer import fit
from trainer.config import TrialConfig

SHIPPED = sorted(builtin_files())
TABLE_1 = ["baseline", "b_bot", "b_bot_osm", "b_bot_osm_cl", "attn_cl"]
TABLE_2 = ["attn_cl_prid", "attn_cl_prid_from_mars"]
ROWS = TABLE_1 + TABLE_2
PAPER = "recipe=paper"


def shipped(name: str, *overrides: str) -> SearchSpace:
    return SearchSpace.load(f"{name}.yaml", overrides=overrides)


def published(name: str, *overrides: str) -> TrialConfig:
    """The trainer's configuration at the first start point."""
    space = shipped(name, *overrides)
    return space.config(space.start[0])


def settings_of(config: TrialConfig) -> dict[str, object]:
    return {".".join(keys): value for keys, value in flattened(config.model_dump(mode="json"))}


def differing(one: TrialConfig, other: TrialConfig) -> set[str]:
    """Dotted paths of the settings in which two configurations differ."""
    ours, theirs = settings_of(one), settings_of(other)
    return {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)}


def given(config: TrialConfig, expected: dict[str, object]) -> None:
    """The configuration has the expected settings."""
    settings = settings_of(config)
    assert {path: settings[path] for path in expected} == expected


# All spaces


def test_the_shipped_spaces_are_known_here() -> None:
    assert set(SHIPPED) == {*ROWS, "paper_2019", "demo", "smoke"}


@pytest.mark.parametrize("overrides", [(), (PAPER,)], ids=["own recipe", "recipe paper"])
@pytest.mark.parametrize("name", SHIPPED)
def test_random_samples_give_valid_configurations(name: str, overrides: tuple[str, ...]) -> None:
    space, source = shipped(name, *overrides), random.Random(0)
    for _ in range(50):
        sample: dict[str, Value] = {path: each.at(source.random()) for path, each in space.parameters.items()}
        assert isinstance(space.config(sample), TrialConfig)


@pytest.mark.parametrize("name", SHIPPED)
def test_start_points_give_valid_configurations(name: str) -> None:
    space = shipped(name)
    assert space.start
    assert all(isinstance(space.config(point), TrialConfig) for point in space.start)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "smoke"])
def test_every_searched_parameter_says_where_its_range_comes_from(name: str) -> None:
    lines = builtin_files()[name].read_text().splitlines()
    silent = [
        line
        for before, line in pairwise(lines)
        if re.match(r"  [a-z_]+(\.[a-z_]+)+:", line) and not before.startswith("  # ")
    ]
    assert silent == []


# Table 1: figures of the paper's code and of the code that row 1 was published with.

NUMBER_59 = {
    "loss.triplet_margin": 4.4132437486402204e-05,
    "optim.gamma": 0.3282654557691594,
    "optim.weight_decay": 5e-4,
    "optim.learning_rate": 3.5e-4,
    "loss.center_weight": 5e-4,
}
NUMBER_59_OSM = {
    "loss.osm_sigma": 0.9047814732165316,
    "loss.osm_alpha": 2.8436551583293728,
    "loss.osm_balance": 0.5873389293193368,
    "loss.osm_share": 1.0,
}
PUBLISHED: dict[str, dict[str, object]] = {
    "baseline": {
        **{"optim.learning_rate": 3e-4, "optim.weight_decay": 5e-4, "optim.gamma": 0.1, "optim.warmup": 0.0},
        **{"loss.triplet_metric": "euclidean", "loss.triplet_margin": 0.3, "loss.label_smoothing": 0.1},
        **{"loss.center_weight": 0.0, "loss.osm_share": 0.0, "loss.attention_weight": 0.0},
        **{"model.last_stride": 2, "model.neck": "none", "model.pooling": "attention"},
        **{"clips.crop": "translate", "clips.pad": 0, "clips.erase": 0.0, "evaluation.distance": "euclidean"},
    },
    "b_bot": {
        **NUMBER_59,
        **{"loss.triplet_metric": "cosine", "loss.osm_share": 0.0, "loss.label_smoothing": 0.1},
        **{"model.last_stride": 1, "model.neck": "bnneck", "clips.erase": 0.5, "clips.pad": 10},
    },
    "b_bot_osm": {**NUMBER_59, **NUMBER_59_OSM, "loss.osm_class_vectors": "classifier"},
    "b_bot_osm_cl": {**NUMBER_59, **NUMBER_59_OSM, "loss.osm_class_vectors": "centers", "loss.attention_weight": 0.0},
    "attn_cl": {**NUMBER_59, **NUMBER_59_OSM, "loss.osm_class_vectors": "centers", "loss.attention_weight": 1.0},
    "attn_cl_prid": {
        **{"data.name": "prid2011", "data.fold": 0, "loss.attention_weight": 1.0, "model.weights": "imagenet"},
        **{"loss.osm_sigma": 0.4622171143768694, "loss.osm_share": 0.8862757463439133},
        **{"optim.weight_decay": 0.644719303172342, "optim.gamma": 0.08632840796280798},
    },
    "attn_cl_prid_from_mars": {"data.name": "prid2011", "model.weights": "runs/attn_cl-best.pt"},
    "paper_2019": {**NUMBER_59, **NUMBER_59_OSM, "recipe": "paper", "clips.erase": 0.0, "optim.epochs": 121},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_configuration_is_tried_first(name: str) -> None:
    given(published(name), PUBLISHED[name])


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_trained_on_batches_of_8_by_4_clips_of_4_frames_for_120_epochs(name: str) -> None:
    expected = {"clips.identities": 8, "clips.tracklets": 4, "clips.frames": 4, "optim.epochs": 120}
    given(published(name), {**expected, "model.backbone": "resnet50", "model.height": 224, "model.width": 112})


@pytest.mark.parametrize(
    ("name", "metric"), [(name, "rank1" if name in TABLE_2 else "mAP") for name in [*ROWS, "paper_2019"]]
)
def test_every_row_is_searched_by_the_papers_objective(name: str, metric: str) -> None:
    objective = shipped(name).objective
    assert (objective.metric, objective.goal, objective.epoch) == (metric, "maximize", "last")


OSM = {"loss.osm_sigma", "loss.osm_alpha", "loss.osm_balance", "loss.osm_share"}
STEPS = {
    ("baseline", "b_bot"): {
        *("model.last_stride", "model.neck", "clips.erase", "clips.pad"),
        *("loss.triplet_metric", "loss.triplet_margin", "loss.center_weight"),
        *("optim.learning_rate", "optim.gamma", "optim.warmup", "optim.milestones"),
    },
    ("b_bot", "b_bot_osm"): {*OSM, "loss.osm_class_vectors"},
    ("b_bot_osm", "b_bot_osm_cl"): {"loss.osm_class_vectors"},
    ("b_bot_osm_cl", "attn_cl"): {"loss.attention_weight"},
    ("attn_cl", "attn_cl_prid"): {
        *("data.name", "data.root", "data.validation.share", "evaluation.protocol", *OSM),
        *("loss.triplet_margin", "optim.gamma", "optim.weight_decay"),
    },
    ("attn_cl_prid", "attn_cl_prid_from_mars"): {"model.weights"},
}


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_a_row_differs_from_the_one_before_only_in_what_defines_it(before: str, after: str) -> None:
    assert differing(published(before), published(after)) == STEPS[before, after]


# The recipe


@pytest.mark.parametrize("name", ROWS)
def test_the_papers_recipe_takes_effect_in_every_row(name: str) -> None:
    expected: dict[str, object] = {
        **{"clips.sampling": "consecutive_paper", "clips.crop": "translate", "clips.erase_fill": "light_grey"},
        **{"evaluation.sampling": "dense", "evaluation.max_clips": 41, "evaluation.distance": "euclidean"},
        **{"loss.attention_on": "scores", "loss.center_count": None if name == "baseline" else 751},
    }
    if name not in TABLE_1[:-1]:
        expected |= {"clips.second_erase": 0.5, "clips.erased_labels": "second"}
    given(published(name, PAPER), expected)


@pytest.mark.parametrize("name", ROWS)
def test_by_default_a_row_repairs_what_the_papers_code_gets_wrong(name: str) -> None:
    given(
        published(name),
        {
            **{"recipe": "fixed", "clips.sampling": "chunks", "clips.erase_fill": "mean", "clips.second_erase": 0.0},
            **{"clips.erased_labels": "every", "loss.attention_on": "weights", "loss.center_count": None},
        },
    )


# The paper's own search


def test_the_papers_search_has_its_ranges_and_scales() -> None:
    parameters = shipped("paper_2019").parameters
    ranges = {path: tuple(each.ends().values()) for path, each in parameters.items()}
    assert ranges == {
        "loss.osm_sigma": (0.1, 1.0),
        "loss.osm_alpha": (0.5, 3.0),
        "loss.osm_balance": (0.1, 1.0),
        "loss.triplet_margin": (1e-6, 1.0),
        "loss.osm_share": (1e-6, 1.0),
        "optim.gamma": (1e-6, 1.0),
        "optim.weight_decay": (1e-6, 1.0),
    }
    assert [path for path, each in parameters.items() if getattr(each, "log", False)] == ["loss.triplet_margin"]
    assert shipped("paper_2019").budget.trials == 60


def test_the_papers_search_trains_row_4_without_erasing() -> None:
    row = published("b_bot_osm_cl", PAPER)
    schedule = {"optim.epochs", "optim.warmup", "optim.milestones", "evaluation.every"}
    assert differing(row, published("paper_2019")) == {"clips.erase", *schedule}


def test_the_papers_schedule_counts_epochs_as_its_code_does() -> None:
    optim = published("paper_2019").optim
    assert round(optim.warmup * optim.epochs) == 10
    assert [round(share * optim.epochs) for share in optim.milestones] == [40, 70]


# Training

SMALL = (
    *("data.name=mars", "data.validation.share=0.4", "clips.identities=4", "clips.tracklets=2", "clips.frames=2"),
    *("model.backbone=tiny", "model.weights=none", "model.height=32", "model.width=16", "optim.epochs=1"),
)


@pytest.mark.parametrize("recipe", ["fixed", "paper"])
@pytest.mark.parametrize("name", [*ROWS, "paper_2019"])
def test_the_rows_train_without_error(name: str, recipe: str, mini_mars: Path, tmp_path: Path) -> None:
    config = published(name, *SMALL, f"data.root={mini_mars}", f"recipe={recipe}")
    (epoch,) = fit(config, out=tmp_path).history
    terms = {"total", "identity"}
    terms |= {"triplet"} if config.loss.osm_share < 1 else set()
    terms |= {"center"} if config.loss.center_weight > 0 else set()
    terms |= {"osm"} if config.loss.osm_share > 0 else set()
    terms |= {"attention"} if config.loss.attention_weight > 0 else set()
    assert set(epoch.losses) == terms
    assert epoch.validation is not None
