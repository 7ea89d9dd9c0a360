"""The example runs as it stands, without flags, and counts about as many animals as there are."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "count_classes.py"


def test_runs_without_flags_and_counts_animals(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])}
    result = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    numbers = re.search(r"(\d+) classes estimated, (\d+) are there, (\d+) were known", result.stdout).groups()
    estimated, there, known = map(int, numbers)
    assert (there, known) == (130, 65)
    assert 100 < estimated < 170
    assert (tmp_path / "outputs" / "classes.png").stat().st_size > 5_000
