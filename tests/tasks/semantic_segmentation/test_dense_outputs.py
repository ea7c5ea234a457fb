"""Log-probabilities and label maps of every head."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from segmentation_peers import CLASSES, PIXEL, QUERY, REFUSED, inputs_of, tiny_segmenter
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hf_mutual_kd import ConfigError, DataError, PeerError, dense_log_probs
from hf_mutual_kd.tasks.semantic_segmentation.outputs import semantic_map

ODD = (45, 70)
TINY = {"shortest_edge": 40, "longest_edge": 40}
PROCESSORS = {
    "beit": hf.BeitImageProcessor,
    "data2vec-vision": hf.BeitImageProcessor,
    "dpt": hf.DPTImageProcessor,
    "mobilenet_v2": hf.MobileNetV2ImageProcessor,
    "mobilevit": hf.MobileViTImageProcessor,
    "mobilevitv2": hf.MobileViTImageProcessor,
    "sapiens2": hf.Sapiens2ImageProcessor,
    "segformer": hf.SegformerImageProcessor,
    "tipsv2_dpt": hf.Tipsv2DptImageProcessor,
    "upernet": hf.SegformerImageProcessor,
    "maskformer": hf.MaskFormerImageProcessor,
    "mask2former": hf.Mask2FormerImageProcessor,
    "eomt": hf.EomtImageProcessor,
    "eomt_dinov3": hf.EomtImageProcessor,
    "oneformer": hf.OneFormerImageProcessor,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def _segmenters():
    return {}


@pytest.fixture
def segmenter(_segmenters):
    """`segmenter(name)`: the tiny peer, built once."""

    def get(name):
        if name not in _segmenters:
            _segmenters[name] = tiny_segmenter(name)
        return _segmenters[name]

    return get


def lively(outputs):
    """The outputs with the spread of a trained model's: random weights alone give nearly the same everywhere."""
    outputs, make = copy.copy(outputs), torch.Generator().manual_seed(0)
    for key in ("logits", "class_queries_logits", "masks_queries_logits"):
        if outputs.get(key) is not None:
            outputs[key] = outputs[key] + 3 * torch.randn(outputs[key].shape, generator=make)
    return outputs


def random_query_outputs(batch=2, queries=6, classes=5, grid=(16, 16), dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        class_queries_logits=3 * torch.randn(batch, queries, classes + 1, generator=make, dtype=dtype),
        masks_queries_logits=3 * torch.randn(batch, queries, *grid, generator=make, dtype=dtype),
    )


@pytest.mark.parametrize("name", [*PIXEL, *QUERY, "torchvision"])
def test_every_head_gives_log_probabilities_with_a_gradient(name, segmenter):
    """Scores that are no distribution make a KL some hundred times too small; a detached one teaches nothing."""
    size = (50, 70) if name in ("segformer", "upernet", "maskformer", "mask2former", "oneformer") else (64, 64)
    model, inputs = segmenter(name), inputs_of(name, *size)
    model.zero_grad()
    outputs = model(*inputs.values()) if name == "torchvision" else model(**inputs)
    heads = [
        outputs[key] for key in outputs if key in ("logits", "out", "class_queries_logits", "masks_queries_logits")
    ]
    assert len(heads) == (2 if name in QUERY else 1)
    for size in (None, ODD):
        log_probs = dense_log_probs(outputs, size)
        assert log_probs.shape == (2, len(CLASSES), *(size or heads[-1].shape[2:]))
        assert log_probs.logsumexp(dim=1).abs().max() < 1e-4
        assert log_probs.dtype == torch.float32
    weights = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(2))
    for gradient in torch.autograd.grad((log_probs * weights).sum(), heads, retain_graph=True):
        assert gradient.isfinite().all()
        assert gradient.flatten(1).abs().amax(dim=1).min() > 0
    (log_probs * weights).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert sum(p.grad is not None and bool(p.grad.any()) for p in model.parameters()) > 10


