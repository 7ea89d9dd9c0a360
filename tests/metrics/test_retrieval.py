import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics import retrieval_metrics, retrieval_metrics_from_similarities

FIXTURES = Path(__file__).parents[1] / "fixtures" / "retrieval_metrics"
VECTORS = np.load(FIXTURES / "vectors.npz")
PARAMS = json.loads((FIXTURES / "params.json").read_text())
CASES = [f"labels/{name}" for name in PARAMS["cases"]] + ["cross_modal"]
SCORES = ("map", "map_at_r", "r_precision", "recall_at_1", "recall_at_5", "recall_at_10")


def features(n, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def labels(n, n_labels, seed=0):
    return torch.randint(n_labels, (n,), generator=torch.Generator().manual_seed(seed))


def textbook(similarities, query_labels, gallery_labels, exclude_self=False, ks=(1, 5, 10)):
    """One query after the other, by the definitions. Irrelevant items come first among ties."""
    rows = []
    for i, row in enumerate(similarities):
        keep = np.arange(len(row)) != i if exclude_self else np.ones(len(row), dtype=bool)
        relevant, row = (gallery_labels == query_labels[i])[keep], row[keep]
        n = relevant.sum()
        if n == 0:
            continue
        hits = relevant[np.lexsort((relevant, -row))]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        scores = {
            "map": average_precision_score(relevant, row),
            "map_at_r": (precision * hits)[:n].sum() / n,
            "r_precision": hits[:n].mean(),
        }
        rows.append(scores | {f"recall_at_{k}": float(hits[:k].any()) for k in ks})
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("case", CASES)
def test_reference_vectors(case):
    same = PARAMS["cases"].get(case.removeprefix("labels/"), {}).get("same_split", False)
    result = retrieval_metrics_from_similarities(
        VECTORS[f"{case}/similarity"],
        VECTORS[f"{case}/query_labels"],
        VECTORS[f"{case}/gallery_labels"],
        exclude_self=same,
        definition="reference",
        per_query=True,
    )
    names = {"ap": "map", "ap_at_R": "map_at_r", "ap_at_R__maybe_nan": "map_at_r", "precision_at_R": "r_precision"}
    names |= {f"hit_at_{k}": f"recall_at_{k}" for k in (1, 5, 10)}
    for theirs, ours in names.items():
        if f"{case}/{theirs}" in VECTORS:
            np.testing.assert_allclose(result["per_query"][ours], VECTORS[f"{case}/{theirs}"], atol=1e-5)
    percent = PARAMS["cross_modal_metrics_percent"] if case == "cross_modal" else None
    percent = percent or PARAMS["cases"][case.removeprefix("labels/")]["metrics_percent"]
    names = {"mAP": "map", "mAP_at_R": "map_at_r", "precision_at_R": "r_precision"}
    for theirs, value in percent.items():
        expected = np.nan if value is None else value
        assert 100 * result[names.get(theirs, theirs)] == pytest.approx(expected, abs=1e-3, nan_ok=True)


@given(data=st.data(), n_queries=st.integers(1, 6), n_gallery=st.integers(1, 30), exclude_self=st.booleans())
@settings(max_examples=80, deadline=None)
def test_matches_the_textbook_with_ties_and_negative_similarities(data, n_queries, n_gallery, exclude_self):
    n_queries = n_gallery if exclude_self else n_queries
    level = st.integers(-3, 3).map(lambda v: v / 4)
    similarities = data.draw(arrays(np.float32, (n_queries, n_gallery), elements=level))
    gallery_labels = data.draw(arrays(np.int64, n_gallery, elements=st.integers(0, 2)))
    query_labels = (
        gallery_labels if exclude_self else data.draw(arrays(np.int64, n_queries, elements=st.integers(0, 2)))
    )
    counts = (query_labels[:, None] == gallery_labels).sum(1) - exclude_self
    if not counts.any():
        with pytest.raises(ClipAlignError, match="no query has a relevant item"):
            retrieval_metrics_from_similarities(similarities, query_labels, gallery_labels, exclude_self)
        return
    result = retrieval_metrics_from_similarities(similarities, query_labels, gallery_labels, exclude_self)
    for name, value in textbook(similarities, query_labels, gallery_labels, exclude_self).items():
        assert result[name] == pytest.approx(value, abs=1e-5), name
    assert result["n_queries"] == (counts > 0).sum()
    assert result["n_without_positive"] == (counts == 0).sum()


@pytest.mark.parametrize("n_labels", [2, 40, 700])
def test_matches_the_textbook_on_a_gallery_of_several_chunks(n_labels):
    query, gallery = features(25), features(1700, seed=1)
    q, g = labels(25, n_labels), labels(1700, n_labels, seed=1)
    similarities = torch.nn.functional.normalize(query, dim=1) @ torch.nn.functional.normalize(gallery, dim=1).T
    expected = textbook(similarities.numpy(), q.numpy(), g.numpy())
    result = retrieval_metrics(query, gallery, q, g)
    assert {name: result[name] for name in SCORES} == pytest.approx(expected, abs=1e-5)


@given(seed=st.integers(0, 1000), n_labels=st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_invariances(seed, n_labels):
    rng = np.random.default_rng(seed)
    query, gallery = rng.standard_normal((9, 6)), rng.standard_normal((40, 6))
    q, g = rng.integers(n_labels, size=9), rng.integers(n_labels, size=40)
    g[0] = q[0]
    base = retrieval_metrics(query, gallery, q, g, per_query=True)
    permutation = rng.permutation(40)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, gallery)]
    others = [
        retrieval_metrics(query, gallery, q, g, per_query=True, block_size=1),
        retrieval_metrics(query, gallery, q, g, per_query=True, block_size=4),
        retrieval_metrics(query, gallery[permutation], q, g[permutation], per_query=True),
        retrieval_metrics(query @ rotation, gallery @ rotation, q, g, per_query=True),
        retrieval_metrics(*unit, q, g, per_query=True, normalize=False),
        retrieval_metrics_from_similarities(unit[0] @ unit[1].T, q, g, per_query=True),
    ]
    for other in others:
        for name, values in base["per_query"].items():
            np.testing.assert_allclose(other["per_query"][name], values, atol=1e-5)
            assert other[name] == pytest.approx(base[name], abs=1e-5)


