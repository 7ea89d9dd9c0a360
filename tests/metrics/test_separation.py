import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics import histogram_iou, pair_similarities


def cosines(a, b):
    return torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1).numpy()


@given(seed=st.integers(0, 1000), n=st.integers(3, 30), n_labels=st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_all_pairs_within_one_set(seed, n, n_labels):
    rng = np.random.default_rng(seed)
    features = torch.as_tensor(rng.standard_normal((n, 4)), dtype=torch.float32)
    labels = rng.integers(n_labels, size=n)
    labels[:3] = [0, 0, 1]
    positive, negative = pair_similarities(features, labels, max_pairs=None)
    upper = np.triu(np.ones((n, n), dtype=bool), 1)
    same = labels[:, None] == labels
    table = cosines(features, features)
    np.testing.assert_allclose(np.sort(positive), np.sort(table[upper & same]), atol=1e-5)
    np.testing.assert_allclose(np.sort(negative), np.sort(table[upper & ~same]), atol=1e-5)


@given(seed=st.integers(0, 1000), n=st.integers(2, 20), m=st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_all_pairs_of_two_sets(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = (torch.as_tensor(rng.standard_normal((k, 4)), dtype=torch.float32) for k in (n, m))
    p, q = rng.integers(3, size=n).astype(str), rng.integers(3, size=m).astype(str)
    p[:2], q[0] = ["0", "1"], "1"
    positive, negative = pair_similarities(a, p, max_pairs=None, other=b, other_labels=q)
    same, table = p[:, None] == q, cosines(a, b)
    np.testing.assert_allclose(np.sort(positive), np.sort(table[same]), atol=1e-5)
    np.testing.assert_allclose(np.sort(negative), np.sort(table[~same]), atol=1e-5)


def test_a_sample_has_no_repetition_and_follows_the_seed():
    features, labels = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), np.arange(300) % 3
    positive, negative = pair_similarities(features, labels, max_pairs=1000)
    assert len(positive) == len(negative) == 1000
    assert len(np.unique(negative)) > 990
    np.testing.assert_array_equal(pair_similarities(features, labels, max_pairs=1000)[0], positive)
    assert not np.array_equal(pair_similarities(features, labels, max_pairs=1000, seed=1)[0], positive)


def test_histogram_iou():
    rng = np.random.default_rng(0)
    a = rng.normal(0, 0.1, 5000)
    assert histogram_iou(a, a[:2500].repeat(2)) > 0.8
    assert histogram_iou(a, a) == histogram_iou(a, np.tile(a, 3)) == pytest.approx(1)
    assert histogram_iou(a - 0.5, torch.as_tensor(a + 0.5)) == 0
    assert histogram_iou(a, a + 0.1) == histogram_iou(a + 0.1, a)
    assert histogram_iou([1.0000001], [1.0]) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pair_similarities(torch.ones(3, 2), [0, 1, 2]), "no pair with equal labels"),
        (lambda: pair_similarities(torch.ones(3, 2), [0, 0, 0]), "no pair with different labels"),
        (lambda: pair_similarities(torch.ones(3, 2), [0, 0]), "labels has 2 entries"),
        (lambda: pair_similarities(torch.ones(3, 2), [0, 0, 1], max_pairs=0), "max_pairs is 0"),
        (lambda: pair_similarities(torch.ones(3, 2), [0, 0, 1], max_pairs=-1), "max_pairs is -1"),
        (lambda: pair_similarities(torch.ones(3, 2), [0, 0, 1], other=torch.ones(2, 2)), "together"),
        (
            lambda: pair_similarities(torch.ones(3, 2), [0, 0, 1], other=torch.ones(2, 3), other_labels=[0, 1]),
            "2 dimensions and other has 3",
        ),
        (lambda: histogram_iou([], [1.0]), "a must hold"),
        (lambda: histogram_iou([1.0], [np.nan]), "b must hold"),
        (lambda: histogram_iou([1.0], [1.0], bins=0), "bins must be"),
        (lambda: histogram_iou([1.0], [1.0], bins=2.5), "bins must be"),
    ],
)
def test_bad_input_names_the_culprit(call, message):
    with pytest.raises(ClipAlignError, match=message):
        call()
