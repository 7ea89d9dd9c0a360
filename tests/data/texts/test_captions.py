import json
import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import Captions, ImageSource, image_folder, load_captions, with_captions

EXPECTED = (["A dog, running", "A cat", "The dog"], [0, 1, 0], ["dog.jpg", "cat.jpg"])
ROWS = [("dog.jpg", "A dog, running"), ("cat.jpg", "A cat"), ("dog.jpg", "The dog")]


def load(path, **options):
    captions = load_captions(path, **options)
    assert captions.labels.dtype == "int64"
    assert len(captions) == len(captions.texts)
    return captions.texts, captions.labels.tolist(), captions.image_ids


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'image,caption\ndog.jpg,"A dog, running"\ncat.jpg,A cat\n\ndog.jpg,The dog\n'),
        ("a.txt", '\ufeffimage,caption\r\ndog.jpg,"A dog, running"\r\ncat.jpg,A cat\r\ndog.jpg, The dog \r\n'),
        ("a.tsv", "caption\tid\tfile_name\nA dog, running\t0\tdog.jpg\nA cat\t1\tcat.jpg\nThe dog\t2\tdog.jpg\n"),
        (
            "results.csv",
            "image_name| n| comment\ndog.jpg| 0| A dog, running\ncat.jpg| 0| A cat\ndog.jpg| 1| The dog\n",
        ),
        ("results.token", "dog.jpg#0\tA dog, running\ncat.jpg#0\tA cat\ndog.jpg#1\tThe dog\n"),
        ("a.jsonl", "\n".join(json.dumps({"image": i, "caption": c}) for i, c in ROWS)),
        ("a.json", json.dumps([{"image": i, "text": c} for i, c in ROWS])),
    ],
)
def test_one_caption_per_row(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert load(tmp_path / name) == EXPECTED


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_quotation_mark_that_is_never_closed_is_an_error_and_no_caption(tmp_path, ending):
    file = tmp_path / "captions.csv"
    file.write_text(f'image,caption\n1.png,"a\ncat"\n2.png,"a dog\n3.png,an owl{ending}')
    with pytest.raises(ClipAlignError, match=r"quotation mark is missing: the one that opens in line 4 is never clo"):
        load_captions(file)
    file.write_text(f'image,caption\n1.png,"a\ncat"\n2.png,"a ""big"" dog"{ending}')
    assert load_captions(file).texts == ["a\ncat", 'a "big" dog']


def test_quotes_belong_to_the_caption_unless_commas_separate(tmp_path):
    (tmp_path / "a.tsv").write_text('image\tcaption\nx.jpg\t"A" sign\ny.jpg\tA 5" nail\n')
    assert load(tmp_path / "a.tsv")[0] == ['"A" sign', 'A 5" nail']


def test_coco(tmp_path):
    coco = {
        "images": [
            {"id": 9, "file_name": "dog.jpg"},
            {"id": 4, "file_name": "cat.jpg"},
            {"id": 5, "file_name": "x.jpg"},
        ],
        "annotations": [
            {"image_id": {"dog.jpg": 9, "cat.jpg": 4}[i], "id": n, "caption": c} for n, (i, c) in enumerate(ROWS)
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert load(tmp_path / "coco.json") == EXPECTED
    del coco["images"]
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert load(tmp_path / "coco.json")[2] == ["9", "4"]


def test_karpathy_splits(tmp_path):
    images = [
        {"filename": "d.jpg", "sentences": [{"raw": "a"}, {"raw": "b"}]},
        {"filename": "c.jpg", "sentences": [{"raw": "c"}]},
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
    assert load(tmp_path / "dataset.json") == (["a", "b", "c"], [0, 0, 1], ["d.jpg", "c.jpg"])


def test_lists_of_captions(tmp_path):
    frame = pd.DataFrame(
        {"captions": [["a", "b"], ["c"]], "image": [{"bytes": b"1", "path": "p"}, {"bytes": b"2", "path": "q"}]}
    )
    frame.to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet") == (["a", "b", "c"], [0, 0, 1], ["p", "q"])
    frame[["captions"]].to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    assert load(tmp_path / "a.jsonl")[:2] == (["a", "b", "c"], [0, 0, 1])


def test_named_columns(tmp_path):
    (tmp_path / "a.csv").write_text("w,t,caption\nx,one,-\ny,two,-\n")
    assert load(tmp_path / "a.csv", image_column="w", text_column="t") == (["one", "two"], [0, 1], ["x", "y"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image,caption\nx.jpg,one\ny.jpg,\n", "line 3 has an empty caption"),
        ("a.csv", "image,caption\nx.jpg\n", "line 2 has an empty caption"),
        ("a.csv", "image,caption\n,one\n", "line 2 names no image"),
        ("a.csv", "image,caption\n", "holds no captions"),
        ("a.csv", "", "the columns are none"),
        ("a.csv", "image,words\nx.jpg,one\n", "pass text_column; the columns are 'image', 'words'"),
        ("a.csv", "x,caption\nx.jpg,one\n", "pass image_column"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "{}", "neither COCO captions"),
        ("a.json", "[1]", "JSON objects"),
        ("a.json", "[]", "holds no captions"),
        ("a.json", '{"annotations": [{"image_id": 1, "bbox": []}]}', "annotation 0 .*captions file"),
        ("a.jsonl", '{"caption": "a"}\nnot json\n', "line 2 is not JSON"),
        ("a.jsonl", '{"caption": "a"}\n{"caption": [3]}\n', "row 1 .*not text"),
        ("a.jsonl", '{"caption": "a"}\n{"caption": []}\n', "row 1 .*empty caption"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.doc", "x", "unknown ending"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ClipAlignError, match=f"{name}: .*{message}"):
        load_captions(tmp_path / name)


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(ClipAlignError, match="no such file"):
        load_captions(tmp_path / "gone.csv")
    with pytest.raises(ClipAlignError, match="is a folder"):
        load_captions(tmp_path)
    (tmp_path / "a.csv").write_text("image,caption\nx,one\n")
    with pytest.raises(ClipAlignError, match="no column 'c'"):
        load_captions(tmp_path / "a.csv", text_column="c")


def test_captions_meet_their_images(tmp_path):
    for name in ("b/one.png", "a/two.png", "a/three.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    source = image_folder(tmp_path)
    captions = Captions(
        ["1", "2", "2b", "3", "x"], np.array([0, 1, 1, 2, 3]), ["one.png", "a/two.png", "three.png", "y"]
    )
    paired = with_captions(source, captions)
    texts = dict(zip(paired.ids, paired.texts, strict=True))
    assert texts == {"a/three.png": ["3"], "a/two.png": ["2", "2b"], "b/one.png": ["1"]}
    assert paired.labels.tolist() == source.labels.tolist()
    assert with_captions(source, ["p", ["q", "r"], "s"]).texts == [["p"], ["q", "r"], ["s"]]
    prints = {with_captions(source, [text, "b", "c"]).fingerprint() for text in ("a", "a", "b")}
    assert len(prints) == 2
    assert source.fingerprint() not in prints
    assert pickle.loads(pickle.dumps(paired)).fingerprint() == paired.fingerprint()


def test_captions_that_do_not_fit_the_images():
    source = ImageSource([b""] * 2, ids=["0.png", "1.png"], name="photos")
    with pytest.raises(ClipAlignError, match="photos: 2 images but 3 captions"):
        with_captions(source, ["a", "b", "c"])
    with pytest.raises(ClipAlignError, match=r"1 of 2 images have no caption, the first is '1\.png'"):
        with_captions(source, Captions(["a"], np.array([0]), ["0.png"]))
