"""Which words lie nearest to a learned context: a diagnostic, not what the context means."""

from __future__ import annotations

from typing import Any

import torch

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.tuners._layers import active_context


@torch.no_grad()
def nearest_words(peft_model: Any, tokenizer: Any, k: int = 5) -> list[list[tuple[str, float]]]:
    """The vocabulary's entries nearest to each vector of the active context, by Euclidean distance.

    CoOp (Zhou et al., 2022, section 3.4) looks at learned contexts so, and warns that the words need not make sense:
    the vectors lie between the entries of the vocabulary. A context that was not moved gives its own first words at
    distance 0.

    Args:
        peft_model (`PeftModel`): a model with an active CoOp, CoCoOp, MaPLe or PromptSRC adapter, its context shared
            by all classes. Of deeper prompts and of CoCoOp's shift nothing is seen.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the model's tokenizer, or a processor with one.
        k (`int`, *optional*, defaults to `5`): how many words for each vector.

    Returns:
        `list[list[tuple[str, float]]]`: for each vector its k entries with their distances, the nearest first.

    Raises:
        `ClipAlignError`: no adapter with a context is active; the context is class-specific; `k` is below 1.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import CoOpConfig, nearest_words
        >>> mini = load_mini()
        >>> model = get_peft_model(mini.student, CoOpConfig(n_ctx=3, ctx_init="an emoji of"))
        >>> [words[0] for words in nearest_words(model, mini.student_processor)]
        [('an', 0.0), ('emoji', 0.0), ('of', 0.0)]
        ```
    """
    if k < 1:
        raise ClipAlignError(f"k is {k}: ask for 1 word or more")
    encoder = as_dual_encoder(peft_model)
    layer = active_context(encoder)
    if layer is None:
        raise ClipAlignError("no learned context is active: activate a CoOp, CoCoOp, MaPLe or PromptSRC adapter.")
    if layer.needs_own_rows:
        raise ClipAlignError("a class-specific context has no words that all classes share: train a shared one.")
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    table: Any = layer.get_base_layer()
    vectors, entries = layer.active_prompts.float(), table.weight.float()
    distances = torch.cdist(vectors, entries, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(min(k, len(entries)), largest=False)
    return [
        [(tokenizer.decode([token]).strip(), distance) for token, distance in zip(row, values, strict=True)]
        for row, values in zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
    ]
