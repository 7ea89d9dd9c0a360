"""Features from images and texts: order, bad images, saving."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import image_folder
from hf_clipalign.features import Features, extract_image_features, extract_text_features
from hf_clipalign.features.in_memory import gathered
from tests.tiny_models import tiny_clip, tiny_image_processor, tiny_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_clip()


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png", "dog/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def extract(model, folder, **options):
    return extract_image_features(model, image_folder(folder), tiny_image_processor(), progress=False, **options)


@torch.no_grad()
def test_features_are_those_of_the_model_in_the_order_of_the_source(model, folder):
    features = extract(model, folder, batch_size=2)
    assert features.ids == ["cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png", "dog/e.png"]
    assert features.labels.tolist() == [0, 0, 1, 1, 1]
    assert features.class_names == ["cat", "dog"]
    images = [Image.open(folder / name) for name in features.ids]
    pixel_values = tiny_image_processor()(images=images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(features.values, as_dual_encoder(model).image_preprojection(pixel_values))


def test_workers_and_batches_change_nothing(model, folder):
    reference = extract(model, folder, num_workers=0, batch_size=5)
    for options in ({"num_workers": 2, "batch_size": 2}, {"batch_size": 1}):
        torch.testing.assert_close(extract(model, folder, **options).values, reference.values, atol=1e-5, rtol=1e-5)


def test_an_unreadable_image_is_recorded_and_left_out(model, folder):
    (folder / "cat" / "b.png").write_bytes((folder / "cat" / "b.png").read_bytes()[:200])
    (folder / "dog" / "d.png").write_bytes(b"")
    features = extract(model, folder, batch_size=2)
    assert features.ids == ["cat/a.png", "dog/c.png", "dog/e.png"]
    assert features.labels.tolist() == [0, 1, 1]
    assert [name for name, _ in features.skipped] == ["cat/b.png", "dog/d.png"]
    assert all("png" in reason for _, reason in features.skipped)
    with pytest.raises(ClipAlignError, match=r"b\.png"):
        extract(model, folder, strict=True)


def test_a_folder_of_unreadable_images_is_an_error(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ClipAlignError, match="none of the 1 images can be read"):
        extract(model, tmp_path)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_a_image_one_pixel_wide_or_high_is_read(model, tmp_path, size):
    Image.new("RGB", size, (200, 30, 60)).save(tmp_path / "thin.png")
    assert torch.isfinite(extract(model, tmp_path).values).all()


def test_a_batch_of_no_images_is_an_error(model, folder):
    with pytest.raises(ClipAlignError, match="batch_size is 0"):
        extract(model, folder, batch_size=0)


def test_save_and_load(model, folder, tmp_path):
    features = extract(model, folder)
    features.save(tmp_path / "out")
    loaded = Features.load(tmp_path / "out")
    assert torch.equal(loaded.values, features.values)
    assert loaded.labels.tolist() == features.labels.tolist()
    assert (loaded.ids, loaded.class_names, loaded.skipped) == (features.ids, features.class_names, features.skipped)


def test_loading_what_is_not_there_or_damaged_is_an_error(model, folder, tmp_path):
    with pytest.raises(ClipAlignError, match="holds no features"):
        Features.load(tmp_path / "nothing")
    extract(model, folder).save(tmp_path / "out")
    (file,) = (tmp_path / "out").glob("features-00000-*.safetensors")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ClipAlignError, match="damaged"):
        Features.load(tmp_path / "out")


def test_select_keeps_rows_together(model, folder):
    features = dataclasses.replace(extract(model, folder), skipped=[("e.png", "damaged")])
    for rows in ([4, 0], np.array([True, False, False, False, True])):
        part = features.select(rows)
        for row, name in enumerate(part.ids):
            original = features.ids.index(name)
            assert torch.equal(part.values[row], features.values[original])
            assert part.labels[row] == features.labels[original]
        assert (part.class_names, part.skipped) == (features.class_names, features.skipped)
        assert (part.modality, part.model) == (features.modality, features.model)


@torch.no_grad()
def test_texts_keep_their_order(model):
    texts = ["the big red boat on the old bridge", "owl", "a photo of a cat", "a fox"]
    features = extract_text_features(model, texts, tiny_tokenizer(), labels=[0, 1, 2, 1], batch_size=2, progress=False)
    encoder = as_dual_encoder(model)
    for row, text in enumerate(texts):
        alone = encoder.text_preprojection(tiny_tokenizer()(text, return_tensors="pt")["input_ids"])
        torch.testing.assert_close(features.values[row], alone[0], atol=1e-5, rtol=1e-5)


def test_bad_texts_are_errors(model):
    with pytest.raises(ClipAlignError, match="2 texts but 3 labels"):
        extract_text_features(model, ["a", "b"], tiny_tokenizer(), labels=[1, 2, 3])
    with pytest.raises(ClipAlignError, match="no texts"):
        extract_text_features(model, [], tiny_tokenizer())
    with pytest.raises(ClipAlignError, match="reads 77"):
        extract_text_features(model, ["cat " * 100], tiny_tokenizer())


def test_rows_ids_and_labels_are_read_by_position():
    values = torch.arange(8.0).reshape(4, 2)
    labels = pd.Series([3, 2, 1, 0])[::-1]
    features = Features(values, "image", ids=pd.Series(list("abcd"))[::-1], labels=labels)
    chosen = features.select(pd.Series([0, 2])[::-1])
    assert chosen.ids == ["b", "d"]
    assert chosen.labels.tolist() == [2, 0]
    assert chosen.values.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert len(features.select([])) == 0


def test_a_negative_number_of_workers_is_refused(model, folder):
    with pytest.raises(ClipAlignError, match="num_workers is -1"):
        extract(model, folder, num_workers=-1)


def test_features_without_labels_or_without_rows_are_read(model, folder, tmp_path):
    features = extract(model, folder)
    without = dataclasses.replace(features, labels=None, class_names=None)
    without.save(tmp_path / "out")
    loaded = Features.load(tmp_path / "out")
    assert loaded.labels is None
    assert torch.equal(loaded.values, features.values)
    manifest = {"width": 7, "modality": "image", "class_names": None, "model": {"name": "m"}}
    nothing = gathered(manifest, [])
    assert nothing.values.shape == (0, 7)
    assert (nothing.ids, nothing.labels) == ([], None)
