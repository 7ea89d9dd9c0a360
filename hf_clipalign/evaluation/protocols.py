"""Protocols of the prompt-learning papers: base-to-novel, cross-dataset, domain generalisation, mean over seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file
from hf_clipalign._io.limited_json import check_schema, entries
from hf_clipalign._io.masking import mask_secrets, without_secrets
from hf_clipalign._rows import similarities
from hf_clipalign._tables import NumberTable
from hf_clipalign.backbones import DualEncoder, as_dual_encoder
from hf_clipalign.backbones.packing import encode_texts
from hf_clipalign.data import ImageSource, fill
from hf_clipalign.data.splits.subsets import base_and_novel
from hf_clipalign.metrics import harmonic_mean, top_k_accuracy
from hf_clipalign.tuners import (
    adapter_template,
    build_prompts,
    class_text_features,
    has_text_prompts,
    plan_prompts,
)

_STORED = {"title": str, "note": str, "scores": entries(entries(entries((int, float))))}

Accuracy = Callable[[ImageSource], float]
"""Gives the share of a source's images that are classified right among its `class_names`, in [0, 1]."""


def base_to_novel(accuracy: Accuracy, source: ImageSource) -> dict[str, float]:
    """Accuracy on the base half of the classes, on the novel half, and their harmonic mean.

    Each half is classified among its own classes only. Train on the base half of the training images before.

    Args:
        accuracy (`Callable`): of the trained model, for example `trainer.accuracy`.
        source (`ImageSource`): test images of all classes.

    Returns:
        `dict`: `base`, `novel`, `harmonic_mean`, in [0, 1].

    Raises:
        `ClipAlignError`: the source has no labels or fewer than two classes.

    Example:
        ```python
        >>> accuracy = lambda source: zero_shot_accuracy(model, processor, source, "an emoji of {}")
        >>> sorted(base_to_novel(accuracy, images))
        ['base', 'harmonic_mean', 'novel']
        ```
    """
    base, novel = (accuracy(half) for half in base_and_novel(source))
    return {"base": base, "novel": novel, "harmonic_mean": harmonic_mean(base, novel)}


def cross_dataset(accuracy: Accuracy, sources: Mapping[str, ImageSource]) -> dict[str, float]:
    """Accuracy on data sets that the model was not trained on, and their mean (`average`).

    Args:
        accuracy (`Callable`): gives the accuracy on an `ImageSource`.
        sources (`Mapping[str, ImageSource]`): the data sets by name.

    Example:
        ```python
        >>> cross_dataset(lambda source: 0.5, {"emoji": images})
        {'emoji': 0.5, 'average': 0.5}
        ```
    """
    return _each_and_average(accuracy, sources)


def domain_generalization(
    accuracy: Accuracy, source: ImageSource, targets: Mapping[str, ImageSource]
) -> dict[str, float]:
    """Accuracy on the training domain (`source`), on each other one, and the mean of the OTHERS (`average`).

    Args:
        accuracy (`Callable`): gives the accuracy on an `ImageSource`.
        source (`ImageSource`): test images of the training domain.
        targets (`Mapping[str, ImageSource]`): those of the other domains, by name.

    Example:
        ```python
        >>> domain_generalization(lambda source: 0.5, images, {"other style": images})
        {'source': 0.5, 'other style': 0.5, 'average': 0.5}
        ```
    """
    return {"source": accuracy(source), **_each_and_average(accuracy, targets)}


def zero_shot_accuracy(
    model: Any,
    processor: Any,
    source: ImageSource,
    template: str | Sequence[str] | None = None,
    batch_size: int = 64,
) -> float:
    """Accuracy of a model with hand-written or learned prompts among the source's class names.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, bare or with an adapter.
        processor (`ProcessorMixin`): the checkpoint's processor.
        source (`ImageSource`): labelled images with class names.
        template (`str` or `Sequence[str]`, *optional*): prompt with one `{}`, or several, see `zero_shot_logits`.
            Defaults to the adapter's own; `a photo of a {}.` without one.
        batch_size (`int`, *optional*, defaults to `64`): images per pass.

    Raises:
        `ClipAlignError`: no labels or no class names.

    Example:
        ```python
        >>> 0 <= zero_shot_accuracy(model, processor, images, "an emoji of {}") <= 1
        True
        ```
    """
    names = source_class_names(source)
    logits = zero_shot_logits(model, processor, source, names, template, batch_size)
    return top_k_accuracy(logits, source.labels, ks=(1,))["top1"]


