"""Batches of images and masks: every image in one geometry for all peers, and nothing of its neighbours in its map."""

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from segmentation_peers import TASK_LENGTH, oneformer_processor, tiny_segmenter
from torch import nn
from torch.utils.data import DataLoader

from hf_mutual_kd import IGNORE, DataError, LabelError, PeerError, SemanticSegmentation, identified
from hf_mutual_kd.data.masks import OUTSIDE, UNLABELLED, UNREADABLE
from hf_mutual_kd.distillation.label_alignment import ClassColumns
from hf_mutual_kd.tasks.semantic_segmentation.batches import run_alone
from hf_mutual_kd.tasks.semantic_segmentation.collator import DenseCollator, load_dense_processor
from hf_mutual_kd.tasks.semantic_segmentation.labels import image_sizes, labels_for_peer
from hf_mutual_kd.tasks.semantic_segmentation.outputs import semantic_map
from hf_mutual_kd.tasks.semantic_segmentation.view import DenseView

ALL_CLASSES = ClassColumns("peer", 5)
BAD = {"bytes": b"no image", "path": "broken.png"}
SIZES = [(64, 96), (100, 64), (64, 64), (64, 200)]


def padding(**changes) -> hf.Mask2FormerImageProcessor:
    return hf.Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 256}, **changes)


def square(**changes) -> hf.EomtImageProcessor:
    return hf.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True, **changes)


def fixed(side: int = 64, **changes) -> hf.SegformerImageProcessor:
    return hf.SegformerImageProcessor(size={"height": side, "width": side}, **changes)


