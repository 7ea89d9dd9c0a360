"""One rule for ties: copies of a vector tie exactly, and what ties with the right item stands before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_clipalign.metrics import (
    mean_per_class_accuracy,
    pair_similarities,
    retrieval_metrics,
    retrieval_metrics_from_qrels,
    retrieval_metrics_from_similarities,
    revisited_retrieval_metrics,
    top_k_accuracy,
)


def vectors(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block_size", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("d", [3, 64, 513, 1000])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_stacked_twice(block_size: int | None, d: int, normalize: bool) -> None:
    """Every query meets its own item and a copy of it with another label."""
    for seed in range(5):
        gallery = torch.nn.functional.normalize(vectors(3, d, seed), dim=1).repeat(2, 1)
        result = retrieval_metrics(
            gallery, gallery, range(6), range(6), normalize=normalize, block_size=block_size, ks=(1, 2)
        )
        assert result["map"] == 0.5
        assert (result["recall_at_1"], result["recall_at_2"]) == (0.0, 1.0)
        judged = retrieval_metrics_from_qrels(
            gallery, gallery, [[i] for i in range(6)], normalize=normalize, block_size=block_size, ks=(1, 2)
        )
        assert (judged["map"], judged["recall_at_1"], judged["ndcg_at_1"]) == (0.5, 0.0, 0.0)
        assert judged["ndcg_at_2"] == pytest.approx(1 / np.log2(3))


@pytest.mark.parametrize("n_copies", [2, 7])
def test_copies_neither_depend_on_blocks_nor_on_their_order(n_copies: int) -> None:
    query, gallery = vectors(37, 129), vectors(50, 129, seed=1).repeat(n_copies, 1)
    labels = torch.arange(len(gallery)) % 11
    base = retrieval_metrics(query, gallery, labels[:37], labels, per_query=True)
    order = torch.randperm(len(gallery), generator=torch.Generator().manual_seed(2))
    for block_size in (1, 3, 37):
        other = retrieval_metrics(
            query, gallery[order], labels[:37], labels[order], per_query=True, block_size=block_size
        )
        for name, values in base["per_query"].items():
            np.testing.assert_allclose(other["per_query"][name], values, atol=1e-6)


def test_a_query_left_out_of_its_own_list_leaves_its_copy_there() -> None:
    gallery = vectors(3, 65).repeat(2, 1)
    result = retrieval_metrics(gallery, gallery, [0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2], exclude_self=True)
    assert result["map"] == result["recall_at_1"] == 1.0


def test_revisited_metrics_rank_a_positive_behind_what_ties() -> None:
    result = revisited_retrieval_metrics([[0.5, 0.5, 0.1]], easy=[[0]], hard=[[]], junk=[[]], ks=(1,))
    assert result["map_easy"] == pytest.approx((0 + 1 / 2) / 2)
    assert result["precision_at_1_easy"] == 0.0


def test_pairs_of_copies_have_one_cosine() -> None:
    features = vectors(3, 333).repeat(40, 1)
    positive, negative = pair_similarities(features, torch.arange(3).repeat(40))
    assert len(np.unique(positive)) <= 3
    assert len(np.unique(negative)) <= 3


def test_balanced_data_have_one_accuracy_where_classes_tie() -> None:
    """Two names of one class: top-1 and balanced accuracy of balanced data are the same number."""
    weights = vectors(5, 16)[[0, 1, 2, 0, 3]]
    labels = torch.arange(5).repeat(20)
    logits = torch.nn.functional.one_hot(labels, 5).float() @ weights @ weights.T
    top1 = top_k_accuracy(logits, labels)["top1"]
    assert top1 == pytest.approx(0.6)
    assert mean_per_class_accuracy(logits, labels) == pytest.approx(top1)


def scales() -> list[pytest.param]:
    return [pytest.param(10.0**power, id=f"1e{power}") for power in (-200, -30, -14, 25, 150)]


@pytest.mark.parametrize("scale", scales())
@pytest.mark.parametrize("normalize", [True, False])
def test_the_scale_of_features_does_not_matter(scale: float, normalize: bool) -> None:
    query, gallery = vectors(20, 8).double(), vectors(40, 8, seed=1).double()
    labels = torch.arange(40) % 7
    base = retrieval_metrics(query, gallery, labels[:20], labels, normalize=normalize)
    assert retrieval_metrics(query * scale, gallery * scale, labels[:20], labels, normalize=normalize) == (
        pytest.approx(base)
    )
    judged = [[0, 1]] * 20
    options = {"normalize": normalize}
    assert retrieval_metrics_from_qrels(query * scale, gallery, judged, **options) == pytest.approx(
        retrieval_metrics_from_qrels(query, gallery, judged, **options)
    )


@pytest.mark.parametrize("scale", scales())
def test_the_scale_of_similarities_does_not_matter(scale: float) -> None:
    table = vectors(20, 40).double()
    labels = torch.arange(40) % 7
    base = retrieval_metrics_from_similarities(table, labels[:20], labels)
    assert retrieval_metrics_from_similarities(table * scale, labels[:20], labels) == pytest.approx(base)
    masks = {"easy": [[0]] * 20, "hard": [[1]] * 20, "junk": [[2]] * 20}
    assert revisited_retrieval_metrics(table * scale, **masks) == pytest.approx(
        revisited_retrieval_metrics(table, **masks)
    )


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_large_and_small_float32_features_have_cosines(scale: float) -> None:
    features, labels = vectors(30, 8), torch.arange(30) % 4
    base = retrieval_metrics(features, features, labels, labels, exclude_self=True)
    scaled = features * scale
    assert retrieval_metrics(scaled, scaled, labels, labels, exclude_self=True) == pytest.approx(base)
    np.testing.assert_allclose(pair_similarities(scaled, labels)[0], pair_similarities(features, labels)[0], atol=1e-6)
