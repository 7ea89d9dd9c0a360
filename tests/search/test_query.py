"""The query language: what is words, what is an image, what is added and what is taken away."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.search import Files, Part, Query


def parsed(line):
    return [(part.kind, part.value, part.weight) for part in Query.parse(line).parts]


WORDS = [
    "a red car",
    "semi-automatic - or not + quite",
    "rock + roll",
    'a sign that says "stop" in red',
    "3 * 4",
    "dog's bowl",
    "jpg",
    "- toy",
    "Über den Wolken – 雲",
    'semi-"automatic" gun',
    'a "no smoking" sign, and "stop"',
    "nan",
    "2*red",
]


@pytest.mark.parametrize("line", WORDS)
def test_a_line_without_quoted_parts_and_images_is_words(line):
    assert parsed(f"  {line} ") == [("words", line, 1.0)]


ARITHMETIC = {
    '"red car"': [("words", "red car", 1)],
    '"red car" - "toy" + photo.jpg': [("words", "red car", 1), ("words", "toy", -1), ("image", "photo.jpg", 1)],
    '"red car"-"toy"+photo.jpg': [("words", "red car", 1), ("words", "toy", -1), ("image", "photo.jpg", 1)],
    '0.5*"snow" + .25 * a/b.PNG': [("words", "snow", 0.5), ("image", "a/b.PNG", 0.25)],
    '-"toy" + "car"': [("words", "toy", -1), ("words", "car", 1)],
    '- "toy"': [("words", "toy", -1)],
    'red car - "toy"': [("words", "red car", 1), ("words", "toy", -1)],
    "red car -toy.jpg": [("words", "red car", 1), ("image", "toy.jpg", -1)],
    "photo.jpg": [("image", "photo.jpg", 1)],
    "my photos/a-b c.jpeg": [("image", "my photos/a-b c.jpeg", 1)],
    '"rock + roll" − “a - b”': [("words", "rock + roll", 1), ("words", "a - b", -1)],
    '"photo.jpg"': [("words", "photo.jpg", 1)],
    "2*a.jpg": [("image", "a.jpg", 2)],
    '1e-2*"snow" + 2E1×"ice"': [("words", "snow", 0.01), ("words", "ice", 20)],
    'red car-"toy"': [("words", "red car", 1), ("words", "toy", -1)],
    '−"toy" + a.jpg': [("words", "toy", -1), ("image", "a.jpg", 1)],
}


@pytest.mark.parametrize(("line", "parts"), ARITHMETIC.items(), ids=ARITHMETIC)
def test_arithmetic(line, parts):
    assert parsed(line) == parts


MISTAKES = {
    "": "the query is empty: write what to look for",
    "  \n ": "the query is empty",
    '""': "is empty: write",
    '"  "': "is empty: write",
    '"red car': "quotation mark .* left open",
    'a 5" screen': "quotation mark .* left open",
    '"red" -': "is empty: write words or a file beside every",
    '"red" + + "blue"': "is empty: write",
    '0*"red"': "weight of .*red.* is 0: give a number above 0",
    '1e999*"red"': 'weight of "red" is inf: give a number above 0.000001, at most 1,000,000',
    '1e308*"red" + 1e308*"blue"': 'weight of "red" is 1e.308: give a number above',
    '"blue" - 1e-320*"red"': 'weight of "red" is .*e-321: give a number above',
    **{
        line: f"in the query .* the part .*{part}.* cannot be read: write a sum as 0.5"
        for line, part in {
            'nan*"red"': "nan",
            'inf * "red"': "inf",
            'two*"red"': "two",
            '0,5*"red"': "0,5",
            '1/2*"red"': "1/2",
            '2*3*"red"': "3",
            '"red"*2': "2",
            '"red" × 0.5 + "blue"': "0.5",
            "a.jpg*2": "2",
            '2 "red"': "2",
            '"red" "blue"': "blue",
            '"red", "blue"': "blue",
            '"red" – "blue"': "blue",
            '-- "red"': "red",
            '("red" + "blue") - "toy"': r"\(",
            '2*("red" + "blue")': r"\(",
            'nan*red + "blue"': "nan",
            '"red"^2 car': "2",
        }.items()
    },
    '2*-"red"': "is empty: write",
    '+ + "red"': "is empty: write",
    "x" * 20_001: "20,001 characters: give at most 20,000",
}


@pytest.mark.parametrize(("line", "message"), MISTAKES.items(), ids=[line[:20] for line in MISTAKES])
def test_mistakes_are_explained_on_one_line(line, message):
    with pytest.raises(ClipAlignError, match=message) as error:
        Query.parse(line)
    assert len(str(error.value).splitlines()) == 1


@given(st.text(max_size=60))
def test_any_line_is_a_query_or_a_mistake(line):
    try:
        query = Query.parse(line)
    except ClipAlignError as error:
        said = str(error)
    else:
        assert query.parts
        said = str(query)
    assert len(said.splitlines()) == 1


@given(st.lists(st.text("abc -+é*5", min_size=1).filter(str.strip), min_size=1, max_size=4))
def test_what_is_quoted_comes_back(words):
    line = " - ".join(f'"{one}"' for one in words)
    assert [part.value for part in Query.parse(line).parts] == [one.strip() for one in words]


def test_a_file_whose_name_holds_a_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("The Band - The Wall.png")
    assert parsed("The Band - The Wall.png") == [("image", "The Band - The Wall.png", 1.0)]


def test_a_query_from_arguments():
    image = Image.new("RGB", (4, 4))
    array = np.zeros((4, 4, 3), np.uint8)
    query = Query.of(text=["red", "car"], image=[image, array, b"bytes"], like=Path("a.jpg"), unlike=["toy", "b.JPG"])
    assert [(part.kind, part.weight) for part in query.parts] == [
        *[("words", 1.0)] * 2,
        *[("image", 1.0)] * 4,
        ("words", -1.0),
        ("image", -1.0),
    ]
    assert query.parts[3].value is array
    assert not query.is_visual
    assert Query.of(like="a.jpg", unlike="b.jpg").is_visual
    assert Query.of(image=array).is_single
    assert not Query.of(unlike="toy").is_single


@pytest.mark.parametrize("arguments", [{}, {"text": ""}, {"text": []}, {"text": " "}, {"unlike": ""}, {"text": 3}])
def test_arguments_that_say_nothing(arguments):
    with pytest.raises(ClipAlignError, match=r"query is empty|text is 3"):
        Query.of(**arguments)


@pytest.mark.parametrize("weight", [0, float("nan"), float("inf"), -1e7, 1e-7, True, "2", None])
def test_a_weight_is_a_number_within_bounds(weight):
    with pytest.raises(ClipAlignError, match=r'the weight of "red" is .*: give a number above 0\.000001'):
        Query((Part("words", "red", weight),))


def test_a_query_says_how_it_was_understood():
    assert str(Query.parse('-"toy" + 0.5*photo.jpg')) == '−"toy" + 0.5 × photo.jpg'
    assert str(Query.of(image=Image.new("RGB", (2, 2)), unlike="a\nb")) == '(an image) − "a\\nb"'


def test_a_whole_line_that_names_a_file_of_the_collection_is_that_file():
    name = "a - b.jpg"
    files = Files(["/photos"], np.zeros(1, int), [name], np.ones(1), np.zeros(1), np.zeros(1, int))
    assert [(part.kind, part.value) for part in Query.parse(f" {name} ", files).parts] == [("image", name)]
    assert [part.value for part in Query.parse("a - c.jpg", files).parts] == ["a", "c.jpg"]
    assert [part.value for part in Query.parse(name).parts] == ["a", "b.jpg"]