def scene(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def rows_of(sizes, first: int = 0) -> list[dict]:
    """Masks of one number per row, so that they tell the rows apart."""
    return [
        {"image": scene(*size, index), "label": np.full(size, index, np.uint8), "sample_id": first + index}
        for index, size in enumerate(sizes)
    ]


class Averages(nn.Module):
    """A per-pixel head that looks at 4 x 4 pixels at a time: no image can see another's padding but at its border."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Conv2d(3, 5, 4, stride=4)

    def forward(self, pixel_values, pixel_mask=None):
        return {"logits": self.classify(pixel_values)}


def peer_of(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Averages() if kind == "averages" else tiny_segmenter(kind)


PEERS = {
    "averages": padding(),
    "mask2former": padding(),
    "maskformer": padding(size_divisor=16),
    "eomt": square(),
    "segformer": fixed(),
    "mobilevit": hf.MobileViTImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 32, "width": 32}),
}


def maps_of(model: nn.Module, inputs: dict, sizes: list) -> list[torch.Tensor]:
    keys = ("logits", "class_queries_logits", "masks_queries_logits")

    def call(part: dict) -> dict:
        outputs = model(**part)
        return {key: outputs[key] for key in keys if key in outputs}

    with torch.no_grad():
        outputs, padded, valid, _ = run_alone(call, inputs)
        return semantic_map(outputs, valid, sizes, padded=padded)


@pytest.mark.parametrize("kind", PEERS)
def test_every_image_gets_the_map_it_gets_alone(kind):
    """In a padded batch every smaller image's map is shifted and scaled, and attention looks at the padding."""
    collator, model = DenseCollator({"peer": PEERS[kind]}), peer_of(kind)
    rows = rows_of(SIZES)
    together = maps_of(model, collator(rows)["peer_inputs"]["peer"], SIZES)
    for row, size, found in zip(rows, SIZES, together, strict=True):
        (alone,) = maps_of(model, collator([row])["peer_inputs"]["peer"], [size])
        assert found.shape == size
        assert (found != alone).float().mean() < 0.002


def test_image_that_ends_within_a_cell_is_cut_where_it_ends():
    """Counted in whole cells, an image of 37 pixels has the map of one of 40, and another one alone."""
    processor = padding(do_resize=False, size_divisor=32)
    collator, model = DenseCollator({"peer": processor}), peer_of("averages")
    rows = rows_of([(37, 53), (64, 96)])
    inputs = collator(rows)["peer_inputs"]["peer"]
    assert "own_sizes" in inputs
    together = maps_of(model, inputs, [(370, 530), (64, 96)])[0]
    alone = maps_of(model, collator(rows[:1])["peer_inputs"]["peer"], [(370, 530)])[0]
    assert torch.equal(together, alone)


def test_a_local_head_needs_no_separate_run():
    """Valid sizes alone must put the map of a head without attention right."""
    collator, model = DenseCollator({"peer": padding()}), peer_of("averages")
    rows = rows_of(SIZES)
    inputs = collator(rows)["peer_inputs"]["peer"]
    with torch.no_grad():
        logits = model(inputs["pixel_values"])
    maps = semantic_map(logits, inputs["valid_sizes"], SIZES, padded=tuple(inputs["pixel_values"].shape[-2:]))
    for row, size, found in zip(rows, SIZES, maps, strict=True):
        assert torch.equal(found, maps_of(model, collator([row])["peer_inputs"]["peer"], [size])[0])


def test_valid_sizes_by_hand():
    """A wrong size crops the image or keeps its padding; EoMT's processor says neither."""
    peers = {
        "fixed": fixed(),
        "masked": padding(),
        "fit": padding(pad_size={"height": 256, "width": 256}),
        "square": square(),
        "crop": hf.MobileViTImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        "plain": lambda images: {"pixel_values": torch.zeros(len(images), 3, 8, 9)},
    }
    inputs = DenseCollator(peers)(rows_of(SIZES[:2]))["peer_inputs"]
    assert {name: given["valid_sizes"].tolist() for name, given in inputs.items()} == {
        "fixed": [[64, 64], [64, 64]],
        "masked": [[64, 96], [128, 64]],
        "fit": [[64, 96], [128, 64]],
        "square": [[43, 64], [64, 41]],
        "crop": [[32, 48], [50, 32]],
        "plain": [[8, 9], [8, 9]],
    }
    assert inputs["masked"]["pixel_values"].shape == (2, 3, 128, 96)
    assert inputs["masked"]["pixel_mask"].flatten(1).sum(1).tolist() == [64 * 96, 128 * 64]
    assert inputs["fit"]["pixel_values"].shape == (2, 3, 256, 256)
    assert inputs["square"]["pixel_values"].shape == (2, 3, 64, 64)
    assert {name for name, given in inputs.items() if "own_sizes" in given} == {"masked", "crop"}
    assert "pixel_mask" not in inputs["crop"]


def test_padding_is_the_processors_own():
    """Our padding of a mixed batch must be what Mask2Former's processor makes of it."""
    images = [scene(*size, index) for index, size in enumerate(SIZES)]
    given = DenseCollator({"a": padding()})(rows_of(SIZES))["peer_inputs"]["a"]
    wanted = padding()(images=images, return_tensors="pt")
    assert torch.equal(given["pixel_values"], wanted["pixel_values"])
    assert torch.equal(given["pixel_mask"], wanted["pixel_mask"])


def test_labels_cover_what_the_peer_sees():
    """A centre crop of the image alone shifts every label."""
    image = Image.new("RGB", (96, 64))
    image.paste((255, 255, 255), (0, 0, 16, 64))
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :16] = 1
    row = {"image": image, "label": mask, "sample_id": 0}
    batch = DenseCollator({name: PEERS[name] for name in ("mask2former", "eomt", "segformer", "mobilevit")})([row])
    for given in batch["peer_inputs"].values():
        pixels = given["pixel_values"]
        labels = labels_for_peer(batch["labels"], given["valid_sizes"], tuple(pixels.shape[-2:]))[0]
        is_bright = pixels[0, 0] > pixels[0, 0].mean()
        inside = labels != IGNORE
        assert (is_bright == (labels == 1))[inside].float().mean() > 0.95
        assert inside.sum() == given["valid_sizes"].prod()


def test_processors_never_meet_labels():
    """Reduced by the data and again by the processor, every class would be its neighbour."""
    rows = [{**row, "label": row["label"] + 1, "reduce_labels": True} for row in rows_of(SIZES[:2])]
    peers = {"a": fixed(do_reduce_labels=True), "b": padding(do_reduce_labels=True, ignore_index=255)}
    batch = DenseCollator(peers)(rows)
    assert [sorted(set(one.unique().tolist()) - {OUTSIDE}) for one in batch["labels"]] == [[0], [1]]
    assert set(batch["peer_inputs"]["a"]) == {"pixel_values", "valid_sizes"}
    assert set(batch["peer_inputs"]["b"]) == {"pixel_values", "pixel_mask", "valid_sizes", "own_sizes"}


