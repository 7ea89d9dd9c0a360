"""Stores behind a URL: in fsspec's memory, and how they are copied there."""

import tempfile

import fsspec
import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign._io.urls import RemoteFolder
from hf_clipalign.data import FindingLabels
from hf_clipalign.features import (
    EmbeddingStore,
    Features,
    FeatureStore,
    LabelledEmbeddings,
    copy_store,
    import_clip_retrieval,
    open_store,
)
from hf_clipalign.features.rows import FEATURES, Rows, finish_rows, write_rows
from hf_clipalign.features.storage.folder import ShardFolder
from hf_clipalign.inversion import inversion_blocks, invert_to_store, read_inversions
from hf_clipalign.search import ImageIndex
from tests.features.interchange.clip_retrieval_files import write_folder
from tests.tiny_models import tiny_clip

SIZES = (4, 0, 3, 5)
URL = "memory://bucket/features"


def write_store(folder, width=8, seed=0, weights=None):
    """Features in four shards, one of them without a row."""
    generator, start = torch.Generator().manual_seed(seed), 0
    description = {
        "modality": "image",
        "width": width,
        "model": {"name": "tiny", "weights": weights},
        "data": {"name": "images", "fingerprint": str(seed)},
        "class_names": ["a", "b"],
        "shard_size": 5,
        "batch_size": 2,
    }
    shards = ShardFolder.create(folder, FEATURES, description)
    for index, n in enumerate(SIZES):
        ids, positions = [f"i-ü{start + row}" for row in range(n)], torch.arange(start, start + n)
        skipped = [("lost", "no such file")] if n == 0 else []
        write_rows(
            shards, index, Rows(torch.randn(n, width, generator=generator), positions, ids, positions % 2, skipped)
        )
        start += n
    finish_rows(shards, len(SIZES))
    return FeatureStore.open(folder)


@pytest.fixture(autouse=True)
def memory():
    """An empty memory file system."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    return files


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "features")


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read from behind a URL."""
    names, read = [], RemoteFolder.read
    monkeypatch.setattr(RemoteFolder, "read", lambda self, name: names.append(name) or read(self, name))
    return names


def test_everything_is_as_on_the_disk(store):
    copy_store(store.folder, URL)
    remote = FeatureStore.open(URL)
    assert remote.folder == URL
    assert repr(remote) == f"FeatureStore('{URL}', 12 image features, width 8)"
    assert torch.equal(remote.values(), store.values())
    wanted = [11, 0, 4, 4]
    assert torch.equal(remote.values(wanted), store.values(wanted))
    assert (remote.ids, remote.skipped, remote.n_skipped) == (store.ids, store.skipped, 1)
    assert remote.labels.tolist() == store.labels.tolist()
    assert [len(block) for block in remote.blocks()] == [4, 3, 5]
    features, loaded = store.to_features(), Features.load(URL)
    assert torch.equal(features.values, loaded.values)
    assert (features.ids, features.class_names) == (loaded.ids, loaded.class_names)
    assert remote.to_dataset()["id"][:] == store.ids
    assert remote.key == store.key
    remote.verify()
    assert remote.damaged() == []


def test_a_file_url_is_a_folder(store):
    local = FeatureStore.open(store.folder.as_uri())
    assert local.folder == store.folder
    assert torch.equal(local.values(), store.values())


def test_opening_reads_the_manifest_and_a_pass_reads_each_shard_once(store, reads):
    copy_store(store.folder, URL)
    reads.clear()
    remote = FeatureStore.open(URL)
    assert reads == ["features.json"]
    reads.clear()
    for _ in remote.blocks():
        pass
    assert reads == [entry["file"] for entry in store.manifest["shards"]]
    reads.clear()
    remote.values([0, 1, 2])
    assert reads == [store.manifest["shards"][0]["file"]]


def test_one_shard_is_in_memory(store, monkeypatch):
    """While one is read, the one before it is there, and no other."""
    import weakref

    from hf_clipalign.features.storage import remote as module

    copy_store(store.folder, URL)
    alive, most, shard_in = [], 0, module.shard_in

    def watched(content):
        nonlocal most
        shard = shard_in(content)
        if len(shard.tensors["values"]):
            alive.append(weakref.ref(shard.tensors["values"].untyped_storage()))
        most = max(most, sum(one() is not None for one in alive))
        return shard

    monkeypatch.setattr(module, "shard_in", watched)
    total = sum(float(block.values.sum()) for block in FeatureStore.open(URL).blocks())
    assert total == pytest.approx(float(store.values().sum()), abs=1e-4)
    assert len(alive) == len(SIZES) - 1
    assert most <= 2


