"""Opening a data set where it lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import quoted, short
from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.class_names import cleaned
from hf_clipalign.benchmarks.entries import Benchmark, Layout
from hf_clipalign.benchmarks.formats.captions import read_captions, read_karpathy
from hf_clipalign.benchmarks.formats.cars import read_cars
from hf_clipalign.benchmarks.formats.cifar import read_cifar
from hf_clipalign.benchmarks.formats.coop import read_split_zhou
from hf_clipalign.benchmarks.formats.findings import read_chexpert_parts, read_mimic_parts
from hf_clipalign.benchmarks.formats.imagenet import read_folders
from hf_clipalign.benchmarks.formats.inaturalist import read_inaturalist
from hf_clipalign.benchmarks.formats.listing import Place
from hf_clipalign.benchmarks.formats.revisited import Judgements, read_judgements, read_revisited
from hf_clipalign.benchmarks.formats.text_lists import (
    read_aircraft,
    read_cub,
    read_numbered,
    read_pets,
    read_products,
)
from hf_clipalign.benchmarks.registry import benchmark
from hf_clipalign.data import Captions, FindingLabels, ImageSource

Part = ImageSource | Captions | FindingLabels

FORMATS: Mapping[str, Callable[[Place], Mapping[str, Part]]] = {
    "split_zhou": read_split_zhou,
    "cars": read_cars,
    "cub": read_cub,
    "pets": read_pets,
    "aircraft": read_aircraft,
    "products": read_products,
    "numbered": read_numbered,
    "inaturalist": read_inaturalist,
    "folders": read_folders,
    "revisited": read_revisited,
    "karpathy": read_karpathy,
    "coco": read_captions,
    "caption lines": read_captions,
    "cifar": read_cifar,
    "chexpert": read_chexpert_parts,
    "mimic": read_mimic_parts,
}
"""Readers of the published formats by the name that layouts give them."""


@dataclass(frozen=True)
class OpenedBenchmark:
    """A data set in a folder.

    Attributes:
        entry (`Benchmark`): what the registry says of it.
        folder (`Path`): where it lies.
        layout (`Layout`): in which published form.
        parts (`Mapping[str, ImageSource | Captions | FindingLabels]`): its splits; names of classes are cleaned.

    Example:
        ```python
        >>> opened = open_benchmark("OxfordPets", "benchmarks")
        >>> {name: len(part) for name, part in opened.parts.items()}
        {'train': 2, 'test': 2}
        ```
    """

    entry: Benchmark
    folder: Path
    layout: Layout
    parts: Mapping[str, Part]

    def part(self, name: str) -> Part:
        """One part, or several joined: `"train+test"`.

        Raises:
            `ClipAlignError`: the layout has no such part.
        """
        names = name.split("+")
        for one in names:
            if one not in self.parts:
                raise ClipAlignError(
                    f"{self.folder}: {self.entry.name} has no part {short(one)} in this form ({self.layout.format}: "
                    f"{quoted(self.parts)}): `clipalign benchmarks show {self.entry.name}` names the papers' files"
                )
        return self.parts[name] if len(names) == 1 else _joined([self.parts[one] for one in names], name)

    def judgements(self) -> Judgements:
        """Which gallery images are easy, hard or junk for each query of Revisited Oxford and Paris.

        Raises:
            `ClipAlignError`: the data set is another one, or its file is damaged.
        """
        if self.layout.format != "revisited":
            raise ClipAlignError(f"{self.entry.name} has class labels, no judgements: use part(name).labels")
        return read_judgements(Place(self.folder, self.layout, self.entry.name))


@dataclass(frozen=True)
class Located:
    """A layout that lies in a folder, in part or in full.

    Attributes:
        entry (`Benchmark`): of the registry.
        layout (`Layout`): the form that fits best.
        folder (`Path`): where.
        missing (`tuple[str, ...]`): what is not there, relative to the folder.

    Example:
        ```python
        >>> located = locate("OxfordPets", "benchmarks")
        >>> located.folder.name, located.missing
        ('oxford_pets', ())
        ```
    """

    entry: Benchmark
    layout: Layout
    folder: Path
    missing: tuple[str, ...]


def locate(name: str, data_root: str | os.PathLike[str], form: str | None = None) -> Located | None:
    """Finds a data set below a folder, or in it.

    Args:
        name (`str`): a name that `benchmark` knows.
        data_root (`str` or `os.PathLike`): the folder of all data sets, or that of this one.
        form (`str`, *optional*): format of the layout. Default: the one of which most is there, the papers' first.

    Returns:
        `Located`: where it lies, in part or in full; None if nothing of it is there.

    Raises:
        `ClipAlignError`: an unknown name, a form that the data set does not have, or no such folder.

    Example:
        ```python
        >>> locate("CUB", "benchmarks") is None
        True
        ```
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise ClipAlignError(f"{root}: no such folder; give the folder that holds the data sets")
    entry = benchmark(name)
    forms = [layout.format for layout in entry.layouts]
    if form is not None and form not in forms:
        raise unknown_name("form", form, dict.fromkeys(forms), f" of {entry.name}")
    found = [one for one in _candidates(entry, root) if form in (None, one.layout.format)]
    return min(found, key=lambda one: len(one.missing) / len(one.layout.needed), default=None)


