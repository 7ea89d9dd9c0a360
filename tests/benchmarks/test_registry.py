"""What the registry says, how it is looked up, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

import hf_clipalign.benchmarks
from hf_clipalign import ClipAlignError
from hf_clipalign.benchmarks import BENCHMARKS, FORMATS, benchmark, discovery_split, open_benchmark
from hf_clipalign.benchmarks.class_names import RULES, cleaned
from hf_clipalign.benchmarks.entries import read_family
from hf_clipalign.data import BENCHMARKS as ON_THE_HUB
from hf_clipalign.data import CROSS_DATASET, CROSS_DOMAIN, GCD_PRESETS, ImageSource
from hf_clipalign.papers import PAPERS
from tests.benchmarks.published_copies import put

FAMILIES = Path(hf_clipalign.benchmarks.__file__).parent / "families"


def in_table(paper, table):
    return {entry.name for entry in BENCHMARKS.values() if table in entry.papers.get(paper, [])}


def test_the_papers_tables_are_complete():
    fine_grained = set(CROSS_DATASET) - {"UCF101"}
    thirteen = fine_grained | {"CUB", "SOP", "ROxford5k", "RParis6k"}
    assert len(thirteen) == 13
    assert in_table("isoclip", "image-image") == in_table("inversion", "image-image") == thirteen
    captions = {"COCO-captions", "Flickr30k-captions", "nocaps-captions"}
    assert in_table("isoclip", "text-text") == in_table("inversion", "text-text") == captions
    assert in_table("kdpl", "cross-dataset") | in_table("kdpl", "source") == set(CROSS_DATASET) | {"ImageNet"}
    assert len(in_table("kdpl", "cross-dataset") | in_table("kdpl", "source")) == 11
    assert in_table("kdpl", "cross-domain") == set(CROSS_DOMAIN)
    discovered = {BENCHMARKS[name].tasks["discovery"]["preset"] for name in in_table("spectralgcd", "discovery")}
    assert discovered == set(GCD_PRESETS)
    assert in_table("retune", "incremental") == {"CheXpert"}


@pytest.mark.parametrize("entry", BENCHMARKS.values(), ids=list(BENCHMARKS))
def test_every_entry_is_complete(entry):
    assert set(entry.papers) <= set(PAPERS)
    assert entry.page.startswith("http")
    assert entry.hub == "unknown" or entry.hub.count("/") == 1
    assert entry.licence
    assert entry.verified
    assert entry.tasks
    assert set(entry.class_names) <= set(RULES)
    assert {layout.format for layout in entry.layouts} <= set(FORMATS)
    for layout in entry.layouts:
        assert layout.files
        assert all(not name.startswith("/") and ".." not in name for name in (*layout.needed, *layout.folders))


def test_what_the_data_room_says_is_not_said_again():
    content = [entry for path in FAMILIES.glob("*.json") for entry in json.loads(path.read_text())["sets"]]
    assert all("hub" not in entry for entry in content if entry["name"] in ON_THE_HUB)
    assert all(BENCHMARKS[name].hub == entry.hub_id for name, entry in ON_THE_HUB.items())
    assert set(ON_THE_HUB) <= set(BENCHMARKS)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *[(name, name) for name in BENCHMARKS],
        ("imagenet", "ImageNet"),
        ("imagenet-adversarial", "ImageNet-A"),
        ("oxford_pets", "OxfordPets"),
        ("CUB_200_2011", "CUB"),
        ("cub2011", "CUB"),
        ("sop", "SOP"),
        ("roxford5k", "ROxford5k"),
        ("flickr30k_text", "Flickr30k-captions"),
        ("describable textures", "DTD"),
    ],
)
def test_a_data_set_is_found_by_its_names(name, found):
    assert benchmark(name).name == found


def test_no_two_data_sets_share_a_name():
    names = [(key, entry.name) for entry in BENCHMARKS.values() for key in {*entry.aliases, entry.name}]
    keys = ["".join(c for c in name.casefold() if c.isalnum()) for name, _ in names]
    assert len(set(zip(keys, (owner for _, owner in names), strict=True))) == len(set(keys))


def test_a_misspelt_name_is_suggested():
    with pytest.raises(ClipAlignError, match="did you mean 'StanfordCars'"):
        benchmark("StandfordCars")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: entry.pop("page"), "has no 'page'"),
        (lambda entry: entry.update(layouts=[{"format": "cub"}]), "has no 'folders'"),
        (lambda entry: entry["tasks"].update(x=1), "tasks"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(change, said, tmp_path):
    content = json.loads((FAMILIES / "captions.json").read_text())
    change(content["sets"][1])
    put(tmp_path / "captions.json", json.dumps(content))
    with pytest.raises(ClipAlignError, match=said):
        read_family(tmp_path / "captions.json")


def test_a_missing_file_of_the_registry(tmp_path):
    with pytest.raises(ClipAlignError, match="cannot be read"):
        read_family(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("CUB", "001.Black_footed_Albatross", "Black footed Albatross"),
        ("CUB", "114.Black_throated_Sparrow", "Black throated Sparrow"),
        ("StanfordCars", "Audi TTS Coupe 2012", "2012 Audi TTS Coupe"),
        ("StanfordCars", "2012 Audi TTS Coupe", "2012 Audi TTS Coupe"),
        ("EuroSAT", "AnnualCrop", "Annual Crop Land"),
        ("UCF101", "ApplyEyeMakeup", "Apply Eye Makeup"),
        ("OxfordPets", "maine_coon", "maine coon"),
    ],
)
def test_names_of_classes_are_cleaned_by_the_papers_rules(name, given, wanted):
    source = ImageSource([b""], ids=["a"], labels=[0], class_names=[given])
    assert cleaned(source, BENCHMARKS[name]).class_names == [wanted]


def aircraft_copy(root, per_class=16):
    """A copy with all 100 variants, and the list of known ones: every other."""
    layout, folder = BENCHMARKS["FGVCAircraft"].layouts[0], root / "fgvc_aircraft"
    names = [f"Variant {number}" for number in range(100)]
    put(folder / layout.files["classes"], "\n".join(names))
    images = [f"{number:07d}" for number in range(100 * per_class)]
    lines = [f"{image} {names[number % 100]}" for number, image in enumerate(images)]
    for part, rows in (("train", lines[:800]), ("val", lines[800:]), ("test", ["9999999 Variant 0"])):
        put(folder / layout.files[part], "\n".join(rows))
    for image in (*images, "9999999"):
        put(folder / f"images/{image}.jpg", b"")
    known = "".join(f"I{number}\na" for number in range(1, 100, 2))
    put(root / "aircraft_osr_splits.pkl", f"(dVknown_classes\n(l{known}s.")


def test_category_discovery_takes_the_known_classes_of_the_published_list(tmp_path):
    aircraft_copy(tmp_path)
    split = discovery_split(open_benchmark("aircraft", tmp_path))
    assert split.class_names == [f"Variant {number}" for number in range(1, 100, 2)]
    assert (len(split), split.n_novel, int(split.labelled.sum())) == (1600, 50, 400)
    (tmp_path / "aircraft_osr_splits.pkl").unlink()
    with pytest.raises(
        ClipAlignError, match=r"the known classes of FGVCAircraft are those of aircraft_osr_splits\.pkl"
    ):
        discovery_split(open_benchmark("aircraft", tmp_path))


def test_category_discovery_of_cifar(tmp_path):
    layout, folder = BENCHMARKS["CIFAR10"].layouts[0], tmp_path / "cifar-10-batches-bin"
    put(folder / layout.files["classes"], "\n".join(f"class{n}" for n in range(10)))
    for file in [name for role, name in layout.files.items() if role != "classes"]:
        put(folder / file, b"".join(bytes([n]) + bytes(3072) for n in range(10)) * 4)
    split = discovery_split(open_benchmark("cifar10", tmp_path))
    assert split.class_names == [f"class{n}" for n in range(5)]
    assert (len(split), int(split.labelled.sum())) == (200, 50)
    assert np.bincount(split.labels).tolist() == [20] * 10


def test_category_discovery_takes_the_published_cars(tmp_path):
    from tests.benchmarks.published_copies import split_zhou

    split_zhou(tmp_path / "stanford_cars", BENCHMARKS["StanfordCars"].layouts[0])
    with pytest.raises(ClipAlignError, match="open it with form='cars'"):
        discovery_split(open_benchmark("cars", tmp_path))
    with pytest.raises(ClipAlignError, match=r"lacks .*cars_train_annos\.mat|no StanfordCars in it"):
        open_benchmark("cars", tmp_path, form="cars")
    with pytest.raises(ClipAlignError, match="unknown form 'zip' of StanfordCars"):
        open_benchmark("cars", tmp_path, form="zip")