def test_files_can_be_kept_on_the_disk(store, memory, tmp_path, monkeypatch):
    """A chain of file systems, as fsspec spells it: what was read once is not fetched again."""
    copy_store(store.folder, URL)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cached = FeatureStore.open(f"simplecache::{URL}")
    assert torch.equal(cached.values(), store.values())
    monkeypatch.setattr(type(memory), "cat_file", lambda *args, **more: pytest.fail("fetched again"))
    monkeypatch.setattr(type(memory), "_open", lambda *args, **more: pytest.fail("fetched again"))
    assert torch.equal(cached.values(), store.values())


def files_of(memory):
    return {path.rpartition("/")[2]: path for path in memory.find("/bucket/features")}


def flip(memory, path):
    content = bytearray(memory.cat_file(path))
    content[-1] ^= 1
    memory.pipe_file(path, bytes(content))


def shorten(memory, path):
    memory.pipe_file(path, memory.cat_file(path)[:-1])


def remove(memory, path):
    memory.rm_file(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [(flip, "its content has changed"), (shorten, "bytes instead of"), (remove, "it is missing")],
)
@pytest.mark.parametrize("before_opening", [True, False])
def test_damage_is_named(store, memory, damage, words, before_opening):
    copy_store(store.folder, URL)
    name = store.manifest["shards"][2]["file"]
    opened = None if before_opening else FeatureStore.open(URL)
    damage(memory, files_of(memory)[name])
    with pytest.raises(ClipAlignError, match=f"{name}: .*{words}") as failure:
        (opened or FeatureStore.open(URL)).values()
    assert URL in str(failure.value)
    if opened is not None:
        assert opened.damaged() == [name]
        assert torch.equal(opened.values([0]), store.values([0]))


def test_a_damaged_manifest_is_named(store, memory):
    copy_store(store.folder, URL)
    path = files_of(memory)["features.json"]
    memory.pipe_file(path, memory.cat_file(path).replace(b'"width": 8', b'"width": 9'))
    with pytest.raises(ClipAlignError, match=r"memory://bucket/features/features\.json' is damaged"):
        FeatureStore.open(URL)


def test_what_is_not_there_is_one_line():
    with pytest.raises(ClipAlignError, match="'memory://bucket/nothing' holds no features"):
        FeatureStore.open("memory://bucket/nothing")
    with pytest.raises(ClipAlignError, match="'memory://bucket/nothing' holds no embeddings"):
        EmbeddingStore.open("memory://bucket/nothing")
    with pytest.raises(ClipAlignError, match="'memory://bucket/nothing' holds no inversions"):
        read_inversions("memory://bucket/nothing")
    with pytest.raises(ClipAlignError, match="nonsense:// is no file system that fsspec knows"):
        FeatureStore.open("nonsense://user:secret@host/features?token=abc")


def test_messages_hold_no_secret(monkeypatch):
    def refuse(self, path, **more):
        raise PermissionError("Access Denied for AKIAIOSFODNN7EXAMPLE with secret_key=wJalrXUtnFEMI")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "cat_file", refuse)
    with pytest.raises(ClipAlignError, match="give credentials in the environment") as failure:
        FeatureStore.open("memory://user:hunter2@bucket/features?X-Amz-Signature=abcdef")
    text = str(failure.value)
    assert not any(secret in text for secret in ("hunter2", "abcdef", "AKIA", "wJalr"))
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__
    assert "\n" not in text


def test_a_copy_is_complete_or_not_there_and_is_resumed(store, memory, monkeypatch):
    write, written = RemoteFolder.write, []

    def write_or_stop(self, name, content):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, content)

    monkeypatch.setattr(RemoteFolder, "write", write_or_stop)
    with pytest.raises(KeyboardInterrupt):
        copy_store(store.folder, URL)
    with pytest.raises(ClipAlignError, match="holds no features"):
        FeatureStore.open(URL)
    shorten(memory, files_of(memory)[written[1]])
    monkeypatch.setattr(RemoteFolder, "write", lambda self, name, c: written.append(name) or write(self, name, c))
    written.clear()
    copy_store(store.folder, URL)
    names = [entry["file"] for entry in store.manifest["shards"]]
    assert written == [*names[1:], "features.json"]
    assert {name: memory.cat_file(path) for name, path in files_of(memory).items()} == {
        name: (store.folder / name).read_bytes() for name in [*names, "features.json"]
    }
    written.clear()
    copy_store(store.folder, URL)
    assert written == ["features.json"]


