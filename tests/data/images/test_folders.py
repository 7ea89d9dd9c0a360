"""Folders as strangers keep them: odd names, links in circles, files of other kinds, leftovers of systems."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import socket
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import GCDSplit, image_folder, open_source, read_image
from hf_clipalign.data.images import file_kinds

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1"


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (200, 10, 30)).save(path, "PNG")
    return path


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    file_kinds.register_heif.cache_clear()
    yield
    file_kinds.register_heif.cache_clear()


@pytest.mark.usefixtures("without_heif")
def test_other_kinds_of_files_are_counted_with_the_way_out(tmp_path, caplog) -> None:
    save(tmp_path / "a" / "1.PNG")
    for name in ("a/2.HEIC", "b/3.heif", "b/4.cr2", "b/c/5.DNG", "b/6.nef", "7.MOV", "notes.txt", "b/.hidden.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert image_folder(tmp_path).ids == ["a/1.PNG"]
    (record,) = caplog.records
    assert record.message == (
        f"{tmp_path}: not read are 3 RAW images (export them as JPEG or TIFF), "
        '2 HEIC images (pip install "hf_clipalign[heif]" to read them), 1 video (save frames of them as images)'
    )


@pytest.mark.usefixtures("without_heif")
def test_a_folder_of_nothing_else_says_what_it_holds(tmp_path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.heic").write_bytes(HEIC)
    with pytest.raises(ClipAlignError, match=r"no images .*; found 12 HEIC images \(pip install \"hf_clipalign\[heif"):
        image_folder(tmp_path)


def special_files(folder):
    """Broken links of three kinds, a FIFO, a socket, a link to a device; opening the FIFO would wait for ever."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "self.png").symlink_to("self.png")
    (folder / "class").symlink_to("/nonexistent/folder")
    os.mkfifo(folder / "pipe.png")
    (folder / "null.jpg").symlink_to(os.devnull)
    here = os.getcwd()
    try:
        os.chdir(folder)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("agent")
    finally:
        os.chdir(here)


SPECIAL_FILES = (
    r"3 broken links \(mend or delete: '{0}class', '{0}gone\.png', '{0}self\.png'\), 1 (FIFO|socket|device) .*"
    r"1 (FIFO|socket|device) .*1 (FIFO|socket|device) "
)


@pytest.mark.skipif(sys.platform == "win32", reason="needs FIFOs")
def test_broken_links_and_special_files_are_named_and_never_opened(tmp_path, caplog) -> None:
    save(tmp_path / "cat" / "1.png")
    special_files(tmp_path / "cat")
    (tmp_path / "cat" / ".hidden.png").symlink_to("nowhere.png")
    source = image_folder(tmp_path)
    assert source.ids == ["cat/1.png"]
    assert isinstance(source.fingerprint(), str)
    (record,) = caplog.records
    assert re.fullmatch(rf".*: not read are {SPECIAL_FILES.format('cat/')}.*", record.message)
    for name, kind in (("pipe.png", "FIFO"), ("agent", "socket"), ("null.jpg", "device")):
        assert f"1 {kind} (mend or delete: 'cat/{name}')" in record.message


@pytest.mark.skipif(sys.platform == "win32", reason="needs FIFOs")
def test_a_folder_of_special_files_alone_says_so(tmp_path) -> None:
    special_files(tmp_path)
    with pytest.raises(ClipAlignError, match=f"no images .*; found {SPECIAL_FILES.format('')}"):
        image_folder(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs FIFOs")
def test_special_files_are_no_classes_to_discover(tmp_path, caplog) -> None:
    for name in ("cat/1.png", "cat/2.png", "3.png"):
        save(tmp_path / name)
    special_files(tmp_path)
    assert GCDSplit.from_folder(tmp_path).class_names == ["cat"]
    assert "3 broken links" in caplog.text


@pytest.mark.usefixtures("without_heif")
def test_heic_by_another_name_and_avif_say_what_they_are(tmp_path, monkeypatch) -> None:
    (tmp_path / "phone.jpg").write_bytes(HEIC + bytes(100))
    with pytest.raises(ClipAlignError, match=r"phone\.jpg: is a HEIC image; pip install \"hf_clipalign\[heif\]\""):
        read_image(tmp_path / "phone.jpg")
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(ClipAlignError, match=r"is an AVIF image; pip install \"pillow>=11\.3\""):
        read_image(AVIF + bytes(100))


def test_heic_is_registered_where_its_plugin_is(tmp_path, monkeypatch, caplog) -> None:
    """With a reader that stands in for pillow-heif; `test_real_heic` takes the package where it is installed."""

    def register_heif_opener() -> None:
        def open_heic(stream, name):
            return Image.new("RGB", (6, 5), (1, 2, 3))

        monkeypatch.setitem(Image.OPEN, "HEIF", (open_heic, lambda prefix: prefix[4:12] == b"ftypheic"))

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register_heif_opener))
    file_kinds.register_heif.cache_clear()
    try:
        (tmp_path / "a.HEIC").write_bytes(HEIC + bytes(50))
        source = image_folder(tmp_path)
        assert source.ids == ["a.HEIC"]
        assert source.read(0).getpixel((0, 0)) == (1, 2, 3)
        assert not caplog.records
    finally:
        file_kinds.register_heif.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs the extra heif")
