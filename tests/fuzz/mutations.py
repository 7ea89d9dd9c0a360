"""Damage to a file, drawn by hypothesis as small numbers, so that a failing input can be read and repeated."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st

# what a value of a JSON file is replaced by
HOSTILE_VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**40,
        2**63,
        10**30,
        -(2**63),
        0.5,
        -0.5,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *("", "a", "é\u0000\n", "../../etc/passwd", "A" * 3000, "<script>", "{}", "NaN", "0", "-1"),
    *([], [None], [[]], [1, 2], ["a"], list(range(50)), {}, {"a": 1}, {"": None}),
]
# what a cell of a table, or a stretch of a text, is replaced by
HOSTILE_TEXTS = [
    *("", " ", "\t", "nan", "NaN", "None", "-1", "007", "1e400", "99999999999999999999", "True", "0.5"),
    *(
        "'",
        '"',
        '""',
        '"a',
        "a,b",
        "a\nb",
        "a\rb",
        "\u0000",
        "\ufeff",
        "é",
        "\u202e",
        "😀",
        "=cmd()",
        "../../../etc/passwd",
    ),
    *(
        "/etc/passwd",
        "~",
        "a" * 2000,
        "{",
        "}",
        "[",
        "]",
        "{}",
        "&a",
        "*a",
        "!!python/object:os.system",
        "- ",
        ": ",
        "#",
    ),
]
HOSTILE_BYTES = [
    b"\x00",
    b"\xff",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00" * 64,
    b"\x80",
    b"\x1a",
    b"PK\x03\x04",
    b"\x93NUMPY",
]


class Mutation(NamedTuple):
    """One change: what is done, where (a fraction of the file in 65,536ths), and with what."""

    kind: str
    place: int
    what: int


def mutations(kinds: list[str]) -> st.SearchStrategy[list[Mutation]]:
    """One to three changes of these kinds."""
    numbers = st.integers(0, 65535)
    return st.lists(st.builds(Mutation, st.sampled_from(kinds), numbers, numbers), min_size=1, max_size=3)


def damage(content: bytes, changes: list[Mutation]) -> bytes:
    """The content with all changes made, one after the other."""
    for change in changes:
        content = KINDS[change.kind](content, change.place, change.what)
    return content


def _position(content: bytes, place: int) -> int:
    return place * len(content) // 65536


def _flip(content: bytes, place: int, what: int) -> bytes:
    if not content:
        return content
    at = _position(content, place)
    return content[:at] + bytes([content[at] ^ (1 << what % 8)]) + content[at + 1 :]


def _flip_early(content: bytes, place: int, what: int) -> bytes:
    return _flip(content[:256], place, what) + content[256:]


def _cut(content: bytes, place: int, what: int) -> bytes:
    return content[: _position(content, place)]


def _remove(content: bytes, place: int, what: int) -> bytes:
    at = _position(content, place)
    return content[:at] + content[at + 1 + what % 64 :]


def _insert(content: bytes, place: int, what: int) -> bytes:
    at = _position(content, place)
    return content[:at] + HOSTILE_BYTES[what % len(HOSTILE_BYTES)] + content[at:]


def _repeat(content: bytes, place: int, what: int) -> bytes:
    at = _position(content, place)
    return content[: at + 1 + what % 512] + content[at:]


def _overwrite_number(content: bytes, place: int, what: int) -> bytes:
    at = _position(content, place)
    number = struct.pack("<Q", [0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1][what % 6])[: 4 + 4 * (what % 2)]
    return content[:at] + number + content[at + len(number) :]


def _swap_halves(content: bytes, place: int, what: int) -> bytes:
    at = _position(content, place)
    return content[at:] + content[:at]


def _text(content: bytes, place: int, what: int) -> bytes:
    at = _position(content, place)
    end = at + what // len(HOSTILE_TEXTS) % 16
    return content[:at] + HOSTILE_TEXTS[what % len(HOSTILE_TEXTS)].encode() + content[end:]


def _cell(content: bytes, place: int, what: int) -> bytes:
    lines = content.split(b"\n")
    row = place * len(lines) // 65536
    separator = max((b",", b"\t", b"|"), key=lines[row].count)
    cells = lines[row].split(separator)
    cells[what % len(cells)] = HOSTILE_TEXTS[what // 7 % len(HOSTILE_TEXTS)].encode()
    lines[row] = separator.join(cells)
    return b"\n".join(lines)


def _line(content: bytes, place: int, what: int) -> bytes:
    lines = content.split(b"\n")
    row = place * len(lines) // 65536
    lines[row : row + 1] = [[], [lines[row]] * 2, [b""], [lines[0]]][what % 4]
    return b"\n".join(lines)


def _column(content: bytes, place: int, what: int) -> bytes:
    lines = content.split(b"\n")
    separator = max((b",", b"\t", b"|"), key=lines[0].count)
    at = place * (lines[0].count(separator) + 1) // 65536
    return b"\n".join(
        separator.join(cell for i, cell in enumerate(line.split(separator)) if i != at) for line in lines
    )


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key below a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _in_json(change: Callable[[Any, Any, int], None]) -> Callable[[bytes, int, int], bytes]:
    def changed(content: bytes, place: int, what: int) -> bytes:
        start, end = _json_span(content)
        try:
            value = json.loads(content[start:end])
        except ValueError:
            return _text(content, place, what)
        places = list(_places(value))
        if places:
            change(*places[place * len(places) // 65536], what)
        new = json.dumps(value).encode()
        size = struct.pack("<Q", len(new)) if start == 8 else b""
        return size + new + content[end:]

    return changed


def _json_span(content: bytes) -> tuple[int, int]:
    """Where the JSON is: the whole file, or the header of safetensors."""
    if content[:1] in (b"{", b"[") or len(content) < 8:
        return 0, len(content)
    size = struct.unpack("<Q", content[:8])[0]
    return (8, 8 + size) if size < len(content) and content[8:9] == b"{" else (0, len(content))


def _replace_value(container: Any, key: Any, what: int) -> None:
    container[key] = HOSTILE_VALUES[what % len(HOSTILE_VALUES)]


def _remove_value(container: Any, key: Any, what: int) -> None:
    del container[key]


def _rename_key(container: Any, key: Any, what: int) -> None:
    value = container.pop(key)
    if isinstance(container, dict):
        container[HOSTILE_TEXTS[what % len(HOSTILE_TEXTS)]] = value
    else:
        container.insert(0, value)


def _nest_value(container: Any, key: Any, what: int) -> None:
    for _ in range([1, 2, 50, 400][what % 4]):
        container[key] = [container[key]] if what % 3 else {"a": container[key]}


KINDS: dict[str, Callable[[bytes, int, int], bytes]] = {
    "flip": _flip,
    "flip early": _flip_early,
    "cut": _cut,
    "remove": _remove,
    "insert": _insert,
    "repeat": _repeat,
    "number": _overwrite_number,
    "swap": _swap_halves,
    "text": _text,
    "cell": _cell,
    "line": _line,
    "column": _column,
    "value": _in_json(_replace_value),
    "missing": _in_json(_remove_value),
    "rename": _in_json(_rename_key),
    "nest": _in_json(_nest_value),
}
BYTES = ["flip", "flip early", "cut", "remove", "insert", "repeat", "number", "swap"]
TEXT = ["text", "text", "flip", "cut", "insert", "line", "repeat"]
TABLE = ["cell", "cell", "cell", "line", "column", "text", "cut", "insert"]
JSON = ["value", "value", "value", "missing", "rename", "nest", "text", "cut"]
