"""Warnings of a training: attention that is uniform, evaluations that take most of the time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from trainer.config import TrialConfig
from trainer.result import UNIFORM_ENTROPY, EpochResult

MOST_EVALUATION = 0.2  # share of the time above which evaluations are warned of

log = logging.getLogger(__name__)


def log_diagnostics(history: Sequence[EpochResult], config: TrialConfig) -> None:
    """Logs warnings and notes on the last epoch of `history`."""
    _check_attention(history)
    _check_evaluation_time(history, config)


def _check_attention(history: Sequence[EpochResult]) -> None:
    """Warns of the last epoch if all its frames weighed the same; the first time with advice."""
    uniform = [result for result in history if result.attention.get("entropy", 0.0) >= UNIFORM_ENTROPY]
    if not uniform or uniform[-1] is not history[-1]:
        return
    advice = "; model.attention_score_relu false keeps scores alive, a smaller loss.attention_weight spares them"
    log.warning(
        "epoch %d: attention entropy %.2f, all frames of a clip weigh the same, %.0f %% of the scores are dead%s",
        history[-1].epoch,
        history[-1].attention["entropy"],
        100 * history[-1].attention["dead_scores"],
        advice if len(uniform) == 1 else "",
    )


def _check_evaluation_time(history: Sequence[EpochResult], config: TrialConfig) -> None:
    """Logs, at the end or as a warning at the first evaluation, what share of the time evaluations take."""
    if not history[-1].evaluation_seconds:
        return
    share = evaluation_share(history, min(config.evaluation.every, config.optim.epochs))
    if len([result for result in history if result.evaluation_seconds]) == 1 and share > MOST_EVALUATION:
        log.warning(
            "evaluations take %.0f %% of the time; raise evaluation.every, or lower evaluation.clips or "
            "data.validation.distractors",
            100 * share,
        )
    elif len(history) == config.optim.epochs:
        log.info("evaluations took %.0f %% of the time", 100 * share)


def evaluation_share(history: Sequence[EpochResult], every: int) -> float:
    """Share of the time, in [0, 1], that evaluations take when one follows every `every` epochs."""
    evaluations = [result.evaluation_seconds for result in history if result.evaluation_seconds]
    training = sum(result.seconds - result.evaluation_seconds for result in history) / len(history)
    evaluation = sum(evaluations) / len(evaluations)
    return evaluation / (evaluation + every * training)
