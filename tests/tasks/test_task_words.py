"""The words of every task fit the task and the Hub."""

import ast
import json
import subprocess
import sys

import pytest
from hub_cards import PIPELINE_TAGS

from hf_mutual_kd import TASKS, OutputFolderError, TaskWords
from hf_mutual_kd.tasks.semantic_segmentation.heads import QUERY_HEADS

WORDS = {name: task.words for name, task in TASKS.items()}


def test_heads_with_queries_have_a_snippet_of_their_own():
    """A new head that gets code for another kind of outputs."""
    assert set(WORDS["semantic-segmentation"].snippets) == set(QUERY_HEADS)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_words_are_complete(words):
    """A table without the metric that decides, a tag that the Hub refuses, or code that is none."""
    assert words.metric in words.shown
    assert set(words.hub_metrics) <= set(words.shown)
    assert next(iter(words.hub_metrics)) == words.metric
    assert words.pipeline_tag in (None, *PIPELINE_TAGS)
    for snippet in (words.snippet, *words.snippets.values()):
        ast.parse(snippet.format(model='"me/model"', example='"x"'))


def test_shares_are_in_percent_and_other_numbers_are_not():
    """A factor of 100 that nobody sees."""
    maps, video = WORDS["semantic-segmentation"], WORDS["video-saliency"]
    assert (maps.text(0.4712), maps.text(0.0042, sign=True), maps.unit(0.4712)) == ("47.1", "+0.42", "47.1 %")
    assert (video.text(0.4712), video.text(-0.0042, sign=True), video.unit(0.4712)) == ("0.471", "-0.004", "0.471")
    assert (maps.column, video.column, maps.scale, video.scale) == ("mIoU %", "CC", 100, 1)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_a_record_carries_the_words_whole(words):
    """A card that says other things than the run's own page, or of a task that nobody knows nothing at all."""
    found = TaskWords.from_record(json.loads(json.dumps({"words": words.to_record()})))
    assert found.to_record() == json.loads(json.dumps(words.to_record())) | {"tags": words.tags}
    assert found.unit(0.5) == words.unit(0.5)


@pytest.mark.parametrize(
    "words", [None, {}, {"title": "x", "metric": "y"}, {"title": "x", "metric": "y", "shown": {"z": "z"}}, {"a": 1}]
)
def test_a_record_without_words_says_so(words):
    """A card of a run whose metric is guessed."""
    with pytest.raises(OutputFolderError, match="words"):
        TaskWords.from_record({"task": "mine", "words": words})


def test_words_need_no_torch():
    """`hf-mutual-kd push` or `card` that takes seconds to say that a folder is missing."""
    modules = [
        "hf_mutual_kd.reports.task_words",
        *(f"{task.__module__.rpartition('.')[0]}.words" for task in TASKS.values()),
    ]
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
