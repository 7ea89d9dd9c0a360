"""A band chosen without labels, beside the labelled choice, the guess from the spectrum, and no trimming.

    python benchmarks/band_views.py                      # both built-in models, about ten minutes on two cores
    python benchmarks/band_views.py --models teacher --photos ~/photos   # sub-folders of photos are the classes

Views of a sample choose the band; classes that no choice has seen score it. Emoji: noto images choose, novel emoji
across drawing styles score. Icons: 4,937 images of five sets; icons of one name are relevant to each other, and half
of the names score. Photos: all images of a folder choose and score (no label is used for the choice without labels).
Texts: names of emoji choose, keywords that search the names of novel emoji score.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from hf_clipalign._tables import NumberTable
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import ImageSource, TextSource, from_dataset, image_folder, load_mini
from hf_clipalign.data.splits.subsets import take
from hf_clipalign.evaluation import (
    Head,
    LabelledRetrieval,
    band_from_views,
    compare_heads,
    retrieval_task,
    search_band,
    split_by_class,
)
from hf_clipalign.features import extract_image_features, extract_text_features, view_features
from hf_clipalign.isoclip import decompose, suggest_band, trim_projectors

STYLES = (("openmoji", "noto"), ("line", "openmoji"), ("line", "twemoji"))
TEMPLATE = "an emoji of {}"


class Study(NamedTuple):
    """What chooses a band without labels and with them, and what scores it."""

    name: str
    modality: str
    source: ImageSource | TextSource
    chosen_on: list[LabelledRetrieval] | None
    reported_on: dict[str, LabelledRetrieval]


def emoji(model: Any, processor: Any, mini: Any) -> Study:
    dataset = mini.emoji_subset()
    columns = {name: np.asarray(dataset[name][:]) for name in ("style", "emoji_id", "novel")}
    source = from_dataset(dataset, image_column="image")
    values = extract_image_features(model, source, processor, progress=False).values

    def tasks(novel: bool) -> dict[str, LabelledRetrieval]:
        found = {}
        for query_style, gallery_style in STYLES:
            query, gallery = (
                (columns["style"] == style) & (columns["novel"] == novel) for style in (query_style, gallery_style)
            )
            query &= np.isin(columns["emoji_id"], columns["emoji_id"][gallery])
            ids = (columns["emoji_id"][query], columns["emoji_id"][gallery])
            found[f"{query_style} → {gallery_style}"] = LabelledRetrieval(values[query], values[gallery], *ids)
        return found

    noto = take(source, np.flatnonzero(columns["style"] == "noto").tolist())
    return Study("emoji across styles", "image", noto, list(tasks(False).values()), tasks(True))


def icons(model: Any, processor: Any, mini: Any) -> Study:
    source = from_dataset(mini.icons, image_column="image", label_column="name")
    task = retrieval_task(extract_image_features(model, source, processor, progress=False))
    chosen_on, reported_on = split_by_class(task)
    return Study("icons of five sets", "image", source, [chosen_on], {"icons": reported_on})


def photos(model: Any, processor: Any, folder: str) -> Study:
    source = image_folder(folder)
    task = retrieval_task(extract_image_features(model, source, processor, progress=False))
    return Study("photos by folder", "image", source, None, {"photos": task})


def names(model: Any, processor: Any, mini: Any) -> Study:
    def task(novel: bool) -> LabelledRetrieval:
        rows = {row["emoji_id"]: row for row in mini.emoji_subset(novel=novel).remove_columns("image")}.values()
        rows = [row for row in rows if len(row["keywords"]) > 1]
        texts = [", ".join(row["keywords"][:4]) for row in rows] + [TEMPLATE.format(row["name"]) for row in rows]
        values = extract_text_features(model, texts, processor, truncate=True, progress=False).values
        ids = np.array([row["emoji_id"] for row in rows])
        return LabelledRetrieval(values[: len(rows)], values[len(rows) :], ids, ids)

    known = TextSource([TEMPLATE.format(name) for name in [*mini.concepts.known, *mini.concepts.novel]])
    return Study("keywords → names", "text", known, [task(False)], {"names": task(True)})


def rows_of(study: Study, encoder: Any, processor: Any, n_items: int, seeds: int) -> Iterator[list[str]]:
    image, text = encoder.image_projector.matrix.detach(), encoder.text_projector.matrix.detach()
    bands = {"no trimming": (0, 0), "guess from the spectrum": suggest_band(decompose(image, text).S)}
    if study.chosen_on is not None:
        bands["chosen with labels"] = search_band(study.chosen_on, encoder, modality=study.modality).band
    reasons = {}
    for seed in range(seeds):
        views = view_features(encoder, study.source, processor, n_items=n_items, seed=seed, progress=False)
        choice = band_from_views(views, encoder, seed=seed)
        name = f"without labels, sample {seed + 1}"
        bands[name] = choice.band or (0, 0)
        reasons[name] = (
            f"{100 * choice.gain:+.1f} [{100 * choice.gain_interval[0]:+.1f}, {100 * choice.gain_interval[1]:+.1f}]"
        )
    own = 0 if study.modality == "image" else 1
    heads = [Head(name, trim_projectors(image, text, *band)[own]) for name, band in bands.items()]
    for score in compare_heads(heads, study.reported_on, seed=0).scores:
        low, high = score.gain_interval
        yield [
            study.name,
            score.head,
            "–" if bands[score.head] == (0, 0) else "{}, {}".format(*bands[score.head]),
            f"{100 * score.metrics['map']:.1f}",
            f"{100 * score.gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
            reasons.get(score.head, ""),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["student", "teacher"], choices=["student", "teacher"])
    parser.add_argument("--photos", help="folder with one sub-folder of images per class")
    parser.add_argument("--n-items", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3, help="samples to choose on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    mini = load_mini(share_alike=True)
    for name in args.models:
        model, processor = getattr(mini, name), getattr(mini, f"{name}_processor")
        encoder = as_dual_encoder(model)
        studies = [study(model, processor, mini) for study in (names, emoji, icons)]
        if args.photos:
            studies.append(photos(model, processor, args.photos))
        rows = [row for study in studies for row in rows_of(study, encoder, processor, args.n_items, args.seeds)]
        columns = ["scored on", "choice", "band", "mAP", "gain [95 %]", "gain on views [95 %]"]
        Console(width=140).print(NumberTable(columns, rows, title=name, texts=(0, 1)))


if __name__ == "__main__":
    main()
