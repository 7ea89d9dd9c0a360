"""The confidence of an index: measured on a sample of its images, read again, and kept beside the index."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.answers.pixels import fingerprints, is_installed, is_same_image
from hf_clipalign.search.calibration import FEWEST_IMAGES, Calibration
from hf_clipalign.search.duplicates import DuplicatePairs, duplicate_groups
from hf_clipalign.search.exact import exact_neighbours
from hf_clipalign.search.folded import unit
from hf_clipalign.search.heads import ALIGNED, RAW

if TYPE_CHECKING:
    from hf_clipalign.features import ViewFeatures

SETTING = "calibration"
STRENGTHS = (0.125, 0.25, 0.5)
"""Of the views that stand for the same image again."""
_BAND_STRENGTHS = (0.25, 0.5, 0.75)
_UNCHANGED = 0.99
"""Cosine of an image that is read again with what the index holds of it."""
GROWN = 1.5
NOT_MEASURED, UP_TO_DATE, STALE = "not measured", "up to date", "stale: the index has grown by half"
_FDR = 0.05
_NEAR, _COPIES = 0.9, 4


class Calibrating:
    """The methods `calibrate` and `calibration` of an index."""

    def calibration(self: Any, head: str = RAW) -> Calibration | None:
        """What the scores of a head mean in this collection; None if that was not measured, or for another band.

        Args:
            head (`str`, *optional*, defaults to `"raw"`): one of `heads`.
        """
        stored = self.setting(SETTING)
        known, parsed = self.__dict__.get("_calibrations", (None, {}))
        if known is not stored:
            parsed = _parsed(stored)
            self.__dict__["_calibrations"] = stored, parsed
        if head == ALIGNED and parsed and stored.get("band") != (None if self.band is None else list(self.band)):
            return None
        return parsed.get(head)

    @property
    def head_choice(self: Any) -> str | None:
        """Why the band is what it is, where it was chosen on views of the images and not set since."""
        stored = self.setting(SETTING)
        choice = stored.get("choice") if isinstance(stored, dict) else None
        is_own = isinstance(choice, str) and stored.get("band") == (None if self.band is None else list(self.band))
        return choice if is_own else None

    @property
    def is_calibration_due(self: Any) -> bool:
        """Whether `calibrate` is to run: never done, another band since, or half as many images more."""
        return len(self) >= FEWEST_IMAGES and any(state["state"] != UP_TO_DATE for state in self.confidence_states())

    def confidence_states(self: Any) -> list[dict[str, Any]]:
        """What was measured of each head: `head`, `images` (in the sample), `of` (in the index then), `threshold` (the
        lowest cosine from which on at most 5 % of hits are expected to be false; None where the score alone does not
        tell), `found` (the share of views that are found at that rate), `state`.
        """
        states = []
        for head in self.heads:
            state = dict.fromkeys(("images", "of", "threshold", "found"))
            state |= {"head": head, "state": NOT_MEASURED}
            if (known := self.calibration(head)) is not None:
                is_stale = len(self) > GROWN * known.n_gallery
                threshold = known.threshold(_FDR)
                state |= {"images": known.n_images, "of": known.n_gallery, "found": _found_at(known)}
                state |= {"threshold": threshold if threshold <= 1 else None}
                state["state"] = STALE if is_stale else UP_TO_DATE
            states.append(state)
        return states

    def calibrate(
        self: Any,
        *,
        choose_band: bool = False,
        replace_band: bool = False,
        n_images: int = 500,
        seed: int = 0,
        batch_size: int = 64,
        num_workers: int | None = None,
        progress: bool = True,
    ) -> list[str]:
        """Measures what scores mean, on augmented views of a sample of the images, which are read again.

        Args:
            choose_band (`bool`, *optional*, defaults to `False`): where no band is set, choose one on the same views,
                and set it if it helps; see `hf_clipalign.evaluation.band_from_views`.
            replace_band (`bool`, *optional*, defaults to `False`): choose one also where a band is set, which is
                replaced, or removed if trimming does not help.
            n_images (`int`, *optional*, defaults to `500`): images in the sample; each is embedded 7 times, 9 to
                choose a band.
            seed (`int`, *optional*, defaults to `0`): of the sample and the views.
            batch_size (`int`, *optional*, defaults to `64`): images per pass.
            num_workers (`int`, *optional*): processes that read images.
            progress (`bool`, *optional*, defaults to `True`): show a progress bar.

        Returns:
            `list[str]`: what was found, one line each.

        Raises:
            `ClipAlignError`: another process writes to the index, or the model cannot be loaded or is another one.
        """
        if len(self) < FEWEST_IMAGES:
            few = f"{counted(len(self), 'image')} {'is' if len(self) == 1 else 'are'} too few"
            return [f"no confidence: {few} to measure it, which takes {FEWEST_IMAGES}."]
        choose_band = replace_band or (choose_band and self.band is None)
        strengths = sorted({*STRENGTHS, *(_BAND_STRENGTHS if choose_band else ())})
        try:
            views, rows = _sampled(self, n_images, strengths, seed, batch_size, num_workers, progress)
        except ClipAlignError as error:
            return [f"no confidence: {error}"]
        choice = self.head_choice
        if choose_band:
            choice = _chosen(self, _of_strengths(views, _BAND_STRENGTHS), seed)
        lines = [f"head: {choice}"] if choose_band else []
        if len(rows) < FEWEST_IMAGES:
            only = f"{counted(len(rows), 'sampled image')} {'is' if len(rows) == 1 else 'are'} there"
            return [*lines, f"no confidence: only {only} and as indexed."]
        same = _same_images(self, rows)
        measured = {
            head: Calibration.fit(self.embeddings(head), _embedded(self, head, views), rows, same=same)
            for head in self.heads
        }
        heads = {head: json.loads(one.to_json()) for head, one in measured.items()}
        band = None if self.band is None else list(self.band)
        self.put_setting(SETTING, {"band": band, "heads": heads, "choice": choice})
        return [*lines, *(_summary(head, one) for head, one in measured.items())]


def _parsed(stored: Any) -> dict[str, Calibration]:
    """The calibrations of a setting by head; none of one that cannot be read, which is measured again."""
    heads = stored.get("heads") if isinstance(stored, dict) else None
    try:
        return {name: Calibration.from_json(json.dumps(one)) for name, one in (heads or {}).items()}
    except (ClipAlignError, AttributeError):
        return {}


def _sampled(
    index: Any,
    n_images: int,
    strengths: list[float],
    seed: int,
    batch_size: int,
    workers: int | None,
    progress: bool,
) -> tuple[ViewFeatures, NDArray[np.int64]]:
    """Views of random images that are as they were when they were indexed, and the rows of these."""
    from hf_clipalign.data import ImageSource
    from hf_clipalign.features import view_features

    chosen = np.sort(np.random.default_rng(seed).permutation(len(index))[:n_images])
    paths = [index.files.path(int(index.files.of_image(int(row))[0])) for row in chosen]
    source = ImageSource(paths, ids=map(str, chosen), name=str(index.path))
    loaded = index._checked_model()
    views = view_features(
        loaded.encoder,
        source,
        loaded.processor,
        n_items=len(chosen),
        strengths=strengths,
        seed=seed,
        batch_size=batch_size,
        num_workers=workers,
        progress=progress,
    )
    rows = chosen[views.rows]
    matrix = index.projector(RAW)
    again = unit(_stored_form(index, views.originals.numpy()) @ matrix.T)
    as_before = np.einsum("nk,nk->n", again, index.embeddings(RAW).take(rows)) >= _UNCHANGED
    kept = np.flatnonzero(as_before)
    return _select(views, kept), rows[kept]


def _select(views: ViewFeatures, kept: NDArray[np.int64]) -> ViewFeatures:
    from dataclasses import replace

    return replace(views, originals=views.originals[kept], views=views.views[kept], rows=views.rows[kept])


def _of_strengths(views: ViewFeatures, wanted: tuple[float, ...]) -> ViewFeatures:
    from dataclasses import replace

    places = [place for place, strength in enumerate(views.strengths) if strength in wanted]
    return replace(views, views=views.views[:, places], strengths=wanted)


def _stored_form(index: Any, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features as rows of the index: of a model whose head is not linear, with its own embeddings beside them."""
    if index.description["linear"]:
        return features
    import torch

    from hf_clipalign.features import project_image_features

    own = project_image_features(index._checked_model().encoder, torch.from_numpy(features))
    return np.concatenate([features, own.numpy()], axis=1)


