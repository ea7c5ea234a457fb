"""Adapters as peers: one base that stays as it is, peers that keep apart, folders that stock peft loads."""

import copy
import json

import pytest
import torch
from conftest import LABELS, MAKERS, make_rows, tiny_processor
from peft import AutoPeftModel, PeftModel
from safetensors.torch import load_file
from segmentation_peers import CLASSES, SIZE, tiny_segmenter
from segmentation_run import SQUARE, segmentation_rows
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    SegformerImageProcessor,
    pipeline,
)

from hf_mutual_kd import (
    BestRule,
    Cohort,
    ConfigError,
    ImageClassification,
    LiveSource,
    MutualKDConfig,
    MutualKDError,
    MutualKDTrainer,
    Objective,
    PeerError,
    PeerSpec,
    ResumeError,
    SemanticSegmentation,
    make_task,
)
from hf_mutual_kd.data.images import decode_image
from hf_mutual_kd.peers.adapter_settings import read_setting, with_adapters
from hf_mutual_kd.peers.adapters import adapter_weights, merged
from hf_mutual_kd.peers.loading import load_peer, load_weights, save_peer
from hf_mutual_kd.reports.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapted
from hf_mutual_kd.tasks.image_classification.words import WORDS

TASK = ImageClassification()
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "pre_flight": False, "logging_steps": 2}
PIXELS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Saved peers: `vit`, `cnn` (batch norms, no linear layer but its classifier) and `seg`."""
    folder = tmp_path_factory.mktemp("place")
    for index, name in enumerate(("vit", "cnn")):
        torch.manual_seed(index)
        save_peer(MAKERS[name](), tiny_processor(), folder / name, None)
    save_peer(tiny_segmenter("segformer"), SegformerImageProcessor(size=SQUARE), folder / "seg", None)
    return folder


def cohort_of(place, **settings) -> Cohort:
    """`cohort_of(place, a="lora")`: peers over one base, each with its adapter."""
    return Cohort.from_pretrained(
        {name: PeerSpec(str(place / "vit"), peft=setting) for name, setting in settings.items()}, label_names=LABELS
    )


def trainer_of(cohort, folder, rows=None, **changes) -> MutualKDTrainer:
    settings = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_strategy": "no"}
    args = MutualKDConfig(str(folder), **QUIET | settings | changes)
    return MutualKDTrainer(cohort, args, train_dataset=rows or make_rows(32), eval_dataset=make_rows(9, 1))


def logits(model, pixels=PIXELS):
    with torch.no_grad():
        return model.eval()(pixel_values=pixels).logits


def own(model) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in adapter_weights(model).items()}


def of_base(model) -> dict[str, torch.Tensor]:
    """All weights and statistics of the base."""
    parts = model.state_dict().items()
    return {key: value.clone() for key, value in parts if "lora_" not in key and "modules_to_save" not in key}


def assert_equal(left, right, tolerance=0.0):
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")


# What trains


@pytest.mark.parametrize("source", ["vit", "cnn"])
def test_only_the_adapter_changes(place, tmp_path, source):
    """A base that drifts, also by the statistics of its batch norms, is not the one that the adapter is loaded on."""
    base = AutoModelForImageClassification.from_pretrained(place / source)
    cohort = Cohort.from_pretrained({"a": PeerSpec(str(place / source), peft="lora")}, label_names=LABELS)
    peer = cohort.peers["a"]
    assert torch.equal(logits(peer), logits(base)), "an adapter starts as its base"
    before, frozen = own(peer), of_base(peer)
    trainer_of(cohort, tmp_path / "run").train()
    assert_equal(of_base(peer), frozen)
    assert all(not torch.equal(before[key], value) for key, value in own(peer).items())
    assert any("classifier" in key for key in before)
    with_base = AutoModelForImageClassification.from_pretrained(place / source)
    stock = PeftModel.from_pretrained(with_base, str(tmp_path / "run" / "a"))
    assert torch.equal(logits(stock), logits(peer))


def test_convolutions_are_adapted_where_nothing_is_linear(place):
    """A ResNet without adapters in its convolutions would train its classifier alone."""
    cohort = Cohort.from_pretrained({"a": PeerSpec(str(place / "cnn"), peft="lora")}, label_names=LABELS)
    adapted = [key for key in own(cohort.peers["a"]) if "lora_A" in key]
    assert len(adapted) == 6
    assert all("convolution" in key for key in adapted)


def test_segmentation_peer(place, tmp_path):
    """Heads with batch norms and convolutions; the saved adapter must give the same maps on the stock base."""
    cohort = Cohort.from_pretrained(
        {name: PeerSpec(str(place / "seg"), peft="lora") for name in ("a", "b")},
        task=make_task("semantic-segmentation", crop_size=SIZE),
        label_names=CLASSES,
    )
    before = {name: own(peer) for name, peer in cohort.peers.items()}
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_strategy": "no"}
    args = MutualKDConfig(str(tmp_path), **QUIET | settings)
    frozen = of_base(cohort.peers["a"])
    MutualKDTrainer(cohort, args, train_dataset=segmentation_rows(8)).train()
    assert_equal(of_base(cohort.peers["a"]), frozen)
    for name, peer in cohort.peers.items():
        assert any(not torch.equal(before[name][key], value) for key, value in own(peer).items())
        base = AutoModelForSemanticSegmentation.from_pretrained(place / "seg")
        stock = PeftModel.from_pretrained(base, str(tmp_path / name))
        pixels = torch.randn(2, 3, SIZE, SIZE)
        # Convolutions round by how their weights lie in memory.
        torch.testing.assert_close(logits(stock, pixels), logits(peer, pixels), rtol=1e-5, atol=1e-6)
    again = load_peer("a", str(tmp_path / "a"), SemanticSegmentation())
    assert_equal(own(again.model), own(cohort.peers["a"]))


# One base


def test_peers_share_one_base(place):
    """Three peers over one base must not take the memory of three, nor their starts of three more."""
    cohort = cohort_of(place, a="lora", b={"peft_type": "LORA", "r": 2}, c={"peft_type": "LOHA"})
    base = AutoModelForImageClassification.from_pretrained(place / "vit")
    whole = sum(p.numel() for p in base.parameters())
    added = sum(value.numel() for peer in cohort.peers.values() for value in own(peer).values())
    assert sum(p.numel() for p in cohort.parameters()) == whole + added
    bases = [{id(p) for p in peer.parameters() if not p.requires_grad} for peer in cohort.peers.values()]
    assert bases[0] == bases[1] == bases[2]
    assert len(bases[0]) == len(list(base.parameters()))
    cohort.set_objective(Objective(rule=BestRule(), source=LiveSource(), retain=True))
    assert sum(p.numel() for p in cohort.parameters()) == whole + 2 * added
    start = [logits(peer) for peer in cohort.starts.values()]
    with torch.no_grad():
        for parameters in cohort.peer_parameters().values():
            for parameter in parameters:
                parameter.add_(1)
    assert all(torch.equal(logits(peer), before) for peer, before in zip(cohort.starts.values(), start, strict=True))


@pytest.mark.parametrize("changes", [{}, {"peer_checkpointing": True}], ids=["plain", "checkpointing"])
def test_shared_base_trains_as_separate_ones(place, tmp_path, changes):
    """An adapter that runs in another's place, in forward or in recomputation, learns what the other should."""
    setting = {"peft_type": "LORA", "r": 4, "lora_dropout": 0.1}
    shared = cohort_of(place, a=setting, b=setting)
    torch.manual_seed(5)
    alone = Cohort(
        {name: load_peer(name, PeerSpec(str(place / "vit"), peft=setting), TASK) for name in ("a", "b")},
        label_names=LABELS,
    )
    first = {name: [id(p) for p in cohort.peers["a"].parameters()] for name, cohort in (("s", shared), ("o", alone))}
    assert set(first["s"]) & {id(p) for p in shared.peers["b"].parameters()}
    assert not set(first["o"]) & {id(p) for p in alone.peers["b"].parameters()}
    for name in ("a", "b"):
        load_from(alone.peers[name], shared.peers[name], tmp_path)
    trainer_of(shared, tmp_path / "shared", **changes).train()
    trainer_of(alone, tmp_path / "alone").train()
    for name in ("a", "b"):
        assert_equal(own(shared.peers[name]), own(alone.peers[name]), 1e-6 if changes else 0.0)
    assert not torch.equal(logits(shared.peers["a"]), logits(shared.peers["b"]))


