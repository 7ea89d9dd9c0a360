"""The published settings of category discovery, from the data sets of the registry."""

from __future__ import annotations

import os
from pathlib import Path

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.formats.known_classes import read_known_classes
from hf_clipalign.benchmarks.opening import OpenedBenchmark
from hf_clipalign.data import GCDSplit, ImageSource

_LISTS_PAGE = "github.com/sgvaze/osr_closed_set_all_you_need"


def discovery_split(
    opened: OpenedBenchmark, known_classes: str | os.PathLike[str] | None = None, seed: int = 0
) -> GCDSplit:
    """Known and novel classes of a data set as in SpectralGCD's paper.

    CIFAR-10, CIFAR-100 and ImageNet-100 follow from the order of the classes; CUB, Stanford Cars and FGVC-Aircraft
    take the known half from the lists of the Semantic Shift Benchmark.

    Args:
        opened (`OpenedBenchmark`): one of these six data sets, complete.
        known_classes (`str` or `os.PathLike`, *optional*): the list `*_osr_splits.pkl`, read without running it.
            Default: the file of that name in the data set's folder or beside it.
        seed (`int`, *optional*, defaults to `0`): which images are labelled; 0 is the published draw.

    Raises:
        `ClipAlignError`: another data set or form, a list that is not there, or classes that do not fit the setting.

    Example:
        ```python
        >>> pets = open_benchmark("pets", "benchmarks")
        >>> discovery_split(pets)
        Traceback (most recent call last):
        hf_clipalign._errors.ClipAlignError: OxfordPets is in no setting of category discovery: choose CUB, ...
        ```
    """
    entry = opened.entry
    rule = entry.tasks.get("discovery")
    if rule is None:
        raise ClipAlignError(
            f"{entry.name} is in no setting of category discovery: choose CUB, StanfordCars, FGVCAircraft, CIFAR10, "
            "CIFAR100 or ImageNet-100"
        )
    form = rule.get("form", opened.layout.format)
    if form != opened.layout.format:
        raise ClipAlignError(
            f"{opened.folder}: category discovery takes the published images of {entry.name}, not those of "
            f"{opened.layout.format}: open it with form={form!r}"
        )
    source = opened.part(rule["part"])
    if not isinstance(source, ImageSource) or source.class_names is None:
        raise ClipAlignError(f"{opened.folder}: {entry.name} has no named classes")
    known = None
    if "known" in rule:
        known = read_known_classes(_list_file(opened, rule["known"], known_classes), source.class_names)
    return GCDSplit.preset(rule["preset"], source, known, seed)


def _list_file(opened: OpenedBenchmark, name: str, given: str | os.PathLike[str] | None) -> Path:
    places = [Path(given).expanduser()] if given is not None else [opened.folder / name, opened.folder.parent / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        whose = f"the known classes of {opened.entry.name} are those of {name}"
        raise ClipAlignError(f"{places[0]}: no such file; {whose}, from {_LISTS_PAGE}")
    return found
