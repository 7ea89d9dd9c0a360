"""Prompt files of other people: aliases, bombs and odd values end in one short line."""

from __future__ import annotations

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import FindingPrompts

_LEVELS = 60
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, _LEVELS))
GOOD = "Edema:\n  positive: [wet]\n  negative: [dry]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, r"aliases such as '\*a0' are not read"),
        ("Edema: &e\n  positive: [wet]\n  negative: [dry]\nOther: *e\n", r"aliases such as '\*e' are not read"),
        (GOOD + "Other:\n  <<: *nothing\n", "aliases"),
        ("a: &a [*a]\n", "aliases"),
        ("[" * 20000, "nested too deeply"),
        ("{" * 20000, "nested too deeply|valid YAML"),
        (GOOD + "#" * 2**20, "more than 1,048,576 bytes"),
        ("x: !!timestamp no\n", "valid YAML"),
        ("x: !!int ''\n", "valid YAML"),
        ("x: !!python/object/apply:os.system [true]\n", "valid YAML"),
        ("x: !!bool maybe\n", "valid YAML"),
        ("? [a, b]\n: c\n", "valid YAML|lists of prompts"),
        (GOOD + GOOD, "'Edema' occurs twice"),
        ("y" * 900 + ":\n  up: [a]\n", "'yyy.*…y"),
        ("Edema:\n  positive: [wet]\n  negative: [dry]\n  " + "z" * 900 + ": 1\n", "'zzz.*…z"),
        ("- " * 200 + "x", "lists of prompts"),
        ("", "lists of prompts"),
        ("Edema: {positive: [1" + ":1" * 400_000 + "], negative: [dry]}", "too long for a number: put it in quotes"),
        ("Edema: {positive: [0x" + "f" * 10_000 + "], negative: [dry]}", "too long for a number"),
        ("Edema: {positive: [1" + ":1" * 9000 + ".5], negative: [dry]}", "too long for a number"),
        ("\0", "valid YAML"),
    ],
)
def test_files_that_are_refused(tmp_path, content, message) -> None:
    (tmp_path / "p.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ClipAlignError, match=message) as caught:
        FindingPrompts.load(tmp_path / "p.yaml")
    text = str(caught.value)
    assert "p.yaml" in text
    assert "\n" not in text
    assert len(text) < 700


@pytest.mark.parametrize("content", ["[" * 100000, '{"a": ' * 50000, "NaN", '{"a": 1, "a": 2}', "1" * 5000])
def test_json_files_that_are_refused(tmp_path, content) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ClipAlignError, match=r"p\.json: ") as caught:
        FindingPrompts.load(tmp_path / "p.json")
    assert len(str(caught.value)) < 700


def test_anchors_and_byte_order_marks_do_no_harm(tmp_path) -> None:
    (tmp_path / "p.yaml").write_text("\ufeff" + GOOD.replace("[wet]", "&w [wet]"), encoding="utf-8")
    assert FindingPrompts.load(tmp_path / "p.yaml").to_dict() == {"Edema": {"positive": ["wet"], "negative": ["dry"]}}
