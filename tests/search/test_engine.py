"""Answers: which head, which files, in which order, and what is said where there is nothing."""

import json

import numpy as np
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.search import Query, engine
from hf_clipalign.search.answers import vectors
from hf_clipalign.search.engine import search
from tests.search.collections import Collection, Files, feature

COLOURS = {
    "red/pure.png": (255, 0, 0),
    "red/copy.png": (255, 0, 0),
    "red/dark.png": (200, 20, 20),
    "green/pure.png": (0, 255, 0),
    "blue/pure.png": (0, 0, 255),
    "blue/teal.png": (0, 120, 200),
    "white.png": (255, 255, 255),
}


@pytest.fixture
def collection(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "photos"
    for name, colour in COLOURS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), colour).save(root / name)
    names = list(COLOURS)
    images = np.array([0, 0, 1, 2, 3, 4, 5])
    rows = [names[np.flatnonzero(images == row)[0]] for row in range(6)]
    features = np.stack([feature(np.full((2, 2, 3), COLOURS[name])) for name in rows])
    sizes = np.array([(root / name).stat().st_size for name in names])
    return Collection(Files(str(root), names, sizes, np.zeros(7), images), features)


def names(answer):
    return [hit.path.partition("photos/")[2] for hit in answer]


def one(collection, query=None, **options):
    (answer,) = search(collection, [query or Query.of(**options.pop("parts"))], **options)
    return answer


def test_words_are_answered_by_the_base_head(collection):
    answer = one(collection, Query.parse("red"), top_k=2)
    assert names(answer) == ["red/pure.png", "red/dark.png"]
    assert [hit.head for hit in answer] == ["raw", "raw"]
    assert names([type(answer[0])(path, 0, None, "") for path in answer[0].also]) == ["red/copy.png"]
    assert answer[0].score == pytest.approx(2 / 6**0.5, abs=1e-6)  # (1, -1, -1, 1) / 2 with (2, -1, -1, 0) / 6 ** 0.5


def test_images_are_answered_by_the_head_for_images(collection):
    answer = one(collection, parts={"image": "photos/blue/pure.png"}, top_k=3)
    assert names(answer) == ["blue/teal.png", "red/dark.png", "green/pure.png"]
    assert {hit.head for hit in answer} == {"aligned"}
    collection.heads = ["raw"]
    assert one(collection, parts={"image": "photos/blue/pure.png"}).head == "raw"
    assert one(collection, parts={"image": "photos/blue/pure.png", "unlike": "red"}).head == "raw"


def test_a_file_of_the_collection_needs_no_model_and_does_not_find_itself(collection):
    for path in ("red/copy.png", "photos/red/copy.png", collection.files.path(1)):
        answer = one(collection, parts={"like": path})
        assert names(answer)[0] == "red/dark.png"
        assert len(answer) == 5
    answer = one(collection, parts={"like": "red/copy.png"}, include_self=True)
    assert names(answer)[0] == "red/pure.png"
    assert answer[0].score == pytest.approx(1)
    assert collection.encoded == []


def test_an_image_from_outside_may_find_its_like(collection):
    Image.new("RGB", (9, 9), (255, 0, 0)).save("outside.png")
    for image in ("outside.png", Image.new("RGB", (3, 3), (255, 0, 0)), np.full((3, 3, 3), (255, 0, 0), np.uint8)):
        assert names(one(collection, parts={"image": image}))[0] == "red/pure.png"
    assert collection.encoded == ["image"] * 3


def test_a_file_that_was_changed_since_is_read_again(collection):
    Image.new("RGB", (99, 60), (0, 250, 0)).save("photos/red/copy.png")
    answer = one(collection, parts={"image": "photos/red/copy.png"}, top_k=1)
    assert names(answer) == ["green/pure.png"]
    assert collection.encoded == ["image"]


