"""Images of known and of unknown classes, some of the known ones with labels: where category discovery starts."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._checks.quoting import quoted, readable_name, short
from hf_clipalign._checks.sequences import as_array
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.file_kinds import is_skipped
from hf_clipalign.data.images.folders import file_or_folder
from hf_clipalign.data.images.opening import ImageSource, image_folder, open_source
from hf_clipalign.data.splits.subsets import keep_classes
from hf_clipalign.data.texts.dictionary import check_names, load_dictionary
from hf_clipalign.data.texts.templates import clean_class_name

_FEWEST_LABELLED = 2
_IMAGENET_CLASSES = 1000
_LABEL = "label"
_KNOWN = "names, a number of classes, or a share of them"


@dataclass(frozen=True)
class GCDPreset:
    """A published setting of generalized category discovery.

    Args:
        name (`str`): name of the data set.
        n_classes (`int`): classes of the data set, or of the part that is used.
        n_known (`int`): how many of them are known.
        mean_entropy_weight (`float`): the weight ε of SpectralGCD's mean-entropy term for it.
        template (`str`): SpectralGCD's prompt of the concepts in training.
        listed (`bool`): whether the known classes follow a published list (SSB, arXiv 2110.06207) and not their order.

    Example:
        ```python
        >>> from hf_clipalign.data import GCD_PRESETS
        >>> GCD_PRESETS["cub"].n_known
        100
        ```
    """

    name: str
    n_classes: int
    n_known: int
    mean_entropy_weight: float
    template: str = "a photo of a {} ."
    listed: bool = False


_BIRD, _AIRCRAFT = "a photo of a {}, a type of bird.", "a photo of a {}, a type of aircraft."

GCD_PRESETS: dict[str, GCDPreset] = {
    preset.name: preset
    for preset in (
        GCDPreset("cifar10", 10, 5, 1.0),
        GCDPreset("cifar100", 100, 80, 4.0),
        GCDPreset("imagenet100", 100, 50, 1.0),
        GCDPreset("cub", 200, 100, 2.0, _BIRD, listed=True),
        GCDPreset("stanford_cars", 196, 98, 2.0, listed=True),
        GCDPreset("fgvc_aircraft", 100, 50, 1.0, _AIRCRAFT, listed=True),
    )
}
"""The six settings of SpectralGCD (arXiv 2602.17395), those of GCD (arXiv 2201.02609)."""


@dataclass(frozen=True)
class GCDSplit:
    """Images, of which some have a label of a known class, and all others may be of known or unknown classes.

    Build one with `from_source`, `preset` or `from_folder`.

    Args:
        source (`ImageSource`): all images, labelled and not.
        labels (`np.ndarray [N]`): true classes, the known ones first; -1 where nobody knows.
        labelled (`np.ndarray [N]`, bool): which images a method may see the label of.
        class_names (`list[str]`): names of the known classes, 0 … K - 1.
        novel_names (`list[str]`): true names of the other classes, for evaluation only; empty if they are not known.

    Example:
        ```python
        >>> from hf_clipalign.data import GCDSplit
        >>> split = GCDSplit.from_source("photos", known=["cat", "dog"])
        >>> split
        GCDSplit('photos', 12 images, 4 labelled, 2 known classes, 1 novel classes)
        ```
    """

    source: ImageSource
    labels: np.ndarray
    labelled: np.ndarray
    class_names: list[str]
    novel_names: list[str]

    def __post_init__(self) -> None:
        for name in ("labels", "labelled"):
            object.__setattr__(self, name, as_array(getattr(self, name), name))
        for name in ("class_names", "novel_names"):
            object.__setattr__(self, name, as_texts(getattr(self, name), name))
        counts = np.bincount(self.labels[self.labelled], minlength=len(self.class_names))
        few = [f"{short(self.class_names[i])} ({counts[i]})" for i in np.flatnonzero(counts < _FEWEST_LABELLED)]
        if few:
            raise ClipAlignError(
                f"{self.source.name}: a known class needs {_FEWEST_LABELLED} labelled images or more, but "
                f"{', '.join(few[:3])}{' and others' if len(few) > 3 else ''} have fewer: label more of their "
                "images, or leave the classes out of the known ones"
            )

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        novel = f"{self.n_novel} novel classes" if self.has_truth else "novel classes unknown"
        return (
            f"GCDSplit({self.source.name!r}, {len(self)} images, {int(self.labelled.sum())} labelled, "
            f"{len(self.class_names)} known classes, {novel})"
        )

    @property
    def has_truth(self) -> bool:
        """Whether the true class of every image is known, so that accuracies can be computed."""
        return bool((self.labels >= 0).all())

    @property
    def n_novel(self) -> int:
        """How many novel classes there are in truth; 0 if nobody knows."""
        return len(self.novel_names)

    @property
    def training_labels(self) -> np.ndarray:
        """What a method may see, `[N]`: the class of labelled images, -1 for all others."""
        return np.where(self.labelled, self.labels, -1)

    @property
    def unlabelled_rows(self) -> np.ndarray:
        """Positions of the images without a label: accuracies are those of these."""
        return np.flatnonzero(~self.labelled)

    @property
    def known_mask(self) -> np.ndarray:
        """Which images are of known classes in truth, `[N]` of bool."""
        return (self.labels >= 0) & (self.labels < len(self.class_names))

    @classmethod
    def from_source(
        cls,
        source: Any,
        known: Sequence[str] | int | float,
        *,
        labelled_fraction: float = 0.5,
        seed: int = 0,
        class_seed: int | None = None,
        per_class: bool = False,
        **open_kwargs: Any,
    ) -> GCDSplit:
        """Hides the labels of some classes, and of a part of the images of the others.

        Args:
            source (what `open_source` takes):
                labelled images: a folder, a `datasets.Dataset`, a Hub id, … Of a data set without a `ClassLabel`
                column the column called "label" is taken.
            known (`Sequence[str]`, `int` or `float`):
                names of the known classes (exactly, or with case and underscores ignored where one class alone has
                such a name), or how many, or which share of them (below 1). A number takes the first
                ones in the order of the classes, or with `class_seed` some at random.
            labelled_fraction (`float`, *optional*, defaults to 0.5): share of the known classes' images that keep
                their label.
            seed (`int`, *optional*, defaults to 0):
                which images. With 0 the draw is that of the reference implementations, for the same order of the
                images: `RandomState(seed).choice` over all images of the known classes.
            class_seed (`int`, *optional*): draws the known classes at random, if `known` is a number.
            per_class (`bool`, *optional*, defaults to `False`):
                draw the share within every class instead; for small data sets.
            **open_kwargs: Passed to `open_source` (`label_column`, `split`, …).

        Raises:
            `ClipAlignError`: if there are no labels, known names are missing, a class has no image or too few
                labelled ones, nothing is left to discover, or a number cannot be used.
        """
        check_integer("seed", seed, 0)
        check_number("labelled_fraction", labelled_fraction, "a share between 0 and 1", above=0, below=1)
        if class_seed is not None:
            check_integer("class_seed", class_seed, 0)
        source = _open_labelled(source, open_kwargs)
        labels = np.asarray(source.labels)
        names = source.class_names or [str(label) for label in range(int(labels.max()) + 1)]
        _refuse_empty_classes(source.name, labels, names)
        order, n_known = _known_first(names, known, class_seed)
        ordered = np.argsort(order)[labels]
        labelled = _draw_labelled(ordered, n_known, labelled_fraction, seed, per_class)
        ranked = [clean_class_name(names[index]) for index in order]
        readable = check_names(ranked[:n_known], f"{source.name}: known classes")
        return cls(source, ordered, labelled, readable, ranked[n_known:])

    @classmethod
    def preset(
        cls,
        name: str,
        source: Any,
        known_classes: Sequence[str] | str | os.PathLike[str] | None = None,
        seed: int = 0,
        **open_kwargs: Any,
    ) -> GCDSplit:
        """A published setting, for the training split of its data set.

        CIFAR-10, CIFAR-100 and ImageNet-100 follow from the order of the classes (ImageNet-100 are the 100 of the
        1,000 that NumPy's generator draws with seed 0, sorted, the first 50 known). CUB, Stanford Cars and FGVC
        Aircraft take the known half from the lists of the Semantic Shift Benchmark, which are not part of this
        package: give them.

        Args:
            name (`str`): "cifar10", "cifar100", "imagenet100", "cub", "stanford_cars" or "fgvc_aircraft".
            source (what `open_source` takes): the training split, classes in their usual order.
            known_classes (`Sequence[str]` or path, *optional*): the known classes, or a file with one a line.
            seed (`int`, *optional*, defaults to 0): which images are labelled; 0 is the published draw.
            **open_kwargs: Passed to `open_source`.

        Raises:
            `ClipAlignError`: if the name is unknown, the number of classes is not that of the data set, or a list is
                needed and not given.
        """
        preset = gcd_preset(name)
        source = _open_labelled(source, open_kwargs)
        if preset.name == "imagenet100" and len(source.class_names or ()) == _IMAGENET_CLASSES:
            drawn = np.random.RandomState(0).choice(_IMAGENET_CLASSES, size=preset.n_classes, replace=False)
            source = keep_classes(source, np.sort(drawn).tolist())
        n_classes = len(source.class_names or np.unique(source.labels))
        if n_classes != preset.n_classes:
            raise ClipAlignError(f"{source.name}: {n_classes} classes, but {preset.name} has {preset.n_classes}")
        if not preset.listed:
            return cls.from_source(source, preset.n_known, seed=seed)
        if known_classes is None:
            raise ClipAlignError(
                f"{preset.name}: the {preset.n_known} known classes are those of the Semantic Shift Benchmark "
                "(github.com/sgvaze/SSB); pass their names as known_classes, or a file with one a line"
            )
        if isinstance(known_classes, (str, os.PathLike)):
            known_classes = load_dictionary(known_classes)
        if len(known_classes) != preset.n_known:
            raise ClipAlignError(
                f"{preset.name}: known_classes has {len(known_classes)} names, the setting {preset.n_known}"
            )
        return cls.from_source(source, known_classes, seed=seed)

    @classmethod
    def from_folder(
        cls, path: str | os.PathLike[str], unlabelled: str = "unlabelled", n_novel: int | None = None
    ) -> GCDSplit:
        """Your own images: a sub-folder for every class you know, all others in one sub-folder or beside them.

        Args:
            path (`str` or `os.PathLike`): the folder. Images directly in it have no label.
            unlabelled (`str`, *optional*, defaults to "unlabelled"): its sub-folder of images without a label.
            n_novel (`int`, *optional*): how many novel classes you want to look for, checked against the images.

        Raises:
            `ClipAlignError`: if there is no image without a label, no or one image in a class, or more classes than
                images.
        """
        n_novel = 0 if n_novel is None else check_integer("n_novel", n_novel, 0)
        source = image_folder(path)
        folder_of = [name.split("/", 1)[0] if "/" in name else None for name in source.ids]
        names = sorted({name for name in folder_of if name is not None})
        entries = os.scandir(Path(path).expanduser())
        folders = sorted(readable_name(e.name) for e in entries if file_or_folder(e)[1] and not is_skipped(e.name))
        if unlabelled not in folders and None not in folder_of:
            raise ClipAlignError(
                f"{source.name}: no sub-folder {short(unlabelled)}; its sub-folders are "
                f"{quoted(names)}: put all images "
                "without a label into one, and name it with unlabelled="
            )
        empty = [name for name in folders if name not in names]
        _refuse(source.name, empty, "has no image: fill or delete the folder")
        known = [name for name in names if name != unlabelled]
        if not known:
            raise ClipAlignError(
                f"{source.name}: no class has labelled images: move some images of each class that you know into a "
                "sub-folder with its name (`clipalign concepts` needs no label)"
            )
        number = {name: index for index, name in enumerate(known)}
        labels = np.array([number.get(name, -1) if name else -1 for name in folder_of], dtype=np.int64)
        check_class_count(source.name, len(known) + n_novel, len(source))
        readable = check_names([clean_class_name(name) for name in known], f"{source.name}: class names")
        return cls(source, labels, labels >= 0, readable, [])


def gcd_preset(name: str) -> GCDPreset:
    """Looks up a published setting by its name in any spelling ("CIFAR-100", "Stanford Cars").

    Args:
        name (`str`): of the data set.

    Raises:
        `ClipAlignError`: if there is none.

    Example:
        ```python
        >>> from hf_clipalign.data import gcd_preset
        >>> gcd_preset("CIFAR-100").n_known
        80
        ```
    """
    key = "".join(character for character in name.casefold() if character.isalnum())
    found = {preset.replace("_", ""): preset for preset in GCD_PRESETS}.get(key)
    if found is None:
        raise ClipAlignError(f"no setting {short(name)}; there are {', '.join(GCD_PRESETS)}")
    return GCD_PRESETS[found]


def check_class_count(name: str, n_classes: int, n_images: int) -> None:
    """Refuses to look for more classes than there are images."""
    if n_classes > n_images:
        raise ClipAlignError(f"{name}: {n_classes} classes cannot be found in {n_images} images; look for fewer")


def _open_labelled(source: Any, open_kwargs: dict[str, Any]) -> ImageSource:
    """The source with its labels; of a data set also those in a plain column called "label"."""
    opened = open_source(source, **open_kwargs)
    named = getattr(source, "column_names", None)
    columns = named if isinstance(named, list) else []  # a dict of splits names them by split
    if opened.labels is None and _LABEL in columns and open_kwargs.get("label_column") is None:
        opened = open_source(source, **{**open_kwargs, "label_column": _LABEL})
    if opened.labels is None:
        which = f", one of {quoted(columns)}" if columns else ""
        raise ClipAlignError(
            f"{opened.name}: the images have no labels; name their column with label_column={which}, or use "
            "GCDSplit.from_folder for a folder"
        )
    unknown = np.flatnonzero(np.asarray(opened.labels) < 0)
    if len(unknown):
        raise ClipAlignError(
            f"{opened.name}: {len(unknown)} labels are below 0, the first in row {unknown[0]} (from 0); number the "
            "classes from 0, or leave these images out"
        )
    return opened


def _known_first(names: Sequence[str], known: Any, class_seed: int | None) -> tuple[list[int], int]:
    """Class numbers with the known ones first, and how many those are."""
    n = len(names)
    if isinstance(known, Real) and not isinstance(known, bool):
        count = int(known) if isinstance(known, Integral) else round(check_number("known", known, _KNOWN) * n)
        if not 1 <= count < n:
            raise ClipAlignError(f"known = {known} of {n} classes leaves none known or none to discover")
        order = list(range(n)) if class_seed is None else np.random.default_rng(class_seed).permutation(n).tolist()
        return sorted(order[:count]) + sorted(order[count:]), count
    known = check_names(known, "known classes")
    exact = {name: [index] for index, name in enumerate(names)}
    similar = defaultdict(list)
    for index, name in enumerate(names):
        similar[clean_class_name(name).casefold()].append(index)
    places = [exact.get(name) or similar[clean_class_name(name).casefold()] for name in known]
    missing = [name for name, found in zip(known, places, strict=True) if not found]
    if missing:
        raise ClipAlignError(
            f"known classes {quoted(missing[:5])} are not among the {n} classes: {quoted(names[:8])}…"
        )
    for name, found in zip(known, places, strict=True):
        if len(found) > 1:
            raise ClipAlignError(
                f"known class {short(name)} may be any of {quoted(names[i] for i in found)}: write it exactly as one"
            )
    chosen = [found[0] for found in places]
    if len(chosen) == n:
        raise ClipAlignError(f"all {n} classes are known: there is nothing to discover; name fewer")
    return chosen + [index for index in range(n) if index not in set(chosen)], len(chosen)


def _draw_labelled(labels: np.ndarray, n_known: int, fraction: float, seed: int, per_class: bool) -> np.ndarray:
    labelled = np.zeros(len(labels), dtype=bool)
    generator = np.random.RandomState(seed)
    groups = [labels == label for label in range(n_known)] if per_class else [labels < n_known]
    for group in groups:
        rows = np.flatnonzero(group)
        labelled[rows[generator.choice(len(rows), size=int(fraction * len(rows)), replace=False)]] = True
    return labelled


def _refuse_empty_classes(name: str, labels: np.ndarray, names: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    _refuse(name, empty, "has no image: leave it out with hf_clipalign.data.keep_classes")


def _refuse(name: str, classes: Sequence[str], problem: str) -> None:
    if classes:
        more = f" (and {len(classes) - 1} more)" if len(classes) > 1 else ""
        raise ClipAlignError(f"{name}: class {short(classes[0])}{more} {problem}")
