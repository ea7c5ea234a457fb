"""Streaming `evaluate.Metric` modules that need neither network nor cache."""

from .classification import Agreement, Flips, Mean, StreamingMetric, TopK

__all__ = ["Agreement", "Flips", "Mean", "StreamingMetric", "TopK"]
