"""The land-cover benchmark: fair choices, arms that differ in what they say, a page that prints what was measured."""

# ruff: noqa: E402 - recipes are scripts, importable only once their folder is on the path

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_peers import CLASSES, SIZE, inputs_of, tiny_segmenter

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import land_cover_benchmark as benchmark
import land_cover_report as report
from land_cover_report import Benchmark, Place
from land_cover_training import Job, objective_of, run

from hf_mutual_kd import SemanticSegmentation, dense_log_probs
from hf_mutual_kd.distillation.label_alignment import ClassColumns

SPECIALISTS = "segformer", "mask2former"


def made_up_scores(validation: float, test: float) -> dict[str, dict[str, float]]:
    return {
        split: {metric: value + place / 100 for place, metric in enumerate(report.METRICS)}
        for split, value in (("validation", validation), ("test", test))
    }


def made_up_benchmark() -> Benchmark:
    """Two peers, three seeds: mutual is 2 points above control, mixed above pixel; segformer has no pixel arm."""
    control = [0.20, 0.21, 0.22]
    tests = {
        "start": [0.15],
        "control": control,
        "pixel": [0.21, 0.21, 0.25],
        "self": control,
        "fixed": control,
        "mutual": [value + 0.02 for value in control],
        "bare": control,
        "pair": control,
    }
    scores = {
        arm: {
            peer: [made_up_scores(0.5, value) for value in values]
            for peer in SPECIALISTS
            if (arm, peer) != ("pixel", "segformer")
        }
        for arm, values in tests.items()
    }
    train = [Place(-100.0, 40.0, {"segformer": 5, "mask2former": 2}), Place(100.0, 40.0, {"mask2former": 7})]
    test = [Place(-60.0, -20.0, {"mask2former": 1}), Place(10.0, 10.0, {"segformer": 1}), Place(30.0, 0.0, {})]
    facts = {
        "command": "python recipes/land_cover_benchmark.py",
        "machine": "a made-up machine",
        "seeds": [0, 1, 2],
        "seconds": 90,
        "steps": 301,
        "batch": 8,
        "epochs": 7,
        "border": 20.0,
        "teacher": "segformer",
        "rows": {"train": 344, "validation": 101, "test": 377},
        "versions": {"torch": "2"},
    }
    tried = [("control seed 0 (segformer 0.001)", 0.231, True), ("control seed 0 (segformer 0.003)", 0.2, False)]
    return Benchmark(
        scores, tried, {peer: [0.5] * 3 for peer in SPECIALISTS}, {"train": train, "test": test}, SPECIALISTS, facts
    )


def test_page_prints_what_was_measured():
    """Differences with the wrong sign, of unpaired seeds, or of a peer that never ran an arm, are false claims."""
    page = report.markdown(made_up_benchmark())
    assert (
        "| segformer | 15.0 | 21.0 ± 1.0 | – | 21.0 ± 1.0 | 21.0 ± 1.0 | 23.0 ± 1.0 | 21.0 ± 1.0 | 21.0 ± 1.0 |"
        in page
    )
    assert "| mask2former | mutual − control | **+2.00 ± 0.00** |" in page
    assert "| mask2former | mutual − own + pixel CE | +0.67 ± 1.53 |" in page
    assert "| segformer | mutual − own + pixel CE" not in page
    assert "- **mask2former**: *mutual* is better than control (**+2.00 ± 0.00**), not told apart from own" in page
    assert "| mask2former | own + pixel CE | 22.3 ± 2.3 | 23.3 ± 2.3 | 24.3 ± 2.3 | 25.3 ± 2.3 |" in page
    assert "| control seed 0 (segformer 0.001) | 23.1 | yes |" in page
    assert "segformer, the best start" in page
    assert "None" not in page
    assert "{" not in page


def test_tiles_are_counted_on_their_side_and_shared_ones_for_nobody():
    """A tile at the wrong side of the border, or a tie given to the first peer, would tell another story."""
    rows = report.teacher_rows(made_up_benchmark())
    assert [row[1:] for row in rows] == [
        ["west", "1", "100.0", "0.0", "0.0"],
        ["east", "1", "0.0", "100.0", "0.0"],
        ["west", "2", "50.0", "50.0", "0.0"],
        ["east", "1", "0.0", "0.0", "100.0"],
    ]
    assert Place(0.0, 0.0, {"segformer": 2, "mask2former": 2}).teacher is None


def test_map_shows_every_teacher_where_the_tile_is():
    """A map mirrored or shifted, or in swapped colours, looks as convincing as the right one."""
    found, land = made_up_benchmark(), np.zeros((90, 180), bool)
    land[:45, :90] = True
    pixels = np.asarray(
        Image.open(io.BytesIO(report.draw_map(found, {"train": 12.0, "test": 12.0}, land))).convert("RGB")
    )
    upper = pixels[: len(pixels) // 2]

    def middle(colour: str) -> np.ndarray:
        found = (upper == np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)).all(-1)
        assert found.sum() > 50
        return np.argwhere(found).mean(0) / upper.shape[:2]

    west, east = middle(report.COLORS[0]), middle(report.COLORS[1])
    assert west[1] < 0.4 < 0.6 < east[1]
    assert abs(west[0] - east[0]) < 0.02
    assert middle(report.LAND_COLOR)[1] < 0.5


def test_figure_has_a_panel_for_every_peer():
    """A picture that fails on a missing arm would end the run after all its trainings."""
    assert Image.open(io.BytesIO(report.draw(made_up_benchmark()))).size[0] > 700
    assert "own + pixel CE" in report.benchmark_table(made_up_benchmark())


