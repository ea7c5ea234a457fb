"""Image-text models that read the names of the classes: what they answer, what trains, and what their folder is."""

import json
import logging

import pytest
import torch
import transformers as hf
from conftest import LABELS, make_rows
from zero_shot_peers import KINDS, write_reader

from hf_mutual_kd import TASKS, Cohort, MutualKDConfig, MutualKDTrainer, PeerError, PeerSpec
from hf_mutual_kd.data.images import decode_image
from hf_mutual_kd.peers.head_labels import HeadLabels
from hf_mutual_kd.peers.loading import load_peer, save_peer

IMAGES = [decode_image(row["image"]) for row in make_rows(4)]


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """The folder of an image-text model of each kind."""
    place = tmp_path_factory.mktemp("readers")
    return {kind: write_reader(place / kind, kind) for kind in KINDS}


def load(source, **changes):
    return load_peer(
        "mine", PeerSpec(str(source), **changes), TASKS["image-classification"](), labels=HeadLabels(missing=LABELS)
    )


def logits_of(peer, images=IMAGES):
    with torch.no_grad():
        return peer.model.eval()(**peer.processor(images=images, return_tensors="pt")).logits


def piped(source, images=IMAGES, labels=LABELS, **how):
    """What the stock pipeline gives each class, in their order."""
    pipe = hf.pipeline("zero-shot-image-classification", model=str(source), device="cpu")
    found = pipe(images, candidate_labels=labels, **how)
    return torch.tensor([[next(g["score"] for g in one if g["label"] == label) for label in labels] for one in found])


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_starts_as_the_stock_pipeline(kind, readers):
    """A scale, bias, padding or norm that differs makes the start another than the checkpoint's published one."""
    peer = load(readers[kind])
    logits = logits_of(peer)
    own = logits.sigmoid() if "siglip" in kind else logits.softmax(1)
    torch.testing.assert_close(own, piped(readers[kind]), rtol=0, atol=1e-6)
    assert not peer.new_head
    assert own.std(0).max() > 0.001


def test_several_templates_are_the_mean_of_their_logits(readers):
    """Templates that are averaged elsewhere give logits that no call of the stock pipeline can reproduce."""
    templates = ["a {}.", "This is a photo of {}."]
    logits = logits_of(load(readers["clip"], prompt_templates=templates))
    each = [piped(readers["clip"], hypothesis_template=template).log() for template in templates]
    torch.testing.assert_close(logits.softmax(1), torch.stack(each).mean(0).softmax(1), rtol=0, atol=1e-6)
    clip = load(readers["clip"], prompt_templates=["clip"]).model.config.prompt_templates
    assert len(clip) == 7


def trained(folder, cohort, **options):
    options = {
        "learning_rate": 0.01,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 12,
        "augment": False,
        "report_to": "none",
        "disable_tqdm": True,
        "pre_flight": False,
        **options,
    }
    trainer = MutualKDTrainer(cohort, MutualKDConfig(str(folder), **options), make_rows(48), make_rows(21, 1))
    trainer.train(resume_from_checkpoint=options.get("resume_from_checkpoint"))
    return trainer


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
def test_what_is_trained_is_what_the_stock_pipeline_loads(kind, readers, tmp_path):
    """A classifier that is trained beside the towers is lost when the stock model is saved: the start is pushed."""
    cohort = Cohort.from_pretrained({"mine": readers[kind]}, label_names=LABELS)
    before = {key: weight.clone() for key, weight in cohort.peers["mine"].named_parameters()}
    trained(tmp_path / "run", cohort, num_train_epochs=6)
    peer = cohort.peers["mine"]
    changed = {key for key, weight in peer.named_parameters() if not torch.equal(weight, before[key])}
    resting = {
        key for key in before if key.split(".")[0] in ("text_model", "text_projection", "logit_scale", "logit_bias")
    }
    assert changed
    assert not changed & resting
    images = [decode_image(row["image"]) for row in make_rows(21, 1)]
    pixels = cohort.processors["mine"](images=images, return_tensors="pt")
    logits = peer.eval()(**pixels).logits
    own = logits.sigmoid() if "siglip" in kind else logits.softmax(1)
    torch.testing.assert_close(own, piped(tmp_path / "run" / "mine", images), rtol=0, atol=1e-6)
    right = (own.argmax(1) == torch.tensor(make_rows(21, 1)["label"])).float().mean()
    start = logits_of(load(readers[kind]), images).argmax(1) == torch.tensor(make_rows(21, 1)["label"])
    assert right > start.float().mean() + 0.15
    config = json.loads((tmp_path / "run" / "mine" / "config.json").read_text())
    assert config["architectures"] == [type(peer).__name__]
    assert "auto_map" not in config
    again = load_peer("mine", str(tmp_path / "run" / "mine"), TASKS["image-classification"]())
    torch.testing.assert_close(logits_of(again, images), logits)


