"""Score tables of the tasks with maps: roles and targets are those of training, images and clips count alone."""

import json
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from conftest import in_two_processes
from datasets import Dataset
from saliency_run import gaze_videos, saliency_cohort
from segmentation_peers import tiny_segmenter
from segmentation_run import SQUARE, segmentation_cohort, segmentation_rows
from task_run import SETTINGS, config_of
from torch.testing import assert_close
from transformers import Mask2FormerImageProcessor, SegformerImageProcessor

from hf_mutual_kd import (
    ClipRows,
    Cohort,
    ConfigError,
    DataError,
    LoadedPeer,
    MutualKDConfig,
    MutualKDTrainer,
    PeerSpec,
    SemanticSegmentation,
)
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.distillation.roles import NOBODY, UNDECIDED
from hf_mutual_kd.peers.peer_mesh import PeerMesh
from hf_mutual_kd.scoring.score_peers import score_peers
from hf_mutual_kd.scoring.score_shards import Scoring
from hf_mutual_kd.scoring.score_table import ScoreTable, counted
from hf_mutual_kd.scoring.table_teacher import epochs_of, open_table
from hf_mutual_kd.tasks.video_saliency.data.clip_rows import unit_parts
from hf_mutual_kd.training import stages, ways
from hf_mutual_kd.training.objective_options import objective_for


class Case(NamedTuple):
    """One task: a cohort of two tiny peers, training rows, and the peer that learns from the other."""

    cohort: object
    rows: object
    student: str


CASES = {
    "segmentation": Case(segmentation_cohort, lambda: segmentation_rows(8), "mask2former"),
    "saliency": Case(saliency_cohort, lambda: ClipRows(gaze_videos(6, "train", blank=3)), "videomae"),
}
EPOCHS = 2


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def still(rows, epochs=EPOCHS):
    return rows.fixed_rows(epochs) if isinstance(rows, ClipRows) else rows


def score(cohort, rows, folder, announce=None, **options):
    options = {"batch_size": 3, "shard_rows": 4, "accelerator": Accelerator(cpu=True)} | options
    return score_peers(cohort, still(rows), folder, Scoring(**options), announce=announce)


def trainer_of(case, cohort, folder, **changes):
    settings = SETTINGS | {"eval_strategy": "no", "save_strategy": "no", "max_steps": -1, "num_train_epochs": EPOCHS}
    args = config_of(cohort, folder, **settings | {"augment": False, "batch_norm": "freeze"} | changes)
    return MutualKDTrainer(cohort, args, train_dataset=case.rows())


def test_roles_are_those_that_training_decides(case, tmp_path):
    """A score at another size, or of a batch's padding, gives other teachers, and nobody would see it."""
    table = score(case.cohort(), case.rows(), tmp_path / "t")
    trainer = trainer_of(case, case.cohort(), tmp_path / "run", teacher_source="frozen", cache_frozen=False)
    trainer.train()
    decided = trainer.record.role_table.lookup(table.sample_ids)
    stored = table.roles().lookup(table.sample_ids)
    known = stored != UNDECIDED
    assert torch.equal(stored[known], decided[known])
    assert (decided != UNDECIDED).all()
    assert {0, 1} & set(stored.tolist())
    assert_close(table.teachers()[known], stored[known])


def test_what_has_no_truth_has_no_score(tmp_path):
    """A 0 in its place would win against every loss; a clip at which nobody looked is known to teach nothing."""
    maps = score(segmentation_cohort(), segmentation_rows(8), tmp_path / "maps")
    assert (maps.labels < 0).nonzero().flatten().tolist() == [4]
    assert maps.scores().isnan().all(0).nonzero().flatten().tolist() == [4]
    assert maps.roles().lookup([4]).item() == UNDECIDED
    clips = score(saliency_cohort(), CASES["saliency"].rows(), tmp_path / "clips")
    blank = unit_parts(clips.sample_ids)[:, 0] == 3
    assert torch.equal(clips.scores().isnan().all(0), blank)
    assert (clips.roles().lookup(clips.sample_ids)[blank] == NOBODY).all()
    index = pq.read_table(tmp_path / "clips" / "index.parquet")
    assert index.column_names == ["sample_id", "label", "convnext/score", "videomae/score"]
    assert index["convnext/score"].null_count == int(blank.sum()) > 0


