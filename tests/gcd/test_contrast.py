"""Whether a model knows what it looks at: images of its kind, photograph-like flat similarities, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_clipalign import ClipAlignError
from hf_clipalign.gcd import ConceptContrast, concept_contrast

NAMES = [f"concept {number}" for number in range(40)]


def features(own: float, n: int = 60) -> tuple[Tensor, Tensor]:
    """Images that share one direction and differ by `own`, and texts."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 16, generator=generator) + own * torch.randn(n, 16, generator=generator)
    return images, torch.randn(40, 16, generator=generator)


def test_the_contrast_is_that_of_the_definition_also_in_blocks() -> None:
    images, texts = features(1.0)
    cosines = torch.nn.functional.normalize(images.double()) @ torch.nn.functional.normalize(texts.double()).T
    found = concept_contrast(images, texts, NAMES, temperature=0.1)
    assert found.ratio == pytest.approx(float(cosines.std(dim=0).mean() / cosines.std(dim=1).mean()))
    assert found.confidence == pytest.approx(float((cosines / 0.1).softmax(dim=1).amax(dim=1).mean()))
    blocks = concept_contrast(iter(images.split(7)), texts, NAMES, temperature=0.1)
    assert (blocks.ratio, blocks.confidence) == pytest.approx((found.ratio, found.confidence))


def test_images_that_look_alike_are_flat() -> None:
    assert not concept_contrast(*features(1.5), NAMES).is_flat
    assert concept_contrast(*features(0.1), NAMES).is_flat
    assert ConceptContrast(0.55, 0.15).is_flat
    assert not ConceptContrast(0.55, 0.35).is_flat
    assert not ConceptContrast(0.75, 0.02).is_flat


def test_one_image_cannot_be_compared() -> None:
    images, texts = features(1.0)
    with pytest.raises(ClipAlignError, match="1 images cannot be compared"):
        concept_contrast(images[:1], texts, NAMES)


def test_two_images_can_be_compared() -> None:
    """Each of two concepts differs by 0.5 ** 0.5 from image to image; each image's cosines are 1, 0, 0."""
    texts = torch.eye(3)
    found = concept_contrast(texts[:2], texts, NAMES[:3])
    assert found.ratio == pytest.approx((2 * 0.5**0.5 / 3) / 3**-0.5)
    assert not found.is_flat


@pytest.mark.parametrize(
    ("ratio", "confidence", "flat"),
    [
        (0.33, 0.99, True),
        (0.34, 0.99, False),
        (0.34, 0.19, True),
        (0.66, 0.19, True),
        (0.66, 0.21, False),
        (0.67, 0.01, False),
    ],
)
def test_the_limits_are_those_that_are_documented(ratio: float, confidence: float, flat: bool) -> None:
    """Below 1/3, or below 2/3 with a confidence below 0.2."""
    assert ConceptContrast(ratio, confidence).is_flat == flat
