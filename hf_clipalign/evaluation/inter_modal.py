"""Tasks within one modality done across the two, by inversion, beside the linear heads (Cross the Gap's protocols)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.sequences import as_list
from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import similarities, top_k
from hf_clipalign.backbones import DualEncoder, as_dual_encoder
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.evaluation.classification import zero_shot_weights
from hf_clipalign.evaluation.comparison import RetrievalComparison, compare_embeddings
from hf_clipalign.evaluation.heads import Head, comparison_heads
from hf_clipalign.evaluation.tasks import LabelledRetrieval
from hf_clipalign.features.in_memory import Features, project_image_features
from hf_clipalign.inversion import InversionOutput, oti, ovi
from hf_clipalign.inversion.options import complete_options
from hf_clipalign.isoclip.bands import Band
from hf_clipalign.metrics import mean_per_class_accuracy, retrieval_metrics, top_k_accuracy

METHODS = ("raw", "linearised", "pre-projection", "centred", "isoclip", "text-pca", "oti", "ovi")
"""What `compare_methods` can put in a table; `oti` for images, `ovi` for texts."""

_ZERO_SHOT = ("raw", "oti", "ovi")
_OLD_NAMES = {"baseline": "raw"}
_INVERSION_OF: dict[Modality, str] = {"image": "oti", "text": "ovi"}
_TIMED_IMAGES, _FOUND = 16, 10


@dataclass(frozen=True)
class MethodComparison:
    """Methods side by side on one task.

    Attributes:
        retrieval (`RetrievalComparison`): scores; the milliseconds per query are the sum of the three parts below.
        milliseconds (`dict`): by method, per query: `tower`, `method` (projection or inversion), `search`.
        curve (`dict[int, float]`): mAP of the inversion after so many steps.
        inversion (`InversionOutput`, *optional*): of the queries, if an inversion was among the methods.

    Example:
        ```python
        >>> task = retrieval_task(features)
        >>> compared = compare_methods(model, task, processor=processor, methods=["raw", "centred"])
        >>> [score.head for score in compared.retrieval.scores], compared.inversion
        (['raw', 'centred'], None)
        ```
    """

    retrieval: RetrievalComparison
    milliseconds: dict[str, dict[str, float]]
    curve: dict[int, float]
    inversion: InversionOutput | None


def compare_methods(
    model: Any,
    task: LabelledRetrieval,
    *,
    processor: Any,
    modality: Modality = "image",
    methods: Sequence[str] = ("raw", "oti"),
    band: Band | None = None,
    text_embeds: Tensor | None = None,
    query_ids: Sequence[str] | None = None,
    name: str = "data",
    tower_ms: float = 0.0,
    seed: int = 0,
    **inversion: Any,
) -> MethodComparison:
    """Scores linear heads and inversions on the same features.

    An inversion moves the queries to the other modality; the gallery keeps its own embeddings. A query's native item
    is left out of the gallery where the task says so.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone.
        task (`LabelledRetrieval`): features before the projector, on the CPU.
        processor (`ProcessorMixin`): the checkpoint's processor.
        modality (`"image"` or `"text"`): of the task.
        methods (`Sequence[str]`): of `METHODS`; the first is what the others are compared with.
        band (`(k_top, k_bottom)`, *optional*): for `isoclip`.
        text_embeds (`Tensor [M, d]`, *optional*): for `text-pca`.
        query_ids (`Sequence[str]`, *optional*): unique names of the queries; they also seed the inversion.
        name (`str`, *optional*, defaults to `"data"`): of the task, for the table.
        tower_ms (`float`, *optional*, defaults to `0`): what the tower takes for one query, added to every method.
        seed (`int`, *optional*, defaults to `0`): of the bootstrap and of the inversion.
        **inversion: further arguments of `oti` or `ovi` (`steps`, `n_tokens`, `evaluate_at`, …).

    Returns:
        `MethodComparison`.

    Raises:
        `ClipAlignError`: an unknown method, one that the task cannot have, one whose band or texts are missing, or an
            option that `oti` or `ovi` refuses.

    Example:
        ```python
        >>> task = retrieval_task(features)
        >>> options = {"methods": ["raw", "oti"], "steps": 2, "progress": False}
        >>> compared = compare_methods(model, task, processor=processor, **options)
        >>> sorted(compared.milliseconds["oti"])
        ['method', 'search', 'tower']
        ```
    """
    encoder, methods = as_dual_encoder(model), current_names(methods)
    options = check_comparison(encoder, processor=processor, modality=modality, methods=methods, **inversion)
    heads = _heads(encoder, modality, band, text_embeds, methods)
    gallery = F.normalize(heads["raw"].project(task.gallery), dim=-1)
    embeddings: dict[str, tuple[Tensor, Tensor]] = {}
    times: dict[str, dict[str, float]] = {}
    inverted = None
    for method in methods:
        if method in heads:
            embeddings[method], own = _timed(heads[method].embed, task.query, task.gallery)
        else:
            targets = heads["raw"].project(task.query)
            inverted, own = _timed(_invert, encoder, method, targets, processor, query_ids, seed, options[method])
            embeddings[method] = F.normalize(inverted.features.cpu(), dim=-1), gallery
        _, search = _timed(_nearest, *embeddings[method])
        times[method] = {"tower": tower_ms, "method": own / len(task.query), "search": search / len(task.query)}
    total = {method: sum(parts.values()) for method, parts in times.items()}
    retrieval = compare_embeddings(embeddings, task, name=name, ms_per_query=total, query_ids=query_ids, seed=seed)
    return MethodComparison(retrieval, times, _curve(inverted, gallery, task), inverted)


@torch.no_grad()
def zero_shot_controls(
    model: Any,
    images: Features,
    *,
    processor: Any,
    template: str | None = None,
    methods: Sequence[str] = ("raw", "oti", "ovi"),
    seed: int = 0,
    oti_template: str = "a photo of {}",
    n_tokens: int = 1,
    oti_steps: int = 150,
    ovi_steps: int = 1000,
    **inversion: Any,
) -> list[dict[str, Any]]:
    """Zero-shot classification as it is and, as the control, within one modality: there inversion should NOT help.

    `raw` compares images with class prompts. `oti` inverts the images and compares them with the prompts, text
    with text. `ovi` inverts the prompts and compares images with them, image with image.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone.
        images (`Features`): labelled, with class names.
        processor (`ProcessorMixin`): the checkpoint's processor.
        template (`str`, *optional*): prompt of the class names. Default: see `zero_shot_weights`.
        methods (`Sequence[str]`): of `raw`, `oti`, `ovi`.
        seed (`int`, *optional*, defaults to `0`): of the inversions.
        oti_template (`str`, *optional*, defaults to `"a photo of {}"`): prompt of the pseudo-token.
        n_tokens (`int`, *optional*, defaults to `1`): pseudo-patches of OVI; OTI takes one pseudo-token.
        oti_steps (`int`), ovi_steps (`int`): steps. Defaults 150 and 1,000.
        **inversion: further arguments of both.

    Returns:
        `list[dict]`: one per method: `method`, `top1`, `top5`, `mean_per_class` (fractions), and `ms_per_image`: time
        of the inversions and comparisons, without the towers.

    Raises:
        `ClipAlignError`: no class names, an unknown method, or an option that `oti` or `ovi` refuses.

    Example:
        ```python
        >>> rows = zero_shot_controls(model, features, processor=processor, template="an emoji of {}", methods=["raw"])
        >>> sorted(rows[0])
        ['mean_per_class', 'method', 'ms_per_image', 'top1', 'top5']
        ```
    """
    if images.class_names is None or images.labels is None:
        raise ClipAlignError("zero-shot needs class names: a folder with one sub-folder per class, or a label column.")
    encoder, methods = as_dual_encoder(model), current_names(methods)
    options = check_zero_shot(
        encoder, processor=processor, methods=methods, oti_template=oti_template, n_tokens=n_tokens,
        oti_steps=oti_steps, ovi_steps=ovi_steps, **inversion,
    )  # fmt: skip
    classes = zero_shot_weights(encoder, processor, images.class_names, template).float().cpu()
    embeds = project_image_features(encoder, images.values)

    def logits(method: str) -> Tensor:
        left, right = embeds, classes
        if method == "oti":
            left = _invert(encoder, "oti", embeds, processor, images.ids, seed, options["oti"]).features.cpu()
        elif method == "ovi":
            names = images.class_names
            right = _invert(encoder, "ovi", classes, processor, names, seed, options["ovi"]).features.cpu()
        return similarities(F.normalize(left, dim=-1), F.normalize(right, dim=-1))

    rows = []
    for method in methods:
        scores, milliseconds = _timed(logits, method)
        accuracy = top_k_accuracy(scores, images.labels, ks=tuple(k for k in (1, 5) if k <= len(classes)))
        balanced = mean_per_class_accuracy(scores, images.labels)
        per_image = milliseconds / len(images)
        rows.append({"method": method, **accuracy, "mean_per_class": balanced, "ms_per_image": per_image})
    return rows


def current_names(methods: Sequence[str]) -> list[str]:
    """Methods under the names that tables use; `baseline`, the earlier name of `raw`, is still accepted."""
    return [_OLD_NAMES.get(method, method) for method in as_texts(methods, "methods")]


def tower_milliseconds(model: Any) -> float:
    """What the image tower takes for one image, in batches of 16 empty images, after one warm-up.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone.

    Returns:
        `float`: milliseconds.

    Example:
        ```python
        >>> tower_milliseconds(model) > 0
        True
        ```
    """
    encoder = as_dual_encoder(model)
    inputs = encoder.blank_images(_TIMED_IMAGES)

    @torch.no_grad()
    def run() -> float:
        return float(encoder.encode_image(**inputs).sum())

    run()
    return _timed(run)[1] / _TIMED_IMAGES


def check_comparison(
    model: Any, *, processor: Any, modality: Modality, methods: Sequence[str], **inversion: Any
) -> dict[str, dict[str, Any]]:
    """Refuses the methods and options that `compare_methods` would refuse, before any features are there.

    Args:
        model, processor, modality, methods, **inversion: as in `compare_methods`.

    Returns:
        `dict`: by the name of the inversion, if there is one among the methods: all its options.

    Raises:
        `ClipAlignError`: an unknown method, one that the task cannot have, or an option that it refuses.
    """
    own, methods = _INVERSION_OF[modality], current_names(methods)
    for method in methods:
        if method not in METHODS:
            raise unknown_name("method", method, METHODS)
        if method in _INVERSION_OF.values() and method != own:
            raise ClipAlignError(f"{method} does not invert {modality}s: use {own} for {modality}-{modality}.")
    options = dict(inversion)
    if own == "ovi":
        options = {"n_tokens": 1, **options}
        options.pop("template", None)
    return _completed(model, processor, methods, {own: options})


def check_zero_shot(
    model: Any,
    *,
    processor: Any,
    methods: Sequence[str],
    oti_template: str,
    n_tokens: int,
    oti_steps: int,
    ovi_steps: int,
    **inversion: Any,
) -> dict[str, dict[str, Any]]:
    """As `check_comparison`, for `zero_shot_controls`."""
    methods = current_names(methods)
    for method in methods:
        if method not in _ZERO_SHOT:
            raise unknown_name("method", method, _ZERO_SHOT, " for zero-shot")
    options = {
        "oti": {"steps": oti_steps, "template": oti_template, **inversion},
        "ovi": {"steps": ovi_steps, "n_tokens": n_tokens, **inversion},
    }
    return _completed(model, processor, methods, options)


def _completed(
    model: Any, processor: Any, methods: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    encoder = as_dual_encoder(model)
    return {
        method: complete_options(method, encoder, processor, given)
        for method, given in options.items()
        if method in methods
    }


def _heads(
    encoder: DualEncoder, modality: Modality, band: Band | None, text_embeds: Tensor | None, methods: Sequence[str]
) -> dict[str, Head]:
    """The linear methods by name, in float32 on the CPU, `raw` always among them."""
    names = ["raw", *[name for name in methods if name not in ("raw", "oti", "ovi")]]
    heads = comparison_heads(encoder, modality, band, text_embeds, names)
    return {
        head.name: replace(head, matrix=None if head.matrix is None else head.matrix.float().cpu()) for head in heads
    }


def _invert(
    encoder: DualEncoder,
    method: str,
    targets: Tensor,
    processor: Any,
    ids: Sequence[str] | None,
    seed: int,
    options: dict[str, Any],
) -> InversionOutput:
    names = None if ids is None else as_list(ids, "query_ids")
    shared: dict[str, Any] = {"ids": names, "generator": torch.Generator().manual_seed(seed), **options}
    if method == "oti":
        return oti(encoder, targets, processor=processor, **shared)
    return ovi(encoder, targets, **shared)


def _curve(inverted: InversionOutput | None, gallery: Tensor, task: LabelledRetrieval) -> dict[int, float]:
    if inverted is None:
        return {}
    return {
        step: retrieval_metrics(
            features.cpu(), gallery, task.query_labels, task.gallery_labels, task.exclude_self, (1,)
        )["map"]
        for step, features in sorted(inverted.snapshots.items())
    }


def _nearest(query: Tensor, gallery: Tensor) -> Tensor:
    return top_k(similarities(query, gallery), min(_FOUND, len(gallery)))


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function(*arguments)
    return result, 1000 * (time.perf_counter() - start)
