"""What lies beside a collection: faster, never wrong, and made again when it is out of date or damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from hf_clipalign.search import BitLevel, exact_neighbours
from hf_clipalign.search.sidecars import choice
from hf_clipalign.search.sidecars.choice import neighbours, prepare, sidecar_states, wanted_levels
from hf_clipalign.search.sidecars.storage import Sidecar, UnusableSidecar
from tests.search.collections import Collection

N, WIDTH = 300, 24
SIZES = {"exact": (100, 10_000, 10_000), "int8": (10, 20, 10_000), "bits": (10, 20, 30), "usearch": (10, 20, 30)}


class Wide(Collection):
    """Random features with a few strong directions, as those of images have."""

    def projector(self, head, modality):
        generator = np.random.default_rng(1)
        matrix = np.linalg.qr(generator.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
        return matrix if head == "raw" else matrix[:16]


@pytest.fixture
def collection(tmp_path):
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((30, WIDTH))
    values = centres[np.arange(N) % 30] + generator.standard_normal((N, WIDTH)) * 0.4
    return Wide(None, values.astype(np.float32), path=tmp_path)


@pytest.fixture(params=SIZES)
def level(request, monkeypatch):
    """The level that a collection of this size is searched with."""
    if request.param == "usearch":
        pytest.importorskip("usearch")
    limits = dict(zip(("FEW_ROWS", "EXACT_ROWS", "GRAPH_ROWS"), SIZES[request.param], strict=True))
    for name, value in limits.items():
        monkeypatch.setattr(choice, name, value)
    monkeypatch.setattr(choice, "is_installed", lambda: request.param == "usearch")
    monkeypatch.setattr(choice, "_LEAST_RECALL", 0.6)  # 24 sign bits do not find much
    return request.param


def files(collection):
    return sorted(path.name for path in (Path(collection.path) / "levels").iterdir())


def queries(collection, head="raw", n=5):
    return collection.embeddings(head).take(np.arange(n))


def test_the_size_decides():
    assert [wanted_levels(n)[:1] for n in (0, 2_000, 2_001, 200_000, 200_001, 10**6)] == [
        [],
        [],
        ["exact"],
        ["exact"],
        ["int8"],
        ["int8"],
    ]
    assert wanted_levels(10**6 + 1)[0] in ("usearch", "bits")


def test_a_level_is_made_and_used(collection, level):
    lines = prepare(collection)
    assert [line.split(":")[0] for line in lines] == ["head raw", "head aligned"] * (
        len(lines) // 2
    ) or level == "usearch"
    for head in ("raw", "aligned"):
        found = neighbours(collection, head, queries(collection, head), 7)
        assert found.method.split(",")[0] == level
        assert found.note == ""
        exact = exact_neighbours(collection.embeddings(head), queries(collection, head), 7)
        np.testing.assert_array_equal(found.neighbours.rows[:, 0], np.arange(5))
        shared = found.neighbours.rows == exact.rows
        np.testing.assert_allclose(found.neighbours.scores[shared], exact.scores[shared], atol=1e-6)
        assert shared.mean() > (0.99 if level in ("exact", "int8") else 0.5)
    assert prepare(collection) == [], "what is up to date is not made again"


def test_the_recall_is_that_of_the_ten_nearest_others(collection, level):
    if level == "exact":
        pytest.skip("the exact one has none")
    prepare(collection)
    state = sidecar_states(collection)[0]
    assert (state["head"], state["level"], state["state"]) == ("raw", level, "up to date")
    built, recall = Sidecar(collection, "raw", level).load()
    rows = collection.embeddings("raw")
    sample = np.sort(np.random.default_rng(0).permutation(N)[:256])
    exact = exact_neighbours(rows, rows.take(sample), 11).rows
    candidates = built.candidates(rows.take(sample), built.oversampling * 11)
    scores = np.einsum("qk,qck->qc", rows.take(sample), rows.take(candidates.ravel()).reshape(256, -1, WIDTH))
    best = np.take_along_axis(candidates, np.argsort(-scores, axis=1, kind="stable")[:, :11], 1)
    shares = [len((set(e) - {s}) & (set(b) - {s})) / 10 for s, e, b in zip(sample, exact, best, strict=True)]
    assert recall == pytest.approx(np.mean(shares), abs=0.002)
    assert state["recall"] == recall
    assert state["bytes"] > 0


def test_conditions_hold(collection, level):
    prepare(collection)
    allowed = np.arange(N) % 3 == 1
    found = neighbours(collection, "raw", queries(collection), 5, allowed)
    assert allowed[found.neighbours.rows].all()
    few = np.arange(N) % 100 == 7
    found = neighbours(collection, "raw", queries(collection), 10, few)
    assert found.method == "exact"
    assert [set(row[row >= 0]) for row in found.neighbours.rows] == [set(np.flatnonzero(few))] * 5


CHANGES = {
    "generation": lambda collection: setattr(collection, "generation", 2),
    "description": lambda collection: setattr(collection, "description", {"model": "other"}),
    "fewer images": lambda collection: setattr(collection, "values", collection.values[:-1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_out_of_date_is_not_used_and_made_again(collection, level, change):
    prepare(collection)
    CHANGES[change](collection)
    collection.values = collection.values[::-1].copy()
    found = neighbours(collection, "raw", queries(collection), 3)
    exact = exact_neighbours(collection.embeddings("raw"), queries(collection), 3)
    np.testing.assert_array_equal(found.neighbours.rows, exact.rows)
    assert found.method == "exact"
    if level != "exact":
        assert found.note == f"the level '{level}' of this index is out of date: {choice._HINT}."
    assert {state["state"] for state in sidecar_states(collection)} <= {"out of date", "missing"}
    assert prepare(collection)
    assert {state["state"] for state in sidecar_states(collection)} == {"up to date"}
    assert neighbours(collection, "raw", queries(collection), 3).method.split(",")[0] == level


def damage(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "cut":
        del content[len(content) // 2 :]
    elif kind == "flipped":
        content[-len(content) // 3] ^= 0x10
    elif kind == "empty":
        content.clear()
    else:
        content[:] = b"nothing of the kind" * 9
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "foreign"])
def test_what_is_damaged_is_not_used_and_made_again(collection, level, kind):
    prepare(collection)
    exact = exact_neighbours(collection.embeddings("raw"), queries(collection), 6)
    for name in files(collection):
        before = (Path(collection.path) / "levels" / name).read_bytes()
        damage(Path(collection.path) / "levels" / name, kind)
        fresh = Wide(None, collection.values, path=collection.path)
        found = neighbours(fresh, "raw", queries(fresh), 6)
        if "raw" in name and name.startswith("bits") != (level == "usearch"):
            np.testing.assert_array_equal(found.neighbours.rows, exact.rows)
            assert "is damaged" in found.note or (name.endswith("json") and "out of date" in found.note)
        (Path(collection.path) / "levels" / name).write_bytes(before)
    for name in files(collection):
        damage(Path(collection.path) / "levels" / name, kind)
    assert prepare(collection)
    for head in collection.heads:
        Sidecar(collection, head, level).load()


def test_what_is_no_longer_wanted_is_removed(collection, level, monkeypatch):
    prepare(collection)
    for name in ("FEW_ROWS", "EXACT_ROWS", "GRAPH_ROWS"):
        monkeypatch.setattr(choice, name, 10**6)
    prepare(collection)
    assert files(collection) == []
    assert sidecar_states(collection) == []
    assert neighbours(collection, "raw", queries(collection), 3).method == "exact"


def test_a_level_that_finds_too_little_gives_way(collection, monkeypatch):
    for name, value in (("FEW_ROWS", 10), ("EXACT_ROWS", 20), ("GRAPH_ROWS", 30)):
        monkeypatch.setattr(choice, name, value)
    monkeypatch.setattr(choice, "is_installed", lambda: False)
    monkeypatch.setattr(BitLevel, "oversampling", 1)
    lines = prepare(collection)
    assert any("bits" in line and line.endswith("too low: not used") for line in lines)
    assert neighbours(collection, "raw", queries(collection), 3).method == "int8, then exact scores"
    states = {state["level"]: state["state"] for state in sidecar_states(collection) if state["head"] == "raw"}
    assert states == {"bits": "not used: its recall is too low", "int8": "up to date"}
    assert prepare(collection) == []


def test_an_index_of_files_that_cannot_be_written_is_searched_all_the_same(collection, level):
    found = neighbours(collection, "raw", queries(collection), 3)
    np.testing.assert_array_equal(found.neighbours.rows[:, 0], np.arange(5))
    assert not (Path(collection.path) / "levels").exists()


def test_another_head_is_another_state(collection):
    key = Sidecar(collection, "raw", "int8").key
    assert Sidecar(collection, "aligned", "int8").key != key
    assert Sidecar(Wide(None, collection.values, path=collection.path), "raw", "int8").key == key


def test_folded_scores_are_those_of_the_head(collection, monkeypatch):
    monkeypatch.setattr(choice, "FEW_ROWS", 10)
    embeddings = collection.embeddings("aligned")
    prepare(collection)
    level, recall = Sidecar(collection, "aligned", "exact").load()
    assert recall is None
    np.testing.assert_allclose(level.read(0, N), embeddings.read(0, N), atol=1e-6)


def test_a_graph_of_another_state_does_not_stay(collection, monkeypatch):
    pytest.importorskip("usearch")
    for name, value in (("FEW_ROWS", 10), ("EXACT_ROWS", 20), ("GRAPH_ROWS", 30)):
        monkeypatch.setattr(choice, name, value)
    prepare(collection)
    before = [name for name in files(collection) if name.endswith(".graph")]
    collection.generation += 1
    prepare(collection)
    after = [name for name in files(collection) if name.endswith(".graph")]
    assert len(before) == len(after) == 2
    assert not set(before) & set(after)
    facts = json.loads((Path(collection.path) / "levels" / "usearch-raw.json").read_text())
    assert facts["rows"] == N
    with pytest.raises(UnusableSidecar, match="missing"):
        Sidecar(collection, "none", "usearch").load()
