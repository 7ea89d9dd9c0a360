"""Choosing a band on labelled validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import EqualRows
from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.evaluation.tasks import JudgedPairs, LabelledRetrieval, RetrievalTask, score_retrieval
from hf_clipalign.isoclip.bands import Band
from hf_clipalign.isoclip.spectrum import decompose

_K_TOP_SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)
_K_BOTTOM_SHARES = (0, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2)
_FEW = (0, 1, 2, 4)
_LARGEST_SHARE_REMOVED = 0.85


@dataclass(frozen=True)
class BandSearch:
    """What `search_band` found.

    Attributes:
        band (`(k_top, k_bottom)`): the best one on the validation data.
        score (`float`): its score there. It is optimistic: report a score on other data.
        untrimmed_score (`float`): the score of `(0, 0)` on the same data.
        metric (`str`): what was maximised.
        grid (`dict`): every band tried and its score.

    Example:
        ```python
        >>> search = search_band(retrieval_task(features), encoder, k_top=(0, 1), k_bottom=(0, 48))
        >>> sorted(search.grid)
        [(0, 0), (0, 48), (1, 0), (1, 48)]
        >>> search.score >= search.untrimmed_score
        True
        ```
    """

    band: Band
    score: float
    untrimmed_score: float
    metric: str
    grid: dict[Band, float]


def search_band(
    validation: RetrievalTask | Sequence[RetrievalTask],
    encoder: DualEncoder,
    *,
    modality: Modality = "image",
    metric: str = "map",
    k_top: Sequence[int] | None = None,
    k_bottom: Sequence[int] | None = None,
) -> BandSearch:
    """Tries a grid of bands on features that were extracted once.

    The features are rotated into the singular directions once, so that a cell of the grid costs two matrix products.
    On equal scores the band that removes less wins. Choose on one set of classes and report on another one: the score
    of the winner on the data it was chosen on is too good.

    Args:
        validation (`LabelledRetrieval`, `JudgedPairs`, or a sequence of them): the tasks; their scores are averaged.
        encoder (`DualEncoder`): the backbone that the features come from.
        modality (`"image"` or `"text"`, *optional*, defaults to `"image"`): what the features are.
        metric (`str`, *optional*, defaults to `"map"`): key of `retrieval_metrics` to maximise.
        k_top, k_bottom (`Sequence[int]`, *optional*): counts to try. Default: 0, 1, 2, 4 and fractions of the rank.

    Returns:
        `BandSearch`.

    Raises:
        `ClipAlignError`: no task, features of another width than the backbone's, an unknown metric, or no valid band.

    Example:
        ```python
        >>> from hf_clipalign.evaluation import retrieval_task, search_band, split_by_class
        >>> chosen_on, reported_on = split_by_class(retrieval_task(features))
        >>> search = search_band(chosen_on, encoder, k_top=(0, 1, 2), k_bottom=(0, 16, 48))
        >>> len(search.grid), search.band in search.grid
        (9, True)
        ```
    """
    tasks = [validation] if isinstance(validation, (LabelledRetrieval, JudgedPairs)) else list(validation)
    projector = encoder.projector(modality).matrix.detach().float()
    _check_tasks(tasks, projector.shape[1])
    spectrum = decompose(encoder.image_projector.matrix, encoder.text_projector.matrix)
    directions = (spectrum.U if modality == "image" else spectrum.V).float()
    mapped = projector @ directions
    rotated = [(task.query @ directions.to(task.query), task.gallery @ directions.to(task.gallery)) for task in tasks]
    copies = [EqualRows(task.gallery) for task in tasks]

    def score(band: Band) -> float:
        kept = slice(band[0], len(spectrum.S) - band[1])
        weight = mapped[:, kept].T
        return sum(
            _score(task, query[:, kept] @ weight.to(query), equal.tie(gallery[:, kept] @ weight.to(gallery)), metric)
            for task, (query, gallery), equal in zip(tasks, rotated, copies, strict=True)
        ) / len(tasks)

    grid = {band: score(band) for band in _bands(len(spectrum.S), k_top, k_bottom)}
    best = max(grid, key=lambda band: (grid[band], -sum(band)))
    return BandSearch(best, grid[best], grid.get((0, 0), score((0, 0))), metric, grid)


def _score(task: RetrievalTask, query: Tensor, gallery: Tensor, metric: str) -> float:
    scores = score_retrieval(task, query, gallery)
    if metric not in scores:
        raise ClipAlignError(f"unknown metric {metric!r}: choose from {', '.join(scores)}.")
    return scores[metric]


def _bands(rank: int, k_top: Sequence[int] | None, k_bottom: Sequence[int] | None) -> list[Band]:
    tops = sorted({*_FEW, *(round(share * rank) for share in _K_TOP_SHARES)}) if k_top is None else k_top
    bottoms = sorted({round(share * rank) for share in _K_BOTTOM_SHARES}) if k_bottom is None else k_bottom
    limit = _LARGEST_SHARE_REMOVED * rank if k_top is None and k_bottom is None else rank - 1
    bands = [(top, bottom) for top in tops for bottom in bottoms if top >= 0 and bottom >= 0 and top + bottom <= limit]
    if not bands:
        raise ClipAlignError(f"no band of the grid leaves anything of {rank} directions: give smaller counts.")
    return bands


def _check_tasks(tasks: list[RetrievalTask], width: int) -> None:
    if not tasks:
        raise ClipAlignError("no validation task was given: a band is chosen on at least one.")
    for task in tasks:
        for name, features in (("query", task.query), ("gallery", task.gallery)):
            if features.shape[1] != width:
                raise ClipAlignError(
                    f"the {name} features have {features.shape[1]} dimensions, but this backbone has {width} before "
                    "its projector: give features before the projector."
                )
