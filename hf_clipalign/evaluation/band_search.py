"""Choosing a band on labelled validation data, or on augmented views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import EqualRows
from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.evaluation.tasks import JudgedPairs, LabelledRetrieval, RetrievalTask, score_retrieval
from hf_clipalign.features.views import ViewFeatures
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
    validation: RetrievalTask | Sequence[RetrievalTask] | None,
    encoder: DualEncoder,
    *,
    views: ViewFeatures | None = None,
    modality: Modality = "image",
    metric: str = "map",
    k_top: Sequence[int] | None = None,
    k_bottom: Sequence[int] | None = None,
) -> BandSearch:
    """Tries a grid of bands on features that were extracted once.

    The features are rotated into the singular directions once, so that a cell of the grid costs two matrix products.
    On equal scores the band that removes less wins. Choose on one set of classes and report on another one: the score
    of the winner on the data it was chosen on is too good.

    Without labels, views take their place: a view's own image is the one relevant item among the images of the sample.
    The scores are then averaged over the strengths. `choose_band_without_labels` also says whether to trim at all.

    Args:
        validation (`LabelledRetrieval`, `JudgedPairs`, or a sequence of them): the tasks; their scores are averaged.
            None where `views` are given.
        encoder (`DualEncoder`): the backbone that the features come from.
        views (`ViewFeatures`, *optional*): from `view_features`, instead of `validation`.
        modality (`"image"` or `"text"`, *optional*, defaults to `"image"`): what the features are; views say it
            themselves.
        metric (`str`, *optional*, defaults to `"map"`): key of `retrieval_metrics` to maximise.
        k_top, k_bottom (`Sequence[int]`, *optional*): counts to try. Default: 0, 1, 2, 4 and fractions of the rank.

    Returns:
        `BandSearch`.

    Raises:
        `ClipAlignError`: no task, tasks and views together, features of another width than the backbone's, an unknown
            metric, or no valid band.

    Example:
        ```python
        >>> from hf_clipalign.evaluation import retrieval_task, search_band, split_by_class
        >>> chosen_on, reported_on = split_by_class(retrieval_task(features))
        >>> search = search_band(chosen_on, encoder, k_top=(0, 1, 2), k_bottom=(0, 16, 48))
        >>> len(search.grid), search.band in search.grid
        (9, True)
        ```
    """
    if views is not None:
        if validation is not None:
            raise ClipAlignError("validation and views were both given: give None for validation, or no views.")
        validation, modality = view_tasks(views), views.modality
    tasks = [validation] if isinstance(validation, (LabelledRetrieval, JudgedPairs)) else list(validation or [])
    scores = BandScores(tasks, encoder, modality)
    grid = {band: scores.mean(band, metric) for band in band_grid(scores.rank, k_top, k_bottom)}
    best = max(grid, key=lambda band: (grid[band], -sum(band)))
    untrimmed = grid[0, 0] if (0, 0) in grid else scores.mean((0, 0), metric)
    return BandSearch(best, grid[best], untrimmed, metric, grid)


def view_tasks(views: ViewFeatures) -> list[LabelledRetrieval]:
    """One retrieval task per strength: a view's own item is the relevant one of the sample; views of an item are
    consecutive queries.

    Args:
        views (`ViewFeatures`): of n items, with S strengths.

    Example:
        ```python
        >>> from hf_clipalign.evaluation.band_search import view_tasks
        >>> from hf_clipalign.features import view_features
        >>> views = view_features(model, images, processor, n_items=6, progress=False)
        >>> [task.query.shape for task in view_tasks(views)]
        [torch.Size([12, 128]), torch.Size([12, 128]), torch.Size([12, 128])]
        ```
    """
    n, _, n_views, width = views.views.shape
    items = np.arange(n)
    return [
        LabelledRetrieval(queries.reshape(-1, width), views.originals, items.repeat(n_views), items)
        for queries in views.views.unbind(1)
    ]


class BandScores:
    """Scores of any band on tasks whose features are rotated into the singular directions once.

    Args:
        tasks (`Sequence[RetrievalTask]`): at least one.
        encoder (`DualEncoder`): the backbone that the features come from.
        modality (`"image"` or `"text"`): what the features are.

    Raises:
        `ClipAlignError`: no task, or features of another width than the backbone's.
    """

    def __init__(self, tasks: Sequence[RetrievalTask], encoder: DualEncoder, modality: Modality) -> None:
        projector = encoder.projector(modality).matrix.detach().float()
        _check_tasks(tasks, projector.shape[1])
        spectrum = decompose(encoder.image_projector.matrix, encoder.text_projector.matrix)
        directions = (spectrum.U if modality == "image" else spectrum.V).float()
        self.tasks, self.rank = tasks, len(spectrum.S)
        self._mapped = projector @ directions
        self._rotated = [
            (task.query @ directions.to(task.query), task.gallery @ directions.to(task.gallery)) for task in tasks
        ]
        self._copies = [EqualRows(task.gallery) for task in tasks]

    def of(self, band: Band, **options: Any) -> list[dict[str, Any]]:
        """The metrics of each task under a band; `options` are those of `retrieval_metrics`."""
        kept = slice(band[0], self.rank - band[1])
        weight = self._mapped[:, kept].T
        return [
            score_retrieval(
                task, query[:, kept] @ weight.to(query), equal.tie(gallery[:, kept] @ weight.to(gallery)), **options
            )
            for task, (query, gallery), equal in zip(self.tasks, self._rotated, self._copies, strict=True)
        ]

    def mean(self, band: Band, metric: str) -> float:
        """The mean of a metric over the tasks.

        Raises:
            `ClipAlignError`: an unknown metric.
        """
        scores = self.of(band)
        if metric not in scores[0]:
            raise ClipAlignError(f"unknown metric {metric!r}: choose from {', '.join(scores[0])}.")
        return sum(result[metric] for result in scores) / len(scores)


def band_grid(rank: int, k_top: Sequence[int] | None = None, k_bottom: Sequence[int] | None = None) -> list[Band]:
    """The bands to try.

    Args:
        rank (`int`): of the spectrum.
        k_top, k_bottom (`Sequence[int]`, *optional*): counts to combine. Default: few, and fractions of the rank, so
            that at most 85 % of the directions are dropped.

    Raises:
        `ClipAlignError`: no combination leaves anything.

    Example:
        ```python
        >>> from hf_clipalign.evaluation.band_search import band_grid
        >>> band_grid(8, k_top=(0, 4), k_bottom=(0, 4))
        [(0, 0), (0, 4), (4, 0)]
        ```
    """
    tops = sorted({*_FEW, *(round(share * rank) for share in _K_TOP_SHARES)}) if k_top is None else k_top
    bottoms = sorted({round(share * rank) for share in _K_BOTTOM_SHARES}) if k_bottom is None else k_bottom
    limit = _LARGEST_SHARE_REMOVED * rank if k_top is None and k_bottom is None else rank - 1
    bands = [(top, bottom) for top in tops for bottom in bottoms if top >= 0 and bottom >= 0 and top + bottom <= limit]
    if not bands:
        raise ClipAlignError(f"no band of the grid leaves anything of {rank} directions: give smaller counts.")
    return bands


def _check_tasks(tasks: Sequence[RetrievalTask], width: int) -> None:
    if not tasks:
        raise ClipAlignError("no validation task was given: a band is chosen on at least one.")
    for task in tasks:
        for name, features in (("query", task.query), ("gallery", task.gallery)):
            if features.shape[1] != width:
                raise ClipAlignError(
                    f"the {name} features have {features.shape[1]} dimensions, but this backbone has {width} before "
                    "its projector: give features before the projector."
                )
