"""Embeddings behind a projector: what can be done with them, and what refuses them."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import Projector
from hf_clipalign.data import FindingLabels
from hf_clipalign.evaluation import retrieval_task
from hf_clipalign.features import (
    EmbeddingStore,
    Features,
    FeatureStore,
    LabelledEmbeddings,
    export_table,
    import_clip_retrieval,
    open_store,
    project_store,
)
from hf_clipalign.gcd import spectral_filter
from hf_clipalign.metrics import retrieval_metrics
from tests.features.interchange.clip_retrieval_files import SIZES, WIDTH, write_folder
from tests.tiny_models import tiny_clip

N, D = 23, 5


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    root = tmp_path_factory.mktemp("embeddings")
    return import_clip_retrieval(write_folder(root / "laion"), root / "store", label_column="kind")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Features of width 7 in shards of several sizes."""
    folder = tmp_path_factory.mktemp("features")
    values = torch.randn(N, 7, generator=torch.Generator().manual_seed(0))
    whole = Features(values, "image", [f"i{row}" for row in range(N)], np.arange(N) % 2, ["a", "b"])
    whole.save(folder)
    return FeatureStore.open(folder)


def refusals(place):
    """Everything that applies a projector or a band to a store."""
    labels = FindingLabels(["a"], ["Edema"], np.zeros((1, 1)), name="labels")
    return {
        "open": lambda: FeatureStore.open(place),
        "load": lambda: Features.load(place),
        "labelled": lambda: LabelledEmbeddings.from_store(place, labels, tiny_clip()),
    }


@pytest.mark.parametrize("reader", ["open", "load", "labelled"])
def test_readers_that_apply_a_projector_refuse_them_in_one_line(embeddings, reader):
    for place in (embeddings.folder, str(embeddings.folder)):
        with pytest.raises(ClipAlignError, match="behind a projector already: no projector and no band") as failure:
            refusals(place)[reader]()
        assert "\n" not in str(failure.value)


def test_an_open_store_is_refused_too(embeddings):
    with pytest.raises(ClipAlignError, match="behind a projector already"):
        FeatureStore.open(embeddings)
    labels = FindingLabels(["a"], ["Edema"], np.zeros((1, 1)), name="labels")
    with pytest.raises(ClipAlignError, match="behind a projector already"):
        LabelledEmbeddings.from_store(embeddings, labels, tiny_clip())
    with pytest.raises(ClipAlignError, match="behind a projector already"):
        retrieval_task(embeddings)
    assert not isinstance(embeddings, FeatureStore)


def test_features_are_no_embeddings(features):
    with pytest.raises(ClipAlignError, match="holds no embeddings"):
        EmbeddingStore.open(features.folder)
    assert isinstance(open_store(features.folder), FeatureStore)


def test_a_folder_holds_one_of_the_two(features, embeddings, tmp_path):
    with pytest.raises(ClipAlignError, match="holds features: give another folder"):
        project_store(features, lambda block: block, features.folder)
    folder = shutil.copytree(embeddings.folder, tmp_path / "both")
    features.to_features().save(folder)
    with pytest.raises(ClipAlignError, match="holds features and embeddings"):
        open_store(folder)


def test_search_is_that_of_the_full_product(embeddings):
    assert isinstance(open_store(embeddings.folder), EmbeddingStore)
    queries = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1)) * 30
    values = torch.nn.functional.normalize(embeddings.values(), dim=1)
    cosines = torch.nn.functional.normalize(queries, dim=1) @ values.T
    scores, rows = embeddings.search(queries, top_k=6)
    assert torch.equal(rows, cosines.argsort(dim=1, descending=True)[:, :6])
    assert torch.allclose(scores, cosines.gather(1, rows), atol=1e-6)
    assert embeddings.search(queries.numpy(), top_k=1000)[1].shape == (4, sum(SIZES))
    own, found = embeddings.search(embeddings.values([3, 0]), top_k=1)
    assert found[:, 0].tolist() == [3, 0]
    assert torch.allclose(own, torch.ones(2, 1), atol=1e-5)
    with pytest.raises(ClipAlignError, match=r"queries have the shape \(4, 3\)"):
        embeddings.search(queries[:, :3])