def test_arithmetic_is_a_weighted_sum_of_unit_vectors(collection):
    plain, weighted = (one(collection, Query.parse(f'red/pure.png + {w}"blue"'), top_k=6) for w in ("", "3*"))
    for answer, weight in ((plain, 1), (weighted, 3)):
        vector = np.array([1, -1, -1, 1]) / 2 + weight * np.array([-1, -1, 2, 0]) / 6**0.5
        expected = collection.embeddings("raw").read(0, 6) @ (vector / np.linalg.norm(vector))
        np.testing.assert_allclose([hit.score for hit in answer], np.sort(expected[1:])[::-1], atol=1e-6)
    assert answer.query == 'red/pure.png + 3 × "blue"'


def test_several_positives_and_negatives(collection):
    liked = ["red/pure.png", "blue/pure.png"]
    answer = one(collection, parts={"like": liked, "unlike": "green/pure.png"})
    assert set(names(answer)) == {"red/dark.png", "blue/teal.png", "white.png"}


def test_filters_hide_files_and_copies(collection):
    answer = one(collection, Query.parse("red"), where={"path": "red/copy.png"})
    assert names(answer) == ["red/copy.png"]
    assert answer[0].also == ()
    assert set(names(one(collection, Query.parse("red"), where={"class_name": "blue"}))) == {
        "blue/pure.png",
        "blue/teal.png",
    }
    nothing = one(collection, Query.parse("red"), where={"path": "violet"})
    assert nothing == []
    assert nothing.note == "no good match: no file meets the conditions."


def test_pages_follow_one_another(collection):
    whole = one(collection, Query.parse("red"), top_k=6)
    pages = [one(collection, Query.parse("red"), top_k=2, offset=offset) for offset in (0, 2, 4, 6)]
    assert [hit for page in pages for hit in page] == whole
    assert pages[-1].note == "no good match: there are no more than 6 images."
    like = [one(collection, parts={"like": "white.png"}, top_k=2, offset=offset) for offset in (0, 2, 4)]
    assert [len(page) for page in like] == [2, 2, 1]


def test_a_batch_equals_its_queries_one_by_one(collection):
    queries = [Query.parse("red"), Query.of(like="red/pure.png"), Query.parse('"red" - green/pure.png')]
    for together, alone in zip(
        search(collection, queries, top_k=4), (one(collection, q) for q in queries), strict=True
    ):
        assert names(together) == names(alone)[:4]
        assert [hit.score for hit in together] == pytest.approx([hit.score for hit in alone[:4]], abs=1e-6)
    assert search(collection, []) == []


def test_a_batch_is_one_product_for_each_block_of_images(collection, monkeypatch):
    calls = []
    real = engine.neighbours

    def counted(collection, head, queries, *rest):
        calls.append((head, len(queries)))
        return real(collection, head, queries, *rest)

    monkeypatch.setattr(engine, "neighbours", counted)
    queries = [Query.parse("red")] * 7 + [Query.of(like="red/pure.png")] * 5
    search(collection, queries)
    assert sorted(calls) == [("aligned", 5), ("raw", 7)]
    assert collection.encoded == ["red"]
    monkeypatch.setattr(engine, "_QUERIES_PER_PASS", 4)
    expected = [names(one(collection, query, top_k=2)) for query in queries]
    assert [names(answer) for answer in search(collection, queries, top_k=2)] == expected


def test_images_of_a_batch_are_read_a_few_at_a_time(collection, monkeypatch):
    Image.new("RGB", (9, 9), (255, 0, 0)).save("outside.png")
    monkeypatch.setattr(vectors, "_BATCH", 2)
    sizes = []
    real = collection.encode_images
    collection.encode_images = lambda images: sizes.append(len(images)) or real(images)
    answers = search(collection, [Query.of(image="outside.png") for _ in range(5)])
    assert sizes == [2, 2, 1]
    assert {names(answer)[0] for answer in answers} == {"red/pure.png"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rde/pure.png", "red/pure.png"),
        ("darc.png", "red/dark.png"),
        ("photos/whit.png", "photos/white.png"),
        ("nothing-alike.jpg", None),
    ],
)
def test_a_misspelt_file_is_corrected(collection, name, meant):
    with pytest.raises(ClipAlignError) as error:
        one(collection, parts={"image": name})
    hint = "check the name" if meant is None else f"did you mean '{meant}'?"
    assert f"no file '{name}', neither in the index nor on the disk: {hint}" in str(error.value)