def test_recall_grows_with_k_and_k_may_exceed_the_gallery():
    result = retrieval_metrics(features(50), features(30, seed=1), labels(50, 6), labels(30, 6, 1), ks=range(1, 40))
    recalls = [result[f"recall_at_{k}"] for k in range(1, 40)]
    assert recalls == sorted(recalls)
    assert recalls[29:] == [1.0] * 10


def test_queries_without_a_relevant_item_are_counted_and_left_out():
    gallery = features(10)
    result = retrieval_metrics(gallery[:3], gallery, [0, 9, 0], [0] * 10, per_query=True)
    assert (result["n_queries"], result["n_without_positive"], result["map"]) == (2, 1, 1.0)
    for values in result["per_query"].values():
        np.testing.assert_array_equal(np.isnan(values), [False, True, False])


def test_order_of_tied_items_does_not_matter():
    """Ten identical items, one of them relevant: first or last in memory, it stands last in the list."""
    for place in (0, 9):
        gallery_labels = np.arange(10) == place
        result = retrieval_metrics_from_similarities(np.ones((1, 10)), [True], gallery_labels)
        assert (result["map"], result["r_precision"]) == (pytest.approx(0.1), 0.0)
        assert (result["recall_at_5"], result["recall_at_10"]) == (0.0, 1.0)


def test_a_single_item_gallery_and_one_class_that_fills_it():
    assert retrieval_metrics([[1.0, 0.0]], [[0.0, 1.0]], ["a"], ["a"])["map"] == 1.0
    same = features(6)
    result = retrieval_metrics(same, same, [1] * 6, [1] * 6, exclude_self=True, definition="reference")
    assert result["map"] == result["map_at_r"] == 1.0


@pytest.mark.parametrize("kind", [list, np.asarray, torch.as_tensor, lambda v: [f"class {i}" for i in v]])
def test_kinds_of_labels(kind):
    query, q = features(20), labels(20, 3).tolist()
    expected = retrieval_metrics(query, query, q, q, exclude_self=True)
    assert retrieval_metrics(query.numpy(), query.tolist(), kind(q), kind(q), exclude_self=True) == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_float32(dtype):
    query, q = features(60).to(dtype), labels(60, 4)
    expected = retrieval_metrics(query.float(), query.float(), q, q, exclude_self=True)
    assert retrieval_metrics(query, query, q, q, exclude_self=True) == expected


def test_inputs_are_left_alone():
    query, q = features(30).requires_grad_(), labels(30, 3)
    similarities = (query @ query.T).detach()
    copies = query.detach().clone(), similarities.clone()
    retrieval_metrics(query, query, q, q, exclude_self=True)
    retrieval_metrics_from_similarities(similarities, q, q, exclude_self=True)
    assert torch.equal(query, copies[0])
    assert torch.equal(similarities, copies[1])


