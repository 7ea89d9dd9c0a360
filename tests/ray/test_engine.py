"""The store of Ray is the plain one, byte for byte, whoever began it and whatever is wrong with an image."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageStream, from_dataset, image_folder, load_mini
from hf_clipalign.features import extract_share, extract_to_store, extract_with_ray
from hf_clipalign.features.engines import ray_data
from tests.features.cheap_encoder import cheap_processor
from tests.features.engines.ways import OPTIONS, SIZES, make_images, plain, shard_names, share, store_files
from tests.processes import launch
from tests.ray.towers import NotingEncoder, deadly_source, n_computed, write_images
from tests.tiny_models import tiny_clip, tiny_image_processor

pytestmark = pytest.mark.ray
RUN = Path(__file__).parents[1] / "features" / "store_run.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("ray") / "images")


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    return store_files(plain(images, tmp_path_factory.mktemp("ray") / "plain").folder)


@pytest.fixture(autouse=True)
def two_rounds(monkeypatch):
    """Each one starts the processes anew."""
    monkeypatch.setattr(ray_data, "_ROUNDS", 2)


def with_ray(images, out, **options):
    options = {"num_workers": 2, "progress": False, **SIZES} | options
    model, processor = options.pop("model", None) or tiny_clip(), options.pop("processor", tiny_image_processor())
    source = image_folder(images) if isinstance(images, Path) else images
    return extract_with_ray(model, source, processor, out, **options)


def test_the_bytes_are_the_plain_ones(cluster, images, expected, tmp_path):
    store = with_ray(images, tmp_path / "out")
    assert len(store) == 16
    assert store_files(tmp_path / "out") == expected


def test_every_way_resumes_every_other(cluster, images, expected, tmp_path):
    """Ray is stopped by an image that it cannot compute, a share goes on from there, torchrun finishes."""
    out = tmp_path / "out"
    share(images, out, 3, 5)
    assert shard_names(out) == ["features-00002"]
    before = next(out.glob("features-00002-*")).stat().st_mtime_ns
    with_ray(images, out)
    assert store_files(out) == expected
    assert next(out.glob("features-00002-*")).stat().st_mtime_ns == before


def test_ray_then_a_share_then_torchrun(cluster, tmp_path):
    images = write_images(tmp_path / "images", 40)
    bad = NotingEncoder(str(tmp_path / "notes"), bad=9)
    good = NotingEncoder(str(tmp_path / "notes"))
    expected = store_files(
        extract_to_store(good, image_folder(images), cheap_processor, tmp_path / "plain", **OPTIONS).folder
    )
    out = tmp_path / "out"
    with pytest.raises(ClipAlignError, match=r"1 of 10 shards could not be made in 2 tries.*shard 2 \('0008\.png' to"):
        with_ray(images, out, model=bad, processor=cheap_processor)
    for number in (1, 4, 7):
        next(out.glob(f"features-0000{number}-*")).unlink()
    assert extract_share(good, image_folder(images), cheap_processor, out, share=(2, 3), **OPTIONS) is None
    assert "features-00001" in shard_names(out)
    assert "features-00002" not in shard_names(out)
    assert len(with_ray(images, out, model=good, processor=cheap_processor)) == 38
    assert store_files(out) == expected


def test_torchrun_resumes_ray(cluster, images, tmp_path):
    out = tmp_path / "out"
    with_ray(images, out)
    expected = store_files(out)
    (out / "features.json").unlink()
    for number in (0, 3):
        next(out.glob(f"features-0000{number}-*")).unlink()
    kept = next(out.glob("features-00001-*")).stat().st_mtime_ns
    launch(RUN, images, out, processes=2)
    assert store_files(out) == expected
    assert next(out.glob("features-00001-*")).stat().st_mtime_ns == kept


def test_images_of_a_data_set(cluster, tmp_path):
    source = from_dataset(load_mini().emoji.select(range(12)), label_column="name")
    model, processor = tiny_clip(), tiny_image_processor()
    expected = store_files(extract_to_store(model, source, processor, tmp_path / "plain", **OPTIONS).folder)
    with_ray(source, tmp_path / "out", processor=processor)
    assert store_files(tmp_path / "out") == expected


def test_unchanged_images_are_reused(cluster, tmp_path):
    images, notes = write_images(tmp_path / "images", 30), tmp_path / "notes"
    model, out = NotingEncoder(str(notes)), tmp_path / "out"
    extract_to_store(model, image_folder(images), cheap_processor, out, **OPTIONS)
    (images / "0003.png").rename(images / "0099.png")
    (images / "0004.png").unlink()
    before = n_computed(notes)
    with_ray(images, out, model=model, processor=cheap_processor)
    assert n_computed(notes) == before
    fresh = extract_to_store(model, image_folder(images), cheap_processor, tmp_path / "fresh", **OPTIONS)
    assert store_files(out) == store_files(fresh.folder)


def test_a_shard_that_cannot_be_computed_is_named_and_all_others_are_made(cluster, tmp_path):
    images, notes, out = write_images(tmp_path / "images", 40), tmp_path / "notes", tmp_path / "out"
    with pytest.raises(ClipAlignError) as caught:
        with_ray(images, out, model=NotingEncoder(str(notes), bad=21), processor=cheap_processor)
    assert "1 of 10 shards could not be made in 2 tries" in str(caught.value)
    assert "shard 5 ('0020.png' to '0023.png'): RuntimeError: no feature of 21" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(shard_names(out)) == 9
    mended = n_computed(notes)
    with_ray(images, out, model=NotingEncoder(str(notes)), processor=cheap_processor)
    assert n_computed(notes) - mended == 4


def test_an_image_that_ends_its_process_does_not_stop_the_others(cluster, tmp_path):
    out, model = tmp_path / "out", NotingEncoder(str(tmp_path / "notes"))
    with pytest.raises(
        ClipAlignError, match=r"1 of 6 shards .*shard 3 \('image 12' to 'image 15'\): .*processes in turn"
    ):
        with_ray(deadly_source(24, 13), out, model=model, processor=cheap_processor)
    assert len(shard_names(out)) == 5


def test_strict_stops_at_the_first_image_that_cannot_be_read(cluster, images, tmp_path):
    with pytest.raises(ClipAlignError, match=r"(02|10)\.png"):
        with_ray(images, tmp_path / "out", strict=True)


def test_other_data_in_the_folder_are_refused_before_anything_starts(cluster, images, expected, tmp_path):
    out = plain(images, tmp_path / "out").folder
    with pytest.raises(ClipAlignError, match="holds other features; what differs: model weights"):
        with_ray(images, out, model=tiny_clip(seed=1))
    assert store_files(out) == expected


def test_streams_and_texts_are_for_the_plain_way(cluster, tmp_path):
    stream = ImageStream(lambda first: iter(()), fingerprint=str)
    for source in (stream, ["a text"]):
        with pytest.raises(ClipAlignError, match="give streams and texts to extract_to_store"):
            with_ray(source, tmp_path / "out")
    assert sys.modules["ray"].is_initialized()
