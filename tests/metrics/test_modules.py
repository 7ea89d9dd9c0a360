import subprocess
import sys

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.metrics import retrieval_metrics, revisited_retrieval_metrics, top_k_accuracy

evaluate = pytest.importorskip("evaluate")


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, 5)).astype(np.float32), rng.integers(5, size=30)


def test_the_functions_do_not_import_evaluate():
    code = "import sys; from hf_clipalign.metrics import retrieval_metrics; assert 'evaluate' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", [list, lambda labels: [f"class {i}" for i in labels]])
def test_retrieval_metric(sample, kind):
    from hf_clipalign.metrics import RetrievalMetric

    features, labels = sample[0], kind(sample[1])
    expected = retrieval_metrics(features, features, labels, labels, exclude_self=True, ks=(2,))
    metric = RetrievalMetric(keep_in_memory=True)
    assert metric.compute(predictions=features, references=labels, ks=(2,)) == pytest.approx(expected)


def test_retrieval_metric_in_batches_with_a_gallery(sample):
    from hf_clipalign.metrics import RetrievalMetric

    features, labels = sample
    metric = RetrievalMetric(keep_in_memory=True)
    for part in (slice(0, 4), slice(4, 10)):
        metric.add_batch(predictions=features[part], references=labels[part])
    expected = retrieval_metrics(features[:10], features[10:], labels[:10], labels[10:])
    assert metric.compute(gallery=features[10:], gallery_labels=labels[10:]) == pytest.approx(expected)


def test_revisited_retrieval_metric(sample):
    from hf_clipalign.metrics import RevisitedRetrievalMetric

    easy, hard, junk = [[0, 1]] * 30, [[2]] * 30, [[]] * 30
    expected = revisited_retrieval_metrics(sample[0], easy, hard, junk)
    metric = RevisitedRetrievalMetric(keep_in_memory=True)
    assert metric.compute(similarities=sample[0], easy=easy, hard=hard, junk=junk) == pytest.approx(expected)


def test_combine(sample):
    from hf_clipalign.metrics import RetrievalMetric, TopKAccuracy

    features, labels = sample
    both = evaluate.combine([TopKAccuracy(keep_in_memory=True), RetrievalMetric(keep_in_memory=True)])
    result = both.compute(predictions=features.tolist(), references=labels.tolist())
    expected = top_k_accuracy(features, labels) | retrieval_metrics(features, features, labels, labels, True)
    assert result == pytest.approx(expected)


@pytest.mark.parametrize("kind", [list, lambda labels: [f"class {i}" for i in labels]])
def test_clustering_accuracy(sample, kind):
    from hf_clipalign.metrics import ClusteringAccuracy, clustering_accuracy

    labels, clusters, known = sample[1], sample[1][::-1], sample[1] < 2
    metric = ClusteringAccuracy(keep_in_memory=True)
    for part in (slice(0, 12), slice(12, None)):
        metric.add_batch(predictions=clusters[part], references=kind(labels[part]), known_mask=known[part])
    expected = clustering_accuracy(labels, clusters, known, balanced=True)
    assert metric.compute(balanced=True) == pytest.approx(expected)
    texts = [f"cluster {i}" for i in clusters]
    assert metric.compute(predictions=texts, references=kind(labels), known_mask=known) == pytest.approx(
        clustering_accuracy(labels, clusters, known)
    )
    with pytest.raises(ClipAlignError, match="known_mask is missing"):
        metric.add_batch(predictions=clusters, references=kind(labels))


def test_modules_describe_their_inputs():
    """As `evaluate` shows them: `inputs_description` is the docstring with its example."""
    from hf_clipalign import metrics

    modules = [
        metrics.RetrievalMetric,
        metrics.RevisitedRetrievalMetric,
        metrics.TopKAccuracy,
        metrics.ClusteringAccuracy,
    ]
    for module in modules:
        metric = module(keep_in_memory=True)
        assert ">>> " in metric.inputs_description
        assert metric.inputs_description == module.__doc__
        assert metric.description.endswith(".")
