"""Text features of an index without torch: an ONNX file and a tokenizer beside the shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import BadJson, checked_json, natural
from hf_clipalign.backbones.lean.token_ids import checked_ids, read_tokenizer

FOLDER = "text"
"""Of the tower in an index."""
MODEL_FILE, TOKENIZER_FILE = "tower.onnx", "tokenizer.json"
"""The weights lie beside the first, in `tower.onnx.data`, where they can be mapped."""
METADATA = "hf_clipalign_text"
"""Name of the entry of the ONNX file's metadata that describes the tower."""

PROBES = (
    *("a photo of a cat.", "A RED Car, at night!", "naïve café — déjà vu", "3.14 & 1,000 km/h", "two\tlines\nof text"),
    *("don't  stop", "日本の城", "😀 emoji", "x"),
    "an image with a great many words in its description, of which few help",
)
"""Texts on which a tower is compared with its model before it is trusted; those beyond the context are left out."""

_FACTS = {"weights": str, "max_length": natural, "pad_id": natural, "full_length": bool, "width": natural}


class TextTower:
    """A text tower that answers without torch and transformers (extra `onnx`). Get one with `open`.

    Args:
        session (`onnxruntime.InferenceSession`): the tower.
        tokenizer (`tokenizers.Tokenizer`): its tokenizer.
        facts (`dict`): `weights` (hash of the model's weights), `max_length`, `pad_id`, `full_length`, `width`.

    Example:
        ```python
        >>> from hf_clipalign.hub import export_text_tower
        >>> from hf_clipalign.search import TextTower
        >>> tower = TextTower.open(export_text_tower(model, processor, "text"))
        >>> tower.features(["a cat", "an old tree"]).shape
        (2, 128)
        ```
    """

    def __init__(self, session: Any, tokenizer: Any, facts: dict[str, Any]) -> None:
        self.facts = facts
        self._session, self._tokenizer = session, tokenizer
        self._inputs = [entry.name for entry in session.get_inputs()]

    @classmethod
    def open(cls, folder: str | Path, weights: str | None = None) -> TextTower | None:
        """The tower that `export_text_tower` wrote to a folder.

        Args:
            folder (`str` or `Path`): where it is.
            weights (`str`, *optional*): hash of the weights of the model that is meant.

        Returns:
            `TextTower`: None if there is none, it is another model's, or onnxruntime or tokenizers are missing.

        Raises:
            `ClipAlignError`: a file is damaged.
        """
        folder = Path(folder)
        if not (folder / MODEL_FILE).is_file() or not (folder / TOKENIZER_FILE).is_file():
            return None
        try:
            import onnxruntime
            import tokenizers  # noqa: F401
        except ImportError:
            return None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # weights stay mapped, and only those of a few words are read: four times as fast for one query of a process
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            session = onnxruntime.InferenceSession(
                str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"]
            )
            tokenizer = read_tokenizer(str(folder / TOKENIZER_FILE))
            facts = checked_json(session.get_modelmeta().custom_metadata_map.get(METADATA, "").encode(), _FACTS)
        except BadJson:
            raise ClipAlignError(f"{str(folder / MODEL_FILE)!r} is no text tower of an index: delete it.") from None
        except Exception as error:  # neither package documents the classes of its errors
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ClipAlignError(f"the text tower in {str(folder)!r} is damaged, delete it: {reason[:120]}") from None
        if weights is not None and facts["weights"] != weights:
            return None
        return cls(session, tokenizer, facts)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts with start and end token, as the checkpoint's own tokenizer gives them.

        Args:
            texts (`Sequence[str]`): N texts.

        Raises:
            `ClipAlignError`: a text is longer than the model's context, or a single string was given.
        """
        return checked_ids(self._tokenizer, texts, self.facts["max_length"])

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features of texts before the projector, `[N, t]`.

        Args:
            texts (`Sequence[str]`): N texts.

        Raises:
            `ClipAlignError`: a text is longer than the model's context, or a single string was given.
        """
        ids = self.token_ids(texts)
        if not ids:
            return np.empty((0, self.facts["width"]), np.float32)
        length = self.facts["max_length"] if self.facts["full_length"] else max(map(len, ids))
        padded = np.full((len(ids), length), self.facts["pad_id"], np.int64)
        mask = np.zeros_like(padded)
        for row, tokens in enumerate(ids):
            padded[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        values = {"input_ids": padded, "attention_mask": mask}
        return self._session.run(None, {name: values[name] for name in self._inputs})[0]


def described(facts: dict[str, Any]) -> str:
    """The text of the metadata for some facts."""
    return json.dumps({name: facts[name] for name in _FACTS}, sort_keys=True)
