"""The one module that `ContrastiveTrainer` trains: images and texts in, embeddings and scale out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, as_dual_encoder, projector_parameters, tower_parameters

DEFAULT_BIAS = -10.0
"""SigLIP's start of the bias."""

Inputs = dict[str, Any]


class ContrastiveLearner(nn.Module):
    """A two-tower model with ONE forward that gives all that a loss needs.

    Distributed training reduces gradients in the wrapped module's forward only, so nothing of the model may be called
    beside it.

    With `chunk_size` every tower sees that many items at a time, and their activations are thrown away and made again,
    with the same random numbers, when the gradient of the embeddings is known: the gradient cache of Gao et al. (2021,
    arXiv 2101.06983), by PyTorch's checkpointing. The result is that of the whole batch.

    Args:
        model (`PreTrainedModel` or `PeftModel`): the two-tower model.
        chunk_size (`int`, *optional*): items in one pass of a tower. Default: all.
        with_bias (`bool`): the loss has a bias; a model without one gets it here, outside of its checkpoint.

    Raises:
        `ClipAlignError`: no two towers.
    """

    accepts_loss_kwargs = False

    def __init__(self, model: Any, chunk_size: int | None = None, with_bias: bool = False):
        super().__init__()
        self.model = model
        self.chunk_size = chunk_size
        self.with_bias = with_bias
        self._encoder = [as_dual_encoder(model)]
        self.own_bias: nn.Parameter | None = None
        if with_bias and self.encoder.logit_bias is None:
            scale = self.encoder.log_logit_scale
            self.own_bias = nn.Parameter(torch.full((), DEFAULT_BIAS, device=scale.device, dtype=scale.dtype))

    @property
    def encoder(self) -> DualEncoder:
        """The view of the backbone."""
        return self._encoder[0]

    @property
    def bias(self) -> Tensor | None:
        """The bias of the loss: the model's own, else the learner's; None for a loss without."""
        if not self.with_bias:
            return None
        return self.encoder.logit_bias if self.own_bias is None else self.own_bias

    def forward(self, images: Inputs, texts: Inputs, second_views: Inputs | None = None) -> dict[str, Any]:
        """Embeddings of a batch, as long as the model makes them.

        Args:
            images (`dict`): inputs of the image tower for N images (`pixel_values`, …).
            texts (`dict`): `input_ids [M, T]` and, where the family has one, `attention_mask`.
            second_views (`dict`, *optional*): the same images once more.

        Returns:
            `dict`: `image_embeds [N, d]`, `text_embeds [M, d]`, `second_embeds [N, d]` (if asked for), `logit_scale`,
            `logit_bias` (None for a loss without).
        """
        outputs: dict[str, Any] = {
            "image_embeds": self._in_chunks(self._encode_images, images),
            "text_embeds": self._in_chunks(self._encode_texts, texts),
            "logit_scale": self.encoder.logit_scale,
            "logit_bias": self.bias,
        }
        if second_views is not None:
            outputs["second_embeds"] = self._in_chunks(self._encode_images, second_views)
        return outputs

    def start_at(self, temperature: float | None, bias: float | None) -> None:
        """Sets the scale to one over the temperature, and the bias; None leaves them as they are."""
        with torch.no_grad():
            if temperature is not None:
                self.encoder.log_logit_scale.fill_(-math.log(temperature))
            if bias is not None and self.bias is not None:
                self.bias.fill_(bias)

    def clamp_scale(self, highest: float) -> None:
        """Puts the scale back to at most `highest`, as CLIP does after every step."""
        with torch.no_grad():
            self.encoder.log_logit_scale.clamp_(max=math.log(highest))

    def train_parts(self, trainable: str, learn_scale: bool) -> None:
        """Chooses what is trained: "all", "projectors", "image", "text", or "given", what has `requires_grad` now.

        Only what a feature depends on can be trained, so that every trained parameter has a gradient in every step.

        Raises:
            `ClipAlignError`: nothing is left to train.
        """
        find = projector_parameters if trainable == "projectors" else tower_parameters
        chosen = {
            id(parameter)
            for modality in ("image", "text")
            if trainable in ("all", "projectors", "given", modality)
            for parameter in find(self.encoder, modality)  # type: ignore[arg-type]
            if trainable != "given" or parameter.requires_grad
        }
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        if not chosen:
            raise ClipAlignError("nothing in the model is trainable: set requires_grad, or another value of trainable")
        self.encoder.log_logit_scale.requires_grad_(learn_scale)
        if self.bias is not None:
            self.bias.requires_grad_(True)

    def _encode_images(self, inputs: Inputs) -> Tensor:
        return self.encoder.encode_image(**inputs)

    def _encode_texts(self, inputs: Inputs) -> Tensor:
        return self.encoder.encode_text(**inputs)

    def _in_chunks(self, encode: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
        n_items = len(next(iter(inputs.values())))
        if self.chunk_size is None:
            return encode(inputs)
        starts = range(0, n_items, self.chunk_size)
        chunks = [{name: value[i : i + self.chunk_size] for name, value in inputs.items()} for i in starts]
        return torch.cat([checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks])
