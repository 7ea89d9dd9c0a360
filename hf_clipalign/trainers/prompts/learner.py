"""The one module that the trainers train: a prompted model with the class prompts of a task, logits out."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.backbones.packing import PackedPrompts, encode_texts
from hf_clipalign.data import fill
from hf_clipalign.data.texts.dictionary import check_names
from hf_clipalign.trainers.base import check_trainable
from hf_clipalign.tuners import (
    adapter_template,
    build_prompts,
    class_text_features,
    has_text_prompts,
    plan_prompts,
)

logger = logging.getLogger(__name__)

TRAIN = "train"
"""Name of the class set that is trained on."""


class PromptLearner(nn.Module):
    """A `PeftModel` and named sets of classes, so that ONE forward gives all that a loss needs.

    Distributed training reduces gradients in the wrapped module's forward only, so nothing of the model may be called
    beside it.

    Args:
        model (`PeftModel`): a CLIP with a prompt adapter of this package.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the backbone's tokenizer or processor.
        template (`str`, *optional*): prompt with one `{}`, which is kept in the adapter's configuration. Default: the
            adapter's own.

    Raises:
        `ClipAlignError`: the model is no PeftModel, or nothing in it is trainable.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.trainers import PromptLearner
        >>> from hf_clipalign.tuners import CoOpConfig
        >>> learner = PromptLearner(get_peft_model(load_mini().student, CoOpConfig(n_ctx=4)), processor)
        >>> learner.set_classes("test", ["cat", "dog"])
        >>> learner(processor(images=images.read(0), return_tensors="pt")["pixel_values"], "test")["logits"].shape
        torch.Size([1, 2])
        ```
    """

    accepts_loss_kwargs = False

    def __init__(self, model: Any, tokenizer: Any, template: str | None = None):
        super().__init__()
        if not hasattr(model, "peft_config"):
            raise ClipAlignError(
                f"the model is a bare {type(model).__name__}: there are no prompts to learn. "
                "Wrap it first: get_peft_model(model, CoOpConfig())."
            )
        check_trainable(model)
        self.model = model
        self.tokenizer = tokenizer
        self._encoder = [as_dual_encoder(model)]
        self.config = copy.deepcopy(self.encoder.config)
        """Of the backbone; transformers reads it, and writes to it."""
        self.template = self._stored(template)
        self._reaches_text: bool | None = None
        self._plans: dict[str, PackedPrompts] = {}
        self._fixed: dict[str, Tensor] = {}

    @property
    def encoder(self) -> Any:
        """The view of the backbone."""
        return self._encoder[0]

    @property
    def adapter_name(self) -> str:
        """The adapter that is trained."""
        return (
            self.model.active_adapters[0]
            if isinstance(self.model.active_adapters, list)
            else self.model.active_adapter
        )

    @property
    def method(self) -> str:
        """The PEFT type of the adapter, in lower case."""
        return str(self.model.peft_config[self.adapter_name].peft_type.value).lower()

    def set_classes(self, class_set: str, class_names: Sequence[str], template: str | None = None) -> None:
        """Names the classes of a set and lays their prompts out.

        Args:
            class_set (`str`): name of the set.
            class_names (`Sequence[str]`): C names.
            template (`str`, *optional*): another prompt than the learner's own.

        Raises:
            `ClipAlignError`: blank or duplicate names; a prompt that is too long (the class is named); a template that
                does not begin with the words that learned context replaces.
        """
        names = check_names(class_names)
        if class_set == TRAIN:
            self._keep_classes(names)
        input_ids = build_prompts(self.model, self.tokenizer, names, template or self.template)
        self._plans[class_set] = plan_prompts(self.model, input_ids)
        self._fixed.pop(class_set, None)

    @property
    def learns_text(self) -> bool:
        """Whether something that is trained changes text features: prompts, LoRA weights, `text_projection`."""
        if self._reaches_text is None:
            plan = next(iter(self._plans.values())).select([0])
            with torch.enable_grad():
                trained = class_text_features(self.model, plan).requires_grad
            self._reaches_text = trained or has_text_prompts(self.model)
        return self._reaches_text

    def _stored(self, template: str | None) -> str:
        """The prompt, kept in the adapter's configuration as stock transformers takes it."""
        config = self.model.peft_config[self.adapter_name]
        if template is None:
            return adapter_template(self.model)
        stock = adapter_template(self.model, self.tokenizer, template)
        before = getattr(config, "template", None)
        if before not in (None, stock) and before != config.automatic_template():
            logger.warning("the adapter's own prompt was %r: it is trained on with %r", before, stock)
        if hasattr(config, "template"):
            config.template = stock
        return stock

    def _keep_classes(self, names: Sequence[str]) -> None:
        """The classes of a class-specific context, which are part of the adapter."""
        config = self.model.peft_config[self.adapter_name]
        if getattr(config, "class_specific", False) and config.class_names is None:
            config.class_names = [name.replace("_", " ") for name in names]

    def n_classes(self, class_set: str = TRAIN) -> int:
        """How many classes a set has."""
        return len(self._plans[class_set])

    def forward(
        self,
        pixel_values: Tensor,
        class_set: str = TRAIN,
        class_indices: Tensor | None = None,
        with_frozen: bool = False,
    ) -> dict[str, Tensor]:
        """Logits of images against the classes of a set, in float32.

        Args:
            pixel_values (`Tensor [N, 3, H, W]`): images.
            class_set (`str`): which classes. Default: those that are trained on.
            class_indices (`LongTensor [K]`, *optional*): some of them only.
            with_frozen (`bool`, *optional*, defaults to `False`): also the image features without prompts.

        Returns:
            `dict`: `logits [N, K]`, `image_embeds [N, d]` and `text_embeds [K, d]` (`[N, K, d]` for CoCoOp), the
            embeddings of unit length; `frozen_image_embeds [N, d]` if asked for.
        """
        frozen = {}
        if with_frozen:
            with torch.no_grad(), self.model.disable_adapter():
                frozen["frozen_image_embeds"] = self._image_embeds(pixel_values)
        image_embeds = self._image_embeds(pixel_values)
        text_embeds = self._text_embeds(class_set, class_indices, image_embeds)
        with torch.autocast(pixel_values.device.type, enabled=False):
            return {
                "logits": self.scaled(image_embeds, text_embeds),
                "image_embeds": image_embeds,
                "text_embeds": text_embeds,
                **frozen,
            }

    def scaled(self, image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """Cosines times the model's own logit scale, plus its offset where it has one, `[N, C]`, in float32."""
        equation = "nd,cd->nc" if text_embeds.dim() == 2 else "nd,ncd->nc"
        logits = self.encoder.logit_scale.float() * torch.einsum(equation, image_embeds.float(), text_embeds.float())
        offset = self.encoder.logit_bias
        return logits if offset is None else logits + offset.float()

    @contextmanager
    def fixed_text(self, class_set: str) -> Iterator[None]:
        """Inside, the text features of a set are computed once: for evaluation, where parameters do not change."""
        conditional, learned = self.method.endswith("cocoop"), self.learns_text
        try:
            if not conditional and class_set not in self._fixed:
                with torch.no_grad():
                    self._fixed[class_set] = class_text_features(self.model, self._plans[class_set]).float()
            yield
        finally:
            if learned:
                self._fixed.pop(class_set, None)

    def save_pretrained(self, folder: str, **kwargs: Any) -> None:
        """Saves the adapter that is trained, whatever its name, at the top of the folder, and nothing else."""
        self.model.save_pretrained(folder, selected_adapters=[self.adapter_name], **kwargs)
        own = Path(folder) / self.adapter_name
        if self.adapter_name == "default" or not own.is_dir():
            return
        for file in own.iterdir():
            os.replace(file, Path(folder) / file.name)
        with contextlib.suppress(OSError):
            own.rmdir()

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Recomputes activations in the backward pass, without the reentrant form, which needs trained inputs."""
        kwargs = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        model = self.encoder.model
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs, **options)
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    @torch.no_grad()
    def frozen_text_embeds(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Text features without prompts: per class the mean over templates, then unit length, `[C, d]`."""
        with self.model.disable_adapter():
            total = sum(
                encode_texts(self.encoder, fill(template, class_names), self.tokenizer, normalize=False).float()
                for template in templates
            )
        return F.normalize(torch.as_tensor(total), dim=-1)

    def _image_embeds(self, pixel_values: Tensor) -> Tensor:
        return F.normalize(self.encoder.encode_image(pixel_values.to(self.encoder.dtype)).float(), dim=-1)

    def _text_embeds(self, class_set: str, class_indices: Tensor | None, image_embeds: Tensor) -> Tensor:
        if not self.learns_text and class_set not in self._fixed:
            with torch.no_grad():
                self._fixed[class_set] = class_text_features(self.model, self._plans[class_set]).float()
        if class_set in self._fixed:
            fixed = self._fixed[class_set]
            return fixed if class_indices is None else fixed[class_indices]
        plan = self._plans[class_set]
        plan = plan if class_indices is None else plan.select(class_indices)
        embeds = class_text_features(self.model, plan, normalize=False, image_features=image_embeds)
        return F.normalize(embeds.float(), dim=-1)
