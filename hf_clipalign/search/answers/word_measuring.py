"""The words of an index: how far unrelated texts stand out in it, measured once and kept beside it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import BadJson, checked_json, natural, number
from hf_clipalign.search.answers.calibrating import GROWN, NOT_MEASURED, STALE, UP_TO_DATE
from hf_clipalign.search.answers.texts import embedded_texts
from hf_clipalign.search.answers.word_null import FEWEST_IMAGES, WordNull
from hf_clipalign.search.heads import RAW

SETTING = "words"
_SCHEMA = {"n_images": natural, "values": [number]}
_N_TEXTS = 500
_FIRST_WORDS = 10_000
"""Of the dictionary, whose words are ordered by how common they are."""
_TEMPLATES = ("{}", "a photo of a {}")


class WordMeasuring:
    """The methods `measure_words` and `word_null` of an index."""

    def word_null(self: Any) -> WordNull | None:
        """How far unrelated texts stand out in this collection; None if that was not measured."""
        stored = self.setting(SETTING)
        try:
            found = checked_json(json.dumps(stored).encode(), _SCHEMA, size=2**20)
        except BadJson:
            return None
        values = np.sort(np.array(found["values"], np.float64))
        return WordNull(values, found["n_images"]) if len(values) else None

    @property
    def is_word_null_due(self: Any) -> bool:
        """Whether `measure_words` is to run: never done, or half as many images more."""
        return len(self) >= FEWEST_IMAGES and self.word_state()["state"] != UP_TO_DATE

    def word_state(self: Any) -> dict[str, Any]:
        """What was measured: `texts` (how many unrelated ones), `of` (images in the index then), `state`."""
        null = self.word_null()
        if null is None:
            return {"texts": 0, "of": None, "state": NOT_MEASURED}
        state = STALE if len(self) > GROWN * null.n_gallery else UP_TO_DATE
        return {"texts": len(null.values), "of": null.n_gallery, "state": state}

    def measure_words(self: Any) -> list[str]:
        """Measures how far the best images of unrelated texts stand out; see `WordNull`.

        The texts are words of the shipped dictionary, evenly spread over its first 10,000, half of them as they are,
        half in "a photo of a {}".

        Returns:
            `list[str]`: what was found, one line each.

        Raises:
            `ClipAlignError`: another process writes to the index, or the model cannot be loaded or is another one.
        """
        if len(self) < FEWEST_IMAGES:
            return []
        try:
            texts = embedded_texts(self, unrelated_texts())
        except ClipAlignError as error:
            return [f"no confidence for words: {error}"]
        null = WordNull.fit(self.embeddings(RAW), texts)
        values = [round(float(value), 6) for value in null.values]
        self.put_setting(SETTING, {"n_images": len(self), "values": values})
        return [f"confidence (words): measured with {len(values)} unrelated texts."]


def unrelated_texts(n: int = _N_TEXTS) -> list[str]:
    """Words of the shipped dictionary, in turn as they are and in a template."""
    from hf_clipalign.data.texts.dictionary import load_dictionary

    words = load_dictionary()[:_FIRST_WORDS]
    chosen = [words[place] for place in np.linspace(0, len(words) - 1, n).astype(int)]
    return [_TEMPLATES[number % len(_TEMPLATES)].format(word) for number, word in enumerate(chosen)]
