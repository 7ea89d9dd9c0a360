"""Changed copies of texts."""

from __future__ import annotations

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import text_views


def test_words_are_left_out_and_letters_swapped_in_the_last_one():
    text = "one two three four five six seven eight"
    for strength, left in ((0.1, 7), (0.25, 6), (0.5, 4), (0.75, 2)):
        words = text_views([text], strength)[0].split()
        assert len(words) == left
        assert [word for word in text.split() if word in words] == words
    assert sorted(text_views(["dog"], 0.1)[0]) == sorted("dog")
    assert text_views(["dog"], 0.1) != ["dog"]
    assert text_views(["x", "  "], 1.0) == ["x", ""]


def test_copies_depend_on_seed_and_place_only():
    texts = ["a small red car on a road", "a large dog"]
    assert text_views(texts, 0.3) == text_views(texts, 0.3)
    assert text_views(texts, 0.3)[1] == text_views(["else", "a large dog"], 0.3)[1]
    assert len({text_views(texts, 0.3, seed)[0] for seed in range(10)}) > 3


def test_bad_input_is_refused():
    with pytest.raises(ClipAlignError, match="strength"):
        text_views(["a"], 0)
    with pytest.raises(ClipAlignError, match="single string"):
        text_views("a cat", 0.5)
