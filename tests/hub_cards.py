"""The Hub's check of the YAML metadata at the top of a README (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

try:
    import yaml
except ImportError as missing:
    raise SystemExit("The loopback Hub reads card metadata with PyYAML: pip install pyyaml") from missing

FRONT_MATTER = re.compile(r"^\s*---[\r\n]+([\S\s]*?)[\r\n]+---(?:\r\n|\n|$)")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z]{2,8})*|code|multilingual")

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

# https://huggingface.co/docs/hub/models-tasks
_PIPELINE_TAGS = """
text-classification token-classification table-question-answering question-answering zero-shot-classification
translation summarization feature-extraction text-generation fill-mask sentence-similarity text-to-speech
text-to-audio automatic-speech-recognition audio-to-audio audio-classification audio-text-to-text
voice-activity-detection depth-estimation image-classification object-detection image-segmentation text-to-image
image-to-text image-to-image image-to-video unconditional-image-generation video-classification video-to-video
reinforcement-learning robotics tabular-classification tabular-regression tabular-to-text table-to-text
multiple-choice text-ranking text-retrieval time-series-forecasting text-to-video image-text-to-text
image-text-to-image image-text-to-video visual-question-answering document-question-answering
zero-shot-image-classification graph-ml mask-generation zero-shot-object-detection text-to-3d image-to-3d
image-feature-extraction video-text-to-text keypoint-detection visual-document-retrieval any-to-any other
"""

LICENSES, PIPELINE_TAGS = _LICENSES.split(), _PIPELINE_TAGS.split()
RELATIONS = ("adapter", "merge", "quantized", "finetune")
SPACE_SDKS = ("gradio", "docker", "static", "streamlit")
SPACE_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a repeated key is an error, as in the Hub's parser; PyYAML keeps the last one silently."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = [key for index, key in enumerate(keys) if key in keys[:index]]
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"duplicated mapping key: {repeated[0]}")
        return super().construct_mapping(node, deep)


def front_matter(text: str) -> dict | None:
    """The metadata of a README, `None` where there is none or where it cannot be read."""
    match = FRONT_MATTER.search(text)
    try:
        data = yaml.load(match[1], Loader=_StrictLoader) if match else None
    except yaml.YAMLError:
        return None
    return data if isinstance(data, dict) else None


def card_tags(card: dict, config: dict, paths: Iterable[str]) -> list[str]:
    """The tags by which the Hub finds a repository.

    Example:
        >>> card_tags({"tags": ["demo"], "license": "mit", "base_model": "google/vit"}, {"model_type": "vit"}, [])
        ['vit', 'demo', 'base_model:google/vit', 'license:mit']
    """
    tags = [config["model_type"]] if "model_type" in config else []
    tags += ["safetensors"] if any(path.endswith(".safetensors") for path in paths) else []
    tags += [str(card[key]) for key in ("library_name", "pipeline_tag") if card.get(key)]
    tags += [str(tag) for key in ("language", "tags") for tag in _listed(card.get(key))]
    tags += [f"dataset:{dataset}" for dataset in _listed(card.get("datasets"))]
    for base in _listed(card.get("base_model")):
        tags.append(f"base_model:{base}")
        tags += [f"base_model:{card['base_model_relation']}:{base}"] if card.get("base_model_relation") else []
    tags += [f"license:{license}" for license in _listed(card.get("license"))]
    return list(dict.fromkeys(tags))


def check_card(text: str, kind: str = "model") -> tuple[list[str], list[str]]:
    """Check a README as `POST /api/validate-yaml` does.

    Args:
        text (`str`): the whole README.
        kind (`str`, *optional*, defaults to `"model"`): "model", "dataset" or "space".

    Returns:
        `tuple[list[str], list[str]]`: errors, for which the Hub refuses the file, and warnings.

    Example:
        >>> check_card("---\\nlicense: free\\nbase_model: ./runs/vit\\n---\\n")[0][1]
        '"base_model" with value "./runs/vit" is not valid. Use a model id from https://hf.co/models.'
    """
    match = FRONT_MATTER.search(text)
    if match is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.load(match[1], Loader=_StrictLoader)
    except yaml.YAMLError as error:
        return [f"Invalid YAML in README.md: {' '.join(str(error).split())}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    check = _Check()
    if check.of_type(data, dict, "value"):
        _check_common(check, data)
        {"model": _check_model, "dataset": _check_dataset, "space": _check_space}[kind](check, data)
    return check.errors, check.warnings


def _listed(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


class _Check:
    """Collects messages in the Hub's words: the place in quotes, then the rule."""

    NAMES = {dict: "of type object", list: "an array", str: "a string"}

    def __init__(self):
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def of_type(self, value, expected, place) -> bool:
        right = isinstance(value, expected)
        if not right:
            self.errors.append(f'"{place}" must be {self.NAMES[expected]}')
        return right

    def one_of(self, value, choices, place) -> None:
        if value not in choices:
            self.errors.append(f'"{place}" must be one of [{", ".join(choices)}]')

    def text(self, data, key, place="", required=False) -> None:
        value, place = data.get(key), f"{place}{key}"
        if key not in data:
            self.errors += [f'"{place}" is required'] if required else []
        elif self.of_type(value, str, place) and not value:
            self.errors.append(f'"{place}" is not allowed to be empty')

    def texts(self, data, key, single=True) -> list[tuple[str, str]]:
        """The strings under `key` with their places; one string may stand for a list of one if `single`."""
        value = data.get(key)
        if key not in data or single and isinstance(value, str):
            return [(value, key)] if key in data else []
        if not self.of_type(value, list, key):
            return []
        return [(text, f"{key}[{i}]") for i, text in enumerate(value) if self.of_type(text, str, f"{key}[{i}]")]

    def objects(self, data, key, place="") -> list[tuple[dict, str]]:
        """The mappings in the list under `key` with their places."""
        value, place = data.get(key), f"{place}{key}"
        if not self.of_type(value, list, place):
            return []
        return [(item, f"{place}[{i}]") for i, item in enumerate(value) if self.of_type(item, dict, f"{place}[{i}]")]

    def repo_ids(self, data, key, rule, messages) -> None:
        for value, place in self.texts(data, key):
            if not REPO_ID.fullmatch(value):
                messages.append(f'"{place}" with value "{value}" {rule}')


