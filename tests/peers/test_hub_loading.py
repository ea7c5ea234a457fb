"""What was pushed, loaded back with the stock classes and a clean cache."""

import json
import os
import subprocess
import sys

import torch
from conftest import LABELS, tiny_processor, tiny_vit
from hub_run import push, write_record

from hf_mutual_kd.peers.loading import save_peer

LOAD = """
import json, torch; torch.set_num_threads(1)
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
image = Image.new("RGB", (20, 20), (200, 10, 60))
found = {}
for peer in ("vit", "timm"):
    repo = f"ada/{peer}-shapes-mutual"
    model, processor = AutoModelForImageClassification.from_pretrained(repo), AutoImageProcessor.from_pretrained(repo)
    with torch.no_grad():
        logits = model(**processor(image, return_tensors="pt")).logits[0]
    best = pipeline("image-classification", model=repo)(image)[0]["label"]
    found[peer] = [logits.tolist(), best, model.config.id2label[int(logits.argmax())]]
import timm
model = timm.create_model("hf-hub:ada/timm-shapes-mutual", pretrained=True).eval()
processor = AutoImageProcessor.from_pretrained("ada/timm-shapes-mutual")
with torch.no_grad():
    found["by timm"] = model(processor(image, return_tensors="pt")["pixel_values"])[0].tolist()
print("ANSWER" + json.dumps(found))
"""


def tiny_timm():
    import timm
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    cfg = timm.create_model("test_vit", pretrained=False).pretrained_cfg
    config = TimmWrapperConfig.from_dict(
        {"architecture": "test_vit", "pretrained_cfg": dict(cfg), "num_classes": 3, "label_names": LABELS}
    )
    return TimmWrapperForImageClassification(config)


def timm_processor(model):
    from transformers import TimmWrapperImageProcessor

    return TimmWrapperImageProcessor(model.config.pretrained_cfg)


def test_pushed_peers_load_with_the_stock_classes_in_a_clean_cache(hub, tmp_path):
    """A model that only loads on the machine that trained it is not shared; timm users have no transformers."""
    folder = tmp_path / "run"
    torch.manual_seed(0)
    models = {"vit": tiny_vit().eval(), "timm": tiny_timm().eval()}
    save_peer(models["vit"], tiny_processor(), folder / "vit", None)
    save_peer(models["timm"], timm_processor(models["timm"]), folder / "timm", None)
    write_record(folder, *models, dataset="shapes")
    push(hub, folder)
    env = {**os.environ, **hub.env(cache=tmp_path / "clean")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.split("ANSWER")[1])
    for name in models:
        logits, piped, label = found[name]
        assert len(logits) == len(LABELS)
        assert piped == label
        assert label in LABELS
    torch.testing.assert_close(torch.tensor(found["by timm"]), torch.tensor(found["timm"][0]))
