"""Prompt templates per data set, as published with CLIP and used by the prompt-learning and retrieval papers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hf_clipalign._checks.quoting import short
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError


@dataclass(frozen=True)
class PromptTemplate:
    """The hand-written prompt of one data set.

    Args:
        dataset (`str`): name of the data set, as papers write it.
        template (`str`): prompt with one `{}` for the class name.
        aliases (`tuple[str, ...]`, *optional*, defaults to none): further names, in any spelling.

    Example:
        ```python
        >>> from hf_clipalign.data import PROMPT_TEMPLATES
        >>> PROMPT_TEMPLATES["Food101"].template
        'a photo of {}, a type of food.'
        ```
    """

    dataset: str
    template: str
    aliases: tuple[str, ...] = field(default=(), repr=False)


_PHOTO = "a photo of a {}."

PROMPT_TEMPLATES: dict[str, PromptTemplate] = {
    entry.dataset: entry
    for entry in (
        PromptTemplate("ImageNet", _PHOTO, ("imagenet-1k", "ILSVRC2012", "imagenet100")),
        PromptTemplate("ImageNetV2", _PHOTO, ("imagenetv2-matched-frequency",)),
        PromptTemplate("ImageNet-Sketch", _PHOTO),
        PromptTemplate("ImageNet-A", _PHOTO, ("imagenet-adversarial",)),
        PromptTemplate("ImageNet-R", _PHOTO, ("imagenet-rendition",)),
        PromptTemplate("Caltech101", _PHOTO, ("caltech-101",)),
        PromptTemplate(
            "OxfordPets",
            "a photo of a {}, a type of pet.",
            ("pets", "oxford_iiit_pet", "oxford-iiit-pets", "oxford_pet"),
        ),
        PromptTemplate("StanfordCars", _PHOTO, ("cars", "stanford_cars", "cars196", "scars")),
        PromptTemplate(
            "Flowers102",
            "a photo of a {}, a type of flower.",
            ("flowers", "oxford_flowers", "oxford_flowers102", "vgg_flowers", "102flowers"),
        ),
        PromptTemplate("Food101", "a photo of {}, a type of food.", ("food",)),
        PromptTemplate("FGVCAircraft", "a photo of a {}, a type of aircraft.", ("aircraft", "aircrafts")),
        PromptTemplate("SUN397", _PHOTO, ("sun",)),
        PromptTemplate("DTD", "{} texture.", ("describable_textures", "describable_textures_dataset")),
        PromptTemplate("EuroSAT", "a centered satellite photo of {}.", ("eurosat_rgb",)),
        PromptTemplate("UCF101", "a photo of a person doing {}.", ("ucf",)),
        PromptTemplate("CUB", "a photo of a {}, a type of bird.", ("cub200", "cub_200_2011", "birds")),
        PromptTemplate("CIFAR10", _PHOTO),
        PromptTemplate("CIFAR100", _PHOTO),
    )
}
"""Templates by data set name; look them up with `prompt_template`."""


def prompt_template(dataset: str) -> str:
    """Looks up the prompt of a data set.

    Args:
        dataset (`str`): A common name in any spelling ("Oxford Pets", "fgvc_aircraft") or a Hub id that ends in one.

    Returns:
        `str`: a template with one `{}`.

    Raises:
        `ClipAlignError`: if the name is unknown; the message lists the known ones.

    Example:
        ```python
        >>> from hf_clipalign.data import fill, prompt_template
        >>> fill(prompt_template("oxford_pets"), ["maine_coon"])
        ['a photo of a maine coon, a type of pet.']
        ```
    """
    table = {_key(name): e.template for e in PROMPT_TEMPLATES.values() for name in (e.dataset, *e.aliases)}
    for name in (dataset, dataset.rsplit("/", 1)[-1]):
        if _key(name) in table:
            return table[_key(name)]
    known = ", ".join(PROMPT_TEMPLATES)
    raise ClipAlignError(
        f"no prompt template for data set {short(dataset)}; known are {known}; or write one: '{_PHOTO}'"
    )


def clean_class_name(name: str) -> str:
    """Makes a class or folder name readable: underscores become spaces, runs of spaces become one.

    Args:
        name (`str`): such as `"maine_coon"`.

    Returns:
        `str`: such as `"maine coon"`.

    Example:
        ```python
        >>> from hf_clipalign.data import clean_class_name
        >>> clean_class_name("maine_coon")
        'maine coon'
        ```
    """
    return " ".join(name.replace("_", " ").split())


def fill(template: str, names: Iterable[str]) -> list[str]:
    """Writes one prompt per class name.

    Args:
        template (`str`): text with exactly one `{}`; other braces are left alone.
        names (iterable of `str`): class names; they go through `clean_class_name`.

    Returns:
        `list[str]`: the prompts, in the order of `names`.

    Raises:
        `ClipAlignError`: if the template has no `{}` or several, or if `names` is a single string.

    Example:
        ```python
        >>> from hf_clipalign.data import fill
        >>> fill("a photo of a {}.", ["cat", "maine_coon"])
        ['a photo of a cat.', 'a photo of a maine coon.']
        ```
    """
    if (count := template.count("{}")) != 1:
        raise ClipAlignError(f"template {short(template)} holds {count} times '{{}}'; it must hold exactly one")
    return [template.replace("{}", clean_class_name(name)) for name in as_texts(names, "names")]


def _key(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
