"""The incremental protocol: scores after every task, bounds, forgetting, tables, heat maps, pages."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import FindingLabels, IncrementalTask, class_incremental
from hf_clipalign.evaluation import IncrementalResult, run_incremental, write_incremental_report
from hf_clipalign.evaluation.plots import plot_task_matrix
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
        assert json.loads(text)["undefined"] == (["B"] if one_class else [])


def test_undefined_findings_are_named_in_the_table() -> None:
    table = result(one_class=True).table("auroc")
    assert table.columns == ["class-incremental", "A", "B", "C", "mean"]
    assert [row[0] for row in table.rows] == ["zero-shot", "after A", "after B", "after C"]
    assert {row[2] for row in table.rows} == {"–"}
    assert "B (one class only" in table.caption
    assert "undefined" not in result().table("auroc").caption


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
    assert "one class only" in text
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"index.html", "class-incremental.json", "class-incremental-auroc.png", "class-incremental-f1.png"}
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
