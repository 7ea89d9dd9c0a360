"""Many prompts in one row of a stock text tower: the prompts' common beginning is computed once per row.

A causal tower reads `prefix | own tokens of prompt 1 | own tokens of prompt 2 | …` with positions that start again
after the prefix for every prompt, and a mask that opens to each token the prefix and its own prompt's past only. The
features at the prompts' end tokens, and the gradients to a learned context inside the prefix, are those of one padded
row per prompt; 77 columns per prompt become the few tokens in which it differs from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder
from hf_clipalign.backbones.registry import as_dual_encoder
from hf_clipalign.backbones.text import project_texts, tokenize

Strategy = Literal["auto", "packed", "cut", "full"]

_BLOCK_TOKENS = 4096
_BLOCK_TEXTS = 256


@dataclass(frozen=True)
class PackedPrompts:
    """How C prompts lie in R rows of the text tower: made once by `pack_prompts`, read at every step.

    Args:
        strategy (`str`): `"packed"` (several prompts a row), `"cut"` (one a row, up to the longest end token) or
            `"full"` (one a row at the model's full length).
        input_ids (`LongTensor [R, T]`): the rows.
        position_ids (`LongTensor [R, T]`, *optional*): None where positions simply count up.
        segments (`LongTensor [R, T]`, *optional*): 0 in the common prefix, k in the row's k-th prompt, -1 in the
            filling. None where every row is one prompt.
        rows (`LongTensor [C]`): the row of each prompt.
        columns (`LongTensor [C]`): the column of each prompt's end token.
        prefix_length (`int`): number of tokens that the prompts share.
        prompts (`LongTensor [C, L]`): the prompts' own ids, cut to the longest.
        lengths (`LongTensor [C]`): the prompts' lengths with the end token.
        indices (`LongTensor [C]`): the prompts' places in the list that was packed first (`select` keeps them).
        layout (`PackingLayout`): what the rows were made for; `select` uses it again.

    Example:
        ```python
        >>> from hf_clipalign.backbones import pack_prompts, tokenize
        >>> ids = tokenize(encoder, processor, ["a photo of a cat.", "a photo of a dog."])["input_ids"]
        >>> plan = pack_prompts(encoder, ids, strategy="packed")
        >>> len(plan), len(plan.input_ids), plan.prefix_length
        (2, 1, 5)
        ```
    """

    strategy: str
    input_ids: Tensor
    position_ids: Tensor | None
    segments: Tensor | None
    rows: Tensor
    columns: Tensor
    prefix_length: int
    prompts: Tensor
    lengths: Tensor
    indices: Tensor
    layout: PackingLayout

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_tokens(self) -> int:
        """Tokens that the tower computes, R · T."""
        return self.input_ids.numel()

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.input_ids.device

    def to(self, device: torch.device | str) -> PackedPrompts:
        """The same plan with its rows on `device`."""
        if self.input_ids.device == torch.device(device):
            return self
        names = ("input_ids", "position_ids", "segments", "rows", "columns")
        moved = {name: value.to(device) for name in names if (value := getattr(self, name)) is not None}
        return replace(self, **moved)

    def select(self, indices: Tensor | Sequence[int]) -> PackedPrompts:
        """A plan of some of the prompts, packed anew, in the order of `indices [K]`."""
        chosen = torch.as_tensor(indices).cpu()
        prompts, lengths = self.prompts[chosen], self.lengths[chosen]
        return _plan(prompts, lengths, self.indices[chosen], self.layout).to(self.device)

    def repeat(self, n: int) -> PackedPrompts:
        """n copies of the plan one under the other: n · R rows, n · C prompts (one pass per image, for example)."""
        offsets = torch.arange(n, device=self.device).repeat_interleave(len(self)) * len(self.input_ids)
        return replace(
            self,
            input_ids=self.input_ids.repeat(n, 1),
            position_ids=None if self.position_ids is None else self.position_ids.repeat(n, 1),
            segments=None if self.segments is None else self.segments.repeat(n, 1),
            rows=self.rows.repeat(n) + offsets,
            columns=self.columns.repeat(n),
        )

    def attention_mask(self, rows: slice, dtype: torch.dtype) -> Tensor | None:
        """The additive mask `[R, 1, T, T]` of some rows, or None where the tower's own causal mask is right."""
        if self.segments is None:
            return None
        segments = self.segments[rows]
        keys, queries = segments[:, None, :], segments[:, :, None]
        column = torch.arange(segments.shape[1], device=segments.device)
        visible = ((keys == 0) & (queries >= 0) | (keys == queries) & (keys >= 0)) & (column[:, None] >= column)
        visible |= column[:, None] == column
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


@dataclass(frozen=True)
class PackingLayout:
    """What the packing depends on besides the prompts.

    Args:
        strategy (`"auto"`, `"packed"`, `"cut"` or `"full"`): asked for by the caller.
        max_length (`int`): longest row in tokens.
        width (`int`): hidden size of the tower (weighs attention against the rest when choosing).
        filler_id (`int`): token id of the unused end of a row.
        shared_prefix (`int`): number of leading tokens that the prompts must have in common.
    """

    strategy: Strategy
    max_length: int
    width: int
    filler_id: int
    shared_prefix: int


def pack_prompts(
    encoder: DualEncoder,
    input_ids: Tensor,
    shared_prefix: int | None = None,
    strategy: Strategy = "auto",
) -> PackedPrompts:
    """Lays tokenised prompts out in as few tokens of the text tower as it allows.

    Args:
        encoder (`DualEncoder`): the backbone that will read them.
        input_ids (`LongTensor [C, L]`): the prompts from the tokenizer; what follows the end token is ignored.
        shared_prefix (`int`, *optional*): number of leading tokens that must be common to all prompts, the start token
            included: a learned context that is put there once per row. Default: whatever they have in common.
        strategy (`str`): `"auto"` takes what costs least at the lengths at hand; `"packed"`, `"cut"` and `"full"`
            insist (full: padded to the model's length). Towers with bidirectional attention read the full length
            only (`encoder.prompt_strategies`).

    Returns:
        `PackedPrompts`: the plan, on the device of the encoder.

    Raises:
        `ClipAlignError`: the tower cannot be packed or cut; a prompt is too long; a prompt does not begin with the
            shared prefix.

    Example:
        ```python
        >>> from hf_clipalign.backbones import pack_prompts, tokenize
        >>> ids = tokenize(encoder, processor, ["a photo of a cat.", "a photo of a dog."])["input_ids"]
        >>> pack_prompts(encoder, ids, strategy="packed").input_ids.shape
        torch.Size([1, 11])
        ```
    """
    allowed = encoder.prompt_strategies
    check_strategy(encoder, strategy)
    _check_shape(encoder, input_ids)
    ids = input_ids.cpu()
    lengths = encoder.checked_end_positions(ids) + 1
    if strategy == "auto" and "packed" not in allowed:
        strategy = "cut" if "cut" in allowed else "full"
    filler_id = int(ids[0, lengths[0] - 1])
    layout = PackingLayout(strategy, encoder.max_text_length, encoder.text_dim, filler_id, shared_prefix or 0)
    ids = F.pad(ids, (0, layout.max_length - ids.shape[1]), value=filler_id)
    longest = layout.max_length if strategy == "full" else int(lengths.max())
    return _plan(ids[:, :longest].contiguous(), lengths, torch.arange(len(ids)), layout).to(encoder.device)


def check_strategy(encoder: DualEncoder, strategy: str) -> None:
    """Refuses a strategy that the text tower's attention does not allow."""
    allowed = encoder.prompt_strategies
    if strategy != "auto" and strategy not in allowed:
        raise ClipAlignError(
            f"{type(encoder.model).__name__} cannot take strategy={strategy!r}: its attention allows "
            f"{' and '.join(allowed)}. Use strategy='auto'."
        )


def encode_prompts(encoder: DualEncoder, plan: PackedPrompts, batch_tokens: int | None = None) -> Tensor:
    """Text features of packed prompts before the projector; gradients reach whatever in the tower is trained.

    Args:
        encoder (`DualEncoder`): the backbone, its tower bare or wrapped by prompt tuners.
        plan (`PackedPrompts`): the prompts.
        batch_tokens (`int`, *optional*): tokens per pass of the tower. Default: 4,096 without gradients, all with.

    Returns:
        `Tensor [C, d_t]`: the features in the order of the prompts.

    Example:
        ```python
        >>> from hf_clipalign.backbones import encode_prompts, pack_prompts, tokenize
        >>> ids = tokenize(encoder, processor, ["a photo of a cat.", "a photo of a dog."])["input_ids"]
        >>> encode_prompts(encoder, pack_prompts(encoder, ids)).shape
        torch.Size([2, 128])
        ```
    """
    plan = plan.to(encoder.device)
    if batch_tokens is None:
        batch_tokens = plan.n_tokens if torch.is_grad_enabled() else _BLOCK_TOKENS
    block = max(1, batch_tokens // plan.input_ids.shape[1])
    if block >= len(plan.input_ids):
        return _hidden_states(encoder, plan, slice(None))[plan.rows, plan.columns]
    parts = []
    for start in range(0, len(plan.input_ids), block):
        inside = (plan.rows >= start) & (plan.rows < start + block)  # rows are in the order of the prompts
        hidden = _hidden_states(encoder, plan, slice(start, start + block))
        parts.append(hidden[plan.rows[inside] - start, plan.columns[inside]])
    return torch.cat(parts)


def encode_texts(
    model: Any,
    texts: Sequence[str],
    processor: Any,
    strategy: Strategy = "auto",
    normalize: bool = True,
    batch_tokens: int | None = None,
    truncate: bool = False,
) -> Tensor:
    """Features of texts in the shared space, packed where the tower allows it.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone.
        texts (`Sequence[str]`): N texts: class prompts, dictionary entries, captions.
        processor (`ProcessorMixin` or `PreTrainedTokenizerBase`): the checkpoint's processor, or its tokenizer.
        strategy (`str`, *optional*, defaults to `"auto"`): see `pack_prompts`.
        normalize (`bool`, *optional*, defaults to `True`): unit length.
        batch_tokens (`int`, *optional*): see `encode_prompts`.
        truncate (`bool`, *optional*, defaults to `False`): cut texts that are over the backbone's length instead of
            raising.

    Returns:
        `Tensor [N, d]`: the features in the order of the texts.

    Raises:
        `ClipAlignError`: a single string instead of a list; the others as in `tokenize`.

    Example:
        ```python
        >>> from hf_clipalign.backbones import encode_texts
        >>> from hf_clipalign.data import load_mini
        >>> mini = load_mini()
        >>> encode_texts(mini.student, ["a photo of a cat.", "a photo of a dog."], mini.student_processor).shape
        torch.Size([2, 128])
        ```
    """
    encoder, texts = as_dual_encoder(model), as_texts(texts, "texts")
    if not texts:
        return torch.empty(0, encoder.embed_dim, device=encoder.device, dtype=encoder.dtype)
    if not encoder.causal_text and strategy in ("auto", "full"):
        return _encode_as_tokenized(encoder, processor, texts, normalize, truncate)
    input_ids = tokenize(encoder, processor, texts, truncate=truncate)["input_ids"]
    features = encode_prompts(encoder, pack_prompts(encoder, input_ids, strategy=strategy), batch_tokens)
    return project_texts(encoder, features, normalize)


def _encode_as_tokenized(
    encoder: DualEncoder, tokenizer: Any, texts: Sequence[str], normalize: bool, truncate: bool
) -> Tensor:
    """Towers with bidirectional attention read each block of texts as the tokenizer pads it, with its mask."""
    blocks = [list(texts[start : start + _BLOCK_TEXTS]) for start in range(0, len(texts), _BLOCK_TEXTS)]
    batches = (tokenize(encoder, tokenizer, block, truncate=truncate) for block in blocks)
    return torch.cat([encoder.encode_text(**batch, normalize=normalize) for batch in batches])


def _check_shape(encoder: DualEncoder, input_ids: Tensor) -> None:
    if input_ids.dim() != 2 or not input_ids.numel():
        raise ClipAlignError(f"prompts must be input_ids of shape [C, L] with C > 0, got {tuple(input_ids.shape)}.")
    if input_ids.shape[1] > encoder.max_text_length:
        raise ClipAlignError(
            f"the prompts have {input_ids.shape[1]} tokens, but the model reads {encoder.max_text_length}."
        )
    if not encoder.causal_text and input_ids.shape[1] != encoder.max_text_length:
        raise ClipAlignError(
            f"{type(encoder.model).__name__} reads prompts padded to {encoder.max_text_length} tokens, got "
            f"{input_ids.shape[1]}. Tokenise with padding='max_length'."
        )


def _hidden_states(encoder: DualEncoder, plan: PackedPrompts, rows: slice) -> Tensor:
    kwargs = {} if plan.position_ids is None else {"position_ids": plan.position_ids[rows]}
    mask = plan.attention_mask(rows, encoder.dtype)
    return encoder.text_outputs(plan.input_ids[rows], mask, **kwargs).last_hidden_state


def _plan(prompts: Tensor, lengths: Tensor, indices: Tensor, layout: PackingLayout) -> PackedPrompts:
    if layout.strategy == "full":
        return _one_per_row(prompts, lengths, indices, layout)
    prompts = prompts[:, : int(lengths.max())]
    prefix = _common_prefix(prompts, lengths)
    if prefix < layout.shared_prefix:
        raise ClipAlignError(_prefix_message(prompts, layout.shared_prefix))
    if layout.strategy == "cut":
        return _one_per_row(prompts, lengths, indices, layout)
    capacity, starts = _fill_rows((lengths - prefix).tolist(), layout.max_length - prefix)
    packed_cost = _cost(starts[-1][0] + 1, prefix + capacity, layout.width)
    if layout.strategy == "auto" and _cost(len(prompts), prompts.shape[1], layout.width) <= packed_cost:
        return _one_per_row(prompts, lengths, indices, layout)
    return _several_per_row(prompts, lengths, indices, layout, prefix, capacity, torch.tensor(starts))


def _common_prefix(prompts: Tensor, lengths: Tensor) -> int:
    """Number of leading tokens that all prompts share; each keeps at least its end token to itself."""
    same = (prompts == prompts[0]).all(dim=0).to(torch.int)
    return min(int(same.cumprod(dim=0).sum()), int(lengths.min()) - 1)


def _prefix_message(prompts: Tensor, shared_prefix: int) -> str:
    start = prompts[:, :shared_prefix]
    differing = int((start != start[0]).any(dim=1).to(torch.int).argmax())
    return (
        f"prompt {differing} does not begin with the same {shared_prefix} tokens (start token and context) as prompt "
        "0: a learned context would overwrite its class name. Put the context words first in every prompt "
        "(hf_clipalign.tuners.build_prompts does)."
    )


def _fill_rows(own_lengths: list[int], room: int) -> tuple[int, list[tuple[int, int]]]:
    """The narrowest rows that need no more rows than the widest: their width, and each prompt's (row, offset)."""
    starts = _next_fit(own_lengths, room)
    low, high = max(own_lengths), room
    while low < high:
        middle = (low + high) // 2
        narrower = _next_fit(own_lengths, middle)
        if narrower[-1][0] == starts[-1][0]:
            high = middle
        else:
            low = middle + 1
    return high, _next_fit(own_lengths, high)


def _next_fit(own_lengths: list[int], room: int) -> list[tuple[int, int]]:
    starts, row, used = [], 0, 0
    for length in own_lengths:
        if used + length > room:
            row, used = row + 1, 0
        starts.append((row, used))
        used += length
    return starts


def _cost(rows: int, length: int, width: int) -> int:
    """Multiplications of one layer, up to a factor: linear maps and attention."""
    return rows * length * (6 * width + length)


def _one_per_row(prompts: Tensor, lengths: Tensor, indices: Tensor, layout: PackingLayout) -> PackedPrompts:
    strategy = "full" if layout.strategy == "full" else "cut"
    rows = torch.arange(len(prompts))
    return PackedPrompts(strategy, prompts, None, None, rows, lengths - 1, 0, prompts, lengths, indices, layout)


def _several_per_row(
    prompts: Tensor,
    lengths: Tensor,
    indices: Tensor,
    layout: PackingLayout,
    prefix: int,
    capacity: int,
    starts: Tensor,
) -> PackedPrompts:
    rows, offsets = starts.T.contiguous()
    own = lengths - prefix
    shape = (int(rows[-1]) + 1, prefix + capacity)
    prompt = torch.repeat_interleave(torch.arange(len(prompts)), own)
    step = torch.arange(len(prompt)) - (own.cumsum(0) - own)[prompt]
    place = rows[prompt], prefix + offsets[prompt] + step

    input_ids = torch.full(shape, layout.filler_id)
    position_ids, segments = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    input_ids[:, :prefix], position_ids[:, :prefix] = prompts[0, :prefix], torch.arange(prefix)
    segments[:, :prefix] = 0
    input_ids[place], position_ids[place] = prompts[prompt, prefix + step], prefix + step
    first_of_row = torch.searchsorted(rows, rows)
    segments[place] = (torch.arange(len(prompts)) - first_of_row + 1)[prompt]
    columns = prefix + offsets + own - 1
    return PackedPrompts(
        "packed", input_ids, position_ids, segments, rows, columns, prefix, prompts, lengths, indices, layout
    )
