"""Scripts of tests in processes of their own, one or several."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_RESULT = "RESULT "
_LEFT = "LEFT "


def launch(script: Path, *arguments: object, processes: int = 1, **environment: str) -> str:
    """What a script printed, under `torchrun` if there are several processes; it ends without an error.

    If it calls `report_what_is_left`, nothing is left.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), *map(str, arguments)]
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        command, env={**os.environ, **own, **environment}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {line for line in done.stdout.splitlines() if line.startswith(_LEFT)} <= {_LEFT + "0"}
    return done.stdout


def run_script(script: Path, *arguments: object, processes: int = 1) -> Any:
    """What a script printed as JSON after "RESULT ", once."""
    output = launch(script, *arguments, processes=processes)
    (result,) = (line for line in output.splitlines() if line.startswith(_RESULT))
    return json.loads(result.removeprefix(_RESULT))


def report_what_is_left() -> None:
    """Prints at the very end how many of gloo's threads are alive: each may kill the process with SIGABRT there."""
    atexit.register(_count_threads)


def _count_threads() -> None:
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    print(f"{_LEFT}{sum('gloo' in name for name in names)}", flush=True)
