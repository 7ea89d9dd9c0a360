"""Commands on tars, on embeddings of other programs, and on stores behind a URL."""

import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app
from hf_clipalign.data import load_mini
from hf_clipalign.features import EmbeddingStore, FeatureStore
from tests.data.images.webdatasets import write_shard


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Features of 16 images of four classes by the built-in student."""
    root, generator = tmp_path_factory.mktemp("cli"), np.random.default_rng(0)
    for number in range(16):
        file = root / "images" / f"class{number % 4}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(file)
    call("embed", root / "images", "--model", "mini:student", "--out", root / "features", "--shard-size", 6)
    return root / "features"


def test_embed_takes_a_folder_of_tars(tmp_path):
    write_shard(tmp_path / "laion", 0, 4, {2: "HTTP Error 404: Not Found"})
    write_shard(tmp_path / "laion", 1, 2)
    output = call("embed", tmp_path / "laion", "--model", "mini:student", "--out", tmp_path / "out", "--workers", 0)
    assert "5 images" in output
    assert "000000002" in output
    assert "HTTP Error 404" in output.replace("\n", " ")
    assert FeatureStore.open(tmp_path / "out").ids[-1] == "000010001"


@pytest.fixture(scope="module")
def laion(features, tmp_path_factory):
    """The features as clip-retrieval would keep them, with the classes as a column."""
    folder = tmp_path_factory.mktemp("laion") / "out"
    output = call("export", features, "--to", "clip-retrieval", "--out", folder)
    assert "16 embeddings of dimension 128" in output
    return folder


def test_export_gives_what_the_model_gives(features, laion):
    values = np.concatenate([np.load(file) for file in sorted((laion / "img_emb").iterdir())])
    assert values.dtype == np.float16
    wanted = FeatureStore.open(features).values() @ load_mini().student.visual_projection.weight.detach().T
    wanted = (wanted / wanted.norm(dim=1, keepdim=True)).numpy()
    assert np.allclose(values, wanted, atol=1e-3)
    assert sorted(file.name for file in laion.iterdir()) == ["img_emb", "metadata"]
    assert not list(laion.parent.glob(".embeddings-*"))


def test_import_evaluate_concepts(laion, tmp_path):
    out = tmp_path / "embeddings"
    output = call("import", laion, "--model", "mini:student", "--label-column", "label", "--out", out)
    assert "16 image embeddings of dimension 128 (float16)" in output
    assert f"clipalign evaluate {out}" in output.replace("\n", "")
    call("evaluate", out, "--out", tmp_path / "report")
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [score["head"] for score in results["comparison"]["scores"]] == ["as stored", "centred"]
    (tmp_path / "words.txt").write_text("red square\ngreen square\nblue noise\nyellow noise\n")
    call("concepts", out, "--dictionary", tmp_path / "words.txt", "--out", tmp_path / "concepts")
    assert (tmp_path / "concepts" / "concepts.csv").is_file()


def test_embeddings_and_features_score_alike(features, laion, tmp_path):
    out = tmp_path / "embeddings"
    call("import", laion, "--model", "mini:student", "--label-column", "label", "--out", out)
    call("evaluate", out, "--out", tmp_path / "stored")
    call("evaluate", features, "--image-band", "none", "--heads", "raw", "--out", tmp_path / "made")
    scores = [
        json.loads((tmp_path / name / "results.json").read_text())["comparison"]["scores"][0]["metrics"]["map"]
        for name in ("stored", "made")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=5e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "--image-band", "4,4"),
        ("evaluate", "--heads", "raw"),
        ("evaluate", "--task", "zero-shot"),
        ("compare",),
        ("export", "--to", "embeddings"),
        ("export", "--to", "clip-retrieval", "--image-band", "4,4"),
    ],
)
def test_what_needs_a_projector_refuses_embeddings(laion, tmp_path, arguments):
    out = tmp_path / "embeddings"
    call("import", laion, "--model", "mini:student", "--label-column", "label", "--out", out)
    with pytest.raises(ClipAlignError, match="holds embeddings, which are behind a projector already"):
        call(arguments[0], out, *arguments[1:], "--out", tmp_path / "report")
    with pytest.raises(ClipAlignError, match="holds embeddings already"):
        call("embed", out, "--model", "mini:student", "--out", tmp_path / "again")
    with pytest.raises(ClipAlignError, match="behind a projector already"):
        call(
            "export",
            "--model",
            "mini:student",
            "--image-band",
            "1,4",
            "--to",
            "faiss",
            "--features",
            out,
            "--out",
            tmp_path / "f",
        )


def test_export_through_an_aligned_head_and_as_tables(features, tmp_path):
    call("export", features, "--to", "embeddings", "--image-band", "1,48", "--out", tmp_path / "aligned")
    store = EmbeddingStore.open(tmp_path / "aligned")
    assert store.head == "aligned 1,48"
    call("export", features, "--out", tmp_path / "f.parquet")
    call("export", tmp_path / "aligned", "--out", tmp_path / "e.arrow")
    assert pq.read_table(tmp_path / "f.parquet").column_names == ["id", "features", "label"]
    assert pa.ipc.open_file(tmp_path / "e.arrow").read_all().column_names == ["id", "image_embeds", "label"]
    with pytest.raises(ClipAlignError, match="unknown format"):
        call("export", features, "--to", "onnx", "--out", tmp_path / "x")


def test_stores_behind_a_url(features, tmp_path):
    url = "memory://cli/features"
    fsspec.filesystem("memory").store.clear()
    assert url in call("export", features, "--to", "store", "--out", url)
    for data, name in ((features, "local"), (url, "remote")):
        call("evaluate", data, "--image-band", "4,4", "--out", tmp_path / name)
    local, remote = (
        json.loads((tmp_path / name / "results.json").read_text())["comparison"]["scores"]
        for name in ("local", "remote")
    )
    assert local == remote
    with pytest.raises(ClipAlignError, match="holds no features"):
        call("evaluate", "memory://cli/nothing", "--out", tmp_path / "report")
    with pytest.raises(ClipAlignError, match="images are read from a disk or the Hub"):
        call("embed", "s3://user:secret@bucket/images", "--model", "mini:student", "--out", tmp_path / "new")
    with pytest.raises(ClipAlignError, match="an index lies on a disk"):
        call("status", "s3://bucket/my.index")