def _embedded(index: Any, head: str, views: ViewFeatures) -> NDArray[np.float32]:
    """Embeddings `[V, S, n, k]` of the views that stand for the same image."""
    values = _of_strengths(views, STRENGTHS).views.numpy()
    rows = _stored_form(index, values.reshape(-1, values.shape[-1])) @ index.projector(head).T
    return rows.reshape(*values.shape[:-1], -1)


def _chosen(index: Any, views: ViewFeatures, seed: int) -> str:
    """Sets the band that is chosen, if one can be, and says why."""
    from hf_clipalign.evaluation import band_from_views

    choice = band_from_views(views, index._checked_model().encoder, seed=seed)
    if choice.band is not None or (choice.grid and index.band is not None):
        index.set_head(choice.band)
    return choice.reason


def _same_images(index: Any, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Numbers `[N]` that sampled images share with those that show the same in pixels; None without the library."""
    if not is_installed():
        return None
    embeddings = index.embeddings(RAW)
    near = exact_neighbours(embeddings, embeddings.take(rows), _COPIES + 1)
    pairs = [
        (int(row), int(other))
        for row, others, scores in zip(rows, near.rows, near.scores, strict=True)
        for other, score in zip(others, scores, strict=True)
        if other not in (row, -1) and score >= _NEAR
    ]
    first_file = {row: index.files.path(int(index.files.of_image(row)[0])) for pair in pairs for row in pair}
    known = fingerprints(first_file.values())
    same = [pair for pair in pairs if is_same_image(first_file[pair[0]], first_file[pair[1]], known)]
    numbers = np.arange(len(embeddings))
    first, second = np.array(same, np.int64).reshape(-1, 2).T
    for group in duplicate_groups(len(embeddings), DuplicatePairs(first, second, np.ones(len(first), np.float32))):
        numbers[group] = group[0]
    return numbers


def _found_at(calibration: Calibration) -> float:
    """The share of views that are found again where at most 5 % of hits are expected to be false."""
    tails = calibration.flat if calibration.relative is None else calibration.relative
    cut = tails.lowest(_FDR, calibration.prior)
    return float(tails.right[tails.knots >= cut].max(initial=0))


def _summary(head: str, calibration: Calibration) -> str:
    return (
        f"confidence ({head}): measured on views of {calibration.n_images:,} images; "
        f"{100 * _found_at(calibration):.0f} % of them are found again where at most {100 * _FDR:.0f} % of hits are "
        "false."
    )
