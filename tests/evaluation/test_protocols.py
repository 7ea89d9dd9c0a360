"""Protocols and the table of results."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from rich.console import Console

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, fill
from hf_clipalign.evaluation import (
    ResultTable,
    base_to_novel,
    cross_dataset,
    domain_generalization,
    zero_shot_accuracy,
)


def source(n_classes: int = 4) -> ImageSource:
    labels = np.arange(2 * n_classes) % n_classes
    names = [f"class {label}" for label in range(n_classes)]
    return ImageSource([b""] * len(labels), ids=[str(i) for i in range(len(labels))], labels=labels, class_names=names)


def test_base_to_novel_gives_each_half_its_own_classes() -> None:
    seen: list[list[str]] = []

    def accuracy(part: ImageSource) -> float:
        seen.append(list(part.class_names or []))
        return 0.8 if len(seen) == 1 else 0.4

    scores = base_to_novel(accuracy, source())
    assert seen == [["class 0", "class 1"], ["class 2", "class 3"]]
    assert scores == pytest.approx({"base": 0.8, "novel": 0.4, "harmonic_mean": 2 / (1 / 0.8 + 1 / 0.4)})


def test_harmonic_mean_of_nothing_right_is_zero() -> None:
    assert base_to_novel(lambda part: 0.0, source())["harmonic_mean"] == 0


def test_average_leaves_out_the_source() -> None:
    accuracies = {4: 0.9, 2: 0.5, 3: 0.1}
    score = lambda part: accuracies[len(part.class_names)]  # noqa: E731
    scores = domain_generalization(score, source(4), {"sketch": source(2), "art": source(3)})
    assert scores == pytest.approx({"source": 0.9, "sketch": 0.5, "art": 0.1, "average": 0.3})
    assert cross_dataset(score, {"sketch": source(2)}) == {"sketch": 0.5, "average": 0.5}
    with pytest.raises(ClipAlignError, match="no data set to test on"):
        cross_dataset(score, {})


@pytest.fixture
def table() -> ResultTable:
    table = ResultTable("Seen and unseen", note="python train.py")
    for seed, value in enumerate((0.50, 0.60, 0.70)):
        table.add("CoOp", {"seen": value, "unseen": 0.5}, seed=seed)
    table.add("zero-shot", {"seen": 0.25})
    return table


def test_mean_and_sample_deviation(table: ResultTable) -> None:
    assert table.mean("CoOp", "seen") == pytest.approx(0.6)
    assert table.std("CoOp", "seen") == pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1))
    assert math.isnan(table.std("zero-shot", "seen"))
    assert math.isnan(table.mean("zero-shot", "unseen"))


def test_a_repeated_seed_replaces(table: ResultTable) -> None:
    table.add("zero-shot", {"seen": 0.75})
    assert table.mean("zero-shot", "seen") == 0.75


def test_every_form_has_the_numbers(table: ResultTable, tmp_path) -> None:
    markdown = table.to_markdown().splitlines()
    assert markdown[0] == "**Seen and unseen** (%, mean ± std over 3 seeds)"
    assert markdown[4:6] == ["| CoOp | 60.0 ± 10.0 | 50.0 ± 0.0 |", "| zero-shot | 25.0 | – |"]
    assert "CoOp,seen,1,0.6\n" in table.to_csv()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table.to_rich())
    assert "60.0 ± 10.0" in console.export_text()
    assert ResultTable.from_json(table.to_json()) == table
    for ending in ("md", "csv", "json"):
        assert table.save(tmp_path / f"table.{ending}").stat().st_size > 50
    with pytest.raises(ClipAlignError, match=r"table.xlsx.*\.md, \.csv, \.json"):
        table.save(tmp_path / "table.xlsx")


def test_zero_shot_accuracy_of_the_built_in_student_is_its_own_forward() -> None:
    import torch

    from hf_clipalign.data import few_shot, from_dataset, load_mini

    mini = load_mini()
    emoji = mini.emoji_subset(styles="noto", split="train").select(range(60))
    part = few_shot(from_dataset(emoji, label_column="name"), 1)
    inputs = mini.student_processor(
        text=fill("an emoji of {}", part.class_names),
        images=[part.read(row) for row in range(len(part))],
        return_tensors="pt",
        padding=True,
    )
    with torch.no_grad():
        predicted = mini.student(**inputs).logits_per_image.argmax(1).numpy()
    expected = (predicted == part.labels).mean()
    assert zero_shot_accuracy(mini.student, mini.student_processor, part, "an emoji of {}") == pytest.approx(expected)
    assert expected > 0.5


def test_accuracy_needs_labels() -> None:
    unlabelled = source()
    unlabelled.labels = None
    with pytest.raises(ClipAlignError, match="no labels"):
        zero_shot_accuracy(None, None, unlabelled)
