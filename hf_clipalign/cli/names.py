"""What a name on the command line stands for: built-in models and data, folders, misspelt paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_clipalign._checks.suggestions import nearest
from hf_clipalign._io.masking import is_hub_id
from hf_clipalign._io.urls import local_path

BUILT_IN_DATA = "mini:emoji"
BUILT_IN_MODELS = {f"mini{mark}{name}": name for name in ("student", "teacher") for mark in (":", "-")}
_GENERATOR, _BEGINNING = b'<meta name="generator" content="hf_clipalign">', 1000
_MODEL_FILES = ("config.json", "adapter_config.json", "open_clip_config.json", "modules.json")


def is_built_in_data(name: str | None) -> bool:
    """Whether the package brings the data."""
    return name == BUILT_IN_DATA


def is_built_in_model(name: str) -> bool:
    """Whether the package brings the model."""
    return name in BUILT_IN_MODELS


def is_model_folder(path: str | Path) -> bool:
    """Whether a folder holds a model."""
    return any((Path(path) / name).is_file() for name in _MODEL_FILES)


def is_stored(name: str) -> bool:
    """Whether a name is that of features or embeddings: of a folder with their manifest, or a URL."""
    path = local_path(name)
    return path is None or any((path / file).is_file() for file in ("features.json", "embeddings.json"))


def holds_index(path: str | Path) -> bool:
    """Whether a folder is one of an index."""
    return (Path(path) / "index.sqlite").is_file() or (Path(path) / "heads.safetensors").is_file()


def holds_features(path: str | Path) -> bool:
    """Whether a folder is one of features."""
    return (Path(path) / "features.json").is_file()


def holds_embeddings(path: str | Path) -> bool:
    """Whether a folder is one of embeddings."""
    return (Path(path) / "embeddings.json").is_file()


def is_foreign_page(path: Path) -> bool:
    """Whether there is a file of that name that is no page which a command wrote."""
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        return _GENERATOR not in stream.read(_BEGINNING)


def misplaced_model(names: Sequence[str]) -> str | None:
    """The name that stands for a model, among others that do not: built in, in a folder, or as a Hub id."""
    for is_model in (is_built_in_model, is_model_folder, _is_on_hub):
        found = [name for name in names if is_model(name)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _is_on_hub(name: str) -> bool:
    return is_hub_id(name) and not Path(name).parent.exists()


def nearest_path(name: str) -> str | None:
    """A file or folder beside a missing one with a similar name."""
    path = Path(name).expanduser()
    if path.exists() or not path.parent.is_dir():
        return None
    found = nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()))
    return None if found is None else str(path.parent / found)
