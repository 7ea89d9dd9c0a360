"""The incremental protocol: scores after every task, bounds, forgetting, tables, heat maps, pages."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import FindingLabels, IncrementalTask, class_incremental
from hf_clipalign.evaluation import IncrementalResult, run_incremental, write_incremental_report
from hf_clipalign.evaluation.incremental import _row
from hf_clipalign.evaluation.reports.plots import plot_task_matrix
from hf_clipalign.metrics import multilabel_metrics

NAMES = ["A", "B", "C"]


class Forgetful:
    """Knows the finding of the last task perfectly, and guesses the others."""

    def __init__(self, targets: np.ndarray) -> None:
        self.targets = targets
        self.known: tuple[str, ...] = ()
        self.seen: list[str] = []

    def learn(self, task: IncrementalTask) -> None:
        self.known = task.findings
        self.seen.append(task.name)

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        scores = np.random.default_rng(0).random(self.targets.shape)
        for name in self.known:
            scores[:, NAMES.index(name)] = self.targets[:, NAMES.index(name)]
        return scores, scores > 0.5


def result(one_class: bool = False) -> IncrementalResult:
    targets = np.random.default_rng(1).integers(2, size=(60, 3)).astype(float)
    if one_class:
        targets[:, 1] = 0
    labels = FindingLabels([str(row) for row in range(30)], NAMES, np.ones((30, 3)))
    learner = Forgetful(targets)
    found = run_incremental(
        class_incremental(labels), learner.learn, learner.scores, targets, NAMES, "class-incremental", learner.scores
    )
    assert learner.seen == NAMES
    return found


def test_matrix_and_forgetting() -> None:
    found = result()
    assert np.diag(found.matrix("auroc")).tolist() == [1, 1, 1]
    assert found.matrix("f1").shape == (3, 3)
    assert found.learned_at == [0, 1, 2]
    summary = found.forgetting("auroc")
    guessed = [found.zero_shot["auroc"][name] for name in NAMES]
    assert summary["forgetting"] == pytest.approx(1 - np.mean(guessed[:2]))
    assert summary["backward_transfer"] == -summary["forgetting"]
    assert summary["forward_transfer"] == pytest.approx(0)
    assert found.means[0]["macro_auroc"] == pytest.approx(found.matrix("auroc")[0].mean())


def test_comes_back_from_json() -> None:
    for one_class in (False, True):
        found = result(one_class)
        text = found.to_json()
        assert "NaN" not in text
        again = IncrementalResult.from_json(text)
        np.testing.assert_array_equal(again.matrix("auroc"), found.matrix("auroc"))
        assert again.to_json() == text
        assert json.loads(text)["undefined"] == [["B"] if one_class else []] * 3


def test_undefined_findings_are_named_in_the_table() -> None:
    table = result(one_class=True).table("auroc")
    assert table.columns == ["class-incremental", "A", "B", "C", "mean"]
    assert [row[0] for row in table.rows] == ["zero-shot", "after A", "after B", "after C"]
    assert {row[2] for row in table.rows} == {"–"}
    assert all(row[-1].endswith(" (2 of 3)") for row in table.rows)
    assert table.caption == "AUROC, in percent; undefined, as the test data have one class of it at most: B"
    assert result().table("auroc").caption == "AUROC, in percent"


def rows(*values: list[float], names: list[str] = NAMES) -> dict[str, Any]:
    """What `multilabel_metrics` says of test rows whose scores are all the same but for the last row's."""
    targets = np.array(values, float)
    scores = np.full(targets.shape, 0.5)
    scores[-1] = 0.9
    return multilabel_metrics(targets, scores, finding_names=names)


def test_gaps_are_named_by_task_and_are_in_no_mean() -> None:
    found = IncrementalResult("later", ["a", "b"])
    found.add_zero_shot(rows([1, 0], [1, 1], names=["a", "b"]))
    found.add("t1", ["a"], rows([1, 0], [1, 1], names=["a", "b"]))
    found.add("t2", ["b"], rows([0, 0], [1, 1], names=["a", "b"]))
    found.extend(["c"])
    found.add("t3", ["c"], rows([0], [1], names=["c"]))
    found.add_zero_shot(rows([0], [1], names=["c"]))
    table = found.table("auroc")
    assert [row[1:] for row in table.rows] == [
        ["–", "100.0", "100.0", "100.0 (2 of 3)"],
        ["–", "100.0", "–", "100.0 (1 of 3)"],
        ["100.0", "100.0", "–", "100.0 (2 of 3)"],
        ["–", "–", "100.0", "100.0 (1 of 3)"],
    ]
    assert "have one class of it at most: a (after t1);" in table.caption
    assert "not measured: a, b (after t3), c (after t1, t2);" in table.caption
    assert "on other test data than the rows above: a (after t2);" in table.caption
    assert found.zero_shot is not None
    assert found.zero_shot["undefined"] == ["a"]
    text = found.to_json()
    assert json.loads(text)["undefined"] == [["a"], [], []]
    assert IncrementalResult.from_json(text).table("auroc") == table


