"""The study behind the demo, whole: minutes, so it runs with the slow tests."""

import json
import os
import subprocess
import sys

import pytest

from hf_clipalign.data import mini as mini_module
from hf_clipalign.evaluation import mini_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study():
    return mini_study.run_mini_study("student", progress=False)


def test_the_numbers_are_those_of_the_readme(study):
    scores = {score.head: score for score in study.images.scores}
    expected = {
        "raw": 41.6,
        "pre-projection": 42.5,
        "centred": 41.0,
        "centred-each": 48.9,
        "isoclip": 44.3,
        "text-pca": 43.2,
    }
    for head, percent in expected.items():
        assert 100 * scores[head].metrics["map"] == pytest.approx(percent, abs=0.15)
    assert study.images.n_queries == 909
    assert study.image_search.band == (1, 48)
    assert scores["isoclip"].gain_interval[0] > 0
    assert scores["isoclip-compact"].metrics == pytest.approx(scores["isoclip"].metrics, abs=1e-3)
    assert scores["isoclip-compact"].width == 79


def test_the_verdict_says_what_the_intervals_say(study):
    assert "isoclip (+2.7)" in study.verdict
    assert "centred (-0.5) not clearly different" in study.verdict


def test_the_page_shows_before_and_after(study):
    tables, figures, matches = study.sections
    assert len(tables.tables) == 3
    assert len(figures.figures) == 3
    assert len(matches.match_rows) == 2 * (6 + 3 + 3)
    assert all(len(row.matches) == 8 for row in matches.match_rows)
    raw, isoclip = matches.match_rows[12], matches.match_rows[13]
    assert (raw.head, isoclip.head) == ("raw, gained", "isoclip")
    assert sum(match.relevant for match in isoclip.matches) >= sum(match.relevant for match in raw.matches)


def test_the_demo_runs_without_the_share_alike_images(monkeypatch, tmp_path):
    def without_openmoji(name):
        if name.startswith("openmoji/"):
            raise mini_study.ClipAlignError("the folder was deleted")
        return mini_module.ASSETS / name

    monkeypatch.setattr(mini_module, "_asset", without_openmoji)
    study = mini_study.run_mini_study("student", progress=False)
    assert study.images.tasks == ["fluent → noto", "fluent → twemoji", "twemoji → noto"]


def test_clipalign_demo(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", "from hf_clipalign.cli import main; main()", "demo", "--model", "teacher"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    results = json.loads((tmp_path / "demo-report" / "results.json").read_text())
    assert results["teacher"]["image_image"]["n_queries"] == 909
    page = (tmp_path / "demo-report" / "index.html").read_text()
    assert "teacher: query → top 8, before and after" in page
    assert page.count("<img") > 200
