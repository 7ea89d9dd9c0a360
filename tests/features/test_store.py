"""Reading a store: rows, blocks, data sets, memory."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageStream, StreamRecord
from hf_clipalign.features import Features, FeatureStore, extract_to_store
from tests.features.cheap_encoder import CheapEncoder, cheap_processor

N, WIDTH = 23, 8


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (N, 4, 4, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def store(pixels, tmp_path_factory):
    """23 rows in shards of 5; row 7 and all of the third shard cannot be read."""

    def records(first):
        for row in range(first, N):
            bad = row == 7 or 10 <= row < 15
            yield StreamRecord(f"bild-ü-{row}", b"" if bad else pixels[row], row % 3)

    stream = ImageStream(records, fingerprint=lambda: "synthetic", class_names=["a", "b", "c"])
    folder = tmp_path_factory.mktemp("store")
    options = {"shard_size": 5, "batch_size": 2, "num_workers": 0, "progress": False}
    return extract_to_store(CheapEncoder(WIDTH), stream, cheap_processor, folder, **options)


@pytest.fixture(scope="module")
def expected(pixels):
    rows = [row for row in range(N) if row != 7 and not 10 <= row < 15]
    return rows, torch.from_numpy(pixels[rows].reshape(len(rows), -1)[:, :WIDTH]).float()


def test_rows(store, expected):
    rows, values = expected
    assert torch.equal(store.values(), values)
    assert store.ids == [f"bild-ü-{row}" for row in rows]
    assert store.labels.tolist() == [row % 3 for row in rows]
    wanted = [16, 0, 3, 8, 8, 15, 9]
    assert torch.equal(store.values(wanted), values[wanted])
    assert store.values([]).shape == (0, WIDTH)
    for outside in ([-1], [17]):
        with pytest.raises(ClipAlignError, match="rows go from 0 to 16"):
            store.values(outside)


def test_blocks_are_the_whole(store, expected):
    blocks = list(store.blocks())
    assert [len(block) for block in blocks] == [5, 4, 5, 3]
    assert torch.equal(torch.cat([block.values for block in blocks]), expected[1])
    assert [name for block in blocks for name in block.ids] == store.ids
    assert all(block.class_names == ["a", "b", "c"] for block in blocks)


def test_features_in_memory_make_the_same_round_trip(store, tmp_path):
    features = store.to_features()
    features.save(tmp_path / "saved")
    loaded = Features.load(tmp_path / "saved")
    assert torch.equal(loaded.values, features.values)
    assert loaded.labels.tolist() == features.labels.tolist()
    names = ("ids", "class_names", "skipped", "model", "modality")
    assert all(getattr(loaded, name) == getattr(features, name) for name in names)
    features.select([0]).save(tmp_path / "saved")
    assert len(Features.load(tmp_path / "saved")) == 1


def test_to_dataset(store, expected):
    dataset = store.to_dataset()
    assert dataset.features["features"] == datasets.List(datasets.Value("float32"), length=WIDTH)
    assert dataset.features["label"].names == ["a", "b", "c"]
    assert dataset["id"][:] == store.ids
    assert dataset["label"][:] == store.labels.tolist()
    assert torch.equal(dataset.with_format("torch")["features"][:], expected[1])
    assert store.to_dataset()._fingerprint == dataset._fingerprint


def test_a_faiss_index_of_the_data_set_finds_every_item_itself(store, expected):
    pytest.importorskip("faiss")
    dataset = store.to_dataset()
    dataset.add_faiss_index("features")
    for row in (0, 9, 16):
        _, found = dataset.get_nearest_examples("features", expected[1][row].numpy(), k=1)
        assert found["id"] == [store.ids[row]]


def test_opening_what_is_not_there_or_newer_is_an_error(store, tmp_path):
    with pytest.raises(ClipAlignError, match="holds no features"):
        FeatureStore.open(tmp_path)
    manifest = json.loads((store.folder / "features.json").read_text())
    (tmp_path / "features.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ClipAlignError, match="have format 99"):
        FeatureStore.open(tmp_path)
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(ClipAlignError, match="damaged"):
        FeatureStore.open(tmp_path)


CODE = """
import sys, numpy as np, torch
from pathlib import Path
from hf_clipalign.data import ImageStream, StreamRecord
from hf_clipalign.features import extract_to_store
from tests.features.cheap_encoder import CheapEncoder, cheap_processor

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

marks = {}
def records(first):
    image = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    for row in range(first, 60_000):
        if row in (12_000, 58_000):
            marks[row] = resident_mb()
        yield StreamRecord(str(row), image)

torch.set_num_threads(1)
stream = ImageStream(records, fingerprint=lambda: "synthetic")
options = {"shard_size": 1024, "num_workers": 0, "progress": False}
store = extract_to_store(CheapEncoder(512), stream, cheap_processor, sys.argv[1], **options)
start = resident_mb()
total = sum(len(block) for block in store.blocks())
print(total, marks[58_000] - marks[12_000], resident_mb() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_memory_does_not_grow_with_the_number_of_items(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    total, written, read = (float(number) for number in done.stdout.split())
    assert total == 60_000
    assert written < 25, "46,000 features of 512 numbers are 90 MB"
    assert read < 25, "60,000 features of 512 numbers are 117 MB"
