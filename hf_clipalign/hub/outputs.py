"""Where a command may write: a new place, or one that holds the same thing, made from the same model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_folder
from hf_clipalign._io.limited_json import read_json
from hf_clipalign._io.replacing import files_below
from hf_clipalign.hub.export.faiss import FACTS_FILE, FAISS_FILES, INDEX_FILE
from hf_clipalign.hub.export.onnx import onnx_facts, onnx_path
from hf_clipalign.hub.folders import folder_kind
from hf_clipalign.hub.uploads import ALLOWED, is_allowed

if TYPE_CHECKING:
    from hf_clipalign.isoclip import IsoCLIPModel

logger = logging.getLogger(__name__)

_CARD = "README.md"
_MANIFEST = "features.json"
_CHOSEN = (
    *("image_band", "text_band", "projection_dim", "dtype", "torch_dtype", "transformers_version", "hf_clipalign"),
    "architectures",
)
"""Settings of a configuration in which two results from one model may differ."""
_WORDS = {
    "isoclip": "an aligned model",
    "stock": "a stock export",
    "sentence-transformers": "a folder for sentence-transformers",
    "faiss": "a faiss index",
    "adapter": "an adapter",
    "gcd": "a SpectralGCD model",
    "clip": "a model",
    "onnx": "ONNX files",
    "features": "features",
    None: "files that no command wrote",
}
_SHOWN = 5


@contextlib.contextmanager
def written_folder(
    out: str | Path, kind: str, *sources: str | Path, overwrite: bool = False, option: str = "overwrite=True"
) -> Iterator[Path]:
    """A temporary folder that replaces `out` as a whole when the block ends well, if `out` may be replaced.

    It may be if it is empty, or holds nothing but a result of the same kind that was made from the same model.

    Args:
        out (`str` or `Path`): the folder to write.
        kind (`str`): what will be written: `"isoclip"`, `"stock"`, `"sentence-transformers"` or `"faiss"`.
        *sources (`str` or `Path`): what is read: folders among them are never replaced.
        overwrite (`bool`, *optional*, defaults to `False`): replace whatever is there, after a warning that says what
            is lost.
        option (`str`): how the caller spells `overwrite`, for messages.

    Raises:
        `ClipAlignError`: `out` is a file, holds something else, or is the folder that is read.

    Example:
        ```python
        >>> from hf_clipalign.hub import written_folder
        >>> with written_folder("clip-written", "stock", "clip-b32") as folder:
        ...     _ = aligned.save_stock(folder)
        ```
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ClipAlignError(f"cannot write to {str(out)!r}: a file of that name exists. Give a folder.")
    refuse_protected(out, sources)
    held = list(files_below(out)) if out.is_dir() else []
    if held:
        _check_contents(out, kind, held, overwrite, option)
    with atomic_folder(out, keep=False) as staging:
        yield staging
        if held and not overwrite and not _from_one_model(staging, out):
            raise ClipAlignError(
                f"{str(out)!r} holds {_WORDS[kind]} made from another model, or from its other tower: give another "
                f"folder, or {option} to lose that."
            )


def check_onnx_file(
    out: str | Path, model: IsoCLIPModel, modality: str, *, overwrite: bool = False, option: str = "overwrite=True"
) -> None:
    """Refuses to replace an ONNX file that was not exported from the same model.

    Args:
        out (`str` or `Path`): the file to write, with or without its ending.
        model (`IsoCLIPModel`): the model to export.
        modality (`"image"` or `"text"`): its tower.
        overwrite (`bool`, *optional*, defaults to `False`): replace it all the same, after a warning.
        option (`str`): how the caller spells `overwrite`, for messages.

    Raises:
        `ClipAlignError`: something else is there.

    Example:
        ```python
        >>> check_onnx_file("clip-b32-image.onnx", model, "image")
        ```
    """
    file = onnx_path(out)
    if not file.exists():
        return
    facts = onnx_facts(file) or {}
    base = model.config.base_model_name_or_path
    if base is not None and (facts.get("base_model_name_or_path"), facts.get("modality")) == (base, modality):
        return
    if not overwrite:
        raise ClipAlignError(
            f"{str(file)!r} exists and may have been made from another model: give another name, or {option} to lose "
            "that file."
        )
    logger.warning("%s is replaced", file)


