"""Two processes with half of the batch each do what one process does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hf_clipalign.trainers.checkpoints import whole_checkpoints
from tests.processes import run_script
from tests.trainers.prompts.runs import run

SCRIPT = Path(__file__).parent / "runs.py"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["supervised", "kdpl", "agnostic"])
def test_two_processes_are_one_with_the_doubled_batch(mode: str, tmp_path: Path) -> None:
    _, one = run(mode, 12, tmp_path / "one")
    two = run_script(SCRIPT, mode, 6, tmp_path / "two", processes=2)
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


@pytest.mark.slow
def test_two_processes_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole = run_script(SCRIPT, "supervised", 6, folder, processes=2)
    shutil.rmtree(whole_checkpoints(folder)[0])
    resumed = run_script(SCRIPT, "supervised", 6, folder, "resume", processes=2)
    assert resumed["processes"] == 2
    assert resumed["losses"] == pytest.approx(whole["losses"], abs=1e-6)
    for name, value in whole["prompts"].items():
        assert np.abs(np.array(value) - np.array(resumed["prompts"][name])).max() < 1e-6
