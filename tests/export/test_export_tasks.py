"""Exports of segmenters and of saliency models: what their files give, and how good they are said to be."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from saliency_peers import FRAMES, SIDE, SMALL, tiny_saliency
from saliency_run import gaze_videos, saliency_cohort
from segmentation_peers import CLASSES, QUERY, SIZE, oneformer_processor, tiny_segmenter
from segmentation_run import SQUARE, segmentation_rows
from transformers import EomtImageProcessor, Mask2FormerImageProcessor, SegformerImageProcessor

from hf_mutual_kd import (
    TASKS,
    ClipRows,
    ExportError,
    IdentifiedRows,
    SemanticSegmentation,
    VideoSaliency,
    VideoSaliencyProcessor,
)
from hf_mutual_kd.cli.export import export_table
from hf_mutual_kd.data.masks import read_mask
from hf_mutual_kd.export.checks import Checked, Runner, measure
from hf_mutual_kd.export.onnx import _find, _refusal, export_peer
from hf_mutual_kd.tasks.semantic_segmentation.export import SegmentationExport
from hf_mutual_kd.tasks.video_saliency.export import SaliencyExport

BACKWARDS = CLASSES[::-1]


def segmentation_peer(head: str, labels=CLASSES, **size) -> SegmentationExport:
    if "eomt" in head:
        own = EomtImageProcessor(size={"shortest_edge": SIZE, "longest_edge": SIZE}, do_pad=True)
    elif head == "oneformer":
        own = oneformer_processor(SQUARE)
    elif head in QUERY:
        own = Mask2FormerImageProcessor(size=size or SQUARE, ignore_index=255)
    else:
        own = SegformerImageProcessor(size=SQUARE)
    return SegmentationExport(SemanticSegmentation(), head, tiny_segmenter(head), processor=own, labels=labels)


def saliency_peer(kind: str) -> SaliencyExport:
    processor = VideoSaliencyProcessor((SIDE, SIDE), num_frames=FRAMES)
    return SaliencyExport(VideoSaliency(), kind, tiny_saliency(kind), processor=processor, labels=[])


def file_outputs(folder: Path, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    names = [one.name for one in session.get_outputs()]
    found = session.run(names, {name: value.numpy() for name, value in given.items()})
    return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}


SLOW_QUERY = [pytest.param(name, marks=pytest.mark.slow) for name in QUERY if name != "eomt"]


@pytest.mark.parametrize("head", ["eomt", *SLOW_QUERY])
def test_a_head_with_queries_gives_both_tensors_for_any_batch(tmp_path, head):
    """A file of which no processor can make a map, a frozen batch, or another task than OneFormer was told."""
    peer, rows = segmentation_peer(head), list(IdentifiedRows(segmentation_rows(3, 1)))
    report = export_peer(peer, tmp_path / "onnx", rows, None, 0.02)
    assert report.outputs == ["class_queries_logits", "masks_queries_logits"]
    (batch,) = peer.batches(rows)
    found = file_outputs(report.folder, peer.inputs(batch))
    given = batch["peer_inputs"][head]
    with torch.no_grad():
        expected = peer.model(**{key: given[key] for key in ("pixel_values", "task_inputs") if key in given})
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)
    post = Mask2FormerImageProcessor().post_process_semantic_segmentation
    maps = [post(outputs, target_sizes=[(40, 56)] * 3) for outputs in (SimpleNamespace(**found), expected)]
    assert all(torch.equal(one, other) for one, other in zip(*maps, strict=True))
    assert (report.measured["model.onnx"].agreement, report.inputs) == (1.0, {"pixel_values": [3, SIZE, SIZE]})
    assert report.measured["model.onnx"].accuracy == report.measured["pytorch"].accuracy is not None


def test_pixels_are_judged_by_class_names_without_ignored_ones():
    """A peer with its classes in another order that seems to know nothing, or accuracy over pixels without a truth."""
    peer = segmentation_peer("beit", labels=BACKWARDS)
    rows = [
        {"image": Image.new("RGB", (4, 2)), "label": np.array([[0, 1, 255, 4], [4, 4, 4, 255]], np.uint8)},
        {"image": Image.new("RGB", (3, 2)), "label": None},
    ]
    (batch,) = peer.batches([{"sample_id": place, **row} for place, row in enumerate(rows)])
    said = [torch.tensor([[4, 0, 0, 0], [0, 0, 1, 0]]), torch.zeros(2, 3, dtype=torch.long)]
    assert peer.right(said, batch) == (4, 6)  # 0 is called "ice" by the data, which is the peer's class 4
    assert segmentation_peer("beit", labels=["other", *CLASSES[1:]]).right(said, batch) == (0, 0)
    assert peer.alike(said, [said[0].clone(), torch.ones(2, 3, dtype=torch.long)]) == (8, 14)


def test_a_map_covers_the_image_and_not_its_padding():
    """Accuracy of an image that is stretched over the padding below it."""
    peer = segmentation_peer("eomt")
    mask = np.zeros((SIZE // 2, SIZE), np.uint8)
    mask[SIZE // 4 :] = 1
    row = {"image": Image.new("RGB", (SIZE, SIZE // 2)), "label": mask, "sample_id": 0}
    (batch,) = peer.batches([row])
    masks = torch.full((1, 2, 16, 16), -9.0)
    masks[0, 0, :4], masks[0, 1, 4:8] = 9.0, 9.0  # two queries share the upper half, where the image is
    classes = torch.full((1, 2, len(CLASSES) + 1), -9.0)
    classes[0, 0, 0] = classes[0, 1, 1] = 9.0
    predictions = peer.predictions({"class_queries_logits": classes, "masks_queries_logits": masks}, batch)
    assert peer.inputs(batch)["pixel_values"].shape[2:] == (SIZE, SIZE)
    assert peer.right(predictions, batch) == (mask.size, mask.size)


def test_a_segmentation_peer_is_checked_pixel_by_pixel(tmp_path):
    """Maps that are compared as if they were one class, or int8 that is judged without the labels that there are."""
    peer = segmentation_peer("beit")
    rows = list(IdentifiedRows(segmentation_rows(3, 1)))
    report = export_peer(peer, tmp_path / "onnx", rows, rows, 1.0)
    plain, small = report.measured["model.onnx"], report.measured["model_int8.onnx"]
    assert plain.agreement == 1.0
    right = judged = 0
    for row in rows:
        (batch,) = peer.batches([row])
        found = file_outputs(report.folder, peer.inputs(batch))["logits"]
        mask = read_mask(row)
        said = torch.nn.functional.interpolate(found, size=mask.shape, mode="bilinear").argmax(1)[0]
        right, judged = right + int((said == mask).sum()), judged + mask.numel()
    assert plain.accuracy == pytest.approx(right / judged)
    assert _refusal(small, Checked("", 1, accuracy=small.accuracy + 0.1), 0.02, report.words).startswith(
        f"it loses 10.0 of {100 * small.accuracy + 10:.1f} (pACC, %), allowed 2.0"
    )


def test_padded_sizes_that_differ_within_a_batch_are_refused():
    """A file made for the largest image of a batch, whose padding the others' maps would hold."""
    peer = segmentation_peer("mask2former", shortest_edge=32, longest_edge=64)
    images = [Image.new("RGB", (32, 32)), Image.new("RGB", (64, 32))]
    rows = [{"image": image, "label": None, "sample_id": place} for place, image in enumerate(images)]
    with pytest.raises(ExportError, match=r"makes \[3, 32, 32\] of one sample and \[3, 32, 64\] of another"):
        list(peer.batches(rows))


