"""How many classes a collection holds, when some of them are labelled (Generalized Category Discovery)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.sequences import as_array, as_list
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import in_float32_range, unit_rows
from hf_clipalign.data.labels.columns import is_missing
from hf_clipalign.gcd.similarities import finite_rows
from hf_clipalign.metrics import clustering_accuracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

logger = logging.getLogger(__name__)

_FIRST_COUNTS = 12
_NEIGHBOURS = 2
_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class ClassCountEstimate:
    """The number of classes that the labelled part speaks for, and what was tried.

    Attributes:
        n_classes (`int`): the estimate, known and novel classes together.
        n_known (`int`): classes that have labels.
        curve (`dict[int, float]`): accuracy on the labelled samples, in [0, 1], by number of clusters, ascending.
        lowest (`int`, *optional*): where the plateau that ends at `n_classes` begins. Defaults to `n_classes`.

    Example:
        ```python
        >>> from hf_clipalign.gcd import estimate_n_classes
        >>> points = torch.eye(3).repeat_interleave(4, dim=0)
        >>> labels = [0] * 4 + [1] * 4 + [-1] * 4
        >>> estimate = estimate_n_classes(points, labels, [True] * 8 + [False] * 4, counts=[2, 3])
        >>> estimate.n_known, estimate.curve
        (2, {2: 0.5, 3: 1.0})
        ```
    """

    n_classes: int
    n_known: int
    curve: dict[int, float] = field(repr=False)
    lowest: int | None = None

    @property
    def range(self) -> tuple[int, int]:
        """The fewest and the most classes that the labelled samples speak for about equally."""
        return (self.n_classes if self.lowest is None else self.lowest, self.n_classes)

    @property
    def n_novel(self) -> int:
        """How many classes have no label."""
        return self.n_classes - self.n_known

    @property
    def accuracy(self) -> float:
        """Accuracy on the labelled samples at the estimate."""
        return self.curve[self.n_classes]

    def table(self) -> Table:
        """The curve, for the terminal."""
        from rich.table import Table

        low, high = self.range
        title = f"{high} classes: {self.n_known} known, {self.n_novel} novel"
        table = Table(title=title, caption=f"as good as equal: {low} to {high} classes" if low < high else None)
        table.add_column("clusters", justify="right")
        table.add_column("accuracy on labelled, %", justify="right")
        for count, accuracy in self.curve.items():
            row = (str(count), f"{100 * accuracy:.1f}")
            table.add_row(*row, style="bold" if count == self.n_classes else None)
        return table

    def plot(self) -> Figure:
        """An image of the curve, with the estimate and the number of known classes."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(list(self.curve), [100 * value for value in self.curve.values()], marker="o", markersize=3)
        axes.axvspan(*self.range, color="#2e7d4f", alpha=0.12)
        axes.axvline(self.n_known, color="#8d99ae", linestyle=":", label=f"{self.n_known} known")
        axes.axvline(self.n_classes, color="#2e7d4f", linestyle="--", label=f"{self.n_classes} estimated")
        axes.set_xlabel("clusters")
        axes.set_ylabel("accuracy on labelled, %")
        axes.legend(frameon=False)
        return figure


