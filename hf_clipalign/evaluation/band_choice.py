"""A band for any model without labels, and whether to trim at all, from augmented views of the user's own items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.numbers import check_number
from hf_clipalign.backbones.dual_encoder import DualEncoder
from hf_clipalign.data import ImageSource, TextSource
from hf_clipalign.evaluation.band_search import BandScores, band_grid, view_tasks
from hf_clipalign.evaluation.heads import comparison_heads
from hf_clipalign.evaluation.tasks import score_retrieval
from hf_clipalign.features.views import STRENGTHS, ViewFeatures, view_features
from hf_clipalign.isoclip.bands import Band
from hf_clipalign.metrics import bootstrap_interval

FLOOR = 0.25
_FEWEST = 40


@dataclass(frozen=True)
class BandChoice:
    """A band that was chosen without labels, or the advice not to trim.

    Attributes:
        band (`(k_top, k_bottom)`, *optional*): None: do not trim.
        reason (`str`): one sentence with the numbers behind it.
        gain (`float`), gain_interval (`(low, high)`): mean average precision of the views minus that of the model's
            own head, with its 95 % interval over items, each measured under the band chosen on the other half of them.
        strengths (`tuple[float, ...]`): of the views that were used.
        raw (`dict`): strength to mean average precision of the views under the model's own head.
        grid (`dict`): every band and the mean average precision of the views.
        n_items (`int`): items in the sample.

    Example:
        ```python
        >>> choice = BandChoice(None, "too few images", 0.0, (0.0, 0.0), (0.25,), {0.25: 0.9}, {}, 12)
        >>> choice.band is None
        True
        ```
    """

    band: Band | None
    reason: str
    gain: float
    gain_interval: tuple[float, float]
    strengths: tuple[float, ...]
    raw: dict[float, float]
    grid: dict[Band, float]
    n_items: int


def choose_band_without_labels(
    encoder: DualEncoder,
    source: ImageSource | TextSource | Sequence[str],
    processor: Any,
    *,
    n_items: int = 500,
    strengths: Sequence[float] = STRENGTHS,
    floor: float = FLOOR,
    seed: int = 0,
    batch_size: int = 64,
    num_workers: int | None = None,
    progress: bool = True,
) -> BandChoice:
    """Chooses a band on augmented views of a sample of the user's own images or texts; no labels are looked at.

    Args:
        encoder (`DualEncoder`): the backbone.
        source (`ImageSource`, `TextSource` or `Sequence[str]`): images or texts.
        processor (`ProcessorMixin`, image processor or tokenizer): the checkpoint's.
        n_items (`int`, *optional*, defaults to `500`): items in the sample; each is embedded 1 + 2 S times.
        strengths (`Sequence[float]`, *optional*, defaults to `(0.25, 0.5, 0.75)`): of the views, S of them.
        floor (`float`, *optional*, defaults to `0.25`): see `band_from_views`.
        seed (`int`, *optional*, defaults to `0`): of the sample, the views and the bootstrap.
        batch_size (`int`, *optional*, defaults to `64`): items per pass.
        num_workers (`int`, *optional*): processes that read images.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `BandChoice`.

    Raises:
        `ClipAlignError`: as `view_features`.

    Example:
        ```python
        >>> from hf_clipalign.evaluation import choose_band_without_labels
        >>> choice = choose_band_without_labels(encoder, images, processor, progress=False)
        >>> choice.band is None, choice.reason
        (True, 'do not trim: 24 items are too few to choose a band, which takes 40.')
        ```
    """
    views = view_features(
        encoder,
        source,
        processor,
        n_items=n_items,
        strengths=strengths,
        seed=seed,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=progress,
    )
    return band_from_views(views, encoder, floor=floor, seed=seed)


def band_from_views(views: ViewFeatures, encoder: DualEncoder, *, floor: float = FLOOR, seed: int = 0) -> BandChoice:
    """Chooses a band on views whose features are at hand.

    Views up to the strongest at which the model's own head still finds a quarter of the images (`floor`) are used
    together. Of all bands whose mean average precision is within one standard error of the best one's, the one that
    removes least is chosen (Breiman et al. 1984, the rule of one standard error). The same is done on each half of the
    items, and its gain over the model's own head measured on the other half: if the 95 % interval of that gain
    includes 0, the advice is not to trim.

    Args:
        views (`ViewFeatures`): from `view_features`; items should differ from each other, since any other item counts
            as wrong.
        encoder (`DualEncoder`): the backbone that they come from.
        floor (`float`, *optional*, defaults to `0.25`): mean average precision of views under the model's own head
            below which a strength is not used.
        seed (`int`, *optional*, defaults to `0`): of the halves and the bootstrap.

    Returns:
        `BandChoice`.

    Raises:
        `ClipAlignError`: features of another width than the backbone's, a floor out of range.

    Example:
        ```python
        >>> from hf_clipalign.evaluation import band_from_views
        >>> from hf_clipalign.features import view_features
        >>> views = view_features(model, images, processor, progress=False)
        >>> band_from_views(views, encoder).n_items
        24
        ```
    """
    check_number("floor", floor, "a number from 0 to 1", least=0, most=1)
    raw_head = comparison_heads(encoder, views.modality, names=["raw"])[0]
    tasks = view_tasks(views)
    own = [
        score_retrieval(task, *raw_head.embed(task.query, task.gallery), per_query=True)["per_query"]["map"]
        for task in tasks
    ]
    raw = {strength: float(np.mean(values)) for strength, values in zip(views.strengths, own, strict=True)}
    used = [place for place, strength in enumerate(views.strengths) if raw[strength] >= floor]
    strengths = tuple(views.strengths[place] for place in used)
    problem = None
    if len(views) < _FEWEST:
        problem = f"{len(views)} items are too few to choose a band, which takes {_FEWEST}."
    elif not used:
        problem = f"the model recognises even weakly changed views too rarely (mAP {100 * max(raw.values()):.1f})."
    if problem is not None:
        return BandChoice(None, f"do not trim: {problem}", 0.0, (0.0, 0.0), strengths, raw, {}, len(views))
    baseline = _per_item([own[place] for place in used], len(views))
    scores = BandScores([tasks[place] for place in used], encoder, views.modality)
    table = {
        band: _per_item([result["per_query"]["map"] for result in scores.of(band, per_query=True)], len(views))
        for band in band_grid(scores.rank)
    }
    band = _plainest(table, np.ones(len(views), bool))
    gains = _held_out_gains(table, baseline, seed)
    gain, low, high = bootstrap_interval(gains, seed=seed)
    reason = _reason(band, gain, (low, high), float(baseline.mean()), len(views))
    trim = low > 0 and band != (0, 0)
    grid = {tried: float(values.mean()) for tried, values in table.items()}
    return BandChoice(band if trim else None, reason, gain, (low, high), strengths, raw, grid, len(views))


def _per_item(values: Sequence[NDArray], n: int) -> NDArray[np.float64]:
    """Means over strengths and views, `[n]`."""
    return np.mean([one.reshape(n, -1).mean(1) for one in values], axis=0)


def _plainest(table: dict[Band, NDArray[np.float64]], items: NDArray[np.bool_]) -> Band:
    """The band that removes least of those within one standard error of the best."""
    best = max(table, key=lambda band: (table[band][items].mean(), -sum(band)))
    top = table[best][items]

    def behind(band: Band) -> bool:
        lost = top - table[band][items]
        return bool(lost.mean() > lost.std() / np.sqrt(len(lost)))

    return min((band for band in table if not behind(band)), key=lambda band: (sum(band), band))


def _held_out_gains(
    table: dict[Band, NDArray[np.float64]], baseline: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Gain of each item under the band that was chosen on the half of the items that it is not in."""
    first = np.zeros(len(baseline), bool)
    first[np.random.default_rng(seed).permutation(len(baseline))[::2]] = True
    bands = [_plainest(table, half) for half in (~first, first)]
    return np.where(first, table[bands[0]], table[bands[1]]) - baseline


def _reason(band: Band, gain: float, interval: tuple[float, float], raw: float, n: int) -> str:
    measured = (
        f"on views of {n:,} items that it was not chosen on, the band gains {100 * gain:+.1f} mAP over "
        f"{100 * raw:.1f} "
        f"(95 % interval {100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"
    )
    if band == (0, 0) or interval[0] <= 0:
        return f"do not trim: {measured}."
    return f"band {band}: {measured}."
