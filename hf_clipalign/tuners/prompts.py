"""Class prompts laid out as a prompted model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.backbones.dual_encoder import DualEncoder
from hf_clipalign.backbones.text import check_end_token
from hf_clipalign.tuners._layers import active_context

_DEFAULT_TEMPLATE = "a photo of a {}."
_BARE_TEMPLATE = "{}."


def build_prompts(model: Any, tokenizer: Any, class_names: Sequence[str], template: str | None = None) -> Tensor:
    """Token ids of one prompt per class, with the places of the learned context where the active adapter wants them.

    The class name at the end (CoOp, CoCoOp, MaPLe, PromptSRC): the first `n_ctx` tokens of the template are what the
    context replaces; if it has fewer before the class name, `n_ctx` placeholders are put in front of it. The name
    in the middle or in front (CoOp): the words before `{}` are what the context stands for, and are dropped. Without
    learned text prompts the template is used as it is. Underscores in class names become spaces.

    Args:
        model (`nn.Module`): a supported CLIP, bare or with an adapter of this package.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the model's tokenizer, or a processor with one.
        class_names (`Sequence[str]`): C class names.
        template (`str`, *optional*): a sentence with one `{}`. Default: the adapter's `ctx_init` followed by `{}.`;
            placeholders and `{}.` if it started at random; `a photo of a {}.` without learned text prompts.

    Returns:
        `LongTensor [C, T]`: padded to the longest prompt, or to the model's length where attention looks both ways.

    Raises:
        `ClipAlignError`: no class names; a template without exactly one `{}`; a prompt over the model's length.
    """
    encoder, tokenizer = as_dual_encoder(model), getattr(tokenizer, "tokenizer", tokenizer)
    class_names = as_texts(class_names, "class_names")
    names = [name.replace("_", " ") for name in class_names]
    if not names:
        raise ClipAlignError("no class names: give at least one.")
    layer = active_context(encoder)
    template = template or _default_template(model, has_context=layer is not None)
    if template.count("{}") != 1:
        raise ClipAlignError(f"the template {template!r} must have exactly one {{}}, where the class name goes.")
    writer = _PromptWriter(encoder, tokenizer, template)
    if layer is None:
        rows = [writer.plain(name) for name in names]
    elif (position := layer.class_token_position) == "end":
        rows = [writer.after_context(name, layer.n_ctx) for name in names]
    else:
        n_before = layer.n_ctx // 2 if position == "middle" else 0
        rows = [writer.around_name(name, n_before, layer.n_ctx - n_before) for name in names]
    _check_lengths(encoder, class_names, rows)
    input_ids = _pad(encoder, tokenizer, rows)
    check_end_token(encoder, tokenizer, input_ids)
    return input_ids


class _PromptWriter:
    """Token ids of one prompt, by the rules of a tokenizer."""

    def __init__(self, encoder: DualEncoder, tokenizer: Any, template: str):
        special = tokenizer("")["input_ids"]
        self.start = special[: encoder.text_start_tokens]
        self.end = special[encoder.text_start_tokens :]
        self.tokenizer = tokenizer
        self.template = template
        self.head, self.tail = template.split("{}")
        self.head_length = len(self.ids(self.head.rstrip())) if self.head.strip() else 0

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def plain(self, name: str) -> list[int]:
        return [*self.start, *self.ids(self.template.format(name)), *self.end]

    def after_context(self, name: str, n_ctx: int) -> list[int]:
        places = [] if self.head_length >= n_ctx else [self.placeholder] * n_ctx
        return [*self.start, *places, *self.ids(self.template.format(name)), *self.end]

    def around_name(self, name: str, n_before: int, n_after: int) -> list[int]:
        name_ids = self.ids(name)
        with_tail = self.ids(name + self.tail)
        tail = with_tail[len(name_ids) :] if with_tail[: len(name_ids)] == name_ids else self.ids(self.tail)
        before, after = [self.placeholder] * n_before, [self.placeholder] * n_after
        return [*self.start, *before, *name_ids, *after, *tail, *self.end]

    @property
    def placeholder(self) -> int:
        """Start token where there is one: no text ever has it in its middle."""
        return self.start[0] if self.start else self.end[0]


def _default_template(model: Any, has_context: bool) -> str:
    if not has_context:
        return _DEFAULT_TEMPLATE
    configs = getattr(model, "peft_config", {})
    active = getattr(model, "active_adapter", None)
    config = configs.get(active() if callable(active) else active) or next(iter(configs.values()), None)
    words = getattr(config, "ctx_init", None)
    return f"{words} {_BARE_TEMPLATE}" if words else _BARE_TEMPLATE


def _check_lengths(encoder: DualEncoder, class_names: Sequence[str], rows: list[list[int]]) -> None:
    for name, row in zip(class_names, rows, strict=True):
        if len(row) > encoder.max_text_length:
            raise ClipAlignError(
                f"the prompt of class {name!r} has {len(row)} tokens, but the model reads {encoder.max_text_length}: "
                "shorten the class name or the template."
            )


def _pad(encoder: DualEncoder, tokenizer: Any, rows: list[list[int]]) -> Tensor:
    length = max(map(len, rows)) if encoder.causal_text else encoder.max_text_length
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return torch.tensor([row + [padding] * (length - len(row)) for row in rows])
