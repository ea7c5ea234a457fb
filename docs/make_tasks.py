"""Makes docs/guides/tasks.md: which tasks there are, what of each is tested, and how many lines it took."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from hf_mutual_kd.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "tasks.md"

COLUMNS = (
    "train",
    "resume after kill −9",
    "two processes = one",
    "adapters",
    "export against PyTorch",
    "card whole",
    "report",
    "Space view",
)
REFUSED = "refused by name"
EVERY = "tests/tasks/test_every_task.py::"
KILLED = "tests/edges/test_edges_killed.py::test_it_does_so_at_every_moment"


@dataclass(frozen=True)
class Kind:
    """A row of the page.

    Args:
        title (`str`): what is classified, or found.
        task (`str`): its name in commands.
        guide (`str`): the page of it.
        files (`tuple[str, ...]`): patterns of the files that are of it alone, in the package.
        tests (`tuple[str, ...]`): for each of [`COLUMNS`] the test that fails where it breaks; `::slow` where it is
            for this task alone.
    """

    title: str
    task: str
    guide: str
    files: tuple[str, ...]
    tests: tuple[str, ...]


SAME = (
    EVERY + "test_cards_and_results_are_whole",
    KILLED,
    EVERY + "test_two_processes_train_as_one",
    EVERY + "test_adapters_are_trained_and_loaded_again",
    EVERY + "test_a_file_says_what_pytorch_says",
    EVERY + "test_a_cards_code_gives_the_trained_answers",
    EVERY + "test_the_page_shows_what_was_flipped",
    EVERY + "test_a_space_asks_the_peers",
)
OF_SEVERAL = (*SAME[:6], EVERY + "test_cards_and_results_are_whole", SAME[7])
SELDOM = (*SAME[:4], SAME[4] + "::slow", *OF_SEVERAL[5:])
CARDS = "tests/reports/test_model_card.py::test_the_whole_card_is_as_it_was_read_and_approved"
READING = "tests/experiments/test_zero_shot_recipe.py::"
SEGMENTING = "tests/tasks/semantic_segmentation/test_segmentation_training.py::"
GAZING = "tests/tasks/video_saliency/test_saliency_training.py::"
SEVERAL = ("data/label_sets.py", "distillation/multi_label.py", "tasks/classification/multi_label*.py")

KINDS = (
    Kind(
        "images",
        "image-classification",
        "../tutorial.md",
        (
            "tasks/image_classification/*.py",
            "tasks/image_classification/model/*.py",
            "data/images.py",
            "data/views.py",
        ),
        (
            "tests/experiments/test_experiment.py::test_results_hold_every_number_of_the_table",
            "tests/edges/test_edges_killed.py::test_a_killed_run_ends_where_it_would_have_ended",
            "tests/training/test_distributed.py::test_updates_and_losses_are_equal",
            "tests/peers/test_adapters.py::test_folders_are_those_of_stock_peft",
            "tests/export/test_onnx.py::test_the_file_gives_what_the_peer_gives_for_any_batch",
            CARDS,
            "tests/reports/test_html_report.py::test_every_section_is_there_and_named_in_the_navigation",
            "tests/hub/space/test_space.py::test_scores_are_those_of_the_training",
        ),
    ),
    Kind(
        "images, by models that read the classes' names",
        "image-classification",
        "zero_shot.md",
        ("tasks/zero_shot.py", "peers/zero_shot.py", "reports/reader_folder.py"),
        (
            "tests/peers/test_zero_shot.py::test_what_is_trained_is_what_the_stock_pipeline_loads",
            KILLED,
            EVERY + "test_two_processes_train_as_one",
            "tests/peers/test_zero_shot.py::test_an_adapter_leaves_the_text_tower_alone_and_the_stock_pipeline_loads_it",
            READING + "test_the_onnx_file_answers_as_the_trained_classes",
            READING + "test_cards_say_names_and_templates_and_their_code_gives_what_was_trained",
            READING + "test_the_report_has_a_row_of_every_reader",
            READING + "test_a_space_of_them_is_refused_by_name",
        ),
    ),
    Kind("texts", "text-classification", "text.md", ("tasks/text_classification/*.py",), SAME),
    Kind("sounds", "audio-classification", "audio.md", ("tasks/audio_classification/*.py", "data/audio.py"), SAME),
    Kind("videos", "video-classification", "video.md", ("tasks/video_classification/*.py",), SAME),
    Kind(
        "images, several labels",
        "multi-label-image-classification",
        "several_labels.md",
        (*SEVERAL, "tasks/image_classification/multi_label.py"),
        OF_SEVERAL,
    ),
    Kind(
        "texts, several labels",
        "multi-label-text-classification",
        "several_labels.md",
        ("tasks/text_classification/multi_label.py",),
        SELDOM,
    ),
    Kind(
        "sounds, several labels",
        "multi-label-audio-classification",
        "several_labels.md",
        ("tasks/audio_classification/multi_label.py",),
        SELDOM,
    ),
    Kind(
        "semantic segmentation",
        "semantic-segmentation",
        "segmentation.md",
        ("tasks/semantic_segmentation/*.py", "data/mask*.py"),
        (
            SEGMENTING + "test_trained_peers_are_ordinary_models",
            KILLED,
            SEGMENTING + "test_two_processes_see_what_one_sees",
            "tests/peers/test_adapters.py::test_segmentation_peer",
            "tests/export/test_export_tasks.py::test_a_segmentation_peer_is_checked_pixel_by_pixel",
            CARDS,
            "tests/reports/test_report_maps.py::test_the_page_has_every_section_and_no_hole",
            "tests/hub/space/test_space.py::test_maps_are_those_of_the_task",
        ),
    ),
    Kind(
        "where people look in videos",
        "video-saliency",
        "saliency.md",
        ("tasks/video_saliency/**/*.py",),
        (
            GAZING + "test_trained_peers_are_ordinary_models_with_their_code",
            KILLED,
            GAZING + "test_two_processes_see_what_one_sees",
            GAZING + "test_an_adapter_is_trained_and_loaded_again",
            "tests/export/test_export_tasks.py::test_a_model_of_clips_is_exported_with_its_cc",
            CARDS,
            "tests/reports/test_report_maps.py::test_the_page_has_every_section_and_no_hole",
            "tests/tasks/video_saliency/test_saliency_space.py::test_clips_and_scores_are_those_of_the_training",
        ),
    ),
)

INTRO = """# Which tasks there are

