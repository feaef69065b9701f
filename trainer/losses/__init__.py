"""The losses: pure functions of tensors, and their weighted sum."""

from trainer.losses.functional import batch_hard_triplet, center_loss, erased_frame_attention, osm_caa

__all__ = ["batch_hard_triplet", "center_loss", "erased_frame_attention", "osm_caa"]
