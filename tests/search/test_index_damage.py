"""Damage to the files of an index is found and mended; what the disk refuses costs nothing that was computed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.search import ImageIndex
from hf_clipalign.search.collection import compaction, embedding, manifest
from hf_clipalign.search.collection.manifest import Manifest
from tests.search.folders import LONG_AGO, begin, contents, update, write_image, write_images


@pytest.fixture(scope="module")
def whole(tmp_path_factory, checkpoint):
    """A folder with images and an index of them: three shards, a copy, a skipped file, a band and a setting."""
    base = tmp_path_factory.mktemp("whole")
    write_images(base / "images", 10)
    shutil.copy2(base / "images" / "a" / "000.png", base / "images" / "copy.png")
    (base / "images" / "broken.png").write_bytes(b"no image")
    os.utime(base / "images" / "broken.png", (LONG_AGO, LONG_AGO))
    index = begin(base / "images", base / "index", checkpoint, head=(1, 3))
    update(index)
    index.put_setting("calibration", [1, 2, 3])
    assert index.verify() == []
    return base


@pytest.fixture
def index(whole, tmp_path):
    shutil.copytree(whole / "index", tmp_path / "index")
    return ImageIndex.open(tmp_path / "index")


def state(index: ImageIndex) -> dict:
    """All that an index says, but for what differs after a repair."""
    index = ImageIndex.open(index.path)
    return {
        "features": contents(index),
        "skipped": index.status().skipped,
        "heads": {name: index.projector(name).tobytes() for name in index.heads},
        "setting": index.setting("calibration"),
    }


def alike(found: dict, expected: dict) -> bool:
    """Equal, but for the last bits of features that were computed again in a batch of other size."""
    features, wanted = found["features"], expected["features"]
    return found["skipped"] == expected["skipped"] and (
        features.keys() == wanted.keys()
        and all(
            np.allclose(np.frombuffer(features[n], "f4"), np.frombuffer(wanted[n], "f4"), atol=1e-5) for n in wanted
        )
    )


def file_of(index: ImageIndex, name: str) -> Path:
    return next(index.path.glob(name))


def flipped(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def test_every_kind_of_file_is_there(index):
    names = {path.name[:8] for path in index.path.iterdir()}
    assert names == {"features", "heads.sa", "index.sq", ".index.l"}


@pytest.mark.parametrize("file", ["features-00001-*", "heads.safetensors", "index.sqlite"])
def test_a_flipped_byte_is_found_and_mended_or_means_nothing(file, index):
    """Pages of a database have room that holds nothing: a byte there may be anything."""
    expected = state(index)
    path = file_of(index, file)
    original = path.read_bytes()
    positions = np.random.default_rng(0).integers(0, len(original), 60).tolist()
    n_found = 0
    for position in [*positions, 0, 17, len(original) - 1]:
        path.write_bytes(original)
        flipped(path, position)
        try:
            problems = ImageIndex.open(index.path).verify()
        except ClipAlignError as error:
            problems = [str(error)]
        assert all("\n" not in problem for problem in problems)
        if not problems:
            assert file == "index.sqlite"
            assert state(index) == expected, f"byte {position} was not found"
        n_found += bool(problems)
    path.write_bytes(original)
    assert n_found >= (5 if file == "index.sqlite" else 63)


@pytest.mark.parametrize("file", ["features-00001-*", "heads.safetensors", "index.sqlite"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing"])
def test_repair_makes_it_as_it_was(file, damage, index):
    expected, generation = state(index), index.generation
    path = file_of(index, file)
    if damage == "flipped":
        flipped(path, 20 if file == "index.sqlite" else path.stat().st_size // 2)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if damage == "cut" else 0])
    before = ImageIndex.open(index.path)
    assert before.verify() != []
    report = update(before, repair=True)
    assert report.embedded == report.embedded_again == (3 if file.startswith("features") else 0)
    assert (report.added, report.changed) == (0, 0)
    assert any(note.startswith("mended: ") for note in report.notes)
    again = ImageIndex.open(index.path)
    assert again.verify() == []
    assert alike(state(again), expected)
    assert state(again)["heads"] == expected["heads"]
    if file != "index.sqlite":
        assert state(again)["setting"] == [1, 2, 3]
    assert file.startswith("heads") or again.generation > generation
    assert update(again).reused == 11


def test_rows_of_the_database_prove_themselves(index):
    expected = state(index)
    changes = {
        "UPDATE files SET image = 1 WHERE name = CAST('b/001.png' AS BLOB)": "the row of 'b/001.png' is not as it was",
        "UPDATE files SET name = CAST('x' AS BLOB) WHERE name = CAST('b/001.png' AS BLOB)": "the row of 'x' is not",
        "UPDATE images SET digest = zeroblob(16) WHERE id = 3": "image 3 is not row 2 of shard 0",
        "UPDATE images SET row = 77 WHERE id = 3": "image 3 is not row 77 of shard 0",
        "UPDATE images SET size = 7 WHERE id = 3": "image 3 is not row 2 of shard 0",
        "DELETE FROM images WHERE id = 3": "a row of files points nowhere",
        "DELETE FROM images WHERE id > 3": "rows of files point nowhere",
        "UPDATE shards SET rows = 7 WHERE id = 1": "it is another one than index.sqlite says",
        "UPDATE settings SET value = '9' WHERE name = 'generation'": "the setting 'generation' is not",
        "UPDATE settings SET value = '{}' WHERE name = 'scanned'": "the setting 'scanned' is not",
        "UPDATE skipped SET reason = 'a'": "the row of 'broken.png' is not",
        "UPDATE roots SET path = CAST('/nowhere' AS BLOB)": "its folders are not those of the index",
        "DROP TABLE skipped": "no such table",
        "DELETE FROM settings": "the setting 'generation'",
    }
    original = (index.path / "index.sqlite").read_bytes()
    for statement, problem in changes.items():
        (index.path / "index.sqlite").write_bytes(original)
        with contextlib.closing(sqlite3.connect(index.path / "index.sqlite", isolation_level=None)) as connection:
            assert connection.execute(statement).rowcount != 0
        problems = ImageIndex.open(index.path).verify()
        assert any(problem in line for line in problems), (statement, problems)
        update(ImageIndex.open(index.path), repair=True)
        assert ImageIndex.open(index.path).verify() == [], statement
        assert alike(state(index), expected), statement


def test_images_that_a_new_database_does_not_find_are_embedded_again(index):
    """A shard is gone from the disk and from the database, whose images stay: five rows point nowhere."""
    expected = state(index)
    next(index.path.glob("features-00000-*")).unlink()
    with contextlib.closing(sqlite3.connect(index.path / "index.sqlite", isolation_level=None)) as connection:
        (n,) = connection.execute("SELECT count(*) FROM images WHERE shard = 0").fetchone()
        connection.execute("DELETE FROM shards WHERE id = 0")
    report = update(ImageIndex.open(index.path), repair=True)
    assert [note for note in report.notes if note.startswith("mended: ")] == [
        f"mended: index.sqlite: {n} rows of images point nowhere"
    ]
    assert (report.added, report.embedded_again, report.embedded) == (0, n, n)
    assert alike(state(index), expected)


def test_a_shard_that_is_not_recorded_is_found_and_adopted_or_removed(index, whole, monkeypatch):
    """What a run leaves that is killed between a shard and its record; and what no index needs."""
    stray = index.path / "features-00007-00000000.safetensors"
    shutil.copy(next(index.path.glob("features-00001-*")), stray)
    told = "it is not recorded (a run was killed): the next update uses or removes it"
    assert index.verify() == [f"{stray.name}: {told}"]
    update(index)
    assert (index.verify(), stray.exists()) == ([], False)


def test_files_of_a_missing_folder_stay_recorded_when_their_features_are_lost(tmp_path, checkpoint):
    write_images(tmp_path / "one", 4)
    write_images(tmp_path / "two", 4, first=10)
    index = begin([tmp_path / "one", tmp_path / "two"], tmp_path / "index", checkpoint)
    update(index)
    expected = state(index)
    shutil.move(tmp_path / "two", tmp_path / "aside")
    next(index.path.glob("features-00001-*")).unlink()
    report = update(index, repair=True)
    assert (report.reused, report.skipped, report.not_looked_at, len(index)) == (4, 0, 4, 4)
    assert all("its features were lost" in reason for _, reason in index.status().skipped)
    assert index.verify() == []
    shutil.move(tmp_path / "aside", tmp_path / "two")
    assert str(update(index)) == "+0, 4 reused, 4 embedded again"
    assert alike(state(index), expected)


def test_a_lost_database_is_made_again_also_for_folders_that_are_missing(tmp_path, checkpoint):
    write_images(tmp_path / "one", 4)
    write_images(tmp_path / "two", 4, first=10)
    index = begin([tmp_path / "one", tmp_path / "two"], tmp_path / "index", checkpoint)
    update(index)
    expected = state(index)
    shutil.move(tmp_path / "two", tmp_path / "aside")
    (index.path / "index.sqlite").unlink()
    report = update(ImageIndex.open(index.path), repair=True)
    assert (report.embedded, report.missing_roots) == (0, [str(tmp_path / "two")])
    assert state(index) == expected
    shutil.move(tmp_path / "aside", tmp_path / "two")
    assert (update(ImageIndex.open(index.path)).reused, state(index)) == (8, expected)


def test_a_damaged_index_says_so_where_it_is_used(index):
    shutil.copy(next(index.path.glob("features-00001-*")), index.path / "aside")
    next(index.path.glob("features-00001-*")).write_bytes(b"")
    with pytest.raises(ClipAlignError, match=r"features-00001.* is damaged .*: mend it with"):
        index.embeddings("raw").read(0, 10)
    next(index.path.glob("features-00001-*")).unlink()
    with pytest.raises(ClipAlignError, match=r"features-00001.* is damaged \(it is missing\): mend it with"):
        ImageIndex.open(index.path).embeddings("raw").read(0, 10)
    (index.path / "index.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(ClipAlignError, match=r"index.sqlite' is damaged .*mend it with"):
        len(ImageIndex.open(index.path))
    with pytest.raises(ClipAlignError, match="mend it with"):
        update(ImageIndex.open(index.path))
    (index.path / "heads.safetensors").unlink()
    with pytest.raises(ClipAlignError, match=r"index\.sqlite' is damaged"):
        ImageIndex.open(index.path)


@pytest.mark.parametrize("content", [None, b"short"], ids=["missing", "cut off"])
def test_an_update_names_a_shard_that_is_gone_and_repair_mends_it(index, content):
    shard = next(index.path.glob("features-00001-*"))
    shard.unlink() if content is None else shard.write_bytes(content)
    report = update(ImageIndex.open(index.path))
    (note,) = [line for line in report.notes if shard.name in line]
    assert ("is missing" if content is None else "has 5 bytes instead of") in note
    assert "--repair" in note
    assert not [line for line in update(ImageIndex.open(index.path), repair=True).notes if "--repair" in line]
    assert ImageIndex.open(index.path).verify() == []


def test_two_writers(index):
    code = (
        "import sys; from pathlib import Path; from hf_clipalign.search.collection.creation import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(index.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        for write in (
            lambda: update(index),
            index.compact,
            lambda: index.set_head((1, 2)),
            lambda: index.put_setting("a", 1),
        ):
            with pytest.raises(
                ClipAlignError, match=r"^another process writes to the index .*: wait until it has ended\.$"
            ):
                write()
        assert len(contents(ImageIndex.open(index.path))) == 11
        other.stdin.close()
    assert update(index).reused == 11


class FullDisk:
    """Refuses the n-th file that is written."""

    def __init__(self, monkeypatch, n):
        self.left, real = n, os.replace

        def replace(source, target):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            return real(source, target)

        monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_full_disk_keeps_the_shards_that_are_written(n, tmp_path, checkpoint, monkeypatch):
    write_images(tmp_path / "images", 10)
    index = begin(tmp_path / "images", tmp_path / "index", checkpoint)
    with monkeypatch.context() as patch:
        FullDisk(patch, n)
        with pytest.raises(ClipAlignError, match=r"^cannot write to .*: No space left on device. Make room.*$"):
            update(index)
    again = ImageIndex.open(index.path)
    assert (len(again), again.verify()) == (4 * n, [])
    report = update(again)
    assert (report.embedded, len(again)) == (10 - 4 * n, 10)


def test_a_disk_that_is_full_for_the_database_loses_no_shard(tmp_path, checkpoint, monkeypatch):
    write_images(tmp_path / "images", 10)
    index = begin(tmp_path / "images", tmp_path / "index", checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "insert_shard", lambda *_: (_ for _ in ()).throw(full()))
        with pytest.raises(ClipAlignError, match=r"^cannot write to .*index.sqlite.*full. Make room and run the same"):
            update(index)
    report = update(ImageIndex.open(index.path))
    assert (report.embedded, report.reused) == (6, 4)
    assert len(ImageIndex.open(index.path)) == 10


def full() -> sqlite3.Error:
    """What SQLite raises on a full disk."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA max_page_count = 1")
        try:
            connection.execute("CREATE TABLE t (a)")
        except sqlite3.Error as error:
            return error
    raise AssertionError("the disk is not full")