def test_another_store_is_replaced_on_demand_only(store, memory, tmp_path):
    copy_store(store.folder, URL)
    other = write_store(tmp_path / "other", seed=1)
    with pytest.raises(ClipAlignError, match="holds other features: give another place, or replace them"):
        copy_store(other.folder, URL)
    assert torch.equal(FeatureStore.open(URL).values(), store.values())
    copy_store(other.folder, URL, overwrite=True)
    assert torch.equal(FeatureStore.open(URL).values(), other.values())
    assert len(files_of(memory)) == len(SIZES) + 1


def test_what_cannot_be_copied_is_one_line(store, tmp_path):
    with pytest.raises(ClipAlignError, match="is on a disk: copy the folder"):
        copy_store(store.folder, str(tmp_path / "elsewhere"))
    with pytest.raises(ClipAlignError, match="holds no store"):
        copy_store(tmp_path, URL)
    file = store.folder / store.manifest["shards"][0]["file"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ClipAlignError, match=f"{file.name}: its content has changed"):
        copy_store(store.folder, URL)


def test_embeddings_behind_a_url(tmp_path):
    local = import_clip_retrieval(write_folder(tmp_path / "laion"), tmp_path / "store")
    copy_store(local.folder, "memory://bucket/embeddings")
    remote = open_store("memory://bucket/embeddings")
    assert isinstance(remote, EmbeddingStore)
    assert torch.equal(remote.values(), local.values())
    assert remote.metadata(0).equals(local.metadata(0))
    queries = local.values([5, 1])
    assert torch.equal(remote.search(queries, 3)[1], local.search(queries, 3)[1])
    with pytest.raises(ClipAlignError, match="behind a projector already"):
        FeatureStore.open("memory://bucket/embeddings")


def test_stored_embeddings_for_incremental_training_read_each_shard_once(tmp_path, reads):
    model = tiny_clip()
    width = model.config.vision_config.hidden_size
    store = write_store(tmp_path / "features", width)
    copy_store(store.folder, URL)
    order = [f"i-ü{row}" for row in (7, 0, 11, 3)]
    labels = FindingLabels(order, ["Edema"], np.zeros((4, 1)), name="labels")
    local = LabelledEmbeddings.from_store(store, labels, model)
    reads.clear()
    remote = LabelledEmbeddings.from_store(URL, labels, model)
    assert torch.equal(local.embeds, remote.embeds)
    with torch.no_grad():
        wanted = store.values([7, 0, 11, 3]) @ model.visual_projection.weight.T
    assert torch.allclose(remote.embeds, wanted, atol=1e-5)
    shards = [name for name in reads if name.endswith(".safetensors")]
    assert {shards.count(name) for name in shards} <= {1, 2, 3}  # names, what was skipped, features


def test_inversions_behind_a_url(tmp_path, memory):
    embeds = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    options = {"n_tokens": 1, "steps": 1, "progress": False, "shard_size": 2}
    folder = invert_to_store(tmp_path / "inversions", "ovi", tiny_clip(), embeds, **options)
    memory.put(str(folder), "/bucket/inversions", recursive=True)
    (ids, local), (remote_ids, remote) = read_inversions(folder), read_inversions("memory://bucket/inversions")
    assert ids == remote_ids
    assert torch.equal(local.features, remote.features)
    blocks = list(inversion_blocks("memory://bucket/inversions"))
    assert [len(names) for names, _ in blocks] == [2, 2, 1]
    assert torch.equal(torch.cat([output.tokens for _, output in blocks]), local.tokens)
    shard = next(path for path in memory.find("/bucket/inversions") if "00001" in path)
    flip(memory, shard)
    with pytest.raises(ClipAlignError, match="1 of 3 shards in 'memory://bucket/inversions' are missing or damaged"):
        inversion_blocks("memory://bucket/inversions")


@pytest.mark.parametrize("path", ["s3://bucket/my.index", "memory://my.index"])
def test_an_index_is_on_a_disk(path, tmp_path):
    with pytest.raises(ClipAlignError, match="an index lies on a disk of this machine"):
        ImageIndex.open(path)
    with pytest.raises(ClipAlignError, match="an index lies on a disk of this machine"):
        ImageIndex.create(tmp_path, "model", path)
