"""Splits into known and novel classes: who is labelled, the published settings, the user's own folder, bad input."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import GCD_PRESETS, GCDSplit, ImageSource, gcd_preset, hold_out_labels

NAMES = ["ant", "bee", "cat", "dog", "emu", "fox"]
LABELS = np.arange(60) * 7 % 6


def source(labels: Any = LABELS, names: list[str] | None = NAMES) -> ImageSource:
    labels = None if labels is None else np.asarray(labels)
    n = 3 if labels is None else len(labels)
    return ImageSource(
        [np.full((2, 2, 3), row % 256, dtype=np.uint8) for row in range(n)],
        ids=[str(row) for row in range(n)],
        labels=labels,
        class_names=names,
        name="zoo",
        fingerprint=functools.partial(str, "abc"),
    )


def test_known_classes_come_first_and_half_of_their_images_is_labelled() -> None:
    split = GCDSplit.from_source(source(), ["fox", "bee"])
    assert split.class_names == ["fox", "bee"]
    assert split.novel_names == ["ant", "cat", "dog", "emu"]
    ordered = [*split.class_names, *split.novel_names]
    assert [ordered[label] for label in split.labels] == [NAMES[label] for label in LABELS]
    assert split.labelled.sum() == 10
    assert not split.labelled[split.labels >= 2].any()
    assert set(split.training_labels[~split.labelled].tolist()) == {-1}
    assert np.array_equal(split.training_labels[split.labelled], split.labels[split.labelled])
    assert sorted([*split.unlabelled_rows, *np.flatnonzero(split.labelled)]) == list(range(60))
    assert split.known_mask.sum() == 20
    assert (split.n_novel, split.has_truth) == (4, True)


def test_the_labelled_half_is_that_of_the_reference_implementations() -> None:
    split = GCDSplit.from_source(source(), 3)
    rows = np.flatnonzero(LABELS < 3)
    np.random.seed(0)
    expected = rows[np.random.choice(range(30), replace=False, size=15)]
    assert sorted(np.flatnonzero(split.labelled)) == sorted(expected)


def test_the_seed_draws_images_and_the_class_seed_draws_classes() -> None:
    one, two = (GCDSplit.from_source(source(), 3, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.labelled, two.labelled)
    drawn = {tuple(GCDSplit.from_source(source(), 0.5, class_seed=seed).class_names) for seed in range(6)}
    assert len(drawn) > 1
    assert GCDSplit.from_source(source(), 3).class_names == ["ant", "bee", "cat"]


def test_shares_within_classes() -> None:
    split = GCDSplit.from_source(source(), 2, labelled_fraction=0.4, per_class=True)
    assert np.bincount(split.labels[split.labelled]).tolist() == [4, 4]


def test_a_dataset_with_a_label_column() -> None:
    images = [Image.new("RGB", (2, 2))] * 12
    data = datasets.Dataset.from_dict({"image": images, "kind": ["a", "b", "c"] * 4}).cast_column(
        "image", datasets.Image()
    )
    split = GCDSplit.from_source(data, ["c"], label_column="kind")
    assert split.class_names == ["c"]
    assert split.labels.tolist() == [1, 2, 0] * 4


def dataset(**columns: list[Any]) -> datasets.Dataset:
    images = [Image.new("RGB", (2, 2))] * len(next(iter(columns.values())))
    return datasets.Dataset.from_dict({"image": images, **columns}).cast_column("image", datasets.Image())


def test_a_plain_column_called_label_is_enough() -> None:
    numbers = GCDSplit.from_source(dataset(label=[0, 1, 2] * 4), 2)
    assert (numbers.class_names, numbers.labels.tolist()) == (["0", "1"], [0, 1, 2] * 4)
    words = GCDSplit.from_source(dataset(label=["b", "a", "c"] * 4), ["c"])
    assert (words.class_names, words.novel_names) == (["c"], ["a", "b"])
    assert len(GCDSplit.preset("cifar10", dataset(label=list(range(10)) * 12)).class_names) == 5


def test_the_number_of_known_classes_may_be_a_number_of_numpy() -> None:
    assert GCDSplit.from_source(source(), np.int64(3)).class_names == ["ant", "bee", "cat"]
    assert GCDSplit.from_source(source(), np.float32(0.5)).class_names == ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    ("names", "known"), [(["Turkey", "turkey", "cat"], "Turkey"), (["black cat", "black_cat", "cat"], "black_cat")]
)
def test_a_known_name_is_the_class_that_is_called_exactly_so(names: list[str], known: str) -> None:
    place = names.index(known)
    labels = np.arange(30) % 3
    split = GCDSplit.from_source(source(labels, names), [known])
    assert np.array_equal(split.labels == 0, labels == place)
    assert len(split.novel_names) == 2
    with pytest.raises(ClipAlignError, match=r"may be any of '.*', '.*': write it exactly"):
        GCDSplit.from_source(source(labels, names), [known.upper()])
    with pytest.raises(ClipAlignError, match="zoo: known classes: duplicates"):
        GCDSplit.from_source(source(labels, names), 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GCDSplit.from_source(dataset(kind=["a", "b"] * 4), 1), "label_column=, one of 'image', 'kind'"),
        (lambda: GCDSplit.from_source(dataset(label=["a", "a", "b", None]), 1), "no label in row 3"),
        (lambda: GCDSplit.from_source(dataset(label=[0, -1, 1, 1]), 1), r"1 labels are below 0, the first in row 1"),
        (lambda: GCDSplit.from_source(source(), float("nan")), "known is nan"),
        (lambda: GCDSplit.from_source(source(), None), "known classes is None: give a list"),
        (lambda: GCDSplit.from_source(source(), True), "known classes is True: give a list"),
        (lambda: GCDSplit.from_source(source(), 2, labelled_fraction="a"), "labelled_fraction is 'a'"),
        (lambda: GCDSplit.from_source(source(), 2, seed=-1), "seed is -1"),
        (lambda: GCDSplit.from_source(source(), 2, class_seed=-1), "class_seed is -1"),
        (lambda: GCDSplit.from_source(source(None, None), 2), "no labels"),
        (lambda: GCDSplit.from_source(source(), ["ant", "okapi"]), "'okapi'"),
        (lambda: GCDSplit.from_source(source(), ["ant", "Ant"]), "duplicates"),
        (lambda: GCDSplit.from_source(source(), NAMES), "nothing to discover"),
        (lambda: GCDSplit.from_source(source(), 6), "none to discover"),
        (lambda: GCDSplit.from_source(source(), 0.01), "none known"),
        (lambda: GCDSplit.from_source(source(), 2, labelled_fraction=1.0), "labelled_fraction"),
        (lambda: GCDSplit.from_source(source(np.minimum(LABELS, 4)), 2), "'fox' has no image"),
        (lambda: GCDSplit.from_source(source([0, 0, 0, 0, 1, 2, 3, 4, 5]), 2, per_class=True), r"'bee' \(0\)"),
        (lambda: GCDSplit.from_source(source([0, 0, 1, 2, 3, 4, 5]), 1), r"'ant' \(1\) have fewer"),
    ],
)
def test_bad_input_is_one_line_that_names_the_culprit(call: Any, message: str) -> None:
    with pytest.raises(ClipAlignError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def many(n_classes: int, names: list[str] | None = None) -> ImageSource:
    labels = np.repeat(np.arange(n_classes), 24)
    return source(labels, names or [f"class {label}" for label in range(n_classes)])


def test_presets_that_follow_the_order_of_the_classes() -> None:
    assert GCDSplit.preset("CIFAR-10", many(10)).class_names == [f"class {label}" for label in range(5)]
    assert len(GCDSplit.preset("cifar100", many(100)).class_names) == 80
    split = GCDSplit.preset("ImageNet-100", many(1000))
    np.random.seed(0)
    drawn = np.sort(np.random.choice(range(1000), size=100, replace=False))
    assert split.class_names == [f"class {label}" for label in drawn[:50]]
    assert split.novel_names == [f"class {label}" for label in drawn[50:]]
    assert len(split) == 2400
    assert not np.array_equal(GCDSplit.preset("imagenet100", many(1000), seed=1).labelled, split.labelled)


def test_presets_with_a_list(tmp_path: Path) -> None:
    known = [f"class {label}" for label in range(1, 100, 2)]
    (tmp_path / "known.txt").write_text("\n".join(known))
    for given in (known, tmp_path / "known.txt"):
        assert GCDSplit.preset("fgvc_aircraft", many(100), given).class_names == known
    with pytest.raises(ClipAlignError, match="Semantic Shift Benchmark"):
        GCDSplit.preset("fgvc_aircraft", many(100))
    with pytest.raises(ClipAlignError, match="49 names, the setting 50"):
        GCDSplit.preset("fgvc_aircraft", many(100), known[1:])


def test_presets_check_the_data() -> None:
    with pytest.raises(ClipAlignError, match="9 classes, but cifar10 has 10"):
        GCDSplit.preset("cifar10", many(9))
    with pytest.raises(ClipAlignError, match="there are cifar10, cifar100"):
        GCDSplit.preset("mnist", many(10))
    assert gcd_preset("Stanford Cars") is GCD_PRESETS["stanford_cars"]
    assert {name: preset.mean_entropy_weight for name, preset in GCD_PRESETS.items()} == {
        **{"cifar10": 1, "cifar100": 4, "imagenet100": 1, "cub": 2, "stanford_cars": 2, "fgvc_aircraft": 1}
    }


def folder(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (4, 4)).save(root / name / f"{number}.png")
    return root


def test_a_partly_labelled_folder(tmp_path: Path) -> None:
    split = GCDSplit.from_folder(folder(tmp_path, {"big_cat": 3, "dog": 2, "unlabelled": 4}))
    assert split.class_names == ["big cat", "dog"]
    assert split.training_labels.tolist() == [0, 0, 0, 1, 1, -1, -1, -1, -1]
    assert (split.has_truth, split.n_novel) == (False, 0)
    assert "novel classes unknown" in repr(split)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 2, "dog": 2}, "no sub-folder 'unlabelled'; its sub-folders are 'cat', 'dog'"),
        ({"cat": 1, "dog": 2, "unlabelled": 9}, r"'cat' \(1\) have fewer"),
        ({"cat": 2, "dog": 0, "unlabelled": 4}, "'dog' has no image"),
        ({"unlabelled": 4}, "no class has labelled images"),
        ({"cat": 2, "unlabelled": 0}, "'unlabelled' has no image"),
        ({"cat": 2, "unlabelled": 4}, "7 classes cannot be found in 6 images"),
    ],
)
def test_bad_folders(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        GCDSplit.from_folder(folder(tmp_path, counts), n_novel=6)


@pytest.mark.parametrize("n_novel", [-3, "4"])
def test_the_number_of_novel_classes_is_a_number(tmp_path: Path, n_novel: Any) -> None:
    with pytest.raises(ClipAlignError, match=f"n_novel is {n_novel!r}"):
        GCDSplit.from_folder(folder(tmp_path, {"cat": 2, "unlabelled": 4}), n_novel=n_novel)


@pytest.mark.parametrize("n_known_images", [25, 31, 32])
def test_of_an_odd_number_of_images_the_smaller_half_is_labelled_as_published(n_known_images) -> None:
    labels = np.concatenate([np.arange(n_known_images) % 2, np.full(6, 2)])
    split = GCDSplit.from_source(source(labels, ["a", "b", "c"]), 2)
    drawn = np.random.RandomState(0).choice(n_known_images, size=n_known_images // 2, replace=False)
    assert np.flatnonzero(split.labelled).tolist() == sorted(drawn.tolist())


def test_images_beside_the_folders_have_no_label(tmp_path: Path) -> None:
    split = GCDSplit.from_folder(folder(tmp_path, {"cat": 3, "dog": 2, ".": 4}))
    assert split.class_names == ["cat", "dog"]
    by_image = dict(zip(split.source.ids, split.training_labels.tolist(), strict=True))
    assert by_image == {f"{n}.png": -1 for n in range(4)} | {f"cat/{n}.png": 0 for n in range(3)} | {
        "dog/0.png": 1,
        "dog/1.png": 1,
    }
    with pytest.raises(ClipAlignError, match="no class has labelled images: move some"):
        GCDSplit.from_folder(folder(tmp_path / "flat", {".": 4}))


def test_held_out_labels_are_hidden_and_every_class_keeps_two(tmp_path: Path) -> None:
    split = GCDSplit.from_folder(folder(tmp_path, {"ant": 2, "bee": 3, "cat": 20, "unlabelled": 4}))
    visible, rows = hold_out_labels(split, 0.2, seed=1)
    assert np.bincount(split.labels[rows], minlength=3).tolist() == [0, 1, 4]
    assert not visible.labelled[rows].any()
    assert (visible.training_labels[rows] == -1).all()
    assert np.bincount(visible.labels[visible.labelled]).tolist() == [2, 2, 16]
    assert np.array_equal(hold_out_labels(split, 0.2, seed=1)[1], rows)
    assert not np.array_equal(hold_out_labels(split, 0.2, seed=2)[1], rows)


@pytest.mark.parametrize(("highest", "message"), [(3, r"'emu' \(and 1 more\) has"), (2, r"'dog' \(and 2 more\) has")])
def test_empty_classes_are_counted(highest, message):
    with pytest.raises(ClipAlignError, match=message):
        GCDSplit.from_source(source(np.minimum(LABELS, highest)), 2)
