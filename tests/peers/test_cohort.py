"""The cohort: labels brought together by name, one formula for the loss, and peers that stay what they are."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from conftest import LABELS, SIZE, tiny_processor, tiny_vit
from torch import nn
from torchvision.models import shufflenet_v2_x0_5

from hf_mutual_kd import (
    BestRule,
    Cohort,
    ConfigError,
    FrozenSource,
    LabelError,
    LiveSource,
    LoadedPeer,
    MeanRule,
    Objective,
    PeerError,
    PeerSpec,
)
from hf_mutual_kd.distillation.roles import MEAN, NOBODY, UNDECIDED
from hf_mutual_kd.peers.loading import load_weights, save_peer
from hf_mutual_kd.peers.weights_hash import fingerprint

BEST = Objective(BestRule(), LiveSource(), retain=False)
PIXELS = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
TRUTH = torch.tensor([0, 1, 2, 0])


def inputs(cohort):
    return {name: {"pixel_values": PIXELS} for name in cohort.names}


def alone(cohort, name):
    """What a peer says without the cohort."""
    return cohort.peers[name](pixel_values=PIXELS).logits


def labelled_vit(folder, labels):
    torch.manual_seed(1)
    model = tiny_vit()
    if len(labels) != 3:
        model.classifier = nn.Linear(16, len(labels))
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {name: index for index, name in enumerate(labels)}
    save_peer(model, tiny_processor(), folder, None)
    return model.eval()


# Labels


@pytest.mark.parametrize(
    ("labels", "mode", "columns"),
    [
        (["stripe", "circle", "square"], "exact", [1, 2, 0]),
        (["stripe", "dot", "Square", "circle"], "subset", [3, 2, 0]),
    ],
)
def test_logits_are_in_the_data_sets_order(tmp_path, labels, mode, columns):
    """Peers that disagree on what class 0 is teach each other nonsense, at full confidence."""
    model = labelled_vit(tmp_path / "vit", labels)
    cohort = Cohort.from_pretrained({"vit": tmp_path / "vit"}, label_names=LABELS, label_alignment=mode).eval()
    expected = model(pixel_values=PIXELS).logits[:, columns]
    torch.testing.assert_close(cohort(inputs(cohort)).outputs["vit"], expected)
    out = cohort(inputs(cohort), labels=TRUTH)
    assert out.loss.item() == pytest.approx(F.cross_entropy(expected, TRUTH).item())
    cohort.save_peer("vit", tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())["id2label"]
    assert list(saved.values()) == labels


def test_labels_that_differ_are_refused(tmp_path):
    """Mapping by position what differs by name."""
    labelled_vit(tmp_path / "vit", ["stripe", "dot", "square", "circle"])
    with pytest.raises(LabelError, match="'vit'.*'dot'.*subset"):
        Cohort.from_pretrained({"vit": tmp_path / "vit"}, label_names=LABELS)
    labelled_vit(tmp_path / "cnn", ["circle", "square", "dot"])
    for mode in ("exact", "subset"):
        with pytest.raises(LabelError, match="'cnn'.*'stripe'.*new_head"):
            Cohort.from_pretrained({"cnn": tmp_path / "cnn"}, label_names=LABELS, label_alignment=mode)
    with pytest.raises(LabelError, match="label_names"):
        Cohort.from_pretrained({"cnn": tmp_path / "cnn"}, label_alignment="new_head")
    cohort = Cohort.from_pretrained({"cnn": tmp_path / "cnn"}, label_names=[*"abcde"], label_alignment="new_head")
    assert cohort.eval()(inputs(cohort)).outputs["cnn"].shape == (4, 5)
    with pytest.raises(ConfigError, match="mode must be one of exact, subset, overlap, new_head"):
        Cohort.from_pretrained({"cnn": tmp_path / "cnn"}, label_names=LABELS, label_alignment="close")


def test_first_peers_labels_count_where_the_data_has_none(tmp_path):
    """Two peers in two orders."""
    labelled_vit(tmp_path / "a", LABELS)
    labelled_vit(tmp_path / "b", LABELS[::-1])
    cohort = Cohort.from_pretrained({"a": tmp_path / "a", "b": tmp_path / "b"}).eval()
    logits = cohort(inputs(cohort)).outputs
    assert cohort.label_names == LABELS
    torch.testing.assert_close(logits["b"], alone(cohort, "b").flip(1))


def test_module_with_another_number_of_classes_is_refused():
    """A broadcast or an index error deep in the loss says nothing about labels."""
    cohort = Cohort.from_pretrained({"net": Plain(5)}, label_names=LABELS)
    with pytest.raises(LabelError, match="'net' gives 5 classes for 3 labels"):
        cohort(inputs(cohort))


def test_wrong_use_is_refused(make_cohort):
    """Mistakes of a plain loop around the cohort."""
    cohort = make_cohort("vit", "cnx")
    with pytest.raises(ConfigError, match="peer_inputs lacks cnx; it has vit"):
        cohort({"vit": {"pixel_values": PIXELS}})
    with pytest.raises(ConfigError, match="no frozen starts"):
        cohort.start_logits(inputs(cohort))
    with pytest.raises(ConfigError, match="task must be one of image-classification"):
        make_cohort("vit", task="segmentation")
    with pytest.raises(PeerError, match="peer_checkpointing"):
        Cohort.from_pretrained({"net": Plain()}, label_names=LABELS).gradient_checkpointing_enable()


# The loss


@pytest.mark.parametrize("names", [("vit",), ("vit", "cnx", "cnn"), ("vit", "cnx", "cnn", "vit_2", "cnx_2")])
def test_loss_is_the_formula(make_cohort, names):
    """L = sum of CE + weight * mean over units of the sum of KLs, for any N."""
    cohort = make_cohort(*names).eval()
    with torch.no_grad():
        for name in names[3:]:
            cohort.peers[name].classifier.weight.mul_(-1)
    cohort.set_objective(Objective(BestRule(), LiveSource(), retain=False, weight=0.7, temperature=2.0))
    out = cohort(inputs(cohort), labels=TRUTH)
    log_p = {name: alone(cohort, name).log_softmax(-1) for name in names}
    expected = 0.0
    for unit, truth in enumerate(TRUTH.tolist()):
        teacher = max(names, key=lambda name: log_p[name][unit, truth].item())
        assert out.teacher[unit] == names.index(teacher)
        target = (alone(cohort, teacher)[unit] / 2).softmax(-1)
        for name in names:
            expected -= log_p[name][unit, truth].item() / 4
            student = (alone(cohort, name)[unit] / 2).log_softmax(-1)
            expected += 0.7 * 4 * F.kl_div(student, target, reduction="sum").item() / 4 * (name != teacher)
    assert out.loss.item() == pytest.approx(expected, rel=1e-4)
    assert out.loss.item() == pytest.approx((out.supervised.sum() + 0.7 * out.transfer.sum()).item())
    assert list(out.outputs) == list(names)


def test_rows_without_label_learn_by_transfer_alone(make_cohort):
    """A missing label counted in the mean of the supervised loss shrinks it."""
    cohort = make_cohort("vit", "cnx").eval()
    cohort.set_objective(Objective(BestRule(), LiveSource(), retain=False, unlabelled_rows=True))
    labels = torch.tensor([0, -1, 2, -1])
    out = cohort(inputs(cohort), labels=labels)
    expected = sum(F.cross_entropy(alone(cohort, name)[::2], labels[::2]) for name in cohort.names)
    torch.testing.assert_close(out.supervised.sum(), expected)
    assert out.teacher[1::2].tolist() == [MEAN, MEAN]
    none = cohort(inputs(cohort), labels=torch.full((4,), -1))
    assert none.supervised.tolist() == [0, 0]
    assert none.transfer.gt(0).all()
    none.loss.backward()


def test_row_counts_make_parts_add_up(make_cohort):
    """Means of means differ from the mean."""
    cohort = make_cohort("vit", "cnx").eval()
    cohort.set_objective(BEST)
    labels = torch.tensor([0, -1, 2, 0])
    whole = cohort(inputs(cohort), labels=labels).loss
    counts = torch.tensor([4, 3])
    parts = [
        cohort({n: {"pixel_values": PIXELS[s]} for n in cohort.names}, labels=labels[s], row_counts=counts).loss
        for s in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_labels_that_are_to_be_ignored_are(make_cohort, weight):
    """`labels=False` that still follows the labels, in the control too, is an unlabelled run that was not."""
    cohort = make_cohort("vit", "cnx").eval()
    cohort.set_objective(Objective(MeanRule(), FrozenSource(), retain=False, labels=False, weight=weight))
    with torch.no_grad():
        cohort.peers["cnx"].classifier.weight.mul_(-1)
    given = [cohort(inputs(cohort), labels=labels).loss for labels in (TRUTH, (TRUTH + 1) % 3, torch.full((4,), -1))]
    assert given[0] == given[1] == given[2]
    assert bool(given[0] > 0) is (weight > 0)


def test_decided_roles_and_weight_of_the_step(make_cohort):
    """A role table, or a warm-up, that never reaches the loss."""
    cohort = make_cohort("vit", "cnx").eval()
    cohort.set_objective(BEST)
    out = cohort(inputs(cohort), labels=TRUTH, roles=torch.tensor([1, NOBODY, 0, UNDECIDED]), transfer_weight=0.25)
    assert out.teacher[:3].tolist() == [1, NOBODY, 0]
    assert out.loss.item() == pytest.approx((out.supervised.sum() + 0.25 * out.transfer.sum()).item())


@pytest.mark.parametrize("detach", ["teacher", "none"])
def test_frozen_peer_teaches_and_does_not_learn(make_cohort, detach):
    """A frozen peer that still counts in the loss, or whose students push it."""
    cohort = make_cohort("vit", "cnn")
    cohort.freeze(["cnn"])
    cohort.set_objective(Objective(BestRule(), LiveSource(), retain=True, detach=detach))
    cohort.train()
    before = fingerprint(cohort.peers["cnn"])
    out = cohort(inputs(cohort), labels=TRUTH, roles=torch.tensor([1, 1, 0, 0]))
    out.loss.backward()
    assert out.transfer[0] > 0
    assert out.transfer[1] == 0
    assert all(p.grad is None for p in cohort.peers["cnn"].parameters())
    assert any(p.grad is not None and p.grad.any() for p in cohort.peers["vit"].parameters())
    assert fingerprint(cohort.peers["cnn"]) == before
    assert cohort.starts["cnn"] is cohort.peers["cnn"]
    assert list(cohort.peer_parameters()) == ["vit", "cnn"]
    assert cohort.peer_parameters()["cnn"] == []


def test_starts_stay_where_they_are(make_cohort):
    """Frozen starts that share weights with their peers hold them to nothing."""
    cohort = make_cohort("vit", "cnn")
    cohort.set_objective(Objective(BestRule(), FrozenSource()))
    cohort.train()
    before = fingerprint(cohort.starts)
    expected = [alone(copy.deepcopy(cohort).eval(), name) for name in cohort.names]
    optimizer = torch.optim.SGD([p for p in cohort.parameters() if p.requires_grad], lr=0.1)
    cached = cohort.start_logits(inputs(cohort))
    torch.testing.assert_close(cached, [logits.detach() for logits in expected])
    cohort(inputs(cohort), labels=TRUTH).loss.backward()
    optimizer.step()
    assert fingerprint(cohort.starts) == before
    torch.testing.assert_close(cohort.start_logits(inputs(cohort)), cached)
    cohort.eval()
    live = cohort(inputs(cohort), labels=TRUTH).loss
    cohort.drop_starts()
    torch.testing.assert_close(cohort(inputs(cohort), labels=TRUTH, start_logits=cached).loss, live)


def test_starts_run_in_bf16_where_a_device_is_fast_at_it(make_cohort, monkeypatch):
    """Answers in bf16 would be compared in bf16, and a training's own precision would be left in their place."""
    cohort = make_cohort("vit", "cnx")
    cohort.set_objective(Objective(MeanRule(), FrozenSource(), retain=False))
    exact, loss = cohort.start_logits(inputs(cohort)), cohort(inputs(cohort), labels=TRUTH).loss
    monkeypatch.setattr("hf_mutual_kd.peers.cohort.is_fast_in_bf16", lambda device: True)
    quick = cohort.start_logits(inputs(cohort))
    assert {one.dtype for one in quick} == {torch.float32}
    assert not torch.equal(quick[0], exact[0])
    torch.testing.assert_close(quick, exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(cohort(inputs(cohort), labels=TRUTH).loss, loss, rtol=0.01, atol=0.01)
    with torch.autocast("cpu", torch.float16):
        assert {one.dtype for one in cohort.start_logits(inputs(cohort))} == {torch.float16}


# Modes of the layers


def statistics_of(cohort, name):
    return {key: value.clone() for key, value in cohort.peers[name].named_buffers()}


@pytest.mark.parametrize("how", ["policy", "resting"])
def test_batch_norms_that_rest(make_cohort, how):
    """Running statistics drift even where no weight is updated."""
    cohort = make_cohort("cnn", "cnn_2")
    if how == "policy":
        cohort.rest_batch_norms("freeze")
    else:
        cohort.resting = {"cnn"}
    before = {name: statistics_of(cohort, name) for name in cohort.names}
    cohort.train()
    cohort(inputs(cohort))
    after = {name: statistics_of(cohort, name) for name in cohort.names}
    moved = {
        name: any(not torch.equal(after[name][key], before[name][key]) for key in before[name]) for name in before
    }
    assert moved == {"cnn": False, "cnn_2": how == "resting"}
    assert cohort.peers["cnn"].training
    cohort.rest_batch_norms("train")
    assert cohort.specs["cnn"].batch_norm == ("freeze" if how == "policy" else "train")


class Plain(nn.Module):
    """A user's own module: batch norm, dropout, plain logits."""

    def __init__(self, classes=3, momentum=0.1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)
        )
        self.head = nn.Linear(4, classes)

    def forward(self, pixel_values):
        return self.head(self.body(pixel_values).flatten(1))


