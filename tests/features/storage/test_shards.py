"""One shard proves itself: no changed byte of it is taken for the content that was written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_clipalign.features.storage.manifest import Column, Kind
from hf_clipalign.features.storage.shards import DamagedShard, proven_shard, write_shard

TENSORS = {
    "a": torch.arange(6.0).reshape(3, 2),
    "b": torch.tensor([], dtype=torch.int64),
    "half": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
}


def written(path):
    write_shard(path, "things", "k" * 64, 7, TENSORS, {"names": ["ü", "\udce4"]})
    return path


def test_a_shard_comes_back_and_its_bytes_are_always_the_same(tmp_path):
    first, second = written(tmp_path / "1.safetensors"), written(tmp_path / "2.safetensors")
    assert first.read_bytes() == second.read_bytes()
    shard = proven_shard(first, "things", "k" * 64, 7)
    assert shard.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(shard.tensors[name], value) for name, value in TENSORS.items())
    assert shard.meta == {"names": ["ü", "\udce4"]}


@pytest.mark.parametrize("bit", [0, 2, 5])
def test_no_flipped_bit_is_taken_for_the_content(tmp_path, bit):
    file = written(tmp_path / "1.safetensors")
    data, silent = file.read_bytes(), []
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        file.write_bytes(changed)
        try:
            shard = proven_shard(file, "things", "k" * 64, 7)
        except DamagedShard:
            continue
        assert all(torch.equal(shard.tensors[name], value) for name, value in TENSORS.items())
        assert shard.meta == {"names": ["ü", "\udce4"]}
        silent.append(chr(data[place]))
    assert set(silent) <= set("abcdef"), "hexadecimal digits of an escaped letter may change their case"


@pytest.mark.parametrize(
    ("kind", "key", "index", "words"),
    [
        ("others", "k" * 64, 7, "shard of 'things', not of 'others'"),
        ("things", "l" * 64, 7, "another run"),
        ("things", "k" * 64, 6, "shard 7, in the place of 6"),
    ],
)
def test_a_shard_in_another_place_is_named(tmp_path, kind, key, index, words):
    with pytest.raises(DamagedShard, match=words):
        proven_shard(written(tmp_path / "1.safetensors"), kind, key, index)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "no 'x'"),
        ({"x": torch.ones(2, 2, dtype=torch.int64)}, r"'x' are torch.int64 \(2, 2\)"),
        ({"x": torch.ones(2)}, r"'x' are torch.float32 \(2,\)"),
        ({"x": torch.ones(2, 2), "y": torch.ones(3, dtype=torch.int64)}, "2 and 3 rows"),
    ],
)
def test_tensors_that_do_not_fit_the_schema_are_named(tensors, words):
    columns = {"x": Column("float", 2), "y": Column("int64", 1, optional=True)}
    kind = Kind("things", "things", columns, identity=(), description=dict, remedy="")
    with pytest.raises(DamagedShard, match=words):
        kind.check_columns(tensors)


CODE = """
import resource, sys
from pathlib import Path
import datasets, numpy, pyarrow, torch
from hf_clipalign.features import Features, FeatureStore
from hf_clipalign._io import files as _files
from hf_clipalign.features.rows import FEATURES, Rows, finish_rows, write_rows
from hf_clipalign.features.storage.folder import ShardFolder

_files.flush = lambda path: None
description = {"modality": "image", "width": 2, "model": {"name": "m", "weights": None}, "class_names": None,
    "data": {"name": "d", "fingerprint": "f"}, "shard_size": 1, "batch_size": 1}
datasets.Dataset.from_dict({"id": ["a"]})
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
folder = ShardFolder.create(Path(sys.argv[1]), FEATURES, description)
for index in range(1000):
    one = torch.tensor([index])
    write_rows(folder, index, Rows(torch.full((1, 2), float(index)), one, [str(index)], one))
finish_rows(folder, 1000)
store = FeatureStore.open(sys.argv[1])
store.verify()
blocks, dataset = list(store.blocks()), store.to_dataset()
kept = [folder.read(index) for index in range(1000)]
assert store.damaged() == []
print(len(blocks), len(dataset), store.labels.sum(), int(store.values().sum()), len(store.ids), len(kept))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on open files")
def test_a_thousand_shards_need_few_descriptors(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["1000", "1000", "499500", "999000", "1000", "1000"]