SLOW_SALIENCY = [pytest.param(kind, marks=pytest.mark.slow) for kind in SMALL if kind != "convnext"]


@pytest.mark.parametrize("kind", ["convnext", *SLOW_SALIENCY])
def test_a_model_of_clips_is_exported_with_its_cc(tmp_path, kind):
    """A clip whose batch is frozen, frames in another order, or a CC that is called an accuracy in %."""
    peer = saliency_peer(kind)
    rows = list(IdentifiedRows(ClipRows(gaze_videos(3, "test", blank=2), every=5)))
    report = export_peer(peer, tmp_path / "onnx", rows, rows[:2], 2.0)
    size = [FRAMES, 3, SIDE, SIDE]
    assert (report.outputs, report.inputs) == (["logits"], {"pixel_values": size})
    clips = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = peer.model(pixel_values=clips).logits
    torch.testing.assert_close(
        file_outputs(report.folder, {"pixel_values": clips})["logits"], expected, atol=1e-3, rtol=1e-3
    )
    plain = report.measured["model.onnx"]
    assert plain.agreement == pytest.approx(1.0, abs=1e-6)
    assert plain.accuracy == pytest.approx(report.measured["pytorch"].accuracy, abs=1e-4)
    shown = export_table([report])
    assert "CC with PyTorch" in shown
    assert "accuracy" not in shown
    facts = json.loads((report.folder / "export.json").read_text(encoding="utf-8"))
    assert facts["input"] == {"pixel_values": [FRAMES, 3, SIDE, SIDE]}


