"""Words as vectors, by the cheapest way that an index offers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.answers.collection import Collection
from hf_clipalign.search.text_tower import FOLDER, TextTower

_ADVICE = re.compile(r"^text \d+ \((.*)\) has (\d+) tokens, but the model reads (\d+)")


def embedded_texts(collection: Collection, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit embeddings of texts in the space of the raw head, `[Q, d]`.

    A text tower in the index answers without torch; else the model does.

    Args:
        collection (`Collection`): where it is looked for.
        texts (`Sequence[str]`): Q texts.

    Raises:
        `ClipAlignError`: a text is longer than the model's context, with the number of its tokens.
    """
    if not texts:
        return np.empty((0, 0), np.float32)
    try:
        tower = _tower(collection)
        if tower is None:
            return collection.encode_texts(texts)
        values = tower.features(texts) @ collection.projector("raw", "text").T
    except ClipAlignError as error:
        if (found := _ADVICE.match(str(error))) is None:
            raise
        raise ClipAlignError(
            f"the text {found[1]} has {found[2]} tokens, but the model reads {found[3]}: shorten it."
        ) from error
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _tower(collection: Collection) -> Any:
    weights = collection.description.get("model", {}).get("weights")
    return None if weights is None else TextTower.open(Path(collection.path) / FOLDER, weights)
