"""Benchmarks, one command each: `python -m benchmarks.bench_losses` and its neighbours print one JSON line."""
