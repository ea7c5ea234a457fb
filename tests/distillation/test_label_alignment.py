"""Label spaces by name: what is mapped, and what is refused with which words."""

from __future__ import annotations

import pytest

from hf_mutual_kd import ConfigError, LabelError, align_labels


@pytest.mark.parametrize(
    ("peer", "data", "mode", "expected"),
    [
        (["a", "b", "c"], ["a", "b", "c"], "exact", None),
        (["crane", "ox", "crane"], ["crane", "ox", "crane"], "exact", None),
        (["Polar_Bear", "ox"], ["polar bear", " Ox "], "exact", None),
        (["b", "c", "a"], ["a", "b", "c"], "exact", [2, 0, 1]),
        (["B", "big_cat", "a"], ["A", "b", "Big  cat"], "exact", [2, 0, 1]),
        (["us", "US"], ["US", "us"], "exact", [1, 0]),
        (["a", "b", "c"], ["c", "a"], "subset", [2, 0]),
        (["a", "b", "c"], ["a", "b"], "subset", [0, 1]),
        (["x", "a", "x"], ["a"], "subset", [1]),
        (["LABEL_0", "LABEL_1"], ["cat", "dog"], "exact", None),
        (["cat", "dog"], ["LABEL_0", "LABEL_1"], "exact", None),
        (["caf\u00e9", "bar"], ["bar", "cafe\u0301"], "exact", [1, 0]),
        ([f"LABEL_{i}" for i in range(12)], sorted(map(str, range(12))), "exact", [0, 1, 10, 11, *range(2, 10)]),
        (sorted(map(str, range(12))), [f"LABEL_{i}" for i in range(12)], "exact", [0, 1, *range(4, 12), 2, 3]),
        ([f"LABEL_{i}" for i in range(11)], [f"c{i}" for i in range(11)], "exact", None),
        (["cat", "dog"], ["cat", "dog"], "new_head", None),
    ],
)
def test_columns(peer, data, mode, expected):
    """A wrong column trains a peer on the wrong class without any error."""
    assert align_labels("p", peer, dataset_labels=data, mode=mode) == expected


def test_columns_select_the_logits_of_each_label():
    """The inverse permutation has the same type and length and is wrong."""
    peer, data = ["b", "c", "d", "a"], ["a", "b", "c", "d"]
    columns = align_labels("p", peer, dataset_labels=data, mode="exact")
    assert [peer[column] for column in columns] == data


def test_aliases_are_tried_after_the_names():
    """timm names classes by synset id and describes them in words."""
    ids, words = ["n1", "n2", "n3"], ["tench, Tinca tinca", "goldfish", "n1"]
    assert align_labels(
        "p", ids, dataset_labels=["Goldfish", "tench, tinca tinca"], mode="subset", peer_aliases=words
    ) == [1, 0]
    assert align_labels("p", ids, dataset_labels=["n1"], mode="subset", peer_aliases=words) == [0]
    assert (
        align_labels(
            "p", ["n1", "n2"], dataset_labels=["crane", "crane"], mode="exact", peer_aliases=["crane", "crane"]
        )
        is None
    )
    with pytest.raises(ConfigError, match="1 aliases"):
        align_labels("p", ids, dataset_labels=["n1"], mode="subset", peer_aliases=["one"])


def test_a_peer_that_knows_more_is_pointed_to_subset():
    """The message must hold what one needs to go on."""
    with pytest.raises(LabelError) as caught:
        align_labels("vit-b", ["tench", "cat", "dog"], dataset_labels=["cat", "dog"], mode="exact")
    message = str(caught.value)
    assert "'vit-b' (3)" in message
    assert "(2)" in message
    assert "only the peer knows is 'tench'" in message
    assert "--label_alignment subset" in message


@pytest.mark.parametrize("mode", ["exact", "subset", "new_head"])
def test_a_label_that_the_peer_lacks_is_pointed_to_a_new_head(mode):
    """Advice that does not help sends people in circles: subset cannot work here."""
    with pytest.raises(LabelError, match="only the data set knows is 'owl'.*--label_alignment new_head") as caught:
        align_labels("p", ["cat", "dog", "cow"], dataset_labels=["cat", "owl", "dog"], mode=mode)
    assert "subset" not in str(caught.value)


@pytest.mark.parametrize(
    ("peer", "data"),
    [
        (["crane", "ox", "crane"], ["ox", "crane", "crane"]),
        (["crane", "ox", "emu"], ["ox", "crane", "crane"]),
        (["crane", "ox", "crane"], ["ox", "crane", "emu"]),
        (["Us", "uS", "ox"], ["us", "ox", "emu"]),
    ],
)
def test_doubled_labels_in_other_order_are_ambiguous(peer, data):
    """Which crane is the bird? Taking the first is right half of the time."""
    with pytest.raises(LabelError, match="ambiguous|only the data set knows"):
        align_labels("p", peer, dataset_labels=data, mode="exact")


def test_placeholders_of_other_length_are_refused():
    """LABEL_0 carries no name, so only equal length makes positions mean anything."""
    with pytest.raises(LabelError, match="new_head"):
        align_labels("p", ["LABEL_0", "LABEL_1", "LABEL_2"], dataset_labels=["cat", "dog"], mode="subset")
    with pytest.raises(LabelError):
        align_labels("p", ["LABEL_1", "LABEL_0"], dataset_labels=["cat", "dog"], mode="exact")


def test_empty_lists_and_unknown_modes_are_refused():
    """An empty list is a subset of everything."""
    with pytest.raises(LabelError, match="empty"):
        align_labels("p", ["a"], dataset_labels=[], mode="subset")
    with pytest.raises(LabelError):
        align_labels("p", [], dataset_labels=["a"], mode="exact")
    with pytest.raises(ConfigError, match="mode must be one of"):
        align_labels("p", ["a"], dataset_labels=["a"], mode="loose")


@pytest.mark.parametrize(
    ("peer", "data"),
    [
        ([f"LABEL_{i}" for i in range(3)], ["LABEL_2", "LABEL_0", "LABEL_1"]),
        (["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"]),
        (["LABEL_1", "LABEL_0"], ["cat", "dog"]),
        ([f"LABEL_{i}" for i in range(12)], sorted(f"c{i}" for i in range(12))),
        (sorted(map(str, range(1, 13))), [f"LABEL_{i}" for i in range(12)]),
    ],
)
def test_placeholders_in_an_unknown_order_are_refused(peer, data):
    """LABEL_2 is the third class for one who numbers and "c10" for one who sorts names as text: a guess."""
    with pytest.raises(LabelError, match=r"are no names.*id2label.*--label_alignment new_head"):
        align_labels("p", peer, dataset_labels=data)


def test_an_empty_name_is_no_class():
    """A class without a name matches nothing that anybody meant."""
    with pytest.raises(LabelError, match="Class 1 of the data set has an empty name"):
        align_labels("p", ["cat", ""], dataset_labels=["cat", " "])