def load_from(model, other, folder):
    save_peer(other, None, folder / "start", None)
    load_weights("x", model, folder / "start")


def test_a_peer_starts_equally_in_every_cohort(place):
    """An adapter drawn after others would make a peer alone another start than the same peer among others."""
    torch.manual_seed(1)
    one = cohort_of(place, b="lora")
    torch.manual_seed(1)
    two = cohort_of(place, a="lora", b="lora")
    assert_equal(own(one.peers["b"]), own(two.peers["b"]))
    a, b = (own(peer) for peer in two.peers.values())
    assert any(not torch.equal(a[key], b[key]) for key in a)
    torch.manual_seed(2)
    other = own(cohort_of(place, b="lora").peers["b"])
    assert any(not torch.equal(b[key], other[key]) for key in b)


def test_full_peer_beside_adapters_keeps_its_own_weights(place, tmp_path):
    """A full peer that shared its weights with adapters would train their base."""
    peers = {"a": PeerSpec(str(place / "vit"), peft="lora"), "full": PeerSpec(str(place / "vit"))}
    cohort = Cohort.from_pretrained(peers, label_names=LABELS)
    base = logits(AutoModelForImageClassification.from_pretrained(place / "vit"))
    trainer_of(cohort, tmp_path, retain=True).train()
    with cohort.peers["a"].disable_adapter():
        assert torch.equal(logits(cohort.peers["a"]), base)
    assert not torch.equal(logits(cohort.peers["full"]), base)


