"""The published settings of the five prompt-learning methods, for the trainers and for the adapters."""

from __future__ import annotations

from typing import Any

from hf_clipalign._errors import ClipAlignError

METHODS = ("coop", "cocoop", "vpt", "maple", "promptsrc")
"""Names of the methods, in the order of their publication."""

_BACKBONES = ("vit_b32",)
_PROTOCOLS = ("base_to_novel", "cross_dataset")

# learning rate, epochs, batch (arXiv 2407.03056, ViT-B/32; all with SGD, momentum 0.9, weight decay 5e-4)
_TRAINING: dict[str, tuple[float, int, int]] = {
    "coop": (0.002, 50, 32),
    "cocoop": (0.002, 10, 1),
    "vpt": (0.0025, 5, 4),
    "maple": (0.0035, 5, 4),
    "promptsrc": (0.0025, 20, 4),
}


def training_preset(method: str, backbone: str = "vit_b32", protocol: str = "base_to_novel") -> dict[str, Any]:
    """Fields of `PromptLearningTrainingArguments` as published.

    Args:
        method (`str`): "coop", "cocoop", "vpt", "maple" or "promptsrc".
        backbone (`str`): the student that the values were published for: "vit_b32", the only one.
        protocol (`str`): "base_to_novel" or "cross_dataset"; they differ for PromptSRC only.

    Raises:
        `ClipAlignError`: an unknown name; the message lists the known ones.

    Example:
        ```python
        >>> from hf_clipalign.trainers import training_preset
        >>> sorted(training_preset("coop"))[:2]
        ['learning_rate', 'momentum']
        ```
    """
    _check(method, backbone, protocol)
    rate, epochs, batch = _TRAINING[method]
    fields: dict[str, Any] = {
        "learning_rate": rate,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch,
        "weight_decay": 5e-4,
        "momentum": 0.9,
        "warmup_epochs": 1,
        "warmup_rate": 1e-5,
    }
    if method == "promptsrc":
        mean, std = (15.0, 1.0) if protocol == "base_to_novel" else (6.0, 10.0)
        fields |= {"gaussian_mean": mean, "gaussian_std": std}
    return fields


def adapter_preset(method: str, backbone: str = "vit_b32", protocol: str = "base_to_novel") -> dict[str, Any]:
    """Keyword arguments of the method's PEFT config as published: `CoOpConfig(**adapter_preset("coop"))`.

    Args:
        method (`str`), backbone (`str`), protocol (`str`): as in `training_preset`.

    Returns:
        `dict`: the keyword arguments.

    Raises:
        `ClipAlignError`: as `training_preset`.

    Example:
        ```python
        >>> from hf_clipalign.trainers import adapter_preset
        >>> adapter_preset("coop")
        {'n_ctx': 4, 'ctx_init': 'a photo of a'}
        ```
    """
    _check(method, backbone, protocol)
    depth = 9 if protocol == "base_to_novel" else 3
    words = {"ctx_init": "a photo of a"}
    settings: dict[str, dict[str, Any]] = {
        "coop": {"n_ctx": 4, **words},
        "cocoop": {"n_ctx": 4, **words},
        "vpt": {"n_prompts": 8, "depth": 12},
        "maple": {"n_ctx": 2, "depth": 9, **words},
        "promptsrc": {"n_ctx": 4, "n_prompts": 4, "text_depth": depth, "image_depth": depth, **words},
    }
    return settings[method]


def _check(method: str, backbone: str, protocol: str) -> None:
    for what, value, known in (
        ("method", method, METHODS),
        ("backbone", backbone, _BACKBONES),
        ("protocol", protocol, _PROTOCOLS),
    ):
        if value not in known:
            hint = "; start from it and set what differs" if what == "backbone" else ""
            raise ClipAlignError(f"no published settings for {what} {value!r}: there are {', '.join(known)}{hint}")
