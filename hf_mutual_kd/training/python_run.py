"""What a run made in Python says of itself: peers, data, options and machine, as one made by a recipe does."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from datasets import Dataset

from ..config.training_config import MutualKDConfig
from ..data.fingerprint import fingerprint, labels_of
from ..data.mask_columns import has_mask_column
from ..data.sources import Source
from ..distillation.objective import Objective
from ..peers.cohort import Cohort
from ..peers.cohort_record import cohort_facts, versions
from ..reports.run_facts import base_facts, hardware_facts, hyperparameter_facts, objective_facts
from ..reports.text import portable

HUB_FILE = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)@([0-9a-f]{40})/")


def run_record(cohort: Cohort, args: MutualKDConfig, objective: Objective, rows: dict[str, Any]) -> dict[str, Any]:
    """
    All that is known of a run before it trains, ready for JSON.

    Args:
        cohort ([`Cohort`]): the peers.
        args ([`MutualKDConfig`]): what the user set; what equals the default is recorded as a default.
        objective ([`Objective`]): what they are trained for.
        rows (`dict[str, Any]`): the data sets by their roles, `train` and `validation`; what is no
            `datasets.Dataset` is left out.
    """
    record = cohort_facts(cohort)
    for name, spec in cohort.specs.items():
        record["peers"][name]["base"] = base_facts(spec.source, spec.revision)
    record["objective"] = objective_facts(objective)
    own = cohort.task.options
    record["hyperparameters"] = portable(
        hyperparameter_facts([item.name for item in (*fields(args), *fields(own))], args, own=own)
    )
    record["hardware"] = hardware_facts(args.world_size)
    record["versions"] = versions()
    record["seeds"] = [args.seed]
    tables = {role: part for role, part in rows.items() if isinstance(part, Dataset)}
    return record | ({"dataset": dataset_facts(tables, cohort.label_names)} if tables else {})


def dataset_facts(tables: dict[str, Dataset], label_names: list[str]) -> dict[str, Any]:
    """What is known of data sets by their roles; the name and commit of one of the Hub, where it came from there."""
    first = next(iter(tables.values()))
    files = " ".join(map(str, getattr(first.info, "download_checksums", None) or ()))
    hub = HUB_FILE.search(files)
    digest, covers = fingerprint(tables, Source({}, ""), label_names)
    facts: dict[str, Any] = {
        "config": first.info.config_name if hub else None,
        "revision": hub.group(2) if hub else None,
        "splits": {role: str(rows.split or role) for role, rows in tables.items()},
        "rows": {role: len(rows) for role, rows in tables.items()},
        "labelled": {role: int((labels_of(rows) >= 0).sum()) for role, rows in tables.items()},
        "fingerprint": digest,
        "fingerprint_of": covers,
    }
    if any(has_mask_column(rows) for rows in tables.values()):
        del facts["labelled"]
    return facts | ({"name": hub.group(1)} if hub else {})
