"""Adapters on their way to the Hub: cards, metadata, what leaves the machine, and what a stock client gets back."""

import json
import os
import shlex
from pathlib import Path

import adapter_run
import pytest
from hub_cards import check_card, front_matter
from hub_server import HubServer
from made_up_run import SHA, made_up_record, made_up_results, write_run
from recipe_run import argv, main
from safetensors.torch import load_file
from test_pushing import TOKEN, run
from torch.testing import assert_close

from hf_mutual_kd import write_cards
from hf_mutual_kd.hub.files import select
from hf_mutual_kd.reports.adapter_folder import (
    ADAPTER_CONFIG,
    base_on_hub,
    model_type_of,
    read_adapter,
    without_local_base,
)

GOLDEN = Path(__file__).parents[1] / "golden"

TRAINER = """
import sys
sys.path.insert(0, {tests!r})
from conftest import LABELS, make_rows
from hf_mutual_kd import Cohort, MutualKDConfig, MutualKDTrainer, PeerSpec
peers = {{name: PeerSpec("ada/base-vit", peft="lora") for name in ("a", "b")}}
peers["own"] = PeerSpec({vit!r}, peft={{"peft_type": "LORA", "r": 2}})
cohort = Cohort.from_pretrained(peers, label_names=LABELS)
args = MutualKDConfig(
    {out!r}, max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", learning_rate=0.01
)
trainer = MutualKDTrainer(cohort, args, train_dataset=make_rows(16), eval_dataset=make_rows(9, 1))
trainer.train()
trainer.evaluate()
report = trainer.push_to_hub(namespace="ada")
again = trainer.push_to_hub(namespace="ada")
print([peer.changed for peer in report.peers], [peer.changed for peer in again.peers])

import torch
from peft import AutoPeftModel
from transformers import pipeline
from hf_mutual_kd.data.images import decode_image
from hf_mutual_kd.peers.loading import load_peer
from hf_mutual_kd.tasks.registry import ImageClassification
pixels = torch.randn(2, 3, 16, 16)
with torch.no_grad():
    own = cohort.peers["b"].eval()(pixel_values=pixels).logits
    stock = AutoPeftModel.from_pretrained("ada/b-data-mutual").eval()(pixel_values=pixels).logits
    peer = load_peer("b", "ada/b-data-mutual", ImageClassification())
    again = peer.model.eval()(pixel_values=pixels).logits
said = pipeline("image-classification", model="ada/b-data-mutual")(decode_image(make_rows(1)[0]["image"]))
print(torch.equal(own, stock), torch.equal(own, again), len(said), peer.spec.revision)
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer({"ada": TOKEN}) as hub:
        yield hub


def test_adapters_are_pushed_alone_and_come_back(hub, place, tmp_path):
    """An adapter whose repository does not name its base at its commit can be loaded by nobody."""
    commit = hub.add_model("ada/base-vit", place / "vit")
    env = {**os.environ, **hub.env(token=TOKEN, cache=tmp_path / "cache"), "ACCELERATE_USE_CPU": "true"}
    script = TRAINER.format(tests=str(Path(__file__).parents[1]), vit=str(place / "vit"), out=str(tmp_path / "out"))
    changed, loaded = run("-c", script, env=env).splitlines()[-2:]
    assert changed == "[True, True, True] [False, False, False]"
    assert loaded.split()[:3] == ["True", "True", "3"]
    for peer in ("a", "b", "own"):
        files = hub.files(f"ada/{peer}-data-mutual")
        assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json"} <= set(
            files
        )
        assert "model.safetensors" not in files
        settings, card = json.loads(files["adapter_config.json"]), files["README.md"].decode()
        assert check_card(card, "model")[0] == []
        data = front_matter(card)
        assert data["library_name"] == "peft"
        if peer == "own":
            assert settings["base_model_name_or_path"] is None
            assert "base_model" not in data
        else:
            assert (settings["base_model_name_or_path"], settings["revision"]) == ("ada/base-vit", commit)
            assert (data["base_model"], data["base_model_relation"]) == ("ada/base-vit", "adapter")
    sent = hub.everything_received()
    for secret in (TOKEN, str(tmp_path), str(place)):
        assert secret.encode() not in sent


def made_up_adapter(folder: Path, **changes) -> Path:
    """Made up: the `vit` of a run is an adapter."""
    record = made_up_record()
    record["peers"]["vit"] |= {"adapter": {"type": "LORA", "parameters": 12_345}}
    run = write_run(folder, record, made_up_results())
    for path in (run / "vit").iterdir():
        path.unlink()
    source, revision = record["peers"]["vit"]["source"], record["peers"]["vit"]["revision"]
    settings = {"peft_type": "LORA", "base_model_name_or_path": source, "revision": revision} | changes
    settings["auto_mapping"] = {"parent_library": "transformers.models.vit.modeling_vit"}
    (run / "vit" / ADAPTER_CONFIG).write_text(json.dumps(settings))
    return run


def test_the_whole_card_is_as_it_was_read_and_approved(tmp_path):
    """An adapter's card that speaks of a whole model misleads who downloads 50 kB."""
    run = made_up_adapter(tmp_path / "run")
    write_cards(run, ["vit"], repositories={"vit": "someone/vit-beans-mutual"})
    card = (run / "vit" / "README.md").read_text(encoding="utf-8")
    assert card == (GOLDEN / "model_card_adapter.md").read_text(encoding="utf-8")
    assert check_card(card) == ([], [])


