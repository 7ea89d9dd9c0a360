"""Scores on data sets of the registry are those of the evaluation room, with the papers' queries and prompts."""

import math

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign._rows import similarities
from hf_clipalign.benchmarks import BENCHMARKS, open_benchmark, run_benchmark
from hf_clipalign.benchmarks.running import scored_tasks
from hf_clipalign.data import ImageSource
from hf_clipalign.evaluation import LabelledRetrieval, comparison_heads, zero_shot_accuracy
from hf_clipalign.evaluation.tasks import score_retrieval
from hf_clipalign.features import extract_image_features, extract_text_features
from hf_clipalign.metrics import revisited_retrieval_metrics
from tests.benchmarks.published_copies import JUDGED

BAND = (4, 30)


def image_values(encoder, processor, paths):
    source = ImageSource([str(path) for path in paths], ids=[str(path) for path in paths])
    return extract_image_features(encoder, source, processor, progress=False).values


def by_head(scores, metric):
    return {score.head: score.value for score in scores if score.metric == metric}


def expected(encoder, task, metric, modality="image"):
    heads = comparison_heads(encoder, modality, BAND)
    return {head.name: score_retrieval(task, *head.embed(task.query, task.gallery))[metric] for head in heads}


def test_query_and_gallery_are_those_of_the_papers(published, encoder, processor, tmp_path):
    images = published("OxfordPets") / "images"
    query = image_values(encoder, processor, [images / "b/3.jpg", images / "a/3.jpg"])
    gallery = image_values(encoder, processor, [images / "a/1.jpg", images / "b/1.jpg", images / "b/2.jpg"])
    task = LabelledRetrieval(query, gallery, ["beagle", "coon"], ["coon", "beagle", "beagle"])
    opened = open_benchmark("pets", tmp_path)
    scores = run_benchmark(opened, encoder, processor, task="image-image", image_band=BAND, progress=False)
    for metric in ("map", "map_at_r", "recall_at_1"):
        assert by_head(scores, metric) == pytest.approx(expected(encoder, task, metric))
    assert len(by_head(scores, "map")) == 6
    assert {score.split for score in scores} == {"test in train"}
    assert all(score.low <= score.value <= score.high for score in scores if score.metric == "map")


def test_all_images_search_all_images_without_themselves(published, encoder, processor, tmp_path):
    folder = published("CUB")
    names = (folder / "images.txt").read_text().split()[1::2]
    values = image_values(encoder, processor, [folder / "images" / name for name in names])
    labels = [name.split("/")[0] for name in names]
    task = LabelledRetrieval(values, values, labels, labels, exclude_self=True)
    scores = run_benchmark(open_benchmark("CUB", tmp_path), encoder, processor, task="image-image", progress=False)
    raw = expected(encoder, task, "map")["raw"]
    assert by_head(scores, "map")["raw"] == pytest.approx(raw)
    assert raw < 1, "a query that finds itself would score 1"


def test_revisited_oxford_has_three_settings(published, encoder, processor, tmp_path):
    images = published("ROxford5k") / "jpg"
    query = image_values(encoder, processor, [images / f"query_{n}.jpg" for n in (0, 1)])
    names = ("all_souls_000000", "ashmolean_000001", "christ_church_000002")
    gallery = image_values(encoder, processor, [images / f"{name}.jpg" for name in names])
    lists = [[one[kind] for one in JUDGED] for kind in ("easy", "hard", "junk")]
    scores = run_benchmark(open_benchmark("roxford", tmp_path), encoder, processor, image_band=BAND, progress=False)
    for head in comparison_heads(encoder, "image", BAND):
        wanted = revisited_retrieval_metrics(similarities(*head.embed(query, gallery)), *lists)
        for setting in ("easy", "medium", "hard"):
            assert by_head(scores, f"map_{setting}")[head.name] == pytest.approx(wanted[f"map_{setting}"])
    assert not any(math.isnan(score.value) for score in scores)


