"""Embeddings joined with labels: projected exactly, checked, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from safetensors.torch import save_file

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import FindingLabels, image_folder
from hf_clipalign.features import Features, FeatureStore, LabelledEmbeddings, extract_image_features, extract_to_store
from hf_clipalign.features.description import describe_model
from hf_clipalign.features.labelled_embeddings import _without_common_folders
from hf_clipalign.tuners import RETuneConfig
from tests.tiny_models import tiny_clip, tiny_image_processor, tiny_model

NAMES = ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index, name in enumerate(NAMES):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (60 * index, 20, 200 - 40 * index)).save(folder / name)
    return folder


def labels(ids: list[str] = NAMES) -> FindingLabels:
    values = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], float)[: len(ids)]
    return FindingLabels(list(ids), ["A", "B"], np.resize(values, (len(ids), 2)), name="train.csv")


def store(images: Path, folder: Path, family: str = "clip") -> FeatureStore:
    processor = tiny_image_processor(family)
    return extract_to_store(tiny_model(family), image_folder(images), processor, folder, progress=False)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_embeddings_are_those_of_the_model(images: Path, tmp_path: Path, family: str) -> None:
    found = LabelledEmbeddings.from_store(store(images, tmp_path, family), labels(), tiny_model(family))
    source, processor = image_folder(images), tiny_image_processor(family)
    inputs = processor(images=[source.read(row) for row in range(4)], return_tensors="pt")
    with torch.no_grad():
        expected = as_dual_encoder(tiny_model(family)).encode_image(**inputs)
    assert torch.allclose(found.embeds, expected, atol=1e-4)
    assert found.labels.ids == NAMES


def test_the_adapter_takes_no_part(images: Path, tmp_path: Path) -> None:
    kwargs = {"processor": tiny_image_processor(), "folder": tmp_path, "progress": False}
    first = LabelledEmbeddings.from_images(labels(), images, tiny_clip(), **kwargs)
    model = get_peft_model(tiny_clip(), RETuneConfig())
    assert torch.equal(LabelledEmbeddings.from_store(tmp_path, labels(), model).embeds, first.embeds)
    written = [file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")]
    again = LabelledEmbeddings.from_images(labels(), images, model, **kwargs)
    assert torch.equal(again.embeds, first.embeds)
    assert [file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")] == written


def test_images_that_are_not_there_are_counted(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = labels([*NAMES[:2], "b/8.png", "b/9.png"])
    found = LabelledEmbeddings.from_images(
        wanted, images, tiny_clip(), tiny_image_processor(), tmp_path, progress=False
    )
    assert found.labels.ids == NAMES[:2]
    assert "2 of 4 images of train.csv could not be read" in caplog.text
    assert "first 'b/8.png'" in caplog.text


def test_rows_are_joined_by_name(images: Path, tmp_path: Path) -> None:
    whole = LabelledEmbeddings.from_store(store(images, tmp_path), labels(), tiny_clip())
    turned = [f"CheXpert/train/{name}" for name in NAMES[::-1]]
    found = LabelledEmbeddings.from_store(tmp_path, labels(turned), tiny_clip())
    assert torch.allclose(found.embeds, whole.embeds.flip(0), atol=1e-5)
    two = LabelledEmbeddings.from_store(tmp_path, labels([NAMES[2], "c/1.png"]), tiny_clip(), partial=True)
    assert torch.allclose(two.embeds, whole.embeds[2:3], atol=1e-5)
    assert two.labels.ids == [NAMES[2]]


def test_files_come_back(tmp_path: Path) -> None:
    data = LabelledEmbeddings(torch.randn(4, 8), labels(), "hash")
    data.save(tmp_path / "e.safetensors")
    found = LabelledEmbeddings.from_file(tmp_path / "e.safetensors", labels(NAMES[::-1]))
    assert found.model == "hash"
    assert torch.equal(found.embeds, data.embeds.flip(0))
    table = pa.table({"id": NAMES, "image_embeds": list(data.embeds.numpy())})
    pq.write_table(table, tmp_path / "e.parquet")
    with pa.ipc.new_file(str(tmp_path / "e.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("e.parquet", "e.arrow"):
        assert torch.equal(LabelledEmbeddings.from_file(tmp_path / name, labels()).embeds, data.embeds)
    save_file({"image_embeds": data.embeds}, tmp_path / "bare.safetensors")
    assert torch.equal(LabelledEmbeddings.from_file(tmp_path / "bare.safetensors", labels()).embeds, data.embeds)


def test_selection() -> None:
    data = LabelledEmbeddings(torch.randn(4, 8), labels())
    some = data.select([3, 1], ["B"])
    assert torch.equal(some.embeds, data.embeds[[3, 1]])
    assert some.labels.values.tolist() == [[0], [1]]


def test_another_model_and_other_names_are_refused(images: Path, tmp_path: Path) -> None:
    store(images, tmp_path)
    with pytest.raises(ClipAlignError, match="another model"):
        LabelledEmbeddings.from_store(tmp_path, labels(), tiny_clip(seed=3))
    with pytest.raises(ClipAlignError, match=r"no image of train\.csv.*'x\.png'.*'a/1\.png'"):
        LabelledEmbeddings.from_store(tmp_path, labels(["x.png"]), tiny_clip())
    with pytest.raises(ClipAlignError, match=r"1 of 2 images.*'b/9\.png'.*partial=True"):
        LabelledEmbeddings.from_store(tmp_path, labels([NAMES[0], "b/9.png"]), tiny_clip())
    features = extract_image_features(tiny_clip(), image_folder(images), tiny_image_processor(), progress=False)
    features.ids[1] = features.ids[0]
    features.save(tmp_path / "twice")
    with pytest.raises(ClipAlignError, match=r"'a/1\.png' occurs twice"):
        LabelledEmbeddings.from_store(tmp_path / "twice", labels(), tiny_clip())
    Features(torch.ones(2, 32), "text", ["0", "1"]).save(tmp_path / "text")
    with pytest.raises(ClipAlignError, match="text features"):
        LabelledEmbeddings.from_store(tmp_path / "text", labels(), tiny_clip())
    Features(torch.ones(4, 7), "image", NAMES).save(tmp_path / "narrow")
    with pytest.raises(ClipAlignError, match="dimension 7"):
        LabelledEmbeddings.from_store(tmp_path / "narrow", labels(), tiny_clip())


def test_embeddings_of_any_kind() -> None:
    values = np.random.default_rng(0).standard_normal((4, 8))
    kinds = (values.astype(">f8"), np.ascontiguousarray(values[::-1])[::-1], pd.DataFrame(values, index=[3, 2, 1, 0]))
    for given in (*kinds, values.tolist(), values.astype(object)):
        assert np.array_equal(LabelledEmbeddings(given, labels()).embeds, values)


def test_bad_embeddings(tmp_path: Path) -> None:
    bad = torch.randn(4, 8)
    bad[2, 3] = torch.nan
    with pytest.raises(ClipAlignError, match=r"1 of 4 .*'b/1\.png'"):
        LabelledEmbeddings(bad, labels())
    with pytest.raises(ClipAlignError, match="3 embeddings for the 4 rows"):
        LabelledEmbeddings(torch.ones(3, 8), labels())
    with pytest.raises(ClipAlignError, match=r"\[N, d\]"):
        LabelledEmbeddings(torch.ones(4, 8, dtype=torch.long), labels())
    for ragged in ([[1.0], [1.0, 2.0]], "abc"):
        with pytest.raises(ClipAlignError, match=r"rows of one length|is a single string"):
            LabelledEmbeddings(ragged, labels())
    save_file({"other": torch.ones(4, 8)}, tmp_path / "other.safetensors")
    save_file({"image_embeds": torch.ones(4, 8)}, tmp_path / "short.safetensors", metadata={"ids": '["a"]'})
    (tmp_path / "damaged.safetensors").write_bytes(b"abc")
    pq.write_table(pa.table({"id": ["a"], "vector": [1.0]}), tmp_path / "column.parquet")
    pq.write_table(pa.table({"id": ["a", "b"], "image_embeds": [[1.0, 2.0], [1.0]]}), tmp_path / "ragged.parquet")
    recut = pa.table({"id": ["a", "b", "c"], "image_embeds": [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]]})
    pq.write_table(recut, tmp_path / "recut.parquet")
    pq.write_table(pa.table({"id": ["a", "b"], "image_embeds": [None, [1.0]]}), tmp_path / "null.parquet")
    pq.write_table(recut.slice(0, 0), tmp_path / "empty.parquet")
    for name, message in {
        "e.pt": "must be a",
        "none.safetensors": "no such file",
        "other.safetensors": "no tensor 'image_embeds', only 'other'",
        "short.safetensors": "1 ids for 4",
        "damaged.safetensors": "cannot be read",
        "column.parquet": "no column 'image_embeds'",
        "ragged.parquet": r"differ in length, first that of row 1 \(",
        "recut.parquet": r"differ in length, first that of row 1 \(",
        "null.parquet": "differ in length",
        "empty.parquet": "no rows",
    }.items():
        with pytest.raises(ClipAlignError, match=message) as caught:
            LabelledEmbeddings.from_file(tmp_path / name, labels())
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_arrays_and_lists_become_tensors() -> None:
    values = np.arange(8.0).reshape(4, 2)
    for given in (values, values.tolist()):
        found = LabelledEmbeddings(given, labels()).embeds
        assert isinstance(found, torch.Tensor)
        assert found.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("name", "found"),
    [("x.png", "x.png"), ("a/x.png", "x.png"), ("a/b/c/d/x.png", "x.png"), ("a/b/c/d/e/x.png", "a/b/c/d/e/x.png")],
)
def test_label_files_may_name_images_from_four_folders_above(name, found):
    assert _without_common_folders([name], {"x.png": 0}) == [found]


def test_an_adapter_behind_the_projector_is_not_part_of_what_features_are_made_from():
    base = tiny_clip()
    before = describe_model(as_dual_encoder(base), None)
    adapted = as_dual_encoder(get_peft_model(base, RETuneConfig()))
    assert describe_model(adapted, None)["weights"] == before["weights"]
    other = tiny_clip(seed=1)
    assert describe_model(as_dual_encoder(other), None)["weights"] != before["weights"]
