"""Spectral filtering: the reference's numbers, a dense float64 decomposition, blocks, ties, and bad input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hf_clipalign import ClipAlignError
from hf_clipalign.data import load_dictionary
from hf_clipalign.gcd import SpectralFilterResult, spectral_filter
from hf_clipalign.gcd.filtering import _ranked
from hf_clipalign.gcd.similarities import ConceptSimilarities

VECTORS = np.load(Path(__file__).parent.parent / "fixtures" / "spectralgcd" / "filtering.npz")
# case: beta_e, beta_c, softmax, components, concepts
CASES = {
    "n60_k24": (0.95, 0.99, True, 10, 12),
    "n16_k40": (0.95, 0.99, True, 11, 12),
    "n80_k30_loose": (0.8, 0.9, True, 13, 12),
    "n40_k12_nosoftmax": (0.95, 0.99, False, 8, 12),
}


def features(n_images: int, n_concepts: int, dim: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, dim, generator=generator), torch.randn(n_concepts, dim, generator=generator)


def names(n: int) -> list[str]:
    return [f"concept {index}" for index in range(n)]


def run(n_images: int = 30, n_concepts: int = 20, **options: Any) -> SpectralFilterResult:
    return spectral_filter(*features(n_images, n_concepts), names(n_concepts), **options)


def textbook(images: torch.Tensor, texts: torch.Tensor, beta_e: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Importance, all eigenvalues and all eigenvectors of the dense covariance, in float64."""
    images, texts = (torch.nn.functional.normalize(part.double(), dim=1) for part in (images, texts))
    p = torch.softmax(images @ texts.T / 0.01, dim=1)
    values, vectors = np.linalg.eigh(np.cov(p.numpy(), rowvar=False))
    values, vectors = values[::-1], vectors[:, ::-1]
    count = np.searchsorted(values.cumsum(), beta_e * values.sum()) + 1
    return (values * vectors**2)[:, :count].sum(1), values, vectors


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block_size", [5, 1024])
def test_results_are_those_of_the_reference(case: str, block_size: int) -> None:
    beta_e, beta_c, softmax, n_components, n_retained = CASES[case]
    images, texts, eigenvalues, importance, order = (
        VECTORS[f"{case}/{name}"]
        for name in ("image_features", "text_features", "eigenvalues", "concept_importance", "concept_order")
    )
    result = spectral_filter(
        images,
        texts,
        names(len(texts)),
        beta_e=beta_e,
        beta_c=beta_c,
        apply_softmax=softmax,
        block_size=block_size,
    )
    assert (result.n_components, result.n_retained) == (n_components, n_retained)
    np.testing.assert_allclose(result.importance / importance.max(), importance / importance.max(), atol=1e-5)
    np.testing.assert_allclose(result.eigenvalues, eigenvalues[:n_components], rtol=1e-4)
    np.testing.assert_array_equal(result.order[:n_retained], order[:n_retained])
    assert result.concepts == [f"concept {index}" for index in order[:n_retained]]