@pytest.mark.parametrize("name", ["segformer", "mask2former", "eomt"])
def test_autocast_does_not_reach_the_log_probabilities(name, segmenter):
    """In bf16 a product of probabilities has 3 digits, and logsumexp is off by a hundredth."""
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        outputs = segmenter(name)(**inputs_of(name))
        inside = dense_log_probs(outputs, ODD)
        maps = semantic_map(outputs, target_sizes=[ODD, ODD])
    assert torch.bfloat16 in {x.dtype for x in outputs.values() if isinstance(x, torch.Tensor)}
    assert inside.dtype == torch.float32
    assert inside.logsumexp(dim=1).abs().max() < 1e-4
    torch.testing.assert_close(inside, dense_log_probs(outputs, ODD), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(maps, semantic_map(outputs, target_sizes=[ODD, ODD]), strict=True))


@pytest.mark.parametrize("name", PIXEL)
def test_maps_of_pixel_heads_are_the_librarys(name, segmenter):
    """Another way of interpolation moves boundaries, so that the numbers are no longer the checkpoint's own."""
    with torch.no_grad():
        outputs = lively(segmenter(name)(**inputs_of(name)))
    sizes = [ODD, (64, 33)]
    theirs = PROCESSORS[name]().post_process_semantic_segmentation(outputs, target_sizes=sizes)
    ours = semantic_map(outputs, target_sizes=sizes)
    assert all(len(m.unique()) > 1 for m in theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(dense_log_probs(outputs, ODD)[0].argmax(0), theirs[0])


@pytest.mark.parametrize("name", QUERY)
def test_maps_of_query_heads_are_the_librarys_where_it_makes_no_detour(name, segmenter):
    """Keeping the no-object column, or a softmax over queries instead of classes, gives maps that look plausible."""
    with torch.no_grad():
        outputs = lively(segmenter(name)(**inputs_of(name)))
    size = {"mask2former": (384, 384), "eomt": (40, 40), "eomt_dinov3": (40, 40)}.get(name)
    sizes = None if size is None else [size, size]
    options = {"size": TINY} if name.startswith("eomt") else {}
    theirs = PROCESSORS[name]().post_process_semantic_segmentation(outputs, target_sizes=sizes, **options)
    ours = semantic_map(outputs, target_sizes=sizes)
    assert all(len(m.unique()) > 1 for m in theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(dense_log_probs(outputs, size).argmax(1), torch.stack(theirs))


def test_the_score_of_a_head_with_queries_by_hand():
    """S itself passed to a softmax is nearly uniform at 150 classes."""
    classes = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]]).log()
    masks = torch.tensor([0.9, 0.25]).logit().view(1, 2, 1, 1)
    outputs = {"class_queries_logits": classes, "masks_queries_logits": masks}
    first, second = 0.5 * 0.9 + 0.1 * 0.25, 0.3 * 0.9 + 0.8 * 0.25
    expected = torch.tensor([first, second]) / (first + second)
    torch.testing.assert_close(dense_log_probs(outputs).exp().flatten(), expected)


def test_a_pixel_that_no_query_claims_keeps_the_order_of_its_classes():
    """With a fixed floor all classes tie there, and the map says class 0."""
    outputs = random_query_outputs()
    outputs.masks_queries_logits.fill_(-30.0)[..., 0].fill_(-1e4)
    outputs.masks_queries_logits.requires_grad_()
    log_probs = dense_log_probs(outputs)
    maps = torch.stack(semantic_map(outputs))
    assert torch.equal(log_probs.argmax(1), maps)
    assert (maps[..., 1:] == maps[:, :1, 1:2]).all()
    assert maps[..., 1:].any()
    assert log_probs.isfinite().all()
    log_probs[:, 1].sum().backward()
    assert outputs.masks_queries_logits.grad.isfinite().all()


def test_large_logits_stay_finite():
    """An inf in one pixel of a teacher is NaN in the whole batch's loss."""
    outputs = random_query_outputs()
    for x in (outputs.class_queries_logits, outputs.masks_queries_logits):
        x.mul_(1e4).requires_grad_()
    log_probs = dense_log_probs(outputs, ODD)
    log_probs[:, 2].sum().backward()
    assert log_probs.isfinite().all()
    assert outputs.class_queries_logits.grad.isfinite().all()
    assert outputs.masks_queries_logits.grad.isfinite().all()


class Patches(nn.Module):
    """A peer whose logits at a cell depend on that cell of 4 x 4 pixels alone, with either kind of head."""

    def __init__(self, queries=0):
        super().__init__()
        torch.manual_seed(3)
        self.maps = nn.Conv2d(3, queries or 5, 4, stride=4)
        self.register_buffer("classes", 3 * torch.randn(queries, 6) if queries else None)

    def forward(self, pixels):
        maps = 8 * self.maps(pixels)
        if self.classes is None:
            return maps
        classes = self.classes.expand(len(pixels), -1, -1)
        return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=maps)


