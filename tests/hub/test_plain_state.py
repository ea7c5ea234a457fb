"""State of training in plain formats."""

import json
import random

import numpy as np
import pytest
import torch

from hf_mutual_kd import HubError
from hf_mutual_kd.hub.plain_state import from_plain, to_plain


def test_state_survives_the_way_through_json_and_safetensors():
    """Python, NumPy and torch generators, schedules and optimizers hold more kinds of values than JSON knows."""
    value = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.get_rng_state(),
        0: [
            1,
            -2.5,
            1e-300,
            float("inf"),
            True,
            None,
            "text",
            (),
            np.float32(3),
            torch.tensor(2.0, dtype=torch.bfloat16),
        ],
        "shared": (shared := torch.arange(6).view(2, 3).T),
        "again": shared,
    }
    tensors = {}
    text = json.dumps(to_plain(value, tensors), allow_nan=False)
    back = from_plain(json.loads(text), tensors)
    random.setstate(back["python"])
    assert back["python"] == value["python"]
    assert back["numpy"][1].dtype == np.uint32
    np.testing.assert_array_equal(back["numpy"][1], value["numpy"][1])
    assert back["numpy"][2:] == value["numpy"][2:]
    assert torch.equal(back["cpu"], value["cpu"])
    assert torch.equal(back["again"], shared)
    assert [type(item) for item in back[0]] == [type(item) for item in value[0]]
    assert back[0] == value[0]
    with pytest.raises(HubError, match="holds a set, which cannot be pushed"):
        to_plain({"x": {1}}, {})
