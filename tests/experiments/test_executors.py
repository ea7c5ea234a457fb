"""Where the arms of a suite run."""

import signal
import time

import pytest

from hf_mutual_kd import ConfigError
from hf_mutual_kd.experiments.executors import make_executor

SAYS = ["sh", "-c", "pwd; echo said; exit 3"]
LONG = ["sh", "-c", "echo began; sleep 250; echo ended"]
PLACES = [
    pytest.param("local", {}),
    pytest.param("slurm", {"cluster": "local", "timeout_min": 2}),
    pytest.param("ray", {"num_cpus": 0.5}, marks=pytest.mark.slow),  # a cluster of its own takes a while
]


def ended(job, within_s=60):
    ends = time.monotonic() + within_s
    while (code := job.poll()) is None:
        assert time.monotonic() < ends
        time.sleep(0.05)
    return code


@pytest.fixture
def interruptible():
    """What a shell starts in the background ignores SIGINT, with its children; submitit ends local jobs by it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("name", "options"), PLACES)
def test_commands_run_where_they_were_sent(name, options, tmp_path, monkeypatch):
    """An arm whose failure or words are lost counts as trained; one that runs elsewhere finds no suite."""
    pytest.importorskip({"slurm": "submitit"}.get(name, name if name == "ray" else "subprocess"))
    monkeypatch.chdir(tmp_path)
    place = make_executor(name, options, tmp_path)
    assert ended(place.start(SAYS, tmp_path / "log")) == 3
    assert (tmp_path / "log").read_text() == f"{tmp_path}\nsaid\n"
    assert ended(place.start(["true"], tmp_path / "log")) == 0
    job = place.start(LONG, tmp_path / "long")
    while not (tmp_path / "long").is_file() or not (tmp_path / "long").read_text():
        assert job.poll() is None
        time.sleep(0.05)
    job.terminate()
    job.wait()
    assert not (tmp_path / "long").read_text().endswith("ended\n")


def test_unknown_places_and_options_are_refused(tmp_path):
    """A typo that is told after the first job has waited for its turn."""
    with pytest.raises(ConfigError, match="executor must be one of local, slurm, ray, got 'slrm'"):
        make_executor("slrm", {}, tmp_path)
    with pytest.raises(ConfigError, match="'local' has no options, got timeout_min"):
        make_executor("local", {"timeout_min": 1}, tmp_path)
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match="do not fit executor 'slurm'.*timeout_minutes"):
        make_executor("slurm", {"cluster": "local", "timeout_minutes": 1}, tmp_path)