def padded(image, height, width, value=0.0):
    return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), value=value)


@pytest.mark.parametrize("queries", [0, 6])
@pytest.mark.parametrize("filling", [0.0, 1e4, float("nan")])
def test_a_padded_batch_gives_every_image_its_own_map(queries, filling):
    """The library's maps of the smaller images of a batch are shrunk and shifted, and scored against full labels."""
    model, targets = Patches(queries), [(64, 48), (33, 50), ODD]
    images = [torch.randn(3, *size) for size in ((64, 40), (32, 64), (46, 29))]  # the last ends within a cell
    alone = [padded(image, 48, 32) if image.shape[-1] == 29 else image for image in images]
    batch = torch.stack([padded(image, 80, 64, filling) for image in alone])
    mask = torch.stack([padded(torch.ones(image.shape[-2:]), 80, 64) for image in images])
    with torch.no_grad():
        together = model(batch)
        maps = semantic_map(together, mask, targets)
        log_probs = dense_log_probs(together, ODD, valid=[tuple(x.shape[-2:]) for x in images], padded=(80, 64))
        for i, image in enumerate(alone):
            valid = {"valid": [tuple(images[i].shape[-2:])], "padded": tuple(image.shape[-2:])} if i == 2 else {}
            single = model(image[None])
            own = semantic_map(single, target_sizes=targets[i : i + 1], **valid)[0]
            assert maps[i].shape == targets[i]
            assert len(own.unique()) > 1
            assert torch.equal(maps[i], own)
            torch.testing.assert_close(
                log_probs[i : i + 1], dense_log_probs(single, ODD, **valid), rtol=1e-5, atol=5e-5
            )


@pytest.mark.parametrize("side", [1, 3, 7, 13, 49, 100])
def test_a_window_of_any_size_fills_the_target(side):
    """A scale rounded down gives one row too few, at some sizes only."""
    logits = torch.randn(2, 2, 25, 25)
    for target in (1, 7, 49, 99):
        log_probs = dense_log_probs(logits, (target, target), valid=[(side, 100), (100, side)], padded=(100, 100))
        assert log_probs.shape == (2, 2, target, target)


def test_a_window_of_whole_cells_is_the_crop():
    """Off by half a cell, every boundary is shifted by two pixels."""
    logits = torch.randn(2, 5, 25, 25)
    window = dense_log_probs(logits, (49, 31), valid=[(48, 80)] * 2, padded=(100, 100))
    crop = F.interpolate(logits[:, :, :12, :20], size=(49, 31), mode="bilinear", align_corners=False)
    torch.testing.assert_close(window, crop.log_softmax(1), rtol=1e-5, atol=5e-5)


def test_padding_gets_no_gradient():
    """A gradient from padded cells teaches the student what to say about black borders."""
    logits = torch.randn(2, 5, 8, 8, requires_grad=True)
    mask = torch.zeros(2, 32, 32)
    mask[0, :20, :12], mask[1, :32, :29] = 1, 1
    dense_log_probs(logits, (24, 24), valid=mask)[:, 0].sum().backward()
    used = logits.grad.abs().sum(1) > 0
    assert used[0, :5, :3].all()
    assert not used[0, 5:].any()
    assert not used[0, :, 3:].any()
    assert used[1].all()


def test_maps_without_a_target_have_the_images_size():
    """A map at the padded size would be compared with a label of another size."""
    mask = torch.zeros(2, 32, 32, dtype=torch.long)
    mask[0, :20, :12], mask[1] = 1, 1
    maps = semantic_map(torch.randn(2, 5, 8, 8), mask)
    assert [tuple(m.shape) for m in maps] == [(20, 12), (32, 32)]
    assert [tuple(m.shape) for m in semantic_map(torch.randn(2, 5, 8, 8))] == [(8, 8), (8, 8)]


