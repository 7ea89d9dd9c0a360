"""What is in a folder: the concepts that tell its images apart, and clusters that they name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.workspace import View, Workspace
from hf_clipalign.search.rows import Rows, block_ranges

Report = Callable[[float, str], None]
"""Called with a share from 0 to 1 and what is being done."""

_TEMPERATURE = 0.01
_AT_ONCE = 256
_SEED = 0


@dataclass(frozen=True)
class Concept:
    """A concept, its share of the importance, and the images that show it best."""

    name: str
    share: float
    rows: list[int]


@dataclass(frozen=True)
class Cluster:
    """Images that belong together, the words that set them apart, and the ones nearest to their middle."""

    names: list[str]
    size: int
    rows: list[int]


@dataclass(frozen=True)
class FolderReport:
    """What is in a folder.

    Attributes:
        concepts (`list[Concept]`): the most important first.
        clusters (`list[Cluster]`): the largest first.
        note (`str`): why the answer is none; empty if it is one.
    """

    concepts: list[Concept]
    clusters: list[Cluster]
    note: str = ""


@dataclass
class Concepts:
    """Finds what is in a collection; the words that were embedded last are kept.

    Args:
        workspace (`Workspace`): the collection.
    """

    workspace: Workspace
    _texts: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(
        self, names: Sequence[str], n_clusters: int, shown: int, per_row: int, say: Report = lambda share, text: None
    ) -> FolderReport:
        """The concepts of a list that tell the images apart (spectral filtering), and clusters named by them.

        Args:
            names (`Sequence[str]`): the list.
            n_clusters (`int`): at most so many; 0 for none.
            shown (`int`): how many concepts.
            per_row (`int`): how many images of each.
            say (`Callable`, *optional*): receives how far it is.

        Raises:
            `ClipAlignError`: fewer than two names or images, or all images look alike.
        """
        import torch

        from hf_clipalign.evaluation import strongest_images
        from hf_clipalign.gcd import concept_contrast, spectral_filter

        view = self.workspace.view
        if len(view) < 2:
            raise ClipAlignError("there is one image: concepts that tell images apart need at least two.")
        texts = torch.from_numpy(self._embedded(names, say))
        say(0.7, "comparing the images with the words")
        result = spectral_filter(_tensors(view.plain), texts, names, temperature=_TEMPERATURE)
        contrast = concept_contrast(_tensors(view.plain), texts, names, _TEMPERATURE)
        if contrast.is_flat:
            return FolderReport([], [], _flat(contrast))
        chosen = result.retained[:shown]
        rows = strongest_images(_tensors(view.plain), texts, chosen, per_row, _TEMPERATURE).tolist()
        concepts = [
            Concept(names[index], float(share), best)
            for index, share, best in zip(chosen, result.shares, rows, strict=False)
        ]
        say(0.9, "grouping the images")
        kept = texts[torch.from_numpy(result.retained.copy())].numpy()
        words = [names[index] for index in result.retained]
        return FolderReport(concepts, clusters(view, kept, words, n_clusters, per_row) if n_clusters else [])

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


def clusters(
    view: View, texts: NDArray[np.float32], words: Sequence[str], n_clusters: int, per_row: int
) -> list[Cluster]:
    """Groups of images by k-means on the embeddings of the head for images, named by what sets them apart.

    Args:
        view (`View`): the collection.
        texts (`np.ndarray [C, d]`): unit embeddings of the words under the raw head.
        words (`Sequence[str]`): C of them.
        n_clusters (`int`): at most so many.
        per_row (`int`): how many images of each.
    """
    from sklearn.cluster import MiniBatchKMeans

    embeddings = view.index.embeddings(view.index.heads[-1])
    values = np.concatenate([embeddings.read(*block) for block in block_ranges(embeddings)])
    count = min(n_clusters, len(values))
    means = MiniBatchKMeans(count, random_state=_SEED, n_init=3, batch_size=2048).fit(values)
    labels, distances = means.labels_, np.linalg.norm(values - means.cluster_centers_[means.labels_], axis=1)
    shares = _mean_shares(view.plain, texts, labels, count)
    unusual = shares - np.average(shares, axis=0, weights=np.maximum(np.bincount(labels, minlength=count), 1e-9))
    found = []
    for cluster in np.argsort(-np.bincount(labels, minlength=count), kind="stable"):
        rows = np.flatnonzero(labels == cluster)
        if len(rows):
            nearest = rows[np.argsort(distances[rows], kind="stable")][:per_row].tolist()
            names = [words[index] for index in np.argsort(-unusual[cluster], kind="stable")[:3]]
            found.append(Cluster(names, len(rows), nearest))
    return found


def _mean_shares(rows: Rows, texts: NDArray[np.float32], labels: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """The mean distribution over the words in each cluster, `[K, C]`."""
    sums = np.zeros((count, len(texts)))
    for start, stop in block_ranges(rows, rows.width + len(texts)):
        logits = rows.read(start, stop) @ texts.T / _TEMPERATURE
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        np.add.at(sums, labels[start:stop], shares)
    return sums / np.maximum(np.bincount(labels, minlength=count), 1)[:, None]


def _tensors(rows: Rows) -> Iterator[Any]:
    import torch

    return (torch.from_numpy(rows.read(*block)) for block in block_ranges(rows))


def _flat(contrast: Any) -> str:
    return (
        "No answer: the model sees nearly the same in all images (from image to image a concept's similarity varies "
        f"{contrast.ratio:.2f} times as much as from concept to concept). If the images are not all of one kind, the "
        "model does not know such images: take one that was trained on such images, or words that suit them."
    )
