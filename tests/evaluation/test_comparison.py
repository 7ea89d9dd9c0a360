"""Heads side by side: scores, intervals, tables, tasks, plots and the page."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.evaluation import (
    Head,
    JudgedPairs,
    LabelledRetrieval,
    Match,
    MatchRow,
    ReportTable,
    Section,
    class_labels,
    compare_heads,
    nearest_class_mean_scores,
    plot_band_grid,
    plot_similarities,
    plot_spectrum,
    retrieval_task,
    split_by_class,
    top_matches,
    write_report,
)
from hf_clipalign.evaluation.tasks import score_retrieval
from hf_clipalign.features import Features
from hf_clipalign.metrics import bootstrap_interval, paired_bootstrap, retrieval_metrics


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(n_classes=6, per_class=4, noise=1.0, seed=0, names=None):
    labels = np.repeat(np.arange(n_classes), per_class)
    values = draw(n_classes, 8)[labels] + noise * draw(len(labels), 8, seed=seed + 1)
    names = names or [f"class {number}" for number in range(n_classes)]
    return Features(values, "image", [f"{row}.png" for row in range(len(labels))], labels, names)


HEADS = [Head("raw"), Head("half", torch.eye(8)[:4]), Head("same", torch.eye(8))]


def test_scores_are_those_of_the_metrics():
    task = retrieval_task(features())
    comparison = compare_heads(HEADS, {"task": task}, n_resamples=200)
    for head, score in zip(HEADS, comparison.scores, strict=True):
        expected = retrieval_metrics(head.project(task.query), head.project(task.gallery), *task[2:])
        for name, value in score.metrics.items():
            assert value == pytest.approx(expected[name], abs=1e-6)
        assert score.map_interval[0] <= score.metrics["map"] <= score.map_interval[1]
    assert comparison.n_queries == 24
    assert comparison.n_without_positive == 0


def test_a_head_that_does_the_same_gains_nothing():
    comparison = compare_heads(HEADS, {"task": retrieval_task(features())}, n_resamples=200)
    same = comparison.scores[2]
    assert same.gain == pytest.approx(0, abs=1e-9)
    assert same.gain_interval == pytest.approx((0, 0), abs=1e-9)
    half = comparison.scores[1]
    assert half.gain == pytest.approx(half.metrics["map"] - comparison.scores[0].metrics["map"], abs=1e-6)


def test_queries_without_a_positive_are_counted_and_named():
    query, gallery = features(4), features(3)
    comparison = compare_heads(HEADS, {"task": retrieval_task(query, gallery)}, query_ids={"task": query.ids})
    assert comparison.n_queries == 12
    assert comparison.n_without_positive == 4
    assert comparison.without_positive == ["12.png", "13.png", "14.png", "15.png"]
    assert "12.png" in comparison.caption()


def test_a_comparison_of_several_tasks_averages_over_queries():
    first, second = retrieval_task(features(6)), retrieval_task(features(3, seed=7))
    both = compare_heads(HEADS, {"first": first, "second": second}, n_resamples=100).scores[0]
    assert both.metrics["map"] == pytest.approx((24 * both.per_task["first"] + 12 * both.per_task["second"]) / 36)


def test_tables_and_json(capsys):
    from rich.console import Console

    comparison = compare_heads(HEADS, {"task": retrieval_task(features())}, n_resamples=100)
    assert [len(row) for row in comparison.rows()] == [len(comparison.columns())] * 3
    Console(width=100).print(comparison.table("title"))
    printed = capsys.readouterr().out
    assert "half" in printed
    assert "mAP − raw" in printed
    assert json.loads(json.dumps(comparison.to_dict()))["scores"][1]["head"] == "half"


def test_columns_that_repeat_recall_at_1_are_left_out():
    pairs = LabelledRetrieval(draw(6, 8), draw(6, 8, seed=1), np.arange(6), np.arange(6))
    assert "R-prec" not in compare_heads(HEADS, {"pairs": pairs}, n_resamples=50).columns()
    assert "R-prec" in compare_heads(HEADS, {"task": retrieval_task(features())}, n_resamples=50).columns()


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ClipAlignError, match="at least one head and one task"):
        compare_heads([], {})


def test_top_matches():
    query, gallery = draw(5, 8), draw(9, 8, seed=1)
    best = top_matches(Head("raw"), query, gallery, k=3, block_size=2)
    cosines = torch.nn.functional.cosine_similarity(query[:, None], gallery[None], dim=-1)
    assert torch.equal(torch.from_numpy(best), cosines.topk(3, dim=1).indices)


def test_labels_are_matched_by_name_across_sources():
    query, gallery = features(3, names=["b", "c", "d"]), features(3, names=["a", "b", "c"])
    task = retrieval_task(query, gallery)
    assert set(task.query_labels) == {"b", "c", "d"}
    assert not task.exclude_self
    with pytest.raises(ClipAlignError, match="no class in common"):
        retrieval_task(features(2, names=["x", "y"]), gallery)


def test_halves_share_no_class_and_lose_no_item():
    task = retrieval_task(features(7))
    first, second = split_by_class(task)
    assert not set(first.query_labels) & set(second.query_labels)
    assert len(first.query) + len(second.query) == len(task.query)
    assert first.exclude_self
    again, _ = split_by_class(task)
    assert torch.equal(again.query, first.query)
    assert not np.array_equal(split_by_class(task, seed=3)[0].query_labels, first.query_labels)
    with pytest.raises(ClipAlignError, match="3 classes"):
        split_by_class(retrieval_task(features(3)))


def test_unlabelled_features_are_an_error():
    with pytest.raises(ClipAlignError, match="no labels"):
        class_labels(Features(draw(2, 3), "image", ["a", "b"]))


def test_nearest_class_mean_of_every_head():
    train, test = features(noise=0.1), features(noise=0.1, seed=5)
    rows = nearest_class_mean_scores(HEADS, train, test)
    assert [row["head"] for row in rows] == ["raw", "half", "same"]
    assert rows[0]["top1"] == rows[2]["top1"] == 1.0
    assert rows[1]["dimension"] == 4
    with pytest.raises(ClipAlignError, match="no image of class 5"):
        nearest_class_mean_scores(HEADS, features(5), test)


def test_the_page_holds_everything_and_escapes_names(tmp_path):
    image = Image.new("RGB", (8, 8), "red")
    section = Section(
        "Part one",
        text=["A <b>sentence</b>."],
        tables=[ReportTable(["head", "mAP"], [["raw & co", "1.0"]], "the caption")],
        figures=[
            ("the spectrum", plot_spectrum([3, 2, 1, 0.5], {"image": (1, 1)})),
            ("histograms", plot_similarities({"raw": (np.array([0.8, 0.9]), np.array([0.1, 0.2]))})),
            ("the grid", plot_band_grid({(0, 0): 0.5, (1, 0): 0.7, (1, 2): 0.6})),
        ],
        match_rows=[MatchRow("raw", Match(image, "query"), [Match(image, '"><script>', False)])],
    )
    page = write_report(tmp_path / "deep" / "index.html", "Title", [section], "Lead").read_text()
    assert page.count("data:image/png;base64,") == 5
    for escaped in ("A &lt;b&gt;sentence", "raw &amp; co", "&#34;&gt;&lt;script&gt;"):
        assert escaped in page
    assert "<script>" not in page
    assert "http" not in page.replace("http-equiv", "")
    with pytest.raises(ClipAlignError, match="cannot write"):
        write_report(tmp_path / "deep" / "index.html" / "x.html", "Title", [])


def test_the_spectrum_plot_marks_the_bands():
    figure = plot_spectrum(np.linspace(5, 1, 20), {"image": (3, 4), "text": (0, 0)})
    assert [axes.get_title() for axes in figure.axes] == ["image: keeps 13 of 20", "text: keeps 20 of 20"]
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["top (3)", "middle (13)", "bottom (4)"]


def test_the_grid_plot_frames_the_best_cell():
    figure = plot_band_grid({(0, 0): 0.5, (1, 0): 0.7, (0, 2): 0.6, (1, 2): 0.1})
    frame = figure.axes[0].patches[0]
    assert (frame.get_x(), frame.get_y()) == (0.5, -0.5)


def test_intervals_resample_classes_and_the_gain_is_paired():
    task = retrieval_task(features(noise=2.0))
    baseline, other = compare_heads(HEADS[:2], {"task": task}, n_resamples=300, seed=4).scores
    labels = np.asarray(task.query_labels).astype(str)
    maps = [
        retrieval_metrics(*head.embed(task.query, task.gallery), *task[2:], per_query=True)["per_query"]["map"]
        for head in HEADS[:2]
    ]
    for score, values in zip((baseline, other), maps, strict=True):
        assert score.map_interval == pytest.approx(bootstrap_interval(values, labels, 300, seed=4)[1:])
        assert score.map_interval != pytest.approx(bootstrap_interval(values, None, 300, seed=4)[1:])
    expected = paired_bootstrap(maps[1], maps[0], labels, 300, seed=4)
    assert (other.gain, *other.gain_interval) == pytest.approx(expected)
    assert baseline.gain_interval == (0.0, 0.0)


def test_classes_are_shared_by_tasks_and_judged_queries_are_not():
    first, second = retrieval_task(features(4, seed=1)), retrieval_task(features(4, seed=2))
    shared = compare_heads(HEADS[:1], {"a": first, "b": second}, n_resamples=200).scores[0]
    values = [
        retrieval_metrics(*HEADS[0].embed(task.query, task.gallery), *task[2:], per_query=True)["per_query"]["map"]
        for task in (first, second)
    ]
    labels = np.tile(first.query_labels, 2)
    assert shared.map_interval == pytest.approx(bootstrap_interval(np.concatenate(values), labels, 200)[1:])
    judged = JudgedPairs(draw(8, 8), draw(9, 8, seed=1), [[row] for row in range(8)], [[1.0]] * 8, [-1] * 8)
    other = judged._replace(query=draw(8, 8, seed=2))
    two = compare_heads(HEADS[:1], {"a": judged, "b": other}, n_resamples=200).scores[0]
    single = [
        score_retrieval(task, task.query, task.gallery, per_query=True)["per_query"]["map"] for task in (judged, other)
    ]
    names = [f"{task}/{row}" for task in "ab" for row in range(8)]
    assert two.map_interval == pytest.approx(bootstrap_interval(np.concatenate(single), names, 200)[1:])


def test_at_most_ten_queries_without_a_positive_are_named():
    task = LabelledRetrieval(draw(13, 8), draw(4, 8, seed=1), [*range(12), 0], [0, 20, 21, 22])
    comparison = compare_heads(HEADS[:1], {"task": task}, n_resamples=10)
    assert comparison.n_without_positive == 11
    assert comparison.without_positive == [f"task query {row}" for row in range(1, 11)]
    assert "task query 10…" in comparison.caption()