def test_only_what_was_measured_alike_is_compared(tmp_path: Path) -> None:
    def measured(auroc: list[float]) -> dict[str, Any]:
        by_finding = dict(zip(NAMES, auroc, strict=True))
        counts = {"positives": dict.fromkeys(NAMES, 5), "known": dict.fromkeys(NAMES, 9)}
        return {"auroc": by_finding, "f1": by_finding, "undefined": [], **counts}

    first, second = ({name: ["positive", mark] for name in NAMES} for mark in ("one", "two"))
    scores = [[0.9, 0.2, 0.3], [0.8, 0.7, 0.3], [0.6, 0.6, 0.8]]
    changes = {
        "nothing": [first] * 3,
        "all": [first, second, second],
        "one finding": [first, {**first, "A": second["A"]}, {**first, "A": second["A"]}],
        "last": [first, first, second],
        "score": [
            first,
            {name: ["difference", "one"] for name in NAMES},
            {name: ["difference", "one"] for name in NAMES},
        ],
    }
    expected = {
        "nothing": (0.2, "AB"),
        "all": (0.1, "B"),
        "one finding": (0.1, "B"),
        "last": (None, ""),
        "score": (0.1, "B"),
    }
    results = []
    for what, marks in changes.items():
        found = IncrementalResult(what, list(NAMES))
        found.add_zero_shot(measured([0.5] * 3), marks[-1])
        for name, row, mark in zip(NAMES, scores, marks, strict=True):
            found.add(name, [name], measured(row), mark)
        summary = found.forgetting()
        value, compared = expected[what]
        assert summary["compared"] == list(compared), what
        assert summary["forgetting"] == pytest.approx(math.nan if value is None else value, nan_ok=True), what
        assert ("other test data" in found.table().caption) == (what not in ("nothing", "score")), what
        assert ("another score" in found.table().caption) == (what == "score"), what
        results.append(found)
    text = write_incremental_report(tmp_path, results).read_text(encoding="utf-8")
    assert text.count("are without A:") == 3
    assert text.count("are without A, B:") == 1
    assert "points: ." not in text


def test_bounds_stand_below() -> None:
    targets = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], float)
    joint = multilabel_metrics(targets, targets, finding_names=NAMES)
    row = result().table("f1", {"joint training": joint}).rows[-1]
    assert row == ["joint training", "100.0", "100.0", "100.0", "100.0"]


def test_new_findings_have_no_past() -> None:
    found = result()
    found.extend(["A", "D"])
    assert found.findings == ["A", "B", "C", "D"]
    assert np.isnan(found.matrix("f1")[:, 3]).all()
    with pytest.raises(ClipAlignError, match="'D'"):
        _ = found.learned_at


def test_report_with_heat_maps(tmp_path: Path) -> None:
    page = write_incremental_report(tmp_path / "report", [result(), result(one_class=True)], title="Findings")
    text = page.read_text(encoding="utf-8")
    assert text.count("<img") == 4
    assert "backward transfer" in text
    assert "one class of it at most" in text
    names = {path.name for path in page.parent.iterdir()}
    endings = (".json", "-auroc.png", "-f1.png")
    assert names == {"index.html", *(f"class-incremental{n}{end}" for n in ("", "-2") for end in endings)}
    assert json.loads((page.parent / "class-incremental-2.json").read_text())["undefined"] == [["B"]] * 3
    assert (page.parent / "class-incremental-auroc.png").read_bytes().startswith(b"\x89PNG")


def test_heat_map_frames_what_a_task_taught() -> None:
    axes = result().plot("auroc").axes[0]
    corners = {(round(patch.get_x() + 0.5), round(patch.get_y() + 0.5)) for patch in axes.patches}
    assert corners == {(0, 0), (1, 1), (2, 2)}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["after A", "after B", "after C"]
    assert not any(math.isnan(float(text.get_text())) for text in axes.texts)