def test_roles_tag_batches(case, tmp_path):
    """A lookup by row in place of the sample's number would give the next clip's teacher."""
    table = score(case.cohort(), case.rows(), tmp_path / "t")
    trainer = trainer_of(case, case.cohort(), tmp_path / "run", augment=True, score_table=str(table.folder))
    trainer.train_dataset.set_epoch(1)
    batch = next(iter(trainer.get_train_dataloader()))
    assert torch.equal(batch["roles"], table.roles().lookup(batch["sample_ids"]))
    assert (batch["roles"] >= 0).any()


def weights_of(peer):
    return torch.cat([parameter.detach().flatten() for parameter in peer.parameters()])


@pytest.mark.parametrize(("name", "rule"), [("segmentation", "best"), ("saliency", "best"), ("saliency", "mean")])
def test_a_peer_learns_from_a_table_as_from_frozen_peers_in_memory(name, rule, tmp_path):
    """Targets of another grid, order of cells or normalisation are another method under the same name."""
    case = CASES[name]
    table = score(case.cohort(), case.rows(), tmp_path / "t", keep="full")
    # Adam's first steps would be signs of gradients that are nearly 0.
    plain = {"seed": 3, "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    teach = {"teacher_rule": rule, "temperature": 2.0, "transfer_weight": 5.0} | plain
    torch.manual_seed(0)
    alone = trainer_of(
        case,
        case.cohort([case.student]),
        tmp_path / "alone",
        teacher_source="table",
        score_table=str(table.folder),
        **teach,
    )
    alone.train()
    others = [name for name in table.names if name != case.student]
    torch.manual_seed(0)
    together = case.cohort()
    together.freeze(others)
    both = trainer_of(case, together, tmp_path / "both", teacher_source="frozen", cache_frozen=False, **teach)
    both.train()
    torch.manual_seed(0)
    control = trainer_of(case, case.cohort([case.student]), tmp_path / "control", transfer_weight=0.0, **plain)
    control.train()
    left, right, without = (weights_of(one.cohort.peers[case.student]) for one in (alone, both, control))
    assert (left - right).norm() < 0.01 * (left - without).norm()
    logs = [
        next(entry for entry in one.state.log_history if f"{case.student}/taught" in entry) for one in (alone, both)
    ]
    transfers = [entry[f"{case.student}/transfer"] for entry in logs]
    assert transfers[0] == pytest.approx(transfers[1], rel=2e-3)
    assert transfers[0] > 0


def test_a_peer_is_taught_in_stages_by_those_that_are_not_there(case, tmp_path, monkeypatch):
    """Few labels and a machine for one model: without a choice beside its control, what a table teaches can harm."""
    monkeypatch.setattr(ways, "TABLE_WAYS", {"mean": ways.TABLE_WAYS["mean"]})
    monkeypatch.setattr(stages, "ALPHAS", (0.5,))
    table = score(case.cohort(), case.rows(), tmp_path / "t", keep="8bit")
    settings = SETTINGS | {"augment": False, "teaching": "auto", "self_training": False, "batch_norm": "freeze"}
    settings |= {"max_steps": -1, "num_train_epochs": EPOCHS}
    args = MutualKDConfig(str(tmp_path / "run"), score_table=str(table.folder), **settings)
    tested = segmentation_rows(5, 1) if case.student == "mask2former" else ClipRows(gaze_videos(2, "test"), every=8)
    trainer = MutualKDTrainer(case.cohort([case.student]), args, train_dataset=case.rows(), eval_dataset=tested)
    trainer.train()
    assert trainer.cohort.starts is None
    facts = json.loads((tmp_path / "run" / "stages" / "stages.json").read_text())["facts"]
    assert (facts["way"], set(facts["validation"])) == ("mean", {"start", "control", "mutual"})
    history = (tmp_path / "run" / "stages" / "way-mean" / "history.jsonl").read_text()
    assert max(json.loads(line).get(f"{case.student}/transfer", 0) for line in history.splitlines()) > 0


def test_maps_in_fewer_bits_or_classes(case, tmp_path):
    """Cells whose rest is dropped make every student surer than its teacher."""
    full = score(case.cohort(), case.rows(), tmp_path / "full", keep="full")
    eight = score(case.cohort(), case.rows(), tmp_path / "eight", keep="8bit")
    every, name = full.sample_ids, full.names[0]
    left, right = (table.log_probs(name, every) for table in (full, eight))
    assert (left.exp() * (left - right)).sum(1).max() < 2e-4
    assert eight.manifest["keep"] == "8bit"
    top = score(case.cohort(), case.rows(), tmp_path / "top", keep="topk:2")
    ids = every[:5]
    exact, kept = (table.log_probs(name, ids).exp() for table in (full, top))
    assert exact.shape == kept.shape
    assert_close(kept.sum(1), torch.ones_like(kept[:, 0]))
    best, places = exact.topk(2, dim=1)
    assert_close(kept.gather(1, places), best, rtol=5e-3, atol=1e-4)
    rest = kept.scatter(1, places, float("nan")).nan_to_num(float("-inf"), neginf=float("-inf")).amax(1)
    assert_close(rest, (1 - best.sum(1)) / (exact.shape[1] - 2), rtol=5e-3, atol=1e-3)


def test_an_interrupted_call_ends_in_the_same_bytes(case, tmp_path, monkeypatch):
    """A shard that was scored by some of the peers alone would be compared on another grid than its neighbours."""
    score(case.cohort(), case.rows(), tmp_path / "whole", keep="full", shard_rows=6)
    from hf_mutual_kd.scoring import score_shards as scoring

    real = scoring._write_shard

    def dying(path, tensors):
        if path.parent.name == case.student and path.name == "shard-00001.safetensors":
            raise KeyboardInterrupt
        real(path, tensors)

    monkeypatch.setattr(scoring, "_write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        score(case.cohort(), case.rows(), tmp_path / "t", keep="full", shard_rows=6)
    monkeypatch.setattr(scoring, "_write_shard", real)
    score(case.cohort(), case.rows(), tmp_path / "t", keep="full", shard_rows=6)
    files = [file.relative_to(tmp_path / "whole") for file in (tmp_path / "whole").rglob("*") if file.is_file()]
    assert len(files) == 2 + 2 * len({file.name for file in files if file.suffix == ".safetensors"})
    for file in files:
        assert (tmp_path / "t" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def mixed_cohort() -> Cohort:
    """Peers that see images at their own sizes."""
    processors = (SegformerImageProcessor(size=SQUARE), Mask2FormerImageProcessor(do_resize=False, ignore_index=255))
    names = ("segformer", "mask2former")
    peers = {
        name: LoadedPeer(tiny_segmenter(name), processor, PeerSpec(name))
        for name, processor in zip(names, processors, strict=True)
    }
    return Cohort(peers, task="semantic-segmentation", label_names=segmentation_cohort().label_names)


def test_images_of_different_sizes_are_scored_alone(tmp_path):
    """The padding of a batch moves the grid on which peers are compared: a table by luck of the order."""
    rows = segmentation_rows(8)
    alone = score(mixed_cohort(), rows, tmp_path / "alone", batch_size=1)
    together = score(mixed_cohort(), rows, tmp_path / "together", batch_size=8)
    assert_close(alone.scores(), together.scores(), rtol=1e-5, atol=1e-6, equal_nan=True)
    with pytest.raises(DataError, match="brings all images to one size, or keep none"):
        score(mixed_cohort(), rows, tmp_path / "kept", keep="full")


def test_scores_at_the_size_of_the_labels(tmp_path):
    """Roles of one grid with transfer on another are not those of the run."""
    cohort = segmentation_cohort()
    cohort.task = SemanticSegmentation(transfer_grid="label")
    table = score(cohort, segmentation_rows(8), tmp_path / "t")
    case = CASES["segmentation"]
    with pytest.raises(ConfigError, match="on the grid 'label', this run on 'coarsest'"):
        trainer_of(case, case.cohort(), tmp_path / "run", score_table=str(table.folder))
    fits = {"score_table": str(table.folder), "transfer_grid": "label"}
    assert trainer_of(case, case.cohort(), tmp_path / "run", **fits).score_table is not None


def test_clips_that_the_run_will_draw_have_to_be_there(tmp_path):
    """Epochs draw other frames: a table of the first two would leave the third to chance, unsaid."""
    case = CASES["saliency"]
    with pytest.raises(DataError, match=r"score rows\.fixed_rows\(\)"):
        score_peers(case.cohort(), case.rows(), tmp_path / "t", Scoring(accelerator=Accelerator(cpu=True)))
    table = score(case.cohort(), case.rows(), tmp_path / "t")
    with pytest.raises(DataError, match=r"target frames that 5 epochs draw with seed 0.* --epochs 5"):
        trainer_of(case, case.cohort(), tmp_path / "run", score_table=str(table.folder), num_train_epochs=5)
    scoring = Scoring(accelerator=Accelerator(cpu=True))
    whole = score_peers(case.cohort(), case.rows().fixed_rows(), tmp_path / "all", scoring)
    assert len(whole) == 60
    trainer_of(case, case.cohort(), tmp_path / "run", score_table=str(whole.folder), num_train_epochs=5)
    shared = torch.searchsorted(whole.sample_ids, table.sample_ids)
    assert_close(whole.scores()[:, shared], table.scores(), rtol=1e-5, atol=1e-6, equal_nan=True)
    others = ClipRows(gaze_videos(7, "train", blank=3))
    with pytest.raises(DataError, match="fingerprint of the data set"):
        whole.check(others.describe() | {"labels": []}, {})
    with pytest.raises(DataError, match="which frames of the videos were chosen"):
        whole.check(whole.manifest["data"] | {"frames": "others"}, {})


def test_epochs_are_counted_as_the_trainer_does(tmp_path):
    """One epoch too few lets a run die in its last one."""
    args = MutualKDConfig(str(tmp_path), use_cpu=True, per_device_train_batch_size=4, max_steps=5)
    assert epochs_of(args, range(10), 1) == 2  # 3 steps an epoch
    args.gradient_accumulation_steps = 2
    assert epochs_of(args, range(10), 1) == 3
    args.dataloader_drop_last = True
    assert epochs_of(args, range(10), 1) == 5
    assert epochs_of(args, range(20), 2) == 5, "what two processes share"
    few = Dataset.from_dict({"label": [0] * 6 + [-1]})
    args.gradient_accumulation_steps, args.dataloader_drop_last = 1, False
    assert epochs_of(args, few, 1) == 3
    args.labelled_share = 0.5
    assert epochs_of(args, few, 1) == 5, "an epoch ends with its only row without a label, after one step"
    args.max_steps, args.num_train_epochs = -1, 2.5
    assert epochs_of(args, range(10), 1) == 3


def test_epochs_are_those_of_processes_that_share_rows(tmp_path):
    """A table with all frames that a run draws is refused where its processes hold other peers of the same rows."""
    case = CASES["saliency"]
    cohort, rows = case.cohort(), case.rows()
    table = score(cohort, rows, tmp_path / "t")
    args = config_of(cohort, tmp_path, max_steps=4, per_device_train_batch_size=3, score_table=str(table.folder))
    objective = objective_for(args, rows, len(cohort.names), cohort.task)
    assert open_table(args, cohort, rows, objective, mesh=PeerMesh([["convnext"], ["videomae"]], 2)) is not None
    with pytest.raises(DataError, match="that 4 epochs draw"):
        open_table(args, cohort, rows, objective, mesh=PeerMesh([cohort.names], 2))


def test_what_a_table_of_maps_cannot_do_is_refused(tmp_path):
    """Options that would be silently without effect, or fill a disk over night."""
    case = CASES["segmentation"]
    rows = case.rows()
    with pytest.raises(
        ConfigError, match=r"8 rows, 2 peers and 5 x 16 x 16 values take 41\.0 kB, more than the 40\.0"
    ):
        score(case.cohort(), rows, tmp_path / "t", keep="full", max_bytes=40_000)
    assert not (tmp_path / "t").exists()
    said = []
    table = score(case.cohort(), rows, tmp_path / "t", keep="full", announce=said.append)
    assert "take 41.0 kB" in said[0]
    with pytest.raises(DataError, match="on the common grid of segformer, mask2former"):
        score(case.cohort(["segformer"]), rows, tmp_path / "t", keep="full")
    with pytest.raises(ConfigError, match="ranks by 'loss', got 'margin'"):
        table.scores("margin")
    fits = {"score_table": str(table.folder)}
    for granularity in ("class", "pixel"):
        with pytest.raises(ConfigError, match="a score table names one teacher per image"):
            trainer_of(case, case.cohort(), tmp_path / "run", granularity=granularity, **fits)
    with pytest.raises(ConfigError, match="refresh_epochs scores the trained peers alone"):
        trainer_of(case, case.cohort(), tmp_path / "run", teacher_source="table", refresh_epochs=1, **fits)
    with pytest.raises(ConfigError, match="epochs is for rows that every epoch draws anew"):
        counted(rows).fixed_rows(3)
    clips = CASES["saliency"]
    first = score(clips.cohort(["convnext"]), clips.rows(), tmp_path / "clips")
    added = score(clips.cohort(["videomae"]), clips.rows(), tmp_path / "clips")
    assert (first.names, added.names) == (["convnext"], ["convnext", "videomae"])
    score(clips.cohort(), clips.rows(), tmp_path / "densities", keep="full")
    with pytest.raises(DataError, match="on the common grid of convnext, videomae"):
        score(clips.cohort(["videomae"]), clips.rows(), tmp_path / "densities", keep="full")


def test_two_processes_make_the_same_table_of_maps(tmp_path, capsys):
    """Peers of one shard in different processes would never meet; the command must reach every task."""
    segmentation_cohort().save_pretrained(tmp_path)
    for split, seed in (("train", 0), ("validation", 1), ("test", 2)):
        rows = segmentation_rows(6, seed)
        rows.to_parquet(tmp_path / "rows" / f"{split}.parquet")
    words = [
        "score",
        "--task",
        "semantic-segmentation",
        "--peers",
        *(f"{name}={tmp_path / name}" for name in ("segformer", "mask2former")),
        "--dataset",
        tmp_path / "rows",
        "--shard_rows",
        "2",
        "--keep",
        "topk:2",
        "--batch_size",
        "2",
        "--use_cpu",
        "--no_labels",
    ]
    said = in_two_processes([*words, "--out", tmp_path / "two"])
    assert said.count("6 rows, 2 peers and 5 x 16 x 16 values take 43.0 kB (keep topk:2)") == 1
    assert cli.main([*map(str, words), "--out", str(tmp_path / "one")]) == 0
    assert "mean score" in capsys.readouterr().out
    files = [file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file()]
    assert len(files) == 2 + 2 * 3
    for file in files:
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file
    assert ScoreTable.load(tmp_path / "two").is_of_maps
