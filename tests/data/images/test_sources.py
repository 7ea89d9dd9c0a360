import os
import pickle
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, from_dataset, from_table, image_folder, open_source, open_stream

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def save(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), COLOURS[colour]).save(path)
    return path


def png(colour: str) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (4, 3), COLOURS[colour]).save(stream, "PNG")
    return stream.getvalue()


def colour_of(source: ImageSource, index: int) -> tuple[int, ...]:
    return source.read(index).getpixel((0, 0))


@pytest.fixture
def folder(tmp_path):
    for name, colour in (
        ("zebra/1.png", "red"),
        ("zebra/2.png", "red"),
        ("Ant/b c.png", "green"),
        ("bee/x/1.bmp", "blue"),
    ):
        save(tmp_path / "animals" / name, colour)
    return tmp_path / "animals"


@pytest.fixture
def dataset():
    rows = {
        "image": [{"bytes": png(c), "path": None} for c in COLOURS],
        "label": [2, 0, 2],
        "caption": ["a", "b", "c"],
    }
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["x", "y", "z"]),
        "caption": datasets.Value("string"),
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


class Pixels(torch.utils.data.Dataset):
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return torch.tensor(self.source.read(index).getpixel((0, 0)))


# Folders


def test_sub_folders_are_classes(folder):
    source = image_folder(folder)
    assert source.ids == ["Ant/b c.png", "bee/x/1.bmp", "zebra/1.png", "zebra/2.png"]
    assert source.class_names == ["Ant", "bee", "zebra"]
    assert source.labels.tolist() == [0, 1, 2, 2]
    assert source.labels.dtype == np.int64
    assert source.texts is None
    assert [colour_of(source, i) for i in range(3)] == [COLOURS["green"], COLOURS["blue"], COLOURS["red"]]
    assert "4 images, 3 classes" in repr(source)


def test_flat_folder_and_other_files(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.JPG.png").rename(tmp_path / "a.PNG")
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".cache" / "c.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.png").mkdir()
    source = image_folder(str(tmp_path))
    assert source.ids == ["a.PNG", "b.png"]
    assert source.labels is None
    assert source.class_names is None


def test_mixed_folder_has_no_labels_and_recursion_can_be_off(folder):
    save(folder / "stray.png")
    assert image_folder(folder).labels is None
    assert len(image_folder(folder)) == 5
    assert image_folder(folder, recursive=False).ids == ["stray.png"]


def test_links(folder, tmp_path):
    (folder / "bee" / "round").symlink_to(folder, target_is_directory=True)
    (folder / "wasp").symlink_to(folder / "bee" / "x", target_is_directory=True)
    (folder / "broken.png").symlink_to(tmp_path / "nothing.png")
    source = image_folder(folder)
    assert source.class_names == ["Ant", "bee", "wasp", "zebra"]
    assert len(source) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="other systems demand Unicode file names")
def test_file_names_that_are_not_utf8(tmp_path):
    save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    source = image_folder(tmp_path)
    assert colour_of(source, 0) == COLOURS["red"]
    assert len(source.fingerprint()) == 32


def test_bad_folders(folder, tmp_path, monkeypatch):
    (tmp_path / "none").mkdir()
    with pytest.raises(ClipAlignError, match=r"no images .*\.jpg, .*\.webp"):
        image_folder(tmp_path / "none")
    with pytest.raises(ClipAlignError, match="recursive=False"):
        image_folder(folder, recursive=False)
    with pytest.raises(ClipAlignError, match="no such folder"):
        image_folder(tmp_path / "missing")
    with pytest.raises(ClipAlignError, match="is a file"):
        image_folder(save(tmp_path / "a.png"))

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(ClipAlignError, match="animals: cannot be read"):
        image_folder(folder)


