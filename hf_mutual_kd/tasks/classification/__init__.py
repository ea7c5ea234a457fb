"""What all tasks share whose peers give logits `[B, C]`: one class of each sample."""