@pytest.mark.parametrize("beta_e", [0.3, 0.95, 1.0])
@pytest.mark.parametrize(("n_images", "n_concepts"), [(12, 40), (40, 12), (20, 20), (2, 3), (3, 2), (2, 2)])
def test_equals_the_dense_decomposition(n_images: int, n_concepts: int, beta_e: float) -> None:
    images, texts = features(n_images, n_concepts)
    result = spectral_filter(images, texts, names(n_concepts), beta_e=beta_e, block_size=7)
    importance, values, vectors = textbook(images, texts, beta_e)
    np.testing.assert_allclose(result.importance, importance, atol=1e-13 * values[0], rtol=1e-9)
    np.testing.assert_allclose(result.eigenvalues, values[: result.n_components].clip(min=0), atol=1e-13)
    assert result.total_variance == pytest.approx(values.sum())
    leading = min(3, result.n_components, min(n_images - 1, n_concepts))
    overlap = np.abs((result.components[:leading] * vectors[:, :leading].T).sum(1))
    np.testing.assert_allclose(overlap, 1, atol=1e-5)


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(("n_images", "n_concepts"), [(12, 40), (40, 12), (30, 31)])
def test_other_ways_give_the_same(
    n_images: int, n_concepts: int, softmax: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Similarities computed anew instead of held, and the way of devices without LAPACK."""
    expected = run(n_images, n_concepts, apply_softmax=softmax)
    monkeypatch.setattr("hf_clipalign.gcd.filtering._HELD_BYTES", 0)
    monkeypatch.setattr("hf_clipalign.gcd.eigen._has_lapack", lambda matrix: False)
    found = run(n_images, n_concepts, apply_softmax=softmax, block_size=7)
    np.testing.assert_allclose(found.importance, expected.importance, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found.components[:3], expected.components[:3], atol=1e-5)
    assert found.concepts == expected.concepts


@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_blocks_change_nothing(n_images: int, n_concepts: int, block_size: int, seed: int) -> None:
    images, texts = features(n_images, n_concepts, seed=seed)
    whole = spectral_filter(images, texts, names(n_concepts), temperature=0.1)
    parts = spectral_filter(images, texts, names(n_concepts), temperature=0.1, block_size=block_size)
    np.testing.assert_allclose(parts.importance, whole.importance, atol=1e-13)
    assert parts.concepts == whole.concepts


@pytest.mark.parametrize("n_images", [10, 50])
def test_images_may_come_as_generator_list_of_blocks_array_lists_or_map(n_images: int, tmp_path: Path) -> None:
    images, texts = features(n_images, 20)
    expected = spectral_filter(images, texts, names(20)).importance
    np.save(tmp_path / "images.npy", images.numpy())

    def stream() -> Iterator[torch.Tensor]:
        yield from images.split(3)

    for given_images in (
        stream(),
        list(images.split(4)),
        images.numpy(),
        images.tolist(),
        np.load(tmp_path / "images.npy", mmap_mode="r"),
        images.double().requires_grad_(),
    ):
        found = spectral_filter(given_images, texts, names(20), block_size=8).importance
        np.testing.assert_allclose(found, expected, atol=1e-13)


def test_similarities_are_held_up_to_one_gibibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    by_concept = ConceptSimilarities.by_concept

    def noted(self: ConceptSimilarities, images: torch.Tensor, block_size: int, held_bytes: int) -> Any:
        limits.append(held_bytes)
        return by_concept(self, images, block_size, held_bytes)

    monkeypatch.setattr(ConceptSimilarities, "by_concept", noted)
    run(10, 20)
    assert limits == [1024**3]


def test_a_stream_of_many_images_is_never_held() -> None:
    images, texts = features(200, 10)
    held: list[torch.Tensor] = []

    def stream() -> Iterator[torch.Tensor]:
        import weakref

        alive: list[Any] = []
        for block in images.split(10):
            block = block.clone()
            alive.append(weakref.ref(block))
            yield block
            del block
            held.append(sum(reference() is not None for reference in alive))

    spectral_filter(stream(), texts, names(10))
    assert max(held[2:]) <= 2


def test_bfloat16_features_are_read() -> None:
    images, texts = features(30, 20)
    result = spectral_filter(images.bfloat16(), texts.bfloat16(), names(20))
    expected = spectral_filter(images.bfloat16().float(), texts.bfloat16().float(), names(20))
    np.testing.assert_array_equal(result.importance, expected.importance)


@pytest.mark.parametrize("half", [0.49, 0.5, 0.51])
def test_rounding_does_not_order_wherever_it_falls(half: float) -> None:
    unit = 1e-12
    importance = np.array([0.2, 0.5 + (7 + half - 0.01) * unit, 1.0, 0.5 + (7 + half) * unit, 0.5 + 9.5 * unit])
    assert _ranked(importance).tolist() == [2, 4, 1, 3, 0]
    assert _ranked(importance[::-1]).tolist() == [2, 0, 1, 3, 4]


def test_equal_concepts_are_ordered_by_index() -> None:
    images, texts = features(25, 40)
    texts = torch.cat([texts, texts[[3, 0]], texts])
    result = spectral_filter(images, texts, names(len(texts)))
    place = {int(index): rank for rank, index in enumerate(result.order)}
    for first, copy in [(3, 40), (0, 41), *((index, 42 + index) for index in range(40))]:
        assert place[first] < place[copy]
    np.testing.assert_array_equal(spectral_filter(images, texts, names(len(texts))).order, result.order)


@pytest.mark.parametrize("copies", [40, 140])
def test_a_share_of_one_counts_no_rounding(copies: int) -> None:
    images, texts = features(5, 500)
    result = spectral_filter(images.repeat(copies, 1), texts, names(500), beta_e=1.0)
    assert result.n_components == 4


def test_a_threshold_met_exactly_is_met() -> None:
    """Two hundred equal eigenvalues: 95 % of the variance is 190 of them, whatever rounding says."""
    texts = torch.eye(201)
    assert spectral_filter(texts, texts, names(201), beta_e=0.95).n_components == 190


def test_few_components_and_many_are_computed_from_either_end() -> None:
    images, texts = features(60, 25)
    everything = spectral_filter(images, texts, names(25), beta_e=1.0).importance
    centred = textbook(images, texts, 1.0)[1]
    assert everything.sum() == pytest.approx(centred.sum())
    sums = [spectral_filter(images, texts, names(25), beta_e=beta).importance.sum() for beta in (0.2, 0.5, 0.9)]
    counts = [spectral_filter(images, texts, names(25), beta_e=beta).n_components for beta in (0.2, 0.5, 0.9)]
    assert sums == pytest.approx([centred[:count].sum() for count in counts])


def test_concepts_no_image_differs_in_are_dropped() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = torch.eye(12)
    images = texts[torch.randint(4, (100,), generator=generator)] + 0.05 * torch.randn(100, 12, generator=generator)
    result = spectral_filter(images, texts, names(12))
    assert set(result.concepts) == {f"concept {index}" for index in range(4)}
    assert result.n_components == 3
    assert {result.concept_names.index(row[0]) for row in result.component_concepts()} <= set(range(4))


def test_the_kept_concepts_are_written_and_read_again(tmp_path: Path) -> None:
    import json

    result = run(keep_components=2)
    for ending in ("json", "csv", "png"):
        assert result.save(tmp_path / f"kept.{ending}").stat().st_size > 0
    assert load_dictionary(tmp_path / "kept.csv") == result.concepts
    content = json.loads((tmp_path / "kept.json").read_text())
    assert [row["name"] for row in content["concepts"]] == result.concepts
    assert sum(row["share"] for row in content["concepts"]) == pytest.approx(0.99, abs=0.01)
    assert len(content["component_concepts"]) == 2
    with pytest.raises(ClipAlignError, match=r"\.json"):
        result.save(tmp_path / "kept.txt")


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    images, texts = features(30, 4)
    odd = ["[b]old[/b]", "[/]", "$x_", "$\\frac$"]
    result = spectral_filter(images, texts, odd, beta_c=1.0)
    console = Console(file=io.StringIO(), width=200)
    console.print(result.table(), result.component_table())
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(name in printed for name in odd)
    assert result.save(tmp_path / "concepts.png").stat().st_size > 5_000


def test_the_table_names_the_first_concepts() -> None:
    from rich.console import Console

    result = run()
    console = Console(width=100, file=io.StringIO())
    console.print(result.table(n=3))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(name in text for name in result.concepts[:3])
    assert f"{result.n_retained} of 20 concepts" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_e": 0.0}, "beta_e is 0"),
        ({"beta_e": 1.01}, "beta_e is 1.01"),
        ({"beta_c": -1}, "beta_c is -1"),
        ({"beta_c": float("nan")}, "beta_c is nan"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": "a"}, "temperature is 'a'"),
        ({"temperature": None}, "temperature is None"),
        ({"beta_e": "a"}, "beta_e is 'a'"),
        ({"beta_c": None}, "beta_c is None"),
        ({"block_size": 0}, "block_size is 0"),
        ({"keep_components": "a"}, "keep_components is 'a'"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        run(**options)


@pytest.mark.parametrize(
    ("bad_names", "message"),
    [
        (["a", "b", " "], "position 2 is blank"),
        (["a", "b", "A"], "duplicates"),
        (["a", None, "c"], "position 1 is None, not a text"),
        (["a", "b"], "2 concept names but 3 text features"),
        ("abc", "concept names is a single string, 'abc'"),
        (None, "concept names is None: give a list"),
        ([], "there are none"),
    ],
)
def test_bad_names(bad_names: Any, message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        spectral_filter(*features(5, 3), bad_names)


@pytest.mark.parametrize(
    ("row", "value", "message"),
    [
        (2, float("nan"), "is NaN or infinite"),
        (1, float("inf"), "is NaN or infinite"),
        (0, 0.0, "is zero"),
        (2, 0.3, "is constant"),
    ],
)
@pytest.mark.parametrize("n_images", [2, 3, 9])
def test_bad_features_are_named(row: int, value: float, message: str, n_images: int) -> None:
    images, texts = features(n_images, 3)
    bad_texts = texts.clone()
    bad_texts[row] = value
    with pytest.raises(ClipAlignError, match=rf"text feature {row} \(concept 'concept {row}'\) {message}"):
        spectral_filter(images, bad_texts, names(3))
    images[n_images - 1] = value
    with pytest.raises(ClipAlignError, match=rf"image feature {n_images - 1} {message}"):
        spectral_filter(images, texts, names(3), block_size=2)


def test_images_that_do_not_fit() -> None:
    images, texts = features(5, 3)
    for bad, message in (
        (images[:, :-1], "dimension 15, text features 16"),
        (images[:1], "1 given, but at least two"),
        (images[:0], "0 given, but at least two"),
        (images[:1].repeat(4, 1), "all 4 images look the same"),
        (images[:1].repeat(2, 1), "all 2 images look the same"),
        (images[:1].repeat(2053, 1), "all 2053 images look the same"),
        (images[0], "matrix"),
        (7, "got int"),
        (["a", "b"], "matrix"),
        (iter([images, images[0]]), "matrix"),
    ):
        with pytest.raises(ClipAlignError, match=message):
            spectral_filter(bad, texts, names(3))
    with pytest.raises(ClipAlignError, match="at least two"):
        spectral_filter(images, texts[:1], names(1))
