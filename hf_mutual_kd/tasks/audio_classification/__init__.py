"""Audio classification: classes of sounds, logits `[B, C]`."""
