"""How often the best hit reaches a score, where the image of the query is in the collection and where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._io.limited_json import BadJson

_NEAREST = 1e-6
"""Distances below are not told apart: rounding of float32 cosines."""
REFERENCE_POWER = 0.75
"""1 would be the plain ratio of distances. It finds a little more, but is deceived by queries that are like nothing in
the collection: far from all images, and yet much nearer to one than to the others."""
_EVEN_KNOTS, _TAIL_KNOTS = 64, 128


class RankedViews(NamedTuple):
    """The searches of n views of V images of one strength.

    Attributes:
        own (`np.ndarray [V, n]`): score of the view's own image.
        others (`np.ndarray [V, n, M]`): the best scores of other images, descending, -inf where there are none.
    """

    own: NDArray[np.float64]
    others: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tails:
    """Shares of queries whose best hit reaches each of m values.

    Attributes:
        knots (`np.ndarray [m]`): the values, ascending.
        absent (`np.ndarray [m]`): of queries whose image is not in the collection.
        right (`np.ndarray [m]`): of queries whose image is in the collection, with it as best hit.
        wrong (`np.ndarray [m]`): of these, with another image as best hit.

    Example:
        ```python
        >>> from hf_clipalign.search.tails import Tails
        >>> tails = Tails(*map(np.array, ([0.2, 0.8], [1.0, 0.1], [0.9, 0.9], [0.1, 0.0])))
        >>> tails.false_share(np.array([0.9]), prior=0.5)
        array([0.1])
        ```
    """

    knots: NDArray[np.float64]
    absent: NDArray[np.float64]
    right: NDArray[np.float64]
    wrong: NDArray[np.float64]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tails) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def false_share(self, values: NDArray, prior: float, growth: float = 1.0) -> NDArray[np.float64]:
        """Expected share of false ones among the best hits that reach a value.

        Args:
            values (array): where to look.
            prior (`float`): share of queries whose image is in the collection.
            growth (`float`, *optional*, defaults to `1.0`): how many times as many images as measured are searched.
        """
        place = np.searchsorted(self.knots, values, side="right") - 1
        return np.where(place < 0, 1.0, self._false_shares(prior, growth)[place])

    def confidence(self, values: NDArray, prior: float, growth: float = 1.0) -> NDArray[np.float64]:
        """Chance that a best hit of exactly a value is right; arguments as for `false_share`."""
        false, right = self._masses(prior, growth)
        chances = isotonic(*(tail - np.append(tail[1:], 0) for tail in (right, false)))
        place = np.searchsorted(self.knots, values, side="right") - 1
        return np.where(place < 0, 0.0, chances[place])

    def lowest(self, fdr: float, prior: float, growth: float = 1.0) -> float:
        """The lowest value whose false share is at most `fdr`; infinite if there is none."""
        good = np.flatnonzero(self._false_shares(prior, growth) <= fdr)
        return float(self.knots[good[0]]) if len(good) else float("inf")

    def to_dict(self) -> dict[str, list[float]]:
        """As lists of numbers."""
        return {name: getattr(self, name).tolist() for name in ("knots", "absent", "right", "wrong")}

    @classmethod
    def from_dict(cls, lists: dict[str, Any]) -> Tails:
        """From what `to_dict` gives.

        Raises:
            `BadJson`: the lists differ in length or are no tails.
        """
        tails = cls(*(np.array(lists[name], np.float64) for name in ("knots", "absent", "right", "wrong")))
        falling = [tails.absent, tails.right, tails.wrong]
        if len({len(tails.knots), *map(len, falling)}) != 1 or not len(tails.knots):
            raise BadJson("has tails of several lengths")
        in_order = (np.diff(tails.knots) > 0).all() and all((np.diff(tail) <= 0).all() for tail in falling)
        if not in_order or not all(0 <= tail[-1] <= tail[0] <= 1 for tail in falling):
            raise BadJson("has tails that are not in order")
        return tails

    def _masses(self, prior: float, growth: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shares of all queries with a false and with a right best hit that reaches each knot, `[m]` and `[m]`."""
        absent, wrong = (1 - (1 - tail) ** growth for tail in (self.absent, self.wrong))
        return (1 - prior) * absent + prior * wrong, prior * self.right

    def _false_shares(self, prior: float, growth: float) -> NDArray[np.float64]:
        false, right = self._masses(prior, growth)
        return np.minimum.accumulate(false / np.maximum(false + right, 1e-300))


