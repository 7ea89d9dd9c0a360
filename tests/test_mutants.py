"""The makers of mutants: which mistakes they put into a line, and which lines they leave alone."""

import pytest

from tests.mutants import EQUIVALENT, covering_tests, modules, mutants_of

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


def test_every_module_has_tests():
    files = [file.as_posix().rpartition("/hf_clipalign/")[2] for file in modules()]
    assert len(files) > 100
    for file in files:
        assert covering_tests(f"hf_clipalign/{file}"), file


def test_every_equivalent_has_a_reason():
    assert all(reason.strip() for reason in EQUIVALENT.values())
