"""The lock, also on file systems that have none."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign._io.files import exclusive_lock


@pytest.fixture(params=["ENOLCK", "ENOTSUP", "ENOSYS"])
def no_locks(request, monkeypatch):
    code = getattr(errno, request.param)

    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_a_file_stands_for_the_lock(no_locks, tmp_path):
    with exclusive_lock(tmp_path / "lock", "taken"):
        held = json.loads((tmp_path / "lock.held").read_text())
        assert (held["pid"], held["host"]) == (os.getpid(), socket.gethostname())
        with pytest.raises(ClipAlignError, match="taken"), exclusive_lock(tmp_path / "lock", "taken"):
            pass
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]
    with exclusive_lock(tmp_path / "lock", "taken"):
        pass


HOLD = """
import errno, fcntl, sys
def refuse(*args): raise OSError(errno.ENOLCK, "no locks")
fcntl.lockf = refuse
from hf_clipalign._io.files import exclusive_lock
with exclusive_lock(sys.argv[1], "taken"): print("held", flush=True); sys.stdin.read()
"""


def test_a_killed_holder_is_told_and_replaced(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "lockf", lambda *args: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ClipAlignError, match=rf"taken \(.*process {holder.pid} on .* delete that file"):
            exclusive_lock(tmp_path / "lock", "taken").__enter__()
    finally:
        holder.kill()
        holder.communicate()
    with exclusive_lock(tmp_path / "lock", "taken"):
        assert json.loads((tmp_path / "lock.held").read_text())["pid"] == os.getpid()
    assert f"process {holder.pid}" in caplog.text


@pytest.mark.parametrize(
    "change", [{"host": "elsewhere"}, {"system": "another start"}, {"system": None}, {"pid": os.getpid()}]
)
def test_a_holder_that_may_live_is_never_replaced(no_locks, tmp_path, change):
    with exclusive_lock(tmp_path / "lock", "taken"):
        held = json.loads((tmp_path / "lock.held").read_text())
    gone = {**held, "pid": 2**22 + 1, **change}
    (tmp_path / "lock.held").write_text(json.dumps(gone))
    with pytest.raises(ClipAlignError, match="taken"):
        exclusive_lock(tmp_path / "lock", "taken").__enter__()
    assert json.loads((tmp_path / "lock.held").read_text()) == gone


@pytest.mark.parametrize("text", ["", "{", '{"pid": "x"}', "[" * 5000])
def test_an_unreadable_lock_file_is_one_that_is_held(no_locks, tmp_path, text):
    (tmp_path / "lock.held").write_text(text)
    with pytest.raises(ClipAlignError, match="unreadable"):
        exclusive_lock(tmp_path / "lock", "taken").__enter__()


def test_a_process_number_that_was_given_again_is_not_the_holder(no_locks, tmp_path, caplog):
    with exclusive_lock(tmp_path / "lock", "taken"):
        held = json.loads((tmp_path / "lock.held").read_text())
    (tmp_path / "lock.held").write_text(json.dumps({**held, "process": "1"}))
    with exclusive_lock(tmp_path / "lock", "taken"):
        pass
    assert "is gone" in caplog.text


def test_without_links_the_file_is_made_all_the_same(no_locks, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    with exclusive_lock(tmp_path / "lock", "taken"):
        assert json.loads((tmp_path / "lock.held").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock.held").exists()


def test_other_errors_of_the_lock_are_told(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(ClipAlignError, match="Input/output error"):
        exclusive_lock(tmp_path / "lock", "taken").__enter__()