def test_retrieval_and_filtering_take_them(embeddings):
    values, labels = embeddings.values(), embeddings.labels
    scores = retrieval_metrics(values, values, labels, labels, exclude_self=True)
    assert 0 < scores["map"] <= 1
    texts, names = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(2)), [f"c{i}" for i in range(9)]
    by_block = spectral_filter(embeddings.blocks(), texts, names, temperature=0.5)
    at_once = spectral_filter(values, texts, names, temperature=0.5)
    assert by_block.concepts == at_once.concepts
    assert np.allclose(by_block.importance, at_once.importance)


def test_features_through_a_head(features, tmp_path):
    matrix = torch.randn(D, 7, generator=torch.Generator().manual_seed(3))
    store = project_store(features, Projector(matrix), tmp_path / "store", name="mine")
    wanted = torch.nn.functional.normalize(features.values() @ matrix.T, dim=1)
    assert torch.allclose(store.values(), wanted, atol=1e-3)
    assert torch.equal(store.shard(0).values, wanted.half()) or torch.allclose(store.values(), wanted, atol=5e-4)
    assert (store.ids, store.labels.tolist()) == (features.ids, features.labels.tolist())
    assert (store.head, store.class_names, store.normalized) == ("mine", ["a", "b"], True)
    again = project_store(features, Projector(matrix), tmp_path / "store", name="mine")
    assert again.key == store.key
    with pytest.raises(ClipAlignError, match="holds other embeddings; what differs: data"):
        project_store(features, Projector(matrix + 1), tmp_path / "store", name="mine")
    with pytest.raises(ClipAlignError, match="the projector takes 6"):
        project_store(features, Projector(matrix[:, :6]), tmp_path / "other")
    exact = project_store(features, lambda block: block @ matrix.T, tmp_path / "exact", dtype="float32")
    assert torch.allclose(exact.values(), wanted, atol=1e-6)
    with pytest.raises(ClipAlignError, match="behind a projector already"):
        FeatureStore.open(tmp_path / "store")


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_tables_have_vectors_of_a_fixed_size(features, embeddings, tmp_path, ending):
    for store, column in ((features, "features"), (embeddings, "image_embeds")):
        file = export_table(store, tmp_path / f"{column}.{ending}")
        table = pq.read_table(file) if ending == "parquet" else pa.ipc.open_file(file).read_all()
        assert table.schema.field(column).type == pa.list_(
            pa.field("element", pa.float32(), nullable=False), store.width
        )
        flat = table[column].combine_chunks().flatten().to_numpy()
        assert torch.equal(torch.from_numpy(flat.reshape(len(store), -1).copy()), store.values())
        assert table["id"].to_pylist() == store.ids
        assert table["label"].to_pylist() == [store.class_names[label] for label in store.labels]
        assert b'"space"' in table.schema.metadata[b"hf_clipalign"]
    assert pq.ParquetFile(export_table(embeddings, tmp_path / "e.parquet")).num_row_groups == embeddings.n_shards


def test_a_table_of_embeddings_is_read_as_labelled_embeddings(embeddings, tmp_path):
    file = export_table(embeddings, tmp_path / "e.parquet")
    labels = FindingLabels(embeddings.ids, ["Edema"], np.zeros((len(embeddings), 1)), name="labels")
    assert torch.equal(LabelledEmbeddings.from_file(file, labels).embeds, embeddings.values())
    with pytest.raises(ClipAlignError, match=r"a table ends in \.parquet or \.arrow"):
        export_table(embeddings, tmp_path / "e.csv")


def test_damage_of_a_shard_is_named(embeddings, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(embeddings.folder, folder)
    file = sorted(folder.glob("*.safetensors"))[1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    store = EmbeddingStore.open(folder)
    with pytest.raises(ClipAlignError, match=f"{file.name}: its content has changed"):
        store.values()
    assert store.damaged() == [file.name]
