"""Groups of images that belong together, named by the words that set them apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.app.view import View
from hf_clipalign.search.rows import Rows, block_ranges

Report = Callable[[float, str], None]
"""Called with a share from 0 to 1 and what is being done."""

TEMPERATURE = 0.01
_SEED = 0


@dataclass(frozen=True)
class Cluster:
    """Images that belong together.

    Attributes:
        names (`list[str]`): what sets them apart, the strongest first.
        rows (`np.ndarray [n]`): the most typical first.
        probabilities (`np.ndarray [n]`, *optional*): how sure a model is of each.
        kind (`str`): where the name comes from; empty if there is nothing to say.
    """

    names: list[str]
    rows: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None = None
    kind: str = ""

    @property
    def size(self) -> int:
        """How many images there are."""
        return len(self.rows)


def clusters(view: View, texts: NDArray[np.float32], words: Sequence[str], n_clusters: int) -> list[Cluster]:
    """Groups of images by k-means on the embeddings of the head for images, named by what sets them apart.

    Args:
        view (`View`): the collection.
        texts (`np.ndarray [C, d]`): unit embeddings of the words under the raw head.
        words (`Sequence[str]`): C of them.
        n_clusters (`int`): at most so many.

    Returns:
        `list[Cluster]`: the largest first.
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
            names = [words[index] for index in np.argsort(-unusual[cluster], kind="stable")[:3]]
            found.append(Cluster(names, rows[np.argsort(distances[rows], kind="stable")]))
    return found


def _mean_shares(rows: Rows, texts: NDArray[np.float32], labels: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """The mean distribution over the words in each cluster, `[K, C]`."""
    sums = np.zeros((count, len(texts)))
    for start, stop in block_ranges(rows, rows.width + len(texts)):
        logits = rows.read(start, stop) @ texts.T / TEMPERATURE
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        np.add.at(sums, labels[start:stop], shares)
    return sums / np.maximum(np.bincount(labels, minlength=count), 1)[:, None]
