"""Reading JSON that others wrote: within limits of size and depth, and of the kind or schema that is asked for.

A schema is a type (`str`, `bool`, `dict`, …), `None`, a function that says whether a value fits (such as `natural`),
a tuple of alternatives, a list with the schema of its items, or a dictionary of the schemas of its entries. A name
that ends in "?" may be absent; names that a schema does not list are not looked at.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_clipalign._errors import ClipAlignError

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 32
MAX_CHECKED_BYTES = 2**28

_KIND_NAMES = {dict: "object", list: "list", str: "string", int: "number", float: "number"}


def read_json(path: str | Path, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH, kind: type = dict) -> Any:
    """The content of a JSON file.

    Args:
        path (`str` or `Path`): the file. `OSError` of the file system passes through as it is.
        max_bytes (`int`): larger files are not read. Default 8 MiB.
        max_depth (`int`, *optional*, defaults to `32`): how deep lists and objects may be nested.
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
        value = limited_json(content, max_depth)
    except BadJson as error:
        raise ClipAlignError(f"{name!r} {error}: replace it.") from error
    if not isinstance(value, kind):
        wanted = _KIND_NAMES.get(kind, kind.__name__)
        raise ClipAlignError(f"{name!r} holds a JSON {type(value).__name__} instead of a JSON {wanted}: replace it.")
    return value


class BadJson(ValueError):
    """What is wrong with a text, in a few words and without its name."""


def limited_json(content: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text.

    Raises:
        `BadJson`: it is no JSON in UTF-8, or deeper than `max_depth`.
    """
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise BadJson(f"is nested deeper than {max_depth} levels") from None
    except ValueError as error:  # also for bytes that are not UTF-8
        raise BadJson(f"is not valid JSON ({_first_line(error)})") from None
    if _is_deeper(value, max_depth):
        raise BadJson(f"is nested deeper than {max_depth} levels")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no value of JSON")


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


def checked_json(text: bytes, schema: Any = object, size: int = MAX_CHECKED_BYTES) -> Any:
    """The value of a JSON text that fits a schema.

    Args:
        text (`bytes`): UTF-8.
        schema: what the value must look like. Default: anything.
        size (`int`): most bytes. Default 256 MiB.

    Raises:
        `BadJson`: it is too large or too deep, is not JSON, or does not fit the schema; the message says where.
    """
    if len(text) > size:
        raise BadJson(f"has {len(text):,} bytes, over the limit of {size:,}")
    value = limited_json(text)
    check_schema(value, schema)
    return value


def natural(value: Any) -> bool:
    """Whether a value is an integer of 0 or more that fits into 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST_FLOAT


def entries(schema: Any) -> Callable[[Any], bool]:
    """The schema of an object with any names, all of whose values fit `schema`."""

    def an_object_of_such_entries(value: Any) -> bool:
        return isinstance(value, dict) and all(_is_valid(item, schema, "") for item in value.values())

    return an_object_of_such_entries


def check_schema(value: Any, schema: Any, place: str = "") -> None:
    """Compares a JSON value that is at hand with a schema; `place` is where it stands, for errors.

    Raises:
        `BadJson`: at the first value that does not fit.
    """
    if isinstance(schema, tuple):
        same_kind = [one for one in schema if isinstance(one, (dict, list)) and isinstance(value, type(one))]
        schema = same_kind[0] if len(same_kind) == 1 else schema
    if isinstance(schema, dict) and isinstance(value, dict):
        for name, inner in schema.items():
            known = name.removesuffix("?")
            if known in value:
                check_schema(value[known], inner, f"{place}.{known}" if place else known)
            elif known == name:
                raise BadJson(f"has no {name!r}{' in ' + place if place else ''}")
    elif isinstance(schema, list) and isinstance(value, list):
        for index, item in enumerate(value):
            check_schema(item, schema[0], f"{place}[{index}]")
    elif not _fits(value, schema, place):
        raise BadJson(f"says that {place or 'all of it'} is {_short(value)}, not {_name(schema)}")


def _fits(value: Any, schema: Any, place: str) -> bool:
    if isinstance(schema, tuple):
        return any(_is_valid(value, one, place) for one in schema)
    if isinstance(schema, type):
        return isinstance(value, schema) and not (schema is int and isinstance(value, bool))
    return schema(value) if callable(schema) else value is None and schema is None


def _is_valid(value: Any, schema: Any, place: str) -> bool:
    try:
        check_schema(value, schema, place)
    except BadJson:
        return False
    return True


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _name(schema: Any) -> str:
    if isinstance(schema, tuple):
        return " or ".join(map(_name, schema))
    if isinstance(schema, (dict, list)):
        return "an object" if isinstance(schema, dict) else "a list"
    return "null" if schema is None else _NAMES.get(schema, getattr(schema, "__name__", "valid").replace("_", " "))


_LARGEST_FLOAT = sys.float_info.max

_NAMES: dict[Any, str] = {
    number: "a number",
    str: "a text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    natural: "an integer of 0 or more",
}