def test_an_adapter_leaves_the_text_tower_alone_and_the_stock_pipeline_loads_it(readers, tmp_path):
    """An adapter on the text tower is trained by nothing, or moves the classes away from the embeddings in use."""
    for setting in ("lora", {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]}):
        spec = PeerSpec(readers["clip"], peft=setting, prompt_templates=["a {}."])
        cohort = Cohort.from_pretrained({"mine": spec}, label_names=LABELS)
        learned = [key for key, weight in cohort.peers["mine"].named_parameters() if weight.requires_grad]
        assert learned
        assert not [key for key in learned if "text_" in key]
    trained(tmp_path / "run", cohort)
    images = [decode_image(row["image"]) for row in make_rows(6, 1)]
    own = logits_of(load(tmp_path / "run" / "mine"), images)
    assert (own - logits_of(load(readers["clip"], prompt_templates=["a {}."]), images)).abs().max() > 0.01
    found = piped(tmp_path / "run" / "mine", images, hypothesis_template="a {}.")
    torch.testing.assert_close(own.softmax(1), found, rtol=0, atol=1e-6)
    with pytest.raises(PeerError, match="text_model.* rests|what rests"):
        load(readers["clip"], peft={"peft_type": "LORA", "target_modules": ".*q_proj"})


def test_it_teaches_and_learns_without_any_label(readers, tmp_path):
    """A reader that waits for labels, as a new head does, has nothing to say where there are none."""
    peers = {"mine": readers["clip"], "other": readers["siglip"]}
    cohort = Cohort.from_pretrained(peers, label_names=LABELS)
    before = {
        name: cohort.peers[name].state_dict()["vision_model.embeddings.patch_embedding.weight"].clone()
        for name in peers
    }
    rows = make_rows(24).remove_columns("label")
    config = MutualKDConfig(
        str(tmp_path), labels=False, learning_rate=0.01, num_train_epochs=1, report_to="none", disable_tqdm=True
    )
    trainer = MutualKDTrainer(cohort, config, rows)
    trainer.train()
    after = {name: cohort.peers[name].state_dict()["vision_model.embeddings.patch_embedding.weight"] for name in peers}
    assert all(not torch.equal(before[name], after[name]) for name in peers)


def test_a_resumed_training_ends_as_one_that_never_stopped(readers, tmp_path):
    """Class embeddings that a resume computes of other names or templates, or leaves out, bend the second half."""

    def cohort(**spec):
        return Cohort.from_pretrained({"mine": PeerSpec(readers["clip"], **spec)}, label_names=LABELS)

    whole = trained(tmp_path / "whole", cohort(), max_steps=4, save_strategy="steps", save_steps=2)
    at = str(tmp_path / "whole" / "checkpoint-2")
    again = trained(tmp_path / "again", cohort(), max_steps=4, resume_from_checkpoint=at, save_strategy="no")
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    with pytest.raises(Exception, match="another configuration of peer 'mine'"):
        trained(tmp_path / "third", cohort(prompt_templates=["a {}."]), max_steps=4, resume_from_checkpoint=at)


def test_whether_labels_are_read_is_said_and_never_guessed(readers, tmp_path, caplog):
    """A silent choice trains a random head on a model that knew the labels, or leaves out the head that was wanted."""
    logging.getLogger("transformers").propagate = True
    write_reader(tmp_path / "bare", tokenizer=False)
    assert load(tmp_path / "bare").new_head
    assert "has no tokenizer_config.json" in caplog.text
    assert load(readers["clip"], zero_shot=False).new_head
    assert "zero_shot is false" in caplog.text
    with pytest.raises(PeerError, match="has no tokenizer_config.json"):
        load(tmp_path / "bare", zero_shot=True)
    hf.CLIPVisionModel.from_pretrained(readers["clip"]).save_pretrained(tmp_path / "tower")
    with pytest.raises(PeerError, match="CLIPVisionModel, which has no text tower"):
        load(tmp_path / "tower", prompt_templates=["a {}."])
    with pytest.raises(PeerError, match="nobody says them"):
        load_peer("mine", readers["clip"], TASKS["image-classification"]())
    for wrong in (["a photo"], ["{} {}"], ["{name}"], ["{}", "{}"], []):
        with pytest.raises(PeerError, match="prompt_templates"):
            PeerSpec("x", prompt_templates=wrong)
    renewed = load_peer("mine", readers["clip"], TASKS["image-classification"](), labels=HeadLabels(["cat", "dog"]))
    assert not renewed.new_head
    assert logits_of(renewed).shape == (4, 2)


def test_a_saved_reader_knows_its_names_and_templates(readers, tmp_path):
    """A folder that forgets how it was asked is measured, exported and shown with another classifier."""
    peer = load(readers["clip"], prompt_templates=["a {}."])
    save_peer(peer.model, peer.processor, tmp_path / "saved", None)
    again = load_peer("mine", str(tmp_path / "saved"), TASKS["image-classification"]())
    torch.testing.assert_close(logits_of(again), logits_of(peer))
    others = load_peer(
        "mine", str(tmp_path / "saved"), TASKS["image-classification"](), labels=HeadLabels(missing=["x", "y"])
    )
    assert list(others.model.config.id2label.values()) == ["x", "y"]
