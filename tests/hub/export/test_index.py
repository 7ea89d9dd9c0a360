"""The embeddings of an index in other stores: the same vectors, the same neighbours, the right names."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app
from hf_clipalign.data import load_mini
from hf_clipalign.hub import export_index
from hf_clipalign.search import ImageIndex, exact_neighbours


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("index")
    generator = np.random.default_rng(0)
    for number in range(14):
        file = root / "photos" / f"class {number % 3}" / f"ü {number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).resize((50, 50)).save(file)
    (root / "photos" / "copy.png").write_bytes((root / "photos" / "class 1" / "ü 1.png").read_bytes())
    made = ImageIndex.create(root / "photos", load_mini().student_path, root / "photos.index", head=(1, 48))
    made.update(progress=False)
    return made


def test_parquet_holds_vectors_and_files(index, tmp_path):
    table = pq.read_table(export_index(index, tmp_path / "out") / "vectors.parquet")
    assert table.num_rows == len(index) == 14
    vectors = np.stack(table["vector"].to_numpy())
    np.testing.assert_array_equal(vectors, index.embeddings("aligned").read(0, 14))
    assert table.schema.field("vector").type.list_size == 79
    rows = table.to_pylist()
    files = index.files
    for row, values in enumerate(rows):
        of_image = files.of_image(row)
        assert [values["path"], *values["also"]] == [files.path(i) for i in of_image]
        assert values["id"] == row
        assert values["bytes"] == files.sizes[of_image[0]]
        assert values["modified"].timestamp() == pytest.approx(files.modified[of_image[0]], abs=1e-5)
        assert values["class"] == files.names[of_image[0]].rpartition("/")[0]
    assert sum(len(values["also"]) for values in rows) == 1
    facts = json.loads((tmp_path / "out" / "index.json").read_text())["hf_clipalign"]
    assert (facts["head"], facts["band"], facts["dimension"], facts["vectors"]) == ("aligned", [1, 48], 79, 14)


@pytest.mark.parametrize("to", ["faiss", "usearch"])
def test_neighbours_are_the_same(index, tmp_path, to):
    pytest.importorskip(to)
    folder = export_index(index, tmp_path / "out", to, "raw")
    embeddings = index.embeddings("raw")
    queries = embeddings.read(0, 14)
    if to == "faiss":
        import faiss

        scores, rows = faiss.read_index(str(folder / "index.faiss")).search(queries, 3)
    else:
        from usearch.index import Index

        found = Index.restore(str(folder / "index.usearch")).search(queries, 3)
        rows, scores = found.keys.astype(np.int64), 1 - found.distances
    exact = exact_neighbours(embeddings, queries, 3)
    np.testing.assert_array_equal(rows, exact.rows)
    np.testing.assert_allclose(scores, exact.scores, atol=1e-5)
    paths = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    assert paths == [index.files.path(index.files.of_image(row)[0]) for row in range(14)]


def test_an_export_is_replaced_and_nothing_else(index, tmp_path):
    export_index(index, tmp_path / "out")
    export_index(index.path, tmp_path / "out", head="raw")
    assert pq.read_schema(tmp_path / "out" / "vectors.parquet").field("vector").type.list_size == 128
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ClipAlignError, match=r"holds other files .*give another folder, or overwrite=True"):
        export_index(index, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").exists()
    export_index(index, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "notes.txt").exists()


def test_neither_the_index_nor_its_images_are_replaced(tmp_path, caplog):
    (tmp_path / "all" / "photos").mkdir(parents=True)
    Image.new("RGB", (50, 50), "red").save(tmp_path / "all" / "photos" / "red.png")
    made = ImageIndex.create(tmp_path / "all" / "photos", load_mini().student_path, tmp_path / "photos.index")
    made.update(progress=False)
    for target in (made.path, tmp_path / "all" / "photos", tmp_path / "all"):
        with pytest.raises(ClipAlignError, match=r"holds what is read .*: give another folder for the result"):
            export_index(made, target, overwrite=True)
    assert made.verify() == []
    assert (tmp_path / "all" / "photos" / "red.png").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    export_index(made, tmp_path / "out", overwrite=True)
    assert "what it held is lost: 'notes.txt'" in caplog.text


def test_mistakes(index, tmp_path):
    with pytest.raises(ClipAlignError, match="unknown format 'arow' of an index: did you mean 'arrow'"):
        export_index(index, tmp_path / "out", "arow")
    with pytest.raises(ClipAlignError, match="unknown head 'x'"):
        export_index(index, tmp_path / "out", head="x")
    (tmp_path / "photos").mkdir()
    empty = ImageIndex.create(tmp_path / "photos", load_mini().student_path, tmp_path / "empty.index")
    with pytest.raises(ClipAlignError, match="holds no images: there is nothing to export"):
        export_index(empty, tmp_path / "out")


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output.replace("\n", " ")


def test_the_command(index, tmp_path):
    printed = call("export", index.path, "--out", tmp_path / "out")
    assert "14 embeddings of dimension 79 (head aligned) in" in printed
    assert "index.json, vectors.parquet" in printed
    with pytest.raises(ClipAlignError, match="--to arrow is for the embeddings of an index: clipalign export IDX"):
        call("export", "--model", "mini:student", "--to", "arrow")
    with pytest.raises(ClipAlignError, match="--head is for the embeddings of an index"):
        call("export", "--model", "mini:student", "--head", "raw")
    with pytest.raises(ClipAlignError, match="unknown format 'onnx' of an index"):
        call("export", index.path, "--to", "onnx", "--out", tmp_path / "other")