def test_nothing_is_computed_that_has_no_room(tmp_path, checkpoint, monkeypatch):
    write_images(tmp_path / "images", 3)
    index = begin(tmp_path / "images", tmp_path / "index", checkpoint)
    monkeypatch.setattr(embedding.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(embedding, "features_of", lambda *_: 1 / 0)
    with pytest.raises(ClipAlignError, match=r"0 MiB are free, the next images need 8 MiB\. Make room"):
        update(index)


def test_a_read_only_index_can_be_searched(index, monkeypatch):
    """SQLite needs files beside a database in WAL mode, which a read-only folder does not take."""
    expected, real = state(index), manifest._opened

    def opened(uri):
        if uri.endswith("mode=ro"):
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorname = "SQLITE_CANTOPEN"
            raise error
        assert uri.endswith("immutable=1") or "/clipalign-" in uri
        return real(uri)

    monkeypatch.setattr(manifest, "_opened", opened)
    assert state(index) == expected
    assert ImageIndex.open(index.path).verify() == []


def test_a_read_only_index_whose_last_changes_are_in_the_log(index, monkeypatch):
    """As a killed writer leaves it."""
    with Manifest(index.path).reading() as reader:
        reader.execute("SELECT count(*) FROM files").fetchone()
        index.put_setting("calibration", "new")
        shutil.copytree(index.path, index.path.parent / "copy")
    assert (index.path.parent / "copy" / "index.sqlite-wal").stat().st_size
    (index.path.parent / "copy" / "index.sqlite-shm").unlink(missing_ok=True)
    real = manifest._opened

    def opened(uri):
        if uri.endswith("mode=ro"):
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorname = "SQLITE_CANTOPEN"
            raise error
        return real(uri)

    monkeypatch.setattr(manifest, "_opened", opened)
    assert ImageIndex.open(index.path.parent / "copy").setting("calibration") == "new"


def test_a_read_only_index_says_so_when_it_is_written(index, monkeypatch):
    def refuse(path, flags, *rest):
        if str(path).endswith(".index.lock"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest)

    real = os.open
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ClipAlignError, match=r"^cannot write to .*: Read-only file system"):
        update(index)
    assert len(contents(index)) == 11


