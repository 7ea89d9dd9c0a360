"""How many words are answered whose image is in a collection, and how many whose image is not, at `--min-confidence`.

    python benchmarks/calibration_words.py                # both built-in models, some minutes on two cores

Half of the names of a set of emoji are drawn, their images are the collection, and its unrelated texts are measured as
`clipalign index` does. Then all names ask: "absent" is the share of names without an image there that are answered all
the same, which should be one minus the confidence asked for, "present" the share of the others that are answered, and
"right" how many of these have their own image in front. Beside it the plain cosine, with a cut-off at the same share
of the same texts. Means over draws, with 95 % bootstrap intervals over names. None of the names takes part in the
measurement; those of novel emoji were not seen when the models were trained either.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from rich.console import Console

from hf_clipalign._tables import NumberTable
from hf_clipalign.backbones import as_dual_encoder, encode_texts
from hf_clipalign.data import from_dataset, load_mini
from hf_clipalign.features import extract_image_features, project_image_features
from hf_clipalign.search import WordNull
from hf_clipalign.search.answers.word_measuring import unrelated_texts

LEVELS = (0.8, 0.95)
FORMS = {"as typed": "{}", "in a template": "an emoji of {}"}


def outcomes(images: np.ndarray, names: np.ndarray, unrelated: np.ndarray, draws: int) -> dict[float, np.ndarray]:
    """For each level `[4, draws, names]`: answered by `WordNull`, by the plain cosine, present, right in front."""
    found = {level: np.zeros((4, draws, len(names))) for level in LEVELS}
    for draw in range(draws):
        chosen = np.random.default_rng(draw).permutation(len(names))[: len(names) // 2]
        collection = images[chosen]
        null, scores = WordNull.fit(collection, unrelated), names @ collection.T
        rarity, best = null.rarity(collection, names), scores.max(1)
        plain = (unrelated @ collection.T).max(1)
        present = np.isin(np.arange(len(names)), chosen)
        right = present & (chosen[scores.argmax(1)] == np.arange(len(names)))
        for level in LEVELS:
            found[level][:, draw] = rarity >= level, best >= np.quantile(plain, level), present, right
    return found


def share(values: np.ndarray, among: np.ndarray) -> str:
    """A share in per cent with its interval over names."""
    hits, n = (values * among).sum(0), among.sum(0)
    drawn = np.random.default_rng(0).integers(len(n), size=(2000, len(n)))
    low, high = np.quantile(hits[drawn].sum(1) / np.maximum(n[drawn].sum(1), 1), [0.025, 0.975])
    return f"{100 * hits.sum() / max(n.sum(), 1):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def rows_of(name: str, mini: Any, draws: int) -> list[list[str]]:
    model, processor = getattr(mini, name), getattr(mini, f"{name}_processor")
    encoder = as_dual_encoder(model)
    embed = lambda texts: encode_texts(encoder, texts, processor).detach().numpy()  # noqa: E731
    rows = []
    for novel in (False, True):
        emoji = mini.emoji_subset(styles="noto", novel=novel)
        features = extract_image_features(model, from_dataset(emoji, image_column="image"), processor, progress=False)
        images = torch.nn.functional.normalize(project_image_features(encoder, features.values), dim=1).numpy()
        for form, template in FORMS.items():
            names = embed([template.format(one) for one in emoji["name"][:]])
            for level, found in outcomes(images, names, embed(unrelated_texts()), draws).items():
                answered, plain, present, right = found
                rows.append(
                    [
                        f"{name}, {'novel' if novel else 'known'} emoji ({len(names) // 2} of {len(names)}), {form}",
                        f"{level:g}",
                        share(answered, 1 - present),
                        share(answered, present),
                        share(right, answered * present),
                        share(plain, 1 - present),
                        share(plain, present),
                    ]
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["student", "teacher"], choices=["student", "teacher"])
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    mini = load_mini()
    rows = [row for name in args.models for row in rows_of(name, mini, args.draws)]
    columns = ["collection, queries", "confidence", "absent", "present", "right", "absent, cosine", "present, cosine"]
    Console(width=170).print(NumberTable(columns, rows, title="share of words that are answered, in %", texts=(0,)))


if __name__ == "__main__":
    main()
