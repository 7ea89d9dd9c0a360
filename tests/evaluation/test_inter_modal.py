"""Retrieval and classification by inversion, beside the linear heads."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.evaluation import (
    LabelledRetrieval,
    compare_heads,
    compare_methods,
    comparison_heads,
    plot_snapshots,
    tower_milliseconds,
    zero_shot_controls,
)
from hf_clipalign.features import Features
from hf_clipalign.inversion import oti
from hf_clipalign.metrics import retrieval_metrics
from tests.tiny_models import tiny_clip, tiny_model, tiny_pixel_values, tiny_tokenizer

LABELS = np.repeat(np.arange(4), 3)


def task(modality="image", self_search=True):
    width = {"image": 48, "text": 32}[modality]
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, width, generator=generator)[LABELS] + torch.randn(12, width, generator=generator)
    if self_search:
        return LabelledRetrieval(values, values, LABELS, LABELS, exclude_self=True)
    return LabelledRetrieval(values[::2], values, LABELS[::2], LABELS)


def compare(**options):
    options = {"processor": tiny_tokenizer(), "steps": 5, "progress": False, "task": task()} | options
    return compare_methods(tiny_clip(), **options)


def test_linear_methods_are_the_heads():
    texts = torch.randn(40, 24, generator=torch.Generator().manual_seed(1))
    methods = ["raw", "isoclip", "text-pca", "centred", "pre-projection"]
    result = compare(methods=methods, band=(2, 4), text_embeds=texts)
    names = ["raw", *methods[1:]]
    expected = compare_heads(
        comparison_heads(as_dual_encoder(tiny_clip()), "image", (2, 4), texts, names), {"data": task()}
    )
    assert [score.metrics for score in result.retrieval.scores] == [score.metrics for score in expected.scores]
    assert [score.head for score in result.retrieval.scores] == methods
    assert result.inversion is None
    assert result.curve == {}


@pytest.mark.parametrize("self_search", [True, False])
def test_oti_queries_search_native_images(self_search):
    data = task(self_search=self_search)
    ids = [f"i{row}" for row in range(len(data.query))]
    result = compare(task=data, query_ids=ids, evaluate_at=(0, 3, 5), seed=3)
    matrix = as_dual_encoder(tiny_clip()).image_projector.weight.detach()
    embeds = data.query @ matrix.T
    queries = oti(
        tiny_clip(), embeds, processor=tiny_tokenizer(), steps=5, ids=ids, progress=False,
        generator=torch.Generator().manual_seed(3),
    ).features  # fmt: skip
    expected = retrieval_metrics(queries, data.gallery @ matrix.T, data.query_labels, LABELS, self_search)
    assert result.retrieval.scores[1].metrics["map"] == pytest.approx(expected["map"])
    assert result.curve[5] == pytest.approx(expected["map"])
    assert sorted(result.curve) == [0, 3, 5]
    assert result.curve[0] != result.curve[5]
    title = plot_snapshots({"oti": result.curve}, 0.5).axes[0].get_ylabel()
    assert title == "mAP, %"


def test_every_method_says_what_a_query_takes():
    result = compare(methods=["raw", "oti"], tower_ms=2.5)
    times = result.milliseconds
    for score in result.retrieval.scores:
        assert score.ms_per_query == pytest.approx(sum(times[score.head].values()))
        assert times[score.head]["tower"] == 2.5
    assert times["oti"]["method"] > 0
    assert result.retrieval.columns()[-1] == "ms per query"
    assert all(float(row[-1]) > 2.4 for row in result.retrieval.rows())
    assert tower_milliseconds(tiny_clip()) > 0


def test_texts_are_inverted_by_ovi():
    result = compare(task=task("text"), modality="text", methods=["raw", "ovi"], n_tokens=4)
    assert result.inversion.tokens.shape == (12, 4, 48)


def test_siglip_is_compared_by_its_own_head():
    model, tokenizer = tiny_model("siglip"), tiny_tokenizer("siglip")
    inputs = tiny_pixel_values(6, "siglip")
    encoder = as_dual_encoder(model)
    with torch.no_grad():
        values = encoder.image_projector.lift(encoder.image_preprojection(**inputs))
        embeds = encoder.encode_image(**inputs)
    labels = [0, 0, 1, 1, 2, 2]
    data = LabelledRetrieval(values, values, labels, labels, exclude_self=True)
    result = compare_methods(model, data, processor=tokenizer, steps=4, evaluate_at=(4,), progress=False)
    expected = retrieval_metrics(embeds, embeds, labels, labels, True)
    assert result.retrieval.scores[0].metrics["map"] == pytest.approx(expected["map"])
    cosines = F.cosine_similarity(result.inversion.features, embeds)
    assert 1 - cosines.mean() < result.inversion.losses[0]


def images():
    return Features(task().query, "image", [f"p{i}" for i in range(12)], LABELS, ["red cat", "dog", "bird", "car"])


def test_zero_shot_controls():
    rows = zero_shot_controls(
        tiny_clip(), images(), processor=tiny_tokenizer(), oti_steps=4, ovi_steps=4, n_tokens=2, progress=False
    )
    assert [row["method"] for row in rows] == ["raw", "oti", "ovi"]
    encoder, tokenizer = as_dual_encoder(tiny_clip()), tiny_tokenizer()
    prompts = tokenizer([f"a photo of a {name}." for name in images().class_names], padding=True, return_tensors="pt")
    classes = encoder.encode_text(prompts["input_ids"], normalize=True).detach()
    embeds = images().values @ encoder.image_projector.weight.detach().T
    inverted = oti(tiny_clip(), embeds, processor=tokenizer, steps=4, ids=images().ids, progress=False,
                   generator=torch.Generator().manual_seed(0)).features  # fmt: skip
    for row, features in zip(rows[:2], (embeds, inverted), strict=True):
        best = (F.normalize(features, dim=-1) @ classes.T).argmax(1).numpy()
        assert row["mean_per_class"] == pytest.approx((best == LABELS).mean())


def test_bad_input():
    with pytest.raises(ClipAlignError, match="unknown method 'magic'"):
        compare(methods=["magic"])
    with pytest.raises(ClipAlignError, match="ovi does not invert images: use oti"):
        compare(methods=["raw", "ovi"])
    with pytest.raises(ClipAlignError, match="'isoclip' needs a band"):
        compare(methods=["isoclip"])
    with pytest.raises(ClipAlignError, match="n_tokens is 0"):
        compare(n_tokens=0)
    with pytest.raises(ClipAlignError, match="oti has no option 'foo'"):
        compare(foo=1)
    with pytest.raises(ClipAlignError, match="at least one method"):
        compare(methods=[])
    with pytest.raises(ClipAlignError, match="zero-shot needs class names"):
        zero_shot_controls(tiny_clip(), Features(task().query, "image", list("abcdefghijkl")), processor=None)
    with pytest.raises(ClipAlignError, match="unknown method 'isoclip' for zero-shot"):
        zero_shot_controls(tiny_clip(), images(), processor=tiny_tokenizer(), methods=["isoclip"])


@pytest.mark.parametrize(("n_classes", "keys"), [(4, {"top1"}), (5, {"top1", "top5"}), (6, {"top1", "top5"})])
def test_accuracy_among_the_first_five_where_there_are_five_classes(n_classes, keys):
    names = ["red cat", "dog", "bird", "car", "owl", "fox"][:n_classes]
    labels = np.arange(12) % n_classes
    data = Features(task().query, "image", [f"p{i}" for i in range(12)], labels, names)
    (row,) = zero_shot_controls(tiny_clip(), data, processor=tiny_tokenizer(), template="a {}", methods=["raw"])
    assert {key for key in row if key.startswith("top")} == keys
    if n_classes == 5:
        assert row["top5"] == 1.0
