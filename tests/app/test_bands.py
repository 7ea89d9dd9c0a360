"""Scores behind any band: equal to projecting with the trimmed projectors, whatever band was asked before."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_clipalign import ClipAlignError
from hf_clipalign.app import bands as module
from hf_clipalign.app.bands import Bands
from hf_clipalign.isoclip import trim_projectors
from hf_clipalign.search import as_rows

D, D_V, D_T, N = 10, 14, 12, 57


def projectors():
    generator = np.random.default_rng(3)
    return {
        name: generator.normal(size=(D, width)).astype(np.float32) for name, width in (("image", D_V), ("text", D_T))
    }


def features(width=D_V):
    values = np.random.default_rng(5).normal(size=(N, width)).astype(np.float32)
    values[7] = 0
    return values


def expected(queries, band, values):
    image, _ = trim_projectors(*(torch.from_numpy(projectors()[name]).double() for name in ("image", "text")), *band)
    embedded = values[:, :D_V].astype(np.float64) @ image.numpy().T
    lengths = np.linalg.norm(embedded, axis=1, keepdims=True)
    unit = embedded / np.where(lengths > 0, lengths, 1)
    total = sum(weight * unit[row] for weight, row in queries)
    return unit @ (total / np.linalg.norm(total))


def check(bands, band, values, row=0):
    scores = bands.scores([(1.0, values[row])], band)
    np.testing.assert_allclose(scores, expected([(1.0, row)], band, values), atol=3e-5)


def made(values=None):
    return Bands(as_rows(features() if values is None else values), SimpleNamespace(matrices=projectors()))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=6))
def test_scores_are_those_of_the_trimmed_projector_in_whatever_order_bands_are_asked(asked):
    bands, values = made(), features()
    for band in asked:
        check(bands, band, values)


def test_a_sum_of_images_is_one_of_unit_embeddings():
    queries = [(1.0, 2), (1.0, 3), (-0.5, 4)]
    values = features()
    values[3] *= 50
    scores = made(values).scores([(weight, values[row]) for weight, row in queries], (2, 3))
    np.testing.assert_allclose(scores, expected(queries, (2, 3), values), atol=3e-5)


def test_rounding_does_not_add_up_over_many_moves_of_a_slider():
    bands, values = made(), features()
    for move in range(60):
        bands.scores([(1.0, values[1])], (move % 7, move % 3))
    assert max(lengths.steps for lengths in bands._known.values()) <= module._MOST_STEPS
    for band in list(bands._known):
        scores = bands.scores([(1.0, values[1])], band)
        np.testing.assert_allclose(scores, expected([(1.0, 1)], band, values), atol=2e-4)


def test_few_bands_are_kept():
    bands = made()
    for k_top in range(9):
        for k_bottom in range(3):
            if k_top + k_bottom < 9:
                bands.lengths((k_top, k_bottom))
    assert len(bands._known) == module._KEPT_BANDS


def test_large_collections_keep_no_coordinates_in_memory(monkeypatch):
    monkeypatch.setattr(module, "_HELD_BYTES", 0)
    bands, values = made(), features()
    assert bands._rows.width == D_V
    np.testing.assert_allclose(
        bands.scores([(1.0, values[0])], (1, 2)), expected([(1.0, 0)], (1, 2), values), atol=3e-5
    )
    np.testing.assert_allclose(
        bands.scores([(1.0, values[0])], (2, 2)), expected([(1.0, 0)], (2, 2), values), atol=3e-5
    )


def test_columns_behind_the_features_do_not_count():
    """An index of a model without a linear head holds its embeddings there."""
    values = features(D_V + 4)
    check(made(values), (1, 2), values)


def test_a_band_that_keeps_nothing_is_refused():
    with pytest.raises(ClipAlignError, match="removes all 10"):
        made().scores([(1.0, features()[0])], (4, 6))


def test_an_image_of_which_nothing_is_kept_has_no_similarity():
    assert made().scores([(1.0, features()[0])], (1, 2))[7] == 0


def test_the_root_of_a_matrix_without_full_rank():
    half = np.random.default_rng(0).standard_normal((6, 2))
    for gram in (half @ half.T, np.diag([4.0, 0.0, 9.0]), half.T @ half):
        root = module._root(gram)
        np.testing.assert_allclose(root @ root.T, gram, atol=1e-6)
