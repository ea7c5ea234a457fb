"""Batches: the same whatever workers make them, every row with its id, and bad images counted or named."""

import functools
import io

import datasets
import numpy as np
import pytest
import torch
from conftest import SIZE, draw, make_rows, tiny_processor
from datasets import Features, Value
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from hf_mutual_kd import DataError, IdentifiedRows, RoleTable, RoleTaggingCollator, SharedView, identified
from hf_mutual_kd.data.collator import IdentifiedStream
from hf_mutual_kd.data.images import content_id, decode_image
from hf_mutual_kd.distillation.roles import UNDECIDED

PROCESSORS = {"vit": tiny_processor(), "cnx": tiny_processor(), "cnn": tiny_processor(0.2)}
BAD = {"bytes": b"no image", "path": "broken.png"}


class Stream(IterableDataset):
    """Rows of which every worker yields its share."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        yield from (self.rows[index] for index in range(start, len(self.rows), step))


@functools.cache
def by_sample(workers, streamed, epoch):
    """`{sample id: (pixels per peer, label)}` over one epoch."""
    rows = make_rows(12)
    collator = RoleTaggingCollator(PROCESSORS, SharedView(seed=7, color_jitter=0.3))
    loader = DataLoader(
        identified(Stream(rows) if streamed else rows), batch_size=5, num_workers=workers, collate_fn=collator
    )
    collator.set_epoch(epoch)
    found = {}
    for batch in loader:
        inputs = batch["peer_inputs"]
        assert inputs["vit"]["pixel_values"] is inputs["cnx"]["pixel_values"]
        for place, sample in enumerate(batch["sample_ids"].tolist()):
            pixels = {peer: given["pixel_values"][place].clone() for peer, given in inputs.items()}
            found[sample] = (pixels, batch["labels"][place].item())
    return found


@pytest.mark.parametrize("streamed", [False, True], ids=["rows", "stream"])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(workers, streamed):
    """An augmentation that follows the worker's generator changes with the number of workers."""
    alone, helped = by_sample(0, streamed, 1), by_sample(workers, streamed, 1)
    assert alone.keys() == helped.keys()
    assert len(alone) == 12
    for sample, (pixels, label) in alone.items():
        assert helped[sample][1] == label
        assert all(torch.equal(pixels[peer], helped[sample][0][peer]) for peer in PROCESSORS)


def test_epochs_differ_in_workers_too():
    """Worker processes that never hear of the epoch repeat its first draws for ever."""
    first, second = by_sample(2, False, 1), by_sample(2, False, 2)
    assert sum(not torch.equal(first[i][0]["vit"], second[i][0]["vit"]) for i in first) >= 10
    assert all(torch.equal(second[i][0]["vit"], by_sample(0, False, 2)[i][0]["vit"]) for i in second)


def test_epoch_reaches_workers_that_persist():
    """Workers that live on hold a copy of the collator; the epoch must reach it."""
    collator = RoleTaggingCollator({"vit": tiny_processor()}, SharedView(seed=1))
    rows = identified(make_rows(4))
    loader = DataLoader(rows, batch_size=4, num_workers=1, collate_fn=collator, persistent_workers=True)
    seen = []
    for epoch in (0, 1, 0):
        collator.set_epoch(epoch)
        seen.append(next(iter(loader))["peer_inputs"]["vit"]["pixel_values"].clone())
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_batch_says_what_it_holds():
    """Missing labels that become class 0, or roles of another sample, train silently."""
    table = RoleTable(list(PROCESSORS))
    table.record([1], [2], labels=[0])
    image = draw(0, np.random.default_rng(0))
    rows = [{"image": image, "label": label, "sample_id": i} for i, label in enumerate([2, None, -1])]
    batch = RoleTaggingCollator(PROCESSORS, role_table=table)([*rows, {"image": rows[0]["image"], "sample_id": 9}])
    assert batch["labels"].tolist() == [2, -1, -1, -1]
    assert batch["sample_ids"].tolist() == [0, 1, 2, 9]
    assert batch["roles"].tolist() == [UNDECIDED, 2, UNDECIDED, UNDECIDED]
    assert batch["peer_inputs"]["cnn"]["pixel_values"].shape == (4, 3, SIZE, SIZE)
    assert {batch[key].dtype for key in ("labels", "sample_ids", "roles")} == {torch.int64}
    assert RoleTaggingCollator(PROCESSORS)(rows)["roles"].tolist() == [UNDECIDED] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_and_counted(workers):
    """A count kept in a worker process is lost with it, and the row's label would move to its neighbour."""
    good = make_rows(8)
    rows = [dict(good[i]) if i % 4 else {"image": BAD, "label": 2} for i in range(8)]
    collator = RoleTaggingCollator({"vit": tiny_processor()}, on_bad_row="skip")
    batches = list(DataLoader(identified(rows), batch_size=4, num_workers=workers, collate_fn=collator))
    assert [batch["sample_ids"].tolist() for batch in batches] == [[1, 2, 3], [5, 6, 7]]
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [good[i]["label"] for i in (1, 2, 3, 5, 6, 7)]
    assert [len(batch["peer_inputs"]["vit"]["pixel_values"]) for batch in batches] == [3, 3]
    assert collator.skipped == 2


