"""What clip-retrieval wrote, read and written again."""

import os
import shutil

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.features import EmbeddingStore, export_clip_retrieval, import_clip_retrieval
from hf_clipalign.features.interchange import embeddings as module
from tests.features.interchange.clip_retrieval_files import SIZES, WIDTH, unit, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "laion")


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.*") if file.is_file()}


def expected(seed=0):
    return np.concatenate([unit(n, 100 * seed + number) for number, n in enumerate(SIZES) if n])


@pytest.mark.parametrize("modality", ["image", "text"])
def test_everything_arrives_in_the_order_of_the_numbers(folder, tmp_path, modality):
    store = import_clip_retrieval(folder, tmp_path / "store", modality=modality, model="ViT-B/32")
    values = expected(("image", "text").index(modality))
    assert torch.equal(store.values(), torch.from_numpy(values).float())
    assert torch.equal(torch.cat(list(store.blocks())), store.values())
    assert (store.modality, store.width, store.model, store.normalized) == (modality, WIDTH, "ViT-B/32", True)
    assert store.manifest["space"] == "projected"
    assert store.manifest["dtype"] == "float16"
    assert store.shard(0).values.dtype == torch.float16
    names = [f"{number:05d}{row:04d}" for number, n in enumerate(SIZES) for row in range(n)]
    assert store.ids == names
    assert store.metadata(1)["caption"].to_pylist() == [f"caption 2 {row}" for row in range(4)]
    store.verify()


def test_what_is_written_again_is_the_same_to_the_byte(tmp_path):
    folder = write_folder(tmp_path / "laion", (3, 2, 4))
    images = import_clip_retrieval(folder, tmp_path / "images")
    texts = import_clip_retrieval(folder, tmp_path / "texts", modality="text")
    written = export_clip_retrieval(images, tmp_path / "again", texts=texts)
    assert contents(written) == contents(folder)
    export_clip_retrieval(images, written)
    assert set(contents(written)) == {name for name in contents(folder) if not name.startswith("text")}
    assert import_clip_retrieval(written, tmp_path / "images again").values().equal(images.values())


def test_float32_and_folders_without_metadata(tmp_path):
    folder = write_folder(tmp_path / "mclip", (3, 2), dtype="float32")
    shutil.rmtree(folder / "metadata")
    store = import_clip_retrieval(folder, tmp_path / "store")
    assert store.manifest["dtype"] == "float32"
    assert store.ids == ["0", "1", "2", "3", "4"]
    assert store.metadata(0) is None
    table = export_clip_retrieval(store, tmp_path / "again") / "metadata" / "metadata_1.parquet"
    assert table.stat().st_size > 100


def test_classes_come_from_a_column_of_the_metadata(folder, tmp_path):
    store = import_clip_retrieval(folder, tmp_path / "store", label_column="kind")
    assert store.class_names == ["cat", "dog"]
    assert store.labels.tolist() == [(number + row) % 2 for number, n in enumerate(SIZES) for row in range(n)]
    with pytest.raises(ClipAlignError, match="no column 'colour'; the columns are 'image_path'"):
        import_clip_retrieval(folder, tmp_path / "other", label_column="colour")


def test_an_import_that_was_stopped_is_resumed(folder, tmp_path, monkeypatch):
    whole = import_clip_retrieval(folder, tmp_path / "whole")
    write, calls = module.write_rows, []

    def write_or_stop(shards, index, rows):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(index)
        write(shards, index, rows)

    monkeypatch.setattr(module, "write_rows", write_or_stop)
    with pytest.raises(KeyboardInterrupt):
        import_clip_retrieval(folder, tmp_path / "store")
    with pytest.raises(ClipAlignError, match="unfinished: run the same import again"):
        EmbeddingStore.open(tmp_path / "store")
    monkeypatch.setattr(module, "write_rows", lambda *args: calls.append(args[1]) or write(*args))
    resumed = import_clip_retrieval(folder, tmp_path / "store")
    assert calls == list(range(whole.n_shards))
    hidden = {name for name in contents(whole.folder) if name.startswith(".")}
    assert {n: c for n, c in contents(resumed.folder).items() if n not in hidden} == {
        n: c for n, c in contents(whole.folder).items() if n not in hidden
    }


