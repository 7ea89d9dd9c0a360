"""Parquet tables that hold the images themselves, one and in folders."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import from_table, open_source
from hf_clipalign.data.images.containers.parquet_images import ParquetImages
from hf_clipalign.features import extract_to_store
from tests.data.images.webdatasets import jpeg, row
from tests.features.cheap_encoder import CheapEncoder, cheap_processor


def level(source, index):
    return int(np.asarray(source.read(index)).mean().round())


@pytest.fixture
def tables(tmp_path):
    """Three files as the Hub has them, in row groups of two."""
    for number, count in ((0, 5), (1, 3), (10, 2)):
        rows = [
            {"image": {"bytes": jpeg(20 * number + i), "path": None}, "label": i % 2, "caption": f"{number}-{i}"}
            for i in range(count)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"train-{number}-of-11.parquet", row_group_size=2)
    return tmp_path


def test_a_folder_of_tables_is_one_source_in_the_order_of_their_numbers(tables):
    (tables / "README.md").write_text("# data")
    source = open_source(tables, label_column="label", text_column="caption")
    assert source.ids == [str(row) for row in range(10)]
    assert [text for (text,) in source.texts] == [*(f"0-{i}" for i in range(5)), "1-0", "1-1", "1-2", "10-0", "10-1"]
    assert [level(source, index) for index in (9, 0, 5, 4)] == [201, 0, 20, 4]
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 0, 1]


def test_one_row_group_is_held_and_each_is_read_once_in_order(tables, monkeypatch):
    groups = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **more: groups.append(i) or read(self, i, **more)
    )
    source = from_table(tables)
    assert groups == []
    for index in range(len(source)):
        source.read(index)
    assert groups == [0, 1, 2, 0, 1, 0]
    assert isinstance(source.items, ParquetImages)
    assert pickle.loads(pickle.dumps(source.items))._held is None


def test_the_store_is_the_same_with_workers(tables, tmp_path):
    options = {"shard_size": 4, "batch_size": 2, "progress": False}
    stores = [
        extract_to_store(
            CheapEncoder(8), from_table(tables), cheap_processor, tmp_path / str(n), num_workers=n, **options
        )
        for n in (0, 2)
    ]
    assert len(stores[0]) == 10
    assert stores[0].values().equal(stores[1].values())


def test_what_img2dataset_could_not_fetch_is_named(tmp_path):
    rows = [
        {**row("000000000", 0), "jpg": jpeg(7)},
        {**row("000000001", 0, "HTTP Error 403: Forbidden"), "jpg": None},
        {**row("000000002", 0, "image too small", "failed_to_resize"), "jpg": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    source = open_source(tmp_path)
    assert source.ids == ["000000000", "000000001", "000000002"]
    assert level(source, 0) == 7
    store = extract_to_store(CheapEncoder(8), source, cheap_processor, tmp_path / "store", progress=False)
    assert [name for name, _ in store.skipped] == ["000000001", "000000002"]
    assert "failed_to_download: HTTP Error 403: Forbidden" in store.skipped[0][1]
    assert "failed_to_resize: image too small" in store.skipped[1][1]


def test_a_cell_without_an_image_is_named_when_it_is_read(tmp_path):
    pq.write_table(pa.table({"image": [jpeg(1), None]}), tmp_path / "t.parquet")
    source = from_table(tmp_path / "t.parquet")
    with pytest.raises(ClipAlignError, match=r"t\.parquet: row 1 \(from 0\) has no image"):
        source.read(1)


def test_paths_inside_stay_in_the_folder(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(9))
    cells = [{"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": "../secret.jpg"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "t.parquet")
    source = from_table(tmp_path / "t.parquet")
    assert level(source, 0) == 9
    with pytest.raises(ClipAlignError, match="leads out of"):
        source.read(1)


def test_tables_that_do_not_fit_are_one_line(tables, tmp_path):
    pq.write_table(pa.table({"picture": [jpeg(1)]}), tables / "train-2-of-11.parquet")
    with pytest.raises(ClipAlignError, match=r"train-2-of-11\.parquet: no column 'image'"):
        from_table(tables)
    (tables / "train-2-of-11.parquet").write_bytes(b"PAR1")
    with pytest.raises(ClipAlignError, match=r"train-2-of-11\.parquet: the table cannot be read"):
        from_table(tables)
