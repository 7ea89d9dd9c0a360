"""Damaged copies: one clear line each, and no path of an annotation leaves the data set."""

import json
import os
import pickle

import numpy as np
import pytest
from scipy.io import savemat

from hf_clipalign import ClipAlignError
from hf_clipalign.benchmarks import BENCHMARKS, open_benchmark
from hf_clipalign.benchmarks.formats.known_classes import read_known_classes
from hf_clipalign.benchmarks.formats.plain_values import read_plain_values
from tests.benchmarks.published_copies import IMAGE, publish, put, usual_folder

SPLIT, COCO, GND = "split_zhou_OxfordPets.json", "dataset_coco.json", "gnd_roxford5k.pkl"


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def edited_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def gnd(path, **fields):
    content = {
        "gnd": [{"easy": [0], "hard": [], "junk": []}],
        "imlist": ["all_souls_000000"],
        "qimlist": ["query_0"],
    } | fields
    path.write_bytes(pickle.dumps(content, protocol=2))


def mat(path, fields, *rows):
    savemat(path, {"annotations": np.array([list(rows)], dtype=[(name, "O") for name in fields])})


DAMAGE = [
    # name, layout, what is done to the folder, what the line says
    ("OxfordPets", 0, lambda f: edited_json(f / SPLIT, lambda c: c["val"][0].pop()), "entry 0"),
    ("OxfordPets", 0, lambda f: put(f / SPLIT, "{"), "is not valid JSON"),
    ("OxfordPets", 0, lambda f: (f / "images/a/1.jpg").unlink(), "1 of 3 images is not there, the first is"),
    ("OxfordPets", 0, lambda f: edited_json(f / SPLIT, lambda c: c["val"].append(c["test"][0])),
     "'b/3.jpg' is in val and in test"),
    ("OxfordPets", 0, lambda f: edited_json(f / SPLIT, lambda c: c["val"].append(c["val"][0])),
     "'a/2.jpg' is listed twice"),
    ("OxfordPets", 1, lambda f: changed(f / "annotations/test.txt", "9 2 2", "9 1 2"), "class 1 is 'american"),
    ("OxfordPets", 1, lambda f: changed(f / "annotations/test.txt", "9 2 2", "9 4 2"), "no image has class 3"),
    ("OxfordPets", 1, lambda f: changed(f / "annotations/test.txt", "9 2 2", "9 two 2"), "'two' where a whole number"),
    ("OxfordPets", 1, lambda f: put(f / "annotations/test.txt", "\n\n"), "lists nothing"),
    ("OxfordPets", 1, lambda f: put(f / "annotations/test.txt", b"caf\xe9_1 1 1 1"), "byte 3 is not UTF-8"),
    ("CUB", 0, lambda f: changed(f / "image_class_labels.txt", "5 2\n", ""), "image 5 is in this file or in"),
    ("CUB", 0, lambda f: changed(f / "image_class_labels.txt", "5 2", "5 3"), "class 2 (from 0), but 2 classes"),
    ("CUB", 0, lambda f: changed(f / "train_test_split.txt", "5 0", "5 yes"), "image 5 has 'yes', not 1 (train)"),
    ("CUB", 0, lambda f: changed(f / "classes.txt", "2 002", "3 002"), "numbered 3, not 2"),
    ("CUB", 0, lambda f: changed(f / "images.txt", "5 002", "4 002"), "image 4 has two values"),
    ("CUB", 0, lambda f: (f / "images.txt").unlink(), "lacks 'images.txt'"),
    ("StanfordCars", 1, lambda f: mat(f / "devkit/cars_train_annos.mat", ("fname",), ("1.jpg",)),
     "no field 'class'; take cars_test_annos_withlabels.mat"),
    ("StanfordCars", 1, lambda f: mat(f / "devkit/cars_train_annos.mat", ("fname", "class"), ("00001.jpg", 0)),
     "annotation 0 (from 0)"),
    ("StanfordCars", 1, lambda f: mat(f / "devkit/cars_train_annos.mat", ("fname", "class"), ("00001.jpg", 9)),
     "class 8 (from 0), but 3 classes have names"),
    ("StanfordCars", 1, lambda f: put(f / "devkit/cars_train_annos.mat", b"MATLAB"), "cannot be read"),
    ("StanfordCars", 1, lambda f: savemat(f / "devkit/cars_train_annos.mat", {"x": 1}), "no variable 'annotations'"),
    ("FGVCAircraft", 0, lambda f: changed(f / "images_variant_test.txt", "A300B4", "A300"), "'A300' is not in"),
    ("FGVCAircraft", 0, lambda f: changed(f / "variants.txt", "A300B4", "707-320"), "a name is listed twice"),
    ("FGVCAircraft", 0, lambda f: (f / "variants.txt").unlink(), "lacks 'variants.txt'"),
    ("SOP", 0, lambda f: changed(f / "Ebay_test.txt", "image_id", "id"), "the first line is not 'image_id class_id"),
    ("SOP", 0, lambda f: changed(f / "Ebay_test.txt", "1 3 1 ", "1 3 "), "not like '1 1 1 bicycle_final"),
    ("SOP", 0, lambda f: changed(f / "Ebay_test.txt", "1 3 1 ", "1 0 1 "), "'0' where a whole number from 1 belongs"),
    ("Places365-val", 0, lambda f: changed(f / "places365_val.txt", " 165", " -1"), "'-1' where a whole number"),
    ("iNaturalist2021-mini", 0, lambda f: edited_json(f / "train_mini.json", lambda c: c["annotations"].pop()),
     "image 12 has no annotation"),
    ("iNaturalist2021-mini", 0, lambda f: edited_json(f / "train_mini.json", lambda c: c["categories"].pop()), "71"),
    ("iNaturalist2021-mini", 0, lambda f: edited_json(f / "train_mini.json", lambda c: c.pop("images")), "'images'"),
    ("ImageNet", 0, lambda f: changed(f / "classnames.txt", "n01484850", "n0148"), "no name for the folder 'n0148"),
    ("ImageNet", 0, lambda f: changed(f / "classnames.txt", "goldfish", "tench"), "two classes are called 'tench'"),
    ("ImageNet", 0, lambda f: put(f / "images/val/1.JPEG"), "images lie directly in it"),
    ("ImageNetV2", 0, lambda f: put(f / "imagenetv2-matched-frequency-format-val/1000/1.JPEG"), "folder '1000'"),
    ("ROxford5k", 0, lambda f: put(f / GND, (f / GND).read_bytes()[:-9]), "is damaged"),
    ("ROxford5k", 0, lambda f: put(f / GND, b""), "is damaged"),
    ("ROxford5k", 0, lambda f: put(f / GND, pickle.dumps([1])), "no lists imlist, qimlist and gnd"),
    ("ROxford5k", 0, lambda f: gnd(f / GND, qimlist=["query_0", "query_1"]), "2 queries, but 1 judgements"),
    ("ROxford5k", 0, lambda f: gnd(f / GND, imlist=[3]), "imlist is no list of names"),
    ("ROxford5k", 0, lambda f: (f / "jpg/query_0.jpg").unlink(), "1 of 2 images is not there"),
    ("COCO-captions", 0, lambda f: edited_json(f / COCO, lambda c: c["images"][0].pop("split")), "'split'"),
    ("COCO-captions", 0, lambda f: edited_json(f / COCO, lambda c: c["images"][0].pop("sentences")),
     "captions cannot be read ('sentences')"),
    ("COCO-captions", 0, lambda f: edited_json(f / COCO, lambda c: c["images"][0].update(filename="2.jpg")),
     "1 file names are listed twice"),
    ("nocaps-captions", 0, lambda f: edited_json(f / "nocaps_val_4500_captions.json",
     lambda c: c["annotations"][0].update(caption=" ")), "empty caption"),
    ("CIFAR10", 0, lambda f: put(f / "data_batch_1.bin", b"\0" * 3074), "3,074 bytes are no"),
    ("CIFAR10", 0, lambda f: put(f / "data_batch_1.bin", b"\x0a" * 3073), "class 10, but 10 have names"),
    ("CheXpert", 0, lambda f: changed(f / "valid.csv", "-1.0", "2.0"), "labels must be 1, 0"),
    ("CheXpert", 0, lambda f: changed(f / "valid.csv", "Edema", "Oedema"), "no column 'Edema'"),
    ("CheXpert", 0, lambda f: (f / "valid/patient00001/study1/view1_frontal.jpg").unlink(), "no image of"),
    ("MIMIC-CXR", 0, lambda f: changed(f / "mimic-cxr-2.0.0-split.csv", "d1,50414268", "d1,1"), "no image of a study"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number", "damage", "said"), DAMAGE, ids=lambda value: None if callable(value) else str(value)[:30]
)
def test_damage_is_one_clear_line(name, number, damage, said, tmp_path):
    entry = BENCHMARKS[name]
    layout = entry.layouts[number]
    publish(entry, layout, tmp_path)
    folder = usual_folder(entry, layout, tmp_path)
    damage(folder)
    with pytest.raises(ClipAlignError) as caught:
        open_benchmark(name, tmp_path)
    line = str(caught.value)
    assert said in line
    assert "\n" not in line
    assert str(folder) in line or entry.name in line


PATHS = [
    ("OxfordPets", 0, lambda f, p: edited_json(f / SPLIT, lambda c: c["val"][0].__setitem__(0, p))),
    ("OxfordPets", 1, lambda f, p: put(f / "annotations/test.txt", f"{p[:-4]}_1 3 1 1\n")),
    ("CUB", 0, lambda f, p: put(f / "images.txt", "".join(f"{n} {p}{n}.jpg\n" for n in range(1, 6)))),
    ("StanfordCars", 1, lambda f, p: mat(f / "cars_test_annos_withlabels.mat", ("fname", "class"), (p, 1), (p, 1))),
    ("FGVCAircraft", 0, lambda f, p: put(f / "images_variant_test.txt", f"{p[:-4]} A300B4\n")),
    ("SOP", 0, lambda f, p: put(f / "Ebay_test.txt", f"image_id class_id super_class_id path\n1 1 1 {p}\n")),
    ("Places365-val", 0, lambda f, p: put(f / "places365_val.txt", f"{p} 1\n")),
    ("iNaturalist2021-mini", 0, lambda f, p: edited_json(
        f / "train_mini.json", lambda c: c["images"][0].update(file_name=p))),
    ("ROxford5k", 0, lambda f, p: gnd(f / GND, imlist=[p[:-4]])),
    ("COCO-captions", 0, lambda f, p: edited_json(f / COCO, lambda c: c["images"][1].update(filename=p))),
    ("COCO-captions", 0, lambda f, p: edited_json(f / COCO, lambda c: c["images"][1].update(filepath=p))),
    ("nocaps-captions", 0, lambda f, p: edited_json(
        f / "nocaps_val_4500_captions.json", lambda c: c["images"][0].update(file_name=p))),
    ("Flickr30k-captions", 1, lambda f, p: put(f / "results_20130124.token", f"{p}#0\ta cat\n")),
    ("CheXpert", 0, lambda f, p: changed(f / "valid.csv", "CheXpert-v1.0-small/valid/", f"{p}/")),
    ("MIMIC-CXR", 0, lambda f, p: changed(f / "mimic-cxr-2.0.0-split.csv", "d1,", f"{p},")),
]  # fmt: skip


LEAVING = ("../secret.jpg", "a/../../secret.jpg", "{outside}/secret.jpg", "..\\secret.jpg")
# MIMIC-CXR's paths are built from identifiers: an absolute one is a relative one below the study's folder
TRIED = [(*case, path) for case in PATHS for path in LEAVING if (case[0], path[0]) != ("MIMIC-CXR", "{")]


@pytest.mark.parametrize(
    ("name", "number", "write", "path"), TRIED, ids=lambda value: None if callable(value) else str(value)[:20]
)
def test_no_path_leaves_the_data_set(name, number, write, path, tmp_path):
    entry = BENCHMARKS[name]
    layout = entry.layouts[number]
    root = tmp_path / "root"
    publish(entry, layout, root)
    folder = usual_folder(entry, layout, root)
    for place in (folder, root, tmp_path):
        put(place / "secret.jpg", IMAGE)
    write(folder, path.format(outside=tmp_path))
    with pytest.raises(ClipAlignError, match="is no relative path below its folder"):
        open_benchmark(name, root)


class Runs:
    """What runs a command when it is unpickled in the usual way."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_file_of_judgements_is_never_run(protocol, tmp_path):
    entry = BENCHMARKS["ROxford5k"]
    publish(entry, entry.layouts[0], tmp_path)
    path, marker = tmp_path / "roxford5k/gnd_roxford5k.pkl", tmp_path / "it ran"
    path.write_bytes(pickle.dumps({"gnd": [Runs(marker)], "imlist": [], "qimlist": []}, protocol=protocol))
    with pytest.raises(ClipAlignError, match=r"it would import '(posix|nt)\.system'"):
        open_benchmark("ROxford5k", tmp_path)
    assert not marker.exists()


HARMFUL = {
    "a call of a value": b"\x80\x02K\x01)R.",
    "a class by its code": b"\x80\x02\x82\x01.",
    "a persistent object": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "an object of a class": b"cos\nsystem\n)\x81.",
    "state for a dictionary": b"\x80\x02}}b.",
    "a name as the value": b"cnumpy\ndtype\n.",
    "an array of objects": b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8K\x00K\x01tR.",
    "bytes in another encoding": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00utf-7tR.",
    "an operation too many": b"\x80\x020.",
    "two values": b"\x80\x02K\x01K\x02.",
    "a missing memo": b"\x80\x02h\x07.",
    "items for a number": b"\x80\x02K\x01K\x02a.",
    "no end": b"\x80\x02K\x01",
}


@pytest.mark.parametrize("content", HARMFUL.values(), ids=list(HARMFUL))
def test_only_plain_values_are_built(content, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(ClipAlignError) as caught:
        read_plain_values(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_grow_without_end_are_refused(tmp_path):
    value = [0]
    for _ in range(30):
        value = [value] * 10
    endless = []
    endless.append(endless)
    for number, one in enumerate((value, endless)):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(one, protocol=4))
        with pytest.raises(ClipAlignError, match=r"more than 2,000,000 values|is damaged"):
            read_plain_values(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "no list known_classes"),
        ({"known_classes": [3]}, "3 is no class from 0 to 2"),
        ({"known_classes": [True]}, "True is no class"),
        ({"known_classes": [1, 1]}, "listed twice"),
    ],
)
def test_damaged_lists_of_known_classes(content, said, tmp_path):
    path = tmp_path / "cub_osr_splits.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ClipAlignError, match=said):
        read_known_classes(path, ["a", "b", "c"])


@pytest.mark.parametrize("kind", ["easy", "hard", "junk"])
@pytest.mark.parametrize("positions", [[3], [-1], ["0"], [True], 0, None])
def test_judgements_name_images_of_the_gallery(kind, positions, tmp_path):
    entry = BENCHMARKS["RParis6k"]
    publish(entry, entry.layouts[0], tmp_path)
    path = tmp_path / "rparis6k/gnd_rparis6k.pkl"
    judged = {"easy": [0], "hard": [], "junk": []} | {kind: positions}
    gnd(path, gnd=[judged], imlist=["all_souls_000000", "ashmolean_000001", "christ_church_000002"])
    with pytest.raises(ClipAlignError, match=f"{kind} is .*no list of positions among 3 images"):
        open_benchmark("rparis", tmp_path).judgements()
