"""Queries as unit vectors in the space of the head that can answer them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import short
from hf_clipalign._checks.suggestions import nearest
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.answers.collection import Collection
from hf_clipalign.search.answers.texts import embedded_texts
from hf_clipalign.search.heads import ALIGNED, RAW
from hf_clipalign.search.query import Part, Query, is_image_name

_BATCH = 64
_MOST_COMPARED, _MOST_LETTERS = 5_000, 3
"""Names that are compared with a misspelt one, and how many letters they may have more or fewer."""
_NOTHING_LEFT = 1e-4
"""A sum of unit vectors that is shorter than this is rounding."""


@dataclass
class AskedQuery:
    """A query that can be compared with the images.

    Attributes:
        query (`Query`): what was asked.
        head (`str`): the head that answers.
        vector (`np.ndarray [k]`): unit length.
        rows (`list[int]`): images of the collection that are part of the query.
    """

    query: Query
    head: str
    vector: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    rows: list[int] = field(default_factory=list)


def ask(collection: Collection, queries: Sequence[Query]) -> list[AskedQuery]:
    """Finds or embeds the parts of all queries and adds them up.

    The texts of all queries go through the model together, images in batches; an image of the collection needs no
    model. Queries of images alone are answered by the head for images, if the collection has one, all others by the
    base model's heads, which are the only ones that compare an image with a text.

    Args:
        collection (`Collection`): where to look.
        queries (`Sequence[Query]`): what for.

    Returns:
        `list[AskedQuery]`: one for each.

    Raises:
        `ClipAlignError`: an image cannot be read, a text is longer than the model reads, or the parts of a query
            cancel one another.
    """
    parts = [part for query in queries for part in query.parts]
    texts = list(dict.fromkeys(part.value for part in parts if part.kind == "words"))
    text_vectors = dict(zip(texts, embedded_texts(collection, texts), strict=True))
    rows = {id(part): _row(collection, part) for part in parts if part.kind == "image"}
    outside = [part for part in parts if part.kind == "image" and rows[id(part)] is None]
    image_features: dict[int, NDArray[np.float32]] = {}
    for start in range(0, len(outside), _BATCH):
        batch = outside[start : start + _BATCH]
        features = collection.encode_images([_read(part) for part in batch])
        image_features |= {id(part): feature for part, feature in zip(batch, features, strict=True)}
    asked = []
    for query in queries:
        head = ALIGNED if query.is_visual and ALIGNED in collection.heads else RAW
        total: Any = 0
        for part in query.parts:
            if part.kind == "words":
                vector = text_vectors[part.value]
            elif (row := rows[id(part)]) is not None:
                vector = collection.embeddings(head).take(np.array([row], np.int64))[0]
            else:
                vector = unit_vector(image_features[id(part)] @ collection.projector(head, "image").T, query)
            total = total + part.weight * np.asarray(vector, np.float64)
        own = [row for part in query.parts if part.kind == "image" and (row := rows[id(part)]) is not None]
        asked.append(AskedQuery(query, head, unit_vector(total / sum(abs(p.weight) for p in query.parts), query), own))
    return asked


def unit_vector(vector: NDArray[Any], query: Query) -> NDArray[np.float32]:
    """A sum of the parts of a query, scaled to unit length.

    Raises:
        `ClipAlignError`: nothing is left of it.
    """
    length = float(np.linalg.norm(vector))
    if not length > _NOTHING_LEFT:
        raise ClipAlignError(f"the parts of the query {query} cancel one another: nothing is left to look for.")
    return (vector / length).astype(np.float32)


def _row(collection: Collection, part: Part) -> int | None:
    """The image of the collection that a path names, unless the file was changed since."""
    if not isinstance(part.value, (str, os.PathLike)):
        return None
    path = os.path.expanduser(os.fspath(part.value))
    files = collection.files
    on_disk = os.path.exists(path)
    number = files.find(os.path.abspath(path)) if on_disk else files.find(path)
    if number is None:
        if not on_disk:
            close = nearest_file(path, files.names)
            hint = f"did you mean {short(close)}? Or" if close else "check the name, or"
            raise ClipAlignError(
                f"no file {short(os.fspath(part.value))}, neither in the index nor on the disk: {hint} put it in "
                "quotation marks to search for the words."
            )
        return None
    is_changed = on_disk and os.path.getsize(path) != files.sizes[number]
    return None if is_changed else int(files.images[number])


def nearest_file(path: str, names: Sequence[str]) -> str | None:
    """The file that a missing one was probably meant to be.

    Args:
        path (`str`): what is missing.
        names (`Sequence[str]`): of the collection; one of the same name in another folder is the first choice, then an
            image beside the path, then one of the collection that is spelled alike.
    """
    folder, name = os.path.split(path)
    elsewhere = next((one for one in names if one.rpartition("/")[2] == name), None)
    if elsewhere is not None:
        return elsewhere
    beside: list[str] = []
    with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
        beside = sorted(entry.name for entry in entries if is_image_name(entry.name))
    if (close := nearest(name, beside[:_MOST_COMPARED])) is not None:
        return os.path.join(folder, close)
    known = ((one.rpartition("/")[2], one) for one in names)
    alike = (pair for pair in known if pair[0][:1] == name[:1] and abs(len(pair[0]) - len(name)) <= _MOST_LETTERS)
    found = list(itertools.islice(alike, _MOST_COMPARED))
    compared = dict(
        sorted(found, key=lambda pair: os.path.dirname(pair[1]) == folder)
    )  # the last one of a name counts
    return None if (close := nearest(name, compared)) is None else compared[close]


def _read(part: Part) -> Any:
    from hf_clipalign.data.images.reader import read_image

    return read_image(os.path.expanduser(part.value) if isinstance(part.value, (str, os.PathLike)) else part.value)
