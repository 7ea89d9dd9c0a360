"""What is looked for: words and images, added and subtracted, from Python or from one line of text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, Protocol

from hf_clipalign._checks.quoting import printable, short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.file_kinds import KNOWN_EXTENSIONS

_OPERATORS = {"+": 1.0, "-": -1.0, "−": -1.0}
_QUOTES = str.maketrans("“”„", '"""')
_WEIGHT = re.compile(r"((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*[*×]\s*")
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-6, 1e6
"""Beyond these, a sum of unit vectors is rounding."""
_WEIGHT_BEHIND = re.compile(r"(.*\S)\s*[*×]\s*[\d.]+")
_QUOTED = re.compile(r'"[^"]*"')
_ONLY_NUMBERS = re.compile(r"[\W\d_]*")
_SIGN_IN_FRONT, _SIGN_BEHIND = re.compile(r"[*×/^=%+−–—-]\s*$|\($"), re.compile(r"^\s*[*×/^=%+−–—-]|^\)")
_MOST_CHARACTERS = 20_000
_EMPTY = 'the query is empty: write what to look for, such as "a red car", or give an image.'


class _Findable(Protocol):
    """The files of a collection, which know their names."""

    def find(self, path: str) -> int | None: ...


@dataclass(frozen=True)
class Part:
    """One summand of a query.

    Args:
        kind (`"words"` or `"image"`): what it is.
        value (`Any`): the words; or an image as `read_image` takes it, of which a path may name a file of the
            collection.
        weight (`float`, *optional*, defaults to `1.0`): below 0 for what the answer should be unlike.

    Example:
        ```python
        >>> from hf_clipalign.search import Part
        >>> str(Part("words", "toy", -0.5))
        '0.5 × "toy"'
        ```
    """

    kind: Literal["words", "image"]
    value: Any
    weight: float = 1.0

    def __str__(self) -> str:
        size = abs(self.weight)
        return ("" if size == 1 else f"{size:g} × ") + self._name()

    def _name(self) -> str:
        if self.kind == "words":
            return f'"{printable(self.value)}"'
        return printable(os.fspath(self.value)) if isinstance(self.value, (str, os.PathLike)) else "(an image)"


