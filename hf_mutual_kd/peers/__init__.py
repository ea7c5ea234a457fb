"""Pretrained models, loaded, adapted and run together."""
