"""Scripts of tests in processes of their own, one or several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_RESULT = "RESULT "


def run_script(script: Path, *arguments: object, processes: int = 1) -> dict[str, Any]:
    """What a script printed as JSON after "RESULT ", once, under `torchrun` if there are several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), *map(str, arguments)]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_RESULT)]
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(lines) == 1
    return json.loads(lines[0].removeprefix(_RESULT))
