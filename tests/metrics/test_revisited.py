import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics import revisited_retrieval_metrics

FIXTURES = Path(__file__).parents[1] / "fixtures" / "retrieval_metrics"
VECTORS = np.load(FIXTURES / "vectors.npz")
PARAMS = json.loads((FIXTURES / "params.json").read_text())
SETTINGS = ("easy", "medium", "hard")


def load(case):
    return [VECTORS[f"{case}/{name}"] for name in ("similarity", "mask_easy", "mask_hard", "mask_junk")]


@pytest.mark.parametrize("case", ["oxford_paris_1", "oxford_paris_2"])
@pytest.mark.parametrize("block_size", [None, 1, 3])
def test_reference_vectors(case, block_size):
    result = revisited_retrieval_metrics(*load(case), per_query=True, block_size=block_size)
    for setting in SETTINGS:
        expected = VECTORS[f"{case}/ap_{setting}__maybe_nan"]
        np.testing.assert_allclose(result["per_query"][f"map_{setting}"], expected, atol=1e-5)
        assert result[f"n_queries_{setting}"] == (~np.isnan(expected)).sum()
        assert result[f"n_without_positive_{setting}"] == np.isnan(expected).sum()
        precisions = VECTORS[f"{case}/precision_at_k_{setting}__maybe_nan"]
        for k, expected in zip((1, 5, 10), precisions.T, strict=True):
            np.testing.assert_allclose(result["per_query"][f"precision_at_{k}_{setting}"], expected, atol=1e-5)
    for name, value in PARAMS[case]["metrics_percent"].items():
        ours = name.replace("mAP", "map").replace("mP@", "precision_at_")
        assert 100 * result[ours] == pytest.approx(value, abs=1e-3)


def test_lists_of_positions_equal_masks():
    similarities, *masks = load("oxford_paris_1")
    lists = [[np.flatnonzero(row).tolist() for row in mask] for mask in masks]
    assert revisited_retrieval_metrics(similarities, *lists) == revisited_retrieval_metrics(similarities, *masks)
    tensors = [torch.as_tensor(mask).bool() for mask in masks]
    assert revisited_retrieval_metrics(similarities, *tensors) == revisited_retrieval_metrics(similarities, *masks)


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_ignored_items_and_gallery_order_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    similarities = rng.standard_normal((5, 60)).astype(np.float32)
    kind = rng.integers(6, size=(5, 60))
    easy, hard, junk = kind == 0, kind == 1, kind == 2
    base = revisited_retrieval_metrics(similarities, easy, hard, junk)
    moved = np.where(junk, rng.standard_normal((5, 60)), similarities)
    permutation = rng.permutation(60)
    shuffled = [array[:, permutation] for array in (similarities, easy, hard, junk)]
    assert revisited_retrieval_metrics(moved, easy, hard, junk) == pytest.approx(base, abs=1e-6)
    assert revisited_retrieval_metrics(*shuffled) == pytest.approx(base, abs=1e-6)


def test_a_setting_without_positives_is_nan():
    result = revisited_retrieval_metrics([[0.9, 0.1]], [[0]], [[]], [[]], per_query=True)
    assert result["map_easy"] == result["map_medium"] == 1.0
    assert np.isnan(result["map_hard"])
    assert result["n_without_positive_hard"] == 1
    assert np.isnan(result["per_query"]["precision_at_1_hard"]).all()


@pytest.mark.parametrize(
    ("easy", "message"),
    [
        (np.zeros((2, 4)), r"easy is a mask of shape \(2, 4\)"),
        (np.full((2, 3), 2), "easy must be a 0/1 mask"),
        ([[0]], "easy has 1 lists"),
        ([[0], [3]], "easy names gallery item 3"),
    ],
)
def test_bad_input_names_the_culprit(easy, message):
    with pytest.raises(ClipAlignError, match=message):
        revisited_retrieval_metrics(np.zeros((2, 3)), easy, [[], []], [[], []])


def test_similarities_must_be_finite():
    with pytest.raises(ClipAlignError, match="similarities holds NaN"):
        revisited_retrieval_metrics([[np.nan, 0.0]], [[0]], [[]], [[]])