def estimate_n_classes(
    features: Any,
    labels: Any,
    labelled_mask: Any,
    *,
    max_classes: int | None = None,
    counts: Sequence[int] | None = None,
    normalize: bool = True,
    n_init: int = 4,
    seed: int = 0,
    progress: bool = False,
) -> ClassCountEstimate:
    """Estimates the number of classes by k-means on everything, scored on the labelled part.

    The method of "Generalized Category Discovery" (Vaze et al., CVPR 2022, arXiv 2201.02609): labelled
    and unlabelled samples are clustered together into k clusters, for many k; the best k is the one whose clusters,
    matched one to one with the known classes, are right on most of the LABELLED samples. With too few clusters known
    classes are merged with others, with too many they are split. They look for the maximum with Brent's method; here
    the curve is evaluated on a grid, which is then refined around the end of its best part until neighbouring counts
    are tried, so that the whole curve can be seen. (Only the idea is theirs: grid, refinement and plateau are ours.)

    A single point of the curve owes much to the draw of k-means. So counts whose accuracy is within one standard error
    of the best one (of a share of the n labelled samples) are equal; of the runs of neighbouring counts that are, the
    longest is the plateau (relative to its counts), and its end is the estimate: beyond it known classes are split.

    Args:
        features (`Tensor` or array `[N, d]`): of all samples.
        labels (`Sequence` or array `[N]`): classes, integers or strings; anything where `labelled_mask` is False.
        labelled_mask (array of bool `[N]`): whether the sample has a label.
        max_classes (`int`, *optional*): most clusters to try; a warning tells if they are the best. Default: four
            times the known classes, at least 10; doubled as long as the largest number is the best, up to N - 1.
        counts (`Sequence[int]`, *optional*): the numbers of clusters to try, instead of grid and refinement.
        normalize (`bool`, *optional*, defaults to `True`): unit length first, so that distances go by cosines.
        n_init (`int`, *optional*, defaults to `4`): starts of k-means for each count; the best is taken.
        seed (`int`, *optional*, defaults to `0`): of k-means.
        progress (`bool`, *optional*, defaults to `False`): show a progress bar.

    Returns:
        `ClassCountEstimate`: the end of the plateau (before known classes are split; with fewer clusters novel classes
            may still share one, which the labelled part does not show), and its beginning as `lowest`.

    Raises:
        `ClipAlignError`: no labelled or fewer than two different samples, labels that are missing, lengths that
            differ, features that are not finite, counts outside [known classes, N - 1], or numbers that cannot be
            used.

    Example:
        ```python
        >>> from hf_clipalign.gcd import estimate_n_classes
        >>> points = torch.eye(3).repeat_interleave(4, dim=0)
        >>> labels = [0] * 4 + [1] * 4 + [-1] * 4
        >>> estimate_n_classes(points, labels, [True] * 8 + [False] * 4, counts=[2, 3]).n_classes
        3
        ```
    """
    check_integer("n_init", n_init)
    if check_integer("seed", seed, 0) > _LARGEST_SEED:
        raise ClipAlignError(f"seed is {seed}: give one of up to {_LARGEST_SEED}.")
    rows = _rows(features, normalize)
    known_labels, labelled = _labelled(labels, labelled_mask, len(rows))
    n_known = len(np.unique(known_labels))
    tried = _counts_to_try(counts, max_classes, n_known, len(rows))
    curve: dict[int, float] = {}
    with tqdm(total=len(tried), desc="k-means", unit="count", disable=None if progress else True) as bar:
        while tried:
            for count in tried:
                clusters = _cluster(rows, count, n_init, seed)[labelled]
                curve[count] = clustering_accuracy(known_labels, clusters, np.ones(len(clusters), bool))["all"]
                bar.update()
            most = len(rows) - 1 if max_classes is None else 0
            tried = [] if counts is not None else _next_counts(curve, int(labelled.sum()), most)
            bar.total += len(tried)
    lowest, best = _plateau(curve, int(labelled.sum()))
    if counts is None and best == max(curve):
        logger.warning(
            "the best number of clusters, %d, is the largest that was tried: there may be more classes%s",
            best,
            "" if max_classes is None else "; raise max_classes",
        )
    return ClassCountEstimate(best, n_known, dict(sorted(curve.items())), lowest)


