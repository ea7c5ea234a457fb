"""Semantic segmentation as a task: each head's own loss, roles by image, and what ignored pixels must not do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from segmentation_peers import CLASSES, PIXEL, QUERY, SIZE, inputs_of, tiny_segmenter

from hf_mutual_kd import (
    IGNORE,
    BestRule,
    Cohort,
    ConfigError,
    LabelError,
    LiveSource,
    LoadedPeer,
    Objective,
    PeerError,
    PeerSpec,
    SemanticSegmentation,
    TransferOptions,
)
from hf_mutual_kd.data.masks import OUTSIDE, UNLABELLED, UNREADABLE
from hf_mutual_kd.distillation.label_alignment import ClassColumns
from hf_mutual_kd.distillation.roles import NOBODY
from hf_mutual_kd.tasks.semantic_segmentation.head_losses import DenseOutput
from hf_mutual_kd.tasks.semantic_segmentation.labels import labels_for_peer, query_targets

LOSSES = ("loss_cross_entropy", "loss_mask", "loss_dice")
HEADS = [*PIXEL, *QUERY, "torchvision"]
NO_COLUMNS = ClassColumns("peer", len(CLASSES))


def labels_like(seed=0, batch=2):
    """Blocks of classes, so that query heads find masks."""
    blocks = torch.randint(0, len(CLASSES), (batch, 4, 4), generator=torch.Generator().manual_seed(seed))
    return blocks.repeat_interleave(SIZE // 4, 1).repeat_interleave(SIZE // 4, 2)


def batch_of(name, batch=2):
    inputs = {key: value[:batch] for key, value in inputs_of(name).items()}
    return inputs | {"valid_sizes": torch.tensor([[SIZE, SIZE]] * batch)}


def supervised(model, name, labels, columns=NO_COLUMNS):
    torch.manual_seed(5)  # Mask2Former's loss looks at random points
    return SemanticSegmentation().supervised(model, batch_of(name), columns, labels)


def gradients(model):
    return {key: None if p.grad is None else p.grad.clone() for key, p in model.named_parameters()}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_keeps_its_own_loss(name):
    """A loss of ours in place of Hungarian matching or of auxiliary heads trains another model than the user's."""
    model, labels = tiny_segmenter(name), labels_like()
    answer, loss = supervised(model, name, labels)
    torch.manual_seed(5)
    if name in QUERY:
        masks, classes = query_targets(labels)
        own = model(**inputs_of(name), mask_labels=masks, class_labels=classes).loss
    elif name == "torchvision":
        own = F.cross_entropy(model(**inputs_of(name))["out"], labels)
    else:
        own = model(**inputs_of(name), labels=labels).loss
    torch.testing.assert_close(loss, own.float().reshape(1).expand(2))
    assert answer.log_probs.logsumexp(1).abs().max() < 1e-4
    assert [tuple(one.shape) for one in answer.semantic_maps([(64, 64), (30, 50)])] == [(64, 64), (30, 50)]


@pytest.mark.parametrize("name", ["segformer", "upernet", "mask2former", "maskformer", "eomt"])
def test_batch_without_any_label_changes_nothing(name):
    """transformers' heads give NaN for it; a parameter without a gradient stops a distributed run."""
    model = tiny_segmenter(name).train()
    _, loss = supervised(model, name, torch.full((2, SIZE, SIZE), IGNORE))
    assert loss.tolist() == [0.0, 0.0]
    loss.sum().backward()
    with_label = copy.deepcopy(model)
    with_label.zero_grad()
    supervised(with_label, name, labels_like())[1].sum().backward()
    for key, gradient in gradients(with_label).items():
        if gradient is not None:
            found = dict(model.named_parameters())[key].grad
            assert found is not None, key
            assert not found.any()


@pytest.mark.parametrize("name", ["segformer", "mask2former", "maskformer", "eomt"])
def test_ignored_image_leaves_the_others_untouched(name):
    """An image without labels would teach every query that there is nothing to see."""
    model, labels = tiny_segmenter(name), labels_like()
    labels[1] = IGNORE
    answer, loss = supervised(model, name, labels)
    loss.sum().backward()
    found = gradients(model)
    model.zero_grad()
    alone = {key: value[:1] for key, value in batch_of(name).items()}
    torch.manual_seed(5)
    _, expected = SemanticSegmentation().supervised(model, alone, NO_COLUMNS, labels[:1])
    expected.sum().backward()
    torch.testing.assert_close(loss, torch.cat([expected, torch.zeros(1)]))
    for key, gradient in gradients(model).items():
        if gradient is not None:
            torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6)
    whole = SemanticSegmentation().outputs(model, batch_of(name), NO_COLUMNS)
    torch.testing.assert_close(answer.log_probs, whole.log_probs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["segformer", "mask2former"])
