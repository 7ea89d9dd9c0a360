"""An index and a store of features have files of the same names: neither is written into the folder of the other."""

from __future__ import annotations

import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.features import Features, FeatureStore, extract_to_store
from hf_clipalign.search import ImageIndex
from tests.search.folders import begin, update, write_images
from tests.tiny_models import tiny_clip, tiny_image_processor

FEATURES = Features(torch.eye(3), "image", ["a", "b", "c"])


def test_features_are_not_written_into_an_index(tmp_path, checkpoint):
    write_images(tmp_path / "images", 3)
    update(begin(tmp_path / "images", tmp_path / "index", checkpoint))
    before = {file.name for file in (tmp_path / "index").glob("*.safetensors")}
    arguments = tiny_clip(), str(tmp_path / "images"), tiny_image_processor(), tmp_path / "index"
    for write in (
        lambda: extract_to_store(*arguments, progress=False),
        lambda: extract_to_store(*arguments, overwrite=True, progress=False),
        lambda: FEATURES.save(tmp_path / "index"),
    ):
        with pytest.raises(ClipAlignError, match="holds an index: use another folder for features"):
            write()
    assert {file.name for file in (tmp_path / "index").glob("*.safetensors")} == before
    assert ImageIndex.open(tmp_path / "index").verify() == []


def test_an_index_is_not_written_into_features(tmp_path, checkpoint):
    write_images(tmp_path / "images", 3)
    FEATURES.save(tmp_path / "features")
    with pytest.raises(ClipAlignError, match="holds features: give a new folder for the index"):
        update(begin(tmp_path / "images", tmp_path / "features", checkpoint))
    assert FeatureStore.open(tmp_path / "features").values().equal(FEATURES.values)
