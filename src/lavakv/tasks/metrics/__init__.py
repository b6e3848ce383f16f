"""The benchmarks' official metrics, one a file; each gives 0 to 1."""

from lavakv.tasks.metrics.scorer import Scorer

__all__ = ["Scorer"]
