"""Answers: the best images by plain CLIP, and by the aligned head where it can answer, with what moved."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.asking import Asked
from hf_clipalign.app.bands import Band
from hf_clipalign.app.rankings import Ranked, best_rows, compared, ranked, summary
from hf_clipalign.app.view import View
from hf_clipalign.search.answers.filters import Filter, parse_conditions
from hf_clipalign.search.answers.hits import NO_MATCH, as_csv
from hf_clipalign.search.engine import confidences_of
from hf_clipalign.search.heads import ALIGNED, RAW

GOOD = 0.5
"""Below this confidence of the best image there is no good match."""


@dataclass(frozen=True)
class Column:
    """The best images by one head.

    Attributes:
        head (`str`): `"raw"` or `"aligned"`.
        hits (`list[Ranked]`): best first, without those below the least confidence.
        is_calibrated (`bool`): whether they have a confidence; else the least confidence leaves out none.
        note (`str`): why there is no good match; empty if there is one, or nothing is known.
    """

    head: str
    hits: list[Ranked]
    is_calibrated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Answered:
    """What is shown for a query.

    Attributes:
        query (`str`): as it was understood.
        columns (`list[Column]`): plain CLIP; and the aligned head where it can answer.
        moved (`str`): one line on what moved.
        is_visual (`bool`): whether the query is of images alone.
        is_single (`bool`): whether it is one image, so that its scores have a confidence where that is known.
        band (`(int, int)`): of the aligned head.
        least (`float`): the least confidence that was asked for.
    """

    query: str
    columns: list[Column]
    moved: str
    is_visual: bool
    is_single: bool
    band: Band
    least: float = 0.0


def answer(
    view: View, asked: Asked, band: Band, top_k: int, conditions: str = "", min_confidence: float = 0.0
) -> Answered:
    """The best images by both heads.

    Args:
        view (`View`): the collection.
        asked (`Asked`): the query.
        band (`(k_top, k_bottom)`): of the aligned head.
        top_k (`int`): how many images of each head.
        conditions (`str`, *optional*): which files may be found, such as `path=holidays/* since=2024`.
        min_confidence (`float`, *optional*, defaults to `0.0`): leave out images below, where confidences are known.

    Raises:
        `ClipAlignError`: a condition that cannot be read, or a band that keeps nothing.
    """
    allowed = allowed_rows(view, conditions)
    nothing = "no image meets the conditions." if conditions.strip() else "there is no other image."
    n_searched = max(1, int(allowed.sum()))
    allowed[asked.rows] = False
    plain = view.plain_scores(asked.vector)
    if not asked.is_visual:
        column = _column(RAW, ranked(plain, top_k, allowed), None, min_confidence, nothing)
        return Answered(asked.text, [column], "", False, False, band, min_confidence)
    aligned = view.bands.scores(asked.images, band)
    before, after = compared(plain, aligned, top_k, allowed)
    columns = []
    for head, hits, scores in ((RAW, before, plain), (ALIGNED, after, aligned)):
        calibration = view.calibration(head, band) if asked.is_single else None
        confidences = _confidences(calibration, scores, len(hits), allowed, n_searched)
        columns.append(_column(head, hits, confidences, min_confidence, nothing))
    moved = summary(columns[-1].hits, top_k) if columns[-1].hits else ""
    return Answered(asked.text, columns, moved, True, asked.is_single, band, min_confidence)


def allowed_rows(view: View, conditions: str) -> NDArray[np.bool_]:
    """Which images have a file that meets all conditions, `[N]`.

    Raises:
        `ClipAlignError`: a condition that cannot be read.
    """
    try:
        words = shlex.split(conditions)
    except ValueError as error:
        raise ClipAlignError(f"the conditions cannot be read ({error}): close the quotation mark.") from None
    if not words:
        return np.ones(len(view), bool)
    allowed, files = np.zeros(len(view), bool), cast(Any, view.files)
    allowed[view.files.images[Filter.of(parse_conditions(words)).mask(files)]] = True
    return allowed


def answer_csv(view: View, answered: Answered) -> str:
    """All hits of an answer, one line each."""
    rows = []
    for column in answered.columns:
        for hit in column.hits:
            paths = [view.files.path(number) for number in view.files_of(hit.row)]
            confidence = "" if hit.confidence is None else f"{hit.confidence:.4g}"
            other = "" if hit.other_rank is None else str(hit.other_rank)
            rows.append([hit.rank, paths[0], f"{hit.score:.6g}", confidence, column.head, other, paths[1:]])
    return as_csv(("rank", "path", "score", "confidence", "head", "rank_by_the_other_head", "also"), rows)


def _confidences(
    calibration: Any, scores: NDArray[np.float32], count: int, allowed: NDArray[np.bool_], n_searched: int
) -> list[float] | None:
    """The confidence of the best images, which may depend on how high the next ones score."""
    if calibration is None or not count:
        return None
    best = scores[best_rows(scores, max(count, calibration.reference_rank), allowed)]
    return confidences_of(calibration, best, n_searched)[:count]


def _column(head: str, hits: list[Ranked], confidences: list[float] | None, least: float, nothing: str) -> Column:
    if not hits:
        return Column(head, hits, note=f"{NO_MATCH}: {nothing}")
    if confidences is None:
        return Column(head, hits)
    best = f"the best image has a confidence of {100 * confidences[0]:.0f} %."
    hits = [replace(hit, confidence=value) for hit, value in zip(hits, confidences, strict=True) if value >= least]
    if not hits:
        return Column(head, hits, True, f"{NO_MATCH}: {best}")
    return Column(head, hits, True, "" if confidences[0] >= GOOD else f"{NO_MATCH}: {best}")