def _cluster(rows: NDArray[np.float32], count: int, n_init: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    return KMeans(count, n_init=n_init, random_state=seed).fit_predict(rows)


def _plateau(curve: dict[int, float], n_labelled: int) -> tuple[int, int]:
    """First and last count of the longest run of neighbouring counts that are as good as the best."""
    counts, best = sorted(curve), max(curve.values())
    smoothed = (best * n_labelled + 1) / (n_labelled + 2)  # no share is certain: 1.0 has a standard error, too
    floor = best - (smoothed * (1 - smoothed) / n_labelled) ** 0.5
    runs: list[list[int]] = []
    for before, count in zip([None, *counts], counts, strict=False):
        if curve[count] < floor:
            continue
        if runs and runs[-1][-1] == before:
            runs[-1].append(count)
        else:
            runs.append([count])
    longest = max(runs, key=lambda run: (run[-1] / run[0], run[-1]))
    return longest[0], longest[-1]


def _next_counts(curve: dict[int, float], n_labelled: int, most: int) -> list[int]:
    """Twice the range, up to `most`, as long as the plateau ends with it; then counts around the plateau's end."""
    highest, end = max(curve), _plateau(curve, n_labelled)[1]
    if end == highest < most:
        return _grid(highest, min(2 * highest, most), _FIRST_COUNTS // 2)[1:]
    return _between(curve, end)


def _grid(lowest: int, highest: int, size: int) -> list[int]:
    return sorted(set(np.geomspace(lowest, highest, size).round().astype(int).tolist()))


def _between(curve: dict[int, float], end: int) -> list[int]:
    """New counts around one: the middle of the gaps to its neighbours on either side, until none is left."""
    counts = sorted(curve)
    best = counts.index(end)
    around = counts[max(0, best - _NEIGHBOURS) : best + _NEIGHBOURS + 1]
    return [(low + high) // 2 for low, high in pairwise(around) if high - low > 1]


def _counts_to_try(counts: Sequence[int] | None, max_classes: int | None, n_known: int, n: int) -> list[int]:
    if counts is None:
        highest = (
            min(max(4 * n_known, 10), n - 1) if max_classes is None else check_integer("max_classes", max_classes)
        )
        if not n_known <= highest < n:
            raise ClipAlignError(
                f"max_classes is {highest}: give at least the {n_known} known classes and fewer than the {n} samples."
            )
        return _grid(max(n_known, 2), max(highest, 2), _FIRST_COUNTS)
    if not isinstance(counts, Iterable):
        raise ClipAlignError(f"counts is {counts!r}: give the numbers of clusters to try, as a list.")
    chosen = sorted({check_integer("a number in counts", count) for count in counts})
    if not chosen or chosen[0] < max(n_known, 2) or chosen[-1] >= n:
        raise ClipAlignError(
            f"counts are {chosen}: give numbers from {max(n_known, 2)} (known classes) to {n - 1} (samples less one)."
        )
    return chosen


def _rows(features: Any, normalize: bool) -> NDArray[np.float32]:
    table = finite_rows(features, "features").cpu()
    if len(table) < 3 or bool((table == table[0]).all()):
        raise ClipAlignError(f"{len(table)} samples, all alike or too few: there is nothing to cluster.")
    return (unit_rows(table) if normalize else in_float32_range(table)).numpy()


def _labelled(labels: Any, labelled_mask: Any, n: int) -> tuple[NDArray, NDArray[np.bool_]]:
    mask, names = as_array(labelled_mask, "labelled_mask"), np.array(as_list(labels, "labels"), dtype=object)
    for name, values in (("labelled_mask", mask), ("labels", names)):
        if values.shape != (n,):
            raise ClipAlignError(f"{name} has the shape {values.shape} for {n} samples: give one entry for each.")
    if not np.isin(mask, (0, 1)).all():
        raise ClipAlignError("labelled_mask must be True or False for every sample.")
    mask = mask.astype(bool)
    if not mask.any():
        raise ClipAlignError("no sample is labelled: the labelled part is what the number of classes is scored on.")
    known = names[mask].tolist()
    if any(is_missing(name) for name in known):
        raise ClipAlignError("a labelled sample has no label: give one, or set labelled_mask to False there.")
    return np.asarray(known), mask
