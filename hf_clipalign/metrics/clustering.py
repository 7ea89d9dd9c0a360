"""How well clusters agree with classes, some of which were known beforehand (generalized category discovery)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.sequences import as_array
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics._inputs import as_labels, encode_labels


def clustering_accuracy(labels: Any, predictions: Any, known_mask: Any, balanced: bool = False) -> dict[str, float]:
    """Share of samples whose cluster is matched with their class: on all samples, on known and on novel classes.

    ONE matching of clusters with classes is found on all samples, such that most samples are right (Hungarian method);
    the shares of known and novel classes are read from it. So a known class that is taken for a novel one costs twice.
    Where several matchings are best, the reference code's is taken for integers from 0 to 1,999, gaps included; other
    ids are numbered first.

    Args:
        labels (array `[N]`): true classes, integers or strings.
        predictions (array `[N]`): clusters, integers or strings; their names mean nothing, and there may be more or
            fewer clusters than classes.
        known_mask (array `[N]`): booleans, whether the sample's CLASS was known in training (not whether it was
            labelled).
        balanced (`bool`, *optional*, defaults to False): whether every class counts the same, however many samples it
            has.

    Returns:
        `all`, `old` (known classes) and `new` (novel classes), fractions in [0, 1]; NaN for a part without samples.

    Raises:
        `ClipAlignError`: Lengths differ, there is no sample, or an input is of the wrong kind.

    Example:
        ```python
        >>> clustering_accuracy(["cat", "cat", "dog", "dog"], [1, 1, 0, 1], [True, True, False, False])
        {'all': 0.75, 'old': 1.0, 'new': 0.5}
        ```
    """
    codes, known = _checked(labels, predictions, known_mask)
    return _accuracies(codes, known, balanced)


def match_clusters(labels: Any, predictions: Any) -> dict[Any, Any]:
    """The class that each cluster is matched with, such that most samples are right (Hungarian method).

    Args:
        labels (array `[N]`): true classes, integers or strings.
        predictions (array `[N]`): clusters, integers or strings.

    Returns:
        Class by cluster; a cluster that is left over, or shares no sample with the class left for it, is missing.

    Raises:
        `ClipAlignError`: Lengths differ, there is no sample, or an input is of the wrong kind.

    Example:
        ```python
        >>> match_clusters(["cat", "cat", "dog"], [7, 7, 2])
        {2: 'dog', 7: 'cat'}
        ```
    """
    labels, predictions = as_array(labels, "labels"), as_array(predictions, "predictions")
    codes, _ = _checked(labels, predictions, None)
    right = np.flatnonzero(_is_right(codes))
    examples = right[np.unique(codes.clusters[right], return_index=True)[1]]
    clusters, classes = predictions[examples].tolist(), labels[examples].tolist()
    return dict(zip(clusters, classes, strict=True))


def cluster_balance(predictions: Any, n_classes: int) -> dict[str, float]:
    """How evenly samples are spread over the classes they may fall into; it needs no labels.

    Args:
        predictions (integer array `[N]`): the class of each sample, 0 … n_classes − 1.
        n_classes (`int`): how many classes there are, empty ones included.

    Returns:
        `largest`, the share of the samples in the largest class; `empty`, how many classes have none; `entropy` of the
        shares, in nats; `effective`, its exponential: as many classes of equal size have the same entropy.

    Raises:
        `ClipAlignError`: There is no sample, or a class that is not one of them.

    Example:
        ```python
        >>> cluster_balance([0, 0, 0, 0], 4)
        {'largest': 1.0, 'empty': 3, 'entropy': 0.0, 'effective': 1.0}
        ```
    """
    classes = as_array(predictions, "predictions")
    if classes.ndim != 1 or not classes.size or classes.dtype.kind not in "iu":
        raise ClipAlignError("predictions must be integers, one for each sample, and at least one")
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ClipAlignError(f"predictions must be classes from 0 to {n_classes - 1}")
    counts = np.bincount(classes, minlength=n_classes)
    shares = counts[counts > 0] / counts.sum()
    entropy = abs(float((shares * np.log(shares)).sum()))
    return {
        "largest": float(shares.max()),
        "empty": int((counts == 0).sum()),
        "entropy": entropy,
        "effective": float(np.exp(entropy)),
    }


def clustering_report(labels: Any, predictions: Any, known_mask: Any = None) -> dict[str, float]:
    """All that is usually reported of a clustering: accuracies, balanced accuracies, NMI and ARI.

    Args:
        labels (array `[N]`): true classes, integers or strings.
        predictions (array `[N]`): clusters, integers or strings.
        known_mask (array `[N]`, *optional*): booleans, as in `clustering_accuracy`; without it `old` and `new` are
            left out.

    Returns:
        `all`, `old`, `new` and `balanced_all`, `balanced_old`, `balanced_new` as in `clustering_accuracy`; `nmi`, the
        normalised mutual information (arithmetic mean of the entropies), 0 to 1; `ari`, the Rand index adjusted for
        chance, at most 1 (both of scikit-learn); `n_classes` and `n_clusters`, how many occur.

    Raises:
        `ClipAlignError`: As `clustering_accuracy`.

    Example:
        ```python
        >>> report = clustering_report(["cat", "cat", "dog", "dog"], [1, 1, 0, 0])
        >>> report["all"], report["nmi"], report["ari"]
        (1.0, 1.0, 1.0)
        ```
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    codes, known = _checked(labels, predictions, known_mask)
    balanced = _accuracies(codes, known, balanced=True)
    report = _accuracies(codes, known, balanced=False) | {f"balanced_{part}": balanced[part] for part in balanced}
    if known_mask is None:
        report = {"all": report["all"], "balanced_all": report["balanced_all"]}
    return report | {
        "nmi": float(normalized_mutual_info_score(codes.classes, codes.clusters)),
        "ari": float(adjusted_rand_score(codes.classes, codes.clusters)),
        "n_classes": len(np.unique(codes.classes)),
        "n_clusters": len(np.unique(codes.clusters)),
    }