def _check_common(check: _Check, data: dict) -> None:
    for value, place in check.texts(data, "license"):
        check.one_of(value, LICENSES, place)
    for value, place in check.texts(data, "language"):
        if not LANGUAGE.fullmatch(value):
            check.errors.append(f'"{place}" must only contain lowercase characters or be an ISO 639 code')
    check.texts(data, "tags", single=False)
    for key in ("license_name", "license_link", "thumbnail"):
        check.text(data, key)


def _check_model(check: _Check, data: dict) -> None:
    check.text(data, "library_name")
    check.texts(data, "metrics")
    for key, choices in (("pipeline_tag", PIPELINE_TAGS), ("base_model_relation", RELATIONS)):
        if key in data:
            check.one_of(data[key], choices, key)
    check.repo_ids(data, "base_model", "is not valid. Use a model id from https://hf.co/models.", check.errors)
    rule = "is not valid. If possible, use a dataset id from https://hf.co/datasets."
    check.repo_ids(data, "datasets", rule, check.warnings)
    emissions = data.get("co2_eq_emissions", 0)
    emissions = emissions.get("emissions", math.nan) if isinstance(emissions, dict) else emissions
    if not _is_number(emissions):
        check.errors.append('"co2_eq_emissions.emissions" must be a number')
    if "widget" in data:
        check.of_type(data["widget"], list, "widget")
    for model, place in check.objects(data, "model-index") if "model-index" in data else []:
        check.text(model, "name", f"{place}.", required=True)
        for result, here in check.objects(model, "results", f"{place}."):
            _check_result(check, result, here)


def _check_result(check: _Check, result: dict, place: str) -> None:
    for part, required in (("task", ("type",)), ("dataset", ("type", "name"))):
        if check.of_type(result.get(part), dict, f"{place}.{part}"):
            for key in ("type", "name", "config", "split", "revision"):
                check.text(result[part], key, f"{place}.{part}.", required=key in required)
    for metric, here in check.objects(result, "metrics", f"{place}."):
        _check_metric(check, metric, here)
    if "source" in result and check.of_type(result["source"], dict, f"{place}.source"):
        check.text(result["source"], "url", f"{place}.source.", required=True)


def _check_metric(check: _Check, metric: dict, place: str) -> None:
    check.text(metric, "type", f"{place}.", required=True)
    check.text(metric, "name", f"{place}.")
    value = metric.get("value")
    if value is None:
        check.errors.append(f'"{place}.value" is required')
    elif isinstance(value, float) and not math.isfinite(value):
        check.errors.append(f'"{place}.value" must be a finite number')


def _check_dataset(check: _Check, data: dict) -> None:
    check.text(data, "pretty_name")
    check.texts(data, "task_categories", single=False)
    check.texts(data, "size_categories")
    for config, place in check.objects(data, "configs") if "configs" in data else []:
        check.text(config, "config_name", f"{place}.", required=True)


def _check_space(check: _Check, data: dict) -> None:
    check.text(data, "sdk", required=True)
    if "sdk" in data:
        check.one_of(data["sdk"], SPACE_SDKS, "sdk")
    for key in ("colorFrom", "colorTo"):
        if key in data:
            check.one_of(data[key], SPACE_COLOURS, key)
    if len(str(data.get("short_description", ""))) > 60:
        check.errors.append('"short_description" length must be less than or equal to 60 characters long')


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
