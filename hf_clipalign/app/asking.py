"""What a user asks: a line of words and names, an image that was dropped, or an image of the collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.serving.uploads import Uploads
from hf_clipalign.app.workspace import View, Workspace
from hf_clipalign.search.answers.vectors import unit_vector
from hf_clipalign.search.heads import RAW
from hf_clipalign.search.query import Part, Query

FILE = "file:"
"""Beginning of the token of an image of the collection; its number follows."""


@dataclass(frozen=True)
class Asked:
    """A query that can be compared with the images.

    Attributes:
        text (`str`): as it was understood.
        images (`list[tuple[float, np.ndarray [w]]]`): weights and features of a query of images alone, else empty.
        vector (`np.ndarray [d]`): unit vector in the space of the raw head.
        rows (`list[int]`): images of the collection that are part of it, which do not find themselves.
        is_single (`bool`): one image, so that its scores have a confidence.
    """

    text: str
    images: list[tuple[float, NDArray[np.float32]]]
    vector: NDArray[np.float32]
    rows: list[int]
    is_single: bool

    @property
    def is_visual(self) -> bool:
        """Whether the aligned head can answer."""
        return bool(self.images)


def ask(workspace: Workspace, uploads: Uploads, line: str, token: str) -> Asked:
    """Reads a query; files outside the collection are never opened.

    Args:
        workspace (`Workspace`): where to look.
        uploads (`Uploads`): images that were given.
        line (`str`): one line, as `Query.parse` reads it; may be empty beside an image.
        token (`str`): of an upload, or of a file of the collection; empty for none.

    Raises:
        `ClipAlignError`: nothing is asked, a name is not in the collection, a text is longer than the model reads, or
            the parts cancel one another.
    """
    view = workspace.view
    images = [_given(view, uploads, token)] if token else []
    written = [image.part for image in images]
    for part in Query.parse(line, view.files).parts if line.strip() or not images else ():
        if part.kind == "image":
            images.append(_named(view, part))
        written.append(images[-1].part if part.kind == "image" else part)
    words = [part for part in written if part.kind == "words"]
    query = Query(tuple(written))
    summands: list[tuple[float, NDArray[np.float32]]] = []
    matrix = view.index.projector(RAW, "image")
    for image in images:
        summands.append((image.part.weight, unit_vector(matrix @ image.features, query)))
    if words:
        vectors = workspace.encode_texts([part.value for part in words])
        summands += [(part.weight, vector) for part, vector in zip(words, vectors, strict=True)]
    total = np.sum([weight * vector.astype(np.float64) for weight, vector in summands], axis=0)
    return Asked(
        text=str(query),
        images=[] if words else [(image.part.weight, image.features) for image in images],
        vector=unit_vector(total, query),
        rows=[image.row for image in images if image.row is not None],
        is_single=query.is_single and not words,
    )


@dataclass(frozen=True)
class _Image:
    """An image of a query: what it is called, its features, and its row if the collection has it."""

    part: Part
    features: NDArray[np.float32]
    row: int | None


def _given(view: View, uploads: Uploads, token: str) -> _Image:
    if not token.startswith(FILE):
        upload = uploads.get(token)
        return _Image(Part("image", upload.name), upload.features, None)
    number = token.removeprefix(FILE)
    if not number.isascii() or not number.isdigit() or int(number) >= len(view.files):
        raise ClipAlignError(f"no file {short(number)}: the collection has {len(view.files):,}.")
    return _of_collection(view, int(number), 1.0)


def _named(view: View, part: Part) -> _Image:
    number = view.files.find(str(part.value))
    if number is None:
        raise ClipAlignError(
            f"no image {short(str(part.value))} in this collection: give its name below the folder, drop the image, "
            "or put the words into quotation marks."
        )
    return _of_collection(view, number, part.weight)


def _of_collection(view: View, number: int, weight: float) -> _Image:
    row = int(view.files.images[number])
    features = view.plain.features.take(np.array([row], np.int64))[0]
    return _Image(Part("image", view.files.names[number], weight), features, row)


def joined(names: Sequence[str], most: int = 3) -> str:
    """The first names of several, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