def test_folder_fingerprint_follows_the_content(folder, tmp_path):
    first = image_folder(folder).fingerprint()
    assert image_folder(folder).fingerprint() == first
    shutil.copytree(folder, tmp_path / "copy")
    assert image_folder(tmp_path / "copy").fingerprint() == first
    os.utime(folder / "zebra" / "1.png", (1, 1))
    touched = image_folder(folder).fingerprint()
    save(folder / "zebra" / "3.png")
    assert len({first, touched, image_folder(folder).fingerprint()}) == 3


def test_a_bad_image_is_named(folder):
    (folder / "zebra" / "2.png").write_bytes(b"")
    with pytest.raises(ClipAlignError, match=r"zebra/2\.png: the file is empty"):
        image_folder(folder).read(3)


# Data sets


def test_dataset_columns_are_guessed(dataset):
    source = from_dataset(dataset, text_column="caption")
    assert source.ids == ["0", "1", "2"]
    assert source.labels.tolist() == [2, 0, 2]
    assert source.class_names == ["x", "y", "z"]
    assert source.texts == [["a"], ["b"], ["c"]]
    assert colour_of(source, 1) == COLOURS["green"]


@pytest.mark.parametrize("form", ["numpy", "torch", "pandas", "arrow"])
def test_formatted_selected_and_shuffled_datasets(dataset, form):
    source = from_dataset(dataset.select([2, 0]).with_format(form))
    assert source.labels.tolist() == [2, 2]
    assert [colour_of(source, i) for i in range(2)] == [COLOURS["blue"], COLOURS["red"]]


def test_dataset_fingerprint(dataset):
    first = from_dataset(dataset).fingerprint()
    assert from_dataset(dataset).fingerprint() == first
    assert from_dataset(dataset.select([0, 1])).fingerprint() != first
    assert from_dataset(dataset, label_column="caption").fingerprint() != first


def test_dataset_without_labels_or_with_unknown_labels(dataset):
    assert from_dataset(dataset.remove_columns("label")).labels is None
    unknown = dataset.map(lambda row: {"label": -1}, keep_in_memory=True)
    assert from_dataset(unknown).labels is None
    with pytest.raises(ClipAlignError, match="row 0"):
        from_dataset(unknown, label_column="label")


def test_dataset_with_paths_or_bytes_in_plain_columns(tmp_path):
    path = str(save(tmp_path / "a.png", "green"))
    source = from_dataset(datasets.Dataset.from_dict({"p": [path], "b": [png("blue")]}), image_column="p")
    assert colour_of(source, 0) == COLOURS["green"]
    source = from_dataset(datasets.Dataset.from_dict({"p": [path], "b": [png("blue")]}), image_column="b")
    assert colour_of(source, 0) == COLOURS["blue"]


def test_bad_datasets(dataset):
    with pytest.raises(ClipAlignError, match="no column 'img'; the columns are 'image', 'label', 'caption'"):
        from_dataset(dataset, image_column="img")
    with pytest.raises(ClipAlignError, match="no Image column; pass image_column, one of 'label', 'caption'"):
        from_dataset(dataset.remove_columns("image"))
    two = dataset.add_column("coarse", [0, 1, 0]).cast_column("coarse", datasets.ClassLabel(names=["p", "q"]))
    assert from_dataset(two).class_names == ["x", "y", "z"]
    with pytest.raises(ClipAlignError, match="several ClassLabel columns; pass label_column, one of 'fine', 'coarse'"):
        from_dataset(two.rename_column("label", "fine"))
    with pytest.raises(ClipAlignError, match="choose one of 'train'"):
        from_dataset(datasets.DatasetDict(train=dataset))
    with pytest.raises(ClipAlignError, match="streaming=False"):
        from_dataset(dataset.to_iterable_dataset())
    with pytest.raises(ClipAlignError, match="no rows"):
        from_dataset(dataset.select([]))
    with pytest.raises(ClipAlignError, match="cannot open a int"):
        from_dataset(3)
    broken = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": None}]}).cast_column(
        "image", datasets.Image()
    )
    with pytest.raises(ClipAlignError, match="row 0"):
        from_dataset(broken).read(0)


