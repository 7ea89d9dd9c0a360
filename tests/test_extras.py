"""The extras: names that every pip understands, and spelled alike wherever a reader is told to install one."""

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
READ = ["hf_clipalign/**/*.py", "hf_clipalign/**/*.jinja", "examples/*.py", "tests/**/*.py", "docs/**/*.md", "*.md"]
READ += ["Makefile", "Makefile.lanes", "pyproject.toml"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_name_is_the_one_that_the_wheel_will_have(extra):
    """A wheel's metadata has the normalised name, and pips before 23.3 look for the name as the user typed it."""
    assert extra == re.sub(r"[-_.]+", "-", extra).lower()


def written_extras():
    for file in sorted({file for pattern in READ for file in ROOT.glob(pattern)}):
        text = file.read_text(encoding="utf-8")
        for match in re.finditer(r"(?:hf[_-]clipalign\\?|[\"' ]\.)\[([\w., -]+?)\\?\]|[Ee]xtras? `([\w.-]+)`", text):
            yield from (
                (file.relative_to(ROOT).as_posix(), name.strip()) for name in (match[1] or match[2]).split(",")
            )


def test_every_extra_that_is_written_somewhere_exists():
    written = set(written_extras())
    assert {"onnx", "faiss", "dev", "open-clip"} <= {name for _, name in written}
    assert {(file, name) for file, name in written if name not in EXTRAS} == set()
