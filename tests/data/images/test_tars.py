"""Folders of tars as img2dataset and others write them."""

import logging
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, image_tars, open_source
from hf_clipalign.features import extract_to_store
from tests.data.images.webdatasets import add, jpeg, write_shard
from tests.features.cheap_encoder import CheapEncoder, cheap_processor

FAILED = {1: "HTTP Error 404: Not Found", 4: "<urlopen error timed out>"}


@pytest.fixture
def tars(tmp_path):
    """Three tars; of the first one, two of six links have failed."""
    folder = tmp_path / "laion"
    write_shard(folder, 0, 6, FAILED)
    write_shard(folder, 1, 2)
    write_shard(folder, 2, 3)
    return folder


def level(source, row):
    return int(np.asarray(source.read(row)).mean().round())


ENCODER = CheapEncoder(8)


def embedded(source, folder, **options):
    options = {"shard_size": 4, "batch_size": 2, "num_workers": 0, "progress": False, **options}
    return extract_to_store(ENCODER, source, cheap_processor, folder, **options)


def test_every_image_is_there_in_the_order_of_the_tars(tars):
    source = open_source(tars)
    assert isinstance(source, ImageSource)
    assert source.ids[:6] == ["000000000", "000000002", "000000003", "000000005", "000000001", "000000004"]
    assert source.ids[6:] == ["000010000", "000010001", "000020000", "000020001", "000020002"]
    assert [level(source, row) for row in (0, 1, 2, 3, 6, 7, 8, 9, 10)] == [0, 2, 3, 5, 20, 21, 40, 41, 42]
    assert source.labels is None
    assert source.texts is None


def test_tars_are_ordered_by_number_not_by_letter(tmp_path):
    for number in (10, 9, 100):
        write_shard(tmp_path, number, 1, digits=1)
    assert image_tars(tmp_path).ids == ["000090000", "000100000", "001000000"]


def test_captions_come_from_files_and_from_json(tars):
    for column in ("txt", "caption"):
        texts = image_tars(tars, text_column=column).texts
        assert texts[0] == ["caption 000000000"]
        assert texts[4] == (["caption 000000001"] if column == "caption" else [])
    with pytest.raises(ClipAlignError, match=r"no sample has a file ending in \.nothing"):
        image_tars(tars, text_column="nothing")
    assert image_tars(tars, label_column="shard_id").labels.tolist() == [0] * 6 + [1] * 2 + [2] * 3


