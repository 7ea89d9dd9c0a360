"""The example runs as it stands, without flags."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "image_search.py"


def test_runs_without_flags_and_the_stock_checkpoint_agrees(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1]), "TMPDIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("1. ") == 2
    stock, aligned = re.search(r"is (\d\.\d+) there and (\d\.\d+)", result.stdout).groups()
    assert abs(float(stock) - float(aligned)) < 1e-5
    assert list(tmp_path.glob("clip-image-*/model.safetensors"))
