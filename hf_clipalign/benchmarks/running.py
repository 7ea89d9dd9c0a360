"""Scoring a model on a data set of the registry, by the papers' rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import similarities, unit_rows
from hf_clipalign.backbones import DualEncoder, as_dual_encoder
from hf_clipalign.benchmarks.entries import Benchmark
from hf_clipalign.benchmarks.formats.captions import first_caption
from hf_clipalign.benchmarks.opening import OpenedBenchmark
from hf_clipalign.data import Captions, ImageSource
from hf_clipalign.evaluation import Head, compare_heads, comparison_heads, retrieval_task, zero_shot_weights
from hf_clipalign.features import (
    Features,
    extract_image_features,
    extract_text_features,
    extract_to_store,
    project_image_features,
)
from hf_clipalign.metrics import bootstrap_interval, revisited_retrieval_metrics, top_k_accuracy

Band = tuple[int, int]
_FIRST = ": first caption"
_PLAIN_TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class BenchmarkScore:
    """One number of one head on one task.

    Attributes:
        dataset (`str`): name of the data set.
        task (`str`): "image-image", "text-text" or "zero-shot".
        split (`str`): what was queried and searched, or tested on.
        head (`str`): see `hf_clipalign.evaluation.HEAD_NAMES`.
        dimension (`int`): of the embeddings.
        metric (`str`): its name.
        value (`float`): a fraction in [0, 1].
        low (`float`, *optional*), high (`float`, *optional*): 95 % bootstrap interval, where there is one.

    Example:
        ```python
        >>> pets = open_benchmark("pets", "benchmarks")
        >>> scores = run_benchmark(pets, model, processor, task="zero-shot", progress=False)
        >>> scores[0].metric, scores[0].split
        ('top1', 'test')
        ```
    """

    dataset: str
    task: str
    split: str
    head: str
    dimension: int
    metric: str
    value: float
    low: float | None = None
    high: float | None = None


def run_benchmark(
    opened: OpenedBenchmark,
    model: Any,
    processor: Any,
    *,
    task: str | None = None,
    image_band: Band | None = None,
    text_band: Band | None = None,
    heads: Sequence[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[BenchmarkScore]:
    """Scores a model on a data set, with the papers' splits, queries, gallery and prompt.

    An image that cannot be read is an error: these are numbers to compare with others.

    Args:
        opened (`OpenedBenchmark`): from `open_benchmark`.
        model (`nn.Module` or `DualEncoder`): the backbone.
        processor (`ProcessorMixin`): the checkpoint's processor.
        task (`str`, *optional*): "image-image", "text-text" or "zero-shot". Default: all that the data set has.
        image_band (`(k_top, k_bottom)`, *optional*): for the IsoCLIP heads of images. Without it they are left out.
        text_band (`(k_top, k_bottom)`, *optional*): likewise for texts.
        heads (`Sequence[str]`, *optional*): which heads. Default: all that apply.
        features (`str` or `os.PathLike`, *optional*): folder to keep features of images in; an interrupted run is
            resumed from it. Default: they are kept in memory.
        seed (`int`, *optional*, defaults to `0`): of the bootstrap.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.

    Returns:
        `list[BenchmarkScore]`: task by task, head by head.

    Raises:
        `ClipAlignError`: a task that the data set does not have, a head or band that does not fit, or an image that
            cannot be read.

    Example:
        ```python
        >>> pets = open_benchmark("pets", "benchmarks")
        >>> scores = run_benchmark(pets, model, processor, task="image-image", progress=False)
        >>> [score.head for score in scores if score.metric == "map"]
        ['raw', 'pre-projection', 'centred', 'centred-each']
        ```
    """
    tasks = scored_tasks(opened.entry, task)
    run = _Run(
        opened=opened,
        encoder=as_dual_encoder(model),
        processor=processor,
        bands={"image": image_band, "text": text_band},
        heads=list(heads) if heads is not None else None,
        folder=None if features is None else Path(features),
        seed=seed,
        progress=progress,
        done={},
    )
    return [score for one in tasks for score in TASKS[one](run)]


def scored_tasks(entry: Benchmark, task: str | None = None) -> list[str]:
    """The tasks of a data set that are scored without training, or the given one of them.

    Args:
        entry (`Benchmark`): the data set.
        task (`str`, *optional*): which one. Default: all.

    Raises:
        `ClipAlignError`: there is none, or not this one.
    """
    known = [one for one in entry.tasks if one in TASKS]
    if task is None and known:
        return known
    if task in known:
        return [task]
    if task is not None and task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if not known:
        other = "findings" if "findings" in entry.tasks else "discover"
        raise ClipAlignError(f"{entry.name} is not scored without training: use `clipalign {other}`")
    raise ClipAlignError(f"{entry.name} has no task {task!r}: choose from {', '.join(known)}")


@dataclass
class _Run:
    """One call, and the features that it has taken already."""

    opened: OpenedBenchmark
    encoder: DualEncoder
    processor: Any
    bands: Mapping[str, Band | None]
    heads: list[str] | None
    folder: Path | None
    seed: int
    progress: bool
    done: dict[str, Features]

    def images(self, part: str) -> Features:
        """Features of the images of a part, taken once."""
        if part not in self.done:
            source = self.opened.part(part)
            if not isinstance(source, ImageSource):
                raise ClipAlignError(f"{self.opened.entry.name}: {part} holds no images")
            self.done[part] = self._extracted(source, part)
        return self.done[part]

    def _extracted(self, source: ImageSource, part: str) -> Features:
        options: dict[str, Any] = {"strict": True, "progress": self.progress}
        if self.folder is None:
            return extract_image_features(self.encoder, source, self.processor, **options)
        place = self.folder / self.opened.entry.name / part
        return extract_to_store(self.encoder, source, self.processor, place, **options).to_features()

    def texts(self, captions: Captions) -> Features:
        """Features of captions; those over the context length are cut."""
        options: dict[str, Any] = {"truncate": True, "progress": self.progress}
        return extract_text_features(self.encoder, captions.texts, self.processor, labels=captions.labels, **options)

    def linear_heads(self, modality: Any) -> list[Head]:
        """The heads to compare, on the CPU."""
        heads = comparison_heads(self.encoder, modality, self.bands[modality], names=self.heads)
        return [replace(head, matrix=None if head.matrix is None else head.matrix.float().cpu()) for head in heads]

    def score(self, task: str, split: str, head: Head, width: int, metric: str, *values: float) -> BenchmarkScore:
        return BenchmarkScore(self.opened.entry.name, task, split, head.name, width, metric, *map(float, values))


def _image_image(run: _Run) -> list[BenchmarkScore]:
    rule = run.opened.entry.tasks["image-image"]
    query = run.images(rule["query"])
    gallery = None if rule["gallery"] == rule["query"] else run.images(rule["gallery"])
    split = f"{rule['query']} in {rule['gallery']}"
    if gallery is not None and "judged" in rule:
        return _judged(run, query, gallery, split)
    return _labelled(run, "image-image", "image", split, query, gallery)


def _text_text(run: _Run) -> list[BenchmarkScore]:
    rule = run.opened.entry.tasks["text-text"]
    part = rule["query"].removesuffix(_FIRST)
    captions = run.opened.part(part)
    if not isinstance(captions, Captions):
        raise ClipAlignError(f"{run.opened.entry.name}: {part} holds no captions")
    query, gallery = (run.texts(side) for side in first_caption(captions))
    return _labelled(run, "text-text", "text", f"{rule['query']} in {rule['gallery']}", query, gallery)


def _labelled(
    run: _Run, task: str, modality: Any, split: str, query: Features, gallery: Features | None
) -> list[BenchmarkScore]:
    heads, name = run.linear_heads(modality), run.opened.entry.name
    comparison = compare_heads(heads, {name: retrieval_task(query, gallery)}, seed=run.seed)
    scores = []
    for head, found in zip(heads, comparison.scores, strict=True):
        for metric, value in found.metrics.items():
            interval = found.map_interval if metric == "map" else ()
            scores.append(run.score(task, split, head, found.width, metric, value, *interval))
    return scores


def _judged(run: _Run, query: Features, gallery: Features, split: str) -> list[BenchmarkScore]:
    """Revisited Oxford and Paris: the mAP of each setting, with an interval over queries."""
    judged = run.opened.judgements()
    scores = []
    for head in run.linear_heads("image"):
        table = similarities(*head.embed(query.values, gallery.values))
        found = revisited_retrieval_metrics(table, *judged, per_query=True)
        for metric, values in found["per_query"].items():
            if np.isnan(values).all():
                continue
            _, low, high = bootstrap_interval(values, seed=run.seed)
            width = head.width(gallery.values)
            scores.append(run.score("image-image", split, head, width, metric, found[metric], low, high))
    return scores


@torch.no_grad()
def _zero_shot(run: _Run) -> list[BenchmarkScore]:
    """Accuracy with the data set's prompt and the model's own head: trimming is not for images against texts."""
    entry = run.opened.entry
    split = entry.tasks["zero-shot"]["test"]
    images = run.images(split)
    if images.class_names is None or images.labels is None:
        raise ClipAlignError(f"{entry.name}: {split} has no names of classes to write prompts with")
    weights = zero_shot_weights(run.encoder, run.processor, images.class_names, entry.template or _PLAIN_TEMPLATE)
    embeds = project_image_features(run.encoder, images.values)
    logits = similarities(unit_rows(embeds), weights.cpu().float())
    found = top_k_accuracy(logits, images.labels, ks=tuple(k for k in (1, 5) if k <= len(weights)))
    head = Head("raw")
    return [run.score("zero-shot", split, head, weights.shape[1], metric, value) for metric, value in found.items()]


TASKS: Mapping[str, Callable[[_Run], list[BenchmarkScore]]] = {
    "image-image": _image_image,
    "text-text": _text_text,
    "zero-shot": _zero_shot,
}
"""What can be scored without training."""
