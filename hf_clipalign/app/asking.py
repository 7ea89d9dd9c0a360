"""What a user asks: a line of words and names, an image that was dropped, or an image of the collection."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.serving.uploads import Uploads
from hf_clipalign.app.view import View
from hf_clipalign.app.workspace import Workspace
from hf_clipalign.search.answers.vectors import unit_vector
from hf_clipalign.search.heads import RAW
from hf_clipalign.search.query import Part, Query

FILE = re.compile(r"file:([0-9]{1,18})\.([0-9]{1,18})")
"""The token of an image of the collection: the generation of the page that shows it, and its number there."""


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


def ask(workspace: Workspace, uploads: Uploads, line: str, token: str, view: View | None = None) -> Asked:
    """Reads a query; files outside the collection are never opened.

    Args:
        workspace (`Workspace`): where to look.
        uploads (`Uploads`): images that were given.
        line (`str`): one line, as `Query.parse` reads it; may be empty beside an image.
        token (`str`): of an upload, or of a file of the collection; empty for none.
        view (`View`, *optional*): the state of the collection. Default: the newest.

    Raises:
        `ClipAlignError`: nothing is asked, a name is not in the collection, a text is longer than the model reads, or
            the parts cancel one another.
    """
    view = workspace.view if view is None else view
    images = [_given(workspace, view, uploads, token)] if token else []
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


def _given(workspace: Workspace, view: View, uploads: Uploads, token: str) -> _Image:
    if not token.startswith("file:"):
        upload = uploads.get(token)
        return _Image(Part("image", upload.name), upload.features, None)
    found = FILE.fullmatch(token)
    if found is None:
        raise ClipAlignError(f"no file {short(token)}: choose one that is shown.")
    files, number = workspace.shown_files(int(found[1])), int(found[2])
    if number >= len(files):
        raise ClipAlignError(f"no file {number}: the collection has {len(files):,}.")
    now = number if files is view.files else view.files.find(files.path(number))
    if now is None:
        raise ClipAlignError(f"{short(files.names[number])} is no longer in the collection: choose another image.")
    return _of_collection(view, now, 1.0)


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