class Calibration:
    reference_rank = 1

    def confidence(self, scores, n_gallery=None):
        return np.clip(scores, 0, 1)


def test_an_equal_embedding_is_the_same_image_whatever_the_sample_says(collection):
    class Doubtful(Calibration):
        def confidence(self, scores, n_gallery=None):
            return np.full(len(scores), 0.5)

    collection.calibrations = {"aligned": Doubtful()}
    answer = one(collection, parts={"like": "red/pure.png"}, include_self=True, min_confidence=0.99)
    assert names(answer)[0] == "red/pure.png"
    assert {hit.confidence for hit in answer} == {1.0}


def test_confidence_and_no_good_match(collection):
    collection.calibrations = {"aligned": Calibration()}
    answer = one(collection, parts={"like": "red/pure.png"})
    assert [hit.confidence for hit in answer] == pytest.approx([max(0, hit.score) for hit in answer])
    good = one(collection, parts={"like": "red/pure.png"}, min_confidence=0.9)
    assert names(good) == ["red/dark.png"]
    nothing = one(collection, parts={"like": "green/pure.png"}, min_confidence=0.99)
    assert nothing == []
    assert nothing.note == "no good match: no image reaches a confidence of 99 %."
    assert json.loads(nothing.to_json()) == []


def test_confidence_where_there_is_none(collection):
    assert {hit.confidence for hit in one(collection, Query.parse("red"))} == {None}
    with pytest.raises(ClipAlignError, match="holds 6 images, too few for a confidence, which takes 20: leave out"):
        one(collection, parts={"like": "red/pure.png"}, min_confidence=0.5)
    larger = Collection(collection.files, np.tile(collection.values, (4, 1)))
    with pytest.raises(ClipAlignError, match="the index has no calibration, which min_confidence needs"):
        one(larger, parts={"like": "red/pure.png"}, min_confidence=0.5)
    with pytest.raises(ClipAlignError, match="min_confidence is for queries by one image or by words, not for"):
        one(collection, parts={"like": "red/pure.png", "unlike": "blue"}, min_confidence=0.5)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("missing.jpg", "no file 'missing.jpg', neither in the index nor on the disk: check the name, or put it in"),
        ('"red" - "red"', "the parts of the query .*red.* cancel one another"),
        ("broken.png", "broken.png"),
    ],
)
def test_mistakes_are_explained_on_one_line(collection, query, message):
    with open("broken.png", "wb") as file:
        file.write(b"nothing")
    with pytest.raises(ClipAlignError, match=message) as error:
        one(collection, Query.parse(query))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("options", [{"top_k": 0}, {"offset": -1}, {"min_confidence": 1.5}, {"min_confidence": "x"}])
def test_numbers_are_checked(collection, options):
    with pytest.raises(ClipAlignError, match=f"{next(iter(options))} is"):
        one(collection, Query.parse("red"), **options)


def test_an_index_of_one_image(collection):
    collection.values, collection.files.images = collection.values[:1], np.array([0, 0])
    collection.files.names, collection.files.sizes = collection.files.names[:2], collection.files.sizes[:2]
    assert one(collection, parts={"like": "red/pure.png"}).note == "no good match: there is no other image."
    assert len(one(collection, parts={"like": "red/pure.png"}, include_self=True)) == 1
    assert len(one(collection, Query.parse("red"))) == 1


def test_an_empty_index(collection):
    empty = np.empty(0, np.int64)
    collection.files = Files("/", [], empty, empty.astype(float), empty)
    collection.values = np.empty((0, 4), np.float32)
    answer = one(collection, Query.parse("red"))
    assert answer == []
    assert answer.note == "no good match: the index holds no images."
