"""The token table with a learned context."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.tuners._layers import TextPrompts, replace_positions


class CoOpContext(TextPrompts):
    """Puts CoOp's context behind the token table: `[n, d_t]`, or `[n_classes, n, d_t]` for class-specific contexts."""

    adapter_layer_names = ("clip_coop_context",)
    other_param_names = ("clip_coop_position",)

    def __init__(self, base_layer: nn.Module, start: int):
        super().__init__(base_layer, start)
        self.clip_coop_position: dict[str, str] = {}
        self._classes: Tensor | None = None

    @property
    def needs_own_rows(self) -> bool:
        return self.active_prompts.dim() == 3

    @property
    def shared_prefix(self) -> int:
        if self.class_token_position == "end":
            return 0 if self.needs_own_rows else super().shared_prefix
        return self.start

    def put(self, hidden_states: Tensor, input_ids: Tensor | None = None) -> Tensor:
        if self.active_adapter_name is None:
            return hidden_states
        context = self.active_prompts
        if context.dim() == 3:
            context = context[self._rows(len(hidden_states), len(context))]
        if self.class_token_position == "end":
            return replace_positions(hidden_states, context, self.start)
        assert input_ids is not None
        return self._put_in_slots(hidden_states, input_ids, context)

    @contextlib.contextmanager
    def for_classes(self, indices: Tensor) -> Iterator[None]:
        self._classes = indices
        try:
            with super().for_classes(indices):
                yield
        finally:
            self._classes = None

    @property
    def class_token_position(self) -> str:
        return self.clip_coop_position[str(self.active_adapter_name)]

    def _rows(self, n_rows: int, n_classes: int) -> Any:
        """Which context each row takes: those of the plan, or one row per class in order."""
        if self._classes is not None:
            return self._classes
        if n_rows != n_classes:
            raise ClipAlignError(
                f"{n_rows} prompts for a class-specific context of {n_classes} classes: give one prompt per class in "
                "order, or use plan_prompts and class_text_features."
            )
        return slice(None)

    def _put_in_slots(self, hidden_states: Tensor, input_ids: Tensor, context: Tensor) -> Tensor:
        n, n_before = context.shape[-2], context.shape[-2] // 2 if self.class_token_position == "middle" else 0
        slots = context_slots(input_ids, n, n_before)
        table = context.to(hidden_states.dtype).reshape(-1, context.shape[-1])
        places = slots.clamp(min=0)
        if context.dim() == 3:
            places = places + n * torch.arange(len(context), device=places.device)[:, None]
        return torch.where((slots >= 0)[..., None], F.embedding(places, table), hidden_states)


def context_slots(input_ids: Tensor, n: int, n_before: int) -> Tensor:
    """Which context vector each token is replaced by, -1 for none: `LongTensor [R, T]`.

    Places are marked with the start token. A row may hold several prompts that share the first `n_before` places.

    Raises:
        `ClipAlignError`: a row does not have the places of a whole context.
    """
    marked = input_ids == input_ids[:, :1]
    marked[:, 0] = False
    rank = marked.cumsum(dim=1) - 1
    own = rank[:, -1] + 1 - n_before
    if bool(((own <= 0) | (own % (n - n_before) != 0)).any()):
        raise ClipAlignError(
            f"the prompts have no {n} places for the context: make them with hf_clipalign.tuners.build_prompts, or "
            f"put {n} start tokens where the context goes."
        )
    slots = torch.where(rank < n_before, rank, n_before + (rank - n_before) % (n - n_before))
    return slots.masked_fill(~marked, -1)