def test_card_of_new_classes_says_how_to_load_them(tmp_path):
    """`pipeline` alone would build the base's classifier, which the adapter's does not fit."""
    run = made_up_adapter(tmp_path / "run")
    (run / "vit" / "id2label.json").write_text('{"0": "x"}')
    write_cards(run, ["vit"], repositories={"vit": "someone/vit-beans-mutual"})
    card = (run / "vit" / "README.md").read_text(encoding="utf-8")
    assert 'with open(hf_hub_download("someone/vit-beans-mutual", "id2label.json")) as file:' in card
    assert 'PeftModel.from_pretrained(base, "someone/vit-beans-mutual").get_base_model()' in card
    assert 'pipeline("image-classification", model=model, image_processor="someone/vit-beans-mutual")' in card
    assert "{{" not in card


def test_local_bases_do_not_leave(tmp_path):
    """A folder's name on the Hub could be somebody else's model, and its path says who the user is."""
    run = made_up_adapter(tmp_path / "run", base_model_name_or_path="/work/models/vit", revision=None)
    (run / "vit" / "adapter_model.safetensors").write_bytes(bytes(8))
    (run / "vit" / "preprocessor_config.json").write_text("{}")
    for custom_code in (False, True):
        files = {file.name: file for file in select(run / "vit", custom_code).files}
        pushed = json.loads(files[ADAPTER_CONFIG].read())
        assert (pushed["base_model_name_or_path"], pushed["peft_type"]) == (None, "LORA")
    assert base_on_hub(read_adapter(run / "vit")) is None
    write_cards(run, ["vit"], repositories={"vit": "someone/vit-beans-mutual"})
    card = (run / "vit" / "README.md").read_text(encoding="utf-8")
    assert "/work/models" not in card
    assert 'AutoModelForImageClassification.from_pretrained("path/to/vit")' in card
    assert model_type_of(run / "vit") == "vit"
    assert model_type_of(tmp_path) is None
    assert without_local_base({"base_model_name_or_path": "a/b", "revision": SHA["vit"]})["revision"] == SHA["vit"]


def test_recipe_trains_adapters_and_its_command_repeats_it(place, tmp_path):
    """A setting that is lost between recipe, record and command would repeat another run."""
    setting = {"vit": {"peft_type": "LORA", "r": 2}, "cnx": "lora"}
    out = tmp_path / "run"
    given = ["--peers.vit.peft", json.dumps(setting["vit"]), "--peers.cnx.peft", setting["cnx"]]
    assert main(argv(place, out, *given, "--control", "false")) == 0
    record, results = (json.loads((out / name).read_text()) for name in ("cohort.json", "results.json"))
    assert {name: peer["peft"] for name, peer in record["recipe"]["peers"].items()} == setting
    command = shlex.split(record["command"])
    assert json.loads(command[command.index("--peers.vit.peft") + 1]) == setting["vit"]
    assert command[command.index("--peers.cnx.peft") + 1] == setting["cnx"]
    for name, architecture in (("vit", "ViTForImageClassification"), ("cnx", "ConvNextForImageClassification")):
        peer, weights = record["peers"][name], load_file(out / name / "adapter_model.safetensors")
        assert peer["architecture"] == architecture
        assert peer["adapter"] == {"type": "LORA", "parameters": sum(value.numel() for value in weights.values())}
        assert results["usage"][name].count("\n") == 2, "the card's snippet runs on the adapter's folder"
        assert "an adapter of" in (out / name / "README.md").read_text()


def test_two_processes_equal_one(tmp_path):
    """Parameters that several peers share must neither be averaged twice nor be waited for."""
    one, two = tmp_path / "one", tmp_path / "two"
    adapter_run.main(str(one), "8")
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint")
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    run(*launch, "localhost:0", adapter_run.__file__, str(two), "4", env=env)
    for out in (one, two):
        assert json.loads((out / "outcome.json").read_text())["base"] == "untouched"
    for name in ("a", "b"):
        left, right = (load_file(out / name / "adapter_model.safetensors") for out in (one, two))
        for key, value in left.items():
            assert_close(value, right[key], rtol=1e-5, atol=1e-5)
