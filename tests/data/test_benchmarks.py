"""The table of benchmark data sets and their class names."""

from __future__ import annotations

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import (
    BENCHMARKS,
    CROSS_DATASET,
    CROSS_DOMAIN,
    IMAGENET_TEMPLATES,
    benchmark_dataset,
    clean_class_names,
    fill,
)


def test_every_entry_has_a_prompt_and_none_claims_to_be_verified() -> None:
    for entry in BENCHMARKS.values():
        assert fill(entry.template, ["x"])
        assert entry.hub_id.count("/") == 1
        assert not entry.verified


def test_protocol_lists() -> None:
    assert len(CROSS_DATASET) == 10
    assert len(CROSS_DOMAIN) == 4
    assert set(CROSS_DATASET) | set(CROSS_DOMAIN) | {"ImageNet"} == set(BENCHMARKS)
    assert all(not BENCHMARKS[name].train for name in CROSS_DOMAIN)


@pytest.mark.parametrize("name", ["OxfordPets", "oxford pets", "pets", "timm/oxford-iiit-pet"])
def test_lookup(name: str) -> None:
    assert benchmark_dataset(name).template == "a photo of a {}, a type of pet."


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ClipAlignError, match=r"'mnist'; known are ImageNet, .*UCF101"):
        benchmark_dataset("mnist")


def test_sixty_templates() -> None:
    assert len(set(IMAGENET_TEMPLATES)) == 60
    assert all(template.count("{}") == 1 for template in IMAGENET_TEMPLATES)


def test_class_names_by_the_rules_of_the_set() -> None:
    assert clean_class_names(["maine_coon", "beagle"], "oxford_pets") == ["maine coon", "beagle"]
    assert clean_class_names(["AnnualCrop", "Forest"], "eurosat") == ["Annual Crop Land", "Forest"]
    assert clean_class_names(["ApplyEyeMakeup"], "UCF101") == ["Apply Eye Makeup"]
    assert clean_class_names(["McLaren"], "StanfordCars") == ["McLaren"]


def test_duplicates_after_cleaning() -> None:
    with pytest.raises(ClipAlignError, match="class names of DTD: duplicates"):
        clean_class_names(["big_cat", "Big cat"], "DTD")