def test_classes_in_another_order_are_the_same_peer(name):
    """A permuted label list must change neither what a peer says nor what it learns."""
    model, labels = tiny_segmenter(name), labels_like()
    plain_answer, plain_loss = supervised(model, name, labels)
    order = torch.tensor([3, 0, 4, 1, 2])  # the data set's class i is the peer's order[i]
    theirs = order.argsort()[labels]
    answer, loss = supervised(model, name, theirs, ClassColumns("peer", 5, order))
    torch.testing.assert_close(loss, plain_loss)
    torch.testing.assert_close(answer.log_probs, plain_answer.log_probs[:, order])


def cohort_of(*names, task=None, rows=2, **objective):
    peers = {name: LoadedPeer(tiny_segmenter(name), lambda images: None, PeerSpec(source=name)) for name in names}
    cohort = Cohort(peers, task=task or SemanticSegmentation(), label_names=CLASSES)
    cohort.set_objective(Objective(rule=BestRule(), source=LiveSource(), score="loss", **objective))
    return cohort.train(), {name: batch_of(name, rows) for name in names}


def test_peers_of_two_families_teach_each_other():
    """The sources' code moved no knowledge between segmentation models at all."""
    cohort, inputs = cohort_of("segformer", "mask2former", retain=False)
    labels = labels_like()
    output = cohort(inputs, labels=labels)
    assert output.teacher.shape == (2,)
    log_probs = [output.outputs[name].log_probs for name in cohort.names]
    scores = cohort.task.scores("loss", log_probs, labels)
    assert output.teacher.tolist() == scores.argmax(0).tolist()
    teacher = int(output.teacher[0])
    assert output.teacher[1] == teacher, "these weights have one better peer"
    assert output.transfer[teacher] == 0
    assert output.transfer[1 - teacher] > 0
    output.transfer.sum().backward()
    moved = [any(p.grad is not None and p.grad.any() for p in peer.parameters()) for peer in cohort.peers.values()]
    assert moved == [index != teacher for index in range(2)]


def test_scale_of_a_heads_own_loss_moves_no_role():
    """Mask2Former's loss is of the order of 28 where SegFormer's is 1.6: it would never teach."""
    roles = []
    for weight in (2.0, 200.0):
        cohort, inputs = cohort_of("segformer", "mask2former")
        cohort.peers["mask2former"].criterion.weight_dict = dict.fromkeys(LOSSES, weight)
        roles.append(cohort(inputs, labels=labels_like()).teacher)
    assert roles[0].equal(roles[1])


@pytest.mark.parametrize(("granularity", "shape"), [("image", (2,)), ("class", (2, 5)), ("pixel", (2, 16, 16))])
def test_granularity_is_the_shape_of_roles(granularity, shape):
    """Roles of another shape than the scores would be broadcast into nonsense."""
    cohort, inputs = cohort_of("segformer", "upernet", task=SemanticSegmentation(granularity=granularity))
    labels = labels_like()
    labels[0, :32] = IGNORE
    output = cohort(inputs, labels=labels)
    assert output.teacher.shape == shape
    assert output.loss.isfinite()
    if granularity == "class":
        absent = [c for c in range(5) if not (labels[0] == c).any()]
        assert (output.teacher[0, absent] == NOBODY).all()


def test_transfer_at_label_size_is_finer_but_of_one_scale():
    """A sum over pixels would grow sixteenfold with the grid."""
    values = []
    for grid in ("coarsest", "label"):
        task = SemanticSegmentation(transfer_grid=grid)
        cohort, inputs = cohort_of("segformer", "mask2former", task=task, retain=False)
        values.append(cohort(inputs, labels=labels_like()).transfer.sum())
    torch.testing.assert_close(values[0], values[1], rtol=0.2, atol=0)


