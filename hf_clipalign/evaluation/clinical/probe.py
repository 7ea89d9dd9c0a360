"""The plain baseline: a logistic regression for each finding on the stored embeddings."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.data import FindingLabels, split_patients
from hf_clipalign.metrics import multilabel_metrics

_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
_MOST_ROWS = 20_000


class LinearProbe:
    """A masked linear probe: for each finding a logistic regression on the rows whose label of it is known.

    Embeddings are standardised. The strength of the L2 penalty is chosen for each finding by AUROC on a fifth of the
    training patients, then all rows are learned. A linear head cannot forget: its outputs share nothing.

    Args:
        embeds (`np.ndarray [N, d]`): training embeddings.
        targets (`np.ndarray [N, F]`): 1, 0, NaN where a label is not known.
        labels (`FindingLabels`): of these rows, for findings and patients.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels
        >>> labels = FindingLabels([str(row) for row in range(20)], ["cough"], [[row % 2] for row in range(20)])
        >>> probe = LinearProbe(labels.values, labels.targets(), labels)
        >>> probe.scores(labels.values)[:2, 0].round().tolist()
        [0.0, 1.0]
        ```
    """

    def __init__(self, embeds: NDArray, targets: NDArray, labels: FindingLabels):
        self.centre, self.width = embeds.mean(axis=0), embeds.std(axis=0)
        self.width[self.width == 0] = 1.0
        values = self._standardised(embeds)
        trained: dict[str, Any] = {}
        for column, name in enumerate(labels.findings):
            known = np.flatnonzero(~np.isnan(targets[:, column]))
            if len(np.unique(targets[known, column])) == 2:
                part = labels.select(known, [name])
                trained[name] = _fitted(values[known], targets[known, column].astype(int), part)
        self.models = trained

    @property
    def findings(self) -> list[str]:
        """The findings that had both classes in training."""
        return list(self.models)

    def scores(self, embeds: NDArray) -> NDArray:
        """Probabilities `[N, F]` of `findings`."""
        values = self._standardised(embeds)
        if not self.models:
            return np.empty((len(values), 0))
        return np.stack([model.predict_proba(values)[:, 1] for model in self.models.values()], 1)

    def _standardised(self, embeds: NDArray) -> NDArray:
        return (np.asarray(embeds, dtype=np.float64) - self.centre) / self.width


def _fitted(values: NDArray, target: NDArray, labels: FindingLabels) -> Any:
    if len(set(labels.patients or labels.ids)) < 5:
        return _regression(_STRENGTHS[1], values, target)
    learn, held = split_patients(labels, 0.2)
    learn = learn[:_MOST_ROWS]
    if min(len(np.unique(target[part])) for part in (learn, held)) < 2:
        return _regression(_STRENGTHS[1], values, target)

    def auroc(strength: float) -> float:
        scores = _regression(strength, values[learn], target[learn]).decision_function(values[held])
        return multilabel_metrics(target[held, None], scores[:, None])["macro_auroc"]

    return _regression(max(_STRENGTHS, key=auroc), values, target)


def _regression(strength: float, values: NDArray, target: NDArray) -> Any:
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unfinished fit is as good a baseline
        return LogisticRegression(C=strength, max_iter=300).fit(values, target)
