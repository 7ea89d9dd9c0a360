"""Examples in docstrings run as they stand, on the built-in data."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    *(f"hf_clipalign.backbones.{name}" for name in ("loading", "text", "packing")),
    *(f"hf_clipalign.isoclip.{name}" for name in ("bands",)),
    *(f"hf_clipalign.tuners.{name}.config" for name in ("coop", "cocoop", "maple", "promptsrc", "retune", "vpt")),
]


class FencedExamples(doctest.DocTestParser):
    """Reads examples in Markdown fences, whose end would else be taken for output."""

    def parse(self, string: str, name: str = "<string>") -> list[str | doctest.Example]:
        lines = ["" if line.lstrip().startswith("```") else line for line in string.split("\n")]
        return super().parse("\n".join(lines), name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    finder = doctest.DocTestFinder(parser=FencedExamples(), exclude_empty=True)
    tests = [test for test in finder.find(importlib.import_module(name)) if test.examples]
    assert tests
    for test in tests:
        runner.run(test)
    assert runner.failures == 0
