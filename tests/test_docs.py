"""README and docs: their Python runs as it stands, what they import exists, their commands and links are real."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from hf_clipalign.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS_THE_HUB = "<!-- needs the Hub -->\n"
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(rf"({re.escape(NEEDS_THE_HUB)})?```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", [code for mark, code in BLOCKS if not mark], ids=lambda code: code.split("\n")[0])
def test_the_readme_runs_as_it_stands(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_most_of_the_readme_runs_without_the_hub():
    assert len(BLOCKS) > sum(bool(mark) for mark, _ in BLOCKS) + 2


IMPORT = re.compile(r"^\s*(?:>>> )?(from hf_clipalign[\w.]* import (?:\([^)]*\)|[^\n(#]+))", flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_docs_import_exists(page):
    for line in IMPORT.findall(page.read_text(encoding="utf-8")):
        exec(line.strip(), {})


def commands(page):
    """The `clipalign` commands of a page, each as words; a backslash joins lines."""
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("clipalign "):
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_the_docs_are_spelled_right(page):
    group = get_command(app)
    for name, *arguments in commands(page):
        command = group.commands[name]
        earlier = {"--data", "--band", *(["--images"] if name != "findings" else [])}
        assert not earlier & set(arguments), arguments
        command.make_context(name, list(arguments))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_the_docs_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_image_at_the_top_is_small():
    (image,) = re.findall(r"!\[.*?\]\((docs/images/.*?)\)", README)
    assert (ROOT / image).stat().st_size < 150_000
