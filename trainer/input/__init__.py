"""From tracklets to batches: identity sampling, frame windows, augmentation, loading."""