def statistic(scores: NDArray, reference: NDArray) -> NDArray[np.float64]:
    """How near a hit is compared with the reference: `log((1 - reference)^0.75 / (1 - score))`."""
    return REFERENCE_POWER * np.log(np.maximum(1 - reference, _NEAREST)) - np.log(np.maximum(1 - scores, _NEAREST))


def measured_tails(searches: list[RankedViews], rank: int) -> Tails:
    """The tails of searches of several strengths.

    All strengths count the same. Of queries whose image is absent, one image more than was seen is
    taken to reach every value.

    Args:
        searches (`list[RankedViews]`): one per strength.
        rank (`int`): 1 reads scores alone; else the reference is the hit of this rank.
    """
    absent = [_value(search.others[..., 0], search.others, rank) for search in searches]
    right, wrong = [], []
    for search in searches:
        together = -np.sort(-np.concatenate([search.own[..., None], search.others], axis=-1), axis=-1)
        found = search.own > search.others[..., 0]
        right.append(np.where(found, _value(search.own, together, rank), -np.inf))
        wrong.append(np.where(found, -np.inf, _value(search.others[..., 0], together, rank)))
    knots = _knots(np.concatenate([values.ravel() for values in (*absent, *right, *wrong)]))
    n = len(absent[0])
    reached = np.mean([_tail(values, knots) for values in absent], axis=0)
    return Tails(
        knots,
        (n * reached + 1) / (n + 1),
        np.mean([_tail(values, knots) for values in right], axis=0),
        np.mean([_tail(values, knots) for values in wrong], axis=0),
    )


def isotonic(right: NDArray, false: NDArray) -> NDArray[np.float64]:
    """Shares `right / (right + false)` of bins, `[m]`, pooled where they would fall (Ayer et al. 1955)."""
    pools: list[list[float]] = []
    for one, other in zip(right.tolist(), false.tolist(), strict=True):
        pools.append([one, other, 1])
        while len(pools) > 1 and _share(pools[-2]) >= _share(pools[-1]):
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    return np.repeat([_share(pool) for pool in pools], [int(pool[2]) for pool in pools])


def _share(pool: list[float]) -> float:
    return pool[0] / (pool[0] + pool[1]) if pool[0] + pool[1] > 0 else 0.0


def _value(best: NDArray, ranked: NDArray, rank: int) -> NDArray[np.float64]:
    if rank == 1:
        return best
    reference = ranked[..., rank - 1]
    known = np.isfinite(best) & np.isfinite(reference)
    return np.where(known, statistic(np.where(known, best, 0), np.where(known, reference, 0)), -np.inf)


def _tail(values: NDArray, knots: NDArray) -> NDArray[np.float64]:
    ordered = np.sort(values.ravel())
    return 1 - np.searchsorted(ordered, knots, side="left") / len(ordered)


def _knots(values: NDArray) -> NDArray[np.float64]:
    """Quantiles, evenly spread and ever closer towards the highest values."""
    ordered = np.sort(values[np.isfinite(values)])
    if not len(ordered):
        return np.zeros(1)
    closing = 1 - np.exp(-np.linspace(0, np.log(len(ordered)), _TAIL_KNOTS))
    shares = np.concatenate([np.linspace(0, 1, _EVEN_KNOTS), closing])
    return np.unique(ordered[np.round(shares * (len(ordered) - 1)).astype(int)])