# Tables


@pytest.fixture
def table(tmp_path):
    for colour in COLOURS:
        save(tmp_path / "t" / "images" / f"{colour}.png", colour)
    frame = pd.DataFrame(
        {"image": [f"images/{c}.png" for c in COLOURS], "kind": ["warm", "None", "cold"], "number": [7, 1, 7]}
    )
    frame.to_csv(tmp_path / "t" / "table.csv", index=False)
    frame.to_csv(tmp_path / "t" / "table.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "t" / "table.parquet")
    return tmp_path / "t" / "table.csv"


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_tables(table, ending):
    source = from_table(table.with_suffix(ending), label_column="kind")
    assert source.ids == ["images/red.png", "images/green.png", "images/blue.png"]
    assert source.class_names == ["None", "cold", "warm"]
    assert source.labels.tolist() == [2, 0, 1]
    assert colour_of(source, 2) == COLOURS["blue"]
    numbers = from_table(table.with_suffix(ending), label_column="number")
    assert numbers.labels.tolist() == [7, 1, 7]
    assert numbers.class_names is None


def test_table_from_excel_with_a_byte_order_mark(table):
    table.write_text("image;x\n".replace(";", ",") + "images/red.png,1\n", encoding="utf-8-sig")
    assert colour_of(from_table(table), 0) == COLOURS["red"]


def test_frame_and_root(table, monkeypatch):
    frame = pd.DataFrame({"file_name": ["red.png", "blue.png"]}, index=[5, 9])
    source = from_table(frame, root=table.parent / "images")
    assert source.ids == ["red.png", "blue.png"]
    assert colour_of(source, 1) == COLOURS["blue"]
    monkeypatch.chdir(table.parent / "images")
    assert colour_of(from_table(frame), 1) == COLOURS["blue"]


def test_images_inside_the_table(tmp_path):
    frame = pd.DataFrame(
        {"image": [png(c) for c in COLOURS], "s": [{"bytes": png(c), "path": "x.png"} for c in COLOURS]}
    )
    frame.to_parquet(tmp_path / "inside.parquet")
    for table in (frame, tmp_path / "inside.parquet"):
        for column in ("image", "s"):
            source = from_table(table, image_column=column)
            assert source.ids == ["0", "1", "2"]
            assert colour_of(source, 1) == COLOURS["green"]


def test_captions_of_one_image_are_joined(table):
    table.write_text("image,caption\nimages/red.png,one\nimages/blue.png,two\nimages/red.png,three\n")
    source = from_table(table, text_column="caption")
    assert source.ids == ["images/red.png", "images/blue.png"]
    assert source.texts == [["one", "three"], ["two"]]
    assert from_table(table).ids == ["0", "1", "2"]


def test_lists_of_captions(table):
    frame = pd.read_csv(table).assign(captions=[["a", "b"], [], None])
    frame.to_parquet(table.with_suffix(".parquet"))
    assert from_table(table.with_suffix(".parquet"), text_column="captions").texts == [["a", "b"], [], []]


def test_table_fingerprint_follows_images_and_columns(table):
    first = from_table(table).fingerprint()
    assert from_table(table).fingerprint() == first
    os.utime(table, (1, 1))
    assert from_table(table).fingerprint() == first
    labelled = from_table(table, label_column="kind").fingerprint()
    os.utime(table.parent / "images" / "red.png", (1, 1))
    assert len({first, labelled, from_table(table).fingerprint()}) == 3


@pytest.mark.parametrize("path", ["../secret.png", "images/../../secret.png", "/etc/passwd"])
@pytest.mark.parametrize("with_root", [False, True])
def test_paths_stay_in_their_folder(table, path, with_root):
    save(table.parent.parent / "secret.png")
    table.write_text(f"image\nimages/red.png\n{path}\n")
    if path.startswith("/") and not with_root:
        assert from_table(table).items[1] == path
        return
    with pytest.raises(ClipAlignError, match="row 1"):
        from_table(table, root=table.parent if with_root else None)


def test_sibling_folder_with_the_same_beginning_is_outside(table):
    save(table.parent.parent / "t2" / "a.png")
    table.write_text("image\n../t2/a.png\n")
    with pytest.raises(ClipAlignError, match="leads out of"):
        from_table(table)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "Pass image_column, one of 'a', 'b'"),
        ("image,b\nx.png,2\n", {"label_column": "c"}, "no column 'c'; the columns are 'image', 'b'"),
        ("image,b\nx.png,2\n", {"image_column": "im"}, "no column 'im'"),
        ("image,b\n", {}, "no rows"),
        ("", {}, "cannot be read"),
        ("image,b\nx.png,2\n,3\n", {}, "row 1 .*no image"),
        ("image,b\nx.png,2\ny.png,\n", {"label_column": "b"}, "no label in row 1 .*'b'"),
        ("image,b\nx.png,one\ny.png,\n", {"label_column": "b"}, "no label in row 1"),
        ("image,b,c\nx.png,1,p\nx.png,2,q\n", {"label_column": "b", "text_column": "c"}, "rows 0 and 1"),
    ],
)
def test_bad_tables(tmp_path, content, options, message):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ClipAlignError, match=r"bad\.csv.*" + message):
        from_table(tmp_path / "bad.csv", **options)


