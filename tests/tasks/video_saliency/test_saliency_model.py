"""Video saliency models: every kind of encoder, any size and length, saved and loaded with and without the package."""

import json
import subprocess
import sys

import pytest
import torch
from saliency_peers import FRAME, FRAMES, LARGE, SIDE, SMALL, TORCHVISION, VIDEO, saliency_config, tiny_saliency
from transformers import AutoBackbone, AutoConfig, AutoModel, AutoProcessor

from hf_mutual_kd import VideoSaliencyConfig, VideoSaliencyModel, VideoSaliencyProcessor
from hf_mutual_kd.tasks.video_saliency.model.decoder_video_saliency import Clock, place_and_time

KINDS = [*SMALL, *LARGE]


def clip(frames=FRAMES, height=SIDE, width=SIDE, batch=1, seed=0):
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_any_size_and_length(kind):
    """Sizes that are no multiple of 32 or one frame alone would fail in the middle of a training run or a video."""
    model = tiny_saliency(kind)
    for frames, height, width in ((FRAMES, SIDE, SIDE), (1, 30, 50), (5, 40, 36)):
        output = model(clip(frames, height, width))
        assert output.logits.shape == (1, 1, -(-height // 4), -(-width // 4))
        assert output.logits.isfinite().all()
    assert model(clip(3), target="all").logits.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("kind", SMALL)
def test_nothing_stays_on_the_cpu(kind):
    """A table or a clock made on the CPU works in every test and fails on the first GPU."""
    frames = torch.zeros(2, 5, 3, 40, 36, device="meta")
    output = tiny_saliency(kind).to("meta")(frames, labels=torch.zeros(2, 9, 9, device="meta"))
    assert output.loss.is_meta


@pytest.mark.parametrize("kind", SMALL)
def test_tiny_configurations_are_tiny(kind):
    """Tests and the embedded example count on models that train in seconds."""
    assert tiny_saliency(kind).num_parameters() < 3e5


def test_ten_million_parameters_are_enough():
    """The default configuration is the small model that the documentation promises."""
    assert VideoSaliencyModel(VideoSaliencyConfig()).num_parameters() < 1.05e7


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_order_of_frames_matters(kind):
    """A model that averages frames scores nearly as well on still scenes and follows nothing that moves."""
    model, frames = tiny_saliency(kind), clip(8)
    there, back = model(frames).logits, model(frames.flip(1)).logits
    assert (there - back).abs().max() > 1e-4 * there.std()


@pytest.mark.parametrize("kind", ["vjepa2", "timesformer", "swin3d", "convnext"])
def test_every_parameter_learns(kind):
    """A parameter without gradient (a dropped head, layers after the last tap) stops distributed training."""
    model = tiny_saliency(kind).train()
    labels = torch.rand(2, 20, 20, generator=torch.Generator().manual_seed(0))
    model(clip(batch=2), labels=labels).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", VIDEO)
@torch.no_grad()
def test_token_encoders_agree_with_the_library(kind):
    """An own way through the layers that differs from the library's would waste the pretrained weights."""
    encoder = tiny_saliency(kind).encoder
    theirs = AutoModel.from_config(VIDEO[kind]()).eval()
    missing, _ = theirs.load_state_dict(encoder.model.state_dict(), strict=False)
    assert all(name.startswith(("predictor", "pooler")) for name in missing)
    tokens = theirs(clip(), **({"skip_predictor": True} if kind == "vjepa2" else {})).last_hidden_state
    if kind == "videomae":
        tokens = encoder._normed(tokens)
    size = (1, FRAMES // encoder.time_multiple, 4, 4) if kind != "timesformer" else (1, 4, 4, FRAMES)
    volume = tokens[:, encoder.class_tokens :].view(*size, -1)
    volume = volume.permute(0, 4, 3, 1, 2) if kind == "timesformer" else volume.permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(encoder(clip())[-1], volume)


@torch.no_grad()
def test_rotary_positions_follow_the_actual_grid():
    """V-JEPA 2 counts rows in its pretraining grid: at another width, neighbours get positions far apart."""
    model = tiny_saliency("vjepa2")
    wide = clip(2, SIDE, 2 * SIDE)
    attention = model.encoder.model.encoder.layer[0].attention
    places = model.encoder.places((1, 4, 8))[None]
    time, row, column = attention.get_position_ids(torch.zeros(1, 4 * 8, 24), places)
    assert row[0, 0].tolist() == [r for r in range(4) for _ in range(8)]
    assert column[0, 0].tolist() == list(range(8)) * 4
    assert not time.any()
    assert model(wide).logits.shape[-2:] == (8, 16)


@pytest.mark.parametrize("kind", ["videomae", "vivit", "timesformer"])
@torch.no_grad()
def test_position_tables_are_interpolated(kind):
    """A table that is cut off or repeated tells the encoder wrong places; a constant one must stay constant."""
    encoder = tiny_saliency(kind).encoder
    wide = clip(2 * FRAMES, SIDE, 2 * SIDE)
    grid = (2 * FRAMES // encoder.time_multiple, 4, 8)
    table = encoder.model.embeddings.position_embeddings
    table.copy_(torch.ones_like(table))
    with_ones = encoder.embed(wide, grid)
    table.zero_()
    torch.testing.assert_close(with_ones - encoder.embed(wide, grid), torch.ones_like(with_ones))


@pytest.mark.parametrize("kind", [*SMALL, "s3d"])
@torch.no_grad()
def test_saved_and_loaded_models_are_equal(kind, tmp_path):
    """Weights that are not saved, or tables that loading leaves empty, give a model that answers nonsense."""
    model = tiny_saliency(kind)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is VideoSaliencyModel
    assert not list(tmp_path.glob("*.bin"))
    torch.testing.assert_close(loaded(clip(5, 40, 48)).logits, model(clip(5, 40, 48)).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "swin3d", "convnext", "s3d"])
def test_gradient_checkpointing_changes_nothing(kind):
    """Recomputation that skips or repeats a step (batch norm's statistics) gives other gradients or another model."""
    labels = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0))
    found = []
    for checkpointing in (False, True):
        model = tiny_saliency(kind).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout) or type(module).__name__ == "StochasticDepth":
                module.eval()
        model(clip(batch=2), labels=labels).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters()} | dict(model.named_buffers()))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_blank_clips_add_nothing():
    """0 / 0 of a blank truth would make every weight NaN; a loss there would teach the model to look nowhere."""
    model = tiny_saliency("convnext")
    labels = torch.rand(2, 9, 9)
    labels[1] = 0
    output = model(clip(batch=2), labels=labels)
    assert output.loss_per_clip[1] == 0
    assert output.loss == output.loss_per_clip.mean()
    model(clip(), labels=labels[1:]).loss.backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_the_loss_of_all_frames_takes_all_truths():
    """Truth of the last frame broadcast over the clip would train the past on the future."""
    model = tiny_saliency("convnext", target="all", loss_weights={"temporal": 0.5})
    output = model(clip(batch=2), labels=torch.rand(2, FRAMES, 9, 9), cuts=torch.zeros(2, FRAMES - 1, dtype=bool))
    assert output.loss_per_clip.shape == (2,)
    with pytest.raises(ValueError, match="shapes"):
        model(clip(batch=2), labels=torch.rand(2, 9, 9))


