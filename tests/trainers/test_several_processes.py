"""Two processes with half of the batch each do what one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_clipalign.trainers.checkpoints import whole_checkpoints

SCRIPT = Path(__file__).parent / "prompt_runs.py"


def run(mode: str, processes: int, batch: int, folder: Path) -> dict:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(SCRIPT), mode, str(batch), str(folder)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(lines) == 1
    return json.loads(lines[0].removeprefix("RESULT "))


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("supervised", marks=pytest.mark.slow),
        pytest.param("kdpl", marks=pytest.mark.slow),
        "agnostic",
    ],
)
def test_two_processes_are_one_with_the_doubled_batch(mode: str, tmp_path: Path) -> None:
    one = run(mode, 1, 12, tmp_path / "one")
    two = run(mode, 2, 6, tmp_path / "two")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert len(one["losses"]) == 6
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert two["accuracy"] == pytest.approx(one["accuracy"])
    newest = whole_checkpoints(tmp_path / "two")[0]
    assert newest.name == "checkpoint-6"
    assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= {file.name for file in newest.iterdir()}
    assert one["prompts"].keys() == two["prompts"].keys()
    for name, value in one["prompts"].items():
        assert np.abs(np.array(value) - np.array(two["prompts"][name])).max() < 1e-5
