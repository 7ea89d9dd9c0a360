"""The gap between two modalities in one space, and how well cosines work within and across them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import unit_rows
from hf_clipalign.metrics._inputs import as_labels, as_matrix, check_bins
from hf_clipalign.metrics.separation import histogram_iou, pair_similarities

_FOLDS = 5


def modality_gap(image_embeds: Any, text_embeds: Any, seed: int = 0) -> dict[str, float]:
    """How far apart the embeddings of two modalities lie.

    Args:
        image_embeds (array `[N, d]`): made unit length here.
        text_embeds (array `[M, d]`): likewise.
        seed (`int`, *optional*, defaults to 0): of the split into folds.

    Returns:
        `centroid_distance`: Euclidean distance of the means of the unit vectors, 0 to 2 ("Mind the Gap", Liang et al.
        2022). `linear_separability`: balanced accuracy of telling the modalities apart, by a logistic regression
        (scikit-learn, L2 with C = 1, classes weighted equally) in 5-fold stratified cross-validation: 0.5 (mixed) to 1
        (apart). Near-duplicates across folds, such as many captions of one image, make it a little optimistic.

    Raises:
        `ClipAlignError`: Widths differ, values are not finite, a row is zero, or a modality has fewer than five rows.

    Example:
        ```python
        >>> gap = modality_gap([[1.0, 0.1], [1.0, 0.0], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4]], [[0.0, 1.0]] * 5)
        >>> gap["linear_separability"]
        1.0
        ```
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    image, text = _unit_pair(image_embeds, text_embeds)
    if min(len(image), len(text)) < _FOLDS:
        raise ClipAlignError(
            f"the gap needs at least {_FOLDS} rows of each modality, got {len(image)} images and {len(text)} texts"
        )
    distance = np.linalg.norm(image.mean(0) - text.mean(0))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    classifier = LogisticRegression(class_weight="balanced", max_iter=1000)
    rows, is_text = np.concatenate([image, text]), np.repeat([0, 1], [len(image), len(text)])
    accuracy = cross_val_score(classifier, rows, is_text, cv=folds, scoring="balanced_accuracy")
    return {"centroid_distance": float(distance), "linear_separability": float(accuracy.mean())}


def intra_modal_report(
    image_embeds: Any,
    image_labels: Any,
    text_embeds: Any,
    text_labels: Any,
    bins: int = 100,
    max_pairs: int | None = 200_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Cosines of pairs of one class and of pairs of two classes, within each modality and across (Cross the Gap).

    A model that was trained across modalities only may rank pairs well across and badly within.

    Args:
        image_embeds (array `[N, d]`): features.
        image_labels (array): N integers or strings.
        text_embeds (array `[M, d]`): features.
        text_labels (array): M, from the same classes as `image_labels`.
        bins (`int`, *optional*, defaults to 100): number of bins of the histograms over [-1, 1].
        max_pairs (`int`, *optional*, defaults to 200,000): most pairs per kind, drawn at random; None takes all.
        seed (`int`, *optional*, defaults to 0): of the draw.

    Returns:
        By kind, "image-image", "text-text" and "image-text": `positive` and `negative` with `mean`, `std`, `pairs` and
        `histogram` (density), `bin_edges`, and `iou`, the overlap of the two histograms (0 apart, 1 equal). A modality
        with one item per class has no positive pairs within; its kind is left out.

    Raises:
        `ClipAlignError`: Widths differ, values are not finite, no class has both an image and a text, there is no bin.

    Example:
        ```python
        >>> images = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]
        >>> report = intra_modal_report(images, [0, 0, 1], [[1.0, 0.2], [0.2, 1.0]], [0, 1])
        >>> list(report)
        ['image-image', 'image-text']
        ```
    """
    check_bins(bins)
    _unit_pair(image_embeds, text_embeds)
    draw: dict[str, Any] = {"max_pairs": max_pairs, "seed": seed}
    report = {}
    for kind, name, embeds, labels in (
        ("image-image", "image_labels", image_embeds, image_labels),
        ("text-text", "text_labels", text_embeds, text_labels),
    ):
        if _has_both_kinds(as_labels(labels, name, len(embeds))):
            report[kind] = _describe(*pair_similarities(embeds, labels, **draw), bins)
    across = pair_similarities(image_embeds, image_labels, other=text_embeds, other_labels=text_labels, **draw)
    return report | {"image-text": _describe(*across, bins)}


def _unit_pair(image_embeds: Any, text_embeds: Any) -> tuple[NDArray, NDArray]:
    image, text = as_matrix(image_embeds, "image_embeds"), as_matrix(text_embeds, "text_embeds")
    if image.shape[1] != text.shape[1]:
        raise ClipAlignError(
            f"image_embeds has {image.shape[1]} dimensions and text_embeds has {text.shape[1]}: take the projected "
            "features of one model"
        )
    for name, table in (("image_embeds", image), ("text_embeds", text)):
        zero = (table == 0).all(dim=1).nonzero().flatten().tolist()
        if zero:
            raise ClipAlignError(f"{name} has rows of zeros ({', '.join(map(str, zero[:5]))}); remove them")
    return unit_rows(image).cpu().numpy(), unit_rows(text).cpu().numpy()


def _has_both_kinds(labels: NDArray) -> bool:
    counts = np.unique(labels, return_counts=True)[1]
    return len(counts) > 1 and counts.max() > 1


def _describe(positive: NDArray, negative: NDArray, bins: int) -> dict[str, Any]:
    edges = np.linspace(-1, 1, bins + 1)
    return {
        "positive": _numbers(positive, edges),
        "negative": _numbers(negative, edges),
        "bin_edges": edges.tolist(),
        "iou": histogram_iou(positive, negative, bins),
    }


def _numbers(cosines: NDArray, edges: NDArray) -> dict[str, Any]:
    histogram = np.histogram(cosines.clip(-1, 1), edges, density=True)[0]
    return {
        "mean": float(cosines.mean()),
        "std": float(cosines.std()),
        "pairs": len(cosines),
        "histogram": histogram.tolist(),
    }
