"""The lanes of the Makefile: one that runs no test fails, and `.ci/run` says which ones it leaves out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILES = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "Makefile.lanes"))
LANES = re.findall(r"^(test[\w-]*|fuzz|mutants|bench):", MAKEFILES, flags=re.MULTILINE)


@pytest.mark.parametrize(("body", "status"), [("pass", 0), ("pytest.skip('not here')", 5), ("assert False", 1)])
def test_a_lane_in_which_nothing_passes_fails(tmp_path, body, status):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(f"import pytest\n\ndef test_it():\n    {body}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--must-pass-some", str(tmp_path)]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == status


def test_every_lane_of_tests_must_pass_some():
    recipes = re.findall(r"^\t.*(?:\$\(PYTEST\)|-m pytest\b).*$", MAKEFILES, flags=re.MULTILINE)
    assert recipes
    assert all("--must-pass-some" in recipe for recipe in recipes)


def test_ci_runs_a_lane_or_says_that_it_does_not():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert len(LANES) > 5
    for lane in LANES:
        assert re.search(rf"\bmake {lane}\b", script), lane
