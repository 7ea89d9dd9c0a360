"""Thumbnails: made when asked for, kept within a limit, never of a file outside the collection."""

import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.app.serving import thumbnails as module
from hf_clipalign.app.serving.places import is_below, shown_file
from hf_clipalign.app.serving.thumbnails import SIDES, Thumbnails
from hf_clipalign.data.images.thumbnails import jpeg_thumbnail
from hf_clipalign.search import Files


def photo(path, size=(300, 200), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def size_of(data):
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.size


def test_a_thumbnail_is_a_small_jpeg_and_is_kept(tmp_path, monkeypatch):
    path, cache = photo(tmp_path / "a.png"), Thumbnails(tmp_path / "thumbnails")
    data = cache.get(path)
    assert size_of(data) == ("JPEG", (256, 171))
    monkeypatch.setattr(module, "jpeg_thumbnail", lambda *given: pytest.fail("made again"))
    assert cache.get(path) == data
    assert Thumbnails(tmp_path / "thumbnails").get(path) == data, "a new process knows it"
    assert cache.total == len(data) == sum(file.stat().st_size for file in (tmp_path / "thumbnails").iterdir())


def test_a_changed_file_and_another_size_have_thumbnails_of_their_own(tmp_path):
    path, cache = photo(tmp_path / "a.png"), Thumbnails(tmp_path / "thumbnails")
    first, large = cache.get(path), cache.get(path, "large")
    assert size_of(large) == ("JPEG", (300, 200))
    photo(tmp_path / "a.png", seed=1)
    os.utime(path, (1, 1))
    assert cache.get(path) not in (first, large)


def test_the_one_that_was_not_used_for_longest_goes_first(tmp_path):
    paths = [photo(tmp_path / f"{number}.png", seed=number) for number in range(4)]
    size = max(len(jpeg_thumbnail(path, SIDES["small"])) for path in paths)
    cache = Thumbnails(tmp_path / "thumbnails", max_bytes=3 * size)
    names = []
    for path in paths[:3]:
        cache.get(path)
        names.append(list(cache._sizes)[-1])
    cache.get(paths[0])
    cache.get(paths[3])
    assert names[1] not in cache._sizes
    assert names[0] in cache._sizes
    assert {file.name for file in (tmp_path / "thumbnails").iterdir()} == set(cache._sizes)
    assert cache.total <= cache.max_bytes


def test_a_smaller_limit_holds_from_the_start(tmp_path):
    cache = Thumbnails(tmp_path / "thumbnails")
    for number in range(3):
        cache.get(photo(tmp_path / f"{number}.png", seed=number))
    assert Thumbnails(tmp_path / "thumbnails", max_bytes=1).total == 0
    assert list((tmp_path / "thumbnails").iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"\xff\xd8 cut", b"something else"])
def test_a_damaged_thumbnail_is_made_again(tmp_path, damage):
    path, cache = photo(tmp_path / "a.png"), Thumbnails(tmp_path / "thumbnails")
    data = cache.get(path)
    (file,) = (tmp_path / "thumbnails").iterdir()
    file.write_bytes(damage)
    assert cache.get(path) == data
    assert file.read_bytes() == data
    file.unlink()
    assert cache.get(path) == data
    assert cache.total == len(data)


def test_without_room_on_the_disk_thumbnails_are_made_each_time(tmp_path):
    (tmp_path / "file").write_text("no folder")
    cache = Thumbnails(tmp_path / "file" / "thumbnails")
    path = photo(tmp_path / "a.png")
    assert cache.get(path) == cache.get(path)
    assert cache.total == 0


def test_many_threads_ask_for_the_same(tmp_path):
    path, cache = photo(tmp_path / "a.png"), Thumbnails(tmp_path / "thumbnails")
    got = []
    threads = [threading.Thread(target=lambda: got.append(cache.get(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len(set(got)) == 1
    assert cache.total == len(got[0])


def test_an_image_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    cache = Thumbnails(tmp_path / "thumbnails")
    for name in ("a.png", "gone.png"):
        with pytest.raises(ClipAlignError) as error:
            cache.get(str(tmp_path / name))
        assert "\n" not in str(error.value)


def table(root, *names):
    zeros = np.zeros(len(names), np.int64)
    return Files([str(root)], zeros, list(names), zeros, zeros.astype(float), np.arange(len(names)))


def test_only_files_of_the_collection_are_shown(tmp_path):
    root, outside = tmp_path / "photos", tmp_path / "photos-private"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    for folder in (root, root / "sub", outside):
        photo(folder / "a.png")
    (root / "inside.png").symlink_to(root / "sub" / "a.png")
    (root / "outside.png").symlink_to(outside / "a.png")
    (root / "relative.png").symlink_to("../photos-private/a.png")
    (root / "folder").symlink_to(outside)
    os.mkfifo(root / "pipe.png")
    names = [
        "a.png",
        "sub/a.png",
        "inside.png",
        "outside.png",
        "relative.png",
        "folder/a.png",
        "../photos-private/a.png",
    ]
    files = table(root, *names, str(outside / "a.png"), "sub", "pipe.png", "gone.png")
    assert [shown_file(files, number) for number in range(3)] == [
        str(root / "a.png"),
        str(root / "sub" / "a.png"),
        str(root / "sub" / "a.png"),
    ]
    for number in (*range(3, len(files)), -1, len(files), 10**9):
        with pytest.raises(ClipAlignError) as error:
            shown_file(files, number)
        assert str(tmp_path) not in str(error.value), "where files lie is not told"


def test_a_root_that_is_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    photo(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert shown_file(table(tmp_path / "link", "a.png"), 0) == str(tmp_path / "real" / "a.png")


def test_a_name_that_begins_alike_is_not_below():
    assert is_below("/photos/a.png", "/photos")
    assert not is_below("/photos-private/a.png", "/photos")
    assert is_below("/a.png", "/")
