"""The page that joins the suites: what was not run is said, figures are found, and the study's numbers by hand."""

# ruff: noqa: E402 - recipes are scripts, importable only once their folder is on the path

import sys
from pathlib import Path

import pytest

SUITES = Path(__file__).parents[2] / "recipes" / "suites"
sys.path.insert(0, str(SUITES))

import collect

PEERS = "setting,pair,peer,start,delta,ensemble_minus_best_on_validation\n"


def write_suite(folder: Path, peers: str = PEERS) -> None:
    folder.mkdir(parents=True)
    (folder / "comparison.md").write_text("# name\n\ntitle.\n\n| a |\n\n![Differences per peer](comparison.png)\n")
    (folder / "comparison.csv").write_text("setting,delta\nworse,-0.1\nbetter,0.2\n")
    (folder / "peers.csv").write_text(peers)
    (folder / "comparison.png").write_bytes(b"png")


def test_every_suite_has_its_place_and_title():
    """A suite that is missing in the order would be left out of the page without a word."""
    assert set(collect.ORDER) == {path.stem for path in SUITES.glob("*.yaml")}
    for name in collect.ORDER:
        title = collect.title_of(SUITES / f"{name}.yaml")
        assert len(title) > 20
        assert "make_peers" not in title
        assert "Start it" not in title


def test_page_names_what_was_not_run(tmp_path):
    """A page without the suites that failed reads as if all were there."""
    write_suite(tmp_path / "runs" / "teachers")
    assert collect.main(["--suites", str(tmp_path / "runs"), "--output", str(tmp_path)]) == 0
    page = (tmp_path / "SUITES.md").read_text()
    assert "Not run: temperature_weight, n_peers" in page
    assert "- **teachers**: better, worse." in page
    assert "![Differences per peer](suite_teachers.png)" in page
    assert (tmp_path / "suite_teachers.png").read_bytes() == b"png"


def test_nothing_to_collect_is_said(tmp_path, capsys):
    """An empty page in place of an error would replace the one that is there."""
    with pytest.raises(SystemExit):
        collect.main(["--suites", str(tmp_path), "--output", str(tmp_path)])
    assert "holds no finished suite" in capsys.readouterr().err
    assert not (tmp_path / "SUITES.md").exists()


def test_study_takes_a_peers_mean_over_seeds(tmp_path):
    """Seeds that count as further peers make a correlation look surer than it is."""
    rows = (
        "best,a+b,a,0.5,0.1,0.0\nbest,a+b,a,0.5,0.3,0.0\nbest,a+b,b,0.75,0.1,0.0\n"
        "best,c+d,c,0.25,0.4,0.5\nbest,c+d,d,0.5,0.3,0.5\n"
    )
    write_suite(tmp_path / "pairs", PEERS + rows)
    ensemble, mine, partner = collect.study(tmp_path / "pairs").splitlines()[-3:]
    assert ensemble.startswith("| best | ensemble − best peer | +0.89 | ")
    assert mine.startswith("| best | ensemble − my accuracy | +1.00 | ")
    assert partner.startswith("| best | partner's − my accuracy | +0.45 | ")
    assert partner.endswith(" | 2 |")
