"""The prompt-learning papers' splits of the images, and their draws of a few images per class."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import read_json
from hf_clipalign.data.images.source import ImageSource
from hf_clipalign.data.labels.columns import class_labels
from hf_clipalign.data.splits.subsets import take

PARTS = ("train", "val", "test")
_MOST_BYTES = 2**28


def read_split(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> dict[str, ImageSource]:
    """Opens the images of a split file of the prompt-learning papers (`split_zhou_OxfordPets.json`, …).

    The file, published with CoOp (Zhou et al., 2022), has lists "train", "val" and "test" of `[path, label, name]`.

    Args:
        path (`str` or `os.PathLike`): The file.
        root (`str` or `os.PathLike`): Folder that its paths start from.

    Returns:
        `dict[str, ImageSource]`: the parts that the file has, in its order of images, all with all class names.

    Raises:
        `ClipAlignError`: if the file is no such file, a path leads out of `root` or to no file, or a label has two
            names or none.

    Example:
        ```python
        >>> import json
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from hf_clipalign.data import read_split
        >>> Image.new("RGB", (8, 8)).save("cat.png")
        >>> _ = Path("split_zhou_Test.json").write_text(json.dumps({"test": [["cat.png", 0, "cat"]]}))
        >>> read_split("split_zhou_Test.json", ".")["test"]
        ImageSource('split_zhou_Test.json: test', 1 images, 1 classes)
        ```
    """
    name = Path(path).name
    parts, names = split_rows(path)
    return {part: _source(rows, Path(root), names, f"{name}: {part}") for part, rows in parts.items()}


def split_rows(path: str | os.PathLike[str]) -> tuple[dict[str, list[tuple[str, int, str]]], list[str]]:
    """What a split file of the prompt-learning papers lists, without a look at the images.

    Args:
        path (`str` or `os.PathLike`): The file, see `read_split`.

    Returns:
        The rows (path, label, name) by part, and the name of each label.

    Raises:
        `ClipAlignError`: if the file is no such file, or a label has two names or none.
    """
    name = Path(path).name
    try:
        content = read_json(Path(path), max_bytes=_MOST_BYTES)
    except OSError as error:
        raise ClipAlignError(f"cannot read the split file {short(os.fspath(path))}: {error.strerror}") from None
    parts = {part: _rows(content[part], f"{name}: {part}") for part in PARTS if content.get(part)}
    if not parts:
        raise ClipAlignError(f"{name}: no images; a split file has lists {', '.join(PARTS)} of [path, label, name]")
    return parts, _class_names([row for rows in parts.values() for row in rows], name)


def published_few_shot(source: ImageSource, k: int, seed: int = 1) -> ImageSource:
    """Draws k images of every class as the prompt-learning papers do, for the same images by the same seed.

    Python's `random`, seeded once, draws class after class in the order in which classes first appear; a class with
    fewer images gives all (the data loading of CoOp and its successors). So the draw depends on the order of the
    images, and base classes are to be chosen AFTER it. The papers' seeds are 1, 2 and 3.

    Args:
        source (`ImageSource`): Labelled images, in the order of the split file.
        k (`int`): Images per class, 1 or more; the papers use 16.
        seed (`int`, defaults to 1): Of the draw.

    Returns:
        `ImageSource`: class after class, in the order of the draw.

    Raises:
        `ClipAlignError`: if there are no labels, or k is below 1.

    Example:
        ```python
        >>> from hf_clipalign.data import ImageSource, published_few_shot
        >>> source = ImageSource([b""] * 5, ids=list("abcde"), labels=["cat", "dog", "cat", "dog", "cat"])
        >>> published_few_shot(source, k=2, seed=1).ids
        ['a', 'e', 'd', 'b']
        ```
    """
    if source.labels is None:
        raise ClipAlignError(f"{source.name}: the images have no labels; give a source with classes")
    return take(source, published_few_shot_rows(source.labels, k, seed))


def published_few_shot_rows(labels: Any, k: int, seed: int = 1) -> list[int]:
    """The rows that `published_few_shot` draws.

    Args:
        labels (array `[N]`): Class numbers.
        k (`int`): Rows per class.
        seed (`int`, defaults to 1): See `published_few_shot`.

    Returns:
        `list[int]`: rows, class after class.

    Example:
        ```python
        >>> from hf_clipalign.data import published_few_shot_rows
        >>> published_few_shot_rows([1, 0, 1, 0, 1], k=2, seed=1)
        [0, 4, 3, 1]
        ```
    """
    if k < 1:
        raise ClipAlignError(f"{k} images per class cannot be drawn; give 1 or more")
    labels, _ = class_labels(labels, None, "labels")
    members: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(row)
    generator = random.Random(seed)
    return [row for rows in members.values() for row in (generator.sample(rows, k) if len(rows) >= k else rows)]


def _rows(rows: Any, name: str) -> list[tuple[str, int, str]]:
    checked = []
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        fits = isinstance(row, list) and len(row) == 3 and [type(value) for value in row] == [str, int, str]
        if not fits or row[1] < 0:
            raise ClipAlignError(f"{name}: entry {number} (from 0) is {short(row)}, not [path, label, name]")
        checked.append((row[0], row[1], row[2]))
    return checked


def _class_names(rows: list[tuple[str, int, str]], name: str) -> list[str]:
    names: dict[int, str] = {}
    for _, label, text in rows:
        if names.setdefault(label, text) != text:
            raise ClipAlignError(f"{name}: label {label} is {short(names[label])} and {short(text)}")
    missing = next((label for label in range(len(names)) if label not in names), None)
    if missing is not None:
        raise ClipAlignError(f"{name}: no image has label {missing}, though labels go up to {max(names)}")
    return [names[label] for label in range(len(names))]


def _source(rows: list[tuple[str, int, str]], root: Path, names: list[str], name: str) -> ImageSource:
    for path, _, _ in rows:
        parts = path.replace("\\", "/").split("/")
        if os.path.isabs(path) or ".." in parts:
            raise ClipAlignError(f"{name}: the path {short(path)} leads out of the folder of images")
        if not (root / path).is_file():
            raise ClipAlignError(
                f"{name}: {short(path)} is not in {short(os.fspath(root))}: give the folder that the paths start from"
            )
    labels = np.array([label for _, label, _ in rows], dtype=np.int64)
    items = [os.fspath(root / path) for path, _, _ in rows]
    return ImageSource(items, ids=[path for path, _, _ in rows], labels=labels, class_names=names, name=name)
