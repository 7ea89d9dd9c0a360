"""Copies of an item, of a class or of a prompt tie in whatever is scored, and one rule decides about ties."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import similarities
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import ImageSource
from hf_clipalign.evaluation import (
    Head,
    LabelledRetrieval,
    compare_heads,
    nearest_class_mean_logits,
    nearest_class_mean_scores,
    search_band,
    top_matches,
    zero_shot_logits,
    zero_shot_weights,
)
from hf_clipalign.features import Features
from hf_clipalign.metrics import mean_per_class_accuracy, top_k_accuracy
from tests.tiny_models import tiny_clip, tiny_processor, tiny_tokenizer


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [3, 5, 17])
@pytest.mark.parametrize("centering", ["none", "gallery", "each"])
def test_copies_tie_behind_every_head(n: int, centering: str) -> None:
    """Every query meets its own item and a copy of it with another label."""
    for width in (24, 129):
        features = draw(n, width).repeat(2, 1)
        task = LabelledRetrieval(features, features, np.arange(2 * n), np.arange(2 * n))
        heads = [Head("plain"), Head("a map", draw(31, width, seed=1), centering, before=torch.tanh)]
        for score in compare_heads(heads, {"copies": task}, n_resamples=2).scores:
            assert (score.metrics["map"], score.metrics["recall_at_1"]) == (0.5, 0.0)


def test_copies_tie_in_the_search_of_a_band() -> None:
    features = draw(5, 48).repeat(2, 1)
    task = LabelledRetrieval(features, features, np.arange(10), np.arange(10))
    found = search_band(task, as_dual_encoder(tiny_clip()), k_top=(0, 1, 3), k_bottom=(0, 2))
    assert set(found.grid.values()) == {0.5}
    assert found.band == (0, 0)


def test_matches_that_tie_stand_in_their_order() -> None:
    gallery = draw(3, 65).repeat(4, 1)
    best = top_matches(Head("a map", draw(33, 65, seed=1)), gallery[:3], gallery, k=5)
    assert best[:, :4].tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_class_means_that_are_equal_tie() -> None:
    train, test = draw(3, 65).repeat(2, 1), draw(30, 65, seed=1)
    logits = nearest_class_mean_logits(Head("a map", draw(33, 65, seed=2)), train, torch.arange(6), test)
    assert torch.equal(logits[:, :3], logits[:, 3:])
    names = [f"class {number}" for number in range(6)]
    labels = torch.arange(30).numpy() % 6
    ids = [str(row) for row in range(30)]
    (row,) = nearest_class_mean_scores(
        [Head("plain")],
        Features(train, "image", ids[:6], np.arange(6), names),
        Features(test, "image", ids, labels, names),
    )
    assert row["top1"] == row["mean_per_class"] == 0.0


NAMES = ["red", "green", "blue", "RED", "dog", "cat", "green"]


@pytest.mark.parametrize("batch_size", [2, 3, 256])
def test_equal_prompts_have_equal_weights_and_are_named(batch_size: int, caplog: pytest.LogCaptureFixture) -> None:
    templates = ["a photo of a {}.", "the {} one"]
    with caplog.at_level(logging.WARNING):
        weights = zero_shot_weights(tiny_clip(), tiny_tokenizer(), NAMES, templates, batch_size)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("2 classes have the prompt of another class")
    assert "0 and 3 ('RED')" in message
    assert "1 and 6 ('green')" in message
    assert torch.equal(weights[0], weights[3])
    assert torch.equal(weights[1], weights[6])
    alone = zero_shot_weights(tiny_clip(), tiny_tokenizer(), NAMES[:3], templates)
    torch.testing.assert_close(weights[:3], alone)


def test_equal_names_have_equal_logits() -> None:
    names = ["crane", "a much longer name of a thing", "owl", "crane"]
    images = ImageSource([np.full((9, 9, 3), 9 * row, np.uint8) for row in range(5)], ids=list("abcde"))
    for template in ("a {}", ["a {}", "an image of a {}"]):
        logits = zero_shot_logits(tiny_clip(), tiny_processor("clip"), images, names, template)
        assert torch.equal(logits[:, 0], logits[:, 3])


def test_balanced_data_have_one_accuracy_where_prompts_are_equal() -> None:
    weights = zero_shot_weights(tiny_clip(), tiny_tokenizer(), NAMES)
    labels = torch.arange(7).repeat(5)
    logits = similarities(weights[labels], weights)
    assert top_k_accuracy(logits, labels)["top1"] == pytest.approx(3 / 7)
    assert mean_per_class_accuracy(logits, labels) == pytest.approx(3 / 7)


def test_different_prompts_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        zero_shot_weights(tiny_clip(), tiny_tokenizer(), NAMES[:3])
    assert not caplog.records


def test_one_name_is_no_list_of_names() -> None:
    with pytest.raises(ClipAlignError, match="class_names is a single string, 'red'"):
        zero_shot_weights(tiny_clip(), tiny_tokenizer(), "red")


@pytest.mark.parametrize(("names", "templates", "lacking"), [([], "a {}", "class_names"), (["cat"], [], "templates")])
def test_zero_shot_weights_of_nothing_are_refused(names: list[str], templates: str | list[str], lacking: str) -> None:
    with pytest.raises(ClipAlignError, match=f"there are no {lacking}"):
        zero_shot_weights(tiny_clip(), tiny_tokenizer(), names, templates)
