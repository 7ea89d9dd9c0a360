"""What the methods found in partly labelled images, and which of them is to be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hf_clipalign.data import GCDSplit
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.metrics import cluster_balance
from hf_clipalign.trainers.gcd.checking import HiddenClassCheck
from hf_clipalign.trainers.gcd.trainer import SpectralGCDTrainer

KMEANS_STUDENT, KMEANS_TEACHER = "k-means on student features", "k-means on teacher features"
SEMI_SUPERVISED = "semi-supervised k-means on teacher features"
CENTRED, NOT_CENTRED = "SpectralGCD", "SpectralGCD without centring"
_NORMAL_95, _UNKNOWN = 1.96, (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class FoundClasses:
    """What one method found.

    Args:
        name (`str`): of the method.
        classes (`np.ndarray [N]`): class of every image, known classes first.
        n_classes (`int`): how many there are, empty ones included.
        held_out (`float`): see `hf_clipalign.evaluation.held_out_accuracy`; NaN without held-out images.
        collapse (`str`, *optional*): see `hf_clipalign.evaluation.collapse`.
        scores (`dict[str, float]`): All, Old and New, where the truth is known; else empty.
    """

    name: str
    classes: np.ndarray = field(repr=False)
    n_classes: int
    held_out: float
    collapse: str | None
    scores: dict[str, float]

    @property
    def balance(self) -> dict[str, float]:
        """See `hf_clipalign.metrics.cluster_balance`."""
        return cluster_balance(self.classes, self.n_classes)


@dataclass(frozen=True)
class Discovery:
    """What all methods found in the same images.

    Args:
        split (`GCDSplit`): the images as the methods saw them, held-out labels hidden.
        held_out (`np.ndarray`): positions of the images whose label was held out.
        n_novel (`int`): novel classes that were looked for.
        methods (`dict[str, FoundClasses]`): by name, k-means first.
        trained (`str`, *optional*): the name of the training that is kept.
        model (`SpectralGCDModel`, *optional*): its model.
        trainer (`SpectralGCDTrainer`, *optional*): its trainer; None where the training was done before.
        check (`HiddenClassCheck`, *optional*): how the methods find known classes that are hidden from them.
    """

    split: GCDSplit
    held_out: np.ndarray = field(repr=False)
    n_novel: int
    methods: dict[str, FoundClasses] = field(repr=False)
    trained: str | None = None
    model: SpectralGCDModel | None = field(default=None, repr=False)
    trainer: SpectralGCDTrainer | None = field(default=None, repr=False)
    check: HiddenClassCheck | None = field(default=None, repr=False)

    @property
    def best_kmeans(self) -> str:
        """The k-means on the teacher's features that does better in the check; of equal ones the plain one."""
        return max((KMEANS_TEACHER, SEMI_SUPERVISED), key=lambda name: np.nan_to_num(self.checked(name), nan=-1.0))

    @property
    def recommended(self) -> str:
        """The trained method where the check shows that it is better than k-means, else the better k-means."""
        shown = self.trained is not None and not self.doubts() and self._interval()[1] > 0
        return str(self.trained) if shown else self.best_kmeans

    def checked(self, name: str) -> float:
        """What a method has in the check: its share of right hidden classes, without one of right held-out images."""
        if self.check is not None and name in self.check.right:
            return self.check.share(name)
        return self.methods[name].held_out

    def doubts(self) -> list[str]:
        """Why the trained model's answer is not worth having; empty where nothing speaks against it.

        It has collapsed, or a k-means on the teacher's features does better, by more than the interval of the
        difference.
        """
        if self.trained is None:
            return []
        fallen = self.methods[self.trained].collapse
        reasons = [] if fallen is None else [f"the classes have collapsed: {fallen}"]
        if self._interval()[2] < 0:
            reasons.append(f"{self.best_kmeans} is better: {self._told()}")
        return reasons

    def undecided(self) -> str | None:
        """One sentence where the trained model is not shown to be better than k-means, nor worse; see `doubts`."""
        low, high = self._interval()[1:]
        if self.trained is None or self.doubts() or np.isnan(low) or low > 0 or high < 0:
            return None
        return f"{self.trained} is not shown to be better than {self.best_kmeans}, which is simpler: {self._told()}"

    def _told(self) -> str:
        mean, low, high = (100 * value for value in self._interval())
        assert self.trained is not None
        shares = " and ".join(f"{100 * self.checked(name):.0f}" for name in (self.trained, self.best_kmeans))
        if self.check is not None:
            what = f"of labelled images right, mean of {self.check.n_classes} known classes that were hidden in turn"
        else:
            what = f"of {len(self.held_out)} held-out images of known classes right (novel ones were not checked)"
        return f"{shares} % {what}; difference {mean:+.0f} points, 95 % interval {low:+.0f} to {high:+.0f}"

    def _interval(self) -> tuple[float, float, float]:
        """Difference of the trained model and the better k-means in the check; NaN without one."""
        if self.trained is None:
            return _UNKNOWN
        if self.check is not None:
            return self.check.difference(self.trained, self.best_kmeans)
        own, other = self.methods[self.trained].held_out, self.methods[self.best_kmeans].held_out
        error = _NORMAL_95 * ((own * (1 - own) + other * (1 - other)) / max(1, len(self.held_out))) ** 0.5
        return own - other, own - other - error, own - other + error