def test_each_processor_runs_once_and_each_view_is_drawn_once():
    """A view drawn once per peer shows them different crops; a processor per peer costs the time of each."""
    ran, drawn = [], []

    def plain(images):
        ran.append(len(images))
        return {"pixel_values": torch.zeros(len(images), 3, 8, 8)}

    def view(image, mask, sample_id, epoch):
        drawn.append(sample_id)
        return image, mask

    peers = {"a": fixed(), "b": fixed(), "c": fixed(32), "d": plain, "e": plain}
    inputs = DenseCollator(peers, view)(rows_of(SIZES))["peer_inputs"]
    assert (ran, drawn) == ([4], [0, 1, 2, 3])
    assert inputs["a"]["pixel_values"] is inputs["b"]["pixel_values"]
    assert inputs["a"]["valid_sizes"] is inputs["b"]["valid_sizes"]
    assert inputs["c"]["pixel_values"].shape[-1] == 32


def test_batch_says_what_it_holds():
    """A row without a mask that becomes class 0, or one that is all ignored and counts as labelled."""
    rows = rows_of(SIZES)
    rows[1] = {"image": rows[1]["image"], "label": None, "sample_id": 1}
    rows[2]["label"] = np.full(SIZES[2], IGNORE, np.uint8)
    batch = DenseCollator({"a": fixed()})(rows)
    assert batch["labels"].shape == (4, 100, 200)
    assert image_sizes(batch["labels"]).tolist() == [list(size) for size in SIZES]
    found = [sorted(set(one.unique().tolist()) - {OUTSIDE}) for one in batch["labels"]]
    assert found == [[0], [UNLABELLED], [UNLABELLED], [3]]
    assert batch["labels"].dtype == batch["sample_ids"].dtype == torch.int64


@pytest.mark.parametrize("broken", ["image", "label"])
def test_unreadable_rows_keep_their_places(broken):
    """Processes gather by place: a row that is left out in one of them shifts all that follow."""
    rows = rows_of(SIZES)
    rows[1][broken] = BAD
    collator = DenseCollator({"a": padding()}, on_bad_row="skip", keep_places=True)
    batch = collator(rows)
    assert batch["sample_ids"].tolist() == [0, 1, 2, 3]
    assert image_sizes(batch["labels"])[1].tolist() == [32, 32]
    assert (batch["labels"][1, :32, :32] == UNREADABLE).all()
    assert collator.skipped == 1
    assert len(batch["peer_inputs"]["a"]["pixel_values"]) == 4
    assert DenseCollator({"a": padding()}, on_bad_row="skip")(rows)["sample_ids"].tolist() == [0, 2, 3]
    with pytest.raises(DataError, match=f"sample 1 cannot be read {'.*its mask' if broken == 'label' else ''}"):
        DenseCollator({"a": padding()})(rows)


def test_unreadable_rows_are_of_the_others_size():
    """A smaller one is run apart: one more loss in one process, whose sum over processes the others never join."""
    rows = rows_of(SIZES)
    rows[1]["image"] = BAD
    view = DenseView(crop=64, scale=(0.5, 2.0))
    collator = DenseCollator({"a": padding(do_resize=False)}, view=view, on_bad_row="skip", keep_places=True)
    batch = collator(rows)
    assert "own_sizes" not in batch["peer_inputs"]["a"]
    assert batch["labels"].shape == (4, 64, 64)
    assert (batch["labels"][1] == UNREADABLE).all()


def test_wrong_masks_are_named():
    """A stretched mask, or a number beyond the classes, trains or ends in an index error on the device."""
    rows = rows_of(SIZES)
    rows[2]["label"] = rows[2]["label"][:, :-1]
    for on_bad_row in ("raise", "skip"):
        with pytest.raises(LabelError, match="sample 2: the mask is 64 x 63 pixels .* its image 64 x 64"):
            DenseCollator({"a": fixed()}, on_bad_row=on_bad_row)(rows)
    collator = DenseCollator({"a": fixed()})
    collator.label_names = ["a", "b", "c"]
    with pytest.raises(LabelError, match="sample 3: the mask holds 3 at 12800 of 12800 pixels; classes are 0 to 2"):
        collator(rows_of(SIZES))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(workers):
    """A view that follows the worker's generator changes with their number."""
    rows = identified([{key: row[key] for key in ("image", "label")} for row in rows_of(SIZES * 2)])
    collator = DenseCollator({"a": padding()}, DenseView(48, color_jitter=0.3, seed=7))
    seen = []
    for number in (0, workers):
        collator.set_epoch(1)
        batches = list(DataLoader(rows, batch_size=3, num_workers=number, collate_fn=collator))
        seen.append([(batch["peer_inputs"]["a"]["pixel_values"], batch["labels"]) for batch in batches])
    for (pixels, labels), (others, other_labels) in zip(*seen, strict=True):
        assert labels.shape[1:] == (48, 48)
        assert torch.equal(pixels, others)
        assert torch.equal(labels, other_labels)