def test_compaction_keeps_what_is_there(tmp_path, checkpoint):
    write_images(tmp_path / "images", 12)
    index = begin(tmp_path / "images", tmp_path / "index", checkpoint)
    update(index)
    for number in (0, 5, 6):
        next(tmp_path.joinpath("images").rglob(f"{number:03d}.png")).unlink()
    update(index)
    expected = contents(index)
    assert (index.status().deleted, index.compact()) == (3, 3)
    assert (contents(index), index.verify(), index.status().deleted) == (expected, [], 0)
    assert len(list(index.path.glob("features-*"))) == index.status().shards == 3
    assert index.compact() == 0


def test_an_update_compacts_when_a_quarter_is_deleted(tmp_path, checkpoint):
    write_images(tmp_path / "images", 12)
    index = begin(tmp_path / "images", tmp_path / "index", checkpoint)
    update(index)
    shutil.rmtree(tmp_path / "images" / "b")
    update(index)
    assert (index.status().deleted, index.status().images, index.status().shards) == (0, 8, 2)
    assert index.verify() == []


def test_small_shards_become_large_ones(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(compaction, "SMALL_SHARDS", 3)
    (tmp_path / "images").mkdir()
    index = begin(tmp_path / "images", tmp_path / "index", checkpoint)
    for number in range(6):
        write_image(tmp_path / "images" / f"{number}.png", number)
        update(index)
    assert index.status().shards < 5
    assert (len(index), index.verify()) == (6, [])
    assert np.allclose(
        index.features().read(0, 6), index.encode_images(list(map(index.files.path, range(6)))), atol=1e-5
    )


def test_damage_is_not_copied_by_compaction(index):
    path = next(index.path.glob("features-00001-*"))
    flipped(path, path.stat().st_size - 4 * 48 * 2)
    (index.path / "x").touch()
    with contextlib.closing(sqlite3.connect(index.path / "index.sqlite", isolation_level=None)) as connection:
        connection.execute("DELETE FROM files WHERE image IN (SELECT id FROM images WHERE shard = 1 AND row = 0)")
    with pytest.raises(ClipAlignError, match=r"is damaged \(its content has changed\): mend it"):
        index.compact()


def test_a_reader_keeps_what_it_has_while_the_index_is_compacted(index, whole):
    reader = ImageIndex.open(index.path)
    rows = reader.embeddings("raw")
    before = rows.read(0, len(rows)).copy()
    with Manifest(index.path).writing() as connection:
        connection.execute("DELETE FROM files WHERE image IN (SELECT id FROM images WHERE row = 0)")
    assert index.compact() == 3
    assert np.array_equal(rows.read(0, len(rows)), before)
    assert (len(reader), reader.refresh(), len(reader)) == (10, True, 7)


def test_a_newer_format_is_no_damage(index):
    """Mending it would throw away what a newer version wrote."""
    with Manifest(index.path).writing() as connection:
        connection.execute("PRAGMA user_version = 7")
    before = (index.path / manifest.FILE).read_bytes()
    for action in (index.verify, lambda: update(ImageIndex.open(index.path), repair=True)):
        with pytest.raises(ClipAlignError, match=r"has format 7, .* reads 1: update hf_clipalign"):
            action()
    assert (index.path / manifest.FILE).read_bytes() == before
