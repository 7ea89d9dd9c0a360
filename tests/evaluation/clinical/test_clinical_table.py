"""The clinical table: what it measures, what it leaves out, and what it says in words."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hf_clipalign import ClipAlignError
from hf_clipalign.data import FindingLabels
from hf_clipalign.evaluation import LinearProbe, ModelScores, clinical_table
from hf_clipalign.metrics import threshold_metrics, youden_threshold

NAMES = ["cough", "fever"]
AT_A_THRESHOLD = ("threshold", "sensitivity", "specificity", "ppv", "npv", "f1", "predicted", "ece")


def labels(n, seed, findings=NAMES, **more):
    values = np.random.default_rng(seed).integers(0, 2, (n, len(findings))).astype(float)
    ids = [f"{seed}-{row}.png" for row in range(n)]
    return FindingLabels(ids, list(findings), values, [f"p{seed}-{row // 2}" for row in range(n)], **more)


def scores(of, noise, seed=9):
    values = np.nan_to_num(of.values, nan=0.0)
    return values + noise * np.random.default_rng(seed).standard_normal(values.shape)


def model(name, test, validation=None, noise=0.5, hard=None):
    return ModelScores(
        name,
        list(test.findings),
        scores(test, noise),
        None if validation is None else scores(validation, noise, 3),
        hard,
    )


def test_a_threshold_is_chosen_on_validation_data_and_never_on_test_data():
    test, validation = labels(80, 0), labels(60, 1)
    ours = model("adapter", test, validation)
    row = clinical_table([ours], test, validation, n_resamples=50).rows[0]
    expected = youden_threshold(validation.values[:, 0], ours.validation[:, 0])
    assert row["threshold"] == expected
    at = threshold_metrics(test.values[:, 0], ours.test[:, 0] >= expected)
    assert {name: row[name] for name in at} == at
    flipped = FindingLabels(test.ids, NAMES, 1 - test.values, test.patients)
    assert clinical_table([ours], flipped, validation, n_resamples=5).rows[0]["threshold"] == expected
    assert row["auroc"] == pytest.approx(roc_auc_score(test.values[:, 0], ours.test[:, 0]))
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]


def test_without_validation_data_nothing_needs_a_threshold():
    test = labels(40, 0)
    table = clinical_table([model("adapter", test)], test, n_resamples=20)
    for row in table.rows:
        assert all(np.isnan(row[name]) for name in AT_A_THRESHOLD)
    assert "There are no validation data, so nothing that needs a threshold or probabilities is given." in table.notes
    assert table.plot() is None


def test_what_is_never_predicted_or_never_tested_is_told():
    test = labels(40, 0, [*NAMES, "rash"])
    test.values[:, 2] = 0
    hard = np.ones((40, 3), dtype=bool)
    hard[:, 1] = False
    learned = ["cough", "fever", "rash", "pain", "itch"]
    table = clinical_table([model("adapter", test, hard=hard)], test, None, learned, 20)
    assert table.notes[0] == "Learned, but not in this test: rash, pain, itch; 2 of 5 learned findings are tested."
    assert table.notes[1] == "Never predicted present by the hard rule: fever. Its F1 there is no score."
    rows = {row["finding"]: row for row in table.rows}
    assert np.isnan(rows["fever"]["hard_f1"])
    assert np.isnan(rows["rash"]["auroc"])
    assert (rows["rash"]["n"], rows["rash"]["positives"]) == (40, 0)
    assert "Tested, but never learned: rash." in clinical_table([model("a", test)], test, None, NAMES, 5).notes
    one_class = labels(20, 1, test.findings)
    one_class.values[:, 0] = 1
    notes = clinical_table([model("a", test, one_class)], test, one_class, None, 5).notes
    assert "No threshold for cough: the validation data have one class of it at most." in notes


def test_the_verdict_says_when_a_plain_baseline_is_better():
    test = labels(200, 0)
    good, bad = model("good", test, noise=0.5), model("bad", test, noise=3.0)
    better = clinical_table([good, bad], test, n_resamples=100).verdict
    worse = clinical_table([bad, good], test, n_resamples=100).verdict
    same = clinical_table([good, ModelScores("twin", NAMES, good.test)], test, n_resamples=20).verdict
    assert better.startswith("good is better than the best plain baseline, bad, by ")
    assert worse.startswith("The plain baseline good is better than bad by ")
    assert worse.endswith("use that instead.")
    assert "do not differ beyond chance" in same
    assert "no baseline" in clinical_table([good], test, n_resamples=5).verdict
    between = clinical_table([model("fair", test, noise=1.0), bad, good], test, n_resamples=100).verdict
    assert between.startswith("The plain baseline good is better than fair")
    with pytest.raises(ClipAlignError, match="no scores"):
        clinical_table([], test)


def test_subgroups_are_scored_alone(tmp_path):
    sex = ["Female", "Male", "Male", ""] * 20
    test = labels(80, 0, subgroups={"sex": sex, "scanner": ["one"] * 80})
    ours = model("adapter", test)
    table = clinical_table([ours, model("other", test)], test, n_resamples=20)
    parts = {row["subgroup"]: row for row in table.rows if row["finding"] == "cough" and row["model"] == "adapter"}
    assert set(parts) == {"", "sex: Female", "sex: Male"}  # all test data are from one scanner
    rows = np.flatnonzero(np.array(sex) == "Male")
    assert parts["sex: Male"]["auroc"] == pytest.approx(roc_auc_score(test.values[rows, 0], ours.test[rows, 0]))
    assert parts["sex: Male"]["n"] == 40
    assert table.subgroup_table().columns == ["finding", "sex: Female", "sex: Male"]
    assert table.subgroup_table().caption.startswith("AUROC of adapter in percent")
    assert clinical_table([ours], labels(80, 0), n_resamples=5).subgroup_table() is None
    with open(table.save(tmp_path)[0], newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(table.rows) == 8
    assert float(written[0]["auroc"]) == pytest.approx(table.rows[0]["auroc"], abs=1e-6)
    assert written[0]["threshold"] == ""
    assert "NaN" not in (tmp_path / "findings.json").read_text()
    assert json.loads((tmp_path / "findings.json").read_text())["rows"][0]["threshold"] is None


def test_tables_and_plot_hold_every_model_and_finding():
    test, validation = labels(80, 0), labels(60, 1)
    table = clinical_table([model("a", test, validation), model("b", test, validation)], test, validation, None, 10)
    for part in (table.ranking_table(), table.threshold_table()):
        assert [row[:2] for row in part.rows] == [["cough", "a"], ["cough", "b"], ["fever", "a"], ["fever", "b"]]
        assert {len(row) for row in part.rows} == {len(part.columns)}
    axes = table.plot().axes
    assert [panel.get_title() for panel in axes] == NAMES
    assert len(axes[0].get_lines()) == 3


def test_the_probe_learns_from_known_labels_alone_and_cannot_forget():
    train = labels(120, 0, [*NAMES, "rash"])
    train.values[:, 2] = 1
    embeds = np.hstack([scores(train, 0.3), np.ones((120, 1))])
    wrong = train.targets().copy()
    wrong[60:, 0] = np.nan
    probe = LinearProbe(embeds, wrong, train)
    assert probe.findings == NAMES
    test = labels(80, 5, [*NAMES, "rash"])
    found = probe.scores(np.hstack([scores(test, 0.3), np.ones((80, 1))]))
    assert roc_auc_score(test.values[:, 0], found[:, 0]) > 0.9
    alone = LinearProbe(embeds[:60], wrong[:60, :1], train.select(range(60), ["cough"]))
    assert alone.findings == ["cough"]
    assert LinearProbe(embeds, np.full((120, 3), np.nan), train).scores(embeds).shape == (120, 0)


def test_a_probe_of_few_patients_has_a_strength_that_nothing_was_chosen_by():
    few = labels(8, 0)
    few.values[:, 0] = [0, 1] * 4
    few.values[:, 1] = 1
    probe = LinearProbe(scores(few, 0.1), few.targets(), few)
    assert {name: model.C for name, model in probe.models.items()} == {"cough": 0.01}


def test_a_probe_of_one_class_has_no_scores():
    few = labels(8, 0)
    few.values[:] = 1
    probe = LinearProbe(scores(few, 0.1), few.targets(), few)
    assert probe.findings == []
    assert probe.scores(scores(few, 0.1)).shape == (8, 0)