def test_other_embeddings_in_the_folder_are_not_mixed(folder, tmp_path):
    import_clip_retrieval(folder, tmp_path / "store")
    with pytest.raises(
        ClipAlignError, match=r"holds other embeddings; what differs: modality \(image there, text here"
    ):
        import_clip_retrieval(folder, tmp_path / "store", modality="text")
    assert import_clip_retrieval(folder, tmp_path / "store", modality="text", overwrite=True).modality == "text"


def cut(file):
    os.truncate(file, file.stat().st_size - 1)


def lengthen(file):
    file.write_bytes(file.read_bytes() + b"\0")


def empty(file):
    file.write_bytes(b"")


def half_a_header(file):
    os.truncate(file, 60)


def pickled(file):
    np.save(file, np.array([{"a": 1}] * 4), allow_pickle=True)


def narrower(file):
    np.save(file, unit(4, 0)[:, :3])


def other_type(file):
    np.save(file, unit(4, 0).astype(np.float32))


def integers(file):
    np.save(file, np.ones((4, WIDTH), dtype=np.int64))


def big_endian(file):
    np.save(file, unit(4, 0).astype(">f2"))


def one_dimension(file):
    np.save(file, np.ones(4, dtype=np.float16))


def more_rows(file):
    np.save(file, unit(5, 0))


def not_finite(file):
    values = unit(4, 0)
    values[2, 1] = np.nan
    np.save(file, values)


def fortran(file):
    np.save(file, np.asfortranarray(unit(4, 2)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "cut off"),
        (lengthen, "not what its header says"),
        (empty, "cut off or no npy file"),
        (half_a_header, "cut off or no npy file"),
        (pickled, "no npy file"),
        (narrower, "dimension 3"),
        (other_type, "float32 of dimension 6"),
        (integers, r"holds int64 \(4, 6\)"),
        (big_endian, "embeddings are float16 or float32"),
        (one_dimension, r"holds float16 \(4,\)"),
        (more_rows, "has 5 rows, its table metadata_02.parquet 4"),
        (not_finite, r"NaN or infinite values in 1 of 4 rows \('000020002'\)"),
        (os.remove, r"metadata_02\.parquet' is there without img_emb_2\.npy"),
    ],
)
def test_damage_is_one_line_that_names_it(folder, tmp_path, damage, words):
    file = folder / "img_emb" / "img_emb_02.npy"
    damage(file)
    with pytest.raises(ClipAlignError, match=words) as failure:
        import_clip_retrieval(folder, tmp_path / "store")
    assert "\n" not in str(failure.value)
    if damage is not not_finite:
        assert damage is os.remove or "img_emb_02.npy" in str(failure.value)
        assert not (tmp_path / "store").exists()


def test_arrays_in_the_order_of_columns_are_read_as_such(folder, tmp_path):
    fortran(folder / "img_emb" / "img_emb_02.npy")
    assert torch.equal(
        import_clip_retrieval(folder, tmp_path / "store").values(), torch.from_numpy(expected()).float()
    )


def test_a_missing_or_damaged_table_is_named(folder, tmp_path):
    table = folder / "metadata" / "metadata_02.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(ClipAlignError, match=r"metadata_02\.parquet' cannot be read"):
        import_clip_retrieval(folder, tmp_path / "store")
    table.unlink()
    with pytest.raises(ClipAlignError, match=r"img_emb_02\.npy' is there without metadata_2\.parquet"):
        import_clip_retrieval(folder, tmp_path / "store")
    with pytest.raises(ClipAlignError, match=r"holds no img_emb/img_emb_0\.npy"):
        import_clip_retrieval(tmp_path, tmp_path / "store")


def test_a_folder_with_other_files_is_not_replaced(folder, tmp_path):
    store = import_clip_retrieval(folder, tmp_path / "store")
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ClipAlignError, match=r"holds other files \('notes\.txt'\)"):
        export_clip_retrieval(store, target)
    assert (target / "notes.txt").exists()
    export_clip_retrieval(store, target, overwrite=True)
    assert not (target / "notes.txt").exists()


def test_images_and_texts_must_be_of_the_same_rows(folder, tmp_path):
    images = import_clip_retrieval(folder, tmp_path / "images")
    fewer = import_clip_retrieval(write_folder(tmp_path / "fewer", (3,)), tmp_path / "texts", modality="text")
    with pytest.raises(ClipAlignError, match="no images and their texts row by row"):
        export_clip_retrieval(images, tmp_path / "out", texts=fewer)
