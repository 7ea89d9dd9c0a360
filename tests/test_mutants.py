"""The makers of mutants: which mistakes they put into a line, and which lines they leave alone."""

import ast
import json
import subprocess
import sys

import pytest

from tests.mutant_equivalents import EQUIVALENT
from tests.mutant_lines import spans
from tests.mutants import ROOT, files_of_tests, modules, mutants_of

CASES = {
    "x = a < b": ["x = (a <= b)"],
    "x = a + b": ["x = (a - b)"],
    "x = a and b": ["x = (a or b)"],
    "x = not a": ["x = (a)"],
    "x = True": ["x = (False)"],
    "x = 3": ["x = (4)", "x = (2)"],
    "x = 0.5": ["x = (1.5)", "x = (0.25)"],
    "f(a, b)": ["f(b, a)", "pass"],
    "x = f(a, key=b)": ["x = (f(a))"],
    "x += a": ["pass"],
    '"""3 < 4"""': [],
    "raise ValueError(3 < 4)": [],
    "x = f'{a + b}'": [],
    "x = 'a' + b": [],
    "def f(a: list[int] | None) -> int | None: ...": [],
}


@pytest.mark.parametrize(("line", "wanted"), CASES.items(), ids=CASES)
def test_the_mutants_of_a_line(line, wanted, tmp_path):
    file = tmp_path / "a.py"
    file.write_text(line + "\n")
    found = [mutant.applied(file.read_bytes()).decode().strip("\n") for mutant in mutants_of(file, tmp_path)]
    assert sorted(text.replace("(f(b, a))", "f(b, a)") for text in found) == sorted(wanted)


def test_the_lane_has_modules_and_tests():
    assert len(modules()) > 100
    files = files_of_tests()
    assert len(files) > 100
    assert all((ROOT / file).is_file() for file in files)


def test_every_equivalent_has_a_reason():
    assert EQUIVALENT
    for (file, text, change), reason in EQUIVALENT.items():
        assert (ROOT / file).is_file(), file
        assert " -> " in change, text
        assert len(reason) > 20, text


SOURCE = """\
LIMIT = 3


def f(
    a=4,
    g=lambda: 5,
):
    b = (
        6 +
        7
    )
    if b > 8:
        return 9
    try:
        return a
    except ValueError:
        return 10
"""


def test_the_lines_that_run_with_a_number():
    tree = ast.parse(SOURCE)
    found = spans(tree)
    numbers = {node.value: found[id(node)] for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    body = (8, 17)
    assert numbers == {
        3: None,
        **dict.fromkeys((4, 5), body),
        **dict.fromkeys((6, 7), (8, 11)),
        8: (12, 12),
        9: (13, 13),
        10: (17, 17),
    }


MODULE = """\
def double(x):
    return 2 * x


def unused(x):
    return 3 * x
"""
TESTS = """\
import functools
import os
import subprocess
import sys

import pytest

from hf_clipalign.numbers import double, unused


@functools.cache
def four():
    return double(2)


@pytest.fixture(scope="module")
def six():
    return double(3)


def test_itself():
    assert double(1) > 1


def test_cached():
    assert four() == 4


def test_cached_again():
    assert four() == 4


def test_shared(six):
    assert six == 6


def test_shared_again(six):
    assert six == 6


def test_forked():
    if (pid := os.fork()) == 0:
        unused(1)
        os._exit(0)
    os.waitpid(pid, 0)


def test_process():
    code = "from hf_clipalign.numbers import unused; unused(1)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing():
    pass


def test_wrong():
    assert double(1) == 3
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package of one module with its tests, in a place of its own."""
    for name, text in (("hf_clipalign/numbers.py", MODULE), ("tests/test_numbers.py", TESTS)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "hf_clipalign" / "__init__.py").touch()
    for name in ("mutant_lane", "mutant_lines"):
        (tmp_path / "tests" / f"{name}.py").write_text((ROOT / "tests" / f"{name}.py").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_tests_have_their_lines_and_those_that_they_share(project):
    """In a process of its own, as the lane forks from one that has not imported the package."""
    script = """
import json, sys
from pathlib import Path
from tests.mutant_lane import Lane
from tests.mutant_lines import Lines
root = Path.cwd()
with Lane(root, preload=["pytest"]) as lane:
    lines = Lines(root, root / "lines")
    record = lane.record("tests/test_numbers.py", {})
    missing = lines.missing(["tests/test_numbers.py"])
    lines.write("tests/test_numbers.py", record)
    lines.load(["tests/test_numbers.py"])
    file, own = "hf_clipalign/numbers.py", (root / "hf_clipalign/numbers.py").read_bytes()
    chosen = lines.tests(file, (2, 2), 60)
    edited = (lane.tree / "tests/test_numbers.py").read_text().replace("assert double(1) > 1", "assert unused(1) > 1")
    (lane.tree / "tests/test_numbers.py").write_text(edited)
    known = {name: {**test, "seconds": 77} for name, test in record["tests"].items()}
    again = lane.record("tests/test_numbers.py", known)
    run = [lane.run(file, own.replace(b"2 * x", new), chosen, 5) for new in (b"2 * x", b"3 * x", b"x * 2", b"oops(")]
    result = {
        "double": chosen, "unused": lines.tests(file, (6, 6), 60), "import": lines.tests(file, None, 60),
        "missing": missing, "then": lines.missing(["tests/test_numbers.py"]), "failed": record["failed"], "run": run,
        "again": [name for name, test in again["tests"].items() if test["seconds"] != 77],
    }
print(json.dumps(result))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    names = {key: {name.partition("::")[2] for name in result[key]} for key in ("double", "unused", "import")}
    of_double = {"test_itself", "test_cached", "test_cached_again", "test_shared", "test_shared_again"}
    assert names == {
        "double": of_double,
        "unused": {"test_forked", "test_process"},
        "import": of_double | {"test_forked", "test_process"},
    }
    assert (result["missing"], result["then"]) == (["tests/test_numbers.py"], [])
    assert [name.partition("::")[2] for name in result["failed"]] == ["test_wrong"]
    assert [name.partition("::")[2] for name in result["again"]] == ["test_itself"]
    outcomes = [outcome for outcome, _ in result["run"]]
    assert outcomes == ["survived", "caught", "survived", "caught"]
    assert result["run"][3][1] == "import of tests/test_numbers.py"