def test_ignored_pixels_do_not_transfer_and_unlabelled_ones_do():
    """An image that nobody labelled may be taught by the frozen mean; one labelled to be ignored may not."""
    for code, learns in ((IGNORE, False), (UNLABELLED, True)):
        cohort, inputs = cohort_of("segformer", "upernet", unlabelled_rows=True)
        output = cohort(inputs, labels=torch.full((2, SIZE, SIZE), code))
        assert output.supervised.tolist() == [0.0, 0.0]
        assert bool((output.transfer > 0).all()) == learns
        output.loss.backward()
        moved = [bool(p.grad is not None and p.grad.any()) for p in cohort.parameters() if p.requires_grad]
        assert any(moved) == learns


def test_retention_holds_a_teacher_to_its_start():
    """At the start a peer equals its start, so that nothing pulls the teacher yet."""
    cohort, inputs = cohort_of("segformer", "upernet", retain=True)
    cohort.eval()
    output = cohort(inputs, labels=labels_like())
    teachers = set(output.teacher.tolist())
    assert len(teachers) == 1
    assert output.transfer[teachers.pop()].item() == pytest.approx(0.0, abs=1e-5)


def test_images_of_several_sizes_are_scored_as_alone():
    """Padding that counts shifts scores, and with them who teaches."""
    task = SemanticSegmentation()
    model, other = tiny_segmenter("segformer"), tiny_segmenter("upernet")
    labels = labels_like()
    labels[1, 32:] = OUTSIDE
    labels[1, :, 48:] = OUTSIDE
    answers = [task.outputs(peer, batch_of("segformer"), NO_COLUMNS) for peer in (model, other)]
    together = task.evaluation_facts(answers, labels, torch.arange(2))
    one = {key: value[1:] for key, value in batch_of("segformer").items()}
    answers = [task.outputs(peer, one, NO_COLUMNS) for peer in (model, other)]
    alone = task.evaluation_facts(answers, labels[1:, :32, :48], torch.arange(1))
    for key in ("confusion", "agreeing", "any_right", "loss", "teacher", "pixels"):
        torch.testing.assert_close(together[key][1:], alone[key], msg=key)
    assert together["pixels"].tolist() == [64 * 64, 32 * 48]


def test_class_with_the_number_of_ignored_pixels_is_refused():
    """A peer of 256 classes or more would never learn its class 255, and say nothing."""
    model = tiny_segmenter("segformer")
    model.config.id2label = {index: f"class {index}" for index in range(300)}
    peers = {name: LoadedPeer(model, lambda images: None, PeerSpec(source=name)) for name in ("a", "b")}
    with pytest.raises(LabelError, match="'a': the data set's class 1 is its class 255"):
        Cohort(peers, "semantic-segmentation", label_names=["class 7", "class 255"], label_alignment="subset")


def test_loss_of_an_image_does_not_depend_on_its_batch():
    """Stretched to the largest image of the batch, labels count other pixels than they do alone."""
    task = SemanticSegmentation()
    labels = torch.randint(0, 5, (2, 90, 90), generator=torch.Generator().manual_seed(2))
    labels[1, 37:], labels[1, :, 51:] = OUTSIDE, OUTSIDE
    logits = torch.randn(2, 2, 5, 16, 16, generator=torch.Generator().manual_seed(3))
    answers = [DenseOutput({"logits": one}, "pixel", (SIZE, SIZE), None) for one in logits]
    alone = [DenseOutput({"logits": one[1:]}, "pixel", (SIZE, SIZE), None) for one in logits]
    found = task.evaluation_facts(answers, labels, torch.arange(2))["loss"][1:]
    torch.testing.assert_close(found, task.evaluation_facts(alone, labels[1:, :37, :51], torch.arange(1))["loss"])


