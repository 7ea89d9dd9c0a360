"""Values of the user's inside messages: one printable line, and short."""

from __future__ import annotations

import pytest

from hf_clipalign._checks.quoting import counted, printable, quoted, readable_name, short, short_reason


@pytest.mark.parametrize("value", ["a" * 10**6, ["x" * 500] * 500, b"\xff" * 10**6, {"k": "v" * 10**5}, "a\nb" * 999])
def test_whatever_is_quoted_is_short_and_on_one_line(value) -> None:
    for text in (short(value), short_reason(ValueError(str(value) + "\nmore")), quoted([value])):
        assert 0 < len(text) <= 241
        assert text.isprintable()


def test_what_python_does_not_write_is_named_by_its_type() -> None:
    assert short(16**9000) == "a int too large to be written"
    assert short([16**9000]) == "a list too large to be written"


def test_short_values_are_as_python_writes_them() -> None:
    assert short("it's") == '"it\'s"'
    assert short(7) == "7"
    assert short("a\tb") == "'a\\tb'"
    assert short("x" * 118) == "'" + "x" * 118 + "'"
    assert short("x" * 119) == "'" + "x" * 58 + "…" + "x" * 58 + "'"


def test_lists_of_names() -> None:
    assert quoted([]) == "none"
    assert quoted(["a", 1]) == "'a', 1"
    assert quoted(map(str, range(21))).endswith("'18', '19' and more")
    assert quoted(map(str, range(20))).endswith("'18', '19'")
    assert quoted(["x" * 76] * 3) == ", ".join(["'" + "x" * 76 + "'"] * 3)
    assert quoted(["x" * 79, "x" * 76, "x" * 76]).endswith("xx', 'x" + "x" * 75 + "' and more")
    assert len(quoted(["x" * 500] * 500)) < 300


def test_names_that_are_not_utf_8() -> None:
    assert readable_name("caf\udce9") == "caf\\xe9"
    assert readable_name("café") == "café"
    assert printable("a\udce9\nb\x1b[31m") == "a\\xe9\\nb\\x1b[31m"
    assert printable("\ud800") == "\\ud800"
    assert readable_name("a\udce9") != readable_name("a\udce8")


def test_errors_without_a_message_are_called_by_their_type() -> None:
    assert short_reason(KeyError()) == "KeyError"
    assert short_reason(ValueError("one\ntwo")) == "one"


def test_reasons_are_kept_up_to_240_characters() -> None:
    assert short_reason(ValueError("x" * 240)) == "x" * 240
    assert len(short_reason(ValueError("x" * 241))) <= 240


def test_a_number_with_its_noun():
    cases = [(1, "image"), (0, "image"), (2000, "image"), (1, "query"), (3, "query"), (2, "key"), (2, "class")]
    assert [counted(*case) for case in cases] == [
        "1 image",
        "0 images",
        "2,000 images",
        "1 query",
        "3 queries",
        "2 keys",
        "2 classes",
    ]
