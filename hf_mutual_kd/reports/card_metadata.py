"""The YAML at the top of a card, by the rules of the Hub, and the licences that it carries on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .adapter_folder import base_on_hub, read_adapter
from .reader_folder import PIPELINE_TAG, reads_of
from .run_record import HUB, RunRecord, hub_id
from .text import last_part, one_line

TAGS = ("mutual-knowledge-transfer", "knowledge-distillation", "hf_mutual_kd")
LEFT_TAGS = ("generated_from_trainer", "autotrain_compatible", "endpoints_compatible", "safetensors", "model-index")

# https://huggingface.co/docs/hub/repositories-licenses
_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other
"""
LICENSES = frozenset(_LICENSES.split())
NON_COMMERCIAL = re.compile(
    r"(?:^|[-_ ])nc(?:[-_ ]|$)|non-?commercial|research-only"
    r"|^(?:h-research|intel-research|apple-amlr|deepfloyd-if-license)$",
    re.IGNORECASE,
)
"""Licences, by their Hub id or name, under which commercial use is not allowed."""


def metadata(run: RunRecord, name: str) -> dict[str, Any]:
    """The card's YAML, by the Hub's rules; what is not known is absent."""
    peer, facts = run.peers[name], run.dataset
    base_facts = peer.get("base") or {}
    adapter = read_adapter(run.folder / name)
    found = base_on_hub(adapter) if adapter else (peer.get("source"), peer.get("revision"))
    base = hub_id(*found) if found else None
    dataset = hub_id(facts.get("name"), facts.get("revision"))
    carried = [tag for tag in base_facts.get("tags", []) if ":" not in tag and tag not in LEFT_TAGS]
    library = "timm" if run.is_timm(name) else "transformers"
    is_transformers = (run.folder / name / "config.json").is_file()
    card = ModelCardData(
        language=base_facts.get("language"),
        library_name="peft" if adapter else (library if is_transformers else None),
        pipeline_tag=PIPELINE_TAG if reads_of(run.folder / name) else run.words.pipeline_tag,
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        datasets=[dataset] if dataset else None,
        tags=[*(TAGS[-1:] if run.is_control else TAGS), *run.words.tags, *carried],
        metrics=[kind for kind, _ in run.words.hub_metrics.values()],
        model_name=name,
        eval_results=eval_results(run, name, dataset),
        **license_metadata(base_facts, base, peer.get("revision")),
    )
    if co2 := run.fact("co2_kg"):
        card["co2_eq_emissions"] = {
            "emissions": round(1000 * co2, 3),
            "source": "codecarbon",
            "training_type": "fine-tuning",
        }
    return _one_line_each({key: value for key, value in card.to_dict().items() if key != "model_name"})


def _one_line_each(value: Any) -> Any:
    """Metadata whose texts are visible and on one line each."""
    if isinstance(value, dict):
        return {key: _one_line_each(item) for key, item in value.items()}
    if isinstance(value, list):
        return [item for item in map(_one_line_each, value) if item != ""]
    return one_line(value, 200) if isinstance(value, str) else value


def license_metadata(base_facts: Mapping[str, Any], base: str | None, revision: str | None) -> dict[str, Any]:
    """The licence of the start as the Hub takes it: one of its ids, or `other` with a name and a link."""
    license = base_facts.get("license")
    listed = license if isinstance(license, list) else [license] if license else []
    if not listed:
        return {}
    if all(item in LICENSES - {"other"} for item in listed):
        return {"license": license}
    found = {"license": "other", "license_name": base_facts.get("license_name") or ", ".join(listed)}
    address = str(base_facts.get("license_link") or "")
    if address.startswith("https://"):
        found["license_link"] = address
    elif base and re.fullmatch(r"[\w.-]+", address):
        found["license_link"] = f"{HUB}/{base}/blob/{revision}/{address}"
    return found


def eval_results(run: RunRecord, name: str, dataset: str | None) -> list[EvalResult] | None:
    """What these weights reached on the test split, as a share of 1, for `model-index`."""
    facts = run.dataset
    reached = {
        metric: value
        for metric in run.words.hub_metrics
        if (value := run.selected_metrics(name).get(metric)) is not None and math.isfinite(value)
    }
    if not reached or not facts.get("name"):
        return None
    shown = dataset or one_line(last_part(str(facts["name"])), 120)
    place: dict[str, Any] = {
        "task_type": run.words.pipeline_tag or str(run.record["task"]),
        "task_name": run.words.title.capitalize(),
        "dataset_type": shown,
        "dataset_name": shown,
        "dataset_config": one_line(facts["config"]) if facts.get("config") else None,
        "dataset_split": one_line((facts.get("splits") or {}).get("test", "test")),
        "dataset_revision": facts["revision"] if dataset else None,
    }
    return [
        EvalResult(metric_type=kind, metric_name=shown_name, metric_value=round(reached[metric], 4), **place)
        for metric, (kind, shown_name) in run.words.hub_metrics.items()
        if metric in reached
    ]


def license_of(peer: Mapping[str, Any]) -> str | None:
    """What the card of a peer's start says: the licence, or the name of one that is not on the Hub's list."""
    base = peer.get("base") or {}
    license = base.get("license")
    license = ", ".join(license) if isinstance(license, list) else license
    return base.get("license_name") or license if license == "other" else license


def non_commercial(run: RunRecord, name: str) -> list[tuple[str, str]]:
    """Of this peer's start and of all that taught it: those whose licence forbids commercial use."""
    counts = run.teachers
    together = counts.get("<mean>") or counts.get("<all>")
    taught = {other for other in run.peers if counts.get(other) or together}
    licenses = {other: license_of(run.peers[other]) for other in run.peers if other == name or other in taught}
    return [(other, license) for other, license in licenses.items() if license and NON_COMMERCIAL.search(license)]
