"""Published bands, and the suggestion from the spectrum."""

import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.isoclip import known_bands, known_checkpoints, suggest_band


@pytest.mark.parametrize(
    ("checkpoint", "image", "text"),
    [
        ("openai/clip-vit-base-patch32", (150, 50), (20, 100)),
        ("openai/clip-vit-base-patch16", (200, 50), (10, 50)),
        ("openai/clip-vit-large-patch14", (250, 200), (10, 300)),
        ("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", (50, 50), None),
        ("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", (100, 100), (2, 150)),
        ("timm/PE-Core-B-16", (300, 50), None),
        ("google/siglip2-base-patch16-224", (350, 50), None),
    ],
)
def test_published_bands(checkpoint, image, text):
    bands = known_bands(checkpoint)
    assert (bands.image, bands.text) == (image, text)
    assert checkpoint.lower() in known_checkpoints()


def test_an_unknown_checkpoint_has_no_band():
    assert known_bands("someone/else") is None


@pytest.mark.parametrize(("k_top", "k_bottom"), [(5, 20), (20, 5), (12, 12)])
def test_the_suggestion_finds_the_breaks_of_a_three_piece_spectrum(k_top, k_bottom):
    middle = 100 - k_top - k_bottom
    heights = torch.cat(
        [
            torch.linspace(3.0, 0.5, k_top),
            torch.linspace(0.0, -0.2, middle),
            torch.linspace(-1.0, -6.0, k_bottom),
        ]
    )
    assert suggest_band(heights.exp()) == (k_top, k_bottom)


def test_the_suggestion_always_leaves_something():
    for seed in range(20):
        values = torch.rand(9 + seed, generator=torch.Generator().manual_seed(seed)).sort(descending=True).values
        k_top, k_bottom = suggest_band(values)
        assert k_top >= 0
        assert k_bottom >= 0
        assert k_top + k_bottom < len(values)


def test_a_spectrum_that_is_too_short_is_an_error():
    with pytest.raises(ClipAlignError, match="8 values"):
        suggest_band(torch.ones(8))
