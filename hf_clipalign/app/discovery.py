"""The classes of a SpectralGCD model in a collection: known ones, and those that it found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.clusters import Cluster, Report
from hf_clipalign.app.view import View

_BATCH = 64

_Facts = tuple[str, int, float]
"""Path, size and time of a file: what a class is kept by."""


class _Class(NamedTuple):
    """The class of an image and its probability; -1 for an image that cannot be read."""

    number: int
    probability: float


class Discovery:
    """Sorts collections into the classes of a model.

    The images are read again, as the model has an image tower of its own.

    Args:
        model (`SpectralGCDModel`): what `clipalign discover` or `SpectralGCDTrainer` saved.
        name (`str`): what the page calls it.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        self._labels: list[str] = model.class_labels()
        self._known: dict[_Facts, _Class] = {}
        self._lock = threading.Lock()

    def clusters(self, view: View, say: Report) -> list[Cluster]:
        """The classes that images of a collection are in, the largest first; of each class the surest images first.

        What is known of a file is kept until it changes.

        Args:
            view (`View`): the collection.
            say (`Callable`): receives how far it is, from 0 to 1.

        Raises:
            `ClipAlignError`: no image can be read.
        """
        with self._lock:  # a second user gets what the first one waited for
            classes = self._classes(view, say)
        indices = np.array([one.number for one in classes])
        values = np.array([one.probability for one in classes])
        if not np.any(indices >= 0):
            raise ClipAlignError("none of the images can be read again: are their folders there?")
        n_known = len(self.model.config.class_names)
        found = []
        for index in np.unique(indices[indices >= 0]).tolist():
            rows = np.flatnonzero(indices == index)
            rows = rows[np.argsort(-values[rows], kind="stable")]
            kind = "a known class of the model" if index < n_known else "a class that the model found"
            found.append(Cluster([self._labels[index]], rows, values[rows], kind))
        return sorted(found, key=lambda one: -one.size)

    def _classes(self, view: View, say: Report) -> list[_Class]:
        """The class of each row."""
        first = [view.files_of(row)[0] for row in range(len(view))]
        facts = [(view.files.path(i), int(view.files.sizes[i]), float(view.files.modified[i])) for i in first]
        unknown = [one for one in facts if one not in self._known]
        for start in range(0, len(unknown), _BATCH):
            say(start / len(unknown), f"sorting images: {start:,} of {len(unknown):,}")
            self._known.update(self._predicted(unknown[start : start + _BATCH]))
        classes = [self._known[one] for one in facts]
        self._known = {one: found for one, found in zip(facts, classes, strict=True) if found.number >= 0}
        return classes

    def _predicted(self, files: list[_Facts]) -> Iterator[tuple[_Facts, _Class]]:
        from hf_clipalign.data import read_image

        images = []
        for facts in files:
            try:
                images.append((facts, read_image(facts[0])))
            except ClipAlignError:
                yield facts, _Class(-1, 0.0)
        if images:
            found = self.model.predict([image for _, image in images], n_concepts=0, batch_size=_BATCH)
            for (facts, _), one in zip(images, found, strict=True):
                yield facts, _Class(one.index, one.probability)
