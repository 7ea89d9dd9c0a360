"""Models and processors from a folder or the Hub, with errors that say what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.checkpoint import check_files, check_model_size, is_finite, load_checked

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LONGEST_REASON = 240
_TRIED_SIZE = (40, 30)


def load_model(model_or_id: Any, **from_pretrained_kwargs: Any) -> nn.Module:
    """Loads a two-tower model in evaluation mode; a model that is given is returned as it is, not copied.

    Args:
        model_or_id (`str`, `Path` or `nn.Module`): a local folder, a Hub id, or a model.
        **from_pretrained_kwargs: passed to `AutoModel.from_pretrained` (`revision`, `dtype`, `token`, …).

    Returns:
        `nn.Module`: the model.

    Raises:
        `ClipAlignError`: the folder is no checkpoint, is damaged, or does not fit its own `config.json`; weights are
            missing, NaN or infinite; the id is unknown, private, or not cached while offline.

    Example:
        ```python
        >>> from hf_clipalign.backbones import load_model
        >>> from hf_clipalign.data import load_mini
        >>> type(load_model(load_mini().student_path)).__name__
        'CLIPModel'
        ```
    """
    if not isinstance(model_or_id, (str, Path)):
        return model_or_id
    from transformers import AutoModel

    return load_pretrained(AutoModel.from_pretrained, model_or_id, **from_pretrained_kwargs).eval()


def load_pretrained(load: Callable[..., Any], path_or_id: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a model's `from_pretrained` with the checks and the errors of `load_model`.

    Args:
        load (`Callable`): `AutoModel.from_pretrained`, or that of a model class.
        path_or_id (`str` or `Path`): a local folder or a Hub id; anything else goes to `load` as it is.
        *args, **kwargs: passed to `load`.

    Returns:
        What `load` returns.

    Raises:
        `ClipAlignError`: as `load_model`.

    Example:
        ```python
        >>> from transformers import CLIPModel
        >>> from hf_clipalign.backbones import load_pretrained
        >>> type(load_pretrained(CLIPModel.from_pretrained, mini.student_path)).__name__
        'CLIPModel'
        ```
    """
    if not isinstance(path_or_id, (str, Path)):
        return load(path_or_id, *args, **kwargs)

    def checked(name: str) -> Any:
        check_model_size(name)
        return load_checked(load, name, *args, **kwargs)

    return _load(checked, path_or_id, "model")


def load_processor(path_or_id: str | Path, **from_pretrained_kwargs: Any) -> Any:
    """Loads the processor (images and texts) of a checkpoint; errors as `load_model`.

    The Pillow backend is used for images, so that features do not depend on whether torchvision is installed.

    Args:
        path_or_id (`str` or `Path`): a local folder or a Hub id.
        **from_pretrained_kwargs: passed to `AutoProcessor.from_pretrained` (`revision`, `token`, …).

    Returns:
        `ProcessorMixin`: the processor.

    Raises:
        `ClipAlignError`: as `load_model`, for a folder without a processor, and for one whose settings (sizes, mean,
            std …) fail on a small image, or give pixels that are not finite.

    Example:
        ```python
        >>> from hf_clipalign.backbones import load_processor
        >>> from hf_clipalign.data import load_mini
        >>> type(load_processor(load_mini().student_path)).__name__
        'CLIPProcessor'
        ```
    """
    from transformers import AutoProcessor

    load = partial(_load_and_try, AutoProcessor.from_pretrained)
    return _load(load, path_or_id, "processor", **_pillow(), **from_pretrained_kwargs)


def load_image_processor(path_or_id: str | Path, **from_pretrained_kwargs: Any) -> Any:
    """Loads the image processor of a checkpoint that has no tokenizer; otherwise as `load_processor`.

    Args:
        path_or_id (`str` or `Path`): a local folder or a Hub id.
        **from_pretrained_kwargs: passed to `AutoImageProcessor.from_pretrained`.

    Returns:
        The image processor.

    Raises:
        `ClipAlignError`: as `load_processor`.

    Example:
        ```python
        >>> from hf_clipalign.backbones import load_image_processor
        >>> load_image_processor(mini.student_path).size["height"]
        48
        ```
    """
    from transformers import AutoImageProcessor

    load = partial(_load_and_try, AutoImageProcessor.from_pretrained)
    return _load(load, path_or_id, "image processor", **_pillow(), **from_pretrained_kwargs)


