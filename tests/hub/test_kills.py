"""A folder that is written while the process is killed is all of the old one or all of the new one."""

from pathlib import Path

import pytest

from tests.processes import run_script

DRILL = Path(__file__).parent / "kill_drill.py"


@pytest.mark.slow
def test_a_killed_export_or_push_leaves_the_old_folder_or_the_new_one(tmp_path):
    report = run_script(DRILL, tmp_path)
    assert set(report) == {"export", "save", "push"}
    for name, found in report.items():
        assert found["kills"] >= 20, name
        assert set(found["found"]) <= {"old", "new"}, name
        assert found["left"] == ["out"], name
    assert report["export"]["found"] == report["save"]["found"] == ["new", "old"]