@pytest.mark.parametrize(
    "outputs",
    [Patches()(torch.ones(2, 3, 32, 32)).detach().cumsum(3), random_query_outputs(grid=(8, 8))],
    ids=["pixel", "query"],
)
@pytest.mark.parametrize("valid", [None, [(32, 30), (17, 9)]])
def test_rows_are_those_of_the_whole(outputs, valid):
    """Chunks that are interpolated on their own have a seam at every border."""
    whole = dense_log_probs(outputs, ODD, valid=valid, padded=(32, 32))
    parts = [
        dense_log_probs(outputs, ODD, valid=valid, padded=(32, 32), rows=(a, min(a + 16, 45))) for a in (0, 16, 32)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-5, atol=5e-5)


def test_gradients_are_those_of_the_formula():
    """A wrong branch of the floor or of the crop gives a gradient of the right shape and size."""
    outputs = random_query_outputs(queries=3, classes=2, grid=(3, 4), dtype=torch.float64)

    def run(classes, masks):
        both = {"class_queries_logits": classes, "masks_queries_logits": masks}
        return dense_log_probs(both, (4, 3), valid=[(9, 16), (12, 7)], padded=(12, 16))

    inputs = (outputs.class_queries_logits.requires_grad_(), outputs.masks_queries_logits.requires_grad_())
    assert run(*inputs).dtype == torch.float64
    assert torch.autograd.gradcheck(run, inputs)


def test_no_tensor_over_queries_and_classes_is_made():
    """[B, Q, C, h, w] is 60 GB for ADE20K at 512 x 512."""
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            largest.extend([result.numel()] if isinstance(result, torch.Tensor) else [])
            return result

    outputs = random_query_outputs(queries=20, classes=12)
    with Watch():
        dense_log_probs(outputs, (32, 32))
    assert 0 < max(largest) <= 2 * 20 * 32 * 32


@pytest.mark.parametrize("name", REFUSED)
def test_outputs_out_of_scope_are_refused_by_name(name, segmenter):
    """A video head's output has the very fields of a semantic one."""
    with torch.no_grad():
        outputs = segmenter(name)(**inputs_of(name))
    with pytest.raises(PeerError, match=name):
        dense_log_probs(outputs)
    with pytest.raises(PeerError, match="semantic segmentation|logits"):
        dense_log_probs(dict(outputs), kind="pixel")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.zeros(2, 1, 8, 8), "second class"),
        ({"logits": torch.zeros(2, 5)}, r"\[2, 5\]"),
        ({"depth": torch.zeros(2, 5, 8, 8)}, r"depth \[2, 5, 8, 8\]"),
        (None, "NoneType"),
        ({"class_queries_logits": torch.zeros(2, 3, 6), "masks_queries_logits": torch.zeros(2, 4, 8, 8)}, "Q, h, w"),
        (SimpleNamespace(**vars(random_query_outputs()), patch_offsets=[torch.zeros(3)]), "do_split_image=False"),
    ],
)
def test_outputs_of_another_form_are_refused(outputs, message):
    """A binary head is certain of its one class, split images are not the batch's images."""
    with pytest.raises(PeerError, match=message):
        dense_log_probs(outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid": [(8, 8), (8, 8)]}, "padded"),
        ({"valid": [(8, 8)], "padded": (32, 32)}, "2 images"),
        ({"valid": [(8, 8), (8, 33)], "padded": (32, 32)}, "Image 1"),
        ({"valid": [(8, 8), (0, 8)], "padded": (32, 32)}, "at least 1"),
        ({"valid": torch.zeros(2, 32, 32)}, "image 0"),
        ({"valid": torch.ones(2, 32, 32).tril()}, "image 0"),
        ({"valid": torch.ones(2, 32, 32), "padded": (32, 64)}, "pixel_mask"),
        ({"size": (0, 4)}, "size must be"),
        ({"size": (4, 4), "rows": (2, 5)}, "rows"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    """A wrong size is a wrong geometry, which no later check can see."""
    with pytest.raises(DataError, match=message):
        dense_log_probs(torch.zeros(2, 5, 8, 8), **options)


def test_targets_and_kind_are_checked():
    """One target for two images would leave the second without a map."""
    with pytest.raises(DataError, match="target_sizes"):
        semantic_map(torch.zeros(2, 5, 8, 8), target_sizes=[(4, 4)])
    with pytest.raises(ConfigError, match="pixel, query"):
        dense_log_probs(torch.zeros(2, 5, 8, 8), kind="boxes")
    with pytest.raises(PeerError, match="queries"):
        dense_log_probs({"logits": torch.zeros(2, 5, 8, 8)}, kind="query")
