"""Files as they are published: configurations without the paths and secrets of the machine that wrote them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hf_clipalign._io.masking import mask_secrets
from hf_clipalign.hub.cards import on_hub

_CARD = "README.md"
_CONFIGS = (
    *("config.json", "adapter_config.json", "generation_config.json", "tokenizer_config.json"),
    *("processor_config.json", "preprocessor_config.json", "image_processor_config.json"),
    *("sentence_bert_config.json", "config_sentence_transformers.json"),
)
_NAMES = ("_name_or_path", "name_or_path")
_BASES = ("base_model_name_or_path", "tokenizer_name_or_path")
_IS_PATH_KEY = re.compile(r".*(?:_path|_file|_dir|_folder|cache_dir)\Z")
_IS_PATH = re.compile(r"(?i)(?:file:|~[\w.-]*[/\\]|\.{1,2}[/\\]|[a-z]:[/\\]|\\\\|/[\w.~-])")
_CODE = "chat_template"


def published(name: str, file: Path) -> Path | bytes:
    """What is uploaded for a file: the file itself, or its text without what belongs to this machine.

    Configurations lose local paths in any spelling and secrets, cards by hand lose secrets.

    Args:
        name (`str`): its path in the repository.
        file (`Path`): the file.
    """
    base = name.rsplit("/", 1)[-1]
    if base == _CARD:
        text = file.read_bytes()
        masked = mask_secrets(text.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        return file if masked == text else masked
    if base not in _CONFIGS:
        return file
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return file
    cleaned = without_local_names(config)
    if cleaned == config:
        return file
    return (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def without_local_names(value: Any) -> Any:
    """A configuration without paths of this machine; other texts, as names of classes, stay what they are.

    Args:
        value (`Any`): what `json.load` gives.

    Returns:
        `Any`: a copy. Names that loading leaves behind go, a base model that is not on the Hub becomes None.
    """
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if key not in _NAMES}
        return {key: _without_local_name(key, part) for key, part in kept.items()}
    if isinstance(value, list):
        return [without_local_names(part) for part in value]
    return mask_secrets(value) if isinstance(value, str) else value


def _without_local_name(key: str, value: Any) -> Any:
    if not isinstance(value, str) or key == _CODE:
        return value if key == _CODE else without_local_names(value)
    if key in _BASES:
        return value if on_hub(value) else None
    if _IS_PATH.match(value) or (_IS_PATH_KEY.fullmatch(key) and re.search(r"[/\\]", value)):
        return None
    return mask_secrets(value)


def set_base_model(config_file: Path, base_model: str) -> None:
    """Names the base model in an adapter's configuration; a folder without one stays as it is."""
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8")) | {"base_model_name_or_path": base_model}
        config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