@torch.no_grad()
def test_halves_give_finite_densities():
    """bf16 logits of a sigmoid saturate; a log-density in fp32 does not."""
    model = tiny_saliency("convnext").to(torch.bfloat16)
    output = model(clip(), labels=torch.rand(1, 9, 9))
    assert output.logits.dtype == torch.float32
    assert output.loss.isfinite()


@torch.no_grad()
def test_frames_are_encoded_alone_where_it_is_said_so():
    """Streaming caches levels of frames; a norm over the whole clip would make them depend on their neighbours."""
    for kind in FRAME:
        model = tiny_saliency(kind)
        together = model.encode(clip())
        alone = [torch.cat(parts, 2) for parts in zip(*(model.encode(clip()[:, [i]]) for i in range(4)), strict=True)]
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one, other)


def test_the_clock_knows_tubelets_and_leading_copies():
    """Times that are off by the padding would call the wrong frame the last."""
    steps = torch.zeros(1, 1, 2, 1, 1)
    assert Clock(4, 0).times(steps).tolist() == [0.5, 2.5]
    assert Clock(3, 1).times(steps).tolist() == [-0.5, 1.5]
    code = place_and_time(torch.tensor([0.0, 3.0]), (2, 3), 16)
    assert code.shape == (2, 2, 3, 16)
    assert len(code.flatten(0, 2).unique(dim=0)) == 12


def test_the_prior_is_added_where_it_belongs():
    """A prior transposed or added to the density would shift all predictions."""
    model = tiny_saliency("convnext")
    with torch.no_grad():
        model.center_prior.zero_()
        before = model(clip()).logits
        model.center_prior[0, 3] = 5.0
        change = (model(clip()).logits - before)[0, 0]
    assert change.argmax() == 7
    assert change[0, 7] == pytest.approx(5.0)
    assert change[7, 0] == 0


@pytest.mark.parametrize("kind", ["videomae", "convnext"])
@torch.no_grad()
def test_pretrained_encoders_arrive(kind, tmp_path):
    """An encoder whose weights were silently left random would look trained and learn from scratch."""
    auto = AutoModel if kind == "videomae" else AutoBackbone
    pretrained = auto.from_config((VIDEO | FRAME)[kind]())
    pretrained.save_pretrained(tmp_path)
    model = VideoSaliencyModel.from_encoder(str(tmp_path), decoder_channels=[8, 8, 8, 8])
    ours = model.encoder.model.state_dict()
    for name, value in pretrained.state_dict().items():
        torch.testing.assert_close(ours[name], value)
    assert model.config.encoder_name == str(tmp_path)


