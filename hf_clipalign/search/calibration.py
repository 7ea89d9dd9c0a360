"""What a score means in one collection: the chance that a hit shows the same image, learned from the images alone.

A query meets two cases. Its image is absent from the collection: then the best hit is the nearest of the other images,
which is measured by hiding the image of a view from the search. Its image is present: then the view should find it.
Both are measured on augmented views of a sample, on the whole collection, so neither the shape of a distribution nor
the number of images has to be assumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._checks.quoting import counted
from hf_clipalign._checks.sequences import as_positions
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import BadJson, checked_json, natural, number
from hf_clipalign.search.exact import exact_neighbours
from hf_clipalign.search.rows import Rows, as_rows
from hf_clipalign.search.tails import REFERENCE_POWER, RankedViews, Tails, measured_tails, statistic

RANKS = (1, 2, 3, 5, 10)
FEWEST_IMAGES = 20
_QUERIES_PER_PASS = 1024
_COMPARED_AT = (0.05, 0.1, 0.2)
_FORMAT = 1
_TAILS = {"knots": [number], "absent": [number], "right": [number], "wrong": [number]}
_SCHEMA = {
    "format": natural,
    "reference_rank": natural,
    "n_gallery": natural,
    "n_images": natural,
    "prior": number,
    "flat": _TAILS,
    "relative": (_TAILS, None),
}


@dataclass(frozen=True)
class Calibration:
    """Turns the scores of one collection under one head into chances. Make one with `fit`.

    The score of a hit is read in one of two ways, whichever told the views of the sample apart better. Alone, as a
    cosine. Or relative to the hit of rank R of the same query: `log((1 - s_R)^0.75 / (1 - s))`, so that a query among
    many similar images needs a higher score than one that stands alone. With the power 1 and R = 2 that is the ratio
    test of Lowe (2004).

    Attributes:
        reference_rank (`int`): R; 1 where scores are read alone. Give `confidence` at least so many scores of a query.
        n_gallery (`int`): images in the collection at the time.
        n_images (`int`): images in the sample.
        prior (`float`): assumed share of queries whose image is in the collection.
        flat, relative (`Tails`): how often each case reaches a score; relative is None where R is 1.

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_clipalign.search import Calibration
        >>> random = np.random.default_rng(0)
        >>> images = random.standard_normal((200, 32))
        >>> views = images[:50, None] + 0.3 * random.standard_normal((50, 4, 32))
        >>> calibration = Calibration.fit(images / np.linalg.norm(images, axis=1, keepdims=True), views, range(50))
        >>> calibration.confidence([0.95, 0.4, 0.38]).round(1).tolist()
        [1.0, 0.0, 0.0]
        ```
    """

    reference_rank: int
    n_gallery: int
    n_images: int
    prior: float
    flat: Tails
    relative: Tails | None

    @classmethod
    def fit(
        cls,
        embeddings: Any,
        views: Any,
        rows: Sequence[int] | NDArray[np.int64],
        *,
        same: Any = None,
        prior: float = 0.5,
        ranks: Sequence[int] = RANKS,
    ) -> Calibration:
        """Measures how high queries score whose image is in the collection, and others.

        Args:
            embeddings (`Rows` or array `[N, k]`): unit embeddings of the collection.
            views (array `[V, n, k]` or `[V, S, n, k]`): embeddings of n augmented views, at each of S strengths, of V
                sampled images; of any length.
            rows (`Sequence[int]`): V positions of the sampled images in the collection, distinct.
            same (array `[N]`, *optional*): numbers that are equal for rows known to show the same image (copies in
                other sizes, say): they count as right. Default: no two rows do.
            prior (`float`, *optional*, defaults to `0.5`): share of queries whose image is in the collection.
            ranks (`Sequence[int]`, *optional*, defaults to `(1, 2, 3, 5, 10)`): reference ranks to choose from.

        Returns:
            `Calibration`.

        Raises:
            `ClipAlignError`: fewer than 20 images in the sample or the collection, shapes that do not fit, or numbers
                out of range.

        Example:
            ```python
            >>> images = np.eye(30, dtype=np.float32)
            >>> Calibration.fit(images, images[:25, None] + 0.05, range(25)).n_images
            25
            ```
        """
        gallery = as_rows(embeddings)
        check_number("prior", prior, "a number between 0 and 1", above=0, below=1)
        queries, positions = _checked(gallery, views, rows)
        numbers = np.arange(len(gallery)) if same is None else np.asarray(same)
        if numbers.shape != (len(gallery),):
            raise ClipAlignError(
                f"same has shape {numbers.shape} for {counted(len(gallery), 'image')}: give one number for each."
            )
        asked = [check_integer("ranks", rank) for rank in ranks if rank < len(gallery)]
        searches = list(_searches(gallery, queries, positions, numbers, max([*asked, 1]) + 1))
        per_rank = {rank: measured_tails(searches, rank) for rank in {1, *asked}}
        recalls = {rank: _recall(tails, prior) for rank, tails in per_rank.items()}
        best = max(sorted(recalls), key=lambda rank: recalls[rank])
        relative = None if best == 1 else per_rank[best]
        return cls(best, len(gallery), len(positions), float(prior), per_rank[1], relative)

    def confidence(self, scores: Any, n_gallery: int | None = None) -> NDArray[np.float64]:
        """The chance that a hit shows the image of the query.

        It holds for the best hit of a query. Further hits get what a best hit of their score would get.

        Args:
            scores (array `[K]` or `[Q, K]`): the scores of a query's best hits in descending order. With fewer than
                `reference_rank` of them they are read alone. -inf stands for no hit.
            n_gallery (`int`, *optional*): how many images were searched, if other than in `fit`; it matters where
                scores are read alone.

        Returns:
            `np.ndarray`: of the shape of `scores`, in [0, 1]; it never falls where a score rises.

        Example:
            ```python
            >>> images = np.eye(30, dtype=np.float32)
            >>> Calibration.fit(images, images[:25, None] + 0.05, range(25)).confidence([0.99]) > 0.8
            array([ True])
            ```
        """
        return self._read(scores, n_gallery, "confidence")

    def false_share(self, scores: Any, n_gallery: int | None = None) -> NDArray[np.float64]:
        """The expected share of false ones among all best hits that are at least as good: the false discovery rate.

        Args:
            scores (array `[K]` or `[Q, K]`): as in `confidence`.
            n_gallery (`int`, *optional*): as in `confidence`.

        Returns:
            `np.ndarray`: of the shape of `scores`, in [0, 1].

        Example:
            ```python
            >>> images = np.eye(30, dtype=np.float32)
            >>> Calibration.fit(images, images[:25, None] + 0.05, range(25)).false_share([0.5]).shape
            (1,)
            ```
        """
        return self._read(scores, n_gallery, "false_share")

    def threshold(self, fdr: float = 0.05, reference: float | None = None, n_gallery: int | None = None) -> float:
        """The lowest score from which on at most a share `fdr` of best hits is expected to be false.

        Args:
            fdr (`float`, *optional*, defaults to `0.05`): between 0 and 1.
            reference (`float`, *optional*): score of the query's hit of rank `reference_rank`: the cut-off for that
                query. Default: the cut-off for a score that is read alone.
            n_gallery (`int`, *optional*): as in `confidence`.

        Returns:
            `float`: infinite if no score is high enough.

        Raises:
            `ClipAlignError`: fdr is out of range, or a reference is given where scores are read alone.

        Example:
            ```python
            >>> images = np.eye(30, dtype=np.float32)
            >>> Calibration.fit(images, images[:25, None] + 0.05, range(25)).threshold(fdr=0.2) < 1
            True
            ```
        """
        check_number("fdr", fdr, "a number between 0 and 1", above=0, below=1)
        if reference is None:
            return self.flat.lowest(fdr, self.prior, self._growth(n_gallery))
        if self.relative is None:
            raise ClipAlignError("this calibration reads scores alone: leave reference out.")
        distance = max(0.0, 1 - reference) ** REFERENCE_POWER * np.exp(-self.relative.lowest(fdr, self.prior))
        return float(1 - distance) if distance > 0 else float("inf")

    def to_json(self) -> str:
        """The calibration as a JSON text, for `from_json`."""
        tails = {"flat": self.flat.to_dict(), "relative": None if self.relative is None else self.relative.to_dict()}
        names = ("reference_rank", "n_gallery", "n_images", "prior")
        return json.dumps({"format": _FORMAT, **{name: getattr(self, name) for name in names}, **tails})

    @classmethod
    def from_json(cls, text: str | bytes) -> Calibration:
        """Reads what `to_json` wrote.

        Args:
            text (`str` or `bytes`): JSON, in UTF-8.

        Raises:
            `ClipAlignError`: it is no calibration, or one of another format.

        Example:
            ```python
            >>> images = np.eye(30, dtype=np.float32)
            >>> calibration = Calibration.fit(images, images[:25, None] + 0.05, range(25))
            >>> Calibration.from_json(calibration.to_json()) == calibration
            True
            ```
        """
        try:
            found = checked_json(text.encode() if isinstance(text, str) else text, _SCHEMA, size=2**20)
            if found["format"] != _FORMAT:
                raise BadJson(f"is of format {found['format']}, not {_FORMAT}")
            tails = {name: found[name] and Tails.from_dict(found[name]) for name in ("flat", "relative")}
            if (found["reference_rank"] > 1) != (tails["relative"] is not None) or not 0 < found["prior"] < 1:
                raise BadJson("contradicts itself")
        except BadJson as error:
            raise ClipAlignError(f"the calibration {error}: make it again.") from None
        return cls(found["reference_rank"], found["n_gallery"], found["n_images"], float(found["prior"]), **tails)

    def _read(self, scores: Any, n_gallery: int | None, what: str) -> NDArray[np.float64]:
        values = np.asarray(scores, np.float64)
        if values.ndim not in (1, 2) or np.isnan(values).any():
            raise ClipAlignError(f"scores must be numbers [K] or [Q, K], got shape {values.shape}.")
        if self.relative is None or values.shape[-1] < self.reference_rank:
            return getattr(self.flat, what)(values, self.prior, self._growth(n_gallery))
        reference = values[..., self.reference_rank - 1 : self.reference_rank]
        alone = ~np.isfinite(reference) | ~np.isfinite(values)
        relative = statistic(np.where(alone, 0, values), np.where(alone, 0, reference))
        return np.where(
            alone,
            getattr(self.flat, what)(values, self.prior, self._growth(n_gallery)),
            getattr(self.relative, what)(relative, self.prior),
        )

    def _growth(self, n_gallery: int | None) -> float:
        return 1.0 if n_gallery is None else check_integer("n_gallery", n_gallery) / self.n_gallery


def _checked(gallery: Rows, views: Any, rows: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit views `[V, S, n, k]` and the positions of their images."""
    queries = np.asarray(views.detach().cpu().float().numpy() if hasattr(views, "detach") else views, np.float32)
    queries = queries[:, None] if queries.ndim == 3 else queries
    positions = as_positions(rows, len(gallery), "rows")
    if queries.ndim != 4 or queries.shape[-1] != gallery.width or len(queries) != len(positions):
        raise ClipAlignError(
            f"views have shape {queries.shape} for {len(positions)} rows of {gallery.width} dimensions: give "
            "[V, n, k] or [V, S, n, k]."
        )
    if len(np.unique(positions)) < len(positions):
        raise ClipAlignError("rows holds a position twice: give each sampled image once, with all its views.")
    if min(len(positions), len(gallery)) < FEWEST_IMAGES or not queries.size:
        raise ClipAlignError(
            f"{len(positions)} sampled images of {len(gallery)} are too few to calibrate scores: it takes "
            f"{FEWEST_IMAGES}."
        )
    lengths = np.linalg.norm(queries, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise ClipAlignError("the views hold NaN or infinite values: embed them again.")
    return queries / np.maximum(lengths, np.finfo(np.float32).tiny), positions


def _searches(
    gallery: Rows, queries: NDArray[np.float32], positions: NDArray[np.int64], numbers: NDArray, depth: int
) -> Iterator[RankedViews]:
    """The searches of the views, strength by strength."""
    originals = gallery.take(positions)
    for views in queries.swapaxes(0, 1):
        own = np.einsum("vnk,vk->vn", views, originals).astype(np.float64)
        yield RankedViews(own, _others(gallery, views, positions, numbers, depth))


def _others(
    gallery: Rows, views: NDArray[np.float32], positions: NDArray[np.int64], numbers: NDArray, depth: int
) -> NDArray[np.float64]:
    """The best scores `[V, n, depth]` of images that do not show the same as the view's own."""
    copies = np.unique(numbers, return_counts=True)[1].max()
    flat, owner = views.reshape(-1, views.shape[-1]), positions.repeat(views.shape[1])
    best = np.full((len(flat), depth), -np.inf)
    for start in range(0, len(flat), _QUERIES_PER_PASS):
        part = slice(start, start + _QUERIES_PER_PASS)
        found = exact_neighbours(gallery, flat[part], depth + int(copies))
        hidden = numbers[found.rows] == numbers[owner[part]][:, None]
        scores = np.where(hidden | (found.rows < 0), -np.inf, found.scores)
        scores = -np.sort(-scores, axis=1)[:, :depth]
        best[part, : scores.shape[1]] = scores
    return best.reshape(*views.shape[:2], depth)


def _recall(tails: Tails, prior: float) -> float:
    """Right hits that are kept, as a mean over several false discovery rates."""
    kept = [tails.right[tails.knots >= tails.lowest(fdr, prior)].max(initial=0) for fdr in _COMPARED_AT]
    return float(np.mean(kept))