def test_long_tailed_classes_stay_within_small_blocks(monkeypatch):
    """One class with half of the items must not set the block size of all the others."""
    from hf_clipalign.metrics import _ranking

    monkeypatch.setattr(_ranking, "BLOCK_BYTES", 2**16)
    query = features(300)
    q = torch.cat([torch.zeros(150, dtype=torch.long), torch.arange(150) // 2 + 1])
    blocks = _ranking.query_blocks(torch.tensor([149] * 150 + [1] * 150), 300, None)
    assert len(blocks[0]) < len(blocks[-2])
    unit = torch.nn.functional.normalize(query, dim=1)
    expected = textbook((unit @ unit.T).numpy(), q.numpy(), q.numpy(), exclude_self=True)
    result = retrieval_metrics(query, query, q, q, exclude_self=True)
    assert {name: result[name] for name in SCORES} == pytest.approx(expected, abs=1e-5)


def with_nan(rows):
    table = features(4)
    table[rows] = torch.nan
    return table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((features(4), features(5), [0] * 3, [0] * 5), "query_labels has 3 entries for 4 rows"),
        ((features(4), features(5), [0] * 4, [0] * 6), "gallery_labels has 6 entries for 5 rows"),
        ((features(4), features(5, d=8), [0] * 4, [0] * 5), "query has 16 dimensions and gallery has 8"),
        ((features(4), features(5), [0] * 4, [0] * 5, True), "got 4 queries and 5 gallery items"),
        ((features(4), features(4), [0, 1, 1, 1], [0, 1, 0, 1], True), "first at 2"),
        ((with_nan([1, 3]), features(4), [0] * 4, [0] * 4), r"query holds NaN .* 2 of 4 rows \(1, 3\)"),
        ((features(4), with_nan([0]) * torch.inf, [0] * 4, [0] * 4), "gallery holds NaN or infinite values in 4"),
        ((features(0), features(4), [], [0] * 4), "query must be a non-empty matrix"),
        ((features(4)[0], features(4), [0], [0] * 4), "query must be a non-empty matrix"),
        (([["a"]], features(4), [0], [0] * 4), "query must be a matrix of numbers"),
        ((features(4), features(4), [0] * 4, [1] * 4), "no query has a relevant item"),
        ((features(4), features(4), [0] * 4, ["0"] * 4), "use the same kind"),
        ((features(4), features(4), [0.5] * 4, [0] * 4), "query_labels must be all integers or all strings"),
        ((features(4), features(4), [[0]] * 4, [0] * 4), "query_labels must be one label per row"),
        ((features(4), features(4), [0] * 4, [0] * 4, False, (0,)), "at least 1"),
    ],
)
def test_bad_input_names_the_culprit(arguments, message):
    with pytest.raises(ClipAlignError, match=message):
        retrieval_metrics(*arguments)


@pytest.mark.parametrize(("option", "value"), [("definition", "other"), ("block_size", 0)])
def test_bad_options(option, value):
    with pytest.raises(ClipAlignError, match=option):
        retrieval_metrics(features(4), features(4), [0] * 4, [0] * 4, **{option: value})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    query, gallery = features(50), features(2000, seed=1)
    q, g = labels(50, 20), labels(2000, 20, seed=1)
    expected = retrieval_metrics(query, gallery, q, g)
    assert retrieval_metrics(query.cuda(), gallery.cuda(), q, g) == pytest.approx(expected, abs=1e-4)
    assert retrieval_metrics(query, gallery, q, g, device="cuda") == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("n_gallery", [1, 512, 513, 5000, 123_457])
@pytest.mark.parametrize("n_positive", [1, 128, 129, 40_000])
def test_chunks_are_as_long_as_the_gallery_needs(n_gallery, n_positive):
    """A block's memory is that of its rows: less than one entry a chunk is wasted."""
    from hf_clipalign.metrics import _ranking

    n_chunks, length = _ranking.chunk_shape(n_gallery, n_positive)
    assert 0 <= n_chunks * length - n_gallery < n_chunks
    chunks, table = _ranking.BlockBuffer(n_gallery, torch.device("cpu")).rows(2, n_positive)
    assert chunks.shape == (2, n_chunks, length)
    assert table.shape == (2, n_gallery)
    assert bool((chunks.reshape(2, -1)[:, n_gallery:] == -torch.inf).all())
