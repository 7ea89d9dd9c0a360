"""JSON that must look as a schema says; limits and reading are those of `_json`.

A schema is a type (`str`, `bool`, `dict`, …), `None`, a function that says whether a value fits (such as `natural`),
a tuple of alternatives, a list with the schema of its items, or a dictionary of the schemas of its entries. A name
that ends in "?" may be absent; names that a schema does not list are not looked at.
"""

from __future__ import annotations

import json
from typing import Any

from hf_clipalign._json import BadJson, limited_json

SIZE = 2**28
"""Bytes that are read at most."""


def checked_json(text: bytes, schema: Any = object, size: int = SIZE) -> Any:
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
    _check(value, schema, "")
    return value


def natural(value: Any) -> bool:
    """Whether a value is an integer of 0 or more that fits into 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _check(value: Any, schema: Any, place: str) -> None:
    """Raises at the first value that does not fit."""
    if isinstance(schema, dict) and isinstance(value, dict):
        for name, inner in schema.items():
            known = name.removesuffix("?")
            if known in value:
                _check(value[known], inner, f"{place}.{known}" if place else known)
            elif known == name:
                raise BadJson(f"has no {name!r}{' in ' + place if place else ''}")
    elif isinstance(schema, list) and isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, schema[0], f"{place}[{index}]")
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
        _check(value, schema, place)
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
    return "null" if schema is None else _NAMES.get(schema, getattr(schema, "__name__", "valid"))


_NAMES: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    natural: "an integer of 0 or more",
}
