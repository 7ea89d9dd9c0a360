"""Runs that are killed at random points and started again.

A fork server imports everything once, so a run starts in milliseconds. A run is killed by SIGKILL at its n-th call
that touches a file below its folder; or, so that long writes are hit in the middle, some milliseconds later by a
timer.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PRELOAD = ["torch", "transformers", "peft", "datasets", "pandas", "hf_clipalign.trainers.base", "tests.drills.jobs"]
PATIENCE = 120
_TOUCHING = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree", "tempfile.mkstemp"}
_KILLED = (-signal.SIGKILL, -signal.SIGALRM)

Job = Callable[[Path], None]


class Kill(NamedTuple):
    """Where a run dies: at its n-th call that touches a file, `delay` seconds after it."""

    call: int
    delay: float


class Outcome(NamedTuple):
    """How a run ended."""

    status: int
    calls: int
    error: str


class Killer:
    """Starts a job in a process of its own, kills it, starts it again, and compares what it leaves.

    Args:
        job (`Callable[[Path], None]`): importable by name; started again in the same folder, it resumes.
        folder (`Path`): an empty folder for this drill.
        contents (`Callable[[Path], dict[str, str]]`): what must be equal in the end. Default: every file's bytes.
        check (`Callable[[Path], None]`, *optional*): what must hold right after every kill.
        prepare (`Callable[[Path], None]`, *optional*): what is in the folder before the first start.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        contents: Callable[[Path], dict[str, str]] | None = None,
        check: Callable[[Path], None] | None = None,
        prepare: Callable[[Path], None] | None = None,
    ):
        self.job, self.folder, self.check, self.prepare = job, folder, check, prepare
        self.contents = contents or file_hashes
        self._groups: list[int] = []
        self.whole = self._begin("whole")
        outcome = self._run(self.whole, None)
        assert outcome.status == 0, outcome.error
        self.calls = outcome.calls
        assert self.calls > 1, "the job touches no file"
        self.expected = self.contents(self.whole)

    def kill_at_random(self, times: int, seed: int = 0, most_a_round: int = 4) -> int:
        """Kills at least `times` runs, in rounds that begin with an empty folder and end with an uninterrupted run.

        Returns:
            `int`: how many rounds that took.
        """
        rng, killed, n_rounds = random.Random(seed), 0, 0
        while killed < times:
            folder = self._begin(f"round-{n_rounds}")
            for _ in range(most_a_round):
                # early calls are as likely as late ones also where a resumed run makes few
                call = rng.randint(1, self.calls) if rng.random() < 0.7 else rng.randint(1, 1 + self.calls // 4)
                outcome = self._run(folder, Kill(call, rng.choice([0.0, 0.001, 0.01, 0.05])))
                if outcome.status == 0:
                    break
                assert outcome.status in _KILLED, outcome.error
                killed += 1
                if self.check is not None:
                    self.check(folder)
            outcome = self._run(folder, None)
            assert outcome.status == 0, outcome.error
            found = self.contents(folder)
            assert found == self.expected, different(found, self.expected)
            shutil.rmtree(folder)
            n_rounds += 1
            assert n_rounds < 10 * times, f"only {killed} of {n_rounds} runs could be killed"
        for group in self._groups:
            _wait_for_the_group(group)
        return n_rounds

    def _begin(self, name: str) -> Path:
        # one place for all rounds: folders may hold their own path
        folder = self.folder / "run"
        if name != "whole" and self.whole.exists():
            shutil.rmtree(self.whole)
        folder.mkdir(parents=True)
        if self.prepare is not None:
            self.prepare(folder)
        return folder

    def _run(self, folder: Path, kill: Kill | None) -> Outcome:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        with _own_main():
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(self.job, folder, kill, sender))
            process.start()
        sender.close()
        process.join(PATIENCE)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            return Outcome(1, 0, f"still running after {PATIENCE} s")
        self._groups.append(process.pid)
        calls, error = receiver.recv() if process.exitcode >= 0 and receiver.poll() else (0, "no report")
        return Outcome(process.exitcode, calls, error)


@contextlib.contextmanager
def _own_main() -> Iterator[None]:
    """Processes must not import the main module of pytest again."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    main.__spec__, main.__file__ = None, None
    try:
        yield
    finally:
        main.__spec__, main.__file__ = spec, file


def _child(job: Job, folder: Path, kill: Kill | None, report: Any) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # for the job's own workers, as in a run of its own
    count, own, text = [0], os.getpid(), str(folder)

    def hook(event: str, arguments: tuple) -> None:
        if event not in _TOUCHING or os.getpid() != own or not any(_below(item, text) for item in arguments):
            return
        count[0] += 1
        if kill is not None and count[0] == kill.call:
            if kill.delay:
                signal.setitimer(signal.ITIMER_REAL, kill.delay)
            else:
                os.kill(own, signal.SIGKILL)

    sys.addaudithook(hook)
    status, error = 0, ""
    try:
        job(folder)
    except BaseException:
        status, error = 1, traceback.format_exc()
    signal.setitimer(signal.ITIMER_REAL, 0)
    report.send((count[0], error))
    report.close()
    os._exit(status)


def _below(item: Any, folder: str) -> bool:
    return isinstance(item, (str, os.PathLike)) and os.fspath(item).startswith(folder)


def _wait_for_the_group(pid: int) -> None:
    """Workers of a killed run end by themselves, within seconds; one that does not is an error."""
    give_up = time.monotonic() + PATIENCE
    while _group_lives(pid):
        if time.monotonic() > give_up:
            os.killpg(pid, signal.SIGKILL)
            raise AssertionError(f"processes of the killed run live on after {PATIENCE} s")
        time.sleep(0.02)


def _group_lives(pid: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == pid and state != "Z":
                return True
    return False


def file_hashes(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, stray ones included."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def different(found: dict[str, str], expected: dict[str, str]) -> str:
    """Which files are missing, too many or other ones."""
    changed = sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name])
    return (
        f"missing {sorted(expected.keys() - found.keys())}, too many {sorted(found.keys() - expected.keys())}, "
        f"changed {changed}"
    )
