"""Importing this module tells transformers' Auto classes of encoders with a linear classifier."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageClassification

from .configuration_encoder_classifier import EncoderClassifierConfig
from .modeling_encoder_classifier import EncoderForImageClassification

AutoConfig.register(EncoderClassifierConfig.model_type, EncoderClassifierConfig, exist_ok=True)
AutoModelForImageClassification.register(EncoderClassifierConfig, EncoderForImageClassification, exist_ok=True)