def test_the_cc_of_an_export_is_that_of_the_run():
    """Another CC in the table of an export than in the run's results, as of blank frames that count."""
    rows = list(IdentifiedRows(ClipRows(gaze_videos(3, "test", blank=2), every=5)))
    cohort = saliency_cohort(["convnext"])
    peer = SaliencyExport(
        VideoSaliency(), "convnext", cohort.peers["convnext"], processor=cohort.processors["convnext"], labels=[]
    )

    def run(given):
        with torch.no_grad():
            return {"logits": peer.model(**given).logits}

    found = measure(peer, peer.batches(rows), {"pytorch": Runner("PyTorch", 1, run)})
    evaluator = cohort.task.evaluator(["convnext"], 0)
    batch = cohort.task.collator_class(cohort.processors)(rows)
    with torch.no_grad():
        outputs = list(cohort.eval()(peer_inputs=batch["peer_inputs"]).outputs.values())
    evaluator.add(cohort.task.evaluation_facts(outputs, batch["labels"], batch["sample_ids"]))
    assert (found.samples, found.checked["pytorch"].agreement) == (len(rows), pytest.approx(1.0))
    assert found.checked["pytorch"].accuracy == pytest.approx(evaluator.compute()["convnext"]["CC"], abs=1e-5)


def test_numbers_that_are_none_are_told():
    """NaN from a file that passes because no comparison with it is true."""
    peer = saliency_peer("convnext")
    rows = list(IdentifiedRows(ClipRows(gaze_videos(1, "test"), every=5)))
    runners = {
        name: Runner(
            name, 1, lambda given, value=value: {"logits": torch.full((len(given["pixel_values"]), 1, 4, 5), value)}
        )
        for name, value in (("pytorch", 0.0), ("model.onnx", float("nan")))
    }
    found = measure(peer, peer.batches(rows), runners)
    assert found.differing == {"pytorch": None, "model.onnx": "logits: largest difference nan, allowed 0.001"}


def test_every_task_is_exported_and_a_model_alone_says_which_is_its_own(tmp_path):
    """A new task that only a traceback tells of, or a segmenter that is taken for a classifier."""
    assert {name for name, task in TASKS.items() if task.exporter is None} == set()
    kinds = {
        "MaskFormerForInstanceSegmentation": "semantic-segmentation",
        "VideoSaliencyModel": "video-saliency",
        "ViTForImageClassification": "image-classification",
        "SomebodysOwn": "image-classification",
    }
    for architecture, task in kinds.items():
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}), encoding="utf-8")
        assert _find(tmp_path, None)[1] == {"task": task}
