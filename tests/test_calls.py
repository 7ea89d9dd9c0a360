"""What certain calls always say: encodings, whether a zip is strict, what a progress bar counts, help of settings."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "hf_clipalign").rglob("*.py"))
# by the name of the function; an encoding, so that files are UTF-8 whatever the locale says
SAID = {
    "tqdm": {"desc", "unit", "disable"},
    "zip": {"strict"},
    ".read_text": {"encoding"},
    ".write_text": {"encoding"},
    "open": {"encoding"},
    ".open": {"encoding"},
}


def unsaid(tree):
    """The calls that lack one of their words, as `(line, call, word)`."""
    settings = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments")]
    fields = {id(call) for node in settings for call in ast.walk(node) if isinstance(call, ast.Call)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        name = ast.unparse(call.func)
        kind = f".{name.rpartition('.')[2]}" if isinstance(call.func, ast.Attribute) else name
        binary = kind in ("open", ".open") and not any(_is_text_mode(value) for value in [*call.args, *named.values()])
        words = {"metadata"} if kind == "field" and id(call) in fields else SAID.get(kind, set())
        for word in words - set(named) if not binary else ():
            yield call.lineno, ast.unparse(call), word


def _is_text_mode(node):
    return isinstance(node, ast.Constant) and node.value in ("r", "w", "a", "x", "r+", "w+")


@pytest.mark.parametrize("file", FILES)
def test_calls_say_what_they_must(file):
    assert not list(unsaid(ast.parse((ROOT / file).read_text(encoding="utf-8"))))


def test_bars_stay_out_of_log_files():
    """`disable=None`: no bar where there is no terminal."""
    trees = [ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in FILES]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    bars = [call for call in calls if ast.unparse(call.func) == "tqdm"]
    assert len(bars) > 5
    for bar in bars:
        assert "None if" in next(ast.unparse(word.value) for word in bar.keywords if word.arg == "disable")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("zip(a, b)", ["strict"]),
        ("zip(a, b, strict=False)", []),
        ("path.read_text()", ["encoding"]),
        ("Path(a).write_text(b, encoding='utf-8')", []),
        ("write_text(path, b)", []),
        ("open(path, 'rb')", []),
        ("open(path, 'w')", ["encoding"]),
        ("path.open('r', encoding='utf-8')", []),
        ("tqdm(a, unit='image')", ["desc", "disable"]),
        ("class MyArguments:\n    a: int = field(default=3)", ["metadata"]),
        ("class MyArguments:\n    a: int = field(default=3, metadata={'help': 'a'})", []),
        ("class Mine:\n    a: int = field(default=3)", []),
    ],
)
def test_the_rule_itself(call, words):
    assert sorted(word for _, _, word in unsaid(ast.parse(call))) == words
