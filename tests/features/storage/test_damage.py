"""Damage of every kind of store is named, and mended where it can be; what the disk refuses deletes nothing."""

from __future__ import annotations

import builtins
import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign._io.staging import staging_path
from tests.features.storage.kinds import KINDS, content, shards


@pytest.fixture(scope="module", params=KINDS, ids=lambda name: name.replace(" ", "_"))
def made(request, tmp_path_factory):
    """A kind, two runs of it, and what each holds."""
    kind, folders = KINDS[request.param], [tmp_path_factory.mktemp(f"run{run}") for run in (1, 2)]
    return kind, folders, [kind.make(folder, run) for run, folder in enumerate(folders, 1)]


@pytest.fixture
def runs(made, tmp_path):
    kind, folders, values = made
    copies = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    return kind, copies, values


def told_and_mended(kind, folder, value, names, caplog):
    """Reading or making again names the file; afterwards the content is the right one, if it can be made again."""
    caplog.clear()
    before = content(folder)
    if kind.read is not kind.make:
        with pytest.raises(ClipAlignError) as caught:
            kind.read(folder, 1)
        assert "\n" not in str(caught.value)
        assert any(name in str(caught.value) for name in names), str(caught.value)
        assert content(folder) == before
    if kind.remade:
        with caplog.at_level(logging.WARNING):
            assert torch.equal(kind.make(folder, 1), value)
        assert any(name in caplog.text for name in names), caplog.text
        caplog.clear()
        assert torch.equal(kind.make(folder, 1), value)
        assert "again" not in caplog.text


def places(data):
    """Bytes to spoil: of the metadata, of the first tensor's entry, and of the content's beginning, middle and end."""
    length = int.from_bytes(data[:8], "little")
    header = data[: 8 + length]
    inside = [header.index(word) for word in (rb"key\": \"", rb"sha256\": \"", rb"\"meta\"", b"data_offsets")]
    return [*(place + 12 for place in inside), 8 + length, (8 + length + len(data)) // 2, len(data) - 1]


@pytest.mark.parametrize("spot", range(7))
def test_one_flipped_bit(runs, spot, caplog):
    kind, (folder, _), (value, _) = runs
    file = shards(folder)[0]
    data = bytearray(file.read_bytes())
    data[places(bytes(data))[spot]] ^= 1
    file.write_bytes(data)
    told_and_mended(kind, folder, value, [file.name], caplog)


@pytest.mark.parametrize("cut", [1, 100])
def test_a_file_that_is_cut_off(runs, cut, caplog):
    kind, (folder, _), (value, _) = runs
    file = shards(folder)[0]
    file.write_bytes(file.read_bytes()[:-cut])
    told_and_mended(kind, folder, value, [file.name], caplog)


def test_two_swapped_files(runs, caplog):
    kind, (folder, other), (value, _) = runs
    first, second = shards(folder)[:2] if len(shards(folder)) > 1 else (shards(folder)[0], shards(other)[0])
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    _other_run(kind, folder, value, [first.name, second.name], caplog)


def test_another_runs_shard(runs, caplog):
    kind, (folder, other), (value, _) = runs
    file = shards(folder)[0]
    shutil.copyfile(shards(other)[0], file)
    _other_run(kind, folder, value, [file.name], caplog)


def test_a_shard_copied_over_another(runs, caplog):
    kind, (folder, _), (value, _) = runs
    if len(shards(folder)) == 1:
        pytest.skip("has one shard")
    shutil.copyfile(shards(folder)[0], shards(folder)[1])
    told_and_mended(kind, folder, value, [shards(folder)[1].name], caplog)


def _other_run(kind, folder, value, names, caplog):
    """Folders mend it; a file that the user names may be sound and of something else: told, replaced if it is ours."""
    if kind in (KINDS["teacher of GCD"], KINDS["labelled embeddings"]):
        with pytest.raises(ClipAlignError) as caught:
            kind.make(folder, 1)
        assert names[0] in str(caught.value)
    else:
        told_and_mended(kind, folder, value, names, caplog)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_something_else_is_refused(tmp_path, name):
    kind = KINDS[name]
    kind.make(tmp_path, 1)
    for file in shards(tmp_path)[:1]:
        if kind.make in (KINDS["features"].make, KINDS["inversions"].make, KINDS["embeddings"].make):
            pytest.skip("the folder names its own files")
        file.write_bytes(b"somebody's notes")
        with pytest.raises(ClipAlignError, match=file.name):
            kind.make(tmp_path, 1)
        assert file.read_bytes() == b"somebody's notes"


CODES = [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.ENOENT]


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("door", ["open", "map"])
def test_what_the_disk_refuses_is_told_and_deletes_nothing(runs, code, door, monkeypatch, caplog):
    kind, (folder, _), (value, _) = runs
    before = content(folder)

    def refused(file, *args, **kwargs):
        if str(file).endswith(".safetensors") and str(folder) in str(file):
            raise OSError(code, os.strerror(code), str(file))
        return open_before(file, *args, **kwargs)

    def not_mapped(name, **kwargs):
        raise RuntimeError(f"unable to open file <{name}> in read-only mode: {os.strerror(code)} ({code})")

    open_before = builtins.open
    with monkeypatch.context() as patch:
        if door == "open":
            patch.setattr(builtins, "open", refused)
        else:
            patch.setattr(torch, "from_file", not_mapped)
        for use in (kind.read, kind.make):
            with pytest.raises(ClipAlignError, match=os.strerror(code)) as caught:
                use(folder, 1)
            assert "\n" not in str(caught.value)
            assert any(file.name in str(caught.value) for file in shards(folder))
    assert content(folder) == before
    assert torch.equal(kind.make(folder, 1), value)
    assert content(folder) == before
    assert "again" not in caplog.text


def test_strays_of_killed_runs_are_removed(runs):
    kind, (folder, _), (value, _) = runs
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for file in [file for file in folder.iterdir() if file.suffix in (".safetensors", ".json")]:
        name = staging_path(file, file.suffix).name.replace(f"~{os.getpid()}~", f"~{gone.pid}~")
        (folder / name).write_bytes(b"half")
        if file.suffix == ".safetensors":
            file.unlink()
    (folder / ".notes-x.safetensors").write_bytes(b"somebody's")
    assert torch.equal(kind.make(folder, 1), value)
    assert sorted(file.name for file in folder.glob(".*") if file.suffix != ".lock") == [".notes-x.safetensors"]


def test_a_single_file_of_another_run_is_damaged(tmp_path, monkeypatch):
    """Its seal and its description are right, but the key that it was written under is not that of its description."""
    from hf_clipalign.features.rows import FEATURES
    from hf_clipalign.features.storage import single_file

    values = {"values": torch.zeros(2, 3), "rows": torch.arange(2)}
    monkeypatch.setattr(type(FEATURES), "key", lambda self, described: "0" * 64)
    single_file.write_file(tmp_path / "a.safetensors", FEATURES, {"modality": "image"}, values)
    monkeypatch.undo()
    with pytest.raises(single_file.DamagedShard, match="it belongs to another run"):
        single_file.read_file(tmp_path / "a.safetensors", FEATURES, {"modality": "image"})
