"""Texts that have nothing to do with a collection are answered as seldom as was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.search import WordNull, as_rows, rows


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def drawn(n: int, seed: int, offset: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    shift = np.zeros(32)
    shift[0] = 1
    return unit(random.standard_normal((n, 32)) + offset * random.uniform(0, 1, (n, 1)) * shift)


@pytest.fixture(scope="module")
def images():
    return drawn(900, 0, offset=4.0)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_unrelated_texts_are_answered_at_the_rate_that_was_asked_for(images, alpha):
    null = WordNull.fit(images, drawn(1000, 1, offset=8.0))
    others = drawn(2000, 2, offset=8.0)
    answered = (null.rarity(images, others) >= 1 - alpha).mean()
    error = 1.96 * np.sqrt(alpha * (1 - alpha) * (1 / 2000 + 1 / 1000))
    assert abs(answered - alpha) <= error + 1e-3


def test_a_text_near_one_image_is_rarer_than_any_unrelated_one(images):
    null = WordNull.fit(images, drawn(500, 1))
    near = unit(images[100:120] + 0.05 * drawn(20, 3))
    assert (null.rarity(images, near) > 0.97).all()
    assert (null.rarity(images, near) < 1).all()


def test_how_near_a_text_is_to_all_images_does_not_matter(images):
    null, texts = WordNull.fit(images, drawn(200, 1)), drawn(30, 5)
    plain = null.rarity(images, texts)
    assert np.allclose(null.rarity(images, 3 * texts), plain)
    apart = np.hstack([images, np.ones((900, 1), np.float32)])
    shifted = np.hstack([texts, np.full((30, 1), 9.0, np.float32)])
    assert np.abs(null.rarity(apart, shifted) - plain).max() < 0.02


def test_it_is_read_block_by_block(images, monkeypatch):
    whole = WordNull.fit(images, drawn(60, 1)).values
    monkeypatch.setattr(rows, "BLOCK_BYTES", 5000)
    assert np.allclose(WordNull.fit(as_rows(images), drawn(60, 1)).values, whole, atol=1e-5)


def test_equal_images_make_nothing_stand_out():
    images = unit(np.ones((40, 32)))
    null = WordNull.fit(images, drawn(60, 1))
    assert null.rarity(images, drawn(5, 2)).tolist() == [0.0] * 5


def test_few_images_or_texts_are_refused(images):
    for few in ((images[:19], drawn(60, 1)), (images, drawn(49, 1))):
        with pytest.raises(ClipAlignError, match="too few to measure unrelated texts"):
            WordNull.fit(*few)
