"""OTI: images become pseudo-words, tokens in a prompt whose text feature comes close to the image feature."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, as_dual_encoder, encode_prompts, pack_prompts, project_texts, tokenize
from hf_clipalign.backbones.packing import Strategy, check_strategy
from hf_clipalign.backbones.text import token_count
from hf_clipalign.inversion.optimisation import (
    PUBLISHED_EPS,
    InversionOutput,
    InversionSettings,
    check_targets,
    frozen,
    initial_tokens,
    invert,
)

_PLACEHOLDERS = ("£", "$", "*", "x", "q", "z", "photo", "cat")


@dataclass(frozen=True)
class PseudoPrompt:
    """A tokenised prompt with room for R pseudo-tokens.

    Args:
        input_ids (`LongTensor [L]`): with start and end token, padded where the tower reads its full length only.
        position (`int`): column of the first pseudo-token.
        n_tokens (`int`): R.
    """

    input_ids: Tensor
    position: int
    n_tokens: int


@torch.inference_mode(False)
def oti(
    model: Any,
    image_embeds: Any,
    *,
    processor: Any,
    n_tokens: int = 1,
    steps: int = 150,
    template: str = "a photo of {}",
    init: Any = None,
    generator: torch.Generator | None = None,
    ids: Iterable[Any] | None = None,
    lr: float = 2e-2,
    weight_decay: float = 0.01,
    eps: float = PUBLISHED_EPS,
    batch_size: int = 64,
    evaluate_at: Sequence[int] = (),
    tolerance: float | None = None,
    strategy: Strategy = "auto",
    progress: bool = True,
) -> InversionOutput:
    """Optimisation-based textual inversion (Cross the Gap, section 4.1): image features in the place of texts.

    Every item learns pseudo-tokens v inside the template such that `1 - cos(text feature of v, image feature)` falls.
    Causal towers compute the template's beginning once for many items and nothing after the end token.

    An item's result does not depend on which other items there are. It depends on `batch_size`, `strategy` and, where
    items share rows ("packed"), on its place in the batch, by rounding that AdamW makes grow near convergence: in the
    worst of 902 images by 0.02 of the unit feature after 50 steps and by 0.2 after 150, by up to 0.4 points of mAP
    (docs/inversion.md). With `strategy="cut"` and one `batch_size`, not above the number of items, it is the same bit
    by bit wherever an item stands. (With `tolerance`, batches grow thin, and nothing of this holds to the bit.)

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone. Its weights are read only.
        image_embeds (`Tensor` or array `[N, d]`): projected image features; their lengths do not matter.
        processor (`ProcessorMixin` or `PreTrainedTokenizerBase`): the checkpoint's processor or tokenizer.
        n_tokens (`int`, *optional*, defaults to `1`): pseudo-tokens R per item.
        steps (`int`, *optional*, defaults to `150`): AdamW steps; retrieval often peaks earlier, see `evaluate_at`.
        template (`str`, *optional*, defaults to `"a photo of {}"`): the prompt with one `{}`.
        init (`Tensor` or array `[N, R, w]` or `[R, w]`, *optional*): tokens to start from, as wide as the token
            embeddings, which is d_t for most families. Default: N(0, 0.02²).
        generator (`torch.Generator`, *optional*): seeds the start. An item's start depends on the seed and on its id,
            never on the others. Default: a fixed seed.
        ids (`Iterable`, *optional*): names of the items. Default: their row numbers.
        lr (`float`, *optional*, defaults to `0.02`): learning rate.
        weight_decay (`float`, *optional*, defaults to `0.01`): decoupled weight decay.
        eps (`float`): AdamW's, added to the size of an item's OWN gradient. The reference code takes the mean of the
            losses over its batch and 1e-8, which is 1e-8 times its batch size here. Default 64e-8, its batch of 64.
        batch_size (`int`, *optional*, defaults to `64`): items per pass. Other sizes round otherwise, see below.
        evaluate_at (`Sequence[int]`): steps whose features are kept in `snapshots`.
        tolerance (`float`, *optional*): an item stops once its loss fell by less than this within ten steps.
        strategy (`str`, *optional*, defaults to `"auto"`): `"auto"`, `"packed"`, `"cut"` or `"full"`; see
            `pack_prompts`.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `InversionOutput`: tokens `[N, R, w]`, features `[N, d]`, losses `[steps]`, snapshots.

    Raises:
        `ClipAlignError`: a template without exactly one `{}`, a prompt over the context length, no tokenizer, features
            of another width, zero or NaN features or tokens, numbers that are no steps, rates or sizes, or a result
            that is not finite.

    Example:
        ```python
        >>> from hf_clipalign.inversion import oti
        >>> queries = oti(model, embeds, processor=processor, steps=2, progress=False).features  # published: 150 steps
        >>> queries.shape
        torch.Size([24, 128])
        ```
    """
    encoder = as_dual_encoder(model)
    settings = InversionSettings(n_tokens, steps, lr, weight_decay, eps, batch_size, evaluate_at, tolerance, progress)
    targets, names = check_targets(image_embeds, encoder.embed_dim, "image embeddings", ids)
    prompt = pseudo_prompt(encoder, processor, template, n_tokens)
    start = initial_tokens(names, (n_tokens, _token_table(encoder).embedding_dim), init, generator)
    with frozen(encoder.model):
        return invert(
            lambda n: _text_encode(encoder, prompt, n, strategy),
            targets.to(encoder.device),
            start.to(encoder.device),
            names,
            settings,
            "OTI",
        )


def pseudo_prompt(encoder: DualEncoder, processor: Any, template: str, n_tokens: int) -> PseudoPrompt:
    """Tokenises a template and makes room for pseudo-tokens.

    The place is found by a stand-in word that the tokenizer knows as one token. Its id is never read.

    Raises:
        `ClipAlignError`: the template has not exactly one `{}`, the prompt is over the context length, or there is no
            tokenizer.
    """
    if not isinstance(template, str):
        raise ClipAlignError(f"the template is {template!r}: give a text with one {{}} in it.")
    if template.count("{}") != 1:
        raise ClipAlignError(
            f"the template {template!r} has {template.count('{}')} places for pseudo-tokens: write one {{}} in it."
        )
    word, position = _locate(encoder, processor, template)
    text = _filled(template, word, n_tokens)
    length = token_count(processor, text)
    if length > encoder.max_text_length:
        raise ClipAlignError(
            f"template {template!r} with {n_tokens} pseudo-tokens has {length} tokens, but the model reads "
            f"{encoder.max_text_length}: use a shorter template or fewer pseudo-tokens."
        )
    return PseudoPrompt(_row(encoder, processor, text), position, n_tokens)


def _locate(encoder: DualEncoder, processor: Any, template: str) -> tuple[str, int]:
    """A stand-in word and the column of its one token: a second one next to it must add one equal id."""
    for word in _PLACEHOLDERS:
        if word in template:
            continue
        once, twice = (_row(encoder, processor, _filled(template, word, n)).tolist() for n in (1, 2))
        same = next((i for i, (a, b) in enumerate(zip(once, twice, strict=False)) if a != b), len(once)) - 1
        if same >= 0 and twice == [*once[: same + 1], once[same], *once[same + 1 :]][: len(twice)]:
            return word, same
    name = type(getattr(processor, "tokenizer", processor)).__name__
    raise ClipAlignError(
        f"the tokenizer {name} knows none of {', '.join(_PLACEHOLDERS)} as one token in {template!r}: use another "
        "template."
    )


def _filled(template: str, word: str, n: int) -> str:
    before, after = template.split("{}")
    return re.sub(r"\s+", " ", f"{before} {' '.join([word] * n)} {after}").rstrip()


def _row(encoder: DualEncoder, processor: Any, text: str) -> Tensor:
    """Token ids `[L]` of one text, cut at the model's length."""
    return tokenize(encoder, processor, [text], truncate=True)["input_ids"][0].cpu()


