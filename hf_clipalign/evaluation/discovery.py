"""What category discovery is compared with, and what it can be judged by where nobody knows the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.sequences import as_array
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics import cluster_balance, match_clusters

_N_INITIALISATIONS = 10
_MOST_STEPS = 100


def kmeans_classes(features: Tensor, n_classes: int, seed: int = 0) -> np.ndarray:
    """Clusters of unit features by k-means, the baseline that needs no training.

    Args:
        features (`Tensor [N, d]`): of all images; normalised by the caller.
        n_classes (`int`): how many clusters.
        seed (`int`, *optional*, defaults to `0`): of the ten initialisations.

    Returns:
        `np.ndarray [N]` of int64.

    Raises:
        `ClipAlignError`: more clusters than images.

    Example:
        ```python
        >>> kmeans_classes(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 2).shape
        (3,)
        ```
    """
    from sklearn.cluster import KMeans

    _check_clusters(n_classes, len(features))
    values = features.detach().cpu().float().numpy()
    return KMeans(n_classes, n_init=_N_INITIALISATIONS, random_state=seed).fit_predict(values).astype(np.int64)


def semi_supervised_kmeans(
    features: Tensor, labels: Any, n_classes: int, seed: int = 0, n_init: int = _N_INITIALISATIONS
) -> np.ndarray:
    """k-means in which labelled samples stay in the cluster of their class (Vaze et al., CVPR 2022, arXiv 2201.02609).

    The clusters of the known classes start at the means of their labelled samples, the others at samples drawn as in
    k-means++. In every step an unlabelled sample goes to the nearest centre, a labelled one to that of its class.

    Args:
        features (`Tensor [N, d]`): unit features of all samples.
        labels (integer array `[N]`): classes 0, 1, …; -1 for unlabelled samples.
        n_classes (`int`): how many clusters: known classes first, in their order.
        seed (`int`, *optional*, defaults to 0): of the initialisations.
        n_init (`int`, *optional*, defaults to 10): how many; that with the smallest distances is taken.

    Returns:
        `np.ndarray [N]` of int64; a labelled sample has its own class.

    Raises:
        `ClipAlignError`: more clusters than samples, fewer than known classes, or a class without a labelled sample.

    Example:
        ```python
        >>> semi_supervised_kmeans(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), [0, -1, -1], 2)
        array([0, 0, 1])
        ```
    """
    values = features.detach().cpu().double().numpy()
    labels = as_array(labels, "labels")
    if labels.shape != (len(values),):
        raise ClipAlignError(f"labels have the shape {labels.shape} for {len(values)} samples: give one for each")
    _check_clusters(n_classes, len(values))
    n_known = int(labels.max()) + 1
    if n_known > n_classes:
        raise ClipAlignError(f"{n_classes} clusters are fewer than the {n_known} known classes: ask for more")
    known = np.zeros((n_known, len(values)))
    rows = np.flatnonzero(labels >= 0)
    known[labels[rows], rows] = 1.0
    if not (known.sum(axis=1) > 0).all():
        raise ClipAlignError("a known class has no labelled sample: number the known classes from 0 without gaps")
    start = known @ values / known.sum(axis=1, keepdims=True)
    generator = np.random.default_rng(check_integer("seed", seed, 0))
    runs = [
        _semi_supervised(values, labels, start, n_classes, generator) for _ in range(check_integer("n_init", n_init))
    ]
    return min(runs, key=lambda run: run[0])[1]


def held_out_accuracy(labels: Any, classes: Any, visible: Any, held_out: Any) -> float:
    """Share of held-out labelled samples that a method puts into the class they have.

    The method's clusters are matched one to one with the known classes on the labelled samples that it may see
    (Hungarian method, see `match_clusters`); a held-out sample is right if its cluster is matched with its class. So
    the same is asked of a classifier and of k-means, and nothing of novel classes.

    Args:
        labels (array `[N]`): classes; those of visible and held-out samples are read.
        classes (array `[N]`): what the method says.
        visible (array of positions or bool `[N]`): the labelled samples it may see.
        held_out (array of positions): the labelled samples it may not.

    Returns:
        `float` in [0, 1]; NaN without held-out samples.

    Example:
        ```python
        >>> held_out_accuracy([0, 1, 0, 1], [5, 3, 5, 5], [0, 1], [2, 3])
        0.5
        ```
    """
    labels, classes, held_out = (
        as_array(labels, "labels"),
        as_array(classes, "classes"),
        as_array(held_out, "held_out"),
    )
    if not held_out.size:
        return float("nan")
    visible = as_array(visible, "visible")
    matched = match_clusters(labels[visible], classes[visible])
    return float(np.mean([matched.get(classes[row].item()) == labels[row] for row in held_out.astype(int)]))


def collapse(classes: Any, unlabelled: Any, n_known: int, n_novel: int) -> str | None:
    """What is wrong with classes that hold nearly all images in a few of them; None where nothing is.

    A result counts as collapsed if it is spread over no more classes than half of those that were looked for (by
    `effective` of `cluster_balance`, the exponential of the entropy), or if more than half of the novel classes have
    no unlabelled image. It needs no truth, and so cannot tell a collapse from images of which most are alike.

    Args:
        classes (integer array `[N]`): what a method says: known classes first.
        unlabelled (array of positions): the images without a label.
        n_known (`int`): known classes.
        n_novel (`int`): novel classes that were looked for.

    Returns:
        `str` or `None`: one sentence with the numbers.

    Example:
        ```python
        >>> collapse([0, 0, 0, 0], [2, 3], 1, 3)
        'all 4 images are spread as over 1.0 of 4 classes: 100 % lie in one, 3 are empty'
        ```
    """
    classes, n_classes = as_array(classes, "classes"), n_known + n_novel
    balance = cluster_balance(classes, n_classes)
    if balance["effective"] <= n_classes / 2:
        return (
            f"all {len(classes)} images are spread as over {balance['effective']:.1f} of {n_classes} classes: "
            f"{100 * balance['largest']:.0f} % lie in one, {balance['empty']} are empty"
        )
    found = np.unique(classes[as_array(unlabelled, "unlabelled").astype(int)])
    empty = n_novel - int((found >= n_known).sum())
    return f"{empty} of {n_novel} novel classes have no unlabelled image" if 2 * empty > n_novel else None


def _check_clusters(n_classes: int, n: int) -> None:
    if n_classes > n:
        raise ClipAlignError(f"{n_classes} clusters cannot be made of {n} images; ask for fewer")


def _semi_supervised(
    values: NDArray[np.float64], labels: NDArray, start: NDArray[np.float64], n_classes: int, generator: Any
) -> tuple[float, NDArray[np.int64]]:
    """Sum of squared distances and clusters of one initialisation."""
    centres = _novel_centres(values, labels < 0, start, n_classes, generator)
    squares = (values**2).sum(axis=1)
    clusters = np.full(len(values), -1)
    for _ in range(_MOST_STEPS):
        distances = squares[:, None] - 2 * values @ centres.T + (centres**2).sum(axis=1)
        found = np.where(labels >= 0, labels, distances.argmin(axis=1)).astype(np.int64)
        inertia = float(distances[np.arange(len(values)), found].sum())
        if np.array_equal(found, clusters):
            break
        clusters = found
        members = np.zeros((n_classes, len(values)))
        members[clusters, np.arange(len(values))] = 1.0
        counts = members.sum(axis=1, keepdims=True)
        centres = np.where(counts > 0, members @ values / np.maximum(counts, 1), centres)
    return inertia, clusters


def _novel_centres(
    values: NDArray[np.float64], unlabelled: NDArray[np.bool_], start: NDArray, n_classes: int, generator: Any
) -> NDArray[np.float64]:
    """The known centres and further ones, each an unlabelled sample drawn by its squared distance from the others."""
    centres = start
    candidates = values[unlabelled] if unlabelled.any() else values
    while len(centres) < n_classes:
        weights = _nearest(candidates, centres)
        shares = weights / weights.sum() if weights.sum() > 0 else None
        centres = np.vstack([centres, candidates[generator.choice(len(candidates), p=shares)]])
    return centres


def _nearest(values: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(centres):
        return np.ones(len(values))
    distances = (values**2).sum(axis=1)[:, None] - 2 * values @ centres.T + (centres**2).sum(axis=1)
    return np.maximum(distances.min(axis=1), 0.0)