@torch.no_grad()
def zero_shot_logits(
    model: Any,
    processor: Any,
    source: ImageSource,
    class_names: Sequence[str],
    template: str | Sequence[str] | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Cosines of images and class prompts: hand-written ones, or an adapter's.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, bare or with an adapter.
        processor (`ProcessorMixin`): the checkpoint's processor.
        source (`ImageSource`): N images.
        class_names (`Sequence[str]`): C names.
        template (`str` or `Sequence[str]`, *optional*): prompt with one `{}`; of several, an ensemble, each class
            takes the mean of the unit text features (Radford et al., 2021, section 3.1.4). Default: the adapter's
            own; `a photo of a {}.` without one.
        batch_size (`int`, *optional*, defaults to `64`): images per pass.

    Returns:
        `Tensor [N, C]`: on the CPU.

    Raises:
        `ClipAlignError`: several templates for an adapter with learned text prompts; an image cannot be read.

    Example:
        ```python
        >>> zero_shot_logits(model, processor, images, ["cat", "dog"], ["an emoji of {}", "a {}"]).shape
        torch.Size([24, 2])
        ```
    """
    from hf_clipalign.features.in_memory import extract_image_features

    encoder = as_dual_encoder(model)
    features = extract_image_features(model, source, processor, batch_size=batch_size, strict=True, progress=False)
    images = F.normalize(features.values @ encoder.image_projector.matrix.float().cpu().T, dim=-1)
    if has_text_prompts(model):
        return _prompted_logits(model, processor, images, class_names, template, batch_size)
    templates = [template or adapter_template(model)] if template is None or isinstance(template, str) else template
    listed = [_text_features(encoder, processor, fill(one, class_names)) for one in templates]
    texts = listed[0] if len(listed) == 1 else F.normalize(torch.stack(listed).sum(dim=0), dim=-1)
    return similarities(images, texts)


def _text_features(encoder: DualEncoder, processor: Any, prompts: Sequence[str]) -> Tensor:
    """Unit features `[N, d]` of prompts; equal ones have equal features."""
    place = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return encode_texts(encoder, list(place), processor).float().cpu()[[place[prompt] for prompt in prompts]]


def _prompted_logits(
    model: Any,
    processor: Any,
    images: Tensor,
    class_names: Sequence[str],
    template: str | Sequence[str] | None,
    batch_size: int,
) -> Tensor:
    if template is not None and not isinstance(template, str):
        raise ClipAlignError("a learned context is one prompt: give one template, or none for the adapter's own")
    plan = plan_prompts(model, build_prompts(model, processor, class_names, template))
    parts = []
    for rows in images.split(batch_size):
        texts = class_text_features(model, plan, image_features=rows.to(as_dual_encoder(model).device))
        texts = texts.float().cpu()
        parts.append(similarities(rows, texts) if texts.dim() == 2 else torch.einsum("nd,ncd->nc", rows, texts))
    return torch.cat(parts)


def source_class_names(source: ImageSource) -> list[str]:
    """The source's class names, checked.

    Raises:
        `ClipAlignError`: no labels, no names, or duplicates.
    """
    from hf_clipalign.data.texts.dictionary import check_names

    if source.labels is None or source.class_names is None:
        missing = "labels" if source.labels is None else "class names"
        raise ClipAlignError(f"{source.name}: the images have no {missing}, so there is no accuracy to measure")
    return check_names(source.class_names, f"{source.name}: class names")


@dataclass
class ResultTable:
    """Scores by method and test, over seeds; one object for the terminal, Markdown, CSV and JSON.

    Args:
        title (`str`): what was measured.
        note (`str`): a line below the table, for example the command.
        scores (`dict`, *optional*): `{method: {test: {seed: score}}}`; `add` fills it.

    Example:
        ```python
        >>> table = ResultTable("Base to novel")
        >>> for seed, accuracy in enumerate((0.70, 0.72)):
        ...     table.add("CoOp + KDPL", {"base": accuracy}, seed=seed)
        >>> print(table.to_markdown())
        **Base to novel** (%, mean ± std over 2 seeds)
        <BLANKLINE>
        | method | base |
        | --- | --- |
        | CoOp + KDPL | 71.0 ± 1.4 |
        ```
    """

    title: str = ""
    note: str = ""
    scores: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)

    def add(self, method: str, scores: Mapping[str, float], seed: int = 0) -> None:
        """Adds what one run scored, as fractions; a second run of the same method and seed replaces the first."""
        row = self.scores.setdefault(method, {})
        for test, value in scores.items():
            row.setdefault(test, {})[seed] = float(value)

    @property
    def tests(self) -> list[str]:
        """Names of the columns, in the order in which they were first added."""
        return list(dict.fromkeys(test for row in self.scores.values() for test in row))

    @property
    def seeds(self) -> list[int]:
        """All seeds, ascending."""
        return sorted({seed for row in self.scores.values() for values in row.values() for seed in values})

    def mean(self, method: str, test: str) -> float:
        """Mean over the seeds of one cell, NaN where there is none."""
        return mean_and_std(list(self.scores.get(method, {}).get(test, {}).values()))[0]

    def std(self, method: str, test: str) -> float:
        """Standard deviation over the seeds of one cell (divisor n − 1), NaN below two seeds."""
        return mean_and_std(list(self.scores.get(method, {}).get(test, {}).values()))[1]

    def cells(self) -> list[list[str]]:
        """Rows as text: the method and one cell per test, in percent."""
        return [[method, *(self._cell(method, test) for test in self.tests)] for method in self.scores]

    def to_rich(self) -> NumberTable:
        """A table for the terminal."""
        return NumberTable(["method", *self.tests], self.cells(), self._heading(), self.note)

    def to_markdown(self) -> str:
        """Heading, table and note as Markdown."""
        header = ["method", *self.tests]
        rows = [header, ["---"] * len(header), *self.cells()]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        heading = [f"**{self.title}**{self.unit}", ""] if self.title else []
        return mask_secrets("\n".join([*heading, *lines, *(["", self.note] if self.note else [])]))

    def to_csv(self) -> str:
        """One line per method, test and seed, as fractions."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["method", "test", "seed", "score"])
        for method, row in self.scores.items():
            for test, values in row.items():
                writer.writerows([method, test, seed, repr(value)] for seed, value in sorted(values.items()))
        return stream.getvalue()

    def to_json(self) -> str:
        """Everything, so that `from_json` gives the same table."""
        content = {"title": self.title, "note": self.note, "scores": self.scores}
        return json.dumps(without_secrets(content), indent=1)

    @classmethod
    def from_json(cls, text: str) -> ResultTable:
        """Reads what `to_json` wrote.

        Raises:
            `ClipAlignError`: it is something else.
        """
        try:
            content = json.loads(text)
            check_schema(content, _STORED)
            table = cls(content["title"], content["note"])
            for method, row in content["scores"].items():
                for test, values in row.items():
                    for seed, value in values.items():
                        table.add(method, {test: value}, seed=int(seed))
        except (ValueError, RecursionError) as error:
            raise ClipAlignError(f"this is no table of results: it {short_reason(error)}.") from error
        return table

    def save(self, path: str | Path) -> Path:
        """Writes `.md`, `.csv` or `.json` by the file's ending.

        Raises:
            `ClipAlignError`: another ending, or the file cannot be written.
        """
        writers = {".md": self.to_markdown, ".csv": self.to_csv, ".json": self.to_json}
        path = Path(path)
        if path.suffix not in writers:
            raise ClipAlignError(f"cannot save a table as {path.name!r}: the ending must be {', '.join(writers)}")
        with atomic_file(path) as staging:
            staging.write_text(writers[path.suffix]().rstrip("\n") + "\n", encoding="utf-8")
        return path

    def _cell(self, method: str, test: str) -> str:
        mean, std = self.mean(method, test), self.std(method, test)
        if math.isnan(mean):
            return "–"
        return f"{100 * mean:.1f}" if math.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"

    @property
    def unit(self) -> str:
        """What the cells hold, in brackets, for a heading."""
        return f" (%, mean ± std over {len(self.seeds)} seeds)" if len(self.seeds) > 1 else " (%)"

    def _heading(self) -> str:
        return self.title + self.unit


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (divisor n − 1); NaN where there are too few values."""
    if not values:
        return math.nan, math.nan
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _each_and_average(accuracy: Accuracy, sources: Mapping[str, ImageSource]) -> dict[str, float]:
    if not sources:
        raise ClipAlignError("there is no data set to test on: give at least one")
    scores = {name: accuracy(source) for name, source in sources.items()}
    return {**scores, "average": sum(scores.values()) / len(scores)}
