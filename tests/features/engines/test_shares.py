"""Shares: processes that know nothing of each other fill one folder, in any order, and others resume their work."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageStream, StreamRecord
from hf_clipalign.features import FeatureStore, extract_share, extract_to_store
from hf_clipalign.features.engines import shares as shares_module
from hf_clipalign.features.engines.workers import share_lock, whole_lock
from tests.features.engines.ways import OPTIONS, make_images, plain, shard_names, share, store_files
from tests.tiny_models import tiny_clip, tiny_image_processor


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("shares") / "images")


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    return store_files(plain(images, tmp_path_factory.mktemp("shares") / "plain").folder)


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))), ids=str)
def test_the_last_share_finishes_whatever_the_order(images, expected, tmp_path, order):
    first, second, last = order
    assert share(images, tmp_path, first, 3) is None
    assert len(shard_names(tmp_path)) == len(range(first - 1, 5, 3))
    assert share(images, tmp_path, second, 3) is None
    with pytest.raises(ClipAlignError, match="unfinished"):
        FeatureStore.open(tmp_path)
    assert len(share(images, tmp_path, last, 3)) == 16
    assert store_files(tmp_path) == expected


def test_more_shares_than_shards(images, expected, tmp_path):
    for index in range(1, 8):
        done = share(images, tmp_path, index, 7)
    assert store_files(tmp_path) == expected
    assert len(done) == 16


def test_a_share_that_is_made_again_makes_nothing(images, expected, tmp_path, monkeypatch):
    share(images, tmp_path, 2, 2)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.glob("features-*")}
    monkeypatch.setattr("hf_clipalign.features.engines.computing.image_block", None)
    assert share(images, tmp_path, 2, 2) is None
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("features-*")} == times
    monkeypatch.undo()
    plain(images, tmp_path)
    monkeypatch.setattr("hf_clipalign.features.engines.computing.image_block", None)
    assert len(share(images, tmp_path, 1, 2)) == 16
    assert store_files(tmp_path) == expected


def test_other_counts_resume_each_other(images, expected, tmp_path):
    share(images, tmp_path, 1, 4)
    share(images, tmp_path, 3, 5)
    assert shard_names(tmp_path) == ["features-00000", "features-00002", "features-00004"]
    assert share(images, tmp_path, 1, 1) is not None
    assert store_files(tmp_path) == expected


@pytest.mark.parametrize("mender", [1, 2])
def test_a_damaged_shard_is_made_again_by_its_share_or_by_whoever_finishes(images, expected, tmp_path, mender):
    share(images, tmp_path, 1, 2)
    (file,) = tmp_path.glob("features-00002-*")
    file.write_bytes(file.read_bytes()[:-3])
    if mender == 1:
        share(images, tmp_path, 1, 2)
        assert file.stat().st_size == len(expected[file.name])
    assert share(images, tmp_path, 2, 2) is not None
    assert store_files(tmp_path) == expected


def test_a_damaged_shard_of_a_complete_store_is_made_again_by_its_share(images, expected, tmp_path):
    plain(images, tmp_path)
    (file,) = tmp_path.glob("features-00003-*")
    file.write_bytes(b"")
    assert share(images, tmp_path, 2, 2) is not None
    assert store_files(tmp_path) == expected


def test_two_that_finish_at_once_leave_one_store(images, expected, tmp_path, monkeypatch):
    """Both see all shards before either has the folder; the second one finds it finished."""
    both, finish = threading.Barrier(2), shares_module._finish_if_none_is_missing
    finished = []

    def at_once(run, begun, n_shards):
        both.wait(timeout=120)
        finish(run, begun, n_shards)
        finished.append(run.share)

    monkeypatch.setattr(shares_module, "_finish_if_none_is_missing", at_once)
    threads = [threading.Thread(target=share, args=(images, tmp_path, index, 2)) for index in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert sorted(finished) == [(1, 2), (2, 2)]
    assert store_files(tmp_path) == expected


def test_one_share_is_made_by_one_process(images, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_clipalign.features.engines.workers._PATIENCE", 0.1)
    with share_lock(tmp_path, 2, 3):
        with pytest.raises(ClipAlignError, match=r"another process makes share 2/3 of the features in"):
            share(images, tmp_path, 2, 3)
        assert share(images, tmp_path, 1, 3) is None
        with pytest.raises(ClipAlignError, match=r"another run is writing features to .* \(share 2/3\): wait for it"):
            plain(images, tmp_path)
        with pytest.raises(ClipAlignError, match=r"share 2/3"):
            plain(images, tmp_path, overwrite=True)
        assert shard_names(tmp_path) == ["features-00000", "features-00003"]
    assert len(plain(images, tmp_path)) == 16


def test_a_share_does_not_begin_while_a_run_holds_the_folder(images, tmp_path, monkeypatch):
    monkeypatch.setattr(shares_module, "_PATIENCE", 0.1)
    with whole_lock(tmp_path), pytest.raises(ClipAlignError, match="another run is writing features to"):
        share(images, tmp_path, 1, 2)


def test_a_share_of_other_data_or_another_model_is_refused_while_others_work(tmp_path):
    images, out = make_images(tmp_path / "images"), tmp_path / "out"
    share(images, out, 1, 3)
    with pytest.raises(ClipAlignError, match="holds other features; what differs: model weights"):
        share(images, out, 2, 3, model=tiny_clip(seed=1))
    with pytest.raises(ClipAlignError, match="were begun with shard_size=4: resume with the same"):
        share(images, out, 2, 3, shard_size=5)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(images / "cat" / "00b.png")
    plan = (out / "plan.json").read_bytes()
    with share_lock(out, 3, 3):
        with pytest.raises(
            ClipAlignError, match=r"is being filled by another plan \(shard 0 is 'cat/00\.png' to .*share 3/3 is"
        ):
            share(images, out, 2, 3)
        assert (out / "plan.json").read_bytes() == plan
    for index in (1, 2, 3):
        done = share(images, out, index, 3)
    assert len(done) == 17
    assert store_files(out) == store_files(plain(images, tmp_path / "fresh").folder)


@pytest.mark.parametrize("wrong", [(0, 3), (4, 3), (1, 0), (-1, 2)])
def test_there_is_no_such_share(images, tmp_path, wrong):
    with pytest.raises(ClipAlignError, match=r"there is no share .*: give one of 1/\d to"):
        share(images, tmp_path / "out", *wrong)
    assert not (tmp_path / "out").exists()


def test_a_launcher_makes_no_shares(images, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ClipAlignError, match="leave out either the launcher"):
        share(images, tmp_path / "out", 1, 2)


@pytest.mark.parametrize("n", [7, 8, 9])
def test_shares_of_a_stream(tmp_path, n):
    """Its end is known only to who has read it, and every share reads it."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 9, 3), dtype=np.uint8)

    def stream():
        records = lambda first: (StreamRecord(f"p{row}", pixels[row]) for row in range(first, n))  # noqa: E731
        return ImageStream(records, fingerprint=lambda: "synthetic")

    model, processor = tiny_clip(), tiny_image_processor()
    expected = store_files(extract_to_store(model, stream(), processor, tmp_path / "plain", **OPTIONS).folder)
    out = tmp_path / "out"
    for index in (1, 2):
        done = extract_share(model, stream(), processor, out, share=(index, 2), **OPTIONS)
        assert (done is None) == (index == 1)
    assert store_files(out) == expected
