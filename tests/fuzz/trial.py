"""One damaged input: put in the place of the sound one, read under a watch, and judged."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import resource
import shutil
import signal
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_clipalign import ClipAlignError
from tests.fuzz.readers import Reader

SECONDS = 10
"""What one input may take."""
LONGEST_MESSAGE = 400
MEMORY = 2 << 30
"""Bytes that reading may take beyond what the process holds before."""


class Hang(BaseException):
    """Reading took more than `SECONDS`."""


class Bench:
    """A folder of sound input for one reader, and the result of reading it.

    Args:
        name (`str`), reader (`Reader`): what is tested.
        folder (`Path`): an empty folder.
    """

    def __init__(self, name: str, reader: Reader, folder: Path):
        self.name, self.reader, self.folder = name, reader, folder
        folder.mkdir(parents=True, exist_ok=True)
        reader.make(folder)
        found = {file: kinds for pattern, kinds in reader.files.items() for file in sorted(folder.glob(pattern))}
        self.files = [(file, kinds) for file, kinds in found.items() if file.is_file()]
        assert self.files, f"no file to damage for {name}"
        self.content = {file: file.read_bytes() for file, _ in self.files}
        self.sound = {file: reader.read(folder, file) for file, _ in self.files}

    def problem(self, file: Path, content: bytes) -> str | None:
        """What is wrong with how the reader takes this content of a file; None where nothing is."""
        before = {path for path in self.folder.rglob("*") if path.is_file()}
        file.write_bytes(content)
        try:
            with watched():
                result = self.reader.read(self.folder, file)
                return self.reader.check(result, self.sound[file], self.folder)
        except ClipAlignError as error:
            return message_problem(str(error).replace(str(self.folder), ""))
        except (Exception, Hang, SystemExit) as error:
            return f"{type(error).__name__}: {str(error)[:300]} at {innermost(error)}"
        finally:
            for path in [path for path in self.folder.rglob("*") if path.is_file() and path not in before]:
                path.unlink()
            for path, sound in self.content.items():
                if path == file or not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(sound)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def message_problem(message: str) -> str | None:
    """An error for a user is one line that fits a terminal's window."""
    if not message.strip():
        return "an empty message"
    if "\n" in message.strip():
        return f"a message of several lines: {message[:300]!r}"
    return f"a message of {len(message)} characters: {message[:200]!r}" if len(message) > LONGEST_MESSAGE else None


def innermost(error: BaseException) -> str:
    """The last places that an error went through: in the package, and at its origin."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "hf_clipalign" in frame.filename]
    return ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in [*own[-1:], *frames[-1:]])


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Ends what takes longer than `SECONDS`, the whole process if Python cannot interrupt it."""

    def give_up(*_: Any) -> None:
        raise Hang(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def quiet_and_bounded() -> Iterator[None]:
    """No log lines, and at most `MEMORY` bytes more of data than now: an allocation beyond is a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    held = next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line
    )
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_DATA, (held * 1024 + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        logging.disable(level)
