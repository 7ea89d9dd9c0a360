"""Whether scores mean what `Calibration` says, on images and labels that it has not seen.

    python benchmarks/calibration.py                      # both built-in models, about ten minutes on two cores
    python benchmarks/calibration.py --models teacher --photos ~/photos

Half of a sample calibrates, the other half asks: each view once with its image in the collection and once without.
"false" is the measured share of false best hits among those kept at a target of 5 % and 20 %, with its 95 % bootstrap
interval over images; "found" the share of queries with a match whose image is kept. Beside it: the same with scores
read alone; the best fixed cut-off, which is chosen with the labels of these very queries; and a fixed cut-off that is
the best one of another collection. Then queries that are like nothing in the collection, and hits of the same class:
emoji of another style, which ask for the same emoji.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from hf_clipalign._rows import unit_rows
from hf_clipalign._tables import NumberTable
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import from_dataset, image_folder, load_mini
from hf_clipalign.evaluation import band_from_views
from hf_clipalign.features import ViewFeatures, extract_image_features, view_features
from hf_clipalign.isoclip import compact_projectors
from hf_clipalign.search import Calibration

STRENGTHS, BAND_STRENGTHS = (0.125, 0.25, 0.5, 0.75), (0.25, 0.5, 0.75)
DEPTH, TARGETS = 12, (0.05, 0.2)


class Asked(NamedTuple):
    """Ranked scores `[Q, K]` of queries whose image is there (right or not) and of the same without it."""

    image: np.ndarray
    right: np.ndarray
    present: np.ndarray
    absent: np.ndarray


class Collection(NamedTuple):
    """Images and views of a sample of them under one head."""

    name: str
    embeddings: np.ndarray
    views: np.ndarray
    rows: np.ndarray


def ranked(scores: np.ndarray) -> np.ndarray:
    return -np.sort(-np.partition(scores, -DEPTH, axis=1)[:, -DEPTH:], axis=1)


def ask(collection: Collection, sample: np.ndarray) -> Asked:
    views = collection.views[sample]
    queries = views.reshape(-1, views.shape[-1])
    own = collection.rows[sample].repeat(len(queries) // len(sample))
    scores = queries @ collection.embeddings.T
    right, present = scores.argmax(1) == own, ranked(scores)
    scores[np.arange(len(own)), own] = -np.inf
    return Asked(own, right, present, ranked(scores))


def outcome(asked: Asked, present: np.ndarray, absent: np.ndarray) -> str:
    """Share of false hits among the kept, with its interval over images, and share of images found."""
    false = (present & ~asked.right).astype(float) + absent
    kept = present.astype(float) + absent
    if not kept.any():
        return "–, found 0.0"
    groups = np.unique(asked.image, return_inverse=True)[1]
    totals = np.stack([np.bincount(groups, weights=values) for values in (false, kept)])
    drawn = np.random.default_rng(0).integers(totals.shape[1], size=(2000, totals.shape[1]))
    sums = totals[:, drawn].sum(2)
    low, high = np.nanquantile(np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1), np.nan), [0.025, 0.975])
    found = 100 * (present & asked.right).mean()
    return f"{100 * false.sum() / kept.sum():.1f} [{100 * low:.1f}, {100 * high:.1f}], found {found:.1f}"


def best_cut(asked: Asked, fdr: float) -> float:
    """The lowest fixed cut-off that keeps the false share, chosen with the labels."""
    present, absent = asked.present[:, 0], asked.absent[:, 0]
    cuts = np.unique(np.concatenate([present, absent]))

    def above(values: np.ndarray) -> np.ndarray:
        return len(values) - np.searchsorted(np.sort(values), cuts)

    false = above(present[~asked.right]) + above(absent)
    good = np.flatnonzero(false <= fdr * (false + above(present[asked.right])))
    return float(cuts[good[0]]) if len(good) else np.inf


def judged(collection: Collection, elsewhere: dict[float, float], others: dict[str, np.ndarray]) -> list[list[str]]:
    order = np.random.default_rng(0).permutation(len(collection.rows))
    fitted, held_out = order[::2], order[1::2]
    calibration = Calibration.fit(collection.embeddings, collection.views[fitted], collection.rows[fitted])
    asked = ask(collection, held_out)
    table = []
    for fdr in TARGETS:
        cut, flat = best_cut(asked, fdr), calibration.threshold(fdr)
        keep = lambda lists, fdr=fdr: calibration.false_share(lists)[:, 0] <= fdr  # noqa: E731
        unlike = "; ".join(
            f"{name} {100 * keep(ranked(v @ collection.embeddings.T)).mean():.1f}" for name, v in others.items()
        )
        table.append(
            [
                f"{collection.name}, R = {calibration.reference_rank}",
                f"{100 * fdr:.0f}",
                outcome(asked, keep(asked.present), keep(asked.absent)),
                outcome(asked, asked.present[:, 0] >= flat, asked.absent[:, 0] >= flat),
                outcome(asked, asked.present[:, 0] >= cut, asked.absent[:, 0] >= cut),
                outcome(asked, asked.present[:, 0] >= elsewhere[fdr], asked.absent[:, 0] >= elsewhere[fdr]),
                unlike,
            ]
        )
    return table


def same_class(collection: Collection, queries: np.ndarray, labels: np.ndarray, own: np.ndarray) -> list[list[str]]:
    """Queries of another style: half of them have their emoji in the collection, of the others it is taken out."""
    calibration = Calibration.fit(collection.embeddings, collection.views, collection.rows)
    scores = queries @ collection.embeddings.T
    right, present = own[scores.argmax(1)] == labels, ranked(scores)
    scores[labels[:, None] == own[None]] = -np.inf
    asked = Asked(np.arange(len(queries)), right, present, ranked(scores))
    rows = []
    for fdr in TARGETS:
        cut = best_cut(asked, fdr)
        keep = [calibration.false_share(lists)[:, 0] <= fdr for lists in (asked.present, asked.absent)]
        fixed = outcome(asked, asked.present[:, 0] >= cut, asked.absent[:, 0] >= cut)
        rows.append(["same emoji, other style", f"{100 * fdr:.0f}", outcome(asked, *keep), "", fixed, "", ""])
    return rows


def run(name: str, mini: Any, photos: str | None, n_items: int) -> None:
    model, processor = getattr(mini, name), getattr(mini, f"{name}_processor")
    encoder = as_dual_encoder(model)
    emoji = mini.emoji_subset(styles=["noto", "twemoji"])
    style, label = (np.asarray(emoji[column][:]) for column in ("style", "emoji_id"))
    sources = {
        "emoji": from_dataset(emoji.select(np.flatnonzero(style == "noto")), image_column="image"),
        "icons": from_dataset(mini.icons, image_column="image"),
        **({"photos": image_folder(photos)} if photos else {}),
    }
    values = {
        key: extract_image_features(model, source, processor, progress=False).values for key, source in sources.items()
    }
    settings = {"n_items": n_items, "strengths": STRENGTHS, "progress": False}
    views = {key: view_features(encoder, source, processor, **settings) for key, source in sources.items()}
    twemoji = from_dataset(emoji.select(np.flatnonzero(style == "twemoji")), image_column="image")
    other = extract_image_features(model, twemoji, processor, progress=False).values
    emoji_views = views["emoji"]
    chosen = band_from_views(_cut(emoji_views, BAND_STRENGTHS), encoder).band
    image, text = encoder.image_projector.matrix.detach(), encoder.text_projector.matrix.detach()
    heads = {"raw": image} | (
        {} if chosen is None else {f"band {chosen}": compact_projectors(image, text, *chosen)[0]}
    )
    for title, matrix in heads.items():
        embed = lambda features, matrix=matrix: unit_rows(features @ matrix.T).numpy()  # noqa: E731
        collections = {
            key: Collection(key, embed(values[key]), _views(views[key], embed), views[key].rows) for key in sources
        }
        rows = []
        for key, collection in collections.items():
            source = next(other_key for other_key in collections if other_key != key)
            asked = ask(collections[source], np.arange(len(collections[source].rows)))
            others = {k: c.embeddings[::7] for k, c in collections.items() if k != key}
            rows += judged(collection, {fdr: best_cut(asked, fdr) for fdr in TARGETS}, others)
        rows += same_class(collections["emoji"], embed(other), label[style == "twemoji"], label[style == "noto"])
        columns = ["collection", "target", "false, found", "scores read alone", "best fixed (with labels)"]
        columns += ["best fixed elsewhere", "kept of unlike queries"]
        Console(width=190).print(NumberTable(columns, rows, title=f"{name}, {title} (all in %)", texts=(0,)))


def _cut(views: ViewFeatures, wanted: tuple[float, ...]) -> ViewFeatures:
    places = [views.strengths.index(strength) for strength in wanted]
    return ViewFeatures(views.originals, views.views[:, places], wanted, views.rows, views.modality)


def _views(views: ViewFeatures, embed: Any) -> np.ndarray:
    kept = _cut(views, STRENGTHS[:3]).views
    return embed(kept.reshape(-1, kept.shape[-1])).reshape(*kept.shape[:-1], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["student", "teacher"], choices=["student", "teacher"])
    parser.add_argument("--photos", help="folder of photos")
    parser.add_argument("--n-items", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    mini = load_mini(share_alike=True)
    for name in args.models:
        run(name, mini, args.photos, args.n_items)


if __name__ == "__main__":
    main()
