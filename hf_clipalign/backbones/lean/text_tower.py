"""CLIP's text tower in NumPy, from the files of a checkpoint: an answer to a few words before torch is imported.

The layers are those of Radford et al. (2021), "Learning Transferable Visual Models From Natural Language Supervision":
a causal transformer with the layer norm in front, read at the end token. Only what a text needs is read: all layers,
and of the token table its own rows. Whether a checkpoint is of this kind is for the caller to prove, by comparing
features with those of the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import read_json
from hf_clipalign.backbones.lean.token_ids import checked_ids, read_tokenizer

Array = NDArray[np.float32]

_EARLIER_END = 2
"""As the end token of the first configurations: the text is then read at its highest id."""
_TYPES = ("F16", "F32", "F64")
"""What NumPy reads by itself; bfloat16 only if another package has brought it, which must not decide."""
_DEFAULTS = {
    **{"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 12, "max_position_embeddings": 77},
    **{"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407},
}


class LeanTextTower:
    """A text tower that needs neither torch nor transformers.

    Args:
        config (`dict`): the text part of the checkpoint's configuration.
        weights (`Weights`): its files.
        tokenizer (`tokenizers.Tokenizer`): without padding and truncation.
    """

    def __init__(self, config: dict[str, Any], weights: Weights, tokenizer: Any) -> None:
        self.config = {**_DEFAULTS, **config}
        self.weights, self.tokenizer = weights, tokenizer
        self.act = _ACTIVATIONS[self.config["hidden_act"]]

    @classmethod
    def open(cls, folder: str | Path) -> LeanTextTower | None:
        """The text tower of a checkpoint folder; None if its files are not of the kind that can be read here."""
        folder = Path(folder)
        try:
            config = read_json(folder / "config.json")["text_config"]
            tower = cls(config, Weights(folder), read_tokenizer(str(folder / "tokenizer.json")))
            tower.features(["a"])
        except Exception:  # whatever the files hold: there is another way to read the checkpoint
            return None
        return tower

    def features(self, texts: Sequence[str]) -> Array:
        """Features of texts before the projector, `[N, t]`.

        Args:
            texts (`Sequence[str]`): N texts.

        Raises:
            `ClipAlignError`: a text is longer than the model's context, or a single string was given.
        """
        found = checked_ids(self.tokenizer, texts, self.config["max_position_embeddings"])
        return np.stack([self._read_text(np.array(ids)) for ids in found])

    def _read_text(self, ids: NDArray[np.int64]) -> Array:
        table, get = "text_model.embeddings", self.weights.get
        x = self.weights.rows(f"{table}.token_embedding.weight", ids)
        x = x + get(f"{table}.position_embedding.weight")[: len(ids)]
        blocked = np.triu(np.full((len(ids), len(ids)), -np.inf, np.float32), 1)
        for number in range(self.config["num_hidden_layers"]):
            name = f"text_model.encoder.layers.{number}"
            x = x + self._attention(self._norm(x, f"{name}.layer_norm1"), f"{name}.self_attn", blocked)
            hidden = self.act(self._linear(self._norm(x, f"{name}.layer_norm2"), f"{name}.mlp.fc1"))
            x = x + self._linear(hidden, f"{name}.mlp.fc2")
        end = self.config["eos_token_id"]
        place = int(ids.argmax()) if end == _EARLIER_END else int((ids == end).argmax())
        return self._norm(x[place : place + 1], "text_model.final_layer_norm")[0]

    def _attention(self, x: Array, name: str, blocked: Array) -> Array:
        heads = self.config["num_attention_heads"]
        query, key, value = (
            self._linear(x, f"{name}.{part}_proj").reshape(len(x), heads, -1).transpose(1, 0, 2) for part in "qkv"
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(query.shape[-1])) + blocked
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self._linear((weights @ value).transpose(1, 0, 2).reshape(len(x), -1), f"{name}.out_proj")

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self.weights.get(f"{name}.weight").T + self.weights.get(f"{name}.bias")

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(self.config["layer_norm_eps"]))
        return centred / scale * self.weights.get(f"{name}.weight") + self.weights.get(f"{name}.bias")


class Weights:
    """Tensors of a checkpoint in safetensors, as float32, read when they are needed.

    Args:
        folder (`Path`): holds `model.safetensors`, or `model.safetensors.index.json` and its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = folder / "model.safetensors.index.json"
        self._file_of: dict[str, str] = read_json(index)["weight_map"] if index.is_file() else {}
        self._open: dict[str, Any] = {}
        self._known: dict[str, Array] = {}

    def get(self, name: str) -> Array:
        """A tensor."""
        if name not in self._known:
            self._known[name] = np.asarray(self._tensor(name)[:], np.float32)
        return self._known[name]

    def rows(self, name: str, index: NDArray[np.int64]) -> Array:
        """Some rows of a table."""
        table = self._tensor(name)
        return np.concatenate([np.asarray(table[int(row) : int(row) + 1], np.float32) for row in index])

    def _tensor(self, name: str) -> Any:
        tensor = self._file(name).get_slice(name)
        if tensor.get_dtype() not in _TYPES:
            raise ClipAlignError(
                f"{str(self._folder)!r} holds {name} as {tensor.get_dtype()}, which NumPy does not have."
            )
        return tensor

    def _file(self, name: str) -> Any:
        from safetensors import safe_open

        file = self._file_of.get(name, "model.safetensors")
        if Path(file).name != file:
            raise ClipAlignError(f"{str(self._folder)!r} names a file outside: {file!r}.")
        if file not in self._open:
            self._open[file] = safe_open(str(self._folder / file), framework="numpy")
        return self._open[file]


def _quick_gelu(x: Array) -> Array:
    return x / (1 + np.exp(np.float32(-1.702) * x))


def _gelu(x: Array) -> Array:
    """`x Φ(x)`, with erfc to 1.2e-7 by Chebyshev fitting (Press et al., "Numerical Recipes", section 6.2)."""
    z = np.abs(x.astype(np.float64)) / math.sqrt(2)
    t = 1 / (1 + z / 2)
    series = np.polynomial.polynomial.polyval(t, _ERFC)
    erfc = t * np.exp(-z * z + series)
    return (x * np.where(x >= 0, 1 - erfc / 2, erfc / 2)).astype(np.float32)


_ERFC = (
    *(-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806),
    *(0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277),
)
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"quick_gelu": _quick_gelu, "gelu": _gelu}
