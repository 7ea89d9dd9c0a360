"""Words of an index: unrelated texts are measured once, and a word without an image there is not answered."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import load_mini
from hf_clipalign.search import ImageIndex, Query, WordNull, search
from hf_clipalign.search.answers import word_measuring
from hf_clipalign.search.answers.word_measuring import SETTING, unrelated_texts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """60 emoji in an index whose words were measured."""
    mini, root = load_mini(), tmp_path_factory.mktemp("words")
    (root / "emoji").mkdir()
    for row in mini.emoji_subset(styles="noto").select(range(0, 960, 16)):
        row["image"].save(root / "emoji" / f"{row['name'].replace('/', ' ')}.png")
    index = ImageIndex.create(root / "emoji", mini.student_path, root / "index")
    index.update(progress=False)
    due = index.is_word_null_due
    return index, due, index.measure_words()


@pytest.fixture
def index(made):
    return ImageIndex.open(made[0].path)


def test_it_is_measured_once_and_kept(made, index):
    _, due, lines = made
    assert due
    assert lines == ["confidence (words): measured with 500 unrelated texts."]
    assert not index.is_word_null_due
    assert index.status().words == {"texts": 500, "of": 60, "state": "up to date"}
    expected = WordNull.fit(index.embeddings("raw"), made[0].encode_texts(unrelated_texts()))
    np.testing.assert_allclose(index.word_null().values, expected.values, atol=1e-3)


def test_the_confidence_of_words_is_the_share_of_unrelated_texts_that_stand_out_less(index):
    queries = [Query.of(text=word) for word in ("an emoji of a cat", "violin", "an emoji of a red heart")]
    texts = np.stack([index.encode_texts([query.parts[0].value])[0] for query in queries])
    expected = index.word_null().rarity(index.embeddings("raw"), texts)
    answers = search(index, queries, top_k=5)
    assert [answer[0].confidence for answer in answers] == pytest.approx(expected.tolist(), abs=0.01)
    assert "stands out: share of unrelated words" in answers[0].table().caption
    assert answers[0].table().columns == ["image", "score", "stands out"]
    assert "confidence" in index.search(like=index.files.names[0]).measure
    for answer in answers:
        shares = [hit.confidence for hit in answer]
        assert shares == sorted(shares, reverse=True)


def test_unrelated_texts_are_answered_as_seldom_as_was_asked_for(index):
    """On the very texts that were measured: of 500, at most 5 % stand out more than 95 % of them."""
    answers = search(index, [Query.of(text=text) for text in unrelated_texts()], min_confidence=0.95, top_k=1)
    assert 10 <= sum(map(bool, answers)) <= 25
    assert {answer.note for answer in answers if not answer} == {
        "no good match: more than 5 % of unrelated texts find an image that stands out as much."
    }


def test_sums_have_no_confidence(index):
    for line in ('"cat" - "toy"', '-"cat"', '"cat" + "dog"'):
        query = Query.parse(line)
        assert {hit.confidence for hit in search(index, [query])[0]} == {None}
        with pytest.raises(ClipAlignError, match="min_confidence is for queries by one image or by words, not for"):
            search(index, [query], min_confidence=0.5)


def test_growth_makes_it_due_and_damage_too(index, monkeypatch):
    stored = index.setting(SETTING)
    cases = [
        ({**stored, "n_images": 39}, True, "stale: the index has grown by half"),
        ({**stored, "n_images": 41}, False, "up to date"),
        (None, True, "not measured"),
        ([1], True, "not measured"),
        ({"n_images": 60, "values": []}, True, "not measured"),
        ({"n_images": 60, "values": ["x"]}, True, "not measured"),
    ]
    for value, is_due, state in cases:
        monkeypatch.setattr(index, "setting", lambda name, value=value: value)
        assert (index.is_word_null_due, index.word_state()["state"]) == (is_due, state)
    assert index.search("an emoji of a cat")[0].confidence is None
    with pytest.raises(ClipAlignError, match="has no calibration, which min_confidence needs: run `clipalign index`"):
        index.search("an emoji of a cat", min_confidence=0.5)


def test_few_images_have_no_words(tmp_path):
    mini = load_mini()
    mini.icons[0]["image"].save(tmp_path / "one.png")
    index = ImageIndex.create(tmp_path, mini.student_path, tmp_path.parent / f"{tmp_path.name}.index")
    index.update(progress=False)
    assert (index.is_word_null_due, index.measure_words()) == (False, [])
    with pytest.raises(ClipAlignError, match="holds 1 image, too few for a confidence, which takes 20"):
        index.search("cat", min_confidence=0.5)


def test_texts_that_a_model_cannot_read_leave_it_unmeasured(index, monkeypatch):
    monkeypatch.setattr(word_measuring, "unrelated_texts", lambda: ["cat " * 40] * 60)
    before = json.dumps(index.setting(SETTING))
    (line,) = index.measure_words()
    assert line.startswith("no confidence for words: the text 'cat cat")
    assert json.dumps(ImageIndex.open(index.path).setting(SETTING)) == before