def test_gradient_checkpointing_gives_the_same_gradients(place):
    """Reentrant recomputation under a frozen base would leave every adapter without a gradient."""
    gradients = []
    for wanted in (False, True):
        torch.manual_seed(0)
        spec = PeerSpec(str(place / "vit"), peft="lora", gradient_checkpointing=wanted)
        cohort = Cohort.from_pretrained({"a": spec}, label_names=LABELS).train()
        cohort({"a": {"pixel_values": PIXELS}}, torch.tensor([0, 1, 2, 0])).loss.backward()
        gradients.append({k: p.grad for k, p in cohort.peers["a"].named_parameters() if p.requires_grad})
    assert_equal(*gradients, 1e-6)


# Folders


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    """A run of two adapters over one base, with checkpoints and best weights."""
    out = tmp_path_factory.mktemp("run")
    cohort = cohort_of(place, a="lora", b={"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]})
    trainer_of(
        cohort,
        out,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
    ).train()
    return out, cohort


def test_folders_are_those_of_stock_peft(trained, place):
    """A folder that only we can read is no adapter on the Hub."""
    out, cohort = trained
    for name, peer in cohort.peers.items():
        files = {path.name for path in (out / name).iterdir()}
        assert files == {ADAPTER_CONFIG, ADAPTER_WEIGHTS, "preprocessor_config.json"}
        by_auto = AutoPeftModel.from_pretrained(str(out / name))
        by_transformers = AutoModelForImageClassification.from_pretrained(out / name)
        for stock in (by_auto, by_transformers):
            assert torch.equal(logits(stock), logits(peer))
        image = decode_image(make_rows(1)[0]["image"])
        said = pipeline("image-classification", model=str(out / name))(image, top_k=3)
        assert {guess["label"] for guess in said} == set(LABELS)
    written = json.loads((out / "b" / ADAPTER_CONFIG).read_text())
    assert written["base_model_name_or_path"] == str(place / "vit")
    assert written["target_modules"] == ["q_proj", "v_proj"]
    assert written["modules_to_save"] == ["classifier"]
    assert written["inference_mode"] is True


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "bitfit", "oft"])
def test_every_method_loads_by_peft_and_by_transformers(place, tmp_path, method):
    """A weight that a file calls otherwise than its reader starts anew: the pushed peer is not the trained one."""
    peer = cohort_of(place, a=method).peers["a"]
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in peer.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=draw)
    save_peer(peer, None, tmp_path, None)
    base = AutoModelForImageClassification.from_pretrained(place / "vit")
    for loaded in (
        PeftModel.from_pretrained(base, tmp_path),
        AutoModelForImageClassification.from_pretrained(tmp_path),
    ):
        torch.testing.assert_close(logits(loaded), logits(peer), rtol=1e-5, atol=1e-5)


