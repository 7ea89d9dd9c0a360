"""Cards from templates: whatever is filled in is text of somebody else, unless a template says otherwise."""

from __future__ import annotations

import json
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.runtime import Undefined

from hf_clipalign._io.masking import describe_run, is_hub_id, mask, mask_secrets

_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_ACTIVE = re.compile(r"\](?=[(\[:])|!(?=\[)|`|\\")
_SCHEME = re.compile(r"(?i)\b(javascript|vbscript|data):(?=\S)")
_BLOCK = re.compile(r"#+\s|[+*-]\s|[=|~-]{2,}|\|")
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def render(template: str, **values: Any) -> str:
    """Fills a template of `templates/`.

    Every value goes through `prose`, but for those that a template gives to a filter: `cell` (of a table), `python`
    (a quoted string), `command` (a line of a shell), `trusted` (what this package has made).

    Args:
        template (`str`): its file name.
        **values: what it shows.
    """
    environment = Environment(
        loader=PackageLoader("hf_clipalign.hub", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finished,
    )
    environment.filters |= {"cell": cell, "python": _python, "command": _command, "trusted": _Trusted}
    return environment.get_template(template).render(values)


def one_line(text: Any) -> str:
    """A text in one line: without secrets, local paths and control characters."""
    return mask(" ".join(_UNSEEN.sub(" ", str(text)).split()))


def prose(text: Any) -> str:
    """One line of Markdown in which only `code` is interpreted."""
    line, parts, end = one_line(text), [], 0
    for code in _CODE.finditer(line):
        parts += [_plain(line[end : code.start()]), code.group()]
        end = code.end()
    shown = "".join([*parts, _plain(line[end:])])
    return f"&#{ord(shown[0])};{shown[1:]}" if _BLOCK.match(shown) else shown


def cell(value: Any) -> str:
    """A cell of a table in Markdown; a list becomes one line."""
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(part) for part in value)
    return _Trusted(_plain(one_line(value)).replace("|", "\\|"))


class _Trusted(str):
    """Markdown or code that is shown as it is."""


def _finished(value: Any) -> str:
    if isinstance(value, Undefined):
        return ""
    return value if isinstance(value, _Trusted) else prose(value)


def _plain(text: str) -> str:
    """Text that Markdown shows letter by letter."""
    shown = text.replace("<", "&lt;").replace(">", "&gt;")
    shown = _ACTIVE.sub(lambda match: f"&#{ord(match.group())};", shown)
    return _SCHEME.sub(r"\1&#58;", shown)


def _python(value: Any) -> str:
    shown = mask_secrets(value) if is_hub_id(value) else one_line(value)
    return _Trusted(json.dumps(shown, ensure_ascii=False))


def _command(value: Any) -> str:
    return _Trusted(" ".join(describe_run(str(value)).split()))
