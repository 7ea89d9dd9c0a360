"""Rankings of two heads beside each other: what is shown, and what moved from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.search.exact import Neighbours, merge

Change = Literal["new", "up", "down", "same", "gone"]


@dataclass(frozen=True)
class Ranked:
    """An image in the ranking of one head.

    Args:
        row (`int`): of the embeddings.
        score (`float`): cosine.
        rank (`int`): 1 for the best.
        other_rank (`int`, *optional*): by the other head; None if there is no other.
        confidence (`float`, *optional*): probability that the match is a true one.
    """

    row: int
    score: float
    rank: int
    other_rank: int | None = None
    confidence: float | None = None

    @property
    def moved(self) -> int:
        """By how many ranks it stands higher than by the other head; below 0 for lower."""
        return 0 if self.other_rank is None else self.other_rank - self.rank

    def change(self, shown: int, is_after: bool) -> Change:
        """What a reader sees of the move.

        Args:
            shown (`int`): how many of the best each head shows.
            is_after (`bool`): the image stands in the second of the two rankings.
        """
        if self.other_rank is None or self.moved == 0:
            return "same"
        if self.other_rank > shown:
            return "new" if is_after else "gone"
        return "up" if (self.moved > 0) == is_after else "down"


def best_rows(scores: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The best rows among the allowed ones, best first; equal scores are ordered by row.

    Args:
        scores (`np.ndarray [N]`): of all rows.
        count (`int`): at most so many.
        allowed (`np.ndarray [N]`): of bool.
    """
    nothing = Neighbours(np.empty((1, 0), np.int64), np.empty((1, 0), np.float32))
    found = merge(nothing, np.arange(len(scores)), np.where(allowed, scores, -np.inf)[None], count).rows[0]
    return found[found >= 0]


def ranks_of(rows: Sequence[int], scores: NDArray[np.float32], allowed: NDArray[np.bool_]) -> list[int]:
    """The rank of rows among the allowed ones, 1 for the best; of equal scores the earlier row comes first."""
    ranks = []
    for row in rows:
        better = allowed & (scores > scores[row])
        equal = allowed[:row] & (scores[:row] == scores[row])
        ranks.append(int(better.sum()) + int(equal.sum()) + 1)
    return ranks


def compared(
    plain: NDArray[np.float32], aligned: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]
) -> tuple[list[Ranked], list[Ranked]]:
    """The best images by two heads, each with its rank by the other.

    Args:
        plain, aligned (`np.ndarray [N]`): scores of all rows.
        count (`int`): how many of each are shown.
        allowed (`np.ndarray [N]`): of bool: which rows may be found.
    """
    return _ranking(plain, aligned, count, allowed), _ranking(aligned, plain, count, allowed)


def ranked(scores: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]) -> list[Ranked]:
    """The best images by one head."""
    rows = best_rows(scores, count, allowed).tolist()
    return [Ranked(row, float(scores[row]), rank) for rank, row in enumerate(rows, start=1)]


def summary(after: Sequence[Ranked], shown: int) -> str:
    """One line on what moved, for the second of two rankings."""
    changes = [one.change(shown, True) for one in after]
    counts = {name: changes.count(name) for name in ("new", "up", "down")}
    if not any(counts.values()):
        return "The two heads show the same images in the same order."
    words = {"new": "new", "up": "moved up", "down": "moved down"}
    listed = ", ".join(f"{count} {words[name]}" for name, count in counts.items() if count)
    return f"Of the {len(after)} best images of the aligned head: {listed}."


def _ranking(
    scores: NDArray[np.float32], others: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]
) -> list[Ranked]:
    rows = best_rows(scores, count, allowed).tolist()
    other_ranks = ranks_of(rows, others, allowed)
    return [
        Ranked(row, float(scores[row]), rank, other)
        for rank, (row, other) in enumerate(zip(rows, other_ranks, strict=True), start=1)
    ]