def test_real_heic(tmp_path) -> None:
    file_kinds.register_heif.cache_clear()
    assert file_kinds.register_heif()
    image = Image.new("RGB", (64, 32), (200, 40, 90))
    image.save(tmp_path / "a.heic")
    result = image_folder(tmp_path).read(0)
    assert result.size == (64, 32)
    assert all(abs(a - b) < 8 for a, b in zip(result.getpixel((5, 5)), (200, 40, 90), strict=True))


SYSTEM_FOLDERS = ("@eaDir", ".thumbnails", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information")


@pytest.mark.parametrize("folder", SYSTEM_FOLDERS)
@pytest.mark.parametrize("depth", ["", "cat/", "cat/deep/"])
def test_leftovers_of_systems_are_skipped(tmp_path, folder, depth) -> None:
    save(tmp_path / "cat" / "1.png")
    save(tmp_path / depth / folder / "cat" / "1.png")
    save(tmp_path / "cat" / "._1.png")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    source = image_folder(tmp_path)
    assert (source.ids, source.class_names) == (["cat/1.png"], ["cat"])


def test_leftovers_are_no_classes_to_discover(tmp_path) -> None:
    for name in ("cat/1.png", "cat/2.png", "unlabelled/3.png", "@eaDir/cat/1.png"):
        save(tmp_path / name)
    (tmp_path / "lost+found").mkdir()
    assert GCDSplit.from_folder(tmp_path).class_names == ["cat"]


def test_links_in_circles_to_themselves_and_to_nothing(tmp_path) -> None:
    save(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "cat" / "self.png").symlink_to("self.png")
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "cat" / "folder.png").mkdir()
    save(tmp_path / "cat" / "folder.png" / "2.JpEg")
    (tmp_path / "dog").symlink_to(tmp_path / "cat", target_is_directory=True)
    assert image_folder(tmp_path).ids == [
        *("cat/1.png", "cat/folder.png/2.JpEg"),
        *("dog/1.png", "dog/folder.png/2.JpEg"),
    ]


def test_folders_of_any_depth(tmp_path) -> None:
    folder, old = tmp_path, os.getcwd()
    try:
        for _ in range(300):
            folder = folder / "d"
            folder.mkdir()
        save(folder / "1.png")
        assert image_folder(tmp_path).ids == ["d/" * 300 + "1.png"]
    finally:
        os.chdir(old)


@pytest.fixture
def broken_names(tmp_path):
    """Two classes and a file whose names are Latin-1, as old archives unpack them."""
    root = os.fsencode(tmp_path / "bilder")
    for name in (b"caf\xe9/1.png", b"caf\xe8/\xfc.png", b"gut/1.png"):
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            Image.new("RGB", (4, 3)).save(stream, "PNG")
    with open(os.path.join(root, b"caf\xe8", b"z\xe9.png"), "wb"):
        pass
    return tmp_path / "bilder"


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_names_that_are_not_utf_8_can_be_written_everywhere(broken_names) -> None:
    source = image_folder(broken_names)
    assert source.class_names == ["caf\\xe8", "caf\\xe9", "gut"]
    assert source.ids == ["caf\\xe8/z\\xe9.png", "caf\\xe8/\\xfc.png", "caf\\xe9/1.png", "gut/1.png"]
    assert source.labels.tolist() == [0, 0, 1, 2]
    for text in (*source.ids, *source.class_names, source.name, repr(source)):
        text.encode("utf-8")
    assert pickle.loads(pickle.dumps(source)).fingerprint() == source.fingerprint()
    assert source.read(1).size == (4, 3)
    with pytest.raises(ClipAlignError, match=r"caf\\xe8/z\\xe9\.png: the file is empty") as caught:
        source.read(0)
    str(caught.value).encode("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_folder_whose_own_name_is_not_utf_8(tmp_path) -> None:
    root = os.fsdecode(os.fsencode(tmp_path) + b"/b\xe4")
    os.mkdir(root)
    with pytest.raises(ClipAlignError, match="no images") as caught:
        image_folder(root)
    str(caught.value).encode("utf-8")
    Image.new("RGB", (4, 3)).save(os.path.join(root, "1.png"))
    assert open_source(root).name.endswith("b\\xe4")


def test_control_characters_stay_out_of_messages(tmp_path) -> None:
    (tmp_path / "a\nb\x1b[31m.png").write_bytes(b"")
    with pytest.raises(ClipAlignError, match="the file is empty") as caught:
        image_folder(tmp_path).read(0)
    assert str(caught.value).isprintable()
