"""Every layout of the registry is read from a copy in the published form: counts, splits, labels, names, protocol."""

import json
import pickle

import numpy as np
import pytest

from hf_clipalign.benchmarks import BENCHMARKS, FORMATS, Layout, first_caption, locate, open_benchmark
from hf_clipalign.benchmarks.formats.known_classes import read_known_classes
from hf_clipalign.benchmarks.formats.plain_values import read_plain_values
from hf_clipalign.data import Captions, FindingLabels, ImageSource
from tests.benchmarks.published_copies import COPIES, JUDGED, publish, put

LAYOUTS = [
    pytest.param(entry, layout, id=f"{entry.name}-{number}-{layout.format}")
    for entry in BENCHMARKS.values()
    for number, layout in enumerate(entry.layouts)
]


def test_every_format_has_a_copy_and_is_used():
    used = {layout.format for entry in BENCHMARKS.values() for layout in entry.layouts}
    assert set(COPIES) == set(FORMATS) == used


@pytest.mark.parametrize(("entry", "layout"), LAYOUTS)
def test_a_copy_in_the_published_layout_is_read(entry, layout, tmp_path):
    labels, names = publish(entry, layout, tmp_path)
    located = locate(entry.name, tmp_path)
    assert located.missing == ()
    assert located.layout == layout or located.layout.needed == layout.needed
    opened = open_benchmark(entry.name, tmp_path)
    assert list(opened.parts) == list(labels)
    for part, wanted in labels.items():
        found = opened.part(part)
        if wanted is not None:
            assert np.asarray(found.labels).tolist() == wanted
        if isinstance(found, ImageSource):
            assert found.class_names == names
            assert {found.read(row).size for row in range(len(found))} <= {(8, 8), (32, 32)}
            assert len(found.fingerprint()) == 32


@pytest.mark.parametrize(("entry", "layout"), LAYOUTS)
def test_the_published_parts_are_those_that_are_counted(entry, layout, tmp_path):
    labels, _ = publish(entry, layout, tmp_path)
    counted = set(layout.counts) - {"restval"}
    assert not counted or counted == set(labels)


@pytest.mark.parametrize("entry", BENCHMARKS.values(), ids=list(BENCHMARKS))
def test_the_papers_protocol_names_parts_of_the_papers_layout(entry, tmp_path):
    publish(entry, entry.layouts[0], tmp_path)
    opened = open_benchmark(entry.name, tmp_path)
    for task, roles in entry.tasks.items():
        for role, value in roles.items():
            if role in ("preset", "known", "judged", "form"):
                continue
            if task == "discovery" and value not in opened.parts and len(entry.layouts) > 1:
                continue
            assert len(opened.part(value.split(":")[0])) > 0, (task, role)


def test_query_and_gallery_of_cub_are_all_images(tmp_path):
    entry = BENCHMARKS["CUB"]
    publish(entry, entry.layouts[0], tmp_path)
    part = open_benchmark("CUB", tmp_path).part(entry.tasks["image-image"]["query"])
    assert part.labels.tolist() == [0, 1, 0, 1, 1]
    assert part.ids[0] == "train/001.Black_footed_Albatross/bird_1.jpg"
    assert entry.tasks["image-image"]["query"] == entry.tasks["image-image"]["gallery"]


def test_a_data_set_is_found_in_its_own_folder_under_another_name(tmp_path):
    entry = BENCHMARKS["CUB"]
    COPIES["cub"](tmp_path / "birds", entry.layouts[0])
    assert len(open_benchmark("CUB", tmp_path / "birds").part("train")) == 2
    assert locate("CUB", tmp_path) is None


def test_the_papers_form_comes_first_where_two_are_there(tmp_path):
    for layout in BENCHMARKS["OxfordPets"].layouts:
        COPIES[layout.format](tmp_path / "oxford_pets", layout)
    assert open_benchmark("pets", tmp_path).layout.format == "split_zhou"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("arrays", [False, True])
