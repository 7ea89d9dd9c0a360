"""A copy of the tree, and a warm process whose forked children run tests in it, for the lane of `tests/mutants.py`."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.mutant_lines import Recorder

_COPIED = ("hf_clipalign", "tests", "examples", "model_cards", "benchmarks", "docs")
_PRELOAD = (
    *("torch", "transformers", "peft", "datasets", "pandas", "scipy.stats", "sklearn.cluster", "pytest", "PIL.Image"),
    *("hypothesis", "faiss", "accelerate", "evaluate", "matplotlib", "jinja2"),
)
# CPU and wall seconds beyond which a child is stopped, from the CPU seconds that its tests need without a mutant
_CPU, _WALL = (lambda seconds: 30 + 4 * seconds), (lambda seconds: 120 + 12 * seconds)


class Lane:
    """The copy that mutants are written into. Use it as a context manager: it is deleted at the end."""

    def __init__(self, root: Path, preload: Sequence[str] = _PRELOAD):
        self.root, self.preload = root, preload
        self.tree = Path(tempfile.mkdtemp(prefix="mutants-")).resolve()

    def __enter__(self) -> Lane:
        for name in _COPIED:
            if (self.root / name).exists():
                shutil.copytree(self.root / name, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in self.root.glob("[!.]*"):
            if file.is_file():
                shutil.copy(file, self.tree)
        (self.tree / "sitecustomize.py").write_text(
            "from tests.mutant_lines import trace_if_asked\n\ntrace_if_asked()\n"
        )
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        os.environ |= {"PYTHONPATH": str(self.tree)}
        for module in self.preload:
            __import__(module)
        assert not any(name.split(".")[0] == "hf_clipalign" for name in sys.modules), "the package is imported already"
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)

    def record(self, test_file: str, known: dict[str, Any]) -> dict[str, Any]:
        """The lines of the tests of a file, see `Recorder`; those of known tests that have not changed are kept."""
        record = self.tree / "record.json"
        record.unlink(missing_ok=True)

        def job() -> int:
            recorded = Recorder(self.tree, self.tree / "lines.txt", known).record(test_file)
            record.write_text(json.dumps(recorded))
            return 0

        ended = self._forked(job, 600)
        return json.loads(record.read_text()) if record.exists() else {"tests": known, "failed": [ended]}

    def run(self, file: str, content: bytes, tests: list[str], seconds: float) -> tuple[str, str]:
        """What the tests say of another content of a file: `("caught", test)` or `("survived", "")`."""
        target, log = self.tree / file, self.tree / "failed.txt"
        before, times = target.read_bytes(), (target.stat().st_atime_ns, target.stat().st_mtime_ns)
        log.unlink(missing_ok=True)
        target.write_bytes(content)
        try:
            ended = self._forked(lambda: _until_one_fails(tests, self.tree, log), seconds)
        finally:
            target.write_bytes(before)
            os.utime(target, ns=times)  # so that its compiled form is the right one again
        if log.exists():
            return "caught", log.read_text()
        return ("survived", "") if ended == "exit status 0" else ("caught", ended)

    def _forked(self, job: Callable[[], int], seconds: float) -> str:
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                self._enter_child(_CPU(seconds))
                status = job()
            finally:
                os._exit(status)
        give_up = time.monotonic() + _WALL(seconds)
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > give_up:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return "time-out"
            time.sleep(0.05)
        status = os.waitstatus_to_exitcode(done[1])
        return "time-out (CPU)" if status == -signal.SIGXCPU else f"exit status {status}"

    def _enter_child(self, cpu_seconds: float) -> None:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds), resource.RLIM_INFINITY))
        os.chdir(self.tree)
        sys.path[:] = [
            str(self.tree),
            *(place for place in sys.path if Path(place or ".").resolve() not in (self.root, self.tree)),
        ]
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)


def _until_one_fails(tests: list[str], tree: Path, log: Path) -> int:
    import pytest

    order = {name: place for place, name in enumerate(tests)}

    class Chosen:
        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                log.write_text(report.nodeid)

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                log.write_text(f"import of {report.nodeid}")

    files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={tree}"]
    return int(pytest.main([*options, *files], plugins=[Chosen()]))
