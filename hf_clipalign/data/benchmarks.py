"""The data sets of the prompt-learning papers: where they are on the Hub, their prompts, their class names, splits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.texts.dictionary import check_names
from hf_clipalign.data.texts.templates import PROMPT_TEMPLATES, clean_class_name, prompt_template


@dataclass(frozen=True)
class BenchmarkDataset:
    """One data set of the benchmarks.

    Args:
        name (`str`): name in the papers.
        hub_id (`str`): where it is on the Hub, as documentation and public code name it.
        train (`str`): split to draw few-shot images from; empty for the sets that are only tested on.
        test (`str`): split to test on.
        image_column (`str`, *optional*, defaults to "image"): column of the images.
        label_column (`str`, *optional*, defaults to "label"): column of the class.
        note (`str`, *optional*, defaults to none): what to know before using it.
        verified (`bool`, *optional*, defaults to `False`): whether the id, splits and columns were checked by loading
            the set.

    Example:
        ```python
        >>> from hf_clipalign.data import BENCHMARKS
        >>> BENCHMARKS["DTD"].template
        '{} texture.'
        ```
    """

    name: str
    hub_id: str
    train: str
    test: str
    image_column: str = "image"
    label_column: str = "label"
    note: str = ""
    verified: bool = field(default=False)

    @property
    def template(self) -> str:
        """The data set's prompt."""
        return prompt_template(self.name)


_GATED = "gated: accept its terms on the Hub and log in"
_PAPER_SPLIT = "the papers use their own random split of the images; this one gives other numbers"
_NAMES = "names of the classes are WordNet ids or missing: give class names yourself"

BENCHMARKS: dict[str, BenchmarkDataset] = {
    entry.name: entry
    for entry in (
        BenchmarkDataset("ImageNet", "ILSVRC/imagenet-1k", "train", "validation", note=_GATED),
        BenchmarkDataset("ImageNetV2", "vaishaal/ImageNetV2", "", "train", note=f"archives of folders; {_NAMES}"),
        BenchmarkDataset("ImageNet-Sketch", "songweig/imagenet_sketch", "", "train", note="needs its files unpacked"),
        BenchmarkDataset("ImageNet-A", "barkermrl/imagenet-a", "", "train", note="200 of the 1,000 classes"),
        BenchmarkDataset("ImageNet-R", "axiong/imagenet-r", "", "test", label_column="class_name", note="200 classes"),
        BenchmarkDataset("Caltech101", "dpdl-benchmark/caltech101", "train", "test", note=_PAPER_SPLIT),
        BenchmarkDataset("OxfordPets", "timm/oxford-iiit-pet", "train", "test"),
        BenchmarkDataset("StanfordCars", "tanganke/stanford_cars", "train", "test"),
        BenchmarkDataset("Flowers102", "dpdl-benchmark/oxford_flowers102", "train", "test", note=_PAPER_SPLIT),
        BenchmarkDataset("Food101", "ethz/food101", "train", "validation"),
        BenchmarkDataset("FGVCAircraft", "HuggingFaceM4/FGVC-Aircraft", "train", "test", label_column="variant"),
        BenchmarkDataset("SUN397", "tanganke/sun397", "train", "test"),
        BenchmarkDataset("DTD", "tanganke/dtd", "train", "test", note=_PAPER_SPLIT),
        BenchmarkDataset("EuroSAT", "tanganke/eurosat", "train", "test", note=_PAPER_SPLIT),
        BenchmarkDataset("UCF101", "flwrlabs/ucf101", "train", "test", note="frames; the papers use the middle one"),
    )
}
"""Data sets by name; every entry says whether it was verified. None was: they could not be reached when written."""

CROSS_DOMAIN = ("ImageNetV2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R")
"""Targets of domain generalisation; the source is ImageNet, 16 images a class."""

CROSS_DATASET = tuple(name for name in BENCHMARKS if not name.startswith("ImageNet"))
"""The ten targets of the cross-dataset protocol; the source is ImageNet, 16 images a class."""

_RENAMED: dict[str, dict[str, str]] = {
    "EuroSAT": {
        "AnnualCrop": "Annual Crop Land",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "SeaLake": "Sea or Lake",
    },
}
_CAMEL_CASE = ("EuroSAT", "UCF101")

IMAGENET_TEMPLATES = (
    "a photo of a {}.",
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
)
"""The 60 prompts whose mean text feature PromptSRC keeps close to, from the prompt list published with CLIP (MIT)."""


def benchmark_dataset(name: str) -> BenchmarkDataset:
    """Looks up a data set by a common name in any spelling, or by its Hub id.

    Args:
        name (`str`): such as "oxford pets" or "timm/oxford-iiit-pet".

    Raises:
        `ClipAlignError`: if the name is unknown; the message lists the known ones.

    Example:
        ```python
        >>> from hf_clipalign.data import benchmark_dataset
        >>> benchmark_dataset("oxford pets").hub_id
        'timm/oxford-iiit-pet'
        ```
    """
    for entry in BENCHMARKS.values():
        spellings = (entry.name, *PROMPT_TEMPLATES[entry.name].aliases, entry.hub_id)
        if _key(name) in {_key(spelling) for spelling in spellings}:
            return entry
    raise ClipAlignError(f"no benchmark data set {short(name)}; known are {', '.join(BENCHMARKS)}")


def clean_class_names(names: Iterable[str], dataset: str | None = None) -> list[str]:
    """Makes a data set's class names fit for prompts, by the papers' rules.

    Underscores become spaces. EuroSAT's names are spelled out ("AnnualCrop" becomes "Annual Crop Land"), and UCF101's
    run-together words are parted ("ApplyEyeMakeup" becomes "Apply Eye Makeup").

    Args:
        names (iterable of `str`): as the data set has them.
        dataset (`str`, *optional*): its name, for the rules of that set; unknown names have none.

    Returns:
        `list[str]`: in the same order.

    Raises:
        `ClipAlignError`: if a name is blank, or two are the same after cleaning (case ignored).

    Example:
        ```python
        >>> from hf_clipalign.data import clean_class_names
        >>> clean_class_names(["AnnualCrop", "SeaLake"], "EuroSAT")
        ['Annual Crop Land', 'Sea or Lake']
        ```
    """
    known = next((entry for entry in _RENAMED if dataset is not None and _key(entry) == _key(dataset)), None)
    renamed = _RENAMED.get(known or "", {})
    split = dataset is not None and _key(dataset) in {_key(entry) for entry in _CAMEL_CASE}
    cleaned = [clean_class_name(renamed.get(name, _split_words(name) if split else name)) for name in names]
    return check_names(cleaned, f"class names of {dataset}" if dataset else "class names")


def _split_words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)


def _key(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
