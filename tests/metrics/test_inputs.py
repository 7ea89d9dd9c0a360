"""Metrics take whatever holds numbers or labels, by position; what they cannot take is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics import (
    bootstrap_interval,
    clustering_accuracy,
    clustering_report,
    forgetting_metrics,
    histogram_iou,
    intra_modal_report,
    match_clusters,
    mean_per_class_accuracy,
    modality_gap,
    multilabel_intervals,
    multilabel_metrics,
    nearest_class_mean,
    pair_similarities,
    paired_bootstrap,
    retrieval_metrics,
    retrieval_metrics_from_qrels,
    retrieval_metrics_from_similarities,
    revisited_retrieval_metrics,
    top_k_accuracy,
)

GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.standard_normal((12, 4))
NUMBERS = np.arange(12) % 3
NAMES = np.array(["ant", "bee", "cat"])[NUMBERS]
HARD = (TABLE > 0).astype(float)

MATRICES: dict[str, Callable[[np.ndarray], Any]] = {
    "list": lambda table: table.tolist(),
    "tensor": lambda table: torch.from_numpy(table.copy()),
    "big-endian": lambda table: table.astype(">f8"),
    "negative strides": lambda table: np.ascontiguousarray(table[::-1])[::-1],
    "columns first": np.asfortranarray,
    "objects": lambda table: table.astype(object),
    "data frame": lambda table: pd.DataFrame(table, index=np.arange(len(table))[::-1]),
    "list of tensors": lambda table: list(torch.from_numpy(table.copy())),
    "read-only": lambda table: np.frombuffer(table.tobytes()).reshape(table.shape),
}
COLUMNS: dict[str, Callable[[np.ndarray], Any]] = {
    "list": lambda column: column.tolist(),
    "series": pd.Series,
    "shuffled index": lambda column: pd.Series(column, index=np.random.default_rng(1).permutation(len(column))),
    "reversed": lambda column: pd.Series(column[::-1])[::-1],
    "objects": lambda column: np.array(column.tolist(), dtype=object),
    "series of objects": lambda column: pd.Series(column.tolist(), dtype=object),
    "category": lambda column: pd.Series(column).astype("category"),
    "negative strides": lambda column: np.ascontiguousarray(column[::-1])[::-1],
    "big-endian": lambda column: column.astype(column.dtype.newbyteorder(">")),
}
ON_MATRICES: dict[str, Callable[[Callable[[Any], Any]], Any]] = {
    "retrieval": lambda kind: retrieval_metrics(kind(TABLE), kind(TABLE), NUMBERS, NUMBERS, True),
    "qrels": lambda kind: retrieval_metrics_from_qrels(kind(TABLE), kind(TABLE), [[(i + 3) % 12] for i in range(12)]),
    "similarities": lambda kind: retrieval_metrics_from_similarities(kind(TABLE @ TABLE.T), NUMBERS, NUMBERS, True),
    "revisited": lambda kind: revisited_retrieval_metrics(kind(TABLE), [[0]] * 12, [[1]] * 12, [[]] * 12),
    "top-k": lambda kind: top_k_accuracy(kind(TABLE), NUMBERS, ks=(1, 2)),
    "per class": lambda kind: mean_per_class_accuracy(kind(TABLE), NUMBERS),
    "class means": lambda kind: nearest_class_mean(kind(TABLE), NUMBERS).tolist(),
    "multilabel": lambda kind: multilabel_metrics(kind(HARD), kind(TABLE), threshold=0.1)["auroc"],
    "multilabel intervals": lambda kind: multilabel_intervals(kind(HARD), kind(TABLE), n_resamples=5),
    "forgetting": lambda kind: forgetting_metrics(kind(TABLE[:4]), baseline=TABLE[0]),
    "gap": lambda kind: modality_gap(kind(TABLE), kind(TABLE + 0.5)),
    "pairs": lambda kind: [part.tolist() for part in pair_similarities(kind(TABLE), NUMBERS)],
    "histograms": lambda kind: histogram_iou(kind(TABLE), kind(TABLE / 2)),
    "bootstrap": lambda kind: [part.tolist() for part in bootstrap_interval(kind(TABLE), n_resamples=5)],
    "paired": lambda kind: [part.tolist() for part in paired_bootstrap(kind(TABLE), kind(TABLE / 2), n_resamples=5)],
}
ON_LABELS: dict[str, Callable[[Callable[[Any], Any]], Any]] = {
    "retrieval": lambda kind: retrieval_metrics(TABLE, TABLE, kind(NAMES), kind(NAMES), True),
    "retrieval by numbers": lambda kind: retrieval_metrics(TABLE, TABLE, kind(NUMBERS), kind(NUMBERS), True),
    "top-k": lambda kind: top_k_accuracy(TABLE, kind(NUMBERS), ks=(1, 2)),
    "per class": lambda kind: mean_per_class_accuracy(kind(NUMBERS), kind(np.roll(NUMBERS, 1))),
    "class means": lambda kind: nearest_class_mean(TABLE, kind(NUMBERS)).tolist(),
    "clustering": lambda kind: clustering_accuracy(kind(NAMES), kind(np.roll(NUMBERS, 1)), kind(NUMBERS > 0)),
    "report": lambda kind: clustering_report(kind(NUMBERS), kind(NAMES)),
    "matches": lambda kind: match_clusters(kind(NAMES), kind(NUMBERS)),
    "pairs": lambda kind: [part.tolist() for part in pair_similarities(TABLE, kind(NAMES))],
    "gap": lambda kind: intra_modal_report(TABLE, kind(NAMES), TABLE, kind(NAMES)),
    "groups": lambda kind: bootstrap_interval(TABLE[:, 0], kind(NAMES), n_resamples=5),
    "patients": lambda kind: multilabel_intervals(HARD, TABLE, groups=kind(NAMES), n_resamples=5),
    "values": lambda kind: bootstrap_interval(kind(TABLE[:, 0]), n_resamples=5),
}


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("metric", ON_MATRICES)
def test_kinds_of_matrices(metric: str, kind: str) -> None:
    check = ON_MATRICES[metric]
    assert _flat(check(MATRICES[kind])) == pytest.approx(_flat(check(np.asarray)), nan_ok=True)


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("metric", ON_LABELS)
def test_kinds_of_labels(metric: str, kind: str) -> None:
    check = ON_LABELS[metric]
    assert _flat(check(COLUMNS[kind])) == pytest.approx(_flat(check(np.asarray)), nan_ok=True)


@pytest.mark.parametrize("metric", ON_MATRICES)
@pytest.mark.parametrize(
    "bad",
    [
        lambda table: pd.DataFrame(table).assign(name="x"),
        lambda table: table.astype(str),
        lambda table: "features.npy",
        lambda table: {"features": table},
        lambda table: [[1.0, 2.0], [3.0]],
        lambda table: table.astype(complex) + 1j,
        lambda table: [[torch.nn.Identity()]],
    ],
    ids=["a column of strings", "strings", "a path", "a dict", "rows of two lengths", "complex numbers", "objects"],
)
def test_matrices_that_are_none_are_refused_in_one_line(metric: str, bad: Callable[[np.ndarray], Any]) -> None:
    with pytest.raises(ClipAlignError) as caught:
        ON_MATRICES[metric](bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metric", ON_LABELS)
@pytest.mark.parametrize(
    "bad",
    [
        lambda column: "cat",
        lambda column: pd.Series(column.tolist(), dtype=object).where(column != column[1], None),
        lambda column: pd.DataFrame({"label": column, "other": column}),
        lambda column: {"cat": 1},
        lambda column: column.astype(complex) if column.dtype.kind != "U" else [1j] * len(column),
        lambda column: [*column[:-1].tolist(), object()],
    ],
    ids=["a string", "a missing one", "a data frame", "a dict", "complex numbers", "an object"],
)
def test_labels_that_are_none_are_refused_in_one_line(metric: str, bad: Callable[[np.ndarray], Any]) -> None:
    if metric == "values" and isinstance(bad(NAMES), pd.Series | pd.DataFrame):
        return  # missing values are left out of a mean, and a table has several
    with pytest.raises(ClipAlignError) as caught:
        ON_LABELS[metric](bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tensor", "big-endian", "negative strides", "columns first", "data frame"])
def test_kinds_of_masks(kind: str) -> None:
    masks = [np.roll(np.eye(12, 4), shift, axis=0) for shift in range(3)]
    expected = revisited_retrieval_metrics(TABLE, *masks)
    assert revisited_retrieval_metrics(TABLE, *map(MATRICES[kind], masks)) == pytest.approx(expected, nan_ok=True)


def test_numbers_of_one_kind_are_not_made_strings() -> None:
    with pytest.raises(ClipAlignError, match="all integers or all strings"):
        retrieval_metrics(TABLE, TABLE, [*NAMES[:-1], 2], NAMES)


def test_integers_of_both_kinds_of_64_bits_are_not_made_floats() -> None:
    """Hashes as labels: the common kind of int64 and uint64 is float64, in which 2^53 and 2^53 + 1 are equal."""
    labels = 2**53 + np.arange(12) % 3
    expected = retrieval_metrics(TABLE, TABLE, NUMBERS, NUMBERS)
    assert retrieval_metrics(TABLE, TABLE, labels.astype(np.uint64), labels.astype(np.int64)) == expected


@pytest.mark.parametrize("ks", ["15", (1.5,), (True,), 5, (0,), [None]])
def test_ks_that_are_no_integers_are_refused(ks: Any) -> None:
    with pytest.raises(ClipAlignError, match=r"^(every k in )?ks "):
        top_k_accuracy(TABLE, NUMBERS, ks=ks)


@pytest.mark.parametrize("relevant", [[[0.5]] * 12, [["0"]] * 12, "0" * 12, [[[0]]] * 12])
def test_positions_that_are_no_integers_are_refused(relevant: Any) -> None:
    with pytest.raises(ClipAlignError, match="relevant "):
        retrieval_metrics_from_qrels(TABLE, TABLE, relevant)
    with pytest.raises(ClipAlignError, match="easy "):
        revisited_retrieval_metrics(TABLE, relevant, [[]] * 12, [[]] * 12)


def _flat(result: Any) -> Any:
    """Numbers of nested results in one list."""
    if isinstance(result, dict):
        return [number for key in sorted(result) for number in _flat(result[key])]
    if isinstance(result, list | tuple):
        return [number for part in result for number in _flat(part)]
    return [result if isinstance(result, int | float) else hash(result)]
