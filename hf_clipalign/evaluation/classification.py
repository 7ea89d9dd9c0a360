"""Classification without training: nearest class mean and zero-shot, for every head."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import EqualRows, similarities
from hf_clipalign.backbones import as_dual_encoder, tokenize
from hf_clipalign.data import clean_class_name, fill
from hf_clipalign.evaluation.heads import Head
from hf_clipalign.metrics import nearest_class_mean
from hf_clipalign.tuners import chosen_template

logger = logging.getLogger(__name__)

_SHOWN = 5


def nearest_class_mean_logits(
    head: Head, train: Tensor, train_labels: Any, test: Tensor, n_classes: int | None = None
) -> Tensor:
    """Cosines of test images to the class means, under a head (IsoCLIP's NCM protocol).

    Class means are taken of un-normalised features BEFORE the projector; the head and the normalisation follow.

    Args:
        head (`Head`): how features are compared.
        train (`Tensor [N, w]`): features before the projector of labelled images.
        train_labels (`[N]`): class numbers 0..C-1.
        test (`Tensor [M, w]`): features before the projector to classify.
        n_classes (`int`, *optional*): C. Default: the largest label + 1.

    Returns:
        `Tensor [M, C]`.

    Raises:
        `ClipAlignError`: a class has no image, or lengths differ.

    Example:
        ```python
        >>> logits = nearest_class_mean_logits(Head("raw"), features.values, features.labels, features.values)
        >>> logits.shape
        torch.Size([24, 12])
        ```
    """
    means = nearest_class_mean(train, train_labels, n_classes)
    test, means = head.embed(test, means.to(test))
    return similarities(test, means)


@torch.no_grad()
def zero_shot_weights(
    model: Any,
    tokenizer: Any,
    class_names: Sequence[str],
    templates: str | Sequence[str] | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Class embeddings from prompts; with several templates, the mean of the unit embeddings of each class.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the checkpoint's tokenizer or processor.
        class_names (`Sequence[str]`): C names; underscores become spaces. Classes with equal prompts (ImageNet has
            such names) get equal embeddings and are named in a warning.
        templates (`str` or `Sequence[str]`, *optional*): each with one `{}`. Default: the prompt that belongs to the
            model's adapter, from which a given one that differs is named in a warning; `"a photo of a {}."` without an
            adapter.
        batch_size (`int`, *optional*, defaults to `256`): prompts per pass.

    Returns:
        `Tensor [C, d]`, unit rows: `features @ weights.T` are cosines.

    Raises:
        `ClipAlignError`: no name or no template, a template without exactly one `{}`, a prompt over the context
            length, or a string where a list of names is wanted.

    Example:
        ```python
        >>> weights = zero_shot_weights(encoder, processor, ["cat", "dog"], "an emoji of {}")
        >>> weights.shape
        torch.Size([2, 128])
        ```
    """
    encoder = as_dual_encoder(model)
    names = [clean_class_name(name) for name in as_texts(class_names, "class_names")]
    given: Sequence[str | None] = [None]
    if templates is not None:
        given = [templates] if isinstance(templates, str) else as_texts(templates, "templates")
    listed = [chosen_template(model, template) for template in given]
    if not names or not listed:
        raise ClipAlignError(f"there are no {'templates' if names else 'class_names'}: give at least one.")
    total = torch.zeros(len(names), encoder.embed_dim, device=encoder.device, dtype=encoder.dtype)
    for number, template in enumerate(listed):
        prompts = fill(template, names)
        equal = EqualRows(tokenize(encoder, tokenizer, prompts)["input_ids"])
        if not number:
            _warn_of_equal_prompts(equal, names)
        embeds = [
            encoder.encode_text(**tokenize(encoder, tokenizer, prompts[i : i + batch_size]), normalize=True)
            for i in range(0, len(prompts), batch_size)
        ]
        total += equal.tie(torch.cat(embeds))
    return F.normalize(total, dim=-1)


def _warn_of_equal_prompts(equal: EqualRows, names: Sequence[str]) -> None:
    pairs = list(zip(equal.originals.tolist(), equal.copies.tolist(), strict=True))
    if pairs:
        shown = ", ".join(f"{first} and {second} ({names[second]!r})" for first, second in pairs[:_SHOWN])
        logger.warning(
            "%d classes have the prompt of another class, from which they cannot be distinguished: %s%s. Their images "
            "count as wrong; give these classes other names.",
            len(pairs),
            shown,
            ", …" if len(pairs) > _SHOWN else "",
        )
