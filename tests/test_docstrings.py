"""Every public name explains itself with an example, and the examples print what they say."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import hf_clipalign
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import from_dataset, load_mini
from hf_clipalign.evaluation import extract_image_features

PACKAGE = Path(hf_clipalign.__file__).parent
STUBS = sorted(PACKAGE.rglob("__init__.pyi"), key=lambda stub: (stub.parent.name == "evaluation", stub))


def public_names():
    """`(room, name)` of everything that can be imported from a room, each object once."""
    seen = set()
    for stub in STUBS:
        room = ".".join(stub.parent.relative_to(PACKAGE.parent).parts)
        for name in re.findall(r"^from \S+ import \S+ as (\S+)$", stub.read_text(), flags=re.MULTILINE):
            value = getattr(importlib.import_module(room), name)
            if id(value) not in seen:
                seen.add(id(value))
                yield room, name


PUBLIC = list(public_names())


class FencedExamples(doctest.DocTestParser):
    """Reads examples in Markdown fences too, whose end would else be taken for output."""

    def parse(self, string, name="<string>"):
        lines = ["" if line.lstrip().startswith("```") else line for line in string.split("\n")]
        return super().parse("\n".join(lines), name)


def documented(value):
    """The docstring of a class or function; plain values are explained where they are defined."""
    return value.__doc__ if callable(value) else None


def examples(room, name):
    """All examples of a public name, those of its methods too."""
    value = getattr(importlib.import_module(room), name)
    if not callable(value):
        return []
    finder = doctest.DocTestFinder(parser=FencedExamples(), exclude_empty=True)
    return [test for test in finder.find(value, name) if test.examples]


WITHOUT_EXAMPLE = frozenset((Path(__file__).parent / "names_without_example.txt").read_text(encoding="utf-8").split())
"""Public names whose docstring lacks an example; the list may only become shorter."""

NOT_RUN = frozenset((Path(__file__).parent / "examples_not_run.txt").read_text(encoding="utf-8").split())
"""Examples that need the Hub, a long training or files of one's own; the list may only become shorter."""


@pytest.fixture(scope="module")
def names():
    """What every example finds defined: the built-in student and 24 images of twelve emoji."""
    torch.manual_seed(0)
    mini = load_mini()
    rows = mini.emoji_subset(styles=["noto", "twemoji"], novel=True)
    emoji = np.array(rows["name"][:])
    _, counts = np.unique(emoji, return_counts=True)
    chosen = np.unique(emoji)[counts == 2][::25][:12]
    images = from_dataset(rows.select(np.flatnonzero(np.isin(emoji, chosen))), label_column="name")
    encoder = as_dual_encoder(mini.student)
    features = extract_image_features(encoder, images, mini.student_processor, progress=False)
    return {
        **{"mini": mini, "model": mini.student, "processor": mini.student_processor, "encoder": encoder},
        **{"images": images, "features": features, "torch": torch, "np": np},
    }


@pytest.mark.parametrize(("room", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_examples_print_what_they_say(room, name, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples(room, name):
        if test.name not in NOT_RUN:
            module = importlib.import_module(room)
            test.globs = {**{one: getattr(module, one) for one in dir(module)}, **names}
            runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize(("room", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_every_public_name_has_an_example(room, name):
    value = getattr(importlib.import_module(room), name)
    if not callable(value):
        return
    assert value.__doc__, f"{room}.{name} has no docstring"
    assert ">>>" in value.__doc__ or f"{room}.{name}" in WITHOUT_EXAMPLE, f"{room}.{name} has no example"


def test_most_rooms_are_without_exceptions():
    assert not {name for name in WITHOUT_EXAMPLE if name.startswith("hf_clipalign.evaluation.")}
    assert len(WITHOUT_EXAMPLE) <= 137
