"""Models and processors from a folder or the Hub, with errors that say what to do."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from hf_clipalign._errors import ClipAlignError


def load_model(model_or_id: Any, **from_pretrained_kwargs: Any) -> nn.Module:
    """Loads a two-tower model in evaluation mode, or returns the given one as it is.

    Args:
        model_or_id (`str`, `Path` or `nn.Module`): a local folder, a Hub id, or a model.
        **from_pretrained_kwargs: passed to `AutoModel.from_pretrained` (`revision`, `dtype`, `token`, …).

    Raises:
        `ClipAlignError`: the folder is no checkpoint; the id is unknown, private, or not cached while offline.
    """
    if not isinstance(model_or_id, (str, Path)):
        return model_or_id
    from transformers import AutoModel

    return _load(AutoModel.from_pretrained, model_or_id, "model", **from_pretrained_kwargs).eval()


def load_processor(path_or_id: str | Path, **from_pretrained_kwargs: Any) -> Any:
    """Loads the processor (images and texts) of a checkpoint; errors as `load_model`.

    The Pillow backend is used for images, so that features do not depend on whether torchvision is installed.
    """
    from transformers import AutoProcessor

    return _load(AutoProcessor.from_pretrained, path_or_id, "processor", **_pillow(), **from_pretrained_kwargs)


def load_image_processor(path_or_id: str | Path, **from_pretrained_kwargs: Any) -> Any:
    """Loads the image processor of a checkpoint that has no tokenizer; otherwise as `load_processor`."""
    from transformers import AutoImageProcessor

    load = AutoImageProcessor.from_pretrained
    return _load(load, path_or_id, "image processor", **_pillow(), **from_pretrained_kwargs)


def _pillow() -> dict[str, Any]:
    # the first 5.x releases of transformers choose between "fast" and "slow" instead of backends
    has_backends = find_spec("transformers.models.clip.image_processing_pil_clip") is not None
    return {"backend": "pil"} if has_backends else {"use_fast": False}


def _load(load: Any, path_or_id: str | Path, what: str, **kwargs: Any) -> Any:
    name = str(path_or_id)
    if not Path(name).exists() and _looks_like_path(name):
        raise ClipAlignError(f"no folder {name!r}: give an existing checkpoint folder or a Hub id (owner/name).")
    try:
        return load(name, **kwargs)
    except (OSError, ValueError) as error:
        raise ClipAlignError(_loading_message(name, what, error)) from error


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _loading_message(name: str, what: str, error: Exception) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
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


def _comes_from(error: BaseException | None, *kinds: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__ or error.__context__
    return False
