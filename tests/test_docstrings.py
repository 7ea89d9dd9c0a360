"""Every public name explains itself, its parameters and its use; the examples run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import hf_clipalign
import hf_clipalign.data
from tests.example_names import Names, write_files, write_index
from tests.hub import local_hub
from tests.hub.conftest import pushes_to

PACKAGE = Path(hf_clipalign.__file__).parent
STUBS = sorted(PACKAGE.rglob("__init__.pyi"), key=lambda stub: (stub.parent.name == "evaluation", stub))
NEEDS = {
    **{
        f"{word} {package}": package
        for package in ("faiss", "onnxruntime", "sentence_transformers", "open_clip")
        for word in ("import", "from")
    },
    "import export_text_tower": "onnxscript",
    "import extract_with_ray": "ray",
}
"""What examples say that need a package of an extra: they are skipped where it is missing."""

# their parameters are those of a base class of another library, which documents them
INHERITED = {"PeftConfig", "TrainingArguments", "BaseTuner", "Metric"}


def public_names():
    """`(room, name)` of everything that can be imported from a room, each object once."""
    seen = set()
    for stub in STUBS:
        room = ".".join(stub.parent.relative_to(PACKAGE.parent).parts)
        for name in re.findall(r"^from \S+ import \S+ as (\S+)$", stub.read_text(), flags=re.MULTILINE):
            value = getattr(importlib.import_module(room), name)
            if id(value) not in seen and callable(value):  # plain values are explained where they are defined
                seen.add(id(value))
                yield room, name


PUBLIC = list(public_names())
PUBLIC_IDS = [name for _, name in PUBLIC]
VALUES = {(room, name): getattr(importlib.import_module(room), name) for room, name in PUBLIC}
SLOW = ("export_onnx", "onnx_facts")
"""Their examples trace a model, which takes half a minute."""
RUNS = [pytest.param(*one, marks=pytest.mark.slow) if one[1] in SLOW else one for one in PUBLIC]
MODULES = [module.name for module in pkgutil.walk_packages(hf_clipalign.data.__path__, "hf_clipalign.data.")]


class FencedExamples(doctest.DocTestParser):
    """Reads examples in Markdown fences too, whose end would else be taken for output."""

    def parse(self, string, name="<string>"):
        lines = ["" if line.lstrip().startswith("```") else line for line in string.split("\n")]
        return super().parse("\n".join(lines), name)


FINDER = doctest.DocTestFinder(parser=FencedExamples(), exclude_empty=True)


def examples(room, name):
    """All examples of a public name, those of its methods too."""
    return [test for test in FINDER.find(VALUES[room, name], name) if test.examples]


def failures(tests, room, names):
    """The number of examples that print something else than they say."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        for words, package in NEEDS.items():
            if words in test.docstring:
                pytest.importorskip(package)
        torch.manual_seed(0)
        test.globs = {**{one: getattr(room, one) for one in dir(room)}, **names}
        runner.run(test)
    return runner.failures


@pytest.fixture(scope="module")
def names():
    """What every example finds defined; `load_mini()` reads the images once for all."""
    names = Names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_clipalign.data, "load_mini", names.fresh_mini)
        yield names.as_dict()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the examples open."""
    root = tmp_path_factory.mktemp("examples")
    write_files(root)
    write_index(root)
    return root


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine, where the account `me` may write."""
    monkeypatch.setattr(local_hub, "OWNER", "me")
    with local_hub.serve() as (hub, url):
        pushes_to(url, monkeypatch)
        yield hub


@pytest.mark.parametrize(("room", "name"), RUNS, ids=PUBLIC_IDS)
def test_examples_print_what_they_say(room, name, names, place, monkeypatch, request):
    monkeypatch.chdir(place)
    if name.startswith("push_"):
        request.getfixturevalue("hub")
    assert failures(examples(room, name), importlib.import_module(room), names) == 0


def test_examples_of_the_data_room_print_what_they_say(names, place, monkeypatch):
    monkeypatch.chdir(place)
    public = {test.docstring for room, name in PUBLIC for test in examples(room, name)}
    for module in map(importlib.import_module, MODULES):
        tests = [test for test in FINDER.find(module) if test.examples and test.docstring not in public]
        assert failures(tests, module, names) == 0


@pytest.mark.parametrize(("room", "name"), PUBLIC, ids=PUBLIC_IDS)
def test_every_public_name_has_an_example_in_a_fence(room, name):
    documented = VALUES[room, name].__doc__
    assert documented, f"{room}.{name} has no docstring"
    assert re.search(r"Example:\n\s+```python\n\s+>>> ", documented), f"{room}.{name} has no example"


def parameters(value):
    """The parameters that a docstring has to name."""
    if inspect.isclass(value) and any(base.__name__ in INHERITED for base in value.__mro__):
        return []
    try:
        return list(inspect.signature(value).parameters)
    except ValueError:  # exceptions
        return []


def documented_parameters(docstring):
    """The names that stand with a type in the sections Args and Attributes."""
    sections = re.findall(r"^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", docstring, flags=re.MULTILINE | re.DOTALL)
    lines = [line[4:] for line in "\n".join(sections).splitlines() if re.match(r" {4}\S", line)]
    names = set()
    for line in lines:
        bare = re.sub(r"\([^()]*\)", "", re.sub(r"\([^()]*\)", "", line))  # types may hold parentheses
        head = re.split(r":| \(", bare)[0]
        if " (" in line.partition(":")[0] or head.startswith("*"):
            names |= set(re.findall(r"\w+", head))
    return names


@pytest.mark.parametrize(("room", "name"), PUBLIC, ids=PUBLIC_IDS)
def test_every_parameter_is_explained(room, name):
    value = VALUES[room, name]
    missing = set(parameters(value)) - documented_parameters(inspect.getdoc(value))
    assert not missing, f"{room}.{name} does not explain {', '.join(sorted(missing))}"


def test_docstrings_have_one_dialect():
    """Links, fences, default values: `name (`type`, *optional*, defaults to `4`): what it is.`"""
    dialects = (r"\[`\w+`\]", r"^```", r"Examples:", r"^    \w+ \([^\n]*\): [^\n]*\. Default \d")
    found = [
        (name, match[0])
        for room, name in PUBLIC
        for dialect in dialects
        for match in re.finditer(dialect, inspect.getdoc(VALUES[room, name]), re.MULTILINE)
    ]
    assert not found
