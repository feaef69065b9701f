"""Ranking metrics, see `trainer.evaluation.metrics`."""

from trainer.evaluation.metrics import Ranking, evaluate_ranking

__all__ = ["Ranking", "evaluate_ranking"]
