"""Checks of a checkpoint: its files before anything is built from them, its weights after they were loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import parse_json, read_json

_LARGEST_SIZE = 2**22
"""Largest integer of a model's configuration: the largest vocabularies have a million entries."""
_LARGEST_IMAGE = 2**14
_MOST_LAYERS = 1000
_PARAMETERS_PER_BYTE = 4
"""Weights of two bits are the smallest that are stored: a model of more parameters cannot come from the files."""
_SPARE_PARAMETERS = 2**20
_LONGEST_HEADER = 2**26
_LARGEST_TOKENIZER = 2**28
_SHOWN = 3

_IMAGE_SETTINGS = ("preprocessor_config.json", "processor_config.json")
_UNBOUNDED = ("tokenizer_config.json", "special_tokens_map.json", "model.safetensors.index.json")
_LARGEST_BY_FILE: dict[str, int | None] = {
    "config.json": _LARGEST_SIZE,
    **dict.fromkeys(_IMAGE_SETTINGS, _LARGEST_IMAGE),
    **dict.fromkeys(_UNBOUNDED),
}
_LAYER_COUNT = re.compile(r"(layers?|depths?)$")
_REPEATED = (nn.ModuleList, nn.Sequential)


def check_files(folder: str | Path) -> None:
    """Refuses a checkpoint folder whose files are damaged or describe something absurd, before memory is used.

    JSON files are read within limits; the sizes in `config.json` must fit the weight files; safetensors files must be
    as long as their headers say. Files that are not there are not asked for.

    Args:
        folder (`str` or `Path`): the folder.

    Raises:
        `ClipAlignError`: the file, and what is wrong with it.
    """
    folder = Path(folder)
    for name, largest in _LARGEST_BY_FILE.items():
        path = folder / name
        if path.is_file():
            _check_numbers(read_json(path), str(path), largest)
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file() and tokenizer.stat().st_size > _LARGEST_TOKENIZER:
        raise ClipAlignError(f"{str(tokenizer)!r} is larger than {_LARGEST_TOKENIZER} bytes: replace it.")
    n_tensors = sum(map(_tensors_in, sorted(folder.glob("*.safetensors"))))
    if (folder / "config.json").is_file():
        _check_layers(read_json(folder / "config.json"), str(folder / "config.json"), n_tensors or _MOST_LAYERS)


def check_model_size(folder: str | Path) -> None:
    """Refuses a `config.json` that describes a far larger model than the weight files beside it hold.

    The model is built without memory for its weights to count them.

    Raises:
        `ClipAlignError`: the two numbers. Errors of transformers, for a configuration that it cannot build.
    """
    from transformers import AutoConfig, AutoModel

    folder = Path(folder)
    weights = [file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern)]
    if not weights or not (folder / "config.json").is_file():
        return
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    described, stored = sum(tensor.numel() for tensor in model.state_dict().values()), _bytes_of(weights)
    if described > _PARAMETERS_PER_BYTE * stored + _SPARE_PARAMETERS:
        raise ClipAlignError(
            f"{str(folder / 'config.json')!r} describes a model of {described:,} parameters, but the weight files "
            f"beside it have {stored:,} bytes: one of them belongs to another model."
        )


