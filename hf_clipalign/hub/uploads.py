"""Which files of a folder may be uploaded: an allow-list for each kind of folder, and what is added by name."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.replacing import files_below
from hf_clipalign._publishing import MODEL_FILES, SPECTRUM_FILE
from hf_clipalign.hub.folders import folder_kind
from hf_clipalign.hub.retune_folder import retune_files

WEIGHTS = (".safetensors", ".onnx")
PROCESSOR_FILES = (
    *("processor_config.json", "preprocessor_config.json", "image_processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
    "chat_template.jinja",
)
_TEXTS = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", SPECTRUM_FILE)
_MODEL = (*MODEL_FILES, *PROCESSOR_FILES, *_TEXTS)
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_SENTENCE_MODULES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")

ALLOWED: dict[str, tuple[str, ...]] = {
    "isoclip": _MODEL,
    "stock": _MODEL,
    "gcd": _MODEL,
    "clip": _MODEL,
    "sentence-transformers": (*_MODEL, *_SENTENCE_MODULES, "[0-9]_*/config.json", "[0-9]_*/model.safetensors"),
    "adapter": (*_ADAPTER, *(f"*/{name}" for name in _ADAPTER), *PROCESSOR_FILES, *_TEXTS),
    "onnx": ("*.onnx", *(f"*-processor/{name}" for name in PROCESSOR_FILES), *PROCESSOR_FILES, *_TEXTS),
}
"""Patterns of the files that a push uploads, by kind of folder; `*` does not reach into another folder."""

_NEVER = re.compile(r"\.(?:bin|pt|pth|ckpt|joblib|p(?:ic)?kle?)\Z", re.IGNORECASE)
_SHOWN = 12


@dataclass(frozen=True)
class Upload:
    """What a push of a folder uploads.

    Args:
        files (`dict[str, Path]`): the files, by their path in the repository.
        left_out (`list[str]`): what the folder holds besides, by relative path.
    """

    files: dict[str, Path]
    left_out: list[str]

    @property
    def summary(self) -> str:
        """What is left out in a line; the files of a sub-folder are counted. Empty where there is nothing."""
        groups: dict[str, int] = {}
        for name in self.left_out:
            top, slash, _ = name.partition("/")
            groups[top + slash] = groups.get(top + slash, 0) + 1
        words = [f"{name} ({n} files)" if name.endswith("/") and n > 1 else name for name, n in groups.items()]
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        return ", ".join(words[:_SHOWN]) + more


def plan_upload(folder: str | Path, include: Sequence[str] = ()) -> Upload:
    """Chooses what a push uploads: files that belong to a folder of this kind, and those that are added by name.

    Links that leave the folder are never followed, hidden files, training checkpoints and pickles never uploaded.

    Args:
        folder (`str` or `Path`): what `save_pretrained`, `save_stock`, an export or a trainer wrote.
        include (`Sequence[str]`): further files or sub-folders, by their path in the folder.

    Returns:
        `Upload`: `files` and what is `left_out`.

    Raises:
        `ClipAlignError`: no such folder, nothing to push in it, a file that would be pushed is a link that leaves the
            folder, or an included name is not there or may not be uploaded.

    Example:
        ```python
        >>> from hf_clipalign.hub import plan_upload
        >>> aligned.save_pretrained("clip-planned")
        >>> _ = open("clip-planned/notes.txt", "w").write("for us only")
        >>> plan_upload("clip-planned").left_out
        ['notes.txt']
        ```
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ClipAlignError(f"no folder {str(folder)!r}: give one that `clipalign trim` or save_pretrained wrote.")
    names = list(files_below(folder))
    of_retune = retune_files(folder)
    if of_retune is not None:
        if include:
            raise ClipAlignError(
                f"{str(folder)!r} is a run of RE-tune, of which only adapter, prompts, scores and card may be "
                f"uploaded: {include[0]!r} cannot be included."
            )
        chosen = sorted(of_retune)
    else:
        patterns = ALLOWED.get(folder_kind(folder), ())
        added = _included(folder, names, include)
        chosen = [name for name in names if name in added or (is_allowed(name, patterns) and (folder / name).exists())]
    files = {name: _inside(folder, name) for name in chosen}
    if not any(name.endswith(WEIGHTS) for name in files):
        raise ClipAlignError(
            f"{str(folder)!r} holds no weights ({' or '.join(WEIGHTS)}): give a folder that `clipalign trim` or "
            "save_pretrained wrote."
        )
    return Upload(files, [name for name in names if name not in files])


def is_allowed(name: str, patterns: Sequence[str]) -> bool:
    """Whether a relative path with slashes has one of the patterns, folder by folder."""
    parts = name.split("/")
    if _is_private(name):
        return False
    return any(
        len(parts) == pattern.count("/") + 1
        and all(fnmatch.fnmatchcase(part, wanted) for part, wanted in zip(parts, pattern.split("/"), strict=True))
        for pattern in patterns
    )


def _is_private(name: str) -> bool:
    return any(part.startswith((".", "checkpoint-")) for part in name.split("/"))


def _included(folder: Path, names: list[str], include: Sequence[str]) -> set[str]:
    if isinstance(include, str):
        raise ClipAlignError(f"include is a list of names: give [{include!r}].")
    added: set[str] = set()
    for name in include:
        wanted = PurePosixPath(name).as_posix()
        found = {file for file in names if file == wanted or file.startswith(f"{wanted}/")}
        if not found:
            raise ClipAlignError(f"{str(folder)!r} holds no {name!r} to include: give its path in that folder.")
        for file in sorted(found):
            if _NEVER.search(file):
                raise ClipAlignError(f"{file!r} cannot be included: pickles are not uploaded. Use safetensors.")
            if _is_private(file):
                raise ClipAlignError(f"{file!r} cannot be included: hidden files and checkpoints are not uploaded.")
        added |= found
    return added


def _inside(folder: Path, name: str) -> Path:
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ClipAlignError(
            f"{str(file)!r} is a link that leaves the folder, so nothing was pushed: put the file itself there."
        )
    if not file.is_file():
        raise ClipAlignError(f"{str(file)!r} is no regular file, so nothing was pushed: remove it.")
    return file
