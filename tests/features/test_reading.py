"""Worker processes that read images: killed, told to end, and left alone by their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_sharer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource
from hf_clipalign.features.reading import ImageJob, image_batches
from tests.features.cheap_encoder import cheap_processor

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0  # of a machine that has much else to do

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc of Linux")


class DeadlyItems:
    """Images, of which one kills the worker that reads it."""

    def __init__(self, deadly: int) -> None:
        self.deadly = deadly

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> np.ndarray:
        if row == self.deadly and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full((4, 4, 3), row, np.uint8)


def jobs():
    return [ImageJob(0, range(start, start + 2)) for start in range(0, 40, 2)]


def wait_until(condition) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize("deadly", [0, 21])
def test_a_killed_worker_is_one_clear_line(deadly) -> None:
    source = ImageSource(DeadlyItems(deadly), ids=list(map(str, range(40))), name="photos")
    with pytest.raises(ClipAlignError, match=r"reads images of photos was ended from outside.*num_workers") as caught:
        list(image_batches(source, cheap_processor, jobs(), num_workers=2))
    assert "\n" not in str(caught.value)
    wait_until(lambda: not multiprocessing.active_children())


def test_a_killed_worker_is_noticed_where_its_batch_is_waited_for_and_nowhere_else() -> None:
    source = ImageSource(DeadlyItems(21), ids=list(map(str, range(40))))
    batches = image_batches(source, cheap_processor, jobs(), num_workers=2)
    assert next(batches).rows == [0, 1]
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(lambda: not victim.is_alive())
    sum(range(100_000))  # where torch's own handler would raise
    with pytest.raises(ClipAlignError, match="ended from outside"):
        list(batches)


class RudeItems(DeadlyItems):
    """Images whose worker is called by someone who hangs up at once, as a process that ends does."""

    def __getitem__(self, row: int) -> np.ndarray:
        if torch.utils.data.get_worker_info() is not None:
            handle = resource_sharer.DupFd(0)
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(handle._id[0])
            os.close(handle.detach())  # served after the caller above
        return np.full((4, 4, 3), row, np.uint8)


class BrokenItems(DeadlyItems):
    """Images during whose reading a thread of the worker fails."""

    def __getitem__(self, row: int) -> np.ndarray:
        sys.excepthook(ValueError, ValueError("broken"), None)
        return np.full((4, 4, 3), row, np.uint8)


def test_a_worker_whose_parent_hangs_up_prints_nothing(capfd) -> None:
    source = ImageSource(RudeItems(0), ids=list(map(str, range(40))))
    assert len(list(image_batches(source, cheap_processor, jobs()[:4], num_workers=2))) == 4
    assert capfd.readouterr().err == ""


def test_a_worker_reports_other_errors_of_its_threads(capfd) -> None:
    source = ImageSource(BrokenItems(0), ids=list(map(str, range(40))))
    list(image_batches(source, cheap_processor, jobs()[:2], num_workers=1))
    assert capfd.readouterr().err.count("ValueError: broken") == 4


def test_other_errors_of_workers_pass_through() -> None:
    def broken(images, **_):
        raise RuntimeError("the processor is broken")

    source = ImageSource(DeadlyItems(-1), ids=list(map(str, range(40))))
    with pytest.raises(RuntimeError, match="the processor is broken"):
        list(image_batches(source, broken, jobs(), num_workers=0))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_another_thread_takes_waits_until_all_workers_are_begun(number, monkeypatch) -> None:
    begun: list[int] = []

    def end(*unused) -> None:
        begun.append(len(multiprocessing.active_children()))
        raise KeyboardInterrupt

    other = ThreadPoolExecutor(1)
    other.submit(os.getpid).result()  # a thread takes over what its parent blocks when it begins
    start = multiprocessing.process.BaseProcess.start

    def started_and_signalled(process) -> None:
        start(process)
        other.submit(os.kill, os.getpid(), number).result()

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", started_and_signalled)
    source = ImageSource(DeadlyItems(-1), ids=list(map(str, range(40))))
    handler = signal.signal(number, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(image_batches(source, cheap_processor, jobs(), num_workers=2))
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, handler)
    assert begun == [2]
    wait_until(lambda: not multiprocessing.active_children())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(300):
        Image.new("RGB", (64, 64), (number % 256, 0, 0)).save(folder / f"{number:03}.png")
    return folder


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_a_command_that_is_ended_leaves_no_worker_behind(photos, tmp_path, number, code) -> None:
    arguments = [photos, "--model", "mini-student", "--workers", "2", "--batch-size", "1", "--out", tmp_path / "out"]
    run = subprocess.Popen(
        [sys.executable, "-m", "hf_clipalign.cli", "embed", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    wait_until(lambda: len(children(run.pid)) >= 2 or run.poll() is not None)
    workers = children(run.pid)
    os.kill(run.pid, number)
    assert run.wait(timeout=PATIENCE) == code
    wait_until(lambda: not any(alive(worker) for worker in workers))
    printed = run.stderr.read()
    assert "Traceback" not in printed
    assert ("interrupted; run the same command again to resume" in printed) == (code == 130)


INTERRUPTED = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupt(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it
sys.meta_path.insert(0, Interrupt())
module = sys.argv[1]
from hf_clipalign.cli import main
sys.argv = ["clipalign", "spectrum", "--model", "mini-student"]
main()
"""


SLOW = [
    pytest.param(module, marks=pytest.mark.slow)
    for module in ("rich.console", "hf_clipalign.cli.app", "torch", "transformers.models.clip")
]


@pytest.mark.parametrize("module", ["typer", *SLOW])
def test_an_interrupt_during_imports_has_no_traceback(module) -> None:
    run = [sys.executable, "-c", INTERRUPTED, module]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 130
    assert done.stderr == "interrupted\n"