def test_peer_checkpointing_changes_nothing(make_peers):
    """Recomputing draws dropout anew and counts batch statistics twice, unless told otherwise."""
    torch.manual_seed(0)
    peers = make_peers("cnn", "cnx") | {
        "drop": LoadedPeer(Plain(), None, PeerSpec()),
        "cumulative": LoadedPeer(Plain(momentum=None), None, PeerSpec()),
        "vit": LoadedPeer(tiny_vit(dropout=0.2), None, PeerSpec()),
        "rest": LoadedPeer(Plain(), None, PeerSpec(batch_norm="freeze")),
    }
    results = []
    for checkpointing in (False, True):
        cohort = Cohort(copy.deepcopy(peers), label_names=LABELS)
        cohort.set_objective(Objective(BestRule(), LiveSource(), detach="none"))
        cohort.peer_checkpointing = checkpointing
        cohort.train()
        torch.manual_seed(5)
        losses = []
        for _ in range(2):
            out = cohort(inputs(cohort), labels=TRUTH)
            out.loss.backward()
            losses.append(out.loss.detach())
        gradients = {name: p.grad for name, p in cohort.peers.named_parameters()}
        results.append((losses, gradients, cohort.peers.state_dict(), torch.get_rng_state()))
    plain, recomputed = results
    torch.testing.assert_close(plain[0], recomputed[0], rtol=1e-6, atol=1e-6)
    assert plain[1].keys() == recomputed[1].keys()
    for one, other in ((plain[1], recomputed[1]), (plain[2], recomputed[2])):
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], rtol=1e-6, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")
    assert torch.equal(plain[3], recomputed[3])