def test_heat_map_with_the_spread_of_seeds() -> None:
    axes = plot_task_matrix([[0.5, math.nan]], ["A"], ["A", "B"], [["A"]], spread=[[0.021, math.nan]]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["50.0\n± 2.1", "–"]


def measured_rows(scores: list[float], predicted: int = 3) -> dict[str, Any]:
    by_finding = dict(zip(NAMES, scores, strict=True))
    counts = {"positives": dict.fromkeys(NAMES, 5), "known": dict.fromkeys(NAMES, 9)}
    return {
        "auroc": by_finding,
        "f1": by_finding,
        "undefined": [],
        **counts,
        "predicted": dict.fromkeys(NAMES, predicted),
    }


def test_the_adapter_as_it_came_is_a_row_and_what_it_had_learned_counts(tmp_path: Path) -> None:
    found = IncrementalResult("later", list(NAMES))
    found.add_zero_shot(measured_rows([0.5, 0.5, 0.4]))
    found.add_before(["A", "B"], measured_rows([0.9, 0.8, 0.5]))
    found.add("C", ["C"], measured_rows([0.6, 0.85, 0.95]))
    assert found.row_names == ["before", "C"]
    assert found.matrix().tolist() == [[0.9, 0.8, 0.5], [0.6, 0.85, 0.95]]
    assert found.learned_at == [0, 0, 1]
    summary = found.forgetting()
    assert summary["compared"] == ["A", "B"]
    assert summary["forgetting"] == pytest.approx((0.3 - 0.05) / 2)
    assert summary["backward_transfer"] == pytest.approx(-summary["forgetting"])
    assert summary["forward_transfer"] == pytest.approx(0.1)
    assert [row[0] for row in found.table().rows] == ["zero-shot", "before", "after C"]
    assert [text.get_text() for text in found.plot().axes[0].get_yticklabels()] == ["before", "after C"]
    again = IncrementalResult.from_json(found.to_json())
    assert again == found
    assert "forgetting +12.5" in write_incremental_report(tmp_path, [again]).read_text(encoding="utf-8")


def test_a_fresh_adapter_has_a_row_that_takes_no_part_in_forgetting() -> None:
    found = IncrementalResult("fresh", list(NAMES))
    found.add_before([], measured_rows([0.99, 0.5, 0.5]))
    for task, scores in (("A", [0.9, 0.5, 0.5]), ("B", [0.8, 0.9, 0.5]), ("C", [0.8, 0.9, 0.9])):
        found.add(task, [task], measured_rows(scores))
    assert found.table().rows[0] == ["before", "99.0", "50.0", "50.0", "66.3"]
    assert found.matrix().shape == (3, 3)
    assert found.forgetting()["forgetting"] == pytest.approx(0.05)


def test_an_f1_of_zero_since_nothing_is_predicted_is_no_forgetting(tmp_path: Path) -> None:
    found = IncrementalResult("mute", list(NAMES))
    for task in NAMES:
        found.add(task, [task], measured_rows([0.0] * 3, predicted=0))
    assert math.isnan(found.forgetting("f1")["forgetting"])
    assert found.forgetting("f1")["never_predicted"] == NAMES
    assert found.forgetting("f1")["average"] == 0
    assert found.forgetting("auroc")["forgetting"] == 0
    assert "never predicted present, so that F1 is 0: A, B, C" in found.table("f1").caption
    assert "never predicted" not in found.table("auroc").caption
    text = write_incremental_report(tmp_path, [found]).read_text(encoding="utf-8")
    assert "F1 of A, B, C is 0 throughout, since they were never predicted present" in text
    assert "F1, points: forgetting" not in text
    always = IncrementalResult("always", list(NAMES))
    for task in NAMES:
        always.add(task, [task], measured_rows([0.6] * 3, predicted=9))
    assert math.isnan(always.forgetting("f1")["forgetting"])
    assert always.forgetting("f1")["one_answer"] == NAMES
    assert "predicted present on all images: A, B, C" in always.table("f1").caption
    lost = IncrementalResult("lost", list(NAMES))
    lost.add("all", NAMES, measured_rows([0.5] * 3))
    lost.add("more", NAMES, measured_rows([0.0] * 3, predicted=0))
    assert lost.forgetting("f1")["forgetting"] == 0.5


def test_averages_and_table_agree_when_test_data_change() -> None:
    found = IncrementalResult("changing", ["a", "b"])
    found.add_zero_shot(rows([1, 0], [1, 1], names=["a", "b"]))
    found.add("t1", ["a", "b"], rows([1, 0], [1, 1], names=["a", "b"]))
    found.add("t2", ["a"], rows([0, 1], [0, 0], [1, 1], names=["a", "b"]))
    found.add_zero_shot(rows([0], [1], names=["a"]))
    assert found.zero_shot is not None
    for row, mean in (
        (found.table().rows[0], found.zero_shot["macro_auroc"]),
        (found.table().rows[-1], found.forgetting()["average"]),
        (found.table().rows[-1], found.means[-1]["macro_auroc"]),
    ):
        assert row[-1].split(" ")[0] == f"{100 * mean:.1f}"


@pytest.mark.parametrize("damage", [{"tasks": 3}, {"scores": {"auroc": ["a"]}}, {"findings": None}, {"unknown": 1}])
def test_damaged_scores_are_one_clear_error(damage: dict[str, Any]) -> None:
    content = json.loads(result().to_json())
    with pytest.raises(ClipAlignError, match="no scores of learning in tasks"):
        IncrementalResult.from_json(json.dumps({**content, **damage}))


def test_a_row_says_how_many_scores_its_mean_is_of():
    assert _row("a", [0.5, 1.0]) == ["a", "50.0", "100.0", "75.0"]
    assert _row("a", [0.5, math.nan]) == ["a", "50.0", "–", "50.0 (1 of 2)"]
    assert _row("a", [math.nan, math.nan]) == ["a", "–", "–", "–"]
