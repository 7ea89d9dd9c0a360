import numpy as np
import pytest
import torch

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics import bootstrap, bootstrap_interval, paired_bootstrap


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(0.4, 0.2, size=400)


def test_interval_of_a_normal_sample_is_the_textbook_one(values):
    mean, low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == (pytest.approx(mean - half, abs=2e-3), pytest.approx(mean + half, abs=2e-3))


def test_columns_are_independent_metrics(values):
    table = np.stack([values, 2 * values], axis=1)
    mean, low, high = bootstrap_interval(table)
    single = bootstrap_interval(values)
    np.testing.assert_allclose([mean[0], low[0], high[0]], single)
    np.testing.assert_allclose([mean[1], low[1], high[1]], 2 * np.array(single))


def test_nan_is_left_out(values):
    with_gaps = np.concatenate([values, np.full(50, np.nan)])
    mean, low, high = bootstrap_interval(with_gaps)
    assert mean == pytest.approx(values.mean())
    assert low < mean < high


def test_seed_and_blocks(values, monkeypatch):
    first = bootstrap_interval(values, seed=3)
    assert bootstrap_interval(torch.as_tensor(values), seed=3) == first
    assert bootstrap_interval(values, seed=4) != first
    monkeypatch.setattr(bootstrap, "BLOCK_BYTES", 1)
    assert bootstrap_interval(values, seed=3) == pytest.approx(first)


def test_groups_widen_the_interval_of_repeated_values(values):
    repeated, groups = np.repeat(values, 10), np.repeat([f"concept {i}" for i in range(400)], 10)
    mean, low, high = bootstrap_interval(repeated, groups)
    single = bootstrap_interval(values)
    assert (mean, low, high) == pytest.approx(single, abs=3e-3)
    naive = bootstrap_interval(repeated)
    assert high - low > 2 * (naive[2] - naive[1])


def test_level(values):
    narrow, wide = bootstrap_interval(values, level=0.5), bootstrap_interval(values, level=0.99)
    assert wide[1] < narrow[1] < narrow[2] < wide[2]


def test_paired_difference_is_sharper_than_two_intervals(values):
    noise = np.random.default_rng(1).normal(0.01, 0.01, size=400)
    mean, low, high = paired_bootstrap(values + noise, values)
    assert 0 < low < mean < high
    values[0] = np.nan
    assert paired_bootstrap(values + noise, values)[0] == pytest.approx(noise[1:].mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([np.nan]), "no entry other than NaN"),
        (lambda: bootstrap_interval([]), "no entry other than NaN"),
        (lambda: bootstrap_interval(np.zeros((1, 1, 1))), r"\[N\] or \[N, M\]"),
        (lambda: bootstrap_interval([1.0], level=95), "level"),
        (lambda: bootstrap_interval([1.0, 2.0], groups=[0]), "groups has 1 entries for 2"),
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), "pair the same queries"),
    ],
)
def test_bad_input_names_the_culprit(call, message):
    with pytest.raises(ClipAlignError, match=message):
        call()
