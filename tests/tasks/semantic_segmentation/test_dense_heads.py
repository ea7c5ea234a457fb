"""Which models can be peers, their labels, and OneFormer's task input."""

import pytest
import torch
from segmentation_peers import CLASSES, PIXEL, QUERY, REFUSED, SIZE, TASK_LENGTH, tiny_segmenter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
)

from hf_mutual_kd import Cohort, LabelError, LoadedPeer, PeerError, PeerSpec
from hf_mutual_kd.distillation.label_alignment import label_list
from hf_mutual_kd.tasks.semantic_segmentation.heads import head_of, with_task_input

TINY = {"hidden_sizes": [4, 4, 4, 4], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]}


def test_every_head_of_the_library_is_known():
    """A head that a new transformers adds would be taken for one in scope without anybody having looked at it."""
    assert set(MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES) <= set(PIXEL)
    assert set(MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES) <= {*QUERY, *REFUSED}


def test_the_kind_follows_from_the_model():
    """A query head taken for a per-pixel one would be told apart only after the first forward."""
    assert head_of(tiny_segmenter("mask2former")) == "query"
    assert head_of(tiny_segmenter("eomt_dinov3")) == "query"
    assert head_of(tiny_segmenter("segformer")) == "pixel"
    assert head_of(tiny_segmenter("torchvision")) == head_of(torch.nn.Conv2d(3, 5, 1)) == "pixel"


@pytest.mark.parametrize("name", REFUSED)
def test_heads_out_of_scope_are_refused_by_name(name):
    """DETR's and a video head's queries would pass for semantic ones and train on nonsense."""
    with pytest.raises(PeerError, match=rf"'a'.*\({name}\)"):
        head_of(tiny_segmenter(name), "a")


def test_models_that_do_not_segment_are_refused():
    """A classifier would fail only at its first forward, a binary head would be given a softmax over one class."""
    with pytest.raises(PeerError, match="SegformerForImageClassification"):
        head_of(SegformerForImageClassification(SegformerConfig(**TINY)))
    with pytest.raises(PeerError, match="one sigmoid logit"):
        head_of(SegformerForSemanticSegmentation(SegformerConfig(num_labels=1, **TINY)))


def test_labels_come_in_the_order_of_the_logits():
    """Ids read from JSON are strings, and sorted as such 10 comes before 2; ids that start at 1 shift every class."""
    model = tiny_segmenter("segformer")
    assert label_list(model.config) == label_list(tiny_segmenter("mask2former").config) == CLASSES
    model.config.id2label = {str(i): f"c{i}" for i in reversed(range(12))}
    assert label_list(model.config) == [f"c{i}" for i in range(12)]
    assert label_list(None) == []
    model.config.id2label = {1: "wall", 2: "sky"}
    with pytest.raises(LabelError, match="id 0"):
        label_list(model.config)
    peer = LoadedPeer(model, lambda images: None, PeerSpec("x"))
    with pytest.raises(LabelError, match="peer 'shifted': the 2 labels of a SegformerConfig must have the ids 0 to 1"):
        Cohort({"shifted": peer}, "semantic-segmentation")


def test_the_task_input_is_the_processors_own():
    """Padding ids that are not 0 would be fed to OneFormer's task encoder, which takes the ids as numbers."""
    vocabulary = {"[PAD]": 9, "the": 1, "task": 2, "is": 3, "semantic": 4, "panoptic": 5}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    batch = {"pixel_values": torch.randn(2, 3, SIZE, SIZE), "pixel_mask": torch.ones(2, SIZE, SIZE)}
    inputs = with_task_input(batch, tokenizer, TASK_LENGTH)
    assert inputs["task_inputs"].tolist() == [[1, 2, 3, 4, 0, 0, 0]] * 2
    assert "task_inputs" not in batch
    assert tiny_segmenter("oneformer")(**inputs).class_queries_logits.shape == (2, 6, 6)
    with pytest.raises(PeerError, match="AutoProcessor"):
        with_task_input(batch, object())
