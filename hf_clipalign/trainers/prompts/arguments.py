"""What can be set when prompts are learned from labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.trainers.arguments import AlignmentTrainingArguments
from hf_clipalign.trainers.prompts.presets import training_preset

_Arguments = TypeVar("_Arguments", bound="PromptLearningTrainingArguments")


@dataclass
class PromptLearningTrainingArguments(AlignmentTrainingArguments):
    """Settings of `PromptLearningTrainer`: those of `AlignmentTrainingArguments`, and the ones below.

    The defaults are CoOp's published settings; `preset` gives those of the other methods. Set differently from
    transformers: SGD with momentum 0.9 and weight decay 5e-4 on every prompt parameter, no gradient clipping, no
    incomplete last batch, a checkpoint after every epoch (the last two are kept), and the papers' schedule
    (`published_rates`).

    Args:
        learning_rate (`float`, *optional*, defaults to `0.002`): full rate.
        num_train_epochs (`float`, *optional*, defaults to `50`): passes over the images.
        per_device_train_batch_size (`int`, *optional*, defaults to `32`): images per process.
        weight_decay (`float`, *optional*, defaults to `5e-4`): L2 term, also on biases.
        momentum (`float`, *optional*, defaults to `0.9`): of SGD.
        published_schedule (`bool`): the papers' learning rates by epoch; False gives `lr_scheduler_type`.
        warmup_epochs (`int`, *optional*, defaults to `1`): epochs at `warmup_rate` before the cosine.
        warmup_rate (`float`, *optional*, defaults to `1e-5`): rate of these epochs.
        template (`str`, *optional*): prompt with one `{}`; learned context takes the place of its first words. It is
            kept in the adapter's configuration. Default: the adapter's own: `ctx_init` and the class name.
        augment (`bool`): random resized crop and flip, reproducible from `seed`, epoch and image.
        crop_scale (`float`, *optional*, defaults to `0.08`): smallest share of the image's area in a crop.
        skip_unreadable (`bool`): leave out images that cannot be read, and say how many. Default: an error.
        gaussian_mean (`float`, *optional*): epoch with the highest weight in the average of prompts (PromptSRC).
        gaussian_std (`float`, *optional*): standard deviation in epochs of these weights.
        text_weight, image_weight (`float`): PromptSRC's regulariser. Default 25 and 10.
        frozen_templates (`str`, *optional*): file of prompts, one a line, whose mean text features PromptSRC stays
            close to. Default: the 60 of CLIP; class-agnostic, `template` alone.

    Example:
        ```python
        >>> from hf_clipalign.trainers import PromptLearningTrainingArguments
        >>> PromptLearningTrainingArguments.preset("coop", output_dir="runs/coop").num_train_epochs
        50
        ```
    """

    # data
    template: str | None = field(
        default=None,
        metadata={
            "help": "Prompt with one {} for the class name; learned context replaces its first words. By default the "
            "adapter's own."
        },
    )
    augment: bool = field(
        default=True,
        metadata={"help": "Random resized crop and flip, reproducible from the seed, the epoch and the image."},
    )
    crop_scale: float = field(
        default=0.08, metadata={"help": "Smallest share of an image's area that a random crop keeps."}
    )
    skip_unreadable: bool = field(
        default=False,
        metadata={"help": "Leave out images that cannot be read, naming and counting them; else they are an error."},
    )

    # training
    learning_rate: float = field(default=0.002, metadata={"help": "Full learning rate, after the warm-up."})
    num_train_epochs: float = field(default=50, metadata={"help": "Passes over the images."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Images per process and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images per process in evaluation."})
    optim: str = field(default="sgd", metadata={"help": "Optimizer; the papers use sgd."})
    momentum: float = field(default=0.9, metadata={"help": "Momentum of sgd; other optimizers ignore it."})
    weight_decay: float = field(default=5e-4, metadata={"help": "L2 term on every prompt parameter, biases too."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 is none, as published."})
    published_schedule: bool = field(
        default=True, metadata={"help": "Learning rate by epoch as published; False follows lr_scheduler_type."}
    )
    warmup_epochs: int = field(default=1, metadata={"help": "Epochs at the warm-up rate (published schedule)."})
    warmup_rate: float = field(default=1e-5, metadata={"help": "Rate of the warm-up epochs (published schedule)."})

    # PromptSRC
    gaussian_mean: float | None = field(
        default=None, metadata={"help": "Epoch (from 1) with the highest weight in the average of prompts."}
    )
    gaussian_std: float | None = field(
        default=None, metadata={"help": "Standard deviation, in epochs, of the weights of that average."}
    )
    text_weight: float = field(default=25.0, metadata={"help": "PromptSRC: weight of the text feature term."})
    image_weight: float = field(default=10.0, metadata={"help": "PromptSRC: weight of the image feature term."})
    frozen_templates: str | None = field(
        default=None,
        metadata={
            "help": "PromptSRC: file of prompts, one a line, for the frozen text features; by default CLIP's 60."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template is not None and self.template.count("{}") != 1:
            raise ClipAlignError(f"template {self.template!r} must hold exactly one '{{}}' for the class name")
        if not 0 < self.crop_scale <= 1:
            raise ClipAlignError(f"crop_scale is {self.crop_scale}: give a share above 0 and up to 1")
        if (self.gaussian_mean is None) != (self.gaussian_std is None):
            raise ClipAlignError("gaussian_mean and gaussian_std go together: give both, or neither for no averaging")
        if self.gaussian_std is not None and self.gaussian_std <= 0:
            raise ClipAlignError(f"gaussian_std is {self.gaussian_std}: give a positive number of epochs")
        if self.published_schedule and self.max_steps <= 0 and self.num_train_epochs != int(self.num_train_epochs):
            raise ClipAlignError(
                f"the published schedule goes by whole epochs, not {self.num_train_epochs}: "
                "round num_train_epochs, or pass published_schedule=False"
            )
        if self.published_schedule and self.max_steps <= 0 and self.num_train_epochs <= self.warmup_epochs:
            raise ClipAlignError(
                f"all of num_train_epochs={self.num_train_epochs:g} would be warm-up at {self.warmup_rate:g}: train "
                f"for {self.warmup_epochs + 1} or more, or pass warmup_epochs=0"
            )

    @classmethod
    def preset(
        cls: type[_Arguments],
        method: str,
        backbone: str = "vit_b32",
        protocol: str = "base_to_novel",
        **overrides: Any,
    ) -> _Arguments:
        """The published settings of a method.

        Args:
            method (`str`): "coop", "cocoop", "vpt", "maple" or "promptsrc".
            backbone (`str`): the student that they were published for: "vit_b32".
            protocol (`str`): "base_to_novel" or "cross_dataset" (PromptSRC averages differently there).
            **overrides: fields to set otherwise, and those without a published value (`output_dir`, …).

        Raises:
            `ClipAlignError`: an unknown method, backbone or protocol.

        Example:
            ```python
            >>> arguments = KDPLTrainingArguments.preset("maple", output_dir="runs/maple", seed=1)
            >>> arguments.learning_rate, arguments.num_train_epochs, arguments.per_device_train_batch_size
            (0.0035, 5, 4)
            ```
        """
        return cls(**{**training_preset(method, backbone, protocol), **overrides})
