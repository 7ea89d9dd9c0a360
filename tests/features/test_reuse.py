"""A folder of images that changed: only what is new goes through the tower, and the store is that of a new folder."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hf_clipalign import ClipAlignError
from hf_clipalign.data import TextSource, image_folder
from hf_clipalign.features import FeatureStore, extract_to_store
from hf_clipalign.features.description import describe_model
from hf_clipalign.features.engines import computing
from hf_clipalign.features.storage.shards import file_hash
from tests.features.cheap_encoder import CheapEncoder, cheap_processor
from tests.features.storage.kinds import content
from tests.tiny_models import tiny_clip, tiny_image_processor, tiny_tokenizer

N = 20


class CountingEncoder(CheapEncoder):
    """Says how many images went through the tower."""

    seen = 0

    def image_preprojection(self, pixel_values, **kwargs):
        self.seen += len(pixel_values)
        return super().image_preprojection(pixel_values, **kwargs)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return CountingEncoder(8)


@pytest.fixture
def images(tmp_path):
    for number in range(N):
        draw(tmp_path / "images" / f"{number:02}.png", number)
    return tmp_path / "images"


def draw(file, seed):
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(file)


def embed(encoder, images, out, processor=cheap_processor, **options):
    options = {"shard_size": 6, "batch_size": 4, "num_workers": 0, "progress": False} | options
    return extract_to_store(encoder, image_folder(images), processor, out, **options)


def add(images):
    draw(images / "00b.png", 100)
    draw(images / "99.png", 101)


def rename(images):
    (images / "03.png").rename(images / "zz.png")


def touch(images):
    for file in images.iterdir():
        os.utime(file, ns=(1, 1))


def delete(images):
    for number in (0, 7, 19):
        (images / f"{number:02}.png").unlink()


def edit(images):
    draw(images / "05.png", 105)


def all_at_once(images):
    for change in (add, rename, delete, edit, touch):
        change(images)


@pytest.mark.parametrize(
    ("change", "told", "new", "workers"),
    [
        (add, "+2 −0, 20 reused", 2, 0),
        (rename, "+0 −0, 20 reused", 0, 0),
        (touch, "+0 −0, 20 reused", 0, 0),
        (delete, "+0 −3, 17 reused", 0, 0),
        (edit, "+1 −1, 19 reused", 1, 0),
        (all_at_once, "+3 −4, 16 reused", 3, 0),
        (all_at_once, "+3 −4, 16 reused", 3, 1),
    ],
)
def test_only_new_images_are_embedded(encoder, images, tmp_path, change, told, new, workers, caplog):
    embed(encoder, images, tmp_path / "out")
    change(images)
    encoder.seen = 0
    store = embed(encoder, images, tmp_path / "out", num_workers=workers)
    assert encoder.seen == new
    assert told in caplog.text
    fresh = embed(encoder, images, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
    assert store.ids == fresh.ids == sorted(file.name for file in images.iterdir())
    caplog.clear()
    encoder.seen = 0
    embed(encoder, images, tmp_path / "out")
    assert encoder.seen == 0
    assert "reused" not in caplog.text


def test_features_of_a_real_tower_are_those_of_a_new_store(images, tmp_path):
    model, processor = tiny_clip(), tiny_image_processor()
    before = embed(model, images, tmp_path / "out", processor)
    stored = dict(zip(before.ids, before.values(), strict=True))
    all_at_once(images)
    store = embed(model, images, tmp_path / "out", processor)
    fresh = embed(model, images, tmp_path / "fresh", processor)
    assert store.ids == fresh.ids
    torch.testing.assert_close(store.values(), fresh.values(), atol=1e-5, rtol=1e-5)
    assert torch.equal(store.values([store.ids.index("02.png")])[0], stored["02.png"])
    assert {name: value for name, value in store.manifest.items() if name not in ("shards", "sha256")} == {
        name: value for name, value in fresh.manifest.items() if name not in ("shards", "sha256")
    }


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_stopped_at_any_moment_nothing_is_lost(encoder, images, tmp_path, n, monkeypatch):
    out = tmp_path / "out"
    old = embed(encoder, images, out).values()
    all_at_once(images)
    replace, calls = os.replace, []

    def stops(source, target):
        calls.append(target)
        if len(calls) == n:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stops)
        try:
            embed(encoder, images, out)
        except KeyboardInterrupt:
            assert torch.equal(FeatureStore.open(out).values(), old), "the old store stays readable"
    encoder.seen = 0
    embed(encoder, images, out)
    assert encoder.seen <= 3
    embed(encoder, images, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_a_run_that_was_stopped_gives_its_rows_to_one_with_other_data(encoder, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (images / "20.png").write_bytes(b"no image")
    with pytest.raises(ClipAlignError, match=r"20\.png"):
        embed(encoder, images, out, strict=True)
    (images / "20.png").unlink()
    encoder.seen = 0
    embed(encoder, images, out)
    assert encoder.seen == 2, "eighteen are in the shards that were finished"
    embed(encoder, images, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_damaged_rows_are_told_and_not_reused(encoder, images, tmp_path, caplog):
    out = tmp_path / "out"
    embed(encoder, images, out)
    file = sorted(out.glob("*.safetensors"))[0]
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    add(images)
    encoder.seen = 0
    embed(encoder, images, out)
    assert encoder.seen == 2 + 6
    assert f"{file} is damaged" in caplog.text
    embed(encoder, images, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_images_that_could_not_be_read_are_tried_again(encoder, images, tmp_path):
    good = (images / "04.png").read_bytes()
    (images / "04.png").write_bytes(good[:60])
    assert embed(encoder, images, tmp_path / "out").n_skipped == 1
    (images / "04.png").write_bytes(good)
    assert embed(encoder, images, tmp_path / "out").n_skipped == 0


def test_other_sources_models_and_processors_are_refused_with_what_differs(encoder, images, tmp_path):
    out = tmp_path / "out"
    embed(encoder, images, out)
    before = content(out)
    draw(tmp_path / "elsewhere" / "a.png", 1)
    torch.manual_seed(1)
    other = CountingEncoder(8)
    with pytest.raises(ClipAlignError, match=r"data \(.*images there, .*elsewhere here\)"):
        embed(encoder, tmp_path / "elsewhere", out)
    with pytest.raises(ClipAlignError, match=r"model weights \(other content under the name 'cheap': \w{12}… there"):
        embed(other, images, out)
    add(images)
    with pytest.raises(ClipAlignError, match=r"model weights .*; data \(other content under the name '.*images': "):
        embed(other, images, out)
    assert content(out) == before


def test_texts_that_are_unchanged_are_reused(tmp_path, monkeypatch, caplog):
    asked = []
    encode = computing.text_block
    monkeypatch.setattr(
        computing, "text_block", lambda e, texts, *rest: asked.append(texts) or encode(e, texts, *rest)
    )

    def run(*texts, name="my texts", **options):
        source = TextSource(list(texts), name=name)
        return extract_to_store(tiny_clip(), source, tiny_tokenizer(), tmp_path / "out", progress=False, **options)

    first = run("a cat", "a dog").values()
    second = run("a dog", "an owl", "a cat").values()
    assert asked == [["a cat", "a dog"], ["an owl"]]
    assert torch.equal(second[[2, 0]], first)
    assert "+1 −0, 2 reused" in caplog.text
    run("a cat", name="texts", overwrite=True)
    with pytest.raises(ClipAlignError, match=r"data \(other content under the name 'texts'"):
        run("a fox", name="texts")


def test_a_store_of_format_1_is_read_and_its_update_refused_by_name(images, tmp_path):
    """Written by the version before: shards without kind, content hashes and key in the name."""

    encoder, out = CheapEncoder(8), tmp_path / "out"
    made = embed(encoder, images, tmp_path / "new")
    out.mkdir()
    entries = []
    for index, entry in enumerate(made.manifest["shards"]):
        shard = made._store.read(index)
        tensors = {name: tensor.clone() for name, tensor in shard.tensors.items() if name != "content"}
        file = out / f"features-{index:05d}.safetensors"
        about = {"key": "k", "shard": index, "sha256": "s", "skipped": []}
        save_file(tensors, file, {"hf_clipalign": json.dumps(about)})
        entries.append({**entry, "file": file.name, "bytes": file.stat().st_size, "sha256": file_hash(file)})
    manifest = {**made.manifest, "format": 1, "shards": entries}
    manifest.pop("sha256")
    (out / "features.json").write_text(json.dumps(manifest))
    store = FeatureStore.open(out)
    store.check_model(encoder)
    assert describe_model(encoder, None)["weights"] == store.manifest["model"]["weights"]
    assert torch.equal(store.values(), made.values())
    assert store.ids == made.ids
    before = content(out)
    embed(encoder, images, out)
    assert content(out) == before
    add(images)
    with pytest.raises(ClipAlignError, match=r"holds other features.*data .*overwrite=True"):
        embed(encoder, images, out)
    file = Path(out / "features-00001.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ClipAlignError, match=r"features-00001\.safetensors: it has"):
        FeatureStore.open(out)
