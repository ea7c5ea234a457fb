"""The tiny image classifiers of `conftest.py` as folders and cohorts, and images with one or several labels."""

from functools import partial

import torch
from conftest import LABELS, MAKERS, make_rows, tiny_processor
from data_sets import save_drawn
from datasets import ClassLabel, Dataset, List

from hf_mutual_kd import Cohort, LoadedPeer, PeerSpec


def tiny_image_peer(kind: str, names=LABELS):
    """A classifier of these classes, and its processor."""
    torch.manual_seed(len(kind))
    model = MAKERS[kind]()
    if list(names) != LABELS:
        config = model.config
        config.id2label, config.label2id = dict(enumerate(names)), {name: at for at, name in enumerate(names)}
        model = type(model)(config)
    return model, tiny_processor()


def save_image_peers(folder, kinds=("vit", "cnx"), names=LABELS) -> dict[str, str]:
    """Folders of them, by their kinds."""
    for kind in kinds:
        for part in tiny_image_peer(kind, names):
            part.save_pretrained(folder / kind)
    return {kind: str(folder / kind) for kind in kinds}


def image_rows(count: int, seed: int = 0, one_in: int = 1, several: bool = False) -> Dataset:
    """One in so many rows has its label, `several` in a list."""
    rows = make_rows(count, seed)
    said = [label if place % one_in == 0 else -1 for place, label in enumerate(rows["label"])]
    kind = ClassLabel(names=LABELS)
    if several:
        said, kind = [[label] if label >= 0 else None for label in said], List(kind)
    return rows.remove_columns("label").add_column("label", said, feature=kind)


save_image_rows = partial(save_drawn, image_rows)


def image_cohort(kinds=("vit", "cnx"), task="image-classification") -> Cohort:
    """A cohort of modules."""
    peers = {kind: LoadedPeer(*tiny_image_peer(kind), PeerSpec(kind)) for kind in kinds}
    return Cohort(peers, task, label_names=LABELS)
