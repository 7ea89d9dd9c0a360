"""Neighbours, duplicates and selections are those of brute force, however the rows are read."""

from __future__ import annotations

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.search import (
    ArrayRows,
    BitLevel,
    ByteLevel,
    FoldedRows,
    approximate_neighbours,
    duplicate_groups,
    exact_neighbours,
    near_duplicates,
    outlier_scores,
    rows,
    select_diverse,
)


def unit(n: int, width: int, seed: int = 0, clusters: int = 40) -> np.ndarray:
    """Rows around common centres, so that some are near and most are not."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, width))
    values = centres[random.integers(clusters, size=n)] + 0.4 * random.standard_normal((n, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=[1, 700, 2**25], ids=["row by row", "small blocks", "one block"])
def any_block(request, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_exact_neighbours_are_those_of_a_full_sort(share):
    values, queries = unit(300, 24), unit(7, 24, seed=1)
    allowed = np.random.default_rng(2).random(300) < share
    allowed[5] = True
    found = exact_neighbours(ArrayRows(values), queries, 10, None if share == 1 else allowed)
    scores = queries.astype(np.float64) @ values.T.astype(np.float64)
    if share < 1:
        scores[:, ~allowed] = -np.inf
    order = np.lexsort((np.broadcast_to(np.arange(300), scores.shape), -scores))[:, :10]
    expected = np.where(np.isfinite(np.take_along_axis(scores, order, 1)), order, -1)
    assert found.rows.tolist() == expected.tolist()
    assert np.allclose(found.scores[expected >= 0], np.take_along_axis(scores, order, 1)[expected >= 0], atol=1e-6)


def test_equal_scores_are_ordered_by_row():
    values = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 0, 0]]
    found = exact_neighbours(ArrayRows(values), values[:1], 3)
    assert found.rows.tolist() == [[0, 2, 4]]
    assert exact_neighbours(ArrayRows(values), values[:1], 99).rows.shape == (1, 6)


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_near_duplicates_are_those_of_brute_force(threshold):
    values = unit(400, 32)
    values[300:] = values[:100]  # copies
    found = near_duplicates(values, threshold)
    exact = values.astype(np.float64)
    scores = np.triu((exact @ exact.T).astype(np.float32), 1)
    close = np.abs(scores - threshold) < 1e-6  # the last bit of a product depends on how it is summed
    expected = set(zip(*np.nonzero((scores >= threshold) & ~close), strict=True))
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert expected <= pairs
    assert all(close[pair] for pair in pairs - expected)
    assert len(pairs) == len(found.first)
    assert (found.first < found.second).all()


def test_groups_are_linked_through_others():
    angles = np.deg2rad([0, 10, 20, 90, 100, 180])
    values = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    pairs = near_duplicates(values, np.cos(np.deg2rad(11)))
    assert duplicate_groups(6, pairs) == [[0, 1, 2], [3, 4]]
    assert near_duplicates(values[:1]).first.tolist() == []


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan")])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(ClipAlignError, match="threshold"):
        near_duplicates(np.eye(2, dtype=np.float32), threshold)


@pytest.mark.parametrize(("level", "share"), [(ByteLevel, 0.29), (BitLevel, 0.04)])
def test_compressed_levels_are_small_and_find_what_exact_search_finds(level, share):
    values, queries = unit(3000, 130), unit(20, 130, seed=1)
    exact = exact_neighbours(ArrayRows(values), queries, 10)
    built = level.build(values)
    assert built.nbytes <= share * values.nbytes
    found = approximate_neighbours(built, ArrayRows(values), queries, 10, oversampling=30)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.rows, exact.rows, strict=True)])
    assert recall > 0.8
    same = found.rows == exact.rows
    assert np.allclose(found.scores[same], exact.scores[same], atol=1e-6)
    everything = approximate_neighbours(built, ArrayRows(values), queries, 10, oversampling=300)
    assert everything.rows.tolist() == exact.rows.tolist()
    allowed = np.zeros(3000, bool)
    allowed[[7, 2500]] = True
    few = approximate_neighbours(built, ArrayRows(values), queries, 5, allowed=allowed)
    assert {frozenset(row) for row in few.rows.tolist()} == {frozenset({7, 2500, -1})}


def test_bits_score_a_query_in_floats_against_signs():
    values, query = unit(50, 37), unit(1, 37, seed=3)
    level = BitLevel.build(values)
    expected = (np.where(values > 0, 1, -1) @ query[0]).argsort(kind="stable")[::-1][:8]
    assert sorted(level.candidates(query, 8)[0].tolist()) == sorted(expected.tolist())


def test_many_queries_find_the_candidates_that_each_finds_alone(monkeypatch):
    monkeypatch.setattr("hf_clipalign.search.levels._SCORES_BLOCK", 4 * 40 * 700)
    values, queries = unit(3000, 37), unit(40, 37, seed=3)
    allowed = np.arange(3000) % 3 > 0
    for level in (ByteLevel.build(values), BitLevel.build(values)):
        for kept in (None, allowed):
            together = level.candidates(queries, 25, kept)
            alone = np.concatenate([level.candidates(query[None], 25, kept) for query in queries])
            assert np.sort(together, 1).tolist() == np.sort(alone, 1).tolist()


@pytest.mark.usefixtures("any_block")
def test_a_diverse_selection_takes_the_farthest_each_time():
    values = unit(60, 8)
    chosen = select_diverse(values, 12, first=3).tolist()
    expected = [3]
    while len(expected) < 12:
        nearest = (values @ values[expected].T).max(1)
        nearest[expected] = np.inf
        expected.append(int(nearest.argmin()))
    assert chosen == expected
    assert select_diverse(values, 60).tolist() != chosen
    assert sorted(select_diverse(values, 60, seed=1).tolist()) == list(range(60))
    assert select_diverse(values, 5, first=3).tolist() == chosen[:5]
    for arguments in ({"n": 61}, {"n": 0}, {"n": 2, "first": 60}):
        with pytest.raises(ClipAlignError):
            select_diverse(values, **arguments)


def test_the_outlier_is_the_image_without_neighbours():
    values = unit(80, 16, clusters=2)
    values[17] = 0
    values[17, 0] = 1
    scores = outlier_scores(values, 3)
    similarity = values @ values.T
    np.fill_diagonal(similarity, -np.inf)
    assert np.allclose(scores, 1 - np.sort(similarity, 1)[:, -3:].mean(1), atol=1e-5)
    assert outlier_scores(np.eye(4, dtype=np.float32)[[0, 0, 0, 0, 0, 1]], 2).argmax() == 5
    with pytest.raises(ClipAlignError, match="1 image"):
        outlier_scores(values[:1])


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize("n_queries", [1, 40], ids=["query folded", "block projected"])
def test_a_head_is_applied_while_searching(n_queries):
    random = np.random.default_rng(0)
    features, matrix = random.standard_normal((300, 20)), random.standard_normal((12, 20))
    features[4] = 0
    embeddings = features @ matrix.T
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-30)
    folded, queries = FoldedRows(features, matrix), unit(n_queries, 12, seed=2)
    assert (len(folded), folded.width) == (300, 12)
    assert np.allclose(folded.read(3, 60), embeddings[3:60], atol=1e-6)
    assert np.allclose(folded.take(np.array([9, 4, 9])), embeddings[[9, 4, 9]], atol=1e-6)
    assert np.allclose(folded.scores(queries, 3, 60), queries @ embeddings[3:60].T, atol=1e-6)
    expected = exact_neighbours(ArrayRows(embeddings.astype(np.float32)), queries, 6)
    assert exact_neighbours(folded, queries, 6).rows.tolist() == expected.rows.tolist()
    again = FoldedRows(features, matrix, folded.lengths)
    assert np.array_equal(again.scores(queries, 0, 300), folded.scores(queries, 0, 300))
    for other in ((features[:, 1:], matrix), (features[1:], matrix, folded.lengths)):
        with pytest.raises(ClipAlignError, match="fit"):
            FoldedRows(*other)


def test_scales_of_bytes_never_clip_a_coordinate():
    values = unit(2000, 79)
    level = ByteLevel.build(values)
    assert level.nbytes <= 0.26 * values.nbytes
    assert np.abs(level.codes * level.scales.astype(np.float32)[:, None] - values).max() <= 0.51 * level.scales.max()


def test_embeddings_are_a_matrix():
    with pytest.raises(ClipAlignError, match="matrix"):
        near_duplicates(np.ones(3, np.float32))
