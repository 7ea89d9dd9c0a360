"""A band without labels: found where trimming helps, refused where it does not or where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import from_dataset, load_mini
from hf_clipalign.evaluation import band_from_views, choose_band_without_labels, search_band
from hf_clipalign.evaluation.band_search import view_tasks
from hf_clipalign.features import ViewFeatures
from hf_clipalign.isoclip import decompose
from tests.tiny_models import tiny_clip


@pytest.fixture(scope="module")
def encoder():
    return as_dual_encoder(tiny_clip())


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn_views(encoder, n=300, spoilt=0, noise=1.0, nuisance=6.0, modality="image"):
    """Items whose views differ from them by noise, and by more of it in the leading singular directions."""
    spectrum = decompose(encoder.image_projector.matrix.detach(), encoder.text_projector.matrix.detach())
    directions = (spectrum.U if modality == "image" else spectrum.V)[:, :spoilt]
    originals = draw(n, len(spectrum.U if modality == "image" else spectrum.V))
    change = noise * draw(n, 3, 2, originals.shape[1], seed=1)
    change = change * torch.tensor([0.5, 1.0, 8.0])[None, :, None, None]
    change = change + nuisance * draw(n, 3, 2, spoilt, seed=2) @ directions.T
    views = originals[:, None, None] + change
    return ViewFeatures(originals, views, (0.25, 0.5, 0.75), np.arange(n), modality)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_directions_in_which_views_differ_are_dropped(encoder, modality):
    choice = band_from_views(drawn_views(encoder, spoilt=2, modality=modality), encoder)
    assert choice.band is not None
    assert choice.band[0] == 2
    assert choice.gain_interval[0] > 0.05
    assert choice.strengths == tuple(strength for strength, score in choice.raw.items() if score >= 0.25)
    assert 0.75 not in choice.strengths
    assert choice.raw[0.25] > choice.raw[0.5] > choice.raw[0.75]
    assert choice.reason.startswith(f"band {choice.band}")
    assert choice.grid[choice.band] >= max(choice.grid.values()) - 0.02


def test_where_no_direction_is_worse_than_others_nothing_is_trimmed(encoder):
    choice = band_from_views(drawn_views(encoder), encoder)
    assert choice.band is None
    assert choice.reason.startswith("do not trim: on views of 300 items")
    assert choice.gain_interval[0] <= 0


def test_views_that_are_not_recognised_say_nothing(encoder):
    choice = band_from_views(drawn_views(encoder, noise=30.0), encoder)
    assert choice.band is None
    assert "weakly changed views too rarely" in choice.reason
    assert choice.strengths == ()


def test_few_items_are_too_few(encoder):
    choice = band_from_views(drawn_views(encoder, n=39, spoilt=2), encoder)
    assert choice.band is None
    assert "39 items are too few" in choice.reason
    assert band_from_views(drawn_views(encoder, n=40, spoilt=2), encoder).grid


def test_equal_items_cannot_be_told_apart(encoder):
    views = drawn_views(encoder, n=50)
    views.originals[:] = views.originals[0]
    views.views[:] = views.originals[0]
    choice = band_from_views(views, encoder)
    assert choice.band is None
    assert "\n" not in choice.reason


def test_a_floor_leaves_strong_views_out(encoder):
    views = drawn_views(encoder, spoilt=1)
    assert band_from_views(views, encoder, floor=0.0).strengths == (0.25, 0.5, 0.75)
    assert band_from_views(views, encoder, floor=0.999).band is None
    with pytest.raises(ClipAlignError, match="floor"):
        band_from_views(views, encoder, floor=2)


def test_the_search_takes_views_in_place_of_labels(encoder):
    views = drawn_views(encoder, n=60, spoilt=1)
    grid = {"k_top": (0, 1, 3), "k_bottom": (0, 4)}
    found = search_band(None, encoder, views=views, **grid)
    assert found == search_band(view_tasks(views), encoder, **grid)
    assert found.band[0] >= 1
    texts = drawn_views(encoder, n=60, modality="text")
    assert search_band(None, encoder, views=texts, **grid) == search_band(
        view_tasks(texts), encoder, modality="text", **grid
    )
    with pytest.raises(ClipAlignError, match="both given"):
        search_band(view_tasks(views), encoder, views=views)
    with pytest.raises(ClipAlignError, match="no validation task"):
        search_band(None, encoder)


def test_the_choice_is_the_same_again_and_looks_at_no_labels():
    mini = load_mini()
    source = from_dataset(mini.emoji.select(range(0, 600, 12)), image_column="image")
    source.labels = None
    encoder = as_dual_encoder(mini.student)
    settings = {"n_items": 45, "strengths": (0.25, 0.5), "progress": False}
    choice = choose_band_without_labels(encoder, source, mini.student_processor, **settings)
    assert choice == choose_band_without_labels(encoder, source, mini.student_processor, **settings)
    assert choice.n_items == 45
    assert (choice.band is None) == choice.reason.startswith("do not trim")
