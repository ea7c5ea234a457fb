"""Tiny random peers of every semantic head: 64 x 64 pixels, 5 classes; nothing is fetched."""

import torch
import transformers as hf
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

SIZE = 64
CLASSES = ["water", "forest", "grass", "city", "ice"]
TASK_LENGTH = 7

_LABELS = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
_VIT = {
    "image_size": SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
_BEIT = {"patch_size": 8, "out_indices": [1, 2, 3, 4], "pool_scales": [1, 2], "use_auxiliary_head": False}
_DPT = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
_ASPP = {"aspp_out_channels": 8, "atrous_rates": [1, 2, 3], "image_size": SIZE}
_STAGES = {"depths": [1, 1, 1, 1], "out_features": ["stage1", "stage2", "stage3", "stage4"]}
_DETR = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "num_queries": 6,
}
_MASKED = {
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 16,
    "num_queries": 6,
}
_EOMT = {"patch_size": 16, "num_blocks": 1, "num_queries": 6, "num_upscale_blocks": 2, "num_register_tokens": 1}
_TEXT = {
    "text_encoder_width": 16,
    "text_encoder_num_layers": 1,
    "text_encoder_vocab_size": 20,
    "text_encoder_proj_layers": 1,
    "text_encoder_n_ctx": 2,
    "text_encoder_context_length": TASK_LENGTH,
    "task_seq_len": TASK_LENGTH,
    "query_dec_layers": 1,
}


def _swin():
    return hf.SwinConfig(
        image_size=SIZE, patch_size=4, embed_dim=8, num_heads=[1, 1, 2, 2], window_size=2, mlp_ratio=1.0, **_STAGES
    )


def _convnext():
    return hf.ConvNextConfig(hidden_sizes=[4, 8, 8, 16], **_STAGES)


def _resnet():
    return hf.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8, 8, 8], layer_type="basic", **_STAGES)


def _tips():
    vit = {key: value for key, value in _VIT.items() if key != "intermediate_size"} | {"mlp_ratio": 1}
    stages = {"out_indices": [1, 2, 3, 4], "apply_layernorm": True, "reshape_hidden_states": False}
    return {"model_type": "tipsv2_vision_model", "patch_size": 16, **vit, **stages}