@pytest.mark.parametrize("image", [BAD, None, {"bytes": None, "path": None}, {"bytes": None, "path": "/nowhere.png"}])
def test_bad_image_is_named(image):
    """`cannot identify image file` without a row leaves the user to search a million."""
    row = {"image": image, "label": 0, "sample_id": 17}
    with pytest.raises(DataError, match="sample 17 cannot be read .*--on_bad_row skip"):
        RoleTaggingCollator({"vit": tiny_processor()})([row])
    with pytest.raises(DataError, match="none of the 1 images of a batch can be read; first 17"):
        RoleTaggingCollator({"vit": tiny_processor()}, on_bad_row="skip")([row])


def test_rows_know_their_index():
    """A shuffled row under another's id would get its role."""
    rows = IdentifiedRows(make_rows(9))
    assert rows[4]["sample_id"] == 4
    assert [row["sample_id"] for row in rows.__getitems__([7, 2])] == [7, 2]
    assert [row["label"] for row in rows.__getitems__([7, 2])] == [1, 2]
    plain = IdentifiedRows([{"image": 1}, {"image": 2}])
    assert plain.__getitems__([1]) == [{"sample_id": 1, "image": 2}]
    assert identified(rows) is rows
    assert identified(None) is None


def test_streamed_rows_know_their_content(train_rows):
    """Ids by position would change with shuffling and workers."""
    ids = [row["sample_id"] for row in IdentifiedStream(train_rows)]
    assert len(set(ids)) == len(train_rows)
    assert all(0 <= i < 2**63 for i in ids)
    assert ids == [content_id(row["image"]) for row in train_rows]
    shuffled = train_rows.to_iterable_dataset().shuffle(seed=1, buffer_size=48)
    stream = identified(shuffled)
    first = [row["sample_id"] for row in stream]
    stream.set_epoch(1)
    second = [row["sample_id"] for row in stream]
    assert first != second
    assert sorted(first) == sorted(second) == sorted(ids)
    pixels = draw(0, np.random.default_rng(0))
    assert content_id(pixels) == content_id(pixels.copy())
    assert content_id(torch.ones(2)) != content_id(torch.zeros(2))
    assert content_id({"bytes": None, "path": "a.png"}) != content_id({"bytes": None, "path": "b.png"})


@pytest.mark.parametrize("form", ["decoded", "torch", "stream"])
def test_damaged_files_of_decoded_columns_are_left_out(form):
    """`datasets` decodes a row before the collator sees it: one cut file ends a training that was to skip it."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (1, 2, 3)).save(stream, "PNG")
    cells = [{"bytes": stream.getvalue()[:60], "path": None}, {"bytes": stream.getvalue(), "path": None}]
    features = Features({"image": datasets.Image(), "label": Value("int64")})
    rows = datasets.Dataset.from_dict({"image": cells, "label": [0, 1]}, features)
    rows = {"decoded": rows, "torch": rows.with_format("torch"), "stream": rows.to_iterable_dataset()}[form]
    known = identified(rows)
    found = list(known) if form == "stream" else known.__getitems__([0, 1])
    collator = RoleTaggingCollator({"a": tiny_processor()}, on_bad_row="skip")
    batch = collator(found)
    assert batch["labels"].tolist() == [1]
    assert collator.skipped == 1
    with pytest.raises(DataError, match="cannot be read"):
        RoleTaggingCollator({"a": tiny_processor()})(found)


def size_of(image):
    return getattr(image, "image", image).size


def photograph(width, height, orientation=1):
    """A JPEG file of soft waves, as photographs are smooth."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / width * a + y / height * b) for a, b in ((9, 2), (3, 8), (5, 5))]
    stream, exif = io.BytesIO(), Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(stream, "JPEG", quality=95, exif=exif)
    return {"bytes": stream.getvalue(), "path": None}


@pytest.mark.parametrize("orientation", [1, 6])
def test_photographs_are_decoded_as_large_as_their_crops_need_them(orientation, monkeypatch):
    """Twelve million pixels that are decoded for 224 cost six times the time; crops that are scaled up are blurred."""
    sizes, seen = [], SharedView.__call__
    monkeypatch.setattr(SharedView, "__call__", lambda *given: (sizes.append(size_of(given[1])), seen(*given))[1])
    rows = [{"image": photograph(800, 600, orientation), "label": 0, "sample_id": place} for place in range(4)]
    processors, view = {"vit": tiny_processor()}, SharedView(seed=3)
    reduced = RoleTaggingCollator(processors, view)(rows)["peer_inputs"]["vit"]["pixel_values"]
    monkeypatch.setattr("hf_mutual_kd.data.collator.decode_reduced", lambda value, least: decode_image(value))
    whole = RoleTaggingCollator(processors, view)(rows)["peer_inputs"]["vit"]["pixel_values"]
    small, large = ((100, 75), (800, 600)) if orientation == 1 else ((75, 100), (600, 800))
    assert sizes == [small] * 4 + [large] * 4
    assert (reduced - whole).abs().mean() < 0.02 * (whole.max() - whole.min())


def test_what_measures_is_decoded_whole():
    """Evaluations would differ from the stock processor's, which a model card promises."""
    row = {"image": photograph(800, 600), "label": 0, "sample_id": 0}
    found = RoleTaggingCollator({"vit": tiny_processor()})([row])["peer_inputs"]["vit"]["pixel_values"]
    assert torch.equal(found, tiny_processor()(images=decode_image(row["image"]), return_tensors="pt")["pixel_values"])
