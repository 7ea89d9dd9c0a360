"""Atomic writes."""

import errno
import os

import pytest
from safetensors import SafetensorError

from hf_clipalign import ClipAlignError
from hf_clipalign._files import atomic_file, atomic_folder


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