CONFIGS = {
    "beit": lambda: hf.BeitConfig(**_BEIT, **_VIT, **_LABELS),
    "data2vec-vision": lambda: hf.Data2VecVisionConfig(**_BEIT, **_VIT, **_LABELS),
    "dpt": lambda: hf.DPTConfig(patch_size=16, backbone_out_indices=[0, 1, 2, 3], **_DPT, **_VIT, **_LABELS),
    "mobilenet_v2": lambda: hf.MobileNetV2Config(depth_multiplier=0.1, image_size=SIZE, output_stride=8, **_LABELS),
    "mobilevit": lambda: hf.MobileViTConfig(
        hidden_sizes=[8, 8, 8],
        neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 16],
        num_attention_heads=2,
        mlp_ratio=1.0,
        output_stride=8,
        **_ASPP,
        **_LABELS,
    ),
    "mobilevitv2": lambda: hf.MobileViTV2Config(
        width_multiplier=0.1,
        n_attn_blocks=[1, 1, 1],
        base_attn_unit_dims=[16, 16, 16],
        output_stride=8,
        initializer_range=0.3,
        **_ASPP,
        **_LABELS,  # with the default's 0.02 the signal dies on its way
    ),
    "sapiens2": lambda: hf.Sapiens2Config(
        patch_size=16,
        num_first_full_attention_layers=1,
        num_last_full_attention_layers=1,
        num_key_value_attention_heads=1,
        head_config={"upsample_out_channels": [8], "conv_out_channels": [8]},
        **_VIT,
        **_LABELS,
    ),
    "segformer": lambda: hf.SegformerConfig(
        hidden_sizes=[4, 8, 8, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
        **_LABELS,
    ),
    "tipsv2_dpt": lambda: hf.Tipsv2DptConfig(backbone_config=_tips(), **_DPT, **_LABELS),
    "upernet": lambda: hf.UperNetConfig(
        backbone_config=_convnext(),
        hidden_size=8,
        pool_scales=[1, 2],
        auxiliary_channels=4,
        auxiliary_in_channels=8,
        **_LABELS,
    ),
    "maskformer": lambda: hf.MaskFormerConfig(
        backbone_config=_swin(),
        decoder_config=hf.DetrConfig(backbone_config=_resnet(), **_DETR),
        fpn_feature_size=32,
        mask_feature_size=16,
        **_LABELS,
    ),
    "mask2former": lambda: hf.Mask2FormerConfig(
        backbone_config=_swin(), feature_size=32, mask_feature_size=32, **_MASKED, **_LABELS
    ),
    "eomt": lambda: hf.EomtConfig(mlp_ratio=1, **_EOMT, **_VIT, **_LABELS),
    "eomt_dinov3": lambda: hf.EomtDinov3Config(**_EOMT, **_VIT, **_LABELS),
    "oneformer": lambda: hf.OneFormerConfig(
        backbone_config=_swin(), conv_dim=32, mask_dim=32, **_MASKED, **_TEXT, **_LABELS
    ),
    "detr": lambda: hf.DetrConfig(backbone_config=_resnet(), **_DETR, **_LABELS),
    "videomt": lambda: hf.VideomtConfig(mlp_ratio=1, **_EOMT, **_VIT, **_LABELS),
}
CLASSES_OF = {
    "beit": hf.BeitForSemanticSegmentation,
    "data2vec-vision": hf.Data2VecVisionForSemanticSegmentation,
    "dpt": hf.DPTForSemanticSegmentation,
    "mobilenet_v2": hf.MobileNetV2ForSemanticSegmentation,
    "mobilevit": hf.MobileViTForSemanticSegmentation,
    "mobilevitv2": hf.MobileViTV2ForSemanticSegmentation,
    "sapiens2": hf.Sapiens2ForSemanticSegmentation,
    "segformer": hf.SegformerForSemanticSegmentation,
    "tipsv2_dpt": hf.Tipsv2DptForSemanticSegmentation,
    "upernet": hf.UperNetForSemanticSegmentation,
    "maskformer": hf.MaskFormerForInstanceSegmentation,
    "mask2former": hf.Mask2FormerForUniversalSegmentation,
    "eomt": hf.EomtForUniversalSegmentation,
    "eomt_dinov3": hf.EomtDinov3ForUniversalSegmentation,
    "oneformer": hf.OneFormerForUniversalSegmentation,
    "detr": hf.DetrForSegmentation,
    "videomt": hf.VideomtForUniversalSegmentation,
}
QUERY = ["maskformer", "mask2former", "eomt", "eomt_dinov3", "oneformer"]
REFUSED = ["detr", "videomt"]
PIXEL = [name for name in CLASSES_OF if name not in (*QUERY, *REFUSED)]


def tiny_segmenter(name: str, seed: int = 0) -> torch.nn.Module:
    """A random peer with the head `name`, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name == "torchvision":
            return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(CLASSES)).eval()
        return CLASSES_OF[name](CONFIGS[name]()).eval()


def inputs_of(name: str, height: int = SIZE, width: int = SIZE) -> dict[str, torch.Tensor]:
    """Two random images for [`tiny_segmenter`], one clip for a video head."""
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    if name == "torchvision":
        return {"input": pixels}
    if name == "videomt":
        return {"pixel_values_videos": pixels[None]}
    extra = {"task_inputs": torch.arange(2 * TASK_LENGTH).view(2, -1)} if name == "oneformer" else {}
    return {"pixel_values": pixels, **extra}


def oneformer_processor(size: dict[str, int]) -> hf.OneFormerProcessor:
    """A processor with a tokenizer that knows the words of its task."""
    words = ["<|startoftext|>", "<|endoftext|>", "the</w>", "task</w>", "is</w>", "semantic</w>"]
    letters = sorted(set("theaskismnc"))
    vocab = {word: index for index, word in enumerate([*words, *letters, *(letter + "</w>" for letter in letters)])}
    tokenizer = hf.CLIPTokenizer(vocab=vocab, merges=[])
    images = hf.OneFormerImageProcessor(size=size)
    return hf.OneFormerProcessor(images, tokenizer, task_seq_length=TASK_LENGTH, max_seq_length=TASK_LENGTH)
