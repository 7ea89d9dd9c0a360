"""What category discovery is compared with."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hf_clipalign._errors import ClipAlignError

_N_INITIALISATIONS = 10


def kmeans_classes(features: Tensor, n_classes: int, seed: int = 0) -> np.ndarray:
    """Clusters of unit features by k-means, the baseline that needs no training.

    Args:
        features (`Tensor [N, d]`): of all images; normalised by the caller.
        n_classes (`int`): how many clusters.
        seed (`int`): of the ten initialisations. Default 0.

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

    if n_classes > len(features):
        raise ClipAlignError(f"{n_classes} clusters cannot be made of {len(features)} images; ask for fewer")
    values = features.detach().cpu().float().numpy()
    return KMeans(n_classes, n_init=_N_INITIALISATIONS, random_state=seed).fit_predict(values).astype(np.int64)
