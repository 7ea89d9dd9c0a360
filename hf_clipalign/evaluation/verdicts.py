"""Whether an adapter is worth having: one sentence, from images that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics import paired_bootstrap

_FEWEST_DIFFERING = 6  # 2 · 0.5⁵ > 0.05 > 2 · 0.5⁶


@dataclass(frozen=True)
class Verdict:
    """An adapter against the plain model on the same held-out images; `str` gives the sentence.

    Args:
        difference (`float`): share of right images with the adapter minus that without it, in [-1, 1].
        low (`float`), high (`float`): its 95 % bootstrap interval over the images.
        n_images (`int`): how many images.
        teacher (`str`, *optional*): what stood in for labels: a model, whose opinion is not the truth.
        n_differing (`int`, *optional*): images that only one of the two is right on. With fewer than 6 no sign test
            rejects chance at 5 %, whatever the bootstrap says.

    Example:
        ```python
        >>> Verdict(0.02, -0.01, 0.05, 120).outcome
        'not told apart'
        ```
    """

    difference: float
    low: float
    high: float
    n_images: int
    teacher: str | None = None
    n_differing: int | None = None

    @property
    def outcome(self) -> str:
        """`"better"`, `"worse"`, or `"not told apart"`: the interval holds 0, or too few images differ."""
        if self.n_differing is not None and self.n_differing < _FEWEST_DIFFERING:
            return "not told apart"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not told apart"

    def __str__(self) -> str:
        words = {"better": "better than", "worse": "worse than", "not told apart": "not told apart from"}
        named = "" if self.teacher == "teacher" else f" {self.teacher}"  # the built-in one's folder has that name
        what = "accuracy" if self.teacher is None else f"agreement with the teacher{named}"
        caveat = "" if self.teacher is None else " Without labels this is agreement only, not accuracy."
        excludes_zero = self.low > 0 or self.high < 0
        if excludes_zero and self.outcome == "not told apart":
            caveat = f" They differ on {self.n_differing} images only, too few to tell.{caveat}"
        interval = f"95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return (
            f"On {self.n_images:,} held-out images the adapter is {words[self.outcome]} the plain student: {what} "
            f"{100 * self.difference:+.1f} points ({interval}).{caveat}"
        )


def paired_verdict(adapted: Any, plain: Any, targets: Any, teacher: str | None = None, seed: int = 0) -> Verdict:
    """Compares two models image by image.

    Args:
        adapted (array `[N, C]`): logits with the adapter.
        plain (array `[N, C]`): logits of the same images without it.
        targets (array `[N]`): class numbers: labels, or what a teacher says.
        teacher (`str`, *optional*): whose opinion `targets` are. Default: they are labels.
        seed (`int`, *optional*, defaults to 0): of the paired bootstrap.

    Returns:
        `Verdict`: a class that ties with the right one counts as wrong, as in `top_k_accuracy`.

    Raises:
        `ClipAlignError`: no images, or lengths that differ.

    Example:
        ```python
        >>> logits = torch.eye(3).repeat(20, 1)
        >>> str(paired_verdict(logits, -logits, [0, 1, 2] * 20))[:60]
        'On 60 held-out images the adapter is better than the plain s'
        ```
    """
    scores = [_right(torch.as_tensor(logits), torch.as_tensor(targets)) for logits in (adapted, plain)]
    difference, low, high = paired_bootstrap(scores[0], scores[1], seed=seed)
    return Verdict(difference, low, high, len(scores[0]), teacher, int((scores[0] != scores[1]).sum()))


def _right(logits: torch.Tensor, targets: torch.Tensor) -> Any:
    if logits.dim() != 2 or len(logits) != len(targets) or not len(targets):
        raise ClipAlignError(f"{len(targets)} targets for logits of shape {list(logits.shape)}: give one for each row")
    own = logits.gather(1, targets.long()[:, None])
    return ((logits >= own).sum(dim=1) == 1).double().numpy()