def test_bad_table_files(tmp_path):
    with pytest.raises(ClipAlignError, match="no such table"):
        from_table(tmp_path / "gone.csv")
    with pytest.raises(ClipAlignError, match="pass their folder"):
        from_table(save(tmp_path / "a.png"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ClipAlignError, match=r"bad\.parquet: the table cannot be read"):
        from_table(tmp_path / "bad.parquet")
    (tmp_path / "latin.csv").write_bytes(b"image\n\xe9.png\n")
    with pytest.raises(ClipAlignError, match=r"latin\.csv: the table cannot be read"):
        from_table(tmp_path / "latin.csv")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, ""])
def test_missing_labels_in_frames(missing):
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "label": pd.Series(["x", missing], dtype=object)})
    with pytest.raises(ClipAlignError, match="no label in row 1"):
        from_table(frame, label_column="label")


# Whatever holds images


def test_open_source_dispatches(folder, dataset, table, tmp_path):
    assert open_source(str(folder)).class_names == ["Ant", "bee", "zebra"]
    assert open_source(table, label_column="kind").class_names == ["None", "cold", "warm"]
    assert len(open_source(pd.read_csv(table))) == 3
    assert len(open_source(dataset)) == 3
    source = image_folder(folder)
    assert open_source(source) is source
    dataset.save_to_disk(tmp_path / "one")
    assert open_source(tmp_path / "one").class_names == ["x", "y", "z"]
    splits = datasets.DatasetDict(train=dataset, test=dataset.select([0]))
    splits.save_to_disk(tmp_path / "two")
    assert len(open_source(tmp_path / "two", split="test")) == 1
    assert len(open_source(datasets.DatasetDict(train=dataset))) == 3
    with pytest.raises(ClipAlignError, match="several splits; pass split, one of 'train', 'test'"):
        open_source(splits)
    with pytest.raises(ClipAlignError, match="no split 'val'"):
        open_source(tmp_path / "two", split="val")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(ClipAlignError, match="does not load"):
        open_source(tmp_path / "one")


def test_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(open_source("~/animals")) == 4


def test_hub_ids(dataset, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or dataset)
    assert len(open_source("someone/images", split="test", config_name="small")) == 3
    assert asked == [(("someone/images", "small"), {"split": "test"})]