def test_processors_are_made_to_show_the_whole_image(tmp_path):
    """The checkpoints of EoMT cut images into squares; those of MobileViT cut the border off."""
    hf.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": None}, do_split_image=True).save_pretrained(
        tmp_path
    )
    tiny_segmenter("eomt").config.save_pretrained(tmp_path)
    loaded = load_dense_processor(str(tmp_path), None, {})
    assert (loaded.do_split_image, loaded.do_pad) == (False, True)
    assert dict(loaded.size) == {"shortest_edge": 64, "longest_edge": 64}
    loaded.save_pretrained(tmp_path)
    assert load_dense_processor(str(tmp_path), None, {}).to_dict() == loaded.to_dict()
    cutting = hf.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": None}, do_split_image=True)
    inputs = DenseCollator({"a": cutting})(rows_of(SIZES[:1]))["peer_inputs"]["a"]
    assert inputs["valid_sizes"].tolist() == [[43, 64]]
    assert cutting.do_split_image  # the user's own stays as it was
    for wrong in (
        hf.DPTImageProcessor(do_pad=True, size_divisor=14),
        hf.ConvNextImageProcessor(size={"shortest_edge": 224}),
    ):
        with pytest.raises(PeerError, match=f"peer 'a' \\({type(wrong).__name__}\\).*give it"):
            DenseCollator({"a": wrong})
    with pytest.raises(PeerError, match="peer 'a' has no image processor"):
        DenseCollator({"a": None})


def test_oneformer_is_told_its_task(tmp_path):
    """AutoImageProcessor gives OneFormer's processor without the tokenizer; the model then fails in its forward."""
    oneformer_processor({"shortest_edge": 64, "longest_edge": 256}).save_pretrained(tmp_path / "p")
    model = peer_of("oneformer")
    model.config.save_pretrained(tmp_path / "p")
    processor = load_dense_processor(str(tmp_path / "p"), None, {})
    collator = DenseCollator({"one": processor, "two": processor})
    rows = rows_of(SIZES[:2])
    inputs = collator(rows)["peer_inputs"]["one"]
    assert inputs["task_inputs"].shape == (2, TASK_LENGTH)
    assert inputs["valid_sizes"].tolist() == [[64, 96], [100, 64]]
    inputs = dict(inputs, task_inputs=inputs["task_inputs"].clamp(max=19))
    assert [found.shape for found in maps_of(model, inputs, SIZES[:2])] == SIZES[:2]


@torch.no_grad()
def evaluation(peers: dict[str, nn.Module], rows: list[dict], size: int) -> dict[str, dict[str, float]]:
    task, collator = SemanticSegmentation(), DenseCollator({name: PEERS[name] for name in peers})
    evaluator = task.evaluator(list(peers), 5)
    for first in range(0, len(rows), size):
        batch = collator(rows[first : first + size])
        outputs = [task.outputs(peer, batch["peer_inputs"][name], ALL_CLASSES) for name, peer in peers.items()]
        evaluator.add(task.evaluation_facts(outputs, batch["labels"], batch["sample_ids"]))
    return evaluator.compute()


def test_evaluation_is_the_same_however_rows_are_batched():
    """On the batch's grids loss, expected_share and the ensemble change with batch size and order, so that one run's
    numbers cannot be compared with another's."""
    peers = {name: peer_of(name) for name in ("averages", "mask2former", "segformer")}
    masks = np.random.default_rng(3)
    rows = [row | {"label": masks.integers(0, 5, row["label"].shape).astype(np.uint8)} for row in rows_of(SIZES * 2)]
    alone = evaluation(peers, rows, 1)
    for other, size in ((rows, 3), (rows, 8), (rows[::-1], 3)):
        for name, values in evaluation(peers, other, size).items():
            # Rounding of convolutions, which differs with the batch, may move a pixel that is undecided.
            assert values == pytest.approx(alone[name], abs=1e-4), name
            assert values.get("loss") == pytest.approx(alone[name].get("loss"), abs=1e-5), name
