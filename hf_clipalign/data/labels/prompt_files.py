"""YAML and JSON files that people write: plain values alone, of a size that a person writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_clipalign._checks.quoting import printable, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_yaml import limited_yaml, require_once

_MOST_BYTES = 2**20


def read_prompt_file(path: Path) -> Any:
    """What a YAML or JSON file holds. A key that stands twice, and aliases of YAML (`*name`), are errors.

    Args:
        path (`Path`): the file, UTF-8, at most 1 MiB.

    Raises:
        `ClipAlignError`: if the file is missing, too large or not valid.
    """
    name = printable(str(path))
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipAlignError(f"{name}: cannot be read ({short_reason(error)}); give a YAML or JSON file") from error
    if len(content) > _MOST_BYTES:
        raise ClipAlignError(f"{name}: has more than {_MOST_BYTES:,} bytes; give a file of prompts, or split it")
    try:
        return _read_json(text) if path.suffix.lower() == ".json" else limited_yaml(text)
    except RecursionError as error:
        raise ClipAlignError(f"{name}: is nested too deeply; give lists of prompts by finding") from error
    except Exception as error:  # PyYAML also raises AttributeError and IndexError on odd scalars
        raise ClipAlignError(f"{name}: is no valid YAML or JSON ({short_reason(error)})") from error


def _read_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_dict_of_pairs)


def _dict_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require_once([key for key, _ in pairs])
    return dict(pairs)
