"""Video classification: classes of videos, logits `[B, C]`."""