def test_several_methods_make_peers_of_one_base(place):
    """With a base for each method the memory of one base would be taken several times; a name that is taken twice
    would drop a peer in silence."""
    specs = {"vit": PeerSpec(str(place / "vit")), "own": PeerSpec(str(place / "vit"), peft="lora")}
    found = with_adapters(specs, ["lora", "ia3", "bitfit"])
    assert {name: spec.peft for name, spec in found.items()} == {
        "vit-lora": "lora",
        "vit-ia3": "ia3",
        "vit-bitfit": "bitfit",
        "own": "lora",
    }
    cohort = Cohort.from_pretrained(found, label_names=LABELS)
    bases = [next(cohort.peers[name].get_base_model().parameters()) for name in found]
    assert len({weight.data_ptr() for weight in bases}) == 1
    with pytest.raises(ConfigError, match="peft names a method twice.*lora, LORA"):
        with_adapters(specs, ["lora", "LORA"])
    with pytest.raises(ConfigError, match="two peers would be called 'vit-lora'"):
        with_adapters({**specs, "vit-lora": PeerSpec("x")}, ["lora", "ia3"])


def test_best_and_checkpoints_hold_adapters_only(trained):
    """Whole models in every checkpoint would cost what adapters save."""
    out, _ = trained
    for folder in (out / "checkpoint-4" / "a", out / "checkpoint-4" / "best" / "a"):
        assert (folder / ADAPTER_WEIGHTS).is_file()
        assert not (folder / "model.safetensors").exists()


def test_resume_is_exact(trained, place, tmp_path):
    """A resumed adapter that differs in one bit has lost optimizer or adapter state."""
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "lr_scheduler_type": "constant"}
    build = {"a": {"peft_type": "LORA", "lora_dropout": 0.2}, "b": "lora"}
    whole = cohort_of(place, **build)
    trainer_of(whole, tmp_path / "a", **settings).train()
    trainer_of(cohort_of(place, **build), tmp_path / "b", **settings | {"max_steps": 2}).train()
    resumed = cohort_of(place, **build)
    trainer_of(resumed, tmp_path / "b", **settings).train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    for name in ("a", "b"):
        assert_equal(own(whole.peers[name]), own(resumed.peers[name]))
    other = cohort_of(place, a={"peft_type": "LORA", "r": 3}, b="lora")
    with pytest.raises(ResumeError, match="other starting weights"):
        trainer_of(other, tmp_path / "b", **settings).train(resume_from_checkpoint=True)