_SQUARE_IDS = 2000


class _Codes(NamedTuple):
    """Classes and clusters as integers from 0: as they are where they can be, else numbered together."""

    classes: NDArray[np.int64]
    clusters: NDArray[np.int64]


def _checked(labels: Any, predictions: Any, known_mask: Any) -> tuple[_Codes, NDArray[np.bool_]]:
    labels = as_array(labels, "labels")
    n = labels.size
    if not n:
        raise ClipAlignError("labels are empty: a clustering of nothing has no accuracy")
    classes, clusters = as_labels(labels, "labels", n), as_labels(predictions, "predictions", n)
    known = np.ones(n, bool) if known_mask is None else as_labels(known_mask, "known_mask", n)
    if known.dtype.kind not in "biu" or not np.isin(known, (0, 1)).all():
        raise ClipAlignError("known_mask must be True or False for every sample: whether its class was known")
    if all(_are_places(ids) for ids in (classes, clusters)):
        return _Codes(classes.astype(np.int64), clusters.astype(np.int64)), known.astype(bool)
    if (classes.dtype.kind in "US") == (clusters.dtype.kind in "US"):
        return _Codes(*encode_labels(classes, clusters)), known.astype(bool)
    numbered = (np.unique(names, return_inverse=True)[1].reshape(-1) for names in (classes, clusters))
    return _Codes(*numbered), known.astype(bool)


def _are_places(ids: NDArray) -> bool:
    """Whether ids can be rows of the reference's matrix as they are: their gaps decide between equal matchings."""
    return ids.dtype.kind in "biu" and bool((ids >= 0).all() and (ids < _SQUARE_IDS).all())


def _is_right(codes: _Codes) -> NDArray[np.bool_]:
    """Whether each sample's cluster is matched with its class.

    Which of several best matchings SciPy takes depends on the form of the matrix: the square one is the reference's.
    With more than 2,000 ids it is too large, and only the clusters and classes that occur are rows and columns.
    """
    from scipy.optimize import linear_sum_assignment

    classes, clusters = codes
    n_rows = n_columns = int(max(classes.max(), clusters.max())) + 1
    if n_rows > _SQUARE_IDS:
        classes, clusters = (np.unique(ids, return_inverse=True)[1].reshape(-1) for ids in codes)
        n_rows, n_columns = int(clusters.max()) + 1, int(classes.max()) + 1
    counts = np.bincount(clusters * n_columns + classes, minlength=n_rows * n_columns).reshape(n_rows, n_columns)
    matched = np.full(n_rows, -1)
    rows, columns = linear_sum_assignment(counts.max() - counts)
    matched[rows] = columns
    return matched[clusters] == classes


def _accuracies(codes: _Codes, known: NDArray[np.bool_], balanced: bool) -> dict[str, float]:
    right = _is_right(codes)
    parts = {"all": np.ones(len(known), bool), "old": known, "new": ~known}
    return {name: _accuracy(codes.classes[part], right[part], balanced) for name, part in parts.items()}


def _accuracy(classes: NDArray[np.int64], right: NDArray[np.bool_], balanced: bool) -> float:
    if not len(right):
        return float("nan")
    if not balanced:
        return float(right.mean())
    counts = np.bincount(classes)
    present = counts > 0
    return float((np.bincount(classes, right)[present] / counts[present]).mean())
