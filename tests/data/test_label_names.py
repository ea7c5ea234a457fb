"""Names of classes in a data set's repository; those in files are tested with the columns they name."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from data_sets import ROOT, png
from hub_server import HubServer

USER = (
    "import json, sys\n"
    "from hf_mutual_kd.data.splits import load_splits\n"
    "from hf_mutual_kd.config.task_options import MaskOptions\n"
    "for name in sys.argv[1:]:\n"
    "    splits = load_splits(MaskOptions(dataset=name, reduce_labels=True), seed=0, target='mask')\n"
    "    print(json.dumps([splits.label_names, splits.facts['revision'], splits.facts['labelled']]))\n"
)


def test_names_lie_in_the_repository(tmp_path):
    """`datasets` drops them; a cohort without names cannot align its peers with the masks."""
    cells = [{"bytes": png(number), "path": None} for number in range(4)]
    pq.write_table(pa.table({"image": cells, "label": cells}), tmp_path / "rows.parquet")
    content = (tmp_path / "rows.parquet").read_bytes()
    parts = {f"data/{name}-00000-of-00001.parquet": content for name in ("train", "validation", "test")}
    names = {"object_id2label.json": '{"1": "wall", "2": "sky"}'}
    with HubServer(users={"me": "hf_me"}) as hub:
        named = hub.add_dataset("me/named", {**parts, **names})
        bare = hub.add_dataset("me/bare", parts)
        variables = {**os.environ, **hub.env(cache=tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", USER, "me/named", "me/bare"]
        done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    labelled = dict.fromkeys(("train", "validation", "test"), 4)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [[["wall", "sky"], named, labelled], [None, bare, labelled]]
