"""Embedding, ranking and its metrics, protocols, comparisons."""
