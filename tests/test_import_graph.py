"""The reader of imports, on small packages: what the floor-plan test would miss without it."""

import pytest

from tests.import_graph import Arrow, ImportGraph

CASES = {
    "at the top": ("from hf_clipalign.low.a import thing\n", "hf_clipalign.low.a", "thing", None),
    "of a module": ("import hf_clipalign.low.a\n", "hf_clipalign.low.a", None, None),
    "in a function": ("def f():\n    from hf_clipalign.low import a\n", "hf_clipalign.low.a", None, None),
    "for types": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hf_clipalign.low.a import thing\n",
        "hf_clipalign.low.a",
        "thing",
        None,
    ),
    "by its lazy name": ("from hf_clipalign.low import thing\n", "hf_clipalign.low.a", "thing", "hf_clipalign.low"),
    "through the package": ("from hf_clipalign import thing\n", "hf_clipalign.low.a", "thing", "hf_clipalign"),
    "relative": ("from ..low.a import thing\n", "hf_clipalign.low.a", "thing", None),
    "as a string": (
        "import importlib\nimportlib.import_module('hf_clipalign.low.a')\n",
        "hf_clipalign.low.a",
        None,
        None,
    ),
    "as a formatted string": (
        "import importlib\nimportlib.import_module(f'hf_clipalign.low.{1}')\n",
        "hf_clipalign.low",
        None,
        None,
    ),
}


@pytest.fixture
def package(tmp_path):
    for folder in ("low", "high"):
        (tmp_path / "hf_clipalign" / folder).mkdir(parents=True)
        (tmp_path / "hf_clipalign" / folder / "__init__.py").touch()
    (tmp_path / "hf_clipalign" / "__init__.py").touch()
    (tmp_path / "hf_clipalign" / "__init__.pyi").write_text("from .low import thing as thing\n")
    (tmp_path / "hf_clipalign" / "low" / "__init__.pyi").write_text("from .a import thing as thing\n")
    (tmp_path / "hf_clipalign" / "low" / "a.py").write_text("thing = 1\n")
    return tmp_path


@pytest.mark.parametrize(("source", "target", "name", "written"), CASES.values(), ids=CASES)
def test_an_import_is_an_arrow(package, source, target, name, written):
    (package / "hf_clipalign" / "high" / "b.py").write_text(source)
    assert ImportGraph(package).arrows == [Arrow("hf_clipalign.high.b", target, name, written or target)]


def test_a_module_named_in_a_docstring_is_no_arrow(package):
    (package / "hf_clipalign" / "high" / "b.py").write_text('"""hf_clipalign.low.a"""\n')
    assert ImportGraph(package).arrows == []


def test_examples_have_arrows(package):
    (package / "examples").mkdir()
    (package / "examples" / "train.py").write_text("from hf_clipalign import thing\n")
    assert ImportGraph(package).arrows == [Arrow("examples.train", "hf_clipalign.low.a", "thing", "hf_clipalign")]


def test_a_circle_is_found_also_where_one_of_its_imports_waits_in_a_function(package):
    high = package / "hf_clipalign" / "high"
    (high / "b.py").write_text("from hf_clipalign.high import c\n")
    (high / "c.py").write_text("def f():\n    from hf_clipalign.high.d import g\n")
    (high / "d.py").write_text("from hf_clipalign.high.b import h\n")
    (high / "e.py").write_text("from hf_clipalign.high.b import h\n")
    assert ImportGraph(package).circles() == [[f"hf_clipalign.high.{name}" for name in "bcd"]]
