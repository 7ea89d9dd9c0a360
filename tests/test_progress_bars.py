"""Progress bars say what they do and what they count, and stay out of log files unless they are asked for."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def bars(file):
    """The calls of tqdm in a module, each as its arguments by name."""
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    named = [call for call in calls if ast.unparse(call.func).rpartition(".")[2] in ("tqdm", "trange")]
    return [{keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords} for call in named]


FILES = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "hf_clipalign").rglob("*.py"))


def test_there_are_bars():
    assert sum(len(bars(ROOT / file)) for file in FILES) > 5


@pytest.mark.parametrize("file", FILES)
def test_bars_say_what_they_count(file):
    for bar in bars(ROOT / file):
        assert {"desc", "unit", "disable"} <= set(bar), f"a progress bar of {file} has only {', '.join(bar)}"
        assert "None if" in bar["disable"], f"a progress bar of {file} is also shown where there is no terminal"
