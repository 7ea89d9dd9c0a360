"""Atomic writes."""

import errno
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hf_clipalign import ClipAlignError
from hf_clipalign._io import replacing as _replacing
from hf_clipalign._io import staging as _staging
from hf_clipalign._io.files import atomic_file, atomic_folder, explained_content
from hf_clipalign._io.staging import staging_folder


def write_half(path):
    path.write_text("half")
    raise ZeroDivisionError


def test_a_folder_appears_whole_and_keeps_other_files(tmp_path):
    target = tmp_path / "deep" / "model"
    target.mkdir(parents=True)
    (target / "keep.txt").write_text("kept")
    (target / "old.txt").write_text("old")
    with atomic_folder(target) as staging:
        (staging / "sub").mkdir()
        (staging / "old.txt").write_text("new")
        (staging / "sub" / "file.txt").write_text("inside")
        assert (target / "old.txt").read_text() == "old"
    assert (target / "keep.txt").read_text() == "kept"
    assert (target / "old.txt").read_text() == "new"
    assert (target / "sub" / "file.txt").read_text() == "inside"
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_failure_leaves_the_folder_as_it_was(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.txt").write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model") as staging:
        write_half(staging / "a.txt")
    assert (tmp_path / "model" / "a.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with atomic_file(path) as staging:
        staging.write_text("after")
        assert path.read_text() == "before"
        assert staging.suffix == ".json"
    assert path.read_text() == "after"
    with pytest.raises(ZeroDivisionError), atomic_file(path) as staging:
        write_half(staging)
    assert path.read_text() == "after"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
def test_a_place_that_cannot_be_written_is_named(writer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ClipAlignError, match=r"cannot write to .*file/inside"), writer(tmp_path / "file" / "inside"):
        pass
    if writer is atomic_folder:
        with pytest.raises(ClipAlignError, match="a file of that name exists"), writer(tmp_path / "file"):
            pass


@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(writer, error, tmp_path):
    with (
        pytest.raises(ClipAlignError, match=r"No space left on device.*Make room") as caught,
        writer(tmp_path / "new"),
    ):
        raise error
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(params=["exchange", "two renamings", "file by file"])
def way(request, monkeypatch):
    """Each way to replace a folder: that of this system, of others, and of mount points."""
    if request.param == "two renamings":

        def missing(one, other):
            raise OSError(errno.ENOSYS, "no such call")

        monkeypatch.setattr(_replacing, "_exchange_call", lambda: missing)
    elif request.param == "file by file":
        monkeypatch.setattr(_replacing, "_in_use", lambda target: True)
    return request.param


@pytest.mark.usefixtures("way")
def test_which_old_files_stay_can_be_chosen(tmp_path):
    target = tmp_path / "model"
    for keep, kept in ((True, {"b", "notes.txt"}), (False, set()), (lambda name: name == "notes.txt", {"notes.txt"})):
        fill(target, a="old", b="old", **{"notes.txt": "mine"})
        with atomic_folder(target, keep=keep) as staging:
            fill(staging, a="new", c="new")
        assert contents(target) == {"a": "new", "c": "new"} | {
            name: "mine" if name == "notes.txt" else "old" for name in kept
        }
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        for file in target.iterdir():
            file.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.usefixtures("way")
def test_others_may_read_what_the_umask_lets_them(tmp_path):
    for mask, folder_mode, file_mode in ((0o022, 0o755, 0o644), (0o027, 0o750, 0o640), (0o077, 0o700, 0o600)):
        before = os.umask(mask)
        try:
            with atomic_folder(tmp_path / f"model-{mask}") as staging:
                handle, _ = tempfile.mkstemp(dir=staging)
                os.close(handle)
            with atomic_file(tmp_path / f"file-{mask}") as staging:
                staging.unlink()
                os.close(os.open(staging, os.O_CREAT | os.O_WRONLY, 0o600))
        finally:
            os.umask(before)
        (file,) = (tmp_path / f"model-{mask}").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == file_mode
        assert stat.S_IMODE((tmp_path / f"file-{mask}").stat().st_mode) == file_mode
        assert stat.S_IMODE(file.parent.stat().st_mode) == folder_mode


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    fill(tmp_path / "real", a="old")
    (tmp_path / "link").symlink_to("real")
    with atomic_folder(tmp_path / "link") as staging:
        fill(staging, a="new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {"a": "new"}


def test_the_current_folder_is_not_taken_away(tmp_path, monkeypatch):
    fill(tmp_path / "here", a="old")
    monkeypatch.chdir(tmp_path / "here")
    with atomic_folder(".") as staging:
        fill(staging, a="new")
    assert Path("a").read_text() == "new"
    assert os.stat(".").st_ino == (tmp_path / "here").stat().st_ino


def test_a_file_that_another_process_adds_meanwhile_is_not_lost(tmp_path, monkeypatch):
    fill(tmp_path / "model", a="old")
    exchange = _replacing._exchange

    def late(staging, target):
        fill(target, **{"rng_state_1.txt": "of the other rank"})
        exchange(staging, target)

    monkeypatch.setattr(_replacing, "_exchange", late)
    with atomic_folder(tmp_path / "model") as staging:
        fill(staging, a="new")
    assert contents(tmp_path / "model") == {"a": "new", "rng_state_1.txt": "of the other rank"}


def test_a_failure_of_the_exchange_leaves_the_old_folder(tmp_path, monkeypatch):
    fill(tmp_path / "model", a="old")

    def refused(one, other):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(_replacing, "_exchange_call", lambda: refused)
    with pytest.raises(ClipAlignError, match="Permission denied"), atomic_folder(tmp_path / "model") as staging:
        fill(staging, a="new")
    assert contents(tmp_path / "model") == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("way")
def test_old_files_that_stay_are_in_folders_of_folders(tmp_path):
    target = tmp_path / "model"
    fill(target, config="old")
    (target / "notes" / "of").mkdir(parents=True)
    fill(target / "notes" / "of", monday="mine", tuesday="mine")
    with atomic_folder(target, keep=True) as staging:
        fill(staging, config="new")
    assert contents(target) == {"config": "new", "notes/of/monday": "mine", "notes/of/tuesday": "mine"}


def test_two_renamings_put_the_old_folder_back_where_the_second_fails(tmp_path, monkeypatch):
    fill(tmp_path / "model", a="old")
    rename = os.rename

    def missing(one, other):
        raise OSError(errno.ENOSYS, "no such call")

    def into_place_refused(one, other):
        if Path(other) == tmp_path / "model" and (Path(one) / "a").read_text() == "new":
            raise OSError(errno.EACCES, "Permission denied")
        rename(one, other)

    monkeypatch.setattr(_replacing, "_exchange_call", lambda: missing)
    monkeypatch.setattr(os, "rename", into_place_refused)
    with pytest.raises(ClipAlignError, match="Permission denied"), atomic_folder(tmp_path / "model") as staging:
        fill(staging, a="new")
    assert contents(tmp_path / "model") == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


DIES = """
import os, sys
from pathlib import Path
from hf_clipalign._io import replacing as _replacing
from hf_clipalign._io.files import atomic_file, atomic_folder
from hf_clipalign._io.staging import staging_folder
how, target = sys.argv[1], Path(sys.argv[2])
if how == "between":
    def missing(one, other):
        raise OSError(38, "no such call")
    _replacing._exchange_call = lambda: missing
    rename, calls = os.rename, []
    def once(one, other):
        if calls:
            os._exit(9)
        calls.append(rename(one, other))
    os.rename = once
writer = {"file": atomic_file, "staging": lambda path: staging_folder(path.parent, path.name)}.get(how, atomic_folder)
with writer(target) as staging:
    if how == "file":
        staging.write_text("half")
    else:
        (staging / "a").write_text("new")
    if how != "between":
        os._exit(9)
"""


@pytest.mark.parametrize("how", ["folder", "between", "file", "staging"])
def test_the_next_run_removes_what_a_killed_one_left(how, tmp_path):
    fill(tmp_path / "model", a="old")
    command = [sys.executable, "-c", DIES, how, str(tmp_path / ("file" if how == "file" else "model"))]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode == 9
    (tmp_path / ".keep").write_text("not ours")
    left = {file.name for file in tmp_path.iterdir()}
    assert len(left) == 3
    _staging.remove_stale_once.cache_clear()
    if how == "file":
        with atomic_file(tmp_path / "file") as staging:
            staging.write_text("whole")
    elif how == "staging":
        with staging_folder(tmp_path, "model"):
            pass
    else:
        with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model") as staging:
            write_half(staging / "a")
    assert {file.name for file in tmp_path.iterdir()} == {".keep", "model"} | ({"file"} if how == "file" else set())
    assert contents(tmp_path / "model") == {"a": "old"}


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with atomic_folder(tmp_path / "model") as staging:
        with atomic_folder(tmp_path / "other") as other:
            fill(other, a="new")
        assert staging.is_dir()
        fill(staging, a="new")
    assert contents(tmp_path) == {"model/a": "new", "other/a": "new"}


def test_what_a_dead_process_left_is_told_from_a_living_one_of_its_number(tmp_path):
    """Numbers of processes are given again, and a dead process that nobody waited for keeps its own."""
    began = _staging.started(os.getpid())
    if began is None:
        pytest.skip("the system does not say when a process started")
    dead = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    dead.stdout.read()
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    mine = _staging.staging_path(tmp_path / "mine")
    others = mine.with_name(mine.name.replace(f"-{began}", f"-{int(began) - 1}"))
    unwaited = mine.with_name(mine.name.replace(f"~{os.getpid()}~", f"~{dead.pid}~").removesuffix(f"-{began}"))
    for folder in (mine, others, unwaited):
        folder.mkdir()
    _staging.remove_stale(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == [mine.name]
    dead.wait()


@pytest.mark.parametrize("error", [KeyError("a"), RuntimeError("two\nlines"), OSError(5, "Input/output error")])
def test_what_a_library_raises_on_damaged_content_is_one_line(error, tmp_path):
    told = pytest.raises(ClipAlignError, match=r"t\.parquet' cannot be read \(.*\): replace it")
    with told as caught, explained_content(tmp_path / "t.parquet"):
        raise error
    assert "\n" not in str(caught.value)
