"""Files as they are published: without the paths and secrets of the machine that wrote them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_clipalign._checks.quoting import quoted
from hf_clipalign._io.masking import HIDDEN, mask, mask_certain_paths, mask_secrets
from hf_clipalign.hub.cards import on_hub
from hf_clipalign.hub.published_weights import published_onnx, published_safetensors
from hf_clipalign.hub.retune_folder import PROMPTS_FILE

logger = logging.getLogger(__name__)

_CARD = "README.md"
_RECORDS = re.compile(
    r"(?:.*config\.json|.*\.index\.json|modules\.json|trainer_state\.json|training_args\.json|results\.json"
    r"|features\.json|run\.json)\Z"
)
_VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")
_LEFT_BEHIND = ("_name_or_path", "name_or_path")
_BASES = ("base_model_name_or_path", "tokenizer_name_or_path")
_IS_PATH_KEY = re.compile(r".*(?:_path|_file|_dir|_folder|_checkpoint|cache_dir)\Z")
_IS_PATH = re.compile(r"(?i)(?:file:|~[\w.-]*[/\\]|\.{1,2}[/\\]|[a-z]:[/\\]|\\\\|/[\w.~-])")
_NEEDED = re.compile(
    r"(?:class_names|novel_names|concepts|labels|id2label|label2id|learned|templates?|\w*prompts?|ctx_init|weight_map"
    r"|(?:target|exclude)_modules|target_parameters|modules_to_save|\w*_pattern|auto_map|\w*tokens?"
    r"|added_tokens_decoder)\Z"
)
"""Keys of texts that a model's results depend on: names of classes, prompts, regular expressions, special tokens."""
_SECRET = re.compile(r"(?i)(?:(?:push_to_)?hub|hf|access|api|auth)\w*token\Z|.*(?:secret|passw|credential|api_?key)")
_CODE = "chat_template"
_ALL = "prompts"


def published(name: str, file: Path, staging: Path) -> Path | bytes:
    """What is uploaded for a file: the file itself, or its content without what belongs to this machine.

    Configurations and other JSON lose local paths, also in the middle of a text, and secrets; so do the metadata of
    safetensors and ONNX files. Cards by hand lose secrets. Vocabularies stay as they are.

    Args:
        name (`str`): its path in the repository.
        file (`Path`): the file.
        staging (`Path`): a folder for copies of weights; it must live until the upload is done.
    """
    base = name.rsplit("/", 1)[-1]
    if base == _CARD:
        text = file.read_bytes()
        masked = mask_secrets(text.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        return file if masked == text else masked
    if base.endswith(".safetensors"):
        return published_safetensors(file, staging)
    if base.endswith(".onnx"):
        return published_onnx(file, staging)
    return _published_json(base, file) if base.endswith(".json") and base not in _VOCABULARIES else file


def is_record(name: str) -> bool:
    """Whether a file is a configuration or the record of a run, which is never published with local paths."""
    return bool(_RECORDS.match(name.rsplit("/", 1)[-1]))


def _published_json(name: str, file: Path) -> Path | bytes:
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, but it may hold paths all the same
        masked = mask(text)
        return file if masked == text else masked.encode("utf-8", "surrogateescape")
    cleaned = without_local_names({_ALL: value})[_ALL] if name == PROMPTS_FILE else without_local_names(value)
    return file if cleaned == value else (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def without_local_names(value: Any) -> Any:
    """A configuration without paths of this machine; texts that a model's results depend on lose certain ones only.

    Args:
        value (`Any`): what `json.load` gives.

    Returns:
        `Any`: a copy. Names that loading leaves behind go, a base model that is not on the Hub becomes None, and so
            does a value that is a path; a path in the middle of a text becomes "…".
    """
    needed: list[str] = []
    cleaned = _cleaned(value, needed)
    if needed:
        logger.warning("names or prompts that the model needs held paths or secrets, pushed as %s", quoted(needed, 3))
    return cleaned


def _cleaned(value: Any, needed: list[str]) -> Any:
    if isinstance(value, dict):
        kept = {key: _cleaned_entry(key, part, needed) for key, part in value.items() if key not in _LEFT_BEHIND}
        return _with_keys(kept, mask)
    if isinstance(value, list):
        return [_cleaned(part, needed) for part in value]
    return mask(value) if isinstance(value, str) else value


def _cleaned_entry(key: str, value: Any, needed: list[str]) -> Any:
    if key == _CODE:
        return value
    if _SECRET.match(key) and isinstance(value, str):
        return HIDDEN
    if _NEEDED.match(key):
        return _cleaned_needed(value, needed)
    if not isinstance(value, str):
        return _cleaned(value, needed)
    if key in _BASES:
        return value if on_hub(value) else None
    if _IS_PATH.match(value) or (_IS_PATH_KEY.fullmatch(key) and re.search(r"[/\\]", value)):
        return None
    return mask(value)


def _cleaned_needed(value: Any, needed: list[str]) -> Any:
    """Texts that results depend on; those that were changed all the same are added to `needed`."""
    if isinstance(value, dict):
        kept = {key: _cleaned_needed(part, needed) for key, part in value.items()}
        return _with_keys(kept, mask_certain_paths)
    if isinstance(value, list):
        return [_cleaned_needed(part, needed) for part in value]
    if not isinstance(value, str):
        return value
    masked = mask_certain_paths(value)
    needed += [masked] if masked != value else []
    return masked


def _with_keys(entries: dict[str, Any], masked: Callable[[str], str]) -> dict[str, Any]:
    """Entries with masked names; of several that become equal each keeps its value."""
    renamed: dict[str, Any] = {}
    for key, value in entries.items():
        name = masked(key)
        while name != key and (name in entries or name in renamed):
            name += HIDDEN
        renamed[name] = value
    return renamed


def set_base_model(config_file: Path, base_model: str) -> None:
    """Names the base model in an adapter's configuration; a folder without one stays as it is."""
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8")) | {"base_model_name_or_path": base_model}
        config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
