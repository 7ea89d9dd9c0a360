"""Prompt templates from an option: one sentence, or a file of several."""

from __future__ import annotations

from pathlib import Path

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError


def read_templates(text: str, name: str = "templates") -> list[str]:
    """The templates that an option stands for.

    Args:
        text (`str`): a template with one `{}`, or the path of a UTF-8 file with one template a line.
        name (`str`, *optional*, defaults to `"templates"`): the option's name, for errors.

    Returns:
        `list[str]`: one or more.

    Raises:
        `ClipAlignError`: it is neither; a template without exactly one `{}`.

    Example:
        ```python
        >>> read_templates("a photo of a {}.")
        ['a photo of a {}.']
        ```
    """
    templates = [text] if "{}" in text else _lines(text, name)
    for template in templates:
        if template.count("{}") != 1:
            raise ClipAlignError(f"{name} {short(template)} must hold exactly one '{{}}' for the class name")
    return templates


def _lines(path: str, name: str) -> list[str]:
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise ClipAlignError(
            f"{name} {short(path)} is no template with exactly one '{{}}', and no text file of templates"
        ) from None
    templates = [line for line in lines if line]
    if not templates:
        raise ClipAlignError(f"{name}: the file {short(path)} holds no template; write one a line")
    return templates
