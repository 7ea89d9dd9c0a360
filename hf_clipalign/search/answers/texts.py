"""Words as vectors, by the cheapest way that an index offers: without torch where that is possible."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.texts import TextTooLong
from hf_clipalign.backbones.lean.text_tower import LeanTextTower
from hf_clipalign.search.answers.collection import Collection
from hf_clipalign.search.text_tower import FOLDER, PROBES, TextTower

SETTING = "lean_text"
"""Of an index: where the checkpoint is that the lean tower reads, and one text with its vector as a proof."""

_PROOF = PROBES[0]
_BATCH = 256
_LEAST_COSINE = 0.999
"""Of half-precision checkpoints, which the lean tower reads in float32."""


class _Tower(Protocol):
    def features(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


def embedded_texts(collection: Collection, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit embeddings of texts in the space of the raw head, `[Q, d]`.

    An ONNX tower in the index answers, or the lean tower on the checkpoint's files if it has proved itself; both
    without torch. Else the model is loaded.

    Args:
        collection (`Collection`): where they will be looked for.
        texts (`Sequence[str]`): Q texts.

    Raises:
        `TextTooLong`: a text is longer than the model's context, with the number of its tokens.
    """
    if not texts:
        return np.empty((0, 0), np.float32)
    batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
    try:
        tower = _onnx_tower(collection) or _lean_tower(collection)
        if tower is None:
            return collection.encode_texts(texts)
        return np.concatenate([_embedded(collection, tower, batch) for batch in batches])
    except TextTooLong as error:
        explained = TextTooLong(f"the text {error.problem}: shorten it.")
        explained.problem, explained.text = error.problem, error.text
        raise explained from error


def prepare_texts(collection: Any) -> bool:
    """Finds out whether the lean tower reads the checkpoint of an index as the model does, and records it there.

    Args:
        collection (`ImageIndex`): an index that can be written to.

    Returns:
        `bool`: whether words are looked up without torch from now on.

    Raises:
        `ClipAlignError`: the model cannot be loaded, or the index cannot be written to.
    """
    folder = _checkpoint_folder(collection.description["model"]["name"])
    stored = collection.setting(SETTING)
    if isinstance(stored, dict) and stored.get("folder") == folder:
        return bool(stored.get("vector"))
    tower = None if folder is None else LeanTextTower.open(folder)
    if tower is None:
        return False
    probes = [text for text in PROBES if _fits(tower, text)]
    found, expected = _embedded_or_none(collection, tower, probes), collection.encode_texts([_PROOF, *probes])
    agrees = found is not None and float((found * expected[1:]).sum(1).min()) >= _LEAST_COSINE
    vector = [round(float(value), 6) for value in expected[0]] if agrees else None
    collection.put_setting(SETTING, {"folder": folder, "vector": vector})
    return agrees


def _embedded(collection: Collection, tower: _Tower, texts: Sequence[str]) -> NDArray[np.float32]:
    values = tower.features(texts) @ collection.projector("raw", "text").T
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _fits(tower: _Tower, text: str) -> bool:
    """Whether a text is within the tower's context."""
    try:
        tower.features([text])
    except TextTooLong:
        return False
    except ValueError:  # of another kind, which the comparison will find
        return True
    return True


def _embedded_or_none(collection: Collection, tower: _Tower, probes: Sequence[str]) -> NDArray[np.float32] | None:
    """The embeddings of the probes; None where the tower cannot make them, or reads none of them."""
    try:
        return _embedded(collection, tower, probes) if probes else None
    except ValueError:  # shapes that do not fit; a `ClipAlignError` is one too
        return None


def _onnx_tower(collection: Collection) -> _Tower | None:
    weights = collection.description.get("model", {}).get("weights")
    return None if weights is None else TextTower.open(Path(collection.path) / FOLDER, weights)


def _lean_tower(collection: Any) -> _Tower | None:
    """The lean tower, if it still gives the vector that was recorded: the checkpoint may have changed since."""
    stored = collection.setting(SETTING) if hasattr(collection, "setting") else None
    if not isinstance(stored, dict) or not stored.get("vector") or not stored.get("folder"):
        return None
    tower = LeanTextTower.open(stored["folder"])
    if tower is None:
        return None
    try:
        proof = _embedded(collection, tower, [_PROOF])[0]
        agrees = float(proof @ np.array(stored["vector"], np.float32)) >= _LEAST_COSINE
    except ValueError:
        return None
    return tower if agrees else None


def _checkpoint_folder(name: str | None) -> str | None:
    """Where the files of a model are on this machine."""
    if name is None or os.path.isdir(name):
        return name
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return os.path.dirname(found) if isinstance(found, str) else None