class MadeUpLab(benchmark.Lab):
    """Results from a rule instead of training: validation likes 1e-3 and weight 4, test the opposite."""

    def do(self, jobs):
        for job in jobs:
            liked = sum(rate == 1e-3 for rate in job.rates) + (job.weight == 4.0)
            scores = {
                peer: made_up_scores(0.1 * liked + 0.01 * (peer == "upernet"), -0.1 * liked) for peer in job.peers
            }
            teachers = {
                "train": {"0": {"segformer": job.seed}, "2": {"mask2former": 1}},
                "test": {"1": {"segformer": 1}},
            }
            shares = dict.fromkeys(job.peers, 1 / len(job.peers))
            self.results[job] = {"scores": scores, "teachers": teachers, "taught": shares, "seconds": 1.0}


def test_settings_are_chosen_on_validation_alone_and_every_seed_gets_them(tmp_path):
    """A setting picked by its test score makes every difference on the test split worthless."""
    tiles = RECIPES / "embedded_segmentation/land_cover"
    lab = MadeUpLab(None, tiles, Path())
    chosen, tried = benchmark.search(0, lab)
    by_arm = {(job.arm, job.peers): job for job in chosen}
    assert by_arm["mutual", benchmark.PEERS].rates == (1e-3,) * 3
    assert {job.weight for job in chosen if job.arm != "control"} == {4.0}
    fixed = by_arm["fixed", benchmark.PEERS]
    assert fixed.teacher == "upernet"
    assert [job.peers for job in chosen if job.arm == "pixel"] == [("mask2former",)]
    lab.do(dataclasses.replace(job, seed=seed) for seed in (0, 1) for job in chosen)
    found = benchmark.collect(lab, (0, 1), chosen, tried)
    assert {arm: len(peers["mask2former"]) for arm, peers in found.scores.items()} == {
        "start": 1,
        "control": 2,
        "pixel": 2,
        "self": 2,
        "fixed": 2,
        "mutual": 2,
        "bare": 2,
        "pair": 2,
    }
    assert [one.taught for one in found.places["train"]] == [{"segformer": 1}, {"mask2former": 2}]
    assert sum(chosen for *_, chosen in found.tried) == 9
    found.facts |= {"command": "", "machine": ""}
    benchmark.write(found, tmp_path, None)
    assert (tmp_path / "LAND_COVER.md").read_text().count("| yes |") == 9
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["land_cover.png", "land_cover_teachers.png"]


def test_pixel_loss_is_added_to_the_own_loss_and_to_nothing_else():
    """A control that is called per-pixel but trains by the head's own loss would credit its gain to the peers."""
    model, inputs = tiny_segmenter("mask2former"), inputs_of("mask2former")
    inputs["valid_sizes"] = torch.full((2, 2), SIZE)
    labels = torch.randint(len(CLASSES), (2, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    labels[0, :8] = 255
    columns, losses = ClassColumns("m2f", len(CLASSES), None), []
    for task in (SemanticSegmentation(), SemanticSegmentation(pixel_loss_weight=3.0)):
        torch.manual_seed(0)
        answer, loss = task.supervised(model, dict(inputs), columns, labels)
        losses.append(loss)
    said = dense_log_probs(answer.outputs, (SIZE, SIZE), kind="query")
    expected = 3.0 * torch.nn.functional.nll_loss(said, labels, ignore_index=255)
    torch.testing.assert_close(losses[1] - losses[0], expected.expand(2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("arm", "pulled"), [("control", 0), ("pixel", 0), ("self", 1)])
def test_a_lone_peer_is_held_to_its_start_only_where_the_arm_says_so(arm, pulled):
    """Self-distillation that pulls nowhere would be a second control under another name."""
    objective = objective_of(Job(arm, 0, ("upernet",), (1e-3,), 4.0))
    live, start = torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2)
    teacher = objective.teachers(torch.zeros(1, 1), torch.tensor([True]))
    pull = objective.transfer(
        [live], [start] if objective.retain else None, teacher=teacher, labelled=torch.tensor([True])
    )
    assert objective.needs_starts is bool(pulled)
    assert (pull > 0).sum() == pulled


def test_fixed_teacher_learns_from_nobody():
    """Distillation whose teacher is also taught would be mutual transfer under another name."""
    objective = objective_of(Job("fixed", 0, benchmark.PEERS, (1e-3,) * 3, 1.0, "upernet"))
    objective.rule.bind(benchmark.PEERS, 2)
    said = [torch.tensor([[float(place), 0.0]]) for place in range(3)]
    teacher = objective.teachers(torch.zeros(3, 1), torch.tensor([True]))
    pull = objective.transfer(said, said, teacher=teacher, labelled=torch.tensor([True])).squeeze(1)
    assert (pull > 0).tolist() == [True, True, False]


def test_a_finished_training_is_read_and_not_run_again(tmp_path):
    """A restart that trains everything anew costs half an hour, one that mixes up jobs gives wrong numbers."""
    job = Job("control", 0, ("upernet",), (1e-3,))
    (tmp_path / f"{job.key}.json").write_text(json.dumps({"seconds": 7}))
    assert run(job, tmp_path / "no tiles", tmp_path) == {"seconds": 7}
    others = [
        dataclasses.replace(job, seed=1),
        dataclasses.replace(job, rates=(3e-4,)),
        dataclasses.replace(job, weight=1.0),
    ]
    assert len({job.key, *(one.key for one in others)}) == 4