def test_judgements_are_read_without_running_the_file(protocol, arrays, tmp_path, monkeypatch):
    entry = BENCHMARKS["ROxford5k"]
    publish(entry, entry.layouts[0], tmp_path, protocol=protocol, arrays=arrays)
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)
    opened = open_benchmark("roxford5k", tmp_path)
    found = opened.judgements()
    assert [found.easy, found.hard, found.junk] == [[one[kind] for one in JUDGED] for kind in ("easy", "hard", "junk")]
    assert (len(opened.part("query")), len(opened.part("gallery"))) == (2, 3)
    assert opened.part("gallery").ids[0] == "all_souls_000000.jpg"


VALUES = [
    None, True, False, 0, 255, 70000, -1, 2**40, -(2**70), 1.5, "text", "ä", b"bytes", b"", [], {}, (), (1,),
    (1, 2, 3), (1, 2, 3, 4), {"a": [1, {"b": (2, 3)}]}, [[1] * 3] * 2, np.arange(6).reshape(2, 3), np.float32(0.5),
    np.array([]), np.array([True]), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array([1, 2], dtype=">i4"),
]  # fmt: skip


def plain(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return {name: plain(one) for name, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_what_python_reads(protocol, tmp_path):
    for number, value in enumerate(VALUES):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        found = read_plain_values(path)
        assert found == plain(value), value
        assert type(found) is type(plain(value))


def test_known_classes_of_the_semantic_shift_benchmark(tmp_path):
    path = tmp_path / "cub_osr_splits.pkl"
    path.write_bytes(
        pickle.dumps({"known_classes": [2, 0], "unknown_classes": {"Easy": [1], "Medium": [], "Hard": []}})
    )
    assert read_known_classes(path, ["a", "b", "c"]) == ["c", "a"]


def test_the_first_caption_searches_the_others(tmp_path):
    entry = BENCHMARKS["COCO-captions"]
    publish(entry, entry.layouts[0], tmp_path)
    query, gallery = first_caption(open_benchmark("coco", tmp_path).part("test"))
    assert (query.texts, query.labels.tolist()) == (["a dog", "a car"], [0, 1])
    assert (gallery.texts, gallery.labels.tolist()) == (["a big dog", "a dog runs", "a red car"], [0, 0, 1])


def test_cifar_gives_the_pixels_in_colour(tmp_path):
    entry = BENCHMARKS["CIFAR100"]
    publish(entry, entry.layouts[0], tmp_path)
    source = open_benchmark("CIFAR100", tmp_path).part("test")
    assert source.read(0).getpixel((31, 31)) == (200, 100, 50)


def test_findings_keep_uncertain_and_missing_labels(tmp_path):
    entry = BENCHMARKS["CheXpert"]
    publish(entry, entry.layouts[0], tmp_path)
    labels = open_benchmark("chexpert", tmp_path).part("valid")
    assert isinstance(labels, FindingLabels)
    assert labels.ids == ["valid/patient00001/study1/view1_frontal.jpg"]
    np.testing.assert_array_equal(labels.values, [[np.nan, 1, -1, 0, np.nan]])


def test_captions_stay_captions(tmp_path):
    entry = BENCHMARKS["nocaps-captions"]
    publish(entry, entry.layouts[0], tmp_path)
    captions = open_benchmark("nocaps", tmp_path).part("val")
    assert isinstance(captions, Captions)
    assert captions.image_ids == ["0007.jpg", "0009.jpg"]


def test_categories_that_share_a_name_are_called_by_their_folders(tmp_path):
    layout = BENCHMARKS["iNaturalist2021-mini"].layouts[0]
    COPIES["inaturalist"](tmp_path / "iNaturalist2021_train", layout)
    path = tmp_path / "iNaturalist2021_train" / layout.files["train"]
    content = json.loads(path.read_text())
    content["categories"][1]["name"] = content["categories"][0]["name"]
    put(path, json.dumps(content))
    assert open_benchmark("inat", tmp_path).part("train").class_names == ["00000 Animalia", "00001 Animalia"]


def test_a_layout_needs_its_files_and_folders():
    layout = Layout("cub", ("CUB",), {"images": "images.txt"}, {"train": "a", "test": "."})
    assert layout.needed == ["images.txt", "a"]
