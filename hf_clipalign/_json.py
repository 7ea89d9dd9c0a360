"""Reading JSON that others wrote: within limits of size and depth, and of the kind that is asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hf_clipalign._errors import ClipAlignError

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 32

_KIND_NAMES = {dict: "object", list: "list", str: "string", int: "number", float: "number"}


def read_json(path: str | Path, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH, kind: type = dict) -> Any:
    """The content of a JSON file.

    Args:
        path (`str` or `Path`): the file. `OSError` of the file system passes through as it is.
        max_bytes (`int`): larger files are not read. Default 8 MiB.
        max_depth (`int`): how deep lists and objects may be nested. Default 32.
        kind (`type`): what the outermost value must be. Default `dict`.

    Raises:
        `ClipAlignError`: a larger file, one that is no JSON in UTF-8, a deeper one, or another kind of value.
    """
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ClipAlignError(f"{str(path)!r} is larger than {max_bytes} bytes, too large for such a file: replace it.")
    return parse_json(content, os.fspath(path), max_depth, kind)


def parse_json(content: bytes, name: str, max_depth: int = MAX_DEPTH, kind: type = dict) -> Any:
    """`read_json` of bytes that are at hand; `name` is what errors call them."""
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also for bytes that are not UTF-8
        raise ClipAlignError(f"{name!r} is not valid JSON: {_first_line(error)}. Replace the file.") from error
    if not isinstance(value, kind):
        wanted = _KIND_NAMES.get(kind, kind.__name__)
        raise ClipAlignError(f"{name!r} holds a JSON {type(value).__name__} instead of a JSON {wanted}: replace it.")
    if _is_deeper(value, max_depth):
        raise ClipAlignError(f"{name!r} is nested deeper than {max_depth} levels: replace it.")
    return value


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:120]


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        containers = [item for item in level if isinstance(item, (dict, list))]
        if not containers:
            return False
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return True
