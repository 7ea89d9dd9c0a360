"""mteb scores our models, and agrees with our metrics on the same features."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mteb")

import mteb
from mteb.mocks import MockAny2AnyRetrievalI2TTask, MockAny2AnyRetrievalT2ITask, MockRetrievalTask
from mteb.models import EncoderProtocol

from hf_clipalign import ClipAlignError
from hf_clipalign.benchmarks.mteb import LocalRetrievalTask, MTEBEncoder
from hf_clipalign.data import Captions, ImageSource
from hf_clipalign.evaluation import comparison_heads
from hf_clipalign.features import extract_image_features, extract_text_features
from hf_clipalign.metrics import retrieval_metrics_from_qrels

BAND = (4, 30)


def evaluated(model, task):
    (result,) = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False).task_results
    (scores,) = result.scores["test"]
    return scores


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Forty images of five classes, like each other within a class."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    bases = generator.integers(0, 200, (5, 4, 4, 3))
    paths, labels = [], []
    for row in range(40):
        pixels = bases[row % 5] + generator.integers(0, 56, (4, 4, 3))
        paths.append(str(root / f"{row}.png"))
        labels.append(row % 5)
        Image.fromarray(np.kron(pixels, np.ones((12, 12, 1))).astype(np.uint8)).save(paths[-1])
    return ImageSource(paths, ids=[str(row) for row in range(40)], labels=labels, class_names=list("abcde"))


def ours(query, gallery, query_labels, gallery_labels, exclude):
    relevant = [
        [row for row, label in enumerate(gallery_labels) if label == own and not (exclude and row == query_row)]
        for query_row, own in enumerate(query_labels)
    ]
    excluded = np.arange(len(query)) if exclude else None
    return retrieval_metrics_from_qrels(query, gallery, relevant, excluded=excluded)


def assert_equal(scores, wanted):
    for name, own in (("map", "map"), ("ndcg_at_10", "ndcg_at_10"), ("hit_rate_at_10", "recall_at_10")):
        assert scores[f"exact_{name}"] == pytest.approx(wanted[own], abs=1e-6), name
    assert scores["ndcg_at_10"] == pytest.approx(wanted["ndcg_at_10"], abs=5e-6)
    assert 0.1 < wanted["map"] < 1


@pytest.mark.parametrize("band", [None, BAND])
def test_images_that_search_themselves_score_as_in_our_metrics(band, images, encoder, processor):
    values = extract_image_features(encoder, images, processor, progress=False).values
    (head,) = comparison_heads(encoder, "image", band, names=["isoclip" if band else "raw"])
    wanted = ours(*head.embed(values, values), images.labels, images.labels, exclude=True)
    assert_equal(evaluated(MTEBEncoder(encoder, processor, image_band=band), LocalRetrievalTask(images)), wanted)


def test_two_sources_score_as_in_our_metrics(images, encoder, processor):
    def part(rows):
        labels = [images.labels[row] for row in rows]
        return ImageSource([images.items[row] for row in rows], ids=[str(r) for r in rows], labels=labels)

    query, gallery = part(range(15)), part(range(15, 40))
    found = [extract_image_features(encoder, side, processor, progress=False).values for side in (query, gallery)]
    (head,) = comparison_heads(encoder, "image", names=["raw"])
    wanted = ours(*head.embed(*found), query.labels, gallery.labels, exclude=False)
    assert_equal(evaluated(MTEBEncoder(encoder, processor), LocalRetrievalTask(query, gallery)), wanted)


def test_captions_score_as_in_our_metrics(encoder, processor):
    texts = [
        f"{size} {thing}" for thing in ("cat", "dog", "car", "tree") for size in ("a", "a big", "my old", "one red")
    ]
    captions = Captions(texts, np.repeat(np.arange(4), 4), list("1234"))
    values = extract_text_features(encoder, texts, processor, progress=False).values
    (head,) = comparison_heads(encoder, "text", BAND, names=["isoclip"])
    wanted = ours(*head.embed(values, values), captions.labels, captions.labels, exclude=True)
    assert_equal(evaluated(MTEBEncoder(encoder, processor, text_band=BAND), LocalRetrievalTask(captions)), wanted)


@pytest.mark.parametrize("task", [MockAny2AnyRetrievalI2TTask, MockAny2AnyRetrievalT2ITask, MockRetrievalTask])
def test_mteb_s_own_mocks_run(task, encoder, processor):
    scores = evaluated(MTEBEncoder(encoder, processor, image_band=BAND, text_band=BAND), task())
    assert 0 <= scores["main_score"] <= 1


@pytest.mark.parametrize(("category", "aligned"), [("i2i", True), ("i2t", False), ("t2i", False)])
def test_only_comparisons_within_a_modality_are_trimmed(category, aligned, images, encoder, processor):
    model = MTEBEncoder(encoder, processor, image_band=BAND)
    metadata = LocalRetrievalTask(images).metadata.model_copy(update={"category": category})
    batch = {"image": [Image.open(path) for path in images.items[:3]]}
    found = model.encode([batch], task_metadata=metadata)
    (head,) = comparison_heads(encoder, "image", BAND, names=["isoclip" if aligned else "raw"])
    values = extract_image_features(encoder, images, processor, progress=False).values[:3]
    np.testing.assert_allclose(found, head.embed(values, values)[0].numpy(), atol=1e-5)


def test_the_protocol_is_mteb_s(encoder, processor):
    model = MTEBEncoder(encoder, processor, image_band=BAND, name="me/clip")
    assert isinstance(model, EncoderProtocol)
    meta = model.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.experiment_kwargs) == ("me/clip", 128, {"image_band": "(4, 30)"})
    rows = np.eye(2, 3, dtype=np.float32)
    assert torch.equal(model.similarity(rows, rows), torch.eye(2))
    assert model.similarity_pairwise(rows, rows).tolist() == [1, 1]


def test_data_that_cannot_be_compared(images):
    with pytest.raises(ClipAlignError, match="have no labels"):
        LocalRetrievalTask(ImageSource(images.items, ids=images.ids))
    with pytest.raises(ClipAlignError, match="give one kind"):
        LocalRetrievalTask(images, Captions(["a cat"], [0], ["a"]))
