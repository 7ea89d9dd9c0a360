"""Sequences of any kind are read by position where sources are made, and a single string is not a list."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, encode_texts, tokenize
from hf_clipalign.data import (
    Captions,
    FindingLabels,
    FindingPrompts,
    GCDSplit,
    ImageSource,
    TextSource,
    check_names,
    class_incremental,
    extend_dictionary,
    few_shot_rows,
    fill,
    take,
    with_captions,
)
from hf_clipalign.evaluation import (
    JudgedPairs,
    ModelScores,
    compare_methods,
    comparison_heads,
    split_by_query,
    zero_shot_weights,
)
from hf_clipalign.features import extract_text_features, extract_to_store
from hf_clipalign.gcd import SpectralGCDConfig, concept_contrast, top_concepts
from hf_clipalign.inversion.optimisation import InversionSettings, check_targets
from hf_clipalign.metrics import multilabel_intervals
from hf_clipalign.tuners import build_prompts
from tests.tiny_models import tiny_clip, tiny_image_processor, tiny_tokenizer

NAMES = ["c", "a", "b"]
NUMBERS = [2, 0, 1]
INDEX = [1, 2, 0]  # read by label, the first entry would be the last


def series(values):
    return pd.Series(values, index=INDEX)


def polars_column(values):
    return pytest.importorskip("polars").Series("x", values)


COLUMNS = {
    "series": series,
    "object array": lambda values: np.array(values, dtype=object),
    "reversed view": lambda values: np.array(values[::-1])[::-1],
    "tuple": tuple,
    "generator": lambda values: (value for value in values),
    "dict values": lambda values: dict(enumerate(values)).values(),
    "datasets column": lambda values: datasets.Dataset.from_dict({"x": values})["x"],
    "polars column": polars_column,
}
columns = pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)


@columns
def test_text_sources(column) -> None:
    source = TextSource(column(NAMES), ids=column(["i", "j", "k"]), labels=column(NUMBERS))
    assert [source.texts[row] for row in range(3)] == NAMES
    assert source.ids[0] == "i"
    assert source.labels.tolist() == NUMBERS
    plain = TextSource(NAMES, ids=["i", "j", "k"], labels=np.array(NUMBERS))
    assert source.fingerprint() == plain.fingerprint()


@columns
def test_image_sources(column) -> None:
    source = ImageSource(
        column(["x", "y", "z"]), ids=column(NAMES), labels=column(NUMBERS), texts=column(["1", "2", "3"])
    )
    assert [source.items[row] for row in range(3)] == ["x", "y", "z"]
    assert source.ids == NAMES
    assert [int(source.labels[row]) for row in range(3)] == NUMBERS
    assert source.texts == [["1"], ["2"], ["3"]]


def test_labels_of_sources_may_be_tensors_booleans_and_names() -> None:
    for labels in (torch.tensor(NUMBERS), np.array(NUMBERS, dtype=">i2"), [2.0, 0.0, 1.0]):
        assert ImageSource(NAMES, ids=NAMES, labels=labels).labels.tolist() == NUMBERS
    named = ImageSource(NAMES, ids=NAMES, labels=series(["dog", "cat", "dog"]))
    assert (named.labels.tolist(), named.class_names) == ([1, 0, 1], ["cat", "dog"])
    told = TextSource(NAMES, labels=["dog", "cat", "dog"], class_names=["dog", "cat", "owl"])
    assert (told.labels.tolist(), told.class_names) == ([0, 1, 0], ["dog", "cat", "owl"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1, 2], "one whole number or one name"),
        ([float("nan"), 1, 2], "one whole number or one name"),
        ([[0], [1], [2]], "one whole number or one name"),
        (pd.DataFrame({"a": NUMBERS}), "one whole number or one name|one of its columns"),
        (["cat", "owl", "cat"], "'owl' is not among class_names: 'cat', 'dog'"),
        ({0, 1, 2}, "no order"),
        ({0: 1, 1: 2, 2: 3}, "no order"),
        ("012", "single string"),
        ([0, 1], "3 (ids|texts) but 2 labels"),
    ],
)
@pytest.mark.parametrize("make", [ImageSource, TextSource])
def test_labels_that_are_refused(make, labels, message) -> None:
    with pytest.raises(ClipAlignError, match=message) as caught:
        make(["x", "y", "z"], ids=["x", "y", "z"], labels=labels, class_names=["cat", "dog"])
    assert "\n" not in str(caught.value)


def test_sequences_of_other_lengths_are_refused() -> None:
    with pytest.raises(ClipAlignError, match="2 ids but 1 items"):
        ImageSource(["x"], ids=["0", "1"])
    with pytest.raises(ClipAlignError, match="1 ids but 2 texts"):
        ImageSource(["x"], ids=["0"], texts=["a", "b"])
    with pytest.raises(ClipAlignError, match="1 texts but 2 ids"):
        TextSource(["x"], ids=["0", "1"])
    with pytest.raises(ClipAlignError, match=r"entry 1 .from 0. is 7, not a text"):
        TextSource(["x", 7])


def test_items_that_are_read_when_asked_for_stay() -> None:
    class Lazy:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, row: int) -> bytes:
            raise AssertionError("nobody asked")

    items = Lazy()
    assert ImageSource(items, ids=["0", "1"]).items is items


def test_captions_and_findings_by_position() -> None:
    source = ImageSource(NAMES, ids=NAMES)
    assert with_captions(source, series(["1", "2", "3"])).texts == [["1"], ["2"], ["3"]]
    captions = Captions(series(["1", "2", "3"]), series(NUMBERS), NAMES)
    assert with_captions(source, captions).texts == [["2"], ["3"], ["1"]]
    labels = FindingLabels(series(NAMES), ["E", "F"], np.eye(3, 2), patients=series(["p", "q", "r"]))
    part = labels.select([0])
    assert (part.ids, part.patients, part.values.tolist()) == (["c"], ["p"], [[1.0, 0.0]])


def test_subgroups_of_findings_by_position() -> None:
    """Female patients are not taken for male ones by the index of a sorted column."""
    kinds = {"sex": series(["F", "M", None]), "site": np.array([1, 2, 3])}
    labels = FindingLabels(NAMES, ["E"], [[1], [0], [1]], subgroups=kinds)
    assert labels.subgroups == {"sex": ["F", "M", ""], "site": ["1", "2", "3"]}
    assert labels.select([0, 2]).subgroups == {"sex": ["F", ""], "site": ["1", "3"]}
    with pytest.raises(ClipAlignError, match="sex is a single string, 'FMF'"):
        FindingLabels(NAMES, ["E"], [[1], [0], [1]], subgroups={"sex": "FMF"})


def test_splits_and_judgements_by_position() -> None:
    source = ImageSource([b""] * 3, ids=NAMES, labels=[0, 0, 1], class_names=["x", "y"])
    split = GCDSplit(source, series([0, 0, 1]), series([True, True, False]), np.array(["x"], dtype=object), ["y"])
    assert (split.training_labels[0], split.training_labels[2], split.class_names) == (0, -1, ["x"])
    with pytest.raises(ClipAlignError, match="class_names is a single string"):
        GCDSplit(source, [0, 0, 1], [True, True, False], "x", ["y"])
    shuffled = [3, 2, 1, 0]
    relevant = pd.Series([[0], [1], [2], [3]], index=shuffled)
    grades = pd.Series([[1], [2], [3], [4]], index=shuffled)
    task = JudgedPairs(torch.eye(4), torch.eye(4), relevant, grades, np.full(4, -1))
    for half in split_by_query(task):
        rows = half.query.argmax(dim=1).tolist()
        assert (half.relevant, half.grades) == ([[row] for row in rows], [[row + 1] for row in rows])


def test_names_of_concepts_and_steps_by_position(tiny) -> None:
    contributions = torch.tensor([[0.25, -0.5, 0.5]])
    assert top_concepts(contributions, series(NAMES)) == [[("b", 0.5), ("c", 0.25)]]
    config = SpectralGCDConfig(concepts=series(NAMES), class_names=series(NAMES))
    assert (config.concepts, config.class_names) == (NAMES, NAMES)
    settings = InversionSettings(1, 3, evaluate_at=pd.Series([3, 1], index=[0, 2]))
    assert settings.evaluate_at == (3, 1)


def test_values_of_findings_come_by_their_names_from_a_frame() -> None:
    frame = pd.DataFrame({"F": [0, 1, 0], "E": [1, 0, 0]}, index=INDEX)
    assert FindingLabels(NAMES, ["E", "F"], frame).values.tolist() == [[1, 0], [0, 1], [0, 0]]
    with pytest.raises(ClipAlignError, match="no column 'G'; there are 'F', 'E'"):
        FindingLabels(NAMES, ["E", "G"], frame)


def test_rows_may_be_a_mask() -> None:
    source = ImageSource(NAMES, ids=NAMES)
    assert take(source, np.array([True, False, True])).ids == ["c", "b"]
    assert take(source, series([True, False, True])).ids == ["c", "b"]
    assert take(source, series([2, 0, 1])).ids == ["b", "c", "a"]
    with pytest.raises(ClipAlignError, match="a mask of 2 entries for 3 items"):
        take(source, [True, False])


def test_few_shot_rows_need_classes_from_0() -> None:
    assert few_shot_rows(series([1, 1, 0]), 1) == few_shot_rows([1, 1, 0], 1)
    for labels in ([-1, 0, 1], [0.5, 1, 1], [float("nan"), 0, 1]):
        with pytest.raises(ClipAlignError, match="labels"):
            few_shot_rows(labels, 1)


@pytest.fixture(scope="module")
def tiny():
    return tiny_clip(), tiny_tokenizer()


def test_features_of_a_sorted_column(tiny, tmp_path) -> None:
    texts, labels = ["a dog", "a cat on a mat", "an owl"], [7, 8, 9]
    plain = extract_text_features(*_around(tiny, texts), labels=labels, progress=False)
    shuffled = extract_text_features(*_around(tiny, series(texts)), labels=series(labels), progress=False)
    assert torch.equal(plain.values, shuffled.values)
    assert [int(shuffled.labels[row]) for row in range(3)] == labels
    for source in (TextSource(series(texts), labels=series(labels)), series(texts)):
        store = extract_to_store(tiny[0], source, tiny[1], tmp_path / type(source).__name__, progress=False)
        assert torch.allclose(store.values(), plain.values, atol=1e-5)


def test_a_data_set_of_images_is_not_taken_for_a_column(tiny, tmp_path) -> None:
    images = datasets.Dataset.from_dict({"image": [np.zeros((9, 9, 3), np.uint8)] * 2}).cast_column(
        "image", datasets.Image()
    )
    store = extract_to_store(tiny[0], images, tiny_image_processor(), tmp_path / "out", progress=False)
    assert (store.modality, len(store)) == ("image", 2)


def _around(tiny, texts):
    return tiny[0], texts, tiny[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda model, tokenizer: extract_text_features(model, "dog", tokenizer),
        lambda model, tokenizer: encode_texts(model, "dog", tokenizer),
        lambda model, tokenizer: tokenize(as_dual_encoder(model), tokenizer, "dog"),
        lambda model, tokenizer: zero_shot_weights(model, tokenizer, "dog"),
        lambda model, tokenizer: build_prompts(model, tokenizer, "dog"),
        lambda *_: TextSource("dog"),
        lambda *_: TextSource(["dog"], ids="d"),
        lambda *_: ImageSource("dog", ids=["0", "1", "2"]),
        lambda *_: ImageSource(["d", "o", "g"], ids="dog"),
        lambda *_: ImageSource(["d"], ids=["0"], labels=[0], class_names="dog"),
        lambda *_: with_captions(ImageSource(["d", "o", "g"], ids=["0", "1", "2"]), "dog"),
        lambda *_: fill("a {}", "dog"),
        lambda *_: check_names("dog"),
        lambda *_: extend_dictionary(["owl"], "dog"),
        lambda *_: FindingPrompts.published("dog"),
        lambda *_: FindingPrompts.from_templates(["a"], "{} dog", ["no {}"]),
        lambda *_: FindingPrompts.published(["d", "o", "g"]).select("dog"),
        lambda *_: FindingLabels("dog", ["a"], [[1]] * 3),
        lambda *_: FindingLabels(["0"], ["d", "o", "g"], [[1, 1, 1]]).select(findings="dog"),
        lambda *_: class_incremental(FindingLabels(["0", "1", "2"], ["d", "o", "g"], np.eye(3)), order="dog"),
        lambda model, _: comparison_heads(as_dual_encoder(model), names="raw"),
        lambda model, processor: compare_methods(model, None, processor=processor, methods="raw"),
        lambda *_: multilabel_intervals([[1], [0]], [[0.1], [0.2]], kinds="auroc"),
        lambda *_: ModelScores("model", "dog", np.zeros((2, 3))),
        lambda *_: concept_contrast(torch.eye(3), torch.eye(3), "dog"),
        lambda *_: top_concepts(torch.eye(3), "dog"),
        lambda *_: SpectralGCDConfig(class_names="dog"),
        lambda *_: check_targets(torch.eye(3), 3, "features", "dog"),
    ],
)
def test_a_string_is_not_taken_for_its_letters(tiny, call) -> None:
    with pytest.raises(ClipAlignError, match="is a single string, ") as caught:
        call(*tiny)
    assert "\n" not in str(caught.value)
