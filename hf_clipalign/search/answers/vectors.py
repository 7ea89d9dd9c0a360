"""Queries as unit vectors in the space of the head that can answer them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
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
        problem (`str`): why there is no vector; empty if there is one.
    """

    query: Query
    head: str
    vector: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    rows: list[int] = field(default_factory=list)
    problem: str = ""


def ask(collection: Collection, queries: Sequence[Query], strict: bool = True) -> list[AskedQuery]:
    """Finds or embeds the parts of all queries and adds them up.

    The texts of all queries go through the model together, images in batches; an image of the collection needs no
    model. Queries of images alone are answered by the head for images, if the collection has one, all others by the
    base model's heads, which are the only ones that compare an image with a text.

    Args:
        collection (`Collection`): where to look.
        queries (`Sequence[Query]`): what for.
        strict (`bool`, *optional*, defaults to `True`): raise for an image that cannot be read and for parts that
            cancel one another; else the query has a `problem`.

    Returns:
        `list[AskedQuery]`: one for each.

    Raises:
        `ClipAlignError`: an image cannot be read, a text is longer than the model reads, or the parts of a query
            cancel one another.
    """
    parts = [part for query in queries for part in query.parts]
    texts = list(dict.fromkeys(part.value for part in parts if part.kind == "words"))
    text_vectors = dict(zip(texts, embedded_texts(collection, texts), strict=True))
    images = _Images(collection, [part for part in parts if part.kind == "image"], strict)
    asked = []
    for query in queries:
        head = ALIGNED if query.is_visual and ALIGNED in collection.heads else RAW
        one = AskedQuery(query, head, problem=images.problem(query))
        asked.append(one)
        if one.problem:
            continue
        try:
            total: Any = 0
            for part in query.parts:
                vector = text_vectors[part.value] if part.kind == "words" else images.vector(part, head, query)
                total = total + part.weight * np.asarray(vector, np.float64)
            one.vector = unit_vector(total / sum(abs(part.weight) for part in query.parts), query)
        except ClipAlignError as error:
            if strict:
                raise
            one.problem = str(error)
        one.rows = [images.rows[id(part)] for part in query.parts if id(part) in images.rows]
    return asked


class _Images:
    """The images of queries: found in the collection, embedded, or with what is wrong with them."""

    def __init__(self, collection: Collection, parts: Sequence[Part], strict: bool) -> None:
        self.collection, self.strict = collection, strict
        self.rows: dict[int, int] = {}
        self.features: dict[int, NDArray[np.float32]] = {}
        self.problems: dict[int, str] = {}
        outside = []
        for part in parts:
            with self._noted(part):
                if (row := _row(collection, part)) is None:
                    outside.append(part)
                else:
                    self.rows[id(part)] = row
        for start in range(0, len(outside), _BATCH):
            self._embed(outside[start : start + _BATCH])

    def _embed(self, parts: Sequence[Part]) -> None:
        read: dict[int, Any] = {}
        for part in parts:
            with self._noted(part):
                read[id(part)] = _read(part)
        if read:
            features = self.collection.encode_images(list(read.values()))
            self.features |= dict(zip(read, features, strict=True))

    @contextlib.contextmanager
    def _noted(self, part: Part) -> Iterator[None]:
        try:
            yield
        except ClipAlignError as error:
            if self.strict:
                raise
            self.problems[id(part)] = f"cannot be read: {error}"

    def problem(self, query: Query) -> str:
        """What is wrong with the first image of a query that cannot be read."""
        return next((self.problems[id(part)] for part in query.parts if id(part) in self.problems), "")

    def vector(self, part: Part, head: str, query: Query) -> NDArray[np.float32]:
        """The unit embedding of an image in the space of a head."""
        if (row := self.rows.get(id(part))) is not None:
            return self.collection.embeddings(head).take(np.array([row], np.int64))[0]
        return unit_vector(self.features[id(part)] @ self.collection.projector(head, "image").T, query)


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
            raise ClipAlignError(
                f"no file {short(os.fspath(part.value))}, neither in the index nor on the disk: "
                f"{_advice(nearest_file(path, files.names), isinstance(part.value, str))}"
            )
        return None
    is_changed = on_disk and os.path.getsize(path) != files.sizes[number]
    return None if is_changed else int(files.images[number])


def _advice(close: str | None, may_be_words: bool) -> str:
    """What to do about a file that is missing; a path object was never meant as words."""
    if not may_be_words:
        return f"did you mean {short(close)}?" if close else "check the name."
    hint = f"did you mean {short(close)}? Or" if close else "check the name, or"
    return f"{hint} put it in quotation marks to search for the words."


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