def test_torchvision_weights_arrive_or_are_refused():
    """Weights of another network that load in part would leave the rest random."""
    name, kwargs = TORCHVISION["swin3d"]
    from torchvision.models import video

    whole = getattr(video, name)(**kwargs).state_dict()
    config = {"encoder_kwargs": kwargs, "decoder_channels": [8, 8, 8, 8]}
    model = VideoSaliencyModel.from_encoder(name, weights=whole, **config)
    torch.testing.assert_close(model.encoder.model.patch_embed.proj.weight, whole["patch_embed.proj.weight"])
    with pytest.raises(ValueError, match="'norm.bias'"):
        VideoSaliencyModel.from_encoder(name, weights={k: v for k, v in whole.items() if k != "norm.bias"}, **config)
    with pytest.raises(ValueError, match="brings its own"):
        VideoSaliencyModel.from_encoder("some/videomae", weights=whole)


REFUSED = [
    ({"encoder_type": "video"}, "encoder_type must be one of"),
    ({"encoder_type": "frame_backbone"}, "needs an encoder_config"),
    ({"target": "first"}, "target must be one of"),
    ({"loss_weights": {"ncc": 1.0}}, "unknown 'ncc'"),
    ({"num_frames": 0}, "num_frames must be 1 or more"),
    ({"image_size": (0, 3)}, "image_size must be"),
    ({"decoder_channels": []}, "decoder_channels must be"),
    ({"attention_heads": 5}, "attention_heads must divide"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_impossible_configurations_are_refused(given, message):
    """A misspelt value would fail in the middle of a forward, or silently do nothing."""
    with pytest.raises(ValueError, match=message):
        VideoSaliencyConfig(**given)


def test_encoders_that_do_not_fit_are_refused():
    """An image model as a video encoder, unknown networks and weights by argument fail before anything is fetched."""
    convnext = FRAME["convnext"]()
    with pytest.raises(ValueError, match="'convnext' is no video encoder"):
        VideoSaliencyModel(VideoSaliencyConfig(encoder_type="transformers_video", encoder_config=convnext))
    with pytest.raises(ValueError, match="encoder_name must be one of"):
        VideoSaliencyModel(VideoSaliencyConfig(encoder_name="get_model"))
    with pytest.raises(ValueError, match="cannot fetch weights"):
        VideoSaliencyModel(VideoSaliencyConfig(encoder_kwargs={"weights": "DEFAULT"}))
    with pytest.raises(ValueError, match="4 levels"):
        VideoSaliencyModel(saliency_config("convnext", decoder_channels=[8, 8]))
    with pytest.raises(ValueError, match=r"\[B, T, 3, H, W\]"):
        tiny_saliency("convnext")(torch.zeros(1, 3, 4, SIDE, SIDE))


WITHOUT_PACKAGE = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_mutual_kd":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
import numpy as np, torch
from transformers import AutoModel, AutoProcessor

folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
frames = np.arange(4 * 20 * 30 * 3, dtype=np.uint8).reshape(4, 20, 30, 3)
with torch.no_grad():
    logits = model(**processor(frames)).logits
assert "hf_mutual_kd" not in sys.modules
total = processor.post_process(logits, (20, 30)).sum().item()
print(json.dumps([type(model).__module__, total, logits[0, 0].tolist()]))
"""


def test_a_saved_folder_works_without_the_package(tmp_path):
    """A pushed model that needs our package to load is useless to everybody who has only transformers."""
    model, processor = tiny_saliency("vivit"), VideoSaliencyProcessor(image_size=(24, 40), num_frames=4)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert type(AutoProcessor.from_pretrained(tmp_path / "model")) is VideoSaliencyProcessor
    assert type(AutoConfig.from_pretrained(tmp_path / "model")) is VideoSaliencyConfig
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    module, total, logits = json.loads(result.stdout.splitlines()[-1])
    assert module.startswith("transformers_modules.")
    import numpy as np

    frames = np.arange(4 * 20 * 30 * 3, dtype=np.uint8).reshape(4, 20, 30, 3)
    with torch.no_grad():
        ours = model(**processor(frames)).logits
    torch.testing.assert_close(torch.tensor(logits), ours[0, 0], atol=1e-6, rtol=0)
    assert total == pytest.approx(processor.post_process(ours, (20, 30)).sum().item(), abs=1e-3)


def clean_environment(folder):
    """No package on the path, caches of this test alone."""
    import os

    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return kept | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_importing_the_package_loads_no_torch():
    """`hf-mutual-kd --help` would wait seconds for models that nobody asked for."""
    code = (
        "import sys, hf_mutual_kd; assert 'hf_mutual_kd.tasks.video_saliency' not in sys.modules;"
        "import hf_mutual_kd.tasks.video_saliency; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
