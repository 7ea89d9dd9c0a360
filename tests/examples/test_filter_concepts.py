"""The example runs as it stands, without flags, and finds animals among animals."""

import os
import re
import subprocess
import sys
from pathlib import Path

from hf_clipalign.data import load_dictionary

EXAMPLE = Path(__file__).parents[2] / "examples" / "filter_concepts.py"


def test_runs_without_flags_and_keeps_animals(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1]), "COLUMNS": "200"}
    result = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    carried, chance = map(float, re.search(r"carry (\d+) % .* dictionary ([\d.]+) % are", result.stdout).groups())
    assert carried > 10 * chance
    kept = load_dictionary(tmp_path / "outputs" / "concepts" / "concepts.csv")
    assert {"giraffe", "frog", "penguin"} <= set(kept)
    assert (tmp_path / "outputs" / "concepts" / "concepts.png").stat().st_size > 10_000