def test_adapter_as_source_is_trained_on(trained, place, tmp_path):
    """An adapter of the Hub as a peer: it must start where it was, over the base that others share."""
    out, cohort = trained
    sources = {"a": str(out / "a"), "b": str(out / "b"), "new": PeerSpec(str(place / "vit"), peft="lora")}
    again = Cohort.from_pretrained(sources, label_names=LABELS)
    assert torch.equal(logits(again.peers["a"]), logits(cohort.peers["a"]))
    frozen = [{id(p) for p in peer.parameters() if not p.requires_grad} for peer in again.peers.values()]
    assert frozen[0] == frozen[1] == frozen[2]
    before = own(again.peers["a"])
    trainer_of(again, tmp_path).train()
    assert any(not torch.equal(before[key], value) for key, value in own(again.peers["a"]).items())


def test_damaged_adapters_are_refused(trained, tmp_path):
    """Non-strict loading leaves a random adapter in place."""
    out, cohort = trained
    with pytest.raises(PeerError, match="peer 'a'.*holds another adapter"):
        load_weights("a", cohort.peers["a"], out / "b")
    with pytest.raises(PeerError, match="peer 'a'.*holds no adapter"):
        load_weights("a", cohort.peers["a"], tmp_path)
    (tmp_path / ADAPTER_CONFIG).write_text('{"peft_type": "LORA"}')
    with pytest.raises(PeerError, match="a model that it does not name"):
        load_peer("a", str(tmp_path), TASK)
    (tmp_path / ADAPTER_CONFIG).write_text('{"r": 1}')
    with pytest.raises(PeerError, match="names no peft_type"):
        load_peer("a", str(tmp_path), TASK)


# Merging


def test_merged_equals_unmerged(place, tmp_path):
    """A merged model that answers otherwise is another model under the same numbers."""
    cohort = cohort_of(place, a="lora", b="lora")
    base = copy.deepcopy(logits(AutoModelForImageClassification.from_pretrained(place / "vit")))
    trainer_of(cohort, tmp_path, merge_adapters=True).train()
    for name, peer in cohort.peers.items():
        assert not (tmp_path / name / ADAPTER_CONFIG).exists()
        whole = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        torch.testing.assert_close(logits(whole), logits(peer), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits(whole), base, atol=1e-3)
        with peer.disable_adapter():
            assert torch.equal(logits(peer), base), "merging one peer must not touch the base of the others"


def test_methods_that_cannot_be_merged_are_refused_before_training(place, tmp_path):
    """After hours of training it is too late to say so."""
    cohort = cohort_of(place, a={"peft_type": "LILY", "target_modules": ["fc1"]})
    with pytest.raises(ConfigError, match="LILY on ViTForImageClassification cannot be merged.*merge_adapters"):
        trainer_of(cohort, tmp_path, merge_adapters=True)
    assert merged(torch.nn.Identity()).__class__ is torch.nn.Identity


# New classes


def test_new_classes(place, tmp_path):
    """The base's configuration has other labels: a pipeline that took them would name every answer wrongly."""
    labels = ["p", "q", "r", "s"]
    cohort = Cohort.from_pretrained(
        {"a": PeerSpec(str(place / "vit"), peft="lora")}, label_names=labels, label_alignment="new_head"
    )
    peer = cohort.peers["a"]
    save_peer(peer, cohort.processors["a"], tmp_path / "a", None)
    assert json.loads((tmp_path / "a" / "id2label.json").read_text()) == {"0": "p", "1": "q", "2": "r", "3": "s"}
    again = load_peer("a", str(tmp_path / "a"), TASK)
    assert torch.equal(logits(again.model), logits(peer))
    assert list(again.model.config.id2label.values()) == labels
    code = adapted(WORDS.snippet, tmp_path / "a", WORDS, place=str(tmp_path / "a"))
    image = tmp_path / "image.png"
    decode_image(make_rows(1)[0]["image"]).save(image)
    found = {}
    exec(code.format(model=repr(str(tmp_path / "a")), example=repr(str(image))), found)
    assert set(found["labels"].values()) == set(labels)
    assert torch.equal(logits(found["classifier"].model), logits(peer))
    assert AutoConfig.from_pretrained(place / "vit").id2label[0] == LABELS[0]


