"""Examples in docstrings print what they say: those of losses and metrics, which need neither data nor models."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import hf_clipalign.losses
import hf_clipalign.metrics

MODULES = [
    f"{room.__name__}.{module.name}"
    for room in (hf_clipalign.losses, hf_clipalign.metrics)
    for module in pkgutil.iter_modules(room.__path__)
]


class FencedExamples(doctest.DocTestParser):
    """Reads examples in Markdown fences too, whose end would else be taken for output."""

    def parse(self, string, name="<string>"):
        lines = ["" if line.lstrip().startswith("```") else line for line in string.split("\n")]
        return super().parse("\n".join(lines), name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(parser=FencedExamples(), exclude_empty=True).find(module):
        runner.run(test)
    assert runner.failures == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(parser=FencedExamples())
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) > 10


@pytest.mark.parametrize(
    "name",
    [f"{room.__name__}.{name}" for room in (hf_clipalign.losses, hf_clipalign.metrics) for name in room.__all__],
)
def test_every_public_name_has_an_example(name):
    room, _, own = name.rpartition(".")
    assert "Example:" in getattr(importlib.import_module(room), own).__doc__