def test_the_first_caption_of_each_image_searches_the_others(published, encoder, processor, tmp_path):
    published("COCO-captions")
    texts = ["a dog", "a car"], ["a big dog", "a dog runs", "a red car"]
    query, gallery = (extract_text_features(encoder, side, processor, progress=False).values for side in texts)
    task = LabelledRetrieval(query, gallery, ["2", "4"], ["2", "2", "4"])
    scores = run_benchmark(open_benchmark("coco", tmp_path), encoder, processor, text_band=BAND, progress=False)
    assert by_head(scores, "map") == pytest.approx(expected(encoder, task, "map", "text"))


@pytest.mark.parametrize("name", ["OxfordPets", "EuroSAT", "CUB", "FGVCAircraft"])
def test_zero_shot_takes_the_prompt_of_the_data_set(name, published, encoder, processor, tmp_path):
    published(name)
    opened = open_benchmark(name, tmp_path)
    (score, *_) = run_benchmark(opened, encoder, processor, task="zero-shot", progress=False)
    wanted = zero_shot_accuracy(encoder, processor, opened.part("test"), opened.entry.template)
    assert (score.metric, score.value) == ("top1", pytest.approx(wanted))


def test_the_prompt_decides(published, encoder, processor, tmp_path, monkeypatch):
    published("DTD")
    asked = []
    whole = "hf_clipalign.benchmarks.running.zero_shot_weights"
    monkeypatch.setattr(whole, lambda encoder, _, names, template: asked.append(template) or torch.eye(2, 128))
    run_benchmark(open_benchmark("DTD", tmp_path), encoder, processor, task="zero-shot", progress=False)
    assert asked == ["{} texture."]


def test_features_are_kept_and_used_again(published, encoder, processor, tmp_path, monkeypatch):
    published("OxfordPets")
    opened = open_benchmark("pets", tmp_path)
    options = {"features": tmp_path / "features", "progress": False}
    first = run_benchmark(opened, encoder, processor, **options)
    assert sorted(path.name for path in (tmp_path / "features/OxfordPets").iterdir() if path.is_dir()) == [
        "test",
        "train",
    ]
    monkeypatch.setattr("hf_clipalign.features.engines.computing.image_block", None)
    assert run_benchmark(opened, encoder, processor, **options) == first


def test_an_image_that_cannot_be_read_is_an_error(published, encoder, processor, tmp_path):
    folder = published("ROxford5k")
    (folder / "jpg/query_1.jpg").write_bytes(b"no image")
    with pytest.raises(ClipAlignError, match=r"query_1\.jpg"):
        run_benchmark(open_benchmark("roxford", tmp_path), encoder, processor, progress=False)


@pytest.mark.parametrize(
    ("name", "task", "said"),
    [
        ("CheXpert", None, "is not scored without training: use `clipalign findings`"),
        ("ImageNet-100", None, "is not scored without training: use `clipalign discover`"),
        ("SOP", "zero-shot", "has no task 'zero-shot': choose from image-image"),
        ("SOP", "image-imag", "did you mean 'image-image'"),
    ],
)
def test_tasks_that_are_not_there(name, task, said):
    with pytest.raises(ClipAlignError, match=said):
        scored_tasks(BENCHMARKS[name], task)


def test_a_form_without_the_papers_parts_is_named(published, encoder, processor, tmp_path):
    published("OxfordPets", number=1)
    with pytest.raises(ClipAlignError, match=r"has no part 'train' in this form \(pets: 'trainval', 'test'\)"):
        run_benchmark(open_benchmark("pets", tmp_path), encoder, processor, task="image-image", progress=False)


def test_captions_are_no_images_and_cannot_be_joined(published, tmp_path):
    published("COCO-captions")
    opened = open_benchmark("coco", tmp_path)
    with pytest.raises(ClipAlignError, match="only parts with labels can be joined"):
        opened.part("val+test")
    with pytest.raises(ClipAlignError, match="has class labels, no judgements"):
        opened.judgements()
    assert np.asarray(opened.part("val").labels).tolist() == [0, 0]