def open_benchmark(name: str, data_root: str | os.PathLike[str], form: str | None = None) -> OpenedBenchmark:
    """Opens a data set in a published form; every image that its annotations list has to be there.

    Args:
        name (`str`): a name that `benchmark` knows.
        data_root (`str` or `os.PathLike`): the folder of all data sets, or that of this one.
        form (`str`, *optional*): format of the layout, as in `locate`.

    Raises:
        `ClipAlignError`: an unknown name, nothing there, missing or damaged files, a path that leaves its folder.

    Example:
        ```python
        >>> open_benchmark("OxfordPets", "benchmarks").part("test").class_names
        ['Abyssinian', 'maine coon']
        ```
    """
    entry, located = benchmark(name), locate(name, data_root, form)
    if located is None:
        folders = quoted(dict.fromkeys(folder for layout in entry.layouts for folder in layout.folders))
        raise ClipAlignError(
            f"{data_root}: {entry.name} is not there: it is looked for in {folders}; get it from {entry.page}"
        )
    return open_located(located)


def open_located(located: Located) -> OpenedBenchmark:
    """Opens what `locate` found.

    Args:
        located (`Located`): a complete layout.

    Raises:
        `ClipAlignError`: as `open_benchmark`.

    Example:
        ```python
        >>> open_located(locate("OxfordPets", "benchmarks")).layout.format
        'split_zhou'
        ```
    """
    entry, layout = located.entry, located.layout
    if located.missing:
        raise ClipAlignError(
            f"{located.folder}: {entry.name} lacks {quoted(located.missing)}: get it from {entry.page}"
        )
    parts = FORMATS[layout.format](Place(located.folder, layout, entry.name))
    return OpenedBenchmark(entry, located.folder, layout, {name: cleaned(part, entry) for name, part in parts.items()})


def _candidates(entry: Benchmark, root: Path) -> Iterator[Located]:
    for layout in entry.layouts:
        below = [root / folder for folder in layout.folders if folder != "."]
        for folder in dict.fromkeys([*below, root]):
            if not folder.is_dir():
                continue
            missing = tuple(name for name in layout.needed if not (folder / name).exists())
            if folder is root and not _is_meant(root, layout, missing):
                continue
            yield Located(entry, layout, folder, missing)


def _is_meant(root: Path, layout: Layout, missing: tuple[str, ...]) -> bool:
    """Whether a folder of any name is the data set's own: by its last name, or by what is in it."""
    named = any(root.name == Path(folder).name for folder in layout.folders if folder != ".")
    most = len(layout.needed) > 2 and 2 * len(missing) < len(layout.needed)
    return named or not missing or most


def _joined(parts: list[Part], name: str) -> ImageSource:
    sources = [part for part in parts if isinstance(part, ImageSource) and part.labels is not None]
    if len(sources) < len(parts):
        raise ClipAlignError(f"only parts with labels can be joined, not {short(name)}: take them one by one")
    labels = np.concatenate([np.asarray(source.labels) for source in sources])
    ids = [f"{part}/{one}" for part, source in zip(name.split("+"), sources, strict=True) for one in source.ids]
    items: list[Any] = [source.items[row] for source in sources for row in range(len(source))]
    title = f"{sources[0].name.rpartition(': ')[0]}: {name}"
    return ImageSource(items, ids=ids, labels=labels, class_names=sources[0].class_names, name=title)