@dataclass(frozen=True)
class Query:
    """A weighted sum of words and images.

    Args:
        parts (`tuple[Part, ...]`): the summands; at least one.

    Raises:
        `ClipAlignError`: no parts, empty words, or a weight that is 0, beyond 1,000,000 or no number.

    Example:
        ```python
        >>> from hf_clipalign.search import Query
        >>> query = Query.of(text="red car", unlike="toy")
        >>> str(query), query.is_visual
        ('"red car" − "toy"', False)
        ```
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ClipAlignError(_EMPTY)
        for part in self.parts:
            if part.kind == "words" and not str(part.value).strip():
                raise ClipAlignError(_EMPTY)
            _check_weight(part)

    def __str__(self) -> str:
        first = self.parts[0]
        text = ("−" if first.weight < 0 else "") + str(first)
        return text + "".join(f" {'−' if part.weight < 0 else '+'} {part}" for part in self.parts[1:])

    @property
    def is_visual(self) -> bool:
        """Whether all parts are images, so that a head for images can answer."""
        return all(part.kind == "image" for part in self.parts)

    @property
    def is_single(self) -> bool:
        """Whether it is one text or one image, nothing added or subtracted."""
        return len(self.parts) == 1 and self.parts[0].weight > 0

    @classmethod
    def of(cls, text: Any = None, image: Any = None, like: Any = None, unlike: Any = None) -> Query:
        """A query from arguments, each a single value or a list.

        Args:
            text (`str` or list of `str`, *optional*): words, taken as they are.
            image, like (*optional*): images as `read_image` takes them, or paths of files of the collection.
            unlike (*optional*): what counts against an answer: images; a text is words, unless it ends like an image
                file.

        Raises:
            `ClipAlignError`: nothing is given.
        """
        positive = [Part("words", words) for words in _texts(text)]
        positive += [Part("image", one) for given in (image, like) for one in _several(given)]
        negative = [Part("words" if _is_words(one) else "image", one, -1.0) for one in _several(unlike)]
        return cls((*positive, *negative))

    @classmethod
    def parse(cls, text: str, files: _Findable | None = None) -> Query:
        """Reads one line: `a red car`, `"red car" - "toy" + photo.jpg`, `photo.jpg + 0.5*"snow"`.

        Summands stand between `+` and `-`, each with a weight in front if it is not 1. In quotation marks they are
        words; a name with the ending of an image is a file of the collection or of the disk. A line with neither is
        words, whatever signs it has; one that is the name of a file as a whole is that image. No file is opened.

        Args:
            text (`str`): the line.
            files (`Files`, *optional*): of the collection. Default: whole names are looked for on the disk only.

        Raises:
            `ClipAlignError`: it is empty, a quotation mark is left open, there is nothing beside a sign, or signs and
                quotation marks stand side by side in a way that means nothing, as in `nan*"red"`.
        """
        if not isinstance(text, str):
            raise ClipAlignError(f"the query is {short(text)}: give a text.")
        if len(text) > _MOST_CHARACTERS:
            raise ClipAlignError(f"the query has {len(text):,} characters: give at most {_MOST_CHARACTERS:,}.")
        line = text.translate(_QUOTES).strip()
        if not line:
            raise ClipAlignError(_EMPTY)
        if is_image_name(line) and '"' not in line and (os.path.isfile(line) or _holds(files, line)):
            return cls((Part("image", line),))
        terms = _terms(line)
        is_sum = any(term.is_quoted or is_image_name(term.body) for term in terms)
        for term in terms:
            if term.is_malformed(is_sum):
                raise ClipAlignError(
                    f"in the query {short(line)} the part {short(term.body)} cannot be read: write a sum as "
                    '0.5*"snow" - "toy" + photo.jpg, or words without quotation marks.'
                )
        if not is_sum:
            return cls((Part("words", line),))
        return cls(tuple(_part(term, line) for term in terms))


def _holds(files: _Findable | None, name: str) -> bool:
    return files is not None and files.find(name) is not None


class _Term(NamedTuple):
    """What stands between two signs."""

    sign: float
    weight: float
    body: str

    @property
    def is_quoted(self) -> bool:
        return _QUOTED.fullmatch(self.body) is not None

    def is_malformed(self, is_in_sum: bool) -> bool:
        """Whether it looks like arithmetic and is none; in a sum words without quotation marks have no weights."""
        if self.is_quoted or is_image_name(self.body):
            return False
        behind = _WEIGHT_BEHIND.fullmatch(self.body)
        if behind is not None and is_image_name(behind[1]):
            return True
        if is_in_sum or '"' not in self.body:
            return is_in_sum and any(sign in self.body for sign in '*×"')
        outside = _QUOTED.split(self.body)
        return (
            _ONLY_NUMBERS.fullmatch("".join(outside)) is not None
            or any(_SIGN_IN_FRONT.search(piece) for piece in outside[:-1])
            or any(_SIGN_BEHIND.search(piece) for piece in outside[1:])
        )


def is_image_name(text: str) -> bool:
    """Whether a text ends like an image file."""
    return text.lower().endswith(KNOWN_EXTENSIONS)


def _terms(line: str) -> list[_Term]:
    terms: list[_Term] = []
    sign, start, is_open = 1.0, 0, False
    for place, letter in enumerate(line):
        if letter == '"':
            is_open = not is_open
        elif letter in _OPERATORS and not is_open and _stands_alone(line, place):
            if line[start:place].strip() or terms:
                terms.append(_term(sign, line[start:place]))
            elif place > 0 and start > 0:
                terms.append(_term(sign, ""))
            sign, start = _OPERATORS[letter], place + 1
    if is_open:
        raise ClipAlignError(f'the query {short(line)} has a quotation mark (") that is left open: close it.')
    return [*terms, _term(sign, line[start:])]


def _stands_alone(line: str, place: int) -> bool:
    """Whether a sign is no hyphen: it stands at the start, behind a space or beside a quotation mark."""
    before, behind = line[place - 1 : place], line[place + 1 : place + 2]
    return not before or before.isspace() or '"' in (before, behind)


def _check_weight(part: Part) -> None:
    weight: Any = part.weight
    is_number = isinstance(weight, Real) and not isinstance(weight, bool)
    if not is_number or not _LEAST_WEIGHT < abs(weight) <= _MOST_WEIGHT:
        shown = f"{abs(weight):g}" if is_number else short(weight)
        raise ClipAlignError(
            f"the weight of {part._name()} is {shown}: give a number above {_LEAST_WEIGHT:f}, at most "
            f"{_MOST_WEIGHT:,.0f}."
        )


def _term(sign: float, text: str) -> _Term:
    body = text.strip()
    weight = _WEIGHT.match(body)
    return _Term(sign, float(weight[1]) if weight else 1.0, body[weight.end() :] if weight else body)


def _part(term: _Term, line: str) -> Part:
    words = term.body[1:-1].strip() if term.is_quoted else term.body
    if not words:
        raise ClipAlignError(
            f"in the query {short(line)} a part is empty: write words or a file beside every + and -."
        )
    is_words = term.is_quoted or not is_image_name(words)
    return Part("words" if is_words else "image", words, term.sign * term.weight)


def _several(given: Any) -> list[Any]:
    if given is None:
        return []
    is_one = isinstance(given, (str, bytes, os.PathLike, dict)) or not isinstance(given, Iterable)
    return [given] if is_one or hasattr(given, "shape") or hasattr(given, "tobytes") else list(given)


def _texts(given: Any) -> list[str]:
    for text in _several(given):
        if not isinstance(text, str):
            raise ClipAlignError(f"text is {short(text)}: give words as a text.")
    return _several(given)


def _is_words(given: Any) -> bool:
    return isinstance(given, str) and not is_image_name(given)
