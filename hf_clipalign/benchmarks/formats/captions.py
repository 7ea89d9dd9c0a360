"""Captions: Karpathy's split files, COCO's annotations, and Flickr30k's lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.formats.listing import Place, json_file
from hf_clipalign.data import Captions, load_captions
from hf_clipalign.data.labels.label_files import checked_path

_MOST_BYTES = 2**28
_SPLITS = {"images": [{"filename": str, "split": str, "filepath?": str}]}


def read_captions(place: Place) -> dict[str, Captions]:
    """One file of captions per part, in a form that `hf_clipalign.data.load_captions` reads.

    Args:
        place (`Place`): with one file per part.
    """
    found = {part: load_captions(place.file(part)) for part in place.layout.files}
    for part, captions in found.items():
        _check_names(captions.image_ids, place.file(part))
    return found


def read_karpathy(place: Place) -> dict[str, Captions]:
    """Karpathy's `dataset_*.json`: `images` with `filename`, `split` and `sentences`.

    Args:
        place (`Place`): with the file `captions`.
    """
    path = place.file("captions")
    content = json_file(path, _SPLITS, _MOST_BYTES)
    images = content["images"]
    _check_names(["/".join(filter(None, (image.get("filepath"), image["filename"]))) for image in images], path)
    splits = {image["filename"]: image["split"] for image in images}
    if len(splits) < len(images):
        raise ClipAlignError(f"{path}: {len(images) - len(splits)} file names are listed twice: replace it")
    captions = load_captions(path)
    return {part: _of_split(captions, splits, part) for part in dict.fromkeys(splits.values())}


def first_caption(captions: Captions) -> tuple[Captions, Captions]:
    """The first caption of each image, and the others: the papers' queries and gallery.

    Args:
        captions (`Captions`): several for each image.

    Raises:
        `ClipAlignError`: no image has a second caption.

    Example:
        ```python
        >>> from hf_clipalign.data import load_captions
        >>> query, gallery = first_caption(load_captions("captions.csv"))
        >>> query.texts, gallery.texts
        (['a cat', 'a dog'], ['a red cat'])
        ```
    """
    _, first = np.unique(captions.labels, return_index=True)
    others = np.setdiff1d(np.arange(len(captions)), first)
    if not len(others):
        raise ClipAlignError("no image has two captions: there is nothing to search with the first of each")
    return _rows(captions, np.sort(first)), _rows(captions, others)


def _of_split(captions: Captions, splits: dict[str, str], part: str) -> Captions:
    wanted = np.array([splits[name] == part for name in captions.image_ids])
    chosen = _rows(captions, np.flatnonzero(wanted[captions.labels]))
    used, labels = np.unique(chosen.labels, return_inverse=True)
    return Captions(chosen.texts, labels, [captions.image_ids[number] for number in used])


def _rows(captions: Captions, rows: np.ndarray) -> Captions:
    return Captions([captions.texts[row] for row in rows], captions.labels[rows], captions.image_ids)


def _check_names(names: Iterable[str], path: Path) -> None:
    for number, name in enumerate(names):
        checked_path(name, number, str(path))
        if not name.strip():
            raise ClipAlignError(f"{path}: image {number} (from 0) is called {short(name)}: replace the file")
