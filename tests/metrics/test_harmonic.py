import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.metrics import harmonic_mean


def test_is_its_formula_in_either_unit():
    assert harmonic_mean(0.8, 0.6) == pytest.approx(2 * 0.8 * 0.6 / 1.4)
    assert harmonic_mean(80, 60) == pytest.approx(100 * harmonic_mean(0.8, 0.6))
    assert harmonic_mean(1, 2, 4) == pytest.approx(12 / 7)
    assert harmonic_mean(torch.tensor(0.5)) == 0.5


def test_zero_where_one_is_zero():
    assert harmonic_mean(0, 0.9) == harmonic_mean(0, 0) == 0


@pytest.mark.parametrize(
    "values", [(), ([80, 60],), ("a",), (None, 1), (0.5, -0.1), (float("nan"), 1), (1, float("inf"))]
)
def test_bad_values(values):
    with pytest.raises(ClipAlignError, match="harmonic mean"):
        harmonic_mean(*values)