@pytest.mark.parametrize(
    "name", ["./photos", "/no/such/folder", "a b", "x/y/z", "photos/", "photos/table.csv", "a.JPG", Path("photos")]
)
def test_paths_that_do_not_exist_are_not_asked_from_the_hub(name, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(ClipAlignError, match="no such file or folder"):
        open_source(name)


@pytest.mark.parametrize("name", ["photos.JPG", "someone/table.csv", "table.parquet", "a b", "x/y/z"])
def test_names_of_files_are_no_ids(name, monkeypatch):
    def refuse(*unused, **options):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ClipAlignError, match=rf"{name}: no such file or folder, and no id of a data set on the Hub"):
        open_source(name)


def test_offline_and_not_cached(tmp_path):
    code = (
        "from hf_clipalign.data import open_source\nfrom hf_clipalign import ClipAlignError\n"
        "try: open_source('someone/images', split='test')\nexcept ClipAlignError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("someone/images: no such file or folder, and not loadable from the Hub")
    assert "while online" in result.stdout


def test_things_that_hold_no_images():
    with pytest.raises(ClipAlignError, match="cannot open a list"):
        open_source(["a.png"])


# Every source


@pytest.fixture(params=["folder", "dataset", "table"])
def source(request, folder, dataset, table):
    return {"folder": image_folder(folder), "dataset": from_dataset(dataset), "table": from_table(table)}[
        request.param
    ]


def test_pickle_keeps_everything(source):
    copy = pickle.loads(pickle.dumps(source))
    assert copy.ids == source.ids
    assert len(set(source.ids)) == len(source)
    assert copy.fingerprint() == source.fingerprint()
    assert colour_of(copy, 0) == colour_of(source, 0)
    with pytest.raises(IndexError):
        source.read(len(source))


def test_data_loader_workers(source):
    loader = torch.utils.data.DataLoader(
        Pixels(source), batch_size=2, num_workers=1, multiprocessing_context="fork" if os.name == "posix" else None
    )
    pixels = torch.cat(list(loader)).tolist()
    assert pixels == [list(colour_of(source, i)) for i in range(len(source))]


def test_plain_source_has_a_fingerprint():
    first = ImageSource([png("red")], ids=["0"])
    assert first.fingerprint() == ImageSource([png("red")], ids=["0"]).fingerprint()
    assert first.fingerprint() != ImageSource([png("blue")], ids=["0"]).fingerprint()


def test_damaged_columns_of_a_parquet_table_are_one_clear_error(tmp_path):
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(50)], "label": ["a", "b"] * 25})
    frame.to_parquet(tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(content[:4] + b"\xff" * 64 + content[68:])
    with pytest.raises(ClipAlignError, match=r"t\.parquet' cannot be read \(.*\): replace it"):
        from_table(tmp_path / "t.parquet", label_column="label")


def test_a_stream_whose_columns_are_not_known_is_looked_at():
    def rows():
        for label in (1, 0):
            yield {"image": f"{label}.png", "label": label, "name": f"image {label}"}

    unknown = datasets.IterableDataset.from_generator(rows)
    assert unknown.features is None
    records = list(open_stream(unknown, image_column="image", label_column="label", id_column="name").records(0))
    assert [(record.id, record.label) for record in records] == [("image 1", 1), ("image 0", 0)]


@pytest.mark.parametrize("label", [-1, "cat", None])
def test_labels_of_streams_are_class_numbers_or_left_out(label):
    features = {"image": datasets.Value("string"), "label": datasets.Value("string" if label == "cat" else "int64")}
    table = datasets.Dataset.from_dict({"image": ["a.png"], "label": [label]}, features=datasets.Features(features))
    stream = table.to_iterable_dataset()
    (record,) = open_stream(stream, image_column="image").records(0)
    assert (record.id, record.item, record.label) == ("0", "a.png", None)
    with pytest.raises(ClipAlignError, match=r"row 0 \(from 0\) of column 'label' holds"):
        list(open_stream(stream, image_column="image", label_column="label").records(0))