# Saving


def test_module_of_torchvision_is_a_peer(tmp_path):
    """Any module that returns logits takes part; its weights must come back too."""
    torch.manual_seed(0)

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = shufflenet_v2_x0_5(num_classes=3)

        def forward(self, pixel_values):
            return self.net(pixel_values)

    module = Wrapped()
    cohort = Cohort.from_pretrained({"net": module}, label_names=LABELS)
    cohort.set_objective(BEST)
    cohort.train()
    big = {"net": {"pixel_values": torch.randn(2, 3, 64, 64)}}
    cohort(big, labels=TRUTH[:2]).loss.backward()
    assert module.net.fc.weight.grad.any()
    cohort.eval()
    said = cohort(big).outputs["net"]
    cohort.save_pretrained(tmp_path)
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["model.safetensors"]
    other = Cohort.from_pretrained({"net": Wrapped()}, label_names=LABELS).eval()
    load_weights("net", other.peers["net"], tmp_path / "net")
    torch.testing.assert_close(other(big).outputs["net"], said)


def test_saved_peers_are_ordinary_models(tmp_path, make_cohort):
    """A peer that only this package can load is no use to the next person."""
    cohort = make_cohort("vit", "cnn").eval()
    cohort.save_pretrained(tmp_path)
    again = Cohort.from_pretrained({name: tmp_path / name for name in cohort.names}, label_names=LABELS).eval()
    for name, logits in cohort(inputs(cohort)).outputs.items():
        torch.testing.assert_close(again(inputs(again)).outputs[name], logits)
    whole = {f"peers.{key}": value + 1 for key, value in cohort.peers.state_dict().items()}
    cohort.save_peer("vit", tmp_path / "gathered", state_dict=whole)
    load_weights("vit", again.peers["vit"], tmp_path / "gathered")
    for key, value in again.peers["vit"].state_dict().items():
        assert torch.equal(value, whole[f"peers.vit.{key}"])


