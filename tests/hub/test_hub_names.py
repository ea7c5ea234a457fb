"""Names of repositories, branches and peers, checked before anything is sent."""

from pathlib import Path

import pytest
from hub_run import push

from hf_mutual_kd import HubError, RunRecord
from hf_mutual_kd.hub.names import PushTarget, names_of, slug


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"namespace": "../ada"}, "namespace '../ada' is no user"),
        ({"revision": "a..b"}, "revision 'a..b' is no branch name"),
        ({"peers": ["aa"]}, r"no peer 'aa' \(nearest: a\); it has a, b, c, d"),
        ({"name_template": "{peer}-{secret}"}, "name_template has {secret}; it can hold"),
        ({"name_template": "{peer.__class__}"}, "name_template has {peer.__class__}"),
        ({"name_template": "{peer"}, "cannot be read"),
        ({"name_template": "x"}, "gives two peers the repository ada/x"),
        ({"name_template": "{peer}--x"}, "cannot be pushed as 'ada/a--x'"),
        ({"name_template": "x/{peer}"}, "the namespace is an option of its own"),
    ],
)
def test_names_are_checked_before_anything_is_sent(hub, run, options, message):
    """A name that only the server refuses fails after the first peers are pushed."""
    with pytest.raises(HubError, match=message):
        push(hub, run, **options)
    assert hub.requests == []


def test_names_from_outside_become_parts_of_repository_names():
    """A data set called `…/Été & co.` must not break the push of a trained cohort."""
    assert slug("Fashion MNIST!") == "fashion-mnist"
    assert slug("Été -- & co..") == "ete-co"
    assert slug("../../etc") == "etc"
    assert slug("数据") == "data"
    assert len(slug("x" * 200)) == 40
    dataset = {"name": "zalando/fashion_mnist"}
    record = {"task": "image-classification", "peers": {"a--b-": {}}, "dataset": dataset}
    run = RunRecord(Path("run"), record, {})
    assert names_of(run, list(run.peers), PushTarget("ada")) == {"a--b-": "ada/a-b-fashion_mnist-mutual"}