def load_checked(load: Callable[..., Any], source: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a `from_pretrained` of transformers, and names what it left at random or found broken.

    Args:
        load (`Callable`): `AutoModel.from_pretrained`, or that of a model class.
        source, *args, **kwargs: what it is given. `output_loading_info` works as in transformers.

    Returns:
        What `load` returns.

    Raises:
        `ClipAlignError`: weights are missing, have other shapes than the configuration says, belong to layers that it
            does not have, or are NaN or infinite.
    """
    with_info, may_differ = kwargs.pop("output_loading_info", False), kwargs.pop("ignore_mismatched_sizes", False)
    # transformers' own error for other shapes does not name them
    model, info = load(source, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
    name = str(source)
    _check_report(model, info, name, may_differ)
    check_finite(model, name)
    return (model, info) if with_info else model


def _check_report(model: nn.Module, info: dict[str, Any], name: str, may_differ: bool) -> None:
    if missing := sorted(info["missing_keys"]):
        raise ClipAlignError(
            f"the checkpoint {name!r} lacks {_shown(missing)}, which would be random: get its files again, or the "
            "complete checkpoint."
        )
    mismatched = sorted(map(tuple, info["mismatched_keys"]))
    if mismatched and not may_differ:
        shapes = [f"{key} ({list(stored)} instead of {list(wanted)})" for key, stored, wanted in mismatched]
        raise ClipAlignError(
            f"the weights of {name!r} have other shapes than its config.json says: {_shown(shapes)}. One of the two "
            "belongs to another model."
        )
    if left := sorted(key for key in info["unexpected_keys"] if _is_of_missing_layer(model, key)):
        raise ClipAlignError(
            f"the checkpoint {name!r} holds layers that its config.json leaves out: {_shown(left)}. The number of "
            "layers belongs to another model."
        )


def check_finite(model: nn.Module, name: str) -> None:
    """Refuses weights that are NaN or infinite, in one pass that costs one sum per tensor.

    Args:
        model (`nn.Module`): what was loaded.
        name (`str`): what errors call it.

    Raises:
        `ClipAlignError`: the tensors, by name.

    Example:
        ```python
        >>> from hf_clipalign.backbones import check_finite
        >>> check_finite(model, "the student")  # raises where a weight is NaN or infinite
        ```
    """
    broken = [key for key, tensor in model.state_dict().items() if not is_finite(tensor)]
    if broken:
        raise ClipAlignError(
            f"the checkpoint {name!r} has NaN or infinite weights in {_shown(broken)}: it is broken, get it again."
        )


def is_finite(tensor: Any) -> bool:
    """Whether all numbers of a tensor are finite; True for what holds no floating-point numbers of 16 bits or more.

    Args:
        tensor (`Tensor` or `Any`): what is looked at.

    Returns:
        `bool`.

    Example:
        ```python
        >>> from hf_clipalign.backbones import is_finite
        >>> is_finite(torch.tensor([1.0, float("nan")])), is_finite(torch.tensor([1, 2]))
        (False, True)
        ```
    """
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.is_meta:
        return True
    if tensor.element_size() < 2:
        return True
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return bool(torch.isfinite(tensor.sum(dtype=wide))) or bool(torch.isfinite(tensor).all())


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _is_of_missing_layer(model: nn.Module, key: str) -> bool:
    """Whether a tensor belongs into a list of layers of the model, behind its last one."""
    module = model
    for name in key.split("."):
        child = getattr(module, name, None)
        if not isinstance(child, nn.Module):
            return isinstance(module, _REPEATED) and name.isdigit()
        module = child
    return False


def _check_numbers(values: Any, path: str, largest: int | None) -> None:
    for key, value in _numbers_of(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise ClipAlignError(f"{path!r} gives {key} as {value}: put the number of the original file there.")
        if largest is not None and isinstance(value, int) and abs(value) > largest:
            raise ClipAlignError(f"{path!r} gives {key} as {_short(value)}, more than {largest}: it is damaged.")


def _check_layers(config: dict[str, Any], path: str, most: int) -> None:
    for key, value in _numbers_of(config):
        if _LAYER_COUNT.search(key) and isinstance(value, int) and value > most:
            raise ClipAlignError(
                f"{path!r} gives {key} as {_short(value)}, more than the weight files can hold ({most}): one of them "
                "belongs to another model."
            )


def _numbers_of(value: Any, key: str = "a number") -> Iterator[tuple[str, int | float]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers_of(item, str(name)[:60])
    elif isinstance(value, list):
        for item in value:
            yield from _numbers_of(item, key)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**18 else "a number of more than 18 digits"


def _bytes_of(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _tensors_in(path: Path) -> int:
    """Number of tensors in a safetensors file, from its header.

    Raises:
        `ClipAlignError`: the file is not as long as its header says, or has none.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ClipAlignError(_damaged(path))
        header = parse_json(file.read(length), str(path), max_depth=4)
    header.pop("__metadata__", None)
    try:
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ClipAlignError(_damaged(path)) from error
    if 8 + length + end != size:
        raise ClipAlignError(_damaged(path))
    return len(header)


def _damaged(path: Path) -> str:
    return f"{str(path)!r} is incomplete or no safetensors file: get it again."