Made by `python docs/make_tasks.py`, not edited by hand. Peers of a task are checkpoints of its `AutoModelFor…` class,
or modules of your own; the second word of `hf-mutual-kd train`, or `--task`, names it; its metric chooses each peer's
weights. [A task of your own](own_task.md) is a few lines.

"""
TESTED = """
What a test holds of each; slow ones run with `make test-slow`.

"""
LINES = """
Lines of Python in the files that are of each alone: its folder, and what reads its kind of rows. All rest on the same
{shared:,} lines in `tasks/` and `tasks/classification/`; the first with several labels counts what all three have in
common. Videos' decoders, the views of frames and what all maps share are counted nowhere.

"""


def lines_of(kind: Kind) -> int:
    """Lines of a task's own files; files of several labels count for those alone."""
    package = ROOT / "hf_mutual_kd"
    files = {path for pattern in kind.files for path in package.glob(pattern)}
    if "several" not in kind.title:
        files -= {path for path in files if path.name.startswith("multi_label")}
    return _lines(files)


def _lines(files: set[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def shared_lines() -> int:
    """Lines that all tasks, and all classifiers, rest on."""
    tasks = ROOT / "hf_mutual_kd" / "tasks"
    files = {*tasks.glob("*.py"), *tasks.glob("classification/*.py")}
    return _lines({path for path in files if not path.name.startswith(("multi_label", "zero_shot"))})


def cell(test: str) -> str:
    """What the page says of a test: that it is there, that it is slow, or that it holds a refusal.

    Raises:
        `LookupError`: there is no such test.
    """
    path, name, *slow = test.split("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not found:
        raise LookupError(f"{path} has no {name}")
    if "refused" in name:
        return REFUSED
    return "slow" if slow or any("mark.slow" in ast.unparse(one) for one in found[0].decorator_list) else "yes"


def page() -> str:
    """The whole page."""
    about = [("what", "task", "classes of transformers", "chosen by", "pipeline", "score tables")]
    for kind in KINDS:
        task = TASKS[kind.task]
        models = " ".join(f"`{one.__name__}`" for one in task.auto_models)
        pipeline = "zero-shot-image-classification" if "names" in kind.title else task.words.pipeline_tag
        if "names" in kind.title:
            models = "`AutoModelForZeroShotImageClassification`"
        row = (f"[{kind.title}]({kind.guide})", f"`{kind.task}`", models, task.words.metric, pipeline or "none")
        about.append((*row, "yes" if task.keeps_scores else REFUSED))
    tested = [("", *COLUMNS)] + [(kind.title, *map(cell, kind.tests)) for kind in KINDS]
    lines = [("", "lines")] + [(kind.title, f"{lines_of(kind):,}") for kind in KINDS]
    counted = LINES.format(shared=shared_lines())
    return INTRO + table(about) + TESTED + table(tested) + counted + table(lines)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows as Markdown, the first as head."""
    head, *body = rows
    ruled = [head, ("---",) * len(head), *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in ruled)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