def refuse_protected(out: Path, sources: Sequence[str | Path]) -> None:
    """Refuses a folder that holds what is read, the current folder or the user's home.

    Raises:
        `ClipAlignError`: such a folder.
    """
    target = out.resolve()
    for source in sources:
        if source and Path(source).exists() and Path(source).resolve().is_relative_to(target):
            raise ClipAlignError(f"{str(out)!r} holds what is read ({source}): give another folder for the result.")
    for place, words in ((Path.cwd(), "the current folder"), (Path.home(), "your home folder")):
        if place.resolve().is_relative_to(target) and target.is_dir() and any(target.iterdir()):
            raise ClipAlignError(f"{str(out)!r} holds {words}: give a new folder for the result.")


def _check_contents(out: Path, kind: str, held: list[str], overwrite: bool, option: str) -> None:
    there = _kind(out)
    foreign = [name for name in held if not _belongs(name, kind)]
    if there == kind and not foreign:
        return
    names = foreign if there == kind else held
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    lost = f"{', '.join(names[:_SHOWN])}{more}"
    if overwrite:
        logger.warning("%s is replaced; %s is lost: %s", out, _WORDS[there], lost)
    elif there == kind:
        raise ClipAlignError(
            f"{str(out)!r} also holds files that are not part of {_WORDS[kind]} ({lost}): give another folder, or "
            f"{option} to lose them."
        )
    else:
        raise ClipAlignError(
            f"{str(out)!r} holds {_WORDS[there]} ({lost}), not {_WORDS[kind]}: give another folder, or {option} to "
            "lose that."
        )


def _kind(folder: Path) -> str | None:
    if (folder / _MANIFEST).is_file():
        return "features"
    if (folder / FACTS_FILE).is_file() and (folder / INDEX_FILE).is_file():
        return "faiss"
    try:
        kind = folder_kind(folder)
    except ClipAlignError:
        return None
    return "clip" if kind == "sentence-transformers" and "hf_clipalign" not in _config(folder) else kind


def _belongs(name: str, kind: str) -> bool:
    if kind == "faiss":
        return name in FAISS_FILES
    written = name != _CARD or kind == "sentence-transformers"
    return written and is_allowed(name, ALLOWED[kind])


def _from_one_model(new: Path, old: Path) -> bool:
    if (new / FACTS_FILE).is_file():
        return _facts(new) == _facts(old)
    configs = [
        {name: value for name, value in _config(folder).items() if name not in _CHOSEN} for folder in (new, old)
    ]
    return configs[0] == configs[1] and _facts(new) == _facts(old) and _same_weights(new, old)


def _facts(folder: Path) -> list[Any]:
    name = FACTS_FILE if (folder / FACTS_FILE).is_file() else "config.json"
    config = read_json(folder / name)
    own = config.get("hf_clipalign")
    facts = own if isinstance(own, dict) else config
    return [facts.get(key) for key in ("base_model_name_or_path", "modality", "format", "source")]


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json")


def _same_weights(new: Path, old: Path) -> bool:
    """Whether all tensors but the projectors are equal, after conversion to one dtype."""
    news, olds = _tensors(new), _tensors(old)
    names = {name for name in (*news, *olds) if not any(word in name for word in ("projection", "head"))}
    return all(name in news and name in olds and _equal(news[name], olds[name], name) for name in names)


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        opened = safe_open(str(file), framework="pt")
        found |= dict.fromkeys(opened.keys(), opened)
    return found


def _equal(new: Any, old: Any, name: str) -> bool:
    one, other = new.get_tensor(name), old.get_tensor(name)
    if one.shape != other.shape:
        return False
    smaller = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return bool(one.to(smaller).equal(other.to(smaller)))
