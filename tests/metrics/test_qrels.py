"""Retrieval with judged pairs, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score

from hf_clipalign import ClipAlignError
from hf_clipalign.metrics import retrieval_metrics, retrieval_metrics_from_qrels


def judged(seed, n_queries=12, n_items=40, d=6):
    generator = np.random.default_rng(seed)
    query, gallery = (generator.standard_normal((n, d)).astype(np.float32) for n in (n_queries, n_items))
    relevant = [generator.permutation(n_items)[: generator.integers(0, 15)] for _ in range(n_queries)]
    relevant[0] = relevant[0][:0]
    grades = [generator.integers(1, 4, len(row)) for row in relevant]
    return query, gallery, relevant, grades


@pytest.mark.parametrize("block_size", [None, 1, 5])
def test_ndcg_and_average_precision_are_those_of_scikit_learn(block_size):
    query, gallery, relevant, grades = judged(0)
    scores = retrieval_metrics_from_qrels(query, gallery, relevant, grades, per_query=True, block_size=block_size)
    cosines = query @ gallery.T / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(gallery, axis=1)
    table = np.zeros(cosines.shape)
    for row, (items, gains) in enumerate(zip(relevant, grades, strict=True)):
        table[row, items] = gains
    for k in (1, 5, 10):
        expected = [ndcg_score(table[[row]], cosines[[row]], k=k) for row in range(1, len(query))]
        np.testing.assert_allclose(scores["per_query"][f"ndcg_at_{k}"][1:], expected, atol=1e-6)
        assert scores[f"ndcg_at_{k}"] == pytest.approx(
            np.mean([e for e, r in zip(expected, relevant[1:], strict=True) if len(r)]), abs=1e-6
        )
    for row in range(1, len(query)):
        if len(relevant[row]):
            assert scores["per_query"]["map"][row] == pytest.approx(
                average_precision_score(table[row] > 0, cosines[row])
            )
    assert np.isnan(scores["per_query"]["ndcg_at_10"][0])
    assert scores["n_without_positive"] == sum(len(row) == 0 for row in relevant)


def test_pairs_that_follow_labels_give_the_numbers_of_labels():
    query, gallery, _, _ = judged(1)
    query_labels, labels = np.arange(12) % 4, np.arange(40) % 5
    pairs = [np.flatnonzero(labels == label) for label in query_labels]
    scores, expected = (
        retrieval_metrics_from_qrels(query, gallery, pairs),
        retrieval_metrics(query, gallery, query_labels, labels),
    )
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_an_excluded_item_is_not_found():
    gallery = torch.eye(3)
    plain = retrieval_metrics_from_qrels(gallery[:2] + 0.1, gallery, [[1], [0, 2]])
    assert plain["recall_at_1"] == 0
    assert retrieval_metrics_from_qrels(gallery[:2] + 0.1, gallery, [[1], [0, 2]], excluded=[0, 1])[
        "map"
    ] == pytest.approx((0.5 + 1) / 2)
    only_first = retrieval_metrics_from_qrels(gallery[:2], gallery, [[1], [1]], excluded=[0, -1], per_query=True)
    assert only_first["per_query"]["recall_at_1"].tolist() == [0, 1]


def test_ties_count_against_the_query():
    gallery = torch.ones(4, 2)
    scores = retrieval_metrics_from_qrels(torch.ones(1, 2), gallery, [[0, 1]], [[3, 1]], ks=(4,))
    dcg, ideal = 1 / np.log2(4) + 3 / np.log2(5), 3 + 1 / np.log2(3)
    assert scores["ndcg_at_4"] == pytest.approx(dcg / ideal, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"relevant": [[0], [3]]}, "query 1 has positions outside the gallery of 3"),
        ({"relevant": [[0, 0], [1]]}, "query 0 has an item that is named twice"),
        ({"relevant": [[0]]}, "relevant has 1 entries for 2 queries"),
        ({"excluded": [-1, 1]}, "query 1 has the item 1, which is excluded"),
        ({"grades": [[1], [0]]}, "query 1 has grades"),
        ({"relevant": [[], []]}, "no query has a relevant item"),
    ],
)
def test_what_does_not_fit_is_named(change, match):
    options = {"relevant": [[0], [1]]} | change
    with pytest.raises(ClipAlignError, match=match):
        retrieval_metrics_from_qrels(torch.eye(3)[:2], torch.eye(3), **options)