def test_what_failed_is_counted_and_named_with_its_reason(tars, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        source = image_tars(tars)
    assert "2 images are not there: 2 failed_to_download" in caplog.text
    with pytest.raises(ClipAlignError, match=r"00000\.tar, 000000001: failed_to_download: HTTP Error 404: Not Found"):
        source.read(4)
    store = embedded(source, tmp_path / "store")
    assert len(store) == 9
    assert [name for name, _ in store.skipped] == ["000000001", "000000004"]
    assert "timed out" in store.skipped[1][1]
    kept = image_tars(tars, keep_failed=False)
    assert len(kept) == 9
    assert kept.ids == store.ids


def test_the_store_is_the_same_with_workers_and_in_another_process(tars, tmp_path):
    source = image_tars(tars)
    here = embedded(source, tmp_path / "here")
    there = embedded(pickle.loads(pickle.dumps(source)), tmp_path / "there", num_workers=2)
    files = sorted(file.name for file in here.folder.glob("*.safetensors"))
    assert files
    for name in files:
        assert (here.folder / name).read_bytes() == (there.folder / name).read_bytes()
    assert here.skipped == there.skipped


def test_a_tar_that_is_added_later_costs_only_its_own_images(tars, tmp_path, caplog):
    embedded(image_tars(tars), tmp_path / "store")
    write_shard(tars, 3, 2)
    with caplog.at_level(logging.WARNING):
        store = embedded(image_tars(tars), tmp_path / "store")
    assert len(store) == 11
    assert "+2 −0, 9 reused" in caplog.text


@pytest.mark.parametrize("table", [True, False])
def test_a_tar_that_is_cut_off_anywhere_is_named_and_loses_no_complete_image(tmp_path, caplog, table):
    keys = write_shard(tmp_path, 0, 3, table=table)
    write_shard(tmp_path, 1, 1)
    tar = tmp_path / "00000.tar"
    content = tar.read_bytes()
    with tarfile.open(tar) as opened:
        ends = {member.name[:9]: member.offset_data + member.size for member in opened if member.name.endswith("jpg")}
        mark = opened.offset
    for size in range(1, mark + 511, 400):
        tar.write_bytes(content[:size])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            source = image_tars(tmp_path)
        assert "00000.tar: it is" in caplog.text, size
        complete = [key for key in keys if ends[key] <= size]
        readable = [*complete, "000010000"]
        assert [name for name in source.ids if name in readable] == readable, size
        for row, name in enumerate(source.ids):
            if name in readable:
                assert level(source, row) == int(name[:5]) * 20 + int(name[5:])
            else:
                with pytest.raises(ClipAlignError, match=r"00000\.tar, 0000\d+: lost: it is"):
                    source.read(row)
        if table:
            assert sorted(source.ids) == [*keys, "000010000"]


def test_a_damaged_header_is_named_and_ends_its_tar_only(tmp_path, caplog):
    write_shard(tmp_path, 0, 3)
    write_shard(tmp_path, 1, 1)
    tar = tmp_path / "00000.tar"
    with tarfile.open(tar) as opened:
        place = opened.getmembers()[3].offset
    content = bytearray(tar.read_bytes())
    content[place + 10] ^= 0xFF
    tar.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        source = image_tars(tmp_path)
    assert f"its header at byte {place:,} is damaged" in caplog.text
    assert level(source, 0) == 0
    with pytest.raises(ClipAlignError, match="000000001: lost: its header"):
        source.read(1)


def test_without_a_table_the_counts_say_what_is_missing(tmp_path, caplog):
    write_shard(tmp_path, 0, 4, table=False)
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        add(tar, "000000000.jpg", jpeg(0))
    with caplog.at_level(logging.WARNING):
        assert len(image_tars(tmp_path)) == 1
    assert "samples are missing, with 1 of 4 samples" in caplog.text


def test_a_damaged_table_is_named_and_its_tar_is_read(tars, caplog):
    (tars / "00001.parquet").write_bytes(b"PAR1 not really")
    with caplog.at_level(logging.WARNING):
        assert len(image_tars(tars)) == 11
    assert "its table 00001.parquet cannot be read" in caplog.text


def test_other_webdatasets(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for number, kind in enumerate((2, 0, 1)):
            add(tar, f"./deep/{number}.left.png", jpeg(number))
            add(tar, f"./deep/{number}.cls", f"{kind}\n".encode())
            add(tar, f"./deep/._{number}.jpg", b"a file that a Mac adds")
    source = image_tars(tmp_path / "train-0.tar")
    assert source.ids == ["deep/0", "deep/1", "deep/2"]
    assert source.labels.tolist() == [2, 0, 1]
    assert level(source, 2) == 2
    assert open_source(tmp_path / "train-0.tar").ids == source.ids


def test_one_name_in_several_tars_is_told_apart_and_twice_in_one_is_refused(tmp_path):
    for name in ("a", "b"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            add(tar, "same.jpg", jpeg(7))
    assert image_tars(tmp_path).ids == ["a/same", "b/same"]
    with tarfile.open(tmp_path / "b.tar", "a") as tar:
        add(tar, "same.jpg", jpeg(8))
    with pytest.raises(ClipAlignError, match=r"b\.tar: holds 'same\.jpg' twice"):
        image_tars(tmp_path)


def test_several_images_in_a_sample_must_be_chosen_from(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for side in ("left", "right"):
            add(tar, f"0.{side}.jpg", jpeg(50 if side == "left" else 90))
    with pytest.raises(ClipAlignError, match=r"pass image_column, one of 'left\.jpg', 'right\.jpg'"):
        image_tars(tmp_path)
    assert level(image_tars(tmp_path, image_column="right.jpg"), 0) == 90


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\0" * 1024])
def test_a_folder_without_a_single_image_is_one_line(tmp_path, content):
    (tmp_path / "00000.tar").write_bytes(content)
    with pytest.raises(ClipAlignError, match="none of its 1 tar files holds an image") as failure:
        open_source(tmp_path)
    assert "\n" not in str(failure.value)
    with pytest.raises(ClipAlignError, match="no such folder"):
        image_tars(tmp_path / "elsewhere")


def test_a_folder_of_images_with_a_tar_in_it_stays_one(tmp_path):
    write_shard(tmp_path, 0, 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    assert open_source(tmp_path).ids == ["photo.png"]


def test_the_fingerprint_follows_the_files(tars):
    before = image_tars(tars).fingerprint()
    assert image_tars(tars).fingerprint() == before
    assert image_tars(tars, keep_failed=False).fingerprint() != before
    write_shard(tars, 1, 3)
    assert image_tars(tars).fingerprint() != before
