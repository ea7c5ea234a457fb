"""Who teaches whom, and the loss; tensors only."""
