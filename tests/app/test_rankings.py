"""What moved from one ranking to another."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_clipalign.app.rankings import Ranked, best_rows, compared, ranked, ranks_of, summary

ALL = np.ones(6, bool)
PLAIN = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], np.float32)
ALIGNED = np.array([0.9, 0.3, 0.8, 0.6, 0.7, 0.1], np.float32)


def test_each_column_says_where_the_other_has_an_image():
    before, after = compared(PLAIN, ALIGNED, 3, ALL)
    assert [(one.row, one.rank, one.other_rank) for one in before] == [(0, 1, 1), (1, 2, 5), (2, 3, 2)]
    assert [(one.row, one.rank, one.other_rank) for one in after] == [(0, 1, 1), (2, 2, 3), (4, 3, 5)]
    assert [one.change(3, False) for one in before] == ["same", "gone", "up"]
    assert [one.change(3, True) for one in after] == ["same", "up", "new"]
    assert summary(after, 3) == "Of the 3 best images of the aligned head: 1 new, 1 moved up."


def test_an_image_that_falls_is_down_in_both_columns():
    assert Ranked(0, 0.5, 2, 4).change(5, False) == "down"
    assert Ranked(0, 0.5, 4, 2).change(5, True) == "down"


def test_equal_rankings_say_so():
    _, after = compared(PLAIN, PLAIN, 4, ALL)
    assert summary(after, 4) == "The two heads show the same images in the same order."


def test_only_allowed_images_have_a_rank():
    allowed = np.array([False, True, True, False, True, True])
    before, after = compared(PLAIN, ALIGNED, 2, allowed)
    assert [(one.row, one.rank, one.other_rank) for one in before] == [(1, 1, 3), (2, 2, 1)]
    assert [(one.row, one.rank, one.other_rank) for one in after] == [(2, 1, 2), (4, 2, 3)]
    assert ranked(PLAIN, 9, np.zeros(6, bool)) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=12), st.integers(1, 12))
def test_ranks_agree_with_the_order_whatever_is_equal(images, count):
    scores = np.array([score for score, _ in images], np.float32)
    allowed = np.array([is_allowed for _, is_allowed in images])
    order = sorted(np.flatnonzero(allowed), key=lambda row: (-scores[row], row))
    assert best_rows(scores, count, allowed).tolist() == order[:count]
    assert ranks_of(order, scores, allowed) == list(range(1, len(order) + 1))


@pytest.mark.parametrize("count", [1, 6, 50])
def test_no_more_images_than_there_are(count):
    assert len(ranked(PLAIN, count, ALL)) == min(count, 6)