def _text_encode(encoder: DualEncoder, prompt: PseudoPrompt, n: int, strategy: Strategy) -> Callable[[Tensor], Tensor]:
    """The map from pseudo-tokens `[n, R, d_t]` to text features `[n, d]` through the stock tower."""
    table = _token_table(encoder)
    input_ids = prompt.input_ids.repeat(n, 1)
    if not encoder.causal_text:
        check_strategy(encoder, strategy)
        return _whole_encode(encoder, table, input_ids, prompt)
    end = int(encoder.end_positions(input_ids[:1]))
    # no two prompts share their pseudo-tokens: another id there ends what the packing takes as common
    input_ids[1:, prompt.position] = _other_id(prompt.input_ids[prompt.position], prompt.input_ids[end])
    plan = pack_prompts(encoder, input_ids, strategy=strategy)
    columns = plan.columns[:, None] - end + prompt.position + torch.arange(prompt.n_tokens, device=plan.device)
    rows = plan.rows[:, None].expand_as(columns)

    def encode(tokens: Tensor) -> Tensor:
        def replace(module: Any, inputs: Any, output: Tensor) -> Tensor:
            return output.index_put((rows, columns), tokens.to(output.dtype))

        handle = table.register_forward_hook(replace)
        try:
            features = encode_prompts(encoder, plan, batch_tokens=plan.n_tokens)
        finally:
            handle.remove()
        return project_texts(encoder, features, normalize=False)

    return encode


def _whole_encode(
    encoder: DualEncoder, table: nn.Embedding, input_ids: Tensor, prompt: PseudoPrompt
) -> Callable[[Tensor], Tensor]:
    """The same for towers with bidirectional attention, which read every prompt in full, as it was tokenised."""
    input_ids = input_ids.to(encoder.device)
    columns = slice(prompt.position, prompt.position + prompt.n_tokens)

    def encode(tokens: Tensor) -> Tensor:
        def replace(module: Any, inputs: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, : columns.start], tokens.to(output.dtype), output[:, columns.stop :]], dim=1)

        handle = table.register_forward_hook(replace)
        try:
            return encoder.encode_text(input_ids)
        finally:
            handle.remove()

    return encode


def _other_id(placeholder: Tensor, end: Tensor) -> int:
    return next(token for token in range(3) if token not in (int(placeholder), int(end)))


def _token_table(encoder: DualEncoder) -> nn.Embedding:
    table = encoder.token_table
    if not isinstance(table, nn.Embedding):
        raise ClipAlignError(f"pseudo-tokens cannot be learned for {type(encoder.model).__name__}.")
    return table
