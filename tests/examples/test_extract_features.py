"""`examples/extract_features.py` without flags, twice, and in two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "extract_features.py"


def run(folder, *launcher):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(EXAMPLE)]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    assert "512 image features" in done.stdout
    return {file.name: file.read_bytes() for file in (folder / "outputs" / "features").iterdir()}


@pytest.mark.slow
def test_one_process_and_two_write_the_same(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    files = run(tmp_path / "one")
    assert run(tmp_path / "one") == files
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert run(tmp_path / "two", *launcher) == files
