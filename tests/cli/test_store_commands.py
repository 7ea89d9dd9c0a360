"""`clipalign embed` and `evaluate` on folders of features, and on queries with judged pairs."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app
from hf_clipalign.features import FeatureStore


@pytest.fixture
def images(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(12):
        file = tmp_path / "images" / f"class{number % 4}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(file)
    return tmp_path / "images"


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_embed_goes_on_and_evaluate_reads_it(images, tmp_path):
    out, report = tmp_path / "features", tmp_path / "report"
    (images / "class0" / "0.png").write_bytes(b"no image")
    output = call("embed", images, "--model", "mini:student", "--out", out, "--shard-size", 5, "--workers", 0)
    assert "11 images" in output
    assert "class0/0.png" in output.replace("\n", "")
    written = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    call("embed", images, "--model", "mini:student", "--out", out, "--shard-size", 5)
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == written
    call("evaluate", out, "--band", "4,4", "--out", report)
    direct = tmp_path / "direct"
    call("evaluate", images, "--model", "mini:student", "--band", "4,4", "--out", direct)
    scores = [json.loads((folder / "results.json").read_text())["comparison"]["scores"] for folder in (report, direct)]
    for stored, fresh in zip(*scores, strict=True):
        assert stored["metrics"] == pytest.approx(fresh["metrics"])


def test_embed_in_another_type(images, tmp_path):
    out = tmp_path / "features"
    call("embed", images, "--model", "mini:student", "--out", out, "--workers", 0, "--dtype", "bfloat16")
    assert FeatureStore.open(out).manifest["model"]["dtype"] == "bfloat16"
    call("evaluate", out, "--band", "4,4", "--out", tmp_path / "report")
    with pytest.raises(ClipAlignError, match="dtype"):
        call("embed", images, "--model", "mini:student", "--out", out, "--workers", 0)


def test_embed_refuses_what_does_not_fit(images, tmp_path):
    out = tmp_path / "features"
    call("embed", images, "--model", "mini:student", "--out", out, "--workers", 0)
    with pytest.raises(ClipAlignError, match="what differs: model weights"):
        call("embed", images, "--out", out, "--model", "mini:teacher")
    with pytest.raises(ClipAlignError, match="another model"):
        call("evaluate", out, "--model", "mini:teacher", "--band", "4,4", "--out", tmp_path / "report")
    call("embed", images, "--out", out, "--model", "mini:teacher", "--overwrite")
    assert FeatureStore.open(out).model == "mini:teacher"
    (images / "class0" / "0.png").write_bytes(b"no image")
    with pytest.raises(ClipAlignError, match=r"0\.png"):
        call("embed", images, "--model", "mini:student", "--out", tmp_path / "strict", "--strict")
    with pytest.raises(ClipAlignError, match="--streaming needs --split"):
        call("embed", "owner/name", "--model", "mini:student", "--streaming", "--out", tmp_path / "stream")


@pytest.mark.parametrize("band", ["4,4", "auto"])
def test_text_text_takes_a_folder_of_queries_corpus_and_qrels(tmp_path, band):
    texts = [
        "red apple",
        "a crimson fruit",
        "grinning face",
        "a happy smile",
        "fast car",
        "an automobile",
        "cat",
        "a kitten",
    ]
    queries = [{"_id": f"q{row}", "text": text} for row, text in enumerate(texts[::2])]
    corpus = [{"_id": f"d{row}", "title": "", "text": text} for row, text in enumerate(texts[1::2])]
    for name, rows in (("queries", queries), ("corpus", corpus)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = [f"q{row}\td{row}\t1" for row in range(4)]
    (tmp_path / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *pairs]))
    call(
        "evaluate",
        tmp_path,
        "--model",
        "mini:student",
        "--task",
        "text-text",
        "--band",
        band,
        "--out",
        tmp_path / "report",
    )
    assert "nDCG@10" in (tmp_path / "report" / "index.html").read_text()
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["comparison"]["n_queries"] == (4 if band == "4,4" else 2)
    assert 0 < results["comparison"]["scores"][0]["metrics"]["ndcg_at_10"] <= 1
