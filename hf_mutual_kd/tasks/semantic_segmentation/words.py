"""What is said of semantic segmentation."""

from __future__ import annotations

from ...reports.task_words import TaskWords

SNIPPET = """from transformers import pipeline

segmenter = pipeline("image-segmentation", model={model})
for part in segmenter({example}, subtask="semantic"):
    mask = part["mask"]  # an image of the same size, 255 where this class is
    print(f"{{part['label']}}: {{mask.histogram()[255] / (mask.width * mask.height):.1%}} of the pixels")"""

_QUERY_SNIPPET = """import torch
from PIL import Image
from transformers import {auto_processor}, AutoModelForUniversalSegmentation

processor = {auto_processor}.from_pretrained({{model}})
model = AutoModelForUniversalSegmentation.from_pretrained({{model}}).eval()
image = Image.open({{example}}).convert("RGB")
with torch.inference_mode():
    outputs = model(**processor({arguments}, return_tensors="pt"))
classes = processor.post_process_semantic_segmentation(outputs, target_sizes=[(image.height, image.width)])[0]
for index, pixels in zip(*classes.unique(return_counts=True)):
    print(f"{{{{model.config.id2label[int(index)]}}}}: {{{{pixels / classes.numel():.1%}}}} of the pixels")"""

QUERY_SNIPPET = _QUERY_SNIPPET.format(auto_processor="AutoImageProcessor", arguments="images=image")
ONEFORMER_SNIPPET = _QUERY_SNIPPET.format(
    auto_processor="AutoProcessor", arguments='images=image, task_inputs=["semantic"]'
)

WORDS = TaskWords(
    title="semantic segmentation",
    metric="mIoU",
    shown={
        "mIoU": "mIoU, %",
        "fwIoU": "fwIoU, %",
        "mACC": "mACC, %",
        "pACC": "pACC, %",
        "loss": "cross-entropy, nats",
    },
    # The Hub knows only the first of these types.
    hub_metrics={
        "mIoU": ("mean_iou", "mIoU"),
        "fwIoU": ("fwIoU", "fwIoU"),
        "mACC": ("mACC", "mACC"),
        "pACC": ("pACC", "pACC"),
    },
    points="points of mIoU",
    snippet=SNIPPET,
    auto_model="AutoModelForSemanticSegmentation",
    example="image.png",
    kept="pACC",
    alike="pixels of the same class as PyTorch, %",
    snippets={
        **dict.fromkeys(("maskformer", "mask2former", "eomt", "eomt_dinov3"), QUERY_SNIPPET),
        "oneformer": ONEFORMER_SNIPPET,
    },
    pipeline_tag="image-segmentation",
    by_class="IoU",
    note=(
        "mIoU, fwIoU, mACC and pACC come from one confusion matrix over the split, without ignored pixels. A "
        "class that no pixel of the split has is left out of the means, also where it was predicted "
        '(`absent="skip"`).'
    ),
    counted="images",
    examples=(
        "On the right, pixel by pixel, the peer that gave the truth the highest probability before the training: "
        "where it has something to teach."
    ),
)