def test_starts_are_run_only_where_they_are_looked_at(make_cohort):
    """The shortcut must give the loss that running every start on every sample gives."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, -1, 0, 1])
    images = torch.randn(6, 3, 16, 16)
    losses = []
    for full in (False, True):
        cohort = make_cohort("vit", "cnx", "cnn")
        cohort.set_objective(Objective(BestRule(), LiveSource(), retain=True, unlabelled_rows=True))
        with torch.no_grad():
            for parameter in cohort.peers.parameters():
                parameter.add_(0.05)
        inputs = {name: {"pixel_values": images} for name in cohort.names}
        given = cohort.start_logits(inputs) if full else None
        cohort.eval()
        out = cohort(peer_inputs=inputs, labels=labels, start_logits=given)
        losses.append(out.transfer)
    torch.testing.assert_close(losses[0], losses[1])
    assert (losses[0] > 0).all()


def test_a_saved_cohort_is_loaded_from_its_folder(tmp_path, make_cohort):
    """Names, task and labels that must be typed again, in the right order, to use what was trained."""
    cohort = make_cohort("vit", "cnn").eval()
    cohort.save_pretrained(tmp_path / "run")
    again = Cohort.from_pretrained(tmp_path / "run")
    assert (again.names, again.label_names, again.task.name) == (cohort.names, LABELS, cohort.task.name)
    for name, logits in cohort(inputs(cohort)).outputs.items():
        torch.testing.assert_close(again.eval()(inputs(again)).outputs[name], logits)
    (tmp_path / "run" / "cohort.json").write_text(
        '{"task": "image-classification", "peers": {"vit": {}}, "objective": {}}'
    )
    cohort.save_pretrained(tmp_path / "run")
    assert Cohort.from_pretrained(tmp_path / "run").names == ["vit"], "a training's record says more, and stays"
    with pytest.raises(PeerError, match=r"rum is no folder of a cohort: it has no cohort.json \(nearest: .*run\)"):
        Cohort.from_pretrained(str(tmp_path / "rum"))


def test_peers_without_names(tmp_path, make_cohort):
    """A list of ids is all that there is to say of most cohorts; two of one name would be one."""
    make_cohort("vit", "cnn").save_pretrained(tmp_path)
    specs = [str(tmp_path / "vit"), PeerSpec(str(tmp_path / "cnn"), learning_rate=0.5)]
    cohort = Cohort.from_pretrained(specs, label_names=LABELS)
    assert cohort.names == ["vit", "cnn"]
    assert cohort.specs["cnn"].learning_rate == 0.5
    with pytest.raises(PeerError, match="two peers are called 'vit'"):
        Cohort.from_pretrained([str(tmp_path / "vit")] * 2)
    with pytest.raises(PeerError, match="mapping of names"):
        Cohort.from_pretrained([cohort.peers["vit"]])


def test_prediction_is_each_peers_and_their_mean(tmp_path, make_cohort):
    """Probabilities in a peer's own order of classes, in training mode, or of other pixels than in training."""
    from conftest import make_rows

    cohort = make_cohort("vit", "cnn").train()
    rows = make_rows(3)
    found = cohort.predict([row["image"] for row in rows])
    assert cohort.training
    assert list(found) == ["vit", "cnn", "cohort"]
    torch.testing.assert_close(found["cohort"], (found["vit"] + found["cnn"]) / 2)
    torch.testing.assert_close(found["vit"].sum(1), torch.ones(3))
    path = tmp_path / "image.png"
    path.write_bytes(rows[1]["image"]["bytes"])
    torch.testing.assert_close(cohort.predict([path])["cohort"], found["cohort"][1:2])