def test_evaluation_counts_what_confusion_matrices_say():
    """A mean over batches or images is another metric than the paper's."""
    task = SemanticSegmentation()
    labels = labels_like(batch=4)
    labels[3] = UNREADABLE
    labels[2, :10] = IGNORE
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    sizes = torch.tensor([[SIZE, SIZE]] * 4)
    models = [tiny_segmenter("segformer"), tiny_segmenter("upernet")]
    results = []
    with torch.no_grad():
        for size in (1, 2, 4):
            evaluator = task.evaluator(["a", "b"], 5)
            for start in range(0, 4, size):
                part = slice(start, start + size)
                inputs = {"pixel_values": images[part], "valid_sizes": sizes[part]}
                answers = [task.outputs(model, inputs, NO_COLUMNS) for model in models]
                evaluator.add(task.evaluation_facts(answers, labels[part], torch.arange(4)[part]))
            results.append((evaluator.compute(), evaluator.by_class()))
        logits = models[0](pixel_values=images[:3]).logits
    for result, by_class in results[1:]:
        assert by_class == results[0][1]
        for name, values in result.items():
            assert values == pytest.approx(results[0][0][name], abs=1e-6)
    found = results[0][0]
    guess = F.interpolate(logits, size=(SIZE, SIZE), mode="bilinear").argmax(1)
    valid = labels[:3] != IGNORE
    assert found["cohort"]["samples"] == 3
    assert found["a"]["pACC"] == pytest.approx(float((guess == labels[:3])[valid].float().mean()), abs=1e-6)
    assert found["a"]["mIoU"] == pytest.approx(sum(results[0][1]["a"]) / 5)
    assert found["cohort"]["oracle_pACC"] >= max(found["a"]["pACC"], found["b"]["pACC"])


def test_options_of_other_tasks_are_refused():
    """A score that is silently another one makes roles that nobody asked for."""
    options = TransferOptions(role_score="margin")
    with pytest.raises(ConfigError, match="ranked by 'loss'"):
        SemanticSegmentation().check_transfer(options)
    with pytest.raises(ConfigError, match="one teacher per image"):
        SemanticSegmentation(granularity="pixel").check_transfer(TransferOptions(role_table="x"))
    with pytest.raises(PeerError, match="cannot be a peer"):
        SemanticSegmentation().check_peer("a", tiny_segmenter("detr"), None)
    with_sentences = tiny_segmenter("oneformer")
    with_sentences.config.is_training = True
    with pytest.raises(PeerError, match="asks for sentences"):
        SemanticSegmentation().check_peer("a", with_sentences, None)
    assert SemanticSegmentation(transfer_grid="label").grid == "label"


def test_peers_own_labels_are_its_own_geometry():
    """Labels that are not resized with the image teach every class at a wrong place."""
    labels = torch.tensor([[[1, 1, 2, 2], [3, 3, 4, 4]]])
    assert labels_for_peer(labels, torch.tensor([[2, 2]]), (3, 3)).tolist() == [
        [[1, 2, IGNORE], [3, 4, IGNORE], [IGNORE] * 3]
    ]


def test_a_head_with_more_classes_meets_by_name_and_keeps_its_others():
    """A head of another data set taken by position teaches sky as road; transfer that looks at its other classes
    unlearns what the data set does not even name."""
    narrow, names = tiny_segmenter("segformer"), ["tram", *reversed(CLASSES), "pole"]
    config = copy.deepcopy(narrow.config)
    config.id2label, config.label2id = dict(enumerate(names)), {name: place for place, name in enumerate(names)}
    wide = type(narrow)(config).eval()
    places = torch.tensor([names.index(name) for name in CLASSES])
    state = narrow.state_dict()
    for key in ("decode_head.classifier.weight", "decode_head.classifier.bias"):
        own = wide.state_dict()[key].clone()
        own[places] = state[key]
        state[key] = own
    wide.load_state_dict(state)
    models = {"wide": wide, "narrow": narrow, "query": tiny_segmenter("mask2former")}
    peers = {name: LoadedPeer(model, lambda images: None, PeerSpec(source=name)) for name, model in models.items()}
    with pytest.raises(LabelError, match="'tram'"):
        Cohort(peers, "semantic-segmentation", label_names=CLASSES)
    cohort = Cohort(peers, "semantic-segmentation", label_names=CLASSES, label_alignment="subset")
    cohort.set_objective(Objective(BestRule(), LiveSource(), retain=False, score="loss", labels=False, weight=1.0))
    batch = {"peer_inputs": {name: batch_of(name) for name in models}, "labels": labels_like()}
    roles = torch.full((2,), cohort.names.index("query"))
    output = cohort.eval()(**batch, roles=roles)
    torch.testing.assert_close(output.outputs["wide"].log_probs, output.outputs["narrow"].log_probs)
    assert output.transfer[0] > 0
    torch.testing.assert_close(output.transfer[0], output.transfer[1])
    output.loss.backward()
    moved = wide.decode_head.classifier.bias.grad.abs() > 0
    assert moved.nonzero().flatten().tolist() == sorted(places.tolist())
