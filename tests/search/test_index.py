"""The folder index follows its folders: what is new is embedded, nothing else, and nothing is lost or doubled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.search import ImageIndex
from hf_clipalign.search.collection import embedding, scanning
from hf_clipalign.search.collection.manifest import Manifest, get_setting, put_setting
from tests.search.folders import LONG_AGO, begin, contents, update, write_image, write_images
from tests.tiny_models import save_tiny, tiny_clip


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path / "images", 10)
    return tmp_path / "images"


@pytest.fixture
def index(root, tmp_path, checkpoint):
    index = begin(root, tmp_path / "index", checkpoint)
    update(index)
    return index


@pytest.fixture
def no_embedding(monkeypatch):
    def refuse(*_):
        raise AssertionError("an image was embedded")

    monkeypatch.setattr(embedding, "features_of", refuse)


def counts(report) -> dict[str, int]:
    names = ("added", "changed", "renamed", "deleted", "duplicate", "reused", "skipped", "not_looked_at")
    return {name: count for name in names if (count := getattr(report, name))}


def test_a_function_is_told_how_many_new_images_are_done(root, tmp_path, checkpoint):
    index, steps = begin(root, tmp_path / "index", checkpoint), []
    index.update(progress=lambda done, total: steps.append((done, total)), batch_size=3, num_workers=0)
    assert (steps[0], steps[-1]) == ((0, 10), (10, 10))
    assert len(steps) > 3, "also within a shard"
    assert steps == sorted(steps)
    write_image(root / "new.png", 77)
    steps.clear()
    index.update(progress=lambda done, total: steps.append((done, total)), num_workers=0)
    assert steps == [(0, 1), (1, 1)]


def test_a_new_index_holds_every_image_once_in_the_order_of_the_names(root, tmp_path, checkpoint):
    index = begin(root, tmp_path / "index", checkpoint)
    assert (len(index), len(index.files)) == (0, 0)
    report = update(index)
    assert counts(report) == {"added": 10}
    assert report.embedded == len(index) == 10
    assert index.files.names == sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    assert index.files.images.tolist() == list(range(10))
    assert set(index.files.classes) == {"a", "b", "c"}
    assert index.files.find(root / "a" / "000.png") == index.files.find("a/000.png") == 0
    assert (index.files.sizes[0], index.files.modified[0]) == ((root / "a" / "000.png").stat().st_size, LONG_AGO)


def test_features_are_those_of_the_model(index, root):
    features = index.encode_images([index.files.path(i) for i in range(10)])
    stored = index.features()
    assert np.allclose(stored.read(0, 10), features, atol=1e-5)
    embeds = index.embeddings("raw")
    expected = features @ index.projector("raw", "image").T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(embeds.read(0, 10), expected, atol=1e-5)
    order = np.array([9, 0, 3, 3])
    assert np.allclose(embeds.take(order), expected[order], atol=1e-5)
    assert np.allclose(embeds.read(3, 8), expected[3:8], atol=1e-5)
    assert embeds.read(4, 4).shape == (0, embeds.width)


def test_worker_processes_give_the_same_index(index, root, tmp_path, checkpoint):
    other = begin(root, tmp_path / "other", checkpoint)
    update(other, num_workers=2)
    assert contents(other) == contents(index)


def test_an_update_without_changes_opens_no_file_and_loads_no_model(index, monkeypatch, no_embedding):
    monkeypatch.setattr("hf_clipalign.search.collection.changes.file_content_hash", lambda path: 1 / 0)
    index = ImageIndex.open(index.path)
    before = index.generation
    assert counts(update(index)) == {"reused": 10}
    assert index.generation == before
    assert index._model is None


def test_new_changed_deleted_renamed_and_equal_files(index, root, tmp_path, checkpoint):
    shutil.move(root / "a" / "000.png", root / "b" / "renamed.png")
    shutil.copy2(root / "a" / "003.png", root / "c" / "copy.png")
    write_image(root / "a" / "006.png", 50)
    write_image(root / "new.png", 51)
    (root / "b" / "001.png").unlink()
    os.utime(root / "b" / "004.png", (LONG_AGO + 5, LONG_AGO + 5))
    report = update(index)
    expected = {"added": 1, "changed": 1, "renamed": 1, "deleted": 1, "duplicate": 1, "reused": 7}
    assert counts(report) == expected
    assert report.embedded == 2
    assert str(report) == "+1, −1, 1 changed, 1 renamed, 1 duplicate, 7 reused"
    assert (len(index.files), len(index)) == (11, 10)
    assert counts(update(index)) == {"reused": 11}
    fresh = begin(root, tmp_path / "fresh", checkpoint)
    update(fresh)
    found, wanted = contents(index), contents(fresh)
    assert found.keys() == wanted.keys()
    assert all(
        np.allclose(np.frombuffer(found[name], "f4"), np.frombuffer(wanted[name], "f4"), atol=1e-5) for name in found
    )


def test_renamed_and_touched_images_are_not_embedded_again(index, root, no_embedding):
    before = sorted(contents(index).values())
    shutil.move(root / "a", root / "z")
    for path in (root / "b").iterdir():
        os.utime(path, (LONG_AGO + 9, LONG_AGO + 9))
    assert counts(update(index)) == {"renamed": 4, "reused": 6}
    assert sorted(contents(index).values()) == before


def test_two_files_that_change_their_names_with_each_other(index, root, no_embedding):
    before = contents(index)
    one, other = root / "a" / "000.png", root / "a" / "003.png"
    one.rename(root / "x")
    other.rename(one)
    (root / "x").rename(other)
    os.utime(one, (LONG_AGO + 1, LONG_AGO + 1))
    os.utime(other, (LONG_AGO + 1, LONG_AGO + 1))
    assert counts(update(index)) == {"changed": 2, "reused": 8}
    after = contents(index)
    assert after[str(one)] == before[str(other)]
    assert after[str(other)] == before[str(one)]


def test_an_image_that_comes_back_is_not_embedded_again(index, root, tmp_path, no_embedding):
    shutil.move(root / "a" / "000.png", tmp_path / "aside.png")
    assert counts(update(index)) == {"deleted": 1, "reused": 9}
    assert index.status().deleted == 1
    shutil.move(tmp_path / "aside.png", root / "a" / "000.png")
    assert counts(update(index)) == {"reused": 10}
    assert (len(index), index.status().deleted) == (10, 0)


def test_equal_files_are_embedded_once(root, tmp_path, checkpoint):
    for number in range(5):
        shutil.copy2(root / "a" / "000.png", root / f"copy{number}.png")
    index = begin(root, tmp_path / "index", checkpoint)
    report = update(index)
    assert counts(report) == {"added": 10, "duplicate": 5}
    assert report.embedded == len(index) == 10
    row = index.files.images[index.files.find("copy3.png")]
    assert [index.files.names[i] for i in index.files.of_image(row)] == [
        "a/000.png",
        *(f"copy{number}.png" for number in range(5)),
    ]


def test_several_roots(root, tmp_path, checkpoint):
    write_images(tmp_path / "more", 5, first=8)
    index = begin([root, tmp_path / "more"], tmp_path / "index", checkpoint)
    assert counts(update(index)) == {"added": 13, "duplicate": 2}
    shutil.move(root / "a" / "000.png", tmp_path / "more" / "moved.png")
    assert counts(update(index)) == {"renamed": 1, "reused": 14}
    assert index.files.path(index.files.find(tmp_path / "more" / "moved.png")) == str(tmp_path / "more" / "moved.png")
    with pytest.raises(ClipAlignError, match=r"images/a lies in .*images: give one of them"):
        begin([root, root / "a"], tmp_path / "other", checkpoint)


def test_patterns_are_ignored_and_what_becomes_ignored_is_forgotten(root, tmp_path, checkpoint):
    write_image(root / "thumbs" / "deep" / "1.png", 60)
    write_image(root / "b" / "draft_1.png", 61)
    index = begin(root, tmp_path / "index", checkpoint, ignore=["thumbs/", "draft_*", "/c/00*.png", "!c/002.png"])
    update(index)
    assert [name for name in index.files.names if name.startswith(("t", "c", "b/d"))] == ["c/002.png"]
    with pytest.raises(ClipAlignError, match="ignore: "):
        begin(root, tmp_path / "other", checkpoint, ignore=["!"])


def test_a_messy_tree(tmp_path, checkpoint):
    root = tmp_path / "images"
    name = os.fsdecode(b"caf\xe9\n.png")
    deep = root.joinpath(*(["deeper"] * 40))
    for number, path in enumerate([root / name, deep / "1.png", root / "real" / "x.PNG", root / "a b" / "ü.png"]):
        write_image(path, number)
    write_image(root / ".hidden" / "1.png", 10)
    write_image(root / "@eaDir" / "1.png", 11)
    write_image(tmp_path / "outside" / "1.png", 12)
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "a link to real").symlink_to(root / "real")
    (root / "real" / "loop").symlink_to(root)
    (root / "nowhere.png").symlink_to(tmp_path / "missing.png")
    (root / "itself.png").symlink_to(root / "itself.png")
    (root / "file link.png").symlink_to(root / "real" / "x.PNG")
    os.mkfifo(root / "pipe.png")
    (root / "empty.png").touch()
    (root / "text.png").write_text("no image")
    (root / "folder.png").mkdir()
    for path in (root / "empty.png", root / "text.png"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    (root / "video.mp4").touch()
    (root / "notes.txt").touch()
    index = begin(root, root / "index", checkpoint)
    report = update(index)
    assert counts(report) == {"added": 5, "duplicate": 1, "skipped": 2}
    assert any("1 video (save frames of them as images)" in note for note in report.notes)
    shown = {"caf\\xe9\n.png", "/".join([*["deeper"] * 40, "1.png"]), "real/x.PNG", "a b/ü.png", "link/1.png"}
    assert set(index.files.names) == shown | {"file link.png"}
    place = index.files.find("caf\\xe9\n.png")
    assert index.files.path(place) == str(root / name)
    assert index.files.find(root / name) == place
    assert [(os.path.basename(path), reason.split(": ", 1)[1][:17]) for path, reason in index.status().skipped] == [
        ("empty.png", "the file is empty"),
        ("text.png", "is not an image i"),
    ]
    report = update(index)
    assert counts(report) == {"reused": 6, "skipped": 2}
    assert report.notes == []  # told once


def test_the_user_is_told_of_heic_images_once(root, tmp_path, checkpoint, monkeypatch):
    for module in ("hf_clipalign.data.images.file_kinds", "hf_clipalign.data.images.reader"):
        monkeypatch.setattr(f"{module}.register_heif", lambda: False)
    (root / "phone.heic").write_bytes(b"\0" * 20)
    index = begin(root, tmp_path / "index", checkpoint)
    assert any('1 HEIC image (pip install "hf_clipalign[heif]"' in note for note in update(index).notes)
    assert update(index).notes == []


def test_skipped_files_are_tried_again_only_when_something_changes(index, root, monkeypatch):
    broken = root / "broken.png"
    broken.write_bytes((root / "a" / "000.png").read_bytes()[:60])
    os.utime(broken, (LONG_AGO, LONG_AGO))
    assert counts(update(index)) == {"reused": 10, "skipped": 1}
    tried = []
    real = embedding.embed
    monkeypatch.setattr(
        "hf_clipalign.search.collection.updating.embed",
        lambda work, encoder, processor, candidates, book: (
            tried.extend(c.name for c in candidates) or real(work, encoder, processor, candidates, book)
        ),
    )
    assert counts(update(index)) == {"reused": 10, "skipped": 1}
    assert tried == []
    assert counts(update(index, repair=True)) == {"reused": 10, "skipped": 1}
    assert tried == [b"broken.png"]
    monkeypatch.setattr("hf_clipalign.search.index.reader_version", lambda: "a newer pillow")
    update(index)
    assert tried == [b"broken.png"] * 2
    write_image(broken, 70)
    assert counts(update(index)) == {"added": 1, "reused": 10}
    assert index.status().skipped == []
    write_image(root / "a" / "000.png", 71)
    (root / "a" / "000.png").write_bytes(b"x")
    assert counts(update(index)) == {"reused": 10, "skipped": 1}
    assert index.files.find("a/000.png") is None


def test_a_missing_root_is_not_forgotten(root, tmp_path, checkpoint):
    write_images(tmp_path / "disk", 4, first=20)
    index = begin([root, tmp_path / "disk"], tmp_path / "index", checkpoint)
    update(index)
    before = contents(index)
    shutil.move(tmp_path / "disk", tmp_path / "unplugged")
    report = update(index)
    assert report.missing_roots == index.status().missing_roots == [str(tmp_path / "disk")]
    assert counts(report) == {"reused": 10, "not_looked_at": 4}
    assert report.notes == [f"{tmp_path / 'disk'}: No such file or directory"]
    assert contents(index) == before
    shutil.move(tmp_path / "unplugged", tmp_path / "disk")
    assert counts(update(index)) == {"reused": 14}


def test_an_empty_mount_point_is_not_an_empty_folder(index, root):
    """The device of a folder tells whether something is mounted there."""
    shutil.move(root, root.parent / "aside")
    root.mkdir()
    with Manifest(index.path).writing() as connection:
        states = get_setting(connection, "scanned")
        put_setting(connection, "scanned", {str(root): states[str(root)] | {"device": 1}})
    report = update(index)
    assert report.missing_roots == [str(root)]
    assert "seems not to be mounted" in report.notes[0]
    assert len(index) == 10


def test_an_empty_folder_of_the_same_device_is_empty(index, root):
    shutil.rmtree(root)
    root.mkdir()
    assert counts(update(index)) == {"deleted": 10}
    assert (len(index), len(index.files), index.files.find("a/000.png")) == (0, 0, None)
    assert index.embeddings("raw").read(0, 5).shape == (0, 24)


def test_a_folder_that_cannot_be_read_is_not_forgotten(index, root, monkeypatch):
    real = os.scandir

    def refused(path):
        if str(path).rstrip("/").endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(scanning.os, "scandir", refused)
    report = update(index)
    assert counts(report) == {"reused": 7, "not_looked_at": 3}
    assert report.notes == [f"{root}/b/: cannot be read (Permission denied)"]
    assert len(index.files) == 10


def test_a_file_that_changes_while_it_is_read_is_read_again(root, tmp_path, checkpoint, monkeypatch):
    index = begin(root, tmp_path / "index", checkpoint)
    real, victim = embedding.features_of, root / "a" / "000.png"

    def changed_meanwhile(encoder, inputs):
        if not changed:
            changed.append(write_image(victim, 80))
            os.utime(victim, (LONG_AGO + 1, LONG_AGO + 1))
        return real(encoder, inputs)

    changed = []
    monkeypatch.setattr(embedding, "features_of", changed_meanwhile)
    assert counts(update(index)) == {"added": 10}
    assert counts(update(index)) == {"changed": 1, "reused": 9}
    stored = index.features().take(index.files.images[[index.files.find(victim)]])
    assert np.allclose(stored, index.encode_images([victim]), atol=1e-5)
    assert counts(update(index)) == {"reused": 10}


def test_a_file_of_the_same_size_and_time_is_compared_when_it_was_young(index, root, monkeypatch):
    victim = root / "a" / "000.png"
    content = write_image(root.parent / "other.png", 81).read_bytes()
    assert len(content) == victim.stat().st_size
    now = 1_700_000_000
    os.utime(victim, (now, now))
    monkeypatch.setattr("hf_clipalign.search.collection.updating.now", lambda: now * 10**9 + 1)
    update(index)
    victim.write_bytes(content)
    os.utime(victim, (now, now))
    assert counts(update(index)) == {"changed": 1, "reused": 9}


def test_no_image_and_one_image(tmp_path, checkpoint):
    (tmp_path / "images").mkdir()
    index = begin(tmp_path / "images", tmp_path / "index", checkpoint)
    assert counts(update(index)) == {}
    assert (len(index), index.verify(), index.compact()) == (0, [], 0)
    assert index.embeddings("raw").read(0, 1).shape == index.features().take(np.empty(0, int))[:, :24].shape == (0, 24)
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "one.png")
    assert counts(update(index)) == {"added": 1}
    assert np.allclose(np.linalg.norm(index.embeddings("raw").read(0, 1)), 1)


def test_another_model_is_refused(index, root, tmp_path):
    write_image(root / "new.png", 90)
    other = str(save_tiny("clip", tmp_path / "other", seed=1))
    expected = "was made with another model; what differs: model weights .*. Give that model, or make another index"
    with pytest.raises(ClipAlignError, match=expected):
        update(index, model=other)
    moved = ImageIndex.open(index.path)
    shutil.rmtree(other)
    assert counts(update(moved, model=index.description["model"]["name"])) == {"added": 1, "reused": 10}


def test_weights_that_have_changed_under_the_same_name_are_refused(root, tmp_path):
    folder = save_tiny("clip", tmp_path / "model")
    index = begin(root, tmp_path / "index", str(folder))
    update(index)
    save_tiny("clip", folder, seed=1)
    with pytest.raises(ClipAlignError, match="what differs: model weights"):
        ImageIndex.open(index.path).encode_texts(["a cat"])


def test_a_model_without_a_name_is_given_again(root, tmp_path, checkpoint):
    from hf_clipalign.backbones import load_processor

    model = tiny_clip().eval()
    model.config._name_or_path = ""
    with pytest.raises(ClipAlignError, match="give processor="):
        begin(root, tmp_path / "index", model)
    index = begin(root, tmp_path / "index", model, processor=load_processor(checkpoint))
    assert counts(update(index)) == {"added": 10}
    index = ImageIndex.open(index.path)
    write_image(root / "new.png", 91)
    with pytest.raises(ClipAlignError, match=r"does not say where its model is: give it to update\(model=…\)"):
        update(index)
    assert counts(update(index, model=model, processor=load_processor(checkpoint))) == {"added": 1, "reused": 10}


def test_opening_what_is_no_index(index, root, tmp_path, checkpoint):
    with pytest.raises(ClipAlignError, match="holds no index: make one with `clipalign index"):
        ImageIndex.open(root)
    with pytest.raises(ClipAlignError, match="holds an index already"):
        begin(root, index.path, checkpoint)
    with Manifest(index.path).writing() as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(ClipAlignError, match=r"has format 7, .* reads 1: update hf_clipalign"):
        len(ImageIndex.open(index.path))
    for argument, message in (
        (root / "nowhere", "no such folder"),
        (root / "a" / "000.png", "is a file, not"),
        ([], "no folder"),
    ):
        with pytest.raises(ClipAlignError, match=message):
            begin(argument, tmp_path / "new", checkpoint)


def test_heads(index):
    assert (index.heads, index.band) == (["raw"], None)
    with pytest.raises(ClipAlignError, match="this index has no head 'aligned': set a band"):
        index.embeddings("aligned")
    before = index.generation
    index.set_head((1, 3))
    assert (index.heads, index.band) == (["raw", "aligned"], (1, 3))
    assert index.generation > before
    from hf_clipalign.isoclip import compact_projectors

    image, text = (torch.from_numpy(index.projector("raw", name).copy()) for name in ("image", "text"))
    compact = compact_projectors(image, text, 1, 3)
    for name, matrix in zip(("image", "text"), compact, strict=True):
        assert np.allclose(index.projector("aligned", name), matrix.numpy())
    assert index.embeddings("aligned").read(0, 3).shape == (3, 20)
    reopened = ImageIndex.open(index.path)
    assert (reopened.band, reopened.generation) == ((1, 3), index.generation)
    index.set_head(None)
    assert index.heads == ["raw"]
    assert reopened.refresh()
    assert reopened.heads == ["raw"]


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_a_head_that_is_not_linear_is_exact(family, root, tmp_path):
    index = begin(root, tmp_path / "index", str(save_tiny(family, tmp_path / "model")), head=(1, 3))
    update(index)
    from hf_clipalign.data import image_folder
    from hf_clipalign.features import extract_image_features, project_image_features

    loaded = index._checked_model()
    features = extract_image_features(loaded.encoder, image_folder(root), loaded.processor, progress=False)
    expected = torch.nn.functional.normalize(project_image_features(loaded.encoder, features.values), dim=1).numpy()
    assert np.allclose(index.embeddings("raw").read(0, 10), expected, atol=1e-5)
    query = index.encode_images([index.files.path(4)])
    assert np.allclose(
        query @ index.projector("raw").T / np.linalg.norm(query @ index.projector("raw").T), expected[4], atol=1e-5
    )
    aligned = index.embeddings("aligned").read(0, 10)
    assert (aligned @ aligned[4]).argmax() == 4


def test_texts(index):
    texts = index.encode_texts(["a cat", "a dog"])
    assert texts.shape == (2, 24)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1)
    with pytest.raises(ClipAlignError, match="token"):
        index.encode_texts(["cat " * 200])


def test_settings_are_kept(index):
    index.put_setting("calibration.raw", {"a": [1, 2.5]})
    again = ImageIndex.open(index.path)
    assert again.setting("calibration.raw") == {"a": [1, 2.5]}
    index.put_setting("calibration.raw", None)
    assert again.setting("calibration.raw", "none") == {"a": [1, 2.5]}
    again.refresh()
    assert again.setting("calibration.raw", "none") == "none"


def test_reading_an_index_needs_no_torch(index):
    code = (
        "import sys; from hf_clipalign.search import ImageIndex; index = ImageIndex.open(sys.argv[1]);"
        "index.embeddings('raw').read(0, 10); index.files; index.status(); index.verify(); index.update();"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(index.path)], check=True)


def test_weights_are_compared_only_when_the_files_of_the_model_have_changed(root, tmp_path, checkpoint, monkeypatch):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    for path in model.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    index = begin(root, tmp_path / "index", str(model))
    with monkeypatch.context() as patch:
        patch.setattr("hf_clipalign.features.description.weights_hash", lambda *args, **kwargs: 1 / 0)
        assert ImageIndex.open(index.path).encode_texts(["a cat"]).shape == (1, 24)
        os.utime(model / "model.safetensors", (LONG_AGO + 1, LONG_AGO))
        ImageIndex.open(index.path).encode_texts(["a cat"])
        os.utime(model / "model.safetensors", (LONG_AGO + 1, LONG_AGO + 1))
        with pytest.raises(ZeroDivisionError):
            ImageIndex.open(index.path).encode_texts(["a cat"])
    ImageIndex.open(index.path).encode_texts(["a cat"])


def test_an_aligned_model_brings_its_band(root, tmp_path, checkpoint):
    from hf_clipalign import IsoCLIPModel
    from hf_clipalign.backbones import load_processor

    aligned = IsoCLIPModel.from_clip_pretrained(checkpoint, image_band=(1, 3), text_band=(1, 3))
    aligned.save_pretrained(tmp_path / "aligned")
    load_processor(checkpoint).save_pretrained(tmp_path / "aligned")
    index = begin(root, tmp_path / "index", str(tmp_path / "aligned"))
    assert (index.band, index.heads) == ((1, 3), ["raw", "aligned"])
    update(index)
    with torch.no_grad():
        expected = aligned.get_image_features(**inputs_of(index.files.path(0), checkpoint)).pooler_output
        plain = aligned.clip.get_image_features(**inputs_of(index.files.path(0), checkpoint)).pooler_output
    similar = [torch.nn.functional.normalize(v, dim=1).numpy() for v in (expected, plain)]
    assert np.allclose(index.embeddings("raw").read(0, 1), similar[1], atol=1e-5)
    assert index.embeddings("aligned").read(0, 1).shape == (1, 20)


def inputs_of(path, checkpoint):
    from hf_clipalign.backbones import load_processor

    return load_processor(checkpoint)(images=[Image.open(path)], return_tensors="pt")


def test_copies_that_cannot_be_read_are_named_once(root, tmp_path, checkpoint):
    for name in ("one.png", "two.png"):
        (root / name).write_bytes(b"no image")
    index = begin(root, tmp_path / "index", checkpoint)
    update(index)
    reasons = dict(index.status().skipped)
    assert "one.png" in reasons[str(root / "one.png")]
    assert reasons[str(root / "two.png")].startswith("is not an image in a known format")
