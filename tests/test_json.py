"""JSON files of others are read within limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign._io.limited_json import BadJson, check_schema, entries, number, read_json


def written(folder: Path, content: bytes) -> Path:
    path = folder / "some.json"
    path.write_bytes(content)
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, '{"a": ["é", 1, null]}'.encode())) == {"a": ["é", 1, None]}
    assert read_json(written(tmp_path, b"[1]"), kind=list) == [1]


def test_size_and_depth_may_reach_their_limits_and_no_more(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"a": [[]]}')
    assert read_json(path, max_bytes=11, max_depth=3) == {"a": [[]]}
    with pytest.raises(ClipAlignError, match=r"some\.json' is larger than 10 bytes"):
        read_json(path, max_bytes=10)
    with pytest.raises(ClipAlignError, match=r"some\.json' is nested deeper than 2 levels"):
        read_json(path, max_depth=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON|deeper than 32"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "deeper than 32"),
        (b"9" * 5000, "not valid JSON|instead of a JSON object"),
        (b"[1]", "JSON list instead of a JSON object"),
        (b"null", "instead of a JSON object"),
    ],
)
def test_what_is_refused_is_told_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ClipAlignError, match=message) as caught:
        read_json(written(tmp_path, content))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_an_error_of_the_file_system_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"band": [1, "2"]}, r"band\[1\] is \"2\", not a number"),
        ({"band": 3}, "band is 3, not null or a list"),
        ({"scores": {"a": None}}, "scores is .*, not an object of such entries"),
        ({"scores": {"a": float("inf")}}, "scores is"),
        ({"scores": {"a": True}}, "scores is"),
        ([], "all of it is .*, not an object"),
    ],
)
def test_a_schema_says_where_a_value_does_not_fit(value, place) -> None:
    schema = {"band?": (None, [number]), "scores?": entries(number)}
    check_schema({"band": [1, 0.5], "scores": {"a": -1}}, schema)
    check_schema({"band": None, "other": "x"}, schema)
    with pytest.raises(BadJson, match=place):
        check_schema(value, schema)