def _load_and_try(load: Any, name: str, **kwargs: Any) -> Any:
    """What transformers does not check as it loads it: whether the settings of images and texts can be used."""
    from transformers.image_processing_base import ImageProcessingMixin

    processor = load(name, **kwargs)
    on_images = getattr(processor, "image_processor", processor)
    if isinstance(on_images, ImageProcessingMixin):
        _try_on_image(on_images, name)
    try:
        getattr(processor, "tokenizer", str)("a")
    except Exception as error:
        raise ClipAlignError(
            f"the tokenizer of {name!r} fails on a short text ({short_reason(error)}): its tokenizer_config.json is "
            "damaged, get it again."
        ) from error
    return processor


def _try_on_image(on_images: Any, name: str) -> None:
    from PIL import Image

    try:
        pixels = on_images(images=[Image.new("RGB", _TRIED_SIZE)], return_tensors="pt")["pixel_values"]
    except Exception as error:
        raise ClipAlignError(
            f"the image processor of {name!r} fails on a small image ({short_reason(error)}): its "
            "preprocessor_config.json is damaged, get it again."
        ) from error
    if not is_finite(pixels):
        raise ClipAlignError(
            f"the image processor of {name!r} gives pixels that are not finite: mean, std or rescale_factor in its "
            "preprocessor_config.json is damaged, get it again."
        )


def _pillow() -> dict[str, Any]:
    # the first 5.x releases of transformers choose between "fast" and "slow" instead of backends
    has_backends = find_spec("transformers.models.clip.image_processing_pil_clip") is not None
    return {"backend": "pil"} if has_backends else {"use_fast": False}


def _load(load: Any, path_or_id: str | Path, what: str, **kwargs: Any) -> Any:
    name = str(path_or_id)
    if not Path(name).exists() and _looks_like_path(name):
        raise ClipAlignError(f"no folder {name!r}: give an existing checkpoint folder or a Hub id (owner/name).")
    try:
        if Path(name).is_dir():
            check_files(name)
        return load(name, **kwargs)
    except ClipAlignError:
        raise
    except Exception as error:  # what odd files raise in transformers and the libraries below it is of any kind
        raise ClipAlignError(_loading_message(name, what, error)) from error


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _loading_message(name: str, what: str, error: Exception) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    reason = _reason(error)
    if Path(name).is_dir():
        return f"the folder {name!r} does not hold a {what} that transformers can load: {reason}"
    if _comes_from(error, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        return (
            f"cannot load the {what} {name!r}: it is not in the local cache and the Hub cannot be reached. "
            "Connect once, or give the folder of a checkpoint on this machine."
        )
    if _comes_from(error, RepositoryNotFoundError):
        return (
            f"cannot load the {what} {name!r}: the Hub shows no such repository. Check the name; if it is private, "
            "log in with `hf auth login`, set HF_TOKEN or give token=."
        )
    return f"cannot load the {what} {name!r}: {reason}"


def _reason(error: Exception) -> str:
    """The error in one line: its kind too where the text alone (a key, a number) would say little."""
    text = " ".join(str(error).split())[:_LONGEST_REASON]
    return text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__} {text}".strip()


def _comes_from(error: BaseException | None, *kinds: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__ or error.__context__
    return False


def backbone_configuration(config: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig:
    """The configuration of a backbone, to be kept within another one.

    It is a copy: the first 5.x releases of transformers reset the attention of a configuration's parts, which may be
    those of a model in use.

    Args:
        config (`PreTrainedConfig` or `dict`, *optional*): as an object or as read from JSON. Default: CLIP's.

    Returns:
        `PreTrainedConfig`: the copy.
    """
    from transformers import AutoConfig, PreTrainedConfig

    if isinstance(config, PreTrainedConfig):
        return copy.deepcopy(config)
    values = dict(config or {})
    return AutoConfig.for_model(values.pop("model_type", "clip"), **values)
