"""Conditions on path, class, size and date."""

from datetime import date, datetime, timezone

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.search import Filter
from hf_clipalign.search.answers.filters import class_of, parse_conditions
from tests.search.collections import Files

NAMES = ["cats/a.jpg", "cats/old/b.PNG", "cats2/c.jpg", "dogs/a [1].jpg", "top.jpg"]
DATES = ["2023-12-31T23:59:59", "2024-01-01T00:00:00", "2024-05-31T12:00:00", "2024-06-01T00:00:00", "2025-01-01"]


@pytest.fixture
def files():
    modified = np.array([datetime.fromisoformat(text).timestamp() for text in DATES])
    return Files("/photos", NAMES, np.array([10, 1_000, 1_500, 2_000_000, 0]), modified, np.arange(5))


CONDITIONS = [
    ({}, "01234"),
    ({"path": "cats"}, "012"),
    ({"path": "cats/"}, "01"),
    ({"path": "./cats/"}, "01"),
    ({"path": "cats/*.jpg"}, "0"),
    ({"path": "*/[ab]*"}, "013"),
    ({"path": "*.jpg"}, "0234"),
    ({"path": ["cats2/", "top.jpg"]}, "24"),
    ({"path": "/photos/dogs"}, "3"),
    ({"path": "/elsewhere"}, ""),
    ({"path": "/*/top.???"}, "4"),
    ({"class_name": "cats"}, "01"),
    ({"class_name": ["dogs", "cats2"]}, "23"),
    ({"min_size": 1000}, "123"),
    ({"min_size": "1kB", "max_size": "1.5 KB"}, "12"),
    ({"min_size": "1KiB"}, "23"),
    ({"max_size": "2MB"}, "01234"),
    ({"max_size": 0}, "4"),
    ({"since": "2024"}, "1234"),
    ({"since": "2024-06"}, "34"),
    ({"until": "2023"}, "0"),
    ({"until": "2024-05"}, "012"),
    ({"until": "2024-05-31"}, "012"),
    ({"until": "2024-05-31T11:59"}, "01"),
    ({"since": "2024-05-31T12:00", "until": "2024-12"}, "23"),
    ({"since": date(2024, 1, 1), "until": date(2024, 1, 1)}, "1"),
    ({"since": datetime(2024, 6, 1)}, "34"),
    ({"path": "cats", "min_size": 1000, "since": "2024-02"}, "2"),
]


@pytest.mark.parametrize(("where", "expected"), CONDITIONS, ids=[str(where) for where, _ in CONDITIONS])
def test_conditions(files, where, expected):
    assert "".join(map(str, np.flatnonzero(Filter.of(where).mask(files)))) == expected


def test_seconds_and_other_time_zones(files):
    moment = datetime(2024, 3, 1, tzinfo=timezone.utc)
    for since in (moment.timestamp(), moment, "2024-03-01T00:00:00Z", "2024-03-01T02:00:00+02:00"):
        assert Filter(since=since).since == moment.timestamp()


MISTAKES = [
    ({"paht": "x"}, "unknown condition 'paht': did you mean 'path'"),
    ({"path": 3}, "path is 3"),
    ({"path": [""]}, r"path is \[''\]: give a text"),
    ({"min_size": "big"}, "min_size is 'big': give bytes, or a size such as 200kB"),
    ({"max_size": -1}, "max_size is -1"),
    ({"max_size": "3 parsecs"}, "max_size is '3 parsecs'"),
    ({"min_size": True}, "min_size is True"),
    ({"since": "yesterday"}, "since is 'yesterday', which is no date: write 2024, 2024-05"),
    ({"until": "2024-13"}, "until is '2024-13', which is no date"),
    ({"until": "2024-02-30"}, "until is '2024-02-30'"),
    ({"until": "9999"}, "until is '9999'"),
    ("path", "where is 'path': give a dictionary"),
]


@pytest.mark.parametrize(("where", "message"), MISTAKES, ids=[str(where) for where, _ in MISTAKES])
def test_mistakes_are_explained_on_one_line(where, message):
    with pytest.raises(ClipAlignError, match=message) as error:
        Filter.of(where)
    assert len(str(error.value).splitlines()) == 1


def test_conditions_of_the_command_line():
    conditions = ["path=a=b/*", "path=c", "class=cats", "min-size=2kB", "since=2023", "since=2024"]
    assert parse_conditions(conditions) == {
        "path": ["a=b/*", "c"],
        "class_name": ["cats"],
        "min_size": "2kB",
        "since": "2024",
    }
    assert Filter.of(parse_conditions(["class=cats", "path=x"])) == Filter(path="x", class_name="cats")
    for wrong in ("path", "=x", "path= "):
        with pytest.raises(ClipAlignError, match="condition"):
            Filter.of(parse_conditions([wrong]))


def test_the_class_is_the_first_folder():
    assert [class_of(name) for name in NAMES] == ["cats", "cats", "cats2", "dogs", ""]


def test_class_and_class_name_are_one_condition(files):
    for where in ({"class": "cats"}, {"class_name": "cats"}):
        assert Filter.of(where) == Filter(class_name="cats")
    assert parse_conditions(["class_name=cats", "class=dogs"]) == {"class_name": ["cats", "dogs"]}
    with pytest.raises(ClipAlignError, match="class and class_name, which are one condition"):
        Filter.of({"class": "cats", "class_name": "dogs"})


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            "clas=x",
            "unknown condition 'clas': did you mean 'class'? choose from path, class, min-size",
        ),
        ("min-size=soon", "min-size is 'soon': give bytes, or a size such as 200kB or 1.5MB."),
        ("max_size=soon", "max-size is 'soon': give bytes"),
        ("until=soon", "until is 'soon', which is no date"),
    ],
)
def test_mistakes_are_explained_in_the_words_of_the_command_line(condition, message):
    with pytest.raises(ClipAlignError) as error:
        parse_conditions([condition])
    assert str(error.value).startswith(message)
