"""Image-text models as classifiers: the text tower turns the names of the classes into the classifier, and rests."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING
from transformers.modeling_outputs import ImageClassifierOutput

from ..config.prompts import check_templates
from .new_heads import label_maps

TWO_TOWERS = ("AltCLIPModel", "ChineseCLIPModel", "CLIPModel", "MetaClip2Model", "SiglipModel", "Siglip2Model")
"""Classes whose logits are a scaled cosine between an image and a text, plus a bias in SigLIP's."""
RESTS = ("text_model", "text_projection", "logit_scale", "logit_bias")
"""Parts that no training changes: the classes' embeddings would be others, and a peer's sureness no longer its own."""
TEXTS_AT_ONCE = 256


def has_text_tower(config: Any) -> bool:
    """Whether a checkpoint says that it is a whole image-text model, not a tower or a classifier made of one."""
    architectures = getattr(config, "architectures", None) or []
    return len(architectures) == 1 and architectures[0] in TWO_TOWERS


def zero_shot_class(config: Any) -> Any:
    """The class of transformers for this configuration, which answers with the classes that it was told."""
    return _with_classes(MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING[type(config)])


@functools.cache
def _with_classes(stock: type[nn.Module]) -> type[nn.Module]:
    # Under the stock name: it is what a saved model's config.json and an adapter's say of its class.
    return type(stock.__name__, (ZeroShot, stock), {"__module__": stock.__module__, "__doc__": stock.__doc__})


class ZeroShot(nn.Module):
    """What an image-text model has besides: classes, whose embeddings are computed once and kept as a buffer.

    Its files are those of the stock model, with its tokenizer; `config.json` also says the classes and the templates.
    """

    config: Any
    tokenizer: Any
    class_embeddings: Tensor
    """`[C, D]`: of each class the mean over the templates of its texts' embeddings of length 1."""
    resting_parts = RESTS

    @torch.no_grad()
    def name_classes(self, names: Sequence[str], templates: Sequence[str], tokenizer: Any) -> None:
        """
        Make the classifier of these classes.

        With several templates logits are the mean of those that `pipeline("zero-shot-image-classification")` has
        with each.

        Args:
            names (`list[str]`, C): as they stand in the data set.
            templates (`list[str]`): texts with one `{}`.
            tokenizer: the model's.
        """
        model: Any = self
        check_templates(templates)
        texts = [template.format(name) for name in names for template in templates]
        # As the pipeline has it, on which the numbers depend.
        is_siglip = "siglip" in self.config.model_type
        padding: dict[str, Any] = {"padding": True}
        if is_siglip:
            padding = {"padding": "max_length", "max_length": 64, "truncation": True}
        device, was_training = next(self.parameters()).device, self.training
        self.eval()
        parts = []
        for begin in range(0, len(texts), TEXTS_AT_ONCE):
            tokens = tokenizer(texts[begin : begin + TEXTS_AT_ONCE], return_tensors="pt", **padding).to(device)
            parts.append(nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1))
        self.train(was_training)
        embeddings = torch.cat(parts).unflatten(0, (len(names), len(templates))).mean(1)
        self.register_buffer("class_embeddings", embeddings, persistent=False)
        self.tokenizer = tokenizer
        self.config.id2label, self.config.label2id = label_maps(names)
        self.config.prompt_templates = list(templates)

    def forward(self, pixel_values: Tensor, **more: Any) -> ImageClassifierOutput:
        """Logits `[B, C]` of the classes: `exp(logit_scale) cos(image, text)`, in SigLIP's plus `logit_bias`."""
        model: Any = self
        images = nn.functional.normalize(model.get_image_features(pixel_values=pixel_values, **more).pooler_output)
        logits = images @ self.class_embeddings.to(images.dtype).T * model.logit_scale.exp()
        return ImageClassifierOutput(logits=logits + getattr(self, "logit_bias", 0.0))

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """As of `nn.Module`, but what rests goes on resting."""
        super().requires_grad_(requires_grad)
        for key, weight in self.named_parameters():
            if key.split(".")[0] in RESTS:
                weight.requires_grad_(False)
        return self

    def reads(self) -> dict[str, Any]:
        """What its classifier was made of, ready for JSON."""
        config = self.config
        return {
            "labels": list(config.id2label.values()),
            "prompt_templates": config.prompt_templates,
            "model_type": config.model_type,
        }

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """As of the stock model, its tokenizer beside it."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        self.tokenizer.save_pretrained(save_directory)
