"""The score table: what every peer says of every sample, computed once and read from disk as training needs it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from .collator import IdentifiedRows
from .errors import ConfigError, DataError
from .fingerprint import fingerprint
from .peers import check_peer_names
from .role_table import RoleTable
from .roles import MEAN, UNDECIDED, assign_roles
from .sources import Source

FORMAT = 1
MANIFEST, INDEX = "table.json", "index.parquet"
KEEP = re.compile(r"none|full|topk:[1-9]\d{0,5}")
SCORES = ("margin", "confidence", "prediction")
LOWEST = -60_000.0
"""Smallest log-probability that is kept: fp16 ends at -65504."""


class ScoreTable:
    """
    Scores, and where they were kept log-probabilities, of N peers on the rows of one split, by row number.

    Scores lie in memory (12 bytes per peer and sample); log-probabilities are memory-mapped, so that a batch reads no
    more than its own rows. On disk: `table.json` (what was scored, with fingerprints), `index.parquet` (a row per
    sample: `sample_id`, `label`, `NAME/margin`, `NAME/confidence`, `NAME/prediction`) and for every peer
    `NAME/shard-00000.safetensors` … of `shard_rows` samples each.

    Args:
        folder (`Path`): where it lies.
        manifest (`dict`): content of `table.json`.
        labels (`torch.LongTensor` of shape `[samples]`): the truth, -1 where there is none.
        columns (`dict[str, dict[str, torch.Tensor]]`): per peer `margin`, `confidence` (fp32) and `prediction` (int32,
            -1 where a peer's logits were not finite), `[samples]` each.

    Example:

    ```python
    >>> table = ScoreTable.load(folder)
    >>> table.scores("margin").shape, table.log_probs("vit", torch.tensor([4, 0])).shape
    (torch.Size([2, 1034]), torch.Size([2, 3]))
    ```
    """

    def __init__(
        self, folder: Path, manifest: Mapping[str, Any], labels: Tensor, columns: Mapping[str, Mapping[str, Tensor]]
    ):
        self.folder, self.manifest, self.labels, self.columns = folder, manifest, labels, columns
        self.names = list(columns)
        self.label_names: list[str] = list(manifest["data"]["labels"])
        self.facts: dict[str, dict[str, Any]] = {name: dict(manifest["peers"][name]) for name in self.names}
        self.folders = {name: folder / name for name in self.names}
        self._mapped: dict[tuple[str, int, str], Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}

    @classmethod
    def load(cls, folder: str | os.PathLike[str], peers: Sequence[str] | None = None) -> ScoreTable:
        """
        Read a table that `hf-mutual-kd score` finished.

        Args:
            folder (`str` or `os.PathLike`): its folder.
            peers (`list[str]`, *optional*): only these, in this order.

        Raises:
            [`~hf_mutual_kd.errors.DataError`]: it is no score table, damaged or unfinished, or lacks a peer.
        """
        place = Path(folder)
        manifest = read_manifest(place)
        if not (place / INDEX).is_file():
            raise DataError(f"the score table {place} is not finished; run the same `hf-mutual-kd score` again")
        try:
            index = pq.read_table(place / INDEX, partitioning=None)
            labels = torch.from_numpy(_filled(index, "label", -1).astype(np.int64))
            stored = [name.removesuffix("/margin") for name in index.column_names if name.endswith("/margin")]
            columns = {
                name: {kind: torch.from_numpy(_filled(index, f"{name}/{kind}")) for kind in SCORES} for name in stored
            }
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            raise DataError(f"the score table {place} is damaged: {INDEX}: {error}; score again") from error
        missing = [name for name in peers or [] if name not in columns]
        if missing:
            raise DataError(
                f"the score table {place} lacks {', '.join(missing)}; it has {', '.join(stored)}. Give a peer the "
                "name it has in the table, or score it, too"
            )
        if len(labels) != manifest["data"]["rows"] or not set(stored) <= set(manifest["peers"]):
            raise DataError(f"the score table {place} is damaged: {MANIFEST} and {INDEX} do not agree; score again")
        return cls(place, manifest, labels, {name: columns[name] for name in (peers or stored)})

    def scores(self, kind: str = "margin") -> Tensor:
        """
        How good each peer is on each sample.

        Args:
            kind (`str`, *optional*, defaults to `"margin"`): as `role_score`: `"margin"`, `"loss"` (minus the
                cross-entropy) or `"confidence"` (log-probability of the peer's own top class).

        Returns:
            `torch.Tensor` `[N, samples]`, fp32, higher is better; 0 where margin or loss have no label, `-inf` where
            a peer's logits were not finite.
        """
        if kind not in ("margin", "loss", "confidence"):
            raise ConfigError(f"kind must be one of margin, loss, confidence, got {kind!r}")
        stored = torch.stack([self.columns[name]["margin" if kind == "loss" else kind] for name in self.names])
        return -F.softplus(-stored).masked_fill(self.labels < 0, 0.0) if kind == "loss" else stored

    def predictions(self) -> Tensor:
        """The class each peer chooses, `[N, samples]`, int64; -1 where its logits were not finite."""
        return torch.stack([self.columns[name]["prediction"] for name in self.names]).long()

    def teachers(self, rule: str = "best", kind: str = "margin") -> Tensor:
        """
        Who teaches each sample by the table's scores.

        Args:
            rule (`str`, *optional*, defaults to `"best"`): `"best"`, samples without a label have the mean, as none
                is known to be best there (`kind="confidence"` needs no label); or `"mean"` everywhere.
            kind (`str`, *optional*, defaults to `"margin"`): as for [`scores`].

        Returns:
            `torch.LongTensor` `[samples]`: index in `names`, [`~roles.NOBODY`] at a tie, or [`~roles.MEAN`].
        """
        if rule not in ("best", "mean"):
            raise ConfigError(f"a score table teaches by teacher_rule 'best' or 'mean', got {rule!r}")
        if rule == "mean":
            return torch.full_like(self.labels, MEAN)
        scored = torch.ones_like(self.labels, dtype=torch.bool) if kind == "confidence" else self.labels >= 0
        return torch.where(scored, assign_roles(self.scores(kind)), MEAN)

    def roles(self, rule: str = "best", kind: str = "margin") -> RoleTable:
        """[`teachers`] as the role table that a collator tags samples with; what nobody could decide is left out."""
        teacher = self.teachers(rule, kind)
        if rule == "best":
            teacher = teacher.masked_fill(teacher == MEAN, UNDECIDED)
        roles = RoleTable(self.names)
        roles.record(torch.arange(len(self)), teacher, self.labels)
        return roles

    def log_probs(self, peer: str, sample_ids: Tensor) -> Tensor:
        """
        What a peer believes, as kept: rounded to fp16, then normalised again.

        Of a table that keeps the K most probable classes, the mass of all others is exact and spread evenly over
        them.

        Args:
            peer (`str`): its name.
            sample_ids (`torch.LongTensor` of shape `[B]`): row numbers.

        Returns:
            `torch.Tensor` `[B, C]`, fp32, on the CPU; NaN where the peer's logits were not finite.

        Raises:
            [`~hf_mutual_kd.errors.DataError`]: the table kept none, or has no such sample.
        """
        if self.manifest["keep"] == "none":
            raise DataError(
                f"the score table {self.folder} holds scores only; score again with --keep full (or --keep topk:K)"
            )
        ids = sample_ids.cpu()
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(self):
            raise DataError(f"the score table {self.folder} has samples 0 to {len(self) - 1}, not {ids.tolist()[:8]}")
        if self.manifest["keep"] == "full":
            return self._rows(peer, "log_probs", ids).float().log_softmax(1)
        top, tail = self._rows(peer, "log_probs", ids).float(), self._rows(peer, "tail", ids).float()
        classes = self._rows(peer, "classes", ids).long()
        others = len(self.label_names) - classes.shape[1]
        spread = (tail - math.log(others)).unsqueeze(1).repeat(1, len(self.label_names))
        return spread.scatter(1, classes, top).log_softmax(1)

    def only(self, peers: Sequence[str]) -> ScoreTable:
        """This table with some of its peers, in the order given."""
        return ScoreTable(self.folder, self.manifest, self.labels, {name: self.columns[name] for name in peers})

    def take_over(self, newer: ScoreTable) -> ScoreTable:
        """This table with the peers of a `newer` one of the same data in their place."""
        joined = ScoreTable(self.folder, self.manifest, self.labels, {**self.columns, **newer.columns})
        joined.folders |= self.folders | newer.folders
        joined.facts |= newer.facts
        return joined

    def check(self, data: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]]) -> None:
        """
        Refuse a table of other rows, labels, weights or processors.

        Args:
            data (`dict`): [`describe_rows`] of the rows at hand.
            peers (`dict[str, dict]`): `weights` and `processor` of the peers at hand, which the table has to have.

        Raises:
            [`~hf_mutual_kd.errors.DataError`]: names everything that differs.
        """
        check_fit(self.folder, self.manifest["data"], self.facts, data, peers)

    def _rows(self, peer: str, what: str, ids: Tensor) -> Tensor:
        """Rows of one tensor of a peer's shards, `[B, ...]`."""
        size = self.manifest["shard_rows"]
        shards, places = ids // size, ids % size
        found = None
        for shard in shards.unique().tolist():
            here = shards == shard
            rows = self._shard(peer, shard, what)[places[here]]
            if found is None:
                found = rows.new_empty((len(ids), *rows.shape[1:]))
            found[here] = rows
        return self._shard(peer, 0, what)[:0] if found is None else found

    def _shard(self, peer: str, shard: int, what: str) -> Tensor:
        key = (peer, shard, what)
        if key not in self._mapped:
            path = shard_path(self.folders[peer], shard)
            try:
                with safe_open(path, "pt") as file:
                    self._mapped[key] = file.get_tensor(what)
            except (OSError, SafetensorError) as error:
                raise DataError(f"the score table {self.folder} is damaged: {path.name} of {peer}: {error}") from error
        return self._mapped[key]


def shard_path(folder: Path, shard: int) -> Path:
    """`shard-00003.safetensors` of a peer's folder."""
    return folder / f"shard-{shard:05d}.safetensors"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Content of `table.json`.

    Raises:
        [`~hf_mutual_kd.errors.DataError`]: there is none, or it is not one of ours.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        usable = manifest["format"] == FORMAT and {"labels", "rows", "fingerprint"} <= set(manifest["data"])
        usable = usable and manifest["shard_rows"] > 0 and KEEP.fullmatch(manifest["keep"])
        check_peer_names(manifest["peers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is no score table; make one with `hf-mutual-kd score --out {folder}`") from error
    if not usable:
        raise DataError(f"the score table {folder} was written by another version; score again into another folder")
    return manifest


def describe_rows(rows: Any, label_names: Sequence[str]) -> dict[str, Any]:
    """What a table says of the rows it belongs to: their number, label names and fingerprint.

    Raises:
        [`~hf_mutual_kd.errors.DataError`]: the rows are streamed, or no `datasets.Dataset`.
    """
    plain = rows.rows if isinstance(rows, IdentifiedRows) else rows
    if not isinstance(plain, Dataset):
        raise DataError(
            f"a score table needs rows that can be counted (a datasets.Dataset), got {type(plain).__name__}; "
            "leave out --streaming"
        )
    names = list(label_names)
    digest, covers = fingerprint({"rows": plain}, Source({}, ""), names)
    return {"rows": len(plain), "labels": names, "fingerprint": digest, "fingerprint_of": covers}


def check_fit(
    folder: Path,
    stored_data: Mapping[str, Any],
    stored_peers: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Any],
    peers: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise [`~hf_mutual_kd.errors.DataError`] where a table is not of this data and these peers; names each cause."""
    problems = []
    if stored_data["labels"] != data["labels"]:
        problems.append(f"the labels ({_first_difference(stored_data['labels'], data['labels'])})")
    if stored_data["rows"] != data["rows"]:
        problems.append(f"the number of rows ({stored_data['rows']} in the table, {data['rows']} here)")
    elif stored_data["labels"] == data["labels"] and stored_data["fingerprint"] != data["fingerprint"]:
        problems.append("the images or labels of the rows (the fingerprint of the data set)")
    for name, facts in peers.items():
        stored = stored_peers.get(name)
        if stored is None:
            problems.append(f"peer {name!r}, which the table lacks (it has {', '.join(stored_peers)})")
            continue
        problems += [f"the {key} of peer {name!r}" for key in ("weights", "processor") if stored[key] != facts[key]]
    if problems:
        raise DataError(
            f"the score table {folder} does not fit: what differs is {'; '.join(problems)}. Score again into another "
            "folder, or give the split, the peers and the processors that it was made from"
        )


def _first_difference(stored: Sequence[str], here: Sequence[str]) -> str:
    for place, (left, right) in enumerate(zip(stored, here, strict=False)):
        if left != right:
            return f"at {place} {left!r} in the table, {right!r} here"
    return f"{len(stored)} in the table, {len(here)} here"


def _filled(table: pa.Table, name: str, null: int | None = None) -> np.ndarray:
    column = table.column(name)
    return (column.fill_null(null) if null is not None else column).to_numpy().copy()
