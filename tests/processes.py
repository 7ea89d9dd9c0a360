"""Scripts of tests in processes of their own, one or several."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_RESULT = "RESULT "
_LEFT = "FOLDER_FOR_WHAT_IS_LEFT"
_PATIENCE = 10.0


def launch(script: Path, *arguments: object, processes: int = 1, **environment: str) -> str:
    """What a script printed, under `torchrun` if there are several processes; it ends without an error.

    Several processes call `report_what_is_left`, and nothing is left.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), *map(str, arguments)]
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryDirectory() as folder:
        everything = {**os.environ, **own, _LEFT: folder, **environment}
        done = subprocess.run(command, env=everything, capture_output=True, text=True, timeout=600, check=False)
        left = [file.read_text() for file in Path(folder).iterdir()]
    assert done.returncode == 0, done.stderr[-3000:]
    assert processes == 1 or left == [""] * processes
    return done.stdout


def run_script(script: Path, *arguments: object, processes: int = 1) -> Any:
    """What a script printed as JSON after "RESULT ", once."""
    output = launch(script, *arguments, processes=processes)
    (result,) = (line for line in output.splitlines() if line.startswith(_RESULT))
    return json.loads(result.removeprefix(_RESULT))


def report_what_is_left() -> None:
    """Tells `launch` at the very end which of gloo's threads live on: each may kill the process with SIGABRT there."""
    atexit.register(_report)


def _report() -> None:
    folder, give_up = os.environ.get(_LEFT), time.monotonic() + _PATIENCE
    while (left := _gloo_threads()) and time.monotonic() < give_up:
        time.sleep(0.01)  # one that was joined is listed a moment longer
    if folder:
        Path(folder, str(os.getpid())).write_text(" ".join(left))


def _gloo_threads() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            names.append((task / "comm").read_text().strip())
    return [name for name in names if "gloo" in name]
