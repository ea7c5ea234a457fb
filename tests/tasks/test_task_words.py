"""The words of every task fit the task and the Hub."""

import ast
import subprocess
import sys

import pytest
from hub_cards import PIPELINE_TAGS

from hf_mutual_kd.reports.task_words import ONEFORMER_SNIPPET, QUERY_SNIPPET, TASK_WORDS, words_of


def test_words_and_tasks_name_the_same_metric():
    """A task whose results are looked up under a metric that it never measures."""
    from hf_mutual_kd.tasks.registry import TASKS

    for name, task in TASKS.items():
        assert (TASK_WORDS[name].metric, task.greater_is_better) == (task.metric, True)


def test_heads_with_queries_have_a_snippet_of_their_own():
    """A new head that gets code for another kind of outputs."""
    from hf_mutual_kd.tasks.semantic_segmentation.heads import QUERY_HEADS

    assert set(TASK_WORDS["semantic-segmentation"].snippets) == set(QUERY_HEADS)


@pytest.mark.parametrize("words", TASK_WORDS.values(), ids=TASK_WORDS)
def test_words_are_complete(words):
    """A table without the metric that decides, a tag that the Hub refuses, or code that is none."""
    assert words.metric in words.shown
    assert set(words.hub_metrics) <= set(words.shown)
    assert next(iter(words.hub_metrics)) == words.metric
    assert words.pipeline_tag in (None, *PIPELINE_TAGS)
    for snippet in (words.snippet, QUERY_SNIPPET, ONEFORMER_SNIPPET):
        ast.parse(snippet.format(model='"me/model"', example='"x"'))


def test_shares_are_in_percent_and_other_numbers_are_not():
    """A factor of 100 that nobody sees."""
    maps, video = TASK_WORDS["semantic-segmentation"], TASK_WORDS["video-saliency"]
    assert (maps.text(0.4712), maps.text(0.0042, sign=True), maps.unit(0.4712)) == ("47.1", "+0.42", "47.1 %")
    assert (video.text(0.4712), video.text(-0.0042, sign=True), video.unit(0.4712)) == ("0.471", "-0.004", "0.471")
    assert (maps.column, video.column, maps.scale, video.scale) == ("mIoU %", "CC", 100, 1)


def test_records_from_before_there_were_tasks_are_of_image_classification():
    """Kept runs that can no longer be read."""
    assert words_of({}) is TASK_WORDS["image-classification"]


def test_words_need_no_torch():
    """`hf-mutual-kd push` or `card` that takes seconds to say that a folder is missing."""
    code = "import sys, hf_mutual_kd.reports.task_words; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
