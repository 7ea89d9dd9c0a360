import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics import mean_per_class_accuracy, nearest_class_mean, top_k_accuracy


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(200, 7, generator=generator), torch.randint(7, (200,), generator=generator)


def test_top_k_accuracy_equals_scikit_learn(sample):
    logits, labels = sample
    result = top_k_accuracy(logits, labels, ks=(1, 3, 7, 9))
    for k in (1, 3):
        assert result[f"top{k}"] == pytest.approx(top_k_accuracy_score(labels, logits, k=k, labels=np.arange(7)))
    assert result["top7"] == result["top9"] == 1.0


def test_equal_logits_get_no_credit():
    assert top_k_accuracy(torch.zeros(4, 3), [0, 1, 2, 0], ks=(1, 2, 3)) == {"top1": 0.0, "top2": 0.0, "top3": 1.0}


def test_mean_per_class_accuracy_equals_scikit_learn(sample):
    logits, labels = sample
    expected = balanced_accuracy_score(labels, logits.argmax(1))
    assert mean_per_class_accuracy(logits, labels) == pytest.approx(expected)
    assert mean_per_class_accuracy(logits.argmax(1).tolist(), labels.numpy()) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nearest_class_mean_averages_unnormalised_features(sample, dtype):
    features, labels = sample[0].to(dtype), sample[1]
    expected = torch.stack([features[labels == c].float().mean(0) for c in range(7)])
    torch.testing.assert_close(nearest_class_mean(features, labels), expected)


@pytest.mark.parametrize("scale", [1e25, 1e60, 1e300, 1e-14, 1e-60, 1e-310])
def test_class_means_of_any_scale(sample, scale):
    features, labels = sample[0].double(), sample[1]
    plain, scaled = nearest_class_mean(features, labels), nearest_class_mean(features * scale, labels)
    torch.testing.assert_close(scaled / scaled.abs().max(), plain / plain.abs().max(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest_class_mean(torch.ones(2, 3), [0, 2]), "no sample of class 1"),
        (lambda: nearest_class_mean(torch.ones(2, 3), [0, 1], n_classes=3), "no sample of class 2"),
        (lambda: nearest_class_mean(torch.ones(2, 3), [0, 1, 1]), "each of the 2 rows"),
        (lambda: nearest_class_mean(torch.full((1, 2), torch.nan), [0]), "features holds NaN"),
        (lambda: top_k_accuracy(torch.ones(2, 3), [0, 3]), "class number 3"),
        (lambda: top_k_accuracy(torch.ones(2, 3), [-1, 0]), "class number -1"),
        (lambda: top_k_accuracy(torch.ones(2, 3), [0.0, 1.0]), "must be integers"),
        (lambda: mean_per_class_accuracy([], []), "at least one"),
        (lambda: mean_per_class_accuracy(torch.ones(2, 3, 4), [0, 1]), "predictions must hold one class number"),
        (lambda: mean_per_class_accuracy([0, 1], [0]), "labels must hold one class number"),
    ],
)
def test_bad_input_names_the_culprit(call, message):
    with pytest.raises(ClipAlignError, match=message):
        call()
