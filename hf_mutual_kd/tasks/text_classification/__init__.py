"""Text classification: classes of texts and of pairs of them, logits `[B, C]`."""
