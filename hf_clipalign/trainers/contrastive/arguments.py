"""What can be set when a dual encoder is trained on images with captions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.trainers.arguments import AlignmentTrainingArguments

_CHOICES = {
    "loss": ("info_nce", "sigmoid"),
    "temperature_mode": ("clamped", "learned", "fixed"),
    "trainable": ("all", "projectors", "image", "text", "given"),
    "positives": ("image", "label"),
    "captions": ("random", "all"),
}


@dataclass
class ContrastiveTrainingArguments(AlignmentTrainingArguments):
    """Settings of `ContrastiveTrainer`: those of `AlignmentTrainingArguments`, and the ones below.

    Set differently from transformers: AdamW with beta2 0.98, eps 1e-6 and weight decay 0.1 on matrices only, a cosine
    schedule, gradient norm 1, no incomplete last batch (as CLIP was trained), a checkpoint after every epoch (the last
    two are kept).

    Args:
        loss (`str`): "info_nce" (softmax, CLIP) or "sigmoid" (SigLIP).
        temperature (`float`, *optional*): start, or fixed value: cosines are divided by it. Default: the checkpoint's.
        temperature_mode (`str`): "clamped" (learned, the scale never above `max_logit_scale`, as CLIP), "learned" or
            "fixed".
        max_logit_scale (`float`, *optional*): for "clamped". Default: 100, or the starting scale if that is higher.
        logit_bias (`float`, *optional*): start of the sigmoid loss's bias. Default: the checkpoint's, else -10.
        trainable (`str`, *optional*): "all", "projectors", "image" or "text" (one tower with its projector), or
            "given" (what has `requires_grad`). Default: "given" for a PEFT model, of which only the adapter is saved,
            else "all".
        image_term_weight (`float`): weight of the SimCLR term: `info_nce_loss` between two views of each image.
        image_term_temperature (`float`, *optional*, defaults to `0.1`): its own temperature.
        cache_chunk_size (`int`, *optional*): images and texts in one pass of a tower; activations are kept for one
            chunk only and made again for the gradient, so that the batch can be as big as its inputs fit.
        positives (`str`): "image" (captions of the same image) or "label" (of any image of the same class).
        captions (`str`): "random" (one an image and epoch, drawn by `seed`) or "all" (each is a positive).
        truncate_captions (`bool`): cut captions over the model's length, as CLIP was trained; False: an error.
        text_column (`str`, *optional*): the captions in a `datasets.Dataset`.
        augment (`bool`): random crop (and flip), reproducible from `seed`, epoch and image.
        crop_scale (`float`, *optional*, defaults to `0.5`): smallest share of the image's area in a crop.
        flip (`bool`): also mirror half of the images. Default False: "left" and "right" are words.

    Example:
        ```python
        >>> from hf_clipalign.trainers import ContrastiveTrainingArguments
        >>> ContrastiveTrainingArguments("runs/closed-gap", temperature=1.0, temperature_mode="fixed").loss
        'info_nce'
        ```
    """

    # loss
    loss: str = field(default="info_nce", metadata={"help": "info_nce (softmax, CLIP) or sigmoid (SigLIP)."})
    temperature: float | None = field(
        default=None, metadata={"help": "Start or fixed value of the temperature; by default the checkpoint's."}
    )
    temperature_mode: str = field(
        default="clamped", metadata={"help": "clamped (learned up to a highest scale), learned or fixed."}
    )
    max_logit_scale: float | None = field(
        default=None, metadata={"help": "Highest scale (1 / temperature) if clamped; by default 100 or the start."}
    )
    logit_bias: float | None = field(
        default=None, metadata={"help": "Start of the sigmoid loss's bias; by default the checkpoint's, else -10."}
    )
    image_term_weight: float = field(
        default=0.0, metadata={"help": "Weight of the SimCLR term between two views of each image; 0 is none."}
    )
    image_term_temperature: float = field(default=0.1, metadata={"help": "Temperature of the SimCLR term."})
    cache_chunk_size: int | None = field(
        default=None, metadata={"help": "Items in one pass of a tower (gradient caching); by default the whole batch."}
    )

    # model
    trainable: str | None = field(
        default=None,
        metadata={"help": "all, projectors, image, text (one tower) or given; by default all, given for adapters."},
    )

    # data
    positives: str = field(
        default="image", metadata={"help": "Captions that belong to an image: its own, or all of its label."}
    )
    captions: str = field(default="random", metadata={"help": "random (one an image and epoch) or all."})
    truncate_captions: bool = field(
        default=True, metadata={"help": "Cut captions over the model's length; False makes them an error."}
    )
    text_column: str | None = field(default=None, metadata={"help": "Column of the captions in a data set."})
    augment: bool = field(
        default=False, metadata={"help": "Random crop, reproducible from the seed, the epoch and the image."}
    )
    crop_scale: float = field(
        default=0.5, metadata={"help": "Smallest share of an image's area that a random crop keeps."}
    )
    flip: bool = field(default=False, metadata={"help": "Mirror half of the augmented images."})

    # training
    learning_rate: float = field(default=1e-5, metadata={"help": "Highest learning rate."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay of matrices; vectors and scalars: none."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Beta2 of AdamW."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Epsilon of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices and not (name == "trainable" and self.trainable is None):
                raise ClipAlignError(f"{name} is {getattr(self, name)!r}: choose from {', '.join(choices)}")
        self._check_loss()
        self._check_data()
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every parameter that is trained has a gradient in every step

    def _check_loss(self) -> None:
        for name in ("temperature", "max_logit_scale", "image_term_temperature"):
            if getattr(self, name) is not None or name == "image_term_temperature":
                check_number(name, getattr(self, name), "a positive number", above=0)
        if self.max_logit_scale is not None and self.temperature_mode != "clamped":
            raise ClipAlignError(
                f"max_logit_scale is for temperature_mode 'clamped', not {self.temperature_mode!r}: drop one of them"
            )
        if self.max_logit_scale and self.temperature and 1 / self.temperature > self.max_logit_scale * (1 + 1e-6):
            raise ClipAlignError(
                f"temperature {self.temperature:g} is a scale of {1 / self.temperature:g}, above max_logit_scale "
                f"{self.max_logit_scale:g}: raise one of them"
            )
        if self.logit_bias is not None and self.loss != "sigmoid":
            raise ClipAlignError("logit_bias is for loss 'sigmoid': drop it, or choose that loss")
        if self.logit_bias is not None:
            check_number("logit_bias", self.logit_bias, "a number")
        check_number("image_term_weight", self.image_term_weight, "0 (none) or a positive number", least=0)
        if self.cache_chunk_size is not None:
            check_integer("cache_chunk_size", self.cache_chunk_size)
        if _layerwise_checkpointing(self):
            raise ClipAlignError(
                "checkpointing of layers cannot be switched on here: set cache_chunk_size, or call "
                "model.gradient_checkpointing_enable() before"
            )

    def _check_data(self) -> None:
        check_number("crop_scale", self.crop_scale, "a share above 0 and up to 1", above=0, most=1)
        if self.flip and not self.augment:
            raise ClipAlignError("flip is a part of the augmentation: set augment=True, or drop flip")


def _layerwise_checkpointing(args: Any) -> bool:
    """Its name is `gradient_checkpointing` in the first 5.x releases of transformers."""
    return bool(getattr(args, "activation_checkpointing", False) or getattr(args, "gradient_checkpointing", False))
