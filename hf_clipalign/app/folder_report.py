"""What is in a folder: the concepts that tell its images apart, and clusters that they name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.clusters import TEMPERATURE, Cluster, Report, clusters
from hf_clipalign.app.discovery import Discovery
from hf_clipalign.app.view import View
from hf_clipalign.app.workspace import Workspace
from hf_clipalign.search.rows import Rows, block_ranges

_AT_ONCE = 256


@dataclass(frozen=True)
class Concept:
    """A concept, its share of the importance, and the images that show it best."""

    name: str
    share: float
    rows: list[int]


@dataclass(frozen=True)
class FolderReport:
    """What is in a folder.

    Attributes:
        concepts (`list[Concept]`): the most important first.
        clusters (`list[Cluster]`): the largest first.
        note (`str`): why there are no concepts; empty if there are.
    """

    concepts: list[Concept]
    clusters: list[Cluster]
    note: str = ""


@dataclass
class Concepts:
    """Finds what is in a collection; the words that were embedded last are kept.

    Args:
        workspace (`Workspace`): the collection.
        discovery (`Discovery`, *optional*): gives the groups of images and their names. Default: k-means, and the
            words that set a group apart.
    """

    workspace: Workspace
    discovery: Discovery | None = None
    _texts: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(
        self,
        names: Sequence[str],
        n_clusters: int,
        shown: int,
        per_row: int,
        say: Report = lambda share, text: None,
        view: View | None = None,
    ) -> FolderReport:
        """The concepts of a list that tell the images apart (spectral filtering), and groups of images with names.

        Args:
            names (`Sequence[str]`): the list.
            n_clusters (`int`): at most so many groups by k-means; 0 for none.
            shown (`int`): how many concepts.
            per_row (`int`): how many images of each.
            say (`Callable`, *optional*): receives how far it is.
            view (`View`, *optional*): the state of the collection. Default: the newest.

        Raises:
            `ClipAlignError`: fewer than two names or images.
        """
        import torch

        from hf_clipalign.evaluation import strongest_images
        from hf_clipalign.gcd import concept_contrast, spectral_filter

        view = self.workspace.view if view is None else view
        if len(view) < 2:
            raise ClipAlignError("there is one image: concepts that tell images apart need at least two.")
        sorted_by_model = [] if self.discovery is None else self.discovery.clusters(view, _part(say, 0.0, 0.5))
        say_words = say if self.discovery is None else _part(say, 0.5, 1.0)
        texts = torch.from_numpy(self._embedded(names, say_words))
        say_words(0.7, "comparing the images with the words")
        result = spectral_filter(_tensors(view.plain), texts, names, temperature=TEMPERATURE)
        contrast = concept_contrast(_tensors(view.plain), texts, names, TEMPERATURE)
        if contrast.is_flat:
            return FolderReport([], sorted_by_model, _flat(contrast))
        chosen = result.retained[:shown]
        rows = strongest_images(_tensors(view.plain), texts, chosen, per_row, TEMPERATURE).tolist()
        concepts = [
            Concept(names[index], float(share), best)
            for index, share, best in zip(chosen, result.shares, rows, strict=False)
        ]
        if self.discovery is not None or not n_clusters:
            return FolderReport(concepts, sorted_by_model)
        say_words(0.9, "grouping the images")
        kept = texts[torch.from_numpy(result.retained.copy())].numpy()
        words = [names[index] for index in result.retained]
        return FolderReport(concepts, clusters(view, kept, words, n_clusters))

    def _embedded(self, names: Sequence[str], say: Report) -> NDArray[np.float32]:
        from hf_clipalign.data import fill

        key = hashlib.blake2b("\n".join(names).encode()).hexdigest()
        with self._lock:
            if key in self._texts:
                return self._texts[key]
            prompts = fill(self.workspace.template, list(names))
            parts = []
            for start in range(0, len(prompts), _AT_ONCE):
                say(0.65 * start / len(prompts), f"embedding words: {start:,} of {len(prompts):,}")
                parts.append(self.workspace.encode_texts(prompts[start : start + _AT_ONCE]))
            self._texts = {key: np.concatenate(parts)}
            return self._texts[key]


def _part(say: Report, start: float, stop: float) -> Report:
    """What receives how far a part of the work is."""
    return lambda share, text: say(start + (stop - start) * share, text)


def _tensors(rows: Rows) -> Iterator[Any]:
    import torch

    return (torch.from_numpy(rows.read(*block)) for block in block_ranges(rows))


def _flat(contrast: Any) -> str:
    return (
        "No answer: the model sees nearly the same in all images (from image to image a concept's similarity varies "
        f"{contrast.ratio:.2f} times as much as from concept to concept). If the images are not all of one kind, the "
        "model does not know such images: take one that was trained on such images, or words that suit them."
    )
