"""Numbers that functions are given from Python: one table of rules, before anything is read, written or sent."""

import inspect
import math

import pytest

import hf_mutual_kd as kd
from hf_mutual_kd import ConfigError
from hf_mutual_kd.config.rules import FUNCTIONS
from hf_mutual_kd.scoring.score_shards import Scoring
from hf_mutual_kd.tasks.audio_classification.collator import SharedCrop

CALLS = {
    "ExportCheck": (kd.ExportCheck, {"max_drop": (math.nan, -0.1, 2), "samples": (0,)}),
    "write_space": (lambda **given: kd.write_space("no/run", **given), {"samples": (-1,)}),
    "Scoring": (
        lambda **given: Scoring(accelerator=None, **given),
        {"workers": (-1,), "batch_size": (0, math.nan), "shard_rows": (0,), "max_bytes": (0,)},
    ),
    "Patience": (
        kd.Patience,
        {
            "deadline_s": (math.nan, -1, 0),
            "attempts": (0,),
            "call_s": (0,),
            "first_wait_s": (-1,),
            "slowest_upload": (0,),
        },
    ),
    "Objective": (
        lambda **given: kd.Objective(rule=kd.BestRule(), source=kd.LiveSource(), **given),
        {"temperature": (0, math.inf), "weight": (-1, math.nan), "label_smoothing": (1,)},
    ),
    "EmaSource": (kd.EmaSource, {"decay": (1, -0.1, math.nan)}),
    "SharedView": (kd.SharedView, {"min_area": (0, 1.1, math.nan), "color_jitter": (-1,)}),
    "SharedCrop": (SharedCrop, {"seconds": (0, 31, math.nan)}),
    "ClipRows": (lambda **given: kd.ClipRows([None], **given), {"every": (0,)}),
    "Streaming": (kd.Streaming, {"stride": (0,), "batch_size": (-2,), "cut_threshold": (-1, math.nan)}),
    "PeerSpec": (lambda **given: kd.PeerSpec("x", **given), {"learning_rate": (-1, math.nan), "weight_decay": (-1,)}),
}
CASES = [
    (name, argument, value)
    for name, (_, wrong) in CALLS.items()
    for argument, values in wrong.items()
    for value in values
]


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_numbers_from_python_are_checked_as_those_of_commands(name, argument, value, tmp_path, monkeypatch):
    """A deadline of NaN never ends a push; a share of NaN accepts every file; -1 fails deep in a library."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kd.MutualKDError, match=f"{argument}.* must be .*got {value}") as error:
        CALLS[name][0](**{argument: value})
    assert isinstance(error.value, ConfigError | kd.PeerError)
    assert not list(tmp_path.iterdir())


def test_every_rule_of_a_function_is_used():
    """A rule that nobody asks for protects nothing."""
    tested = {argument for _, argument, _ in CASES}
    assert set(FUNCTIONS) <= tested | set(inspect.signature(kd.Patience).parameters)
