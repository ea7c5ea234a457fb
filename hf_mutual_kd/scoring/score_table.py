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

from ..data.collator import IdentifiedRows, identified
from ..data.fingerprint import fingerprint
from ..data.role_table import RoleTable
from ..data.sources import Source
from ..distillation.eight_bits import unpack
from ..distillation.roles import MEAN, UNDECIDED, assign_roles
from ..errors import ConfigError, DataError
from ..peers.spec import check_peer_names

FORMAT = 1
MANIFEST, INDEX = "table.json", "index.parquet"
KEEP = re.compile(r"none|full|8bit|topk:[1-9]\d{0,5}")
SCORES = ("margin", "confidence", "prediction")
MAP_SCORES = ("score",)
"""In their place for tasks with maps: minus the task's loss by the truth."""
LOWEST = -60_000.0
"""Smallest log-probability that is kept: fp16 ends at -65504."""


class ScoreTable:
    """
    Scores, and where they were kept log-probabilities, of N peers on the rows of one split, by sample id.

    Scores lie in memory (at most 12 bytes per peer and sample); log-probabilities are memory-mapped, so that a batch
    reads no more than its own rows. On disk: `table.json` (what was scored, with fingerprints), `index.parquet` (a row
    per sample: `sample_id`, `label`, and `NAME/margin`, `NAME/confidence`, `NAME/prediction`, or of tasks with maps
    `NAME/score`) and for every peer `NAME/shard-00000.safetensors` … of `shard_rows` samples each.

    Args:
        folder (`Path`): where it lies.
        manifest (`dict`): content of `table.json`.
        sample_ids (`torch.LongTensor` of shape `[samples]`): ascending; row numbers, or the numbers of clips.
        labels (`torch.LongTensor` of shape `[samples]`): the truth, -1 where there is none that could rank the peers;
            0 for a map.
        columns (`dict[str, dict[str, torch.Tensor]]`): `[samples]` each: per peer `margin`, `confidence` (fp32) and
            `prediction` (int32, -1 where a peer's logits were not finite), or for maps `score` (fp32, NaN where there
            is no truth).

    Example:

    ```python
    >>> table = ScoreTable.load(folder)
    >>> table.scores("margin").shape, table.log_probs("vit", torch.tensor([4, 0])).shape
    (torch.Size([2, 1034]), torch.Size([2, 3]))
    ```
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        sample_ids: Tensor,
        labels: Tensor,
        columns: Mapping[str, Mapping[str, Tensor]],
    ):
        self.folder, self.manifest, self.sample_ids = folder, manifest, sample_ids
        self.labels, self.columns = labels, columns
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
            [`DataError`]: it is no score table, damaged or unfinished, or lacks a peer.
        """
        place = Path(folder)
        manifest = read_manifest(place)
        if not (place / INDEX).is_file():
            raise DataError(f"the score table {place} is not finished; run the same `hf-mutual-kd score` again")
        try:
            index = pq.read_table(place / INDEX, partitioning=None)
            sample_ids = torch.from_numpy(_filled(index, "sample_id"))
            labels = torch.from_numpy(_filled(index, "label", -1).astype(np.int64))
            kinds = SCORES if any(name.endswith("/margin") for name in index.column_names) else MAP_SCORES
            ending = f"/{kinds[0]}"
            stored = [name.removesuffix(ending) for name in index.column_names if name.endswith(ending)]
            columns = {
                name: {kind: torch.from_numpy(_filled(index, f"{name}/{kind}")) for kind in kinds} for name in stored
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
        return cls(place, manifest, sample_ids, labels, {name: columns[name] for name in (peers or stored)})

    @property
    def is_of_maps(self) -> bool:
        """Whether every peer has one `score` for a whole map, and no class that it chose."""
        return all(set(kinds) == set(MAP_SCORES) for kinds in self.columns.values())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what a peer says of one sample, as training wants it: `[C]`, or of maps `[C, h, w]` or `[h, w]`."""
        return tuple(self.manifest.get("shape") or [len(self.label_names)])

    def places(self, sample_ids: Tensor) -> Tensor:
        """
        Where samples stand in the table, `[B]` to `[B]`, on the CPU.

        Raises:
            [`DataError`]: it has no such sample.
        """
        ids = sample_ids.cpu()
        places = torch.searchsorted(self.sample_ids, ids).clamp_max(len(self) - 1)
        missing = self.sample_ids[places] != ids
        if bool(missing.any()):
            raise DataError(
                f"the score table {self.folder} has samples {int(self.sample_ids[0])} to {int(self.sample_ids[-1])} "
                f"and lacks {int(missing.sum())} of {len(ids)} that are asked for, the first is {int(ids[missing][0])}"
            )
        return places

    def scores(self, kind: str | None = None) -> Tensor:
        """
        How good each peer is on each sample.

        Args:
            kind (`str`, *optional*): as `role_score`: `"margin"`, `"loss"` (minus the cross-entropy) or `"confidence"`
                (log-probability of the peer's own top class); of maps only `"loss"`, minus the task's loss. The margin
                when unset, of maps the loss.

        Returns:
            `torch.Tensor` `[N, samples]`, fp32, higher is better; `-inf` where a peer's logits were not finite. Where
            there is no label margin and loss are 0, and those of a map NaN.
        """
        if self.is_of_maps:
            if kind not in (None, "loss"):
                raise ConfigError(f"a score table of maps ranks by 'loss', got {kind!r}")
            return torch.stack([self.columns[name]["score"] for name in self.names])
        kind = kind or "margin"
        if kind not in ("margin", "loss", "confidence"):
            raise ConfigError(f"kind must be one of margin, loss, confidence, got {kind!r}")
        stored = torch.stack([self.columns[name]["margin" if kind == "loss" else kind] for name in self.names])
        return -F.softplus(-stored).masked_fill(self.labels < 0, 0.0) if kind == "loss" else stored

    def predictions(self) -> Tensor:
        """The class each peer chooses, `[N, samples]`, int64; -1 where its logits were not finite. Not of maps."""
        return torch.stack([self.columns[name]["prediction"] for name in self.names]).long()

    def teachers(self, rule: str = "best", kind: str | None = None) -> Tensor:
        """
        Who teaches each sample by the table's scores.

        Args:
            rule (`str`, *optional*, defaults to `"best"`): `"best"`, samples without a label have the mean, as none
                is known to be best there (`kind="confidence"` needs no label); or `"mean"` everywhere.
            kind (`str`, *optional*): as for [`scores`].

        Returns:
            `torch.LongTensor` `[samples]`: index in `names`, [`~roles.NOBODY`] at a tie, or [`~roles.MEAN`].
        """
        if rule not in ("best", "mean"):
            raise ConfigError(f"a score table teaches by teacher_rule 'best' or 'mean', got {rule!r}")
        if rule == "mean":
            return torch.full_like(self.labels, MEAN)
        scored = torch.ones_like(self.labels, dtype=torch.bool) if kind == "confidence" else self.labels >= 0
        return torch.where(scored, assign_roles(self.scores(kind)), MEAN)

    def roles(self, rule: str = "best", kind: str | None = None) -> RoleTable:
        """[`teachers`] as the role table that a collator tags samples with; what nobody could decide is left out."""
        teacher = self.teachers(rule, kind)
        if rule == "best":
            teacher = teacher.masked_fill(teacher == MEAN, UNDECIDED)
        roles = RoleTable(self.names)
        roles.record(self.sample_ids, teacher, labels=None if self.is_of_maps else self.labels)
        return roles

    def log_probs(self, peer: str, sample_ids: Tensor) -> Tensor:
        """
        What a peer believes, as kept: rounded to fp16 or to 8 bits, then normalised again.

        Of a table that keeps the K most probable classes, the mass of all others is exact and spread evenly over
        them.

        Args:
            peer (`str`): its name.
            sample_ids (`torch.LongTensor` of shape `[B]`): of the table's.

        Returns:
            `torch.Tensor` `[B, C, ...]`, fp32, on the CPU; NaN where the peer's logits were not finite. Of maps
            `[B, C, h, w]`, or where a map is one distribution over its cells `[B, h * w]`.

        Raises:
            [`DataError`]: the table kept none, or has no such sample.
        """
        if self.manifest["keep"] == "none":
            raise DataError(
                f"the score table {self.folder} holds scores only; score again with --keep 8bit (or full, or topk:K)"
            )
        places = self.places(sample_ids)
        if self.manifest["keep"] == "8bit":
            return unpack(self._rows(peer, "codes", places)).log_softmax(1)
        if self.manifest["keep"] == "full":
            return self._rows(peer, "log_probs", places).float().log_softmax(1)
        top, tail = self._rows(peer, "log_probs", places).float(), self._rows(peer, "tail", places).float()
        chosen = self._rows(peer, "classes", places).long()
        classes = math.prod(self.shape) // math.prod(tail.shape[1:])
        spread = (tail - math.log(classes - chosen.shape[1])).unsqueeze(1).repeat_interleave(classes, dim=1)
        return spread.scatter(1, chosen, top).log_softmax(1)

    def only(self, peers: Sequence[str]) -> ScoreTable:
        """This table with some of its peers, in the order given."""
        chosen = {name: self.columns[name] for name in peers}
        return ScoreTable(self.folder, self.manifest, self.sample_ids, self.labels, chosen)

    def take_over(self, newer: ScoreTable) -> ScoreTable:
        """This table with the peers of a `newer` one of the same data in their place."""
        columns = {**self.columns, **newer.columns}
        joined = ScoreTable(self.folder, self.manifest, self.sample_ids, self.labels, columns)
        joined.folders |= self.folders | newer.folders
        joined.facts |= newer.facts
        return joined

    def check(self, data: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]]) -> None:
        """
        Refuse a table of other rows, labels, weights or processors.

        Args:
            data (`dict`): [`row_facts_of`] of the rows at hand.
            peers (`dict[str, dict]`): `weights` and `processor` of the peers at hand, which the table has to have.

        Raises:
            [`DataError`]: names everything that differs.
        """
        check_fit(self.folder, self.manifest["data"], self.facts, data, peers)

    def _rows(self, peer: str, what: str, places: Tensor) -> Tensor:
        """Rows of one tensor of a peer's shards, `[B, ...]`."""
        size = self.manifest["shard_rows"]
        shards, within = places // size, places % size
        found = None
        for shard in shards.unique().tolist():
            here = shards == shard
            rows = self._shard(peer, shard, what)[within[here]]
            if found is None:
                found = rows.new_empty((len(places), *rows.shape[1:]))
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
        [`DataError`]: there is none, or it is not one of ours.
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


def row_facts_of(rows: Any, label_names: Sequence[str]) -> dict[str, Any]:
    """What a table says of the rows it belongs to: their number, label names and fingerprint.

    Of clips whose target frames every epoch draws, there is no number of rows.

    Raises:
        [`DataError`]: the rows are streamed, or no `datasets.Dataset`.
    """
    plain = plain_rows(rows)
    if hasattr(plain, "describe"):
        return {"labels": list(label_names)} | plain.describe()
    if not isinstance(plain, Dataset):
        raise DataError(
            f"a score table needs rows that can be counted (a datasets.Dataset), got {type(plain).__name__}; "
            "leave out --streaming"
        )
    names = list(label_names)
    digest, covers = fingerprint({"rows": plain}, Source({}, ""), names)
    return {"rows": len(plain), "labels": names, "fingerprint": digest, "fingerprint_of": covers}


def plain_rows(rows: Any) -> Any:
    """Rows without the numbers that a trainer gives them."""
    return rows.rows if isinstance(rows, IdentifiedRows) else rows


def counted(rows: Any) -> IdentifiedRows:
    """Rows with their sample ids.

    Raises:
        [`DataError`]: the rows are streamed.
    """
    known = identified(rows)
    if not isinstance(known, IdentifiedRows):
        raise DataError("a score table needs rows that can be counted; leave out --streaming")
    return known


def check_fit(
    folder: Path,
    stored_data: Mapping[str, Any],
    stored_peers: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Any],
    peers: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise [`DataError`] where a table is not of this data and these peers; names each cause."""
    problems = []
    if stored_data["labels"] != data["labels"]:
        problems.append(f"the labels ({_first_difference(stored_data['labels'], data['labels'])})")
    if stored_data["rows"] != data.get("rows", stored_data["rows"]):
        problems.append(f"the number of rows ({stored_data['rows']} in the table, {data['rows']} here)")
    elif stored_data["labels"] == data["labels"] and stored_data["fingerprint"] != data["fingerprint"]:
        problems.append("the images or labels of the rows (the fingerprint of the data set)")
    elif stored_data.get("frames") != data.get("frames", stored_data.get("frames")):
        problems.append("which frames of the videos were chosen")
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
