"""Properties of the decomposition, of trimming and of compact projectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hf_clipalign import ClipAlignError
from hf_clipalign.isoclip import compact_projectors, decompose, trim_projectors

SHAPES = [(8, 12, 10), (12, 12, 12), (12, 8, 10), (10, 16, 7), (6, 20, 20)]


def projectors(shared, vision, text, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(shared, width, generator=generator) for width in (vision, text)]
    return draw[0].to(dtype), draw[1].to(dtype)


def cosines(projector, features):
    embeds = F.normalize(features @ projector.T, dim=-1)
    return embeds @ embeds.T


@st.composite
def trimming(draw):
    """Two projectors and a valid band."""
    shared, vision, text = (draw(st.integers(2, 14)) for _ in range(3))
    rank = min(shared, vision, text)
    k_top = draw(st.integers(0, rank - 1))
    k_bottom = draw(st.integers(0, rank - 1 - k_top))
    seed = draw(st.integers(0, 2**20))
    return *projectors(shared, vision, text, seed, torch.float64), k_top, k_bottom


@pytest.mark.parametrize("shape", SHAPES)
def test_decompose_is_the_svd_of_the_operator(shape):
    image, text = projectors(*shape)
    U, S, V = decompose(image, text)
    rank = min(shape)
    assert U.shape == (shape[1], rank)
    assert S.shape == (rank,)
    assert V.shape == (shape[2], rank)
    torch.testing.assert_close(U @ torch.diag(S) @ V.T, image.T @ text, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(U.T @ U, torch.eye(rank), atol=1e-5, rtol=0)
    torch.testing.assert_close(V.T @ V, torch.eye(rank), atol=1e-5, rtol=0)
    assert (S[:-1] >= S[1:]).all()
    torch.testing.assert_close(S, torch.linalg.svdvals(image.T @ text)[:rank], atol=1e-4, rtol=1e-5)


def test_decompose_of_a_rank_deficient_operator_is_orthonormal():
    image, text = projectors(10, 12, 11)
    image[5:] = image[:5]
    U, S, V = decompose(image, text)
    torch.testing.assert_close(U.T @ U, torch.eye(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(V.T @ V, torch.eye(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(U @ torch.diag(S) @ V.T, image.T @ text, atol=1e-4, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(trimming())
def test_trimming_is_idempotent_in_its_cosines(case):
    image, text, k_top, k_bottom = case
    trimmed = trim_projectors(image, text, k_top, k_bottom)
    # what was trimmed away has become the bottom of the trimmed operator's spectrum
    again = trim_projectors(*trimmed, 0, k_top + k_bottom)
    for once, twice in zip(trimmed, again, strict=True):
        torch.testing.assert_close(twice, once, atol=1e-6, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(trimming())
def test_bands_compose(case):
    image, text, k_top, k_bottom = case
    once = trim_projectors(image, text, k_top, k_bottom)
    in_turn = trim_projectors(*trim_projectors(image, text, k_top, 0), 0, k_top + k_bottom)
    for whole, composed in zip(once, in_turn, strict=True):
        torch.testing.assert_close(composed, whole, atol=1e-6, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(trimming(), st.integers(0, 2**20))
def test_compact_cosines_are_the_trimmed_ones(case, seed):
    image, text, k_top, k_bottom = case
    generator = torch.Generator().manual_seed(seed)
    kept = min(image.shape[0], image.shape[1], text.shape[1]) - k_top - k_bottom
    trimmed, compact = trim_projectors(*case), compact_projectors(*case)
    for wide, narrow in zip(trimmed, compact, strict=True):
        features = torch.randn(9, wide.shape[1], generator=generator, dtype=wide.dtype)
        assert narrow.shape == (kept, wide.shape[1])
        torch.testing.assert_close(cosines(narrow, features), cosines(wide, features), atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(trimming(), st.integers(0, 2**20))
def test_a_rotation_of_the_shared_space_changes_nothing(case, seed):
    image, text, k_top, k_bottom = case
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(len(image), len(image), generator=generator, dtype=image.dtype)).Q
    features = torch.randn(9, image.shape[1], generator=generator, dtype=image.dtype)
    before = trim_projectors(image, text, k_top, k_bottom)[0]
    after = trim_projectors(rotation @ image, rotation @ text, k_top, k_bottom)[0]
    torch.testing.assert_close(cosines(after, features), cosines(before, features), atol=1e-6, rtol=0)
    torch.testing.assert_close(after, rotation @ before, atol=1e-6, rtol=1e-6)


def test_an_empty_band_keeps_a_projector_of_full_rank():
    image, text = projectors(8, 12, 10)
    for trimmed, original in zip(trim_projectors(image, text, 0, 0), (image, text), strict=True):
        torch.testing.assert_close(trimmed, original, atol=1e-5, rtol=1e-5)


def test_a_given_spectrum_is_used():
    image, text = projectors(8, 12, 10)
    spectrum = decompose(image, text)
    for ours, theirs in zip(
        trim_projectors(image, text, 2, 1, spectrum), trim_projectors(image, text, 2, 1), strict=True
    ):
        assert torch.equal(ours, theirs)
    other = decompose(*projectors(8, 12, 10, seed=5))
    assert not torch.allclose(trim_projectors(image, text, 2, 1, other)[0], trim_projectors(image, text, 2, 1)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    image, text = projectors(16, 24, 20)
    half = trim_projectors(image.to(dtype), text.to(dtype), 3, 4)
    for ours, exact in zip(half, trim_projectors(image.to(dtype).float(), text.to(dtype).float(), 3, 4), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float(), exact, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("band", [(-1, 0), (0, -2)])
def test_a_negative_band_is_an_error(band):
    with pytest.raises(ClipAlignError, match="negative"):
        trim_projectors(*projectors(8, 12, 10), *band)


@pytest.mark.parametrize("band", [(8, 0), (4, 4), (0, 9)])
def test_a_band_that_removes_everything_is_an_error(band):
    with pytest.raises(ClipAlignError, match=r"removes all 8 .* below 8"):
        compact_projectors(*projectors(8, 12, 10), *band)


def test_projectors_of_unequal_shared_size_are_an_error():
    with pytest.raises(ClipAlignError, match=r"8 outputs.*9"):
        decompose(projectors(8, 12, 10)[0], projectors(9, 12, 10)[1])


@pytest.mark.parametrize("side", [0, 1])
def test_broken_weights_are_an_error(side):
    pair = projectors(8, 12, 10)
    pair[side][2, 3] = float("nan")
    with pytest.raises(ClipAlignError, match=("image", "text")[side] + " projector holds NaN"):
        decompose(*pair)


def test_a_vector_is_no_projector():
    with pytest.raises(ClipAlignError, match="matrix"):
        decompose(torch.ones(4), torch.ones(4, 4))
