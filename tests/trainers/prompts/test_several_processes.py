"""Two processes with half of the batch each do what one process does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_clipalign.trainers.checkpoints import whole_checkpoints
from tests.processes import run_script
from tests.trainers.prompts.runs import run

SCRIPT = Path(__file__).parent / "runs.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("supervised", marks=pytest.mark.slow),
        pytest.param("kdpl", marks=pytest.mark.slow),
        "agnostic",
    ],
)
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
