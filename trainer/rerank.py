"""Re-ranking, see `trainer.evaluation.rerank`."""

from trainer.evaluation.rerank import k_reciprocal_distance

__all__ = ["k_reciprocal_distance"]