# What the user says


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lorra", "peft_type 'lorra' is no method .*nearest: LORA"),
        ({"r": 8}, "peft_type None"),
        ({"peft_type": "LORA", "rank": 8}, "LoraConfig has no field rank"),
        ({"peft_type": "LORA", "lora_alfa": 8}, r"no field lora_alfa \(nearest: lora_alpha\)"),
        ({"peft_type": "LORA", "r": "8"}, 'peft.r must be a whole number, got "8"'),
        ({"peft_type": "LORA", "bias": "some"}, "peft.bias must be one of none, all, lora_only"),
        ({"peft_type": "LORA", "inference_mode": True}, "inference_mode follows from the peer"),
        ({"peft_type": "LORA", "r": -1}, "peft refuses|r` should be"),
        ({"peft_type": "ADALORA"}, "no method of peft that can be trained here"),
        ({"peft_type": "PREFIX_TUNING"}, "prompts language models"),
        (3, "must be a method such as lora"),
    ],
)
def test_wrong_settings_are_refused(place, setting, words):
    """peft itself drops unknown fields with a warning: a rank that is never used."""
    with pytest.raises(PeerError, match=words):
        cohort_of(place, a=setting)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"target_modules": ["query"]}, "target_modules names 'query', which ViTForImageClassification does not have"),
        ({"target_modules": ["q_prj"]}, "nearest: q_proj"),
        ({"bias": "all"}, "trains the base's own weights"),
        ({"init_lora_weights": "pissa"}, "rewrites the base"),
        ({"target_modules": "nothing_like_it"}, "does not fit ViTForImageClassification"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(place, setting, words):
    """A base that one peer changes is changed for all of them."""
    with pytest.raises(PeerError, match=f"peer 'a'.*{words}"):
        cohort_of(place, a={"peft_type": "LORA", **setting})


def test_settings_by_peer():
    """A configuration under a misspelt name would leave that peer to train in full."""
    lora = {"peft_type": "LORA", "r": 2}
    specs = {"a": PeerSpec("x"), "b": PeerSpec("y", peft=lora)}
    found = [[spec.peft for spec in with_adapters(specs, given).values()] for given in (None, "lora", lora)]
    assert found == [[None, lora], ["lora", lora], [lora, lora]]
    for by_name in ({"a": "lora"}, {"r": 8}):
        with pytest.raises(ConfigError, match="for all peers and needs its peft_type.*--peers.[ar].peft lora"):
            with_adapters(specs, by_name)
    with pytest.raises(PeerError, match="peers.vit.peft.r must be a whole number"):
        with_adapters({"vit": PeerSpec("x", peft={"peft_type": "LORA", "r": 0.5})}, None)
    assert read_setting({"peft_type": "lora", "lora_alpha": 4}).lora_alpha == 4


def test_sources_that_take_no_adapter(trained, place):
    """An adapter on an adapter would be saved without the one below it."""
    out, _ = trained
    with pytest.raises(MutualKDError, match="is an adapter, which is trained on; leave peft out"):
        load_peer("a", PeerSpec(str(out / "a"), peft="lora"), TASK)
    with pytest.raises(MutualKDError, match="peft is for models of transformers"):
        load_peer("a", PeerSpec("python:x:y", peft="lora"), TASK, trust_remote_code=True)


def test_weights_in_files_are_only_the_adapters(trained):
    """The base's weights in every adapter would be its memory again, on disk and on the Hub."""
    out, cohort = trained
    saved = load_file(out / "a" / ADAPTER_WEIGHTS)
    assert sum(value.numel() for value in saved.values()) == sum(v.numel() for v in own(cohort.peers["a"]).values())
    assert all("lora_" in key or "classifier" in key for key in saved)
