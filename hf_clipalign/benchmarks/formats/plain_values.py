"""Plain values from `.pkl` files, without running what such files can hold.

The file is taken apart into its operations by `pickletools`, and only those are followed that build numbers, texts,
lists, dictionaries and NumPy arrays of numbers. No name in the file is imported, nothing is called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_clipalign._checks.quoting import short, short_reason
from hf_clipalign._errors import ClipAlignError

_MOST_BYTES = 2**26
_MOST_VALUES = 2_000_000
_MARK = object()
_KINDS = "iufb"


class _Bad(ValueError):
    """What is wrong with a file, in a few words."""


class _Name(NamedTuple):
    """The name of something that the file would import."""

    name: str


class _Array:
    """An array whose content has not come yet."""

    value: np.ndarray | None = None


class _Type:
    """The type of an array's items."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


def read_plain_values(path: Path) -> Any:
    """The value in a `.pkl` file, if it is made of plain values and arrays of numbers alone.

    Args:
        path (`Path`): the file.

    Raises:
        `ClipAlignError`: it is larger than 64 MiB, damaged, or holds anything else.
    """
    with open(path, "rb") as stream:
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ClipAlignError(f"{path}: is larger than {_MOST_BYTES} bytes, too large for such a file: replace it")
    try:
        return _finished(_Machine().run(content))
    except _Bad as error:
        raise ClipAlignError(f"{path}: {error}: it is no file of plain values: download it again") from None
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ClipAlignError(f"{path}: the file is damaged ({short_reason(error)}): download it again") from error


class _Machine:
    """A stack, marks and a memo, as the format defines them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for operation, argument, _ in pickletools.genops(content):
            if operation.name == "STOP":
                (value,) = self.stack
                return value
            self.follow(operation.name, argument)
        raise ValueError("it has no end")

    def follow(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            return
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise _Bad(f"it asks for the operation {name}")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def since_mark(self) -> list[Any]:
        start = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def tuple(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(values[::-1]))

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items are added to what is no list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(values) % 2:
            raise ValueError("entries are added to what is no dictionary")
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def dictionary(self, values: list[Any]) -> None:
        self.stack.append({})
        self.set_items(values)

    def name(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}".replace("numpy._core", "numpy.core")
        if full not in (*_CALLS, "numpy.ndarray"):
            raise _Bad(f"it would import {short(full)}")
        self.stack.append(_Name(full))

    def call(self) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, _Name) or called.name not in _CALLS:
            raise _Bad(f"it would call {short(called)}")
        self.stack.append(_CALLS[called.name](*arguments))

    def build(self) -> None:
        state, built = self.pop(), self.stack[-1]
        if isinstance(built, _Type):
            built.order = {"<": "<", ">": ">", "|": "|"}[state[1]]
        elif isinstance(built, _Array):
            built.value = _array(*state)
        else:
            raise _Bad(f"it would set the state of {short(built)}")


def _array(version: int, shape: tuple[int, ...], kind: Any, fortran: bool, content: Any) -> np.ndarray:
    content = content.encode("latin-1") if isinstance(content, str) else content
    if not isinstance(kind, _Type) or not isinstance(content, (bytes, bytearray)):
        raise _Bad("it holds an array of objects")
    values = np.frombuffer(content, kind.dtype()) if content else np.empty(0, kind.dtype())
    return values.reshape(shape, order="F" if fortran else "C")


def _type(code: str, *_: Any) -> _Type:
    if np.dtype(code).kind not in _KINDS:
        raise _Bad(f"it holds an array of the type {short(code)}")
    return _Type(np.dtype(code).str[1:])


def _scalar(kind: Any, content: bytes) -> Any:
    return _array(1, (1,), kind, False, content)[0].item()


def _from_buffer(content: bytes, kind: Any, shape: tuple[int, ...], order: str) -> _Array:
    built = _Array()
    built.value = _array(1, shape, kind, order == "F", content)
    return built


def _bytes(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _Bad(f"it holds bytes in the encoding {short(encoding)}")
    return text.encode("latin-1")


_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _type,
    "_codecs.encode": _bytes,
    "__builtin__.bytes": lambda *_: b"",
    "builtins.bytes": lambda *_: b"",
}
"""What stands for the few names that arrays of numbers need: functions of this module."""

_IGNORED = {"PROTO", "FRAME"}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.tuple(1),
    "TUPLE2": lambda machine, _: machine.tuple(2),
    "TUPLE3": lambda machine, _: machine.tuple(3),
    "DICT": lambda machine, _: machine.dictionary(machine.since_mark()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "PUT": lambda machine, slot: machine.memo.__setitem__(slot, machine.stack[-1]),
    "BINPUT": lambda machine, slot: machine.memo.__setitem__(slot, machine.stack[-1]),
    "LONG_BINPUT": lambda machine, slot: machine.memo.__setitem__(slot, machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    "GET": lambda machine, slot: machine.stack.append(machine.memo[slot]),
    "BINGET": lambda machine, slot: machine.stack.append(machine.memo[slot]),
    "LONG_BINGET": lambda machine, slot: machine.stack.append(machine.memo[slot]),
    "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*[machine.pop(), machine.pop()][::-1]),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}


def _finished(value: Any) -> Any:
    """The value with its arrays as lists; what is shared is written out, within a limit."""
    left = [_MOST_VALUES]

    def finish(value: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise _Bad(f"it holds more than {_MOST_VALUES:,} values")
        if isinstance(value, _Array):
            return finish([] if value.value is None else value.value.tolist())
        if isinstance(value, (_Name, _Type)):
            raise _Bad(f"it holds {short(value)}")
        if isinstance(value, dict):
            return {name: finish(item) for name, item in value.items()}
        return [finish(item) for item in value] if isinstance(value, (list, tuple)) else value

    return finish(value)
