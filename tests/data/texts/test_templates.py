import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import PROMPT_TEMPLATES, clean_class_name, fill, prompt_template


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("OxfordPets", "a photo of a {}, a type of pet."),
        ("oxford-iiit-pet", "a photo of a {}, a type of pet."),
        ("Flowers102", "a photo of a {}, a type of flower."),
        ("nelorth/oxford-flowers", "a photo of a {}, a type of flower."),
        ("fgvc_aircraft", "a photo of a {}, a type of aircraft."),
        ("DTD", "{} texture."),
        ("eurosat", "a centered satellite photo of {}."),
        ("food-101", "a photo of {}, a type of food."),
        ("UCF101", "a photo of a person doing {}."),
        ("CUB_200_2011", "a photo of a {}, a type of bird."),
        *[
            (n, "a photo of a {}.")
            for n in ("cars", "SUN397", "caltech101", "ImageNet", "imagenet-1k", "ImageNet-R", "cifar100")
        ],
    ],
)
def test_lookup(name, template):
    assert prompt_template(name) == template


def test_every_template_works_under_every_name():
    for entry in PROMPT_TEMPLATES.values():
        assert len(fill(entry.template, ["x"])) == 1
        for name in (entry.dataset, entry.dataset.upper(), *entry.aliases):
            assert prompt_template(name) == entry.template


def test_unknown_data_set():
    with pytest.raises(ClipAlignError, match="'mushrooms'; known are ImageNet, "):
        prompt_template("mushrooms")


def test_fill():
    assert clean_class_name(" maine__coon ") == "maine coon"
    assert fill("a {}.", ["maine_coon", "pug"]) == ["a maine coon.", "a pug."]
    assert fill("{} {0} {x}", ("a{}",)) == ["a{} {0} {x}"]
    assert fill("{}", []) == []


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "", "{0}"])
def test_bad_templates(template):
    with pytest.raises(ClipAlignError, match="exactly one"):
        fill(template, ["x"])


def test_a_single_string_is_not_a_list_of_names():
    with pytest.raises(ClipAlignError, match="names is a single string, 'cat'"):
        fill("a {}", "cat")
