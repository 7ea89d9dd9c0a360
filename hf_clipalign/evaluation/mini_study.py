"""The study behind `clipalign demo`: cross-style retrieval on the built-in set, reported as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, as_dual_encoder
from hf_clipalign.data import ImageSource, Mini, from_dataset, load_mini
from hf_clipalign.evaluation import BandSearch, Head, LabelledRetrieval, comparison_heads, search_band
from hf_clipalign.evaluation.classification import zero_shot_weights
from hf_clipalign.evaluation.comparison import HeadScores, RetrievalComparison, compare_heads, top_matches
from hf_clipalign.evaluation.reports.pages import Match, MatchRow, ReportTable, Section
from hf_clipalign.evaluation.reports.plots import plot_band_grid, plot_similarities, plot_spectrum
from hf_clipalign.features.in_memory import Features, extract_image_features, extract_text_features
from hf_clipalign.isoclip import decompose
from hf_clipalign.metrics import pair_similarities, retrieval_metrics

MODELS = ("student", "teacher")
_CROSS_STYLE = (("openmoji", "noto"), ("line", "openmoji"), ("line", "twemoji"))
_WITHOUT_SHARE_ALIKE = (("fluent", "noto"), ("fluent", "twemoji"), ("twemoji", "noto"))
_EMOJI_TEMPLATE = "an emoji of {}"
_KEYWORDS_PER_QUERY = 4
_RANDOM_ROWS, _CHANGED_ROWS, _MATCHES = 6, 3, 8
_SEED = 0


@dataclass(frozen=True)
class MiniStudy:
    """What one model shows.

    Attributes:
        images, texts (`RetrievalComparison`): heads on novel concepts, image-image and text-text.
        image_search, text_search (`BandSearch`): how the bands were chosen, on known concepts.
        verdict (`str`): the outcome in words, made from the intervals.
        sections (`list[Section]`): for the report.
    """

    images: RetrievalComparison
    texts: RetrievalComparison
    image_search: BandSearch
    text_search: BandSearch
    verdict: str
    sections: list[Section]

    def to_dict(self) -> dict[str, Any]:
        """All scores, for JSON."""
        return {
            "image_band": self.image_search.band,
            "text_band": self.text_search.band,
            "image_image": self.images.to_dict(),
            "text_text": self.texts.to_dict(),
            "verdict": self.verdict,
        }


def run_mini_study(model_name: str, progress: bool = True) -> MiniStudy:
    """Compares heads on the built-in set: the band is chosen on known concepts, everything is scored on novel ones.

    Images of one style search another style; the same emoji is the one relevant item. Four keywords of an emoji
    search the names of all. Without the share-alike images, styles that the models have seen stand in for unseen ones.

    Args:
        model_name (`str`): "student" or "teacher".
        progress (`bool`, *optional*, defaults to `True`): show progress bars.
    """
    mini, styles = _open_mini()
    model, processor = getattr(mini, model_name), getattr(mini, f"{model_name}_processor")
    encoder = as_dual_encoder(model)
    source, rows = _images(mini, sorted({style for pair in styles for style in pair}))
    features = extract_image_features(model, source, processor, progress=progress)
    known, novel = _tasks(features, rows, styles, novel=False), _tasks(features, rows, styles, novel=True)
    search = search_band(list(known.values()), encoder)
    heads = _with_texts(encoder, mini, processor, search)
    images = compare_heads(heads, novel, seed=_SEED)
    known_texts, novel_texts = (_text_task(mini, model, processor, progress, novel=kind) for kind in (False, True))
    text_search = search_band(known_texts, encoder, modality="text")
    text_heads = comparison_heads(encoder, "text", text_search.band)
    texts = compare_heads(text_heads, {"keywords → names": novel_texts}, seed=_SEED)
    verdict = _verdict(images, "image search") + " " + _verdict(texts, "text search")
    spectrum = decompose(encoder.image_projector.matrix, encoder.text_projector.matrix).S
    first = next(iter(novel))
    sections = [
        _table_section(model_name, images, texts, search, text_search, verdict),
        _figure_section(model_name, spectrum, search, text_search, heads, novel[first], first),
        _match_section(model_name, source, rows, features, heads, styles[0], novel[first]),
    ]
    return MiniStudy(images, texts, search, text_search, verdict, sections)


def _open_mini() -> tuple[Mini, Sequence[tuple[str, str]]]:
    try:
        return load_mini(share_alike=True), _CROSS_STYLE
    except ClipAlignError:
        return load_mini(), _WITHOUT_SHARE_ALIKE


def _images(mini: Mini, styles: list[str]) -> tuple[ImageSource, dict[str, np.ndarray]]:
    dataset = mini.emoji_subset(styles=styles)
    columns = {name: np.asarray(dataset[name][:]) for name in ("style", "emoji_id", "novel", "name")}
    return from_dataset(dataset, image_column="image"), columns


def _tasks(
    features: Features, rows: dict[str, np.ndarray], styles: Sequence[tuple[str, str]], novel: bool
) -> dict[str, LabelledRetrieval]:
    tasks = {}
    for query_style, gallery_style in styles:
        query = (rows["style"] == query_style) & (rows["novel"] == novel)
        gallery = (rows["style"] == gallery_style) & (rows["novel"] == novel)
        query &= np.isin(rows["emoji_id"], rows["emoji_id"][gallery])
        tasks[f"{query_style} → {gallery_style}"] = LabelledRetrieval(
            features.values[torch.from_numpy(query)],
            features.values[torch.from_numpy(gallery)],
            rows["emoji_id"][query],
            rows["emoji_id"][gallery],
        )
    return tasks


def _with_texts(encoder: DualEncoder, mini: Mini, processor: Any, search: BandSearch) -> list[Head]:
    texts = zero_shot_weights(encoder, processor, mini.concepts.known, _EMOJI_TEMPLATE)
    return comparison_heads(encoder, "image", search.band, texts)


def _text_task(mini: Mini, model: Any, processor: Any, progress: bool, novel: bool) -> LabelledRetrieval:
    first = {row["emoji_id"]: row for row in mini.emoji_subset(novel=novel).remove_columns("image")}
    rows = [row for row in first.values() if len(row["keywords"]) > 1]
    queries = [", ".join(row["keywords"][:_KEYWORDS_PER_QUERY]) for row in rows]
    names = [_EMOJI_TEMPLATE.format(row["name"]) for row in rows]
    texts = extract_text_features(model, queries + names, processor, truncate=True, progress=progress).values
    labels = np.array([row["emoji_id"] for row in rows])
    return LabelledRetrieval(texts[: len(rows)], texts[len(rows) :], labels, labels)


def _verdict(comparison: RetrievalComparison, what: str) -> str:
    """One sentence on each group of heads, by whether the interval of their gain holds zero."""
    baseline = comparison.scores[0].head
    groups: dict[str, list[str]] = {"better": [], "worse": [], "not clearly different": []}
    for score in comparison.scores[1:]:
        groups[_direction(score)].append(f"{score.head} ({100 * score.gain:+.1f})")
    parts = [f"{', '.join(heads)} {direction}" for direction, heads in groups.items() if heads]
    return f"In {what}, against {baseline}: {'; '.join(parts)}."


def _direction(score: HeadScores) -> str:
    low, high = score.gain_interval
    return "better" if low > 0 else "worse" if high < 0 else "not clearly different"


def _table_section(
    model_name: str,
    images: RetrievalComparison,
    texts: RetrievalComparison,
    search: BandSearch,
    text_search: BandSearch,
    verdict: str,
) -> Section:
    per_task = ReportTable(
        ["head", *images.tasks],
        [[score.head, *(f"{100 * value:.1f}" for value in score.per_task.values())] for score in images.scores],
        "mAP of each pair of styles, percent",
    )
    return Section(
        f"{model_name}: the heads side by side",
        text=[
            f"Chosen on known emoji: image band {search.band[0]},{search.band[1]} (mAP {100 * search.score:.1f}, "
            f"{100 * search.untrimmed_score:.1f} untrimmed), text band {text_search.band[0]},{text_search.band[1]} "
            f"({100 * text_search.score:.1f}, {100 * text_search.untrimmed_score:.1f} untrimmed).",
            verdict + " “Better” and “worse” mean that the 95 % interval of the paired difference does not hold zero.",
            "raw: the model as it is. pre-projection: no projector. centred: the mean of the gallery is subtracted. "
            "centred-each: each side's own mean, for which all queries must be known together. isoclip-compact: the "
            "cosines of isoclip in a smaller dimension. text-pca: another method, on the names of known emoji.",
        ],
        tables=[
            ReportTable(images.columns(), images.rows(), "Images: " + images.caption()),
            per_task,
            ReportTable(texts.columns(), texts.rows(), "Texts: " + texts.caption()),
        ],
    )


def _figure_section(
    model_name: str,
    singular_values: torch.Tensor,
    search: BandSearch,
    text_search: BandSearch,
    heads: Sequence[Head],
    task: LabelledRetrieval,
    task_name: str,
) -> Section:
    pairs = {}
    for head in heads:
        query, gallery = head.embed(task.query, task.gallery)
        pairs[head.name] = pair_similarities(query, task.query_labels, other=gallery, other_labels=task.gallery_labels)
    bands = {"image band": search.band, "text band": text_search.band}
    return Section(
        f"{model_name}: spectrum, bands, and how far pairs are apart",
        figures=[
            (
                "Spectrum of the inter-modal operator and the bands that are kept",
                plot_spectrum(singular_values, bands),
            ),
            ("mAP of every band on known emoji: what the choice was made on", plot_band_grid(search.grid)),
            (
                f"Cosines of the same emoji and of different ones, {task_name}, novel emoji; the overlap (IoU) is "
                "what remains confused",
                plot_similarities(pairs),
            ),
        ],
    )


def _match_section(
    model_name: str,
    source: ImageSource,
    rows: dict[str, np.ndarray],
    features: Features,
    heads: Sequence[Head],
    styles: tuple[str, str],
    task: LabelledRetrieval,
) -> Section:
    before, after = heads[0], next(head for head in heads if head.name == "isoclip")
    gallery_rows = _rows_of(rows, styles[1], task.gallery_labels)
    query_rows = _rows_of(rows, styles[0], task.query_labels)
    chosen = _interesting_queries(before, after, task)
    best = {head.name: top_matches(head, task.query, task.gallery, _MATCHES) for head in (before, after)}
    match_rows = [
        MatchRow(
            head=f"{head.name}, {why}" if head is before else head.name,
            query=_match(source, rows, query_rows[query]),
            matches=[
                _match(source, rows, gallery_rows[item], bool(task.gallery_labels[item] == task.query_labels[query]))
                for item in best[head.name][query]
            ],
        )
        for query, why in chosen
        for head in (before, after)
    ]
    return Section(
        f"{model_name}: query → top {_MATCHES}, before and after",
        text=[
            f"Novel emoji in {styles[0]} style search the novel emoji in {styles[1]} style. A green frame is the same "
            f"emoji. The first {_RANDOM_ROWS} queries are drawn at random; then come the {_CHANGED_ROWS} that gained "
            f"most and the {_CHANGED_ROWS} that lost most."
        ],
        match_rows=match_rows,
    )


def _interesting_queries(before: Head, after: Head, task: LabelledRetrieval) -> list[tuple[int, str]]:
    change = _reciprocal_ranks(after, task) - _reciprocal_ranks(before, task)
    order = np.argsort(change, kind="stable")
    drawn = np.random.default_rng(_SEED).choice(len(change), size=min(_RANDOM_ROWS, len(change)), replace=False)
    return [
        *((int(query), "random") for query in drawn),
        *((int(query), "gained") for query in order[::-1][:_CHANGED_ROWS]),
        *((int(query), "lost") for query in order[:_CHANGED_ROWS]),
    ]


def _reciprocal_ranks(head: Head, task: LabelledRetrieval) -> np.ndarray:
    query, gallery = head.embed(task.query, task.gallery)
    scores = retrieval_metrics(query, gallery, task.query_labels, task.gallery_labels, per_query=True)
    return np.nan_to_num(np.asarray(scores["per_query"]["map"]))


def _rows_of(rows: dict[str, np.ndarray], style: str, emoji_ids: np.ndarray) -> list[int]:
    position = {emoji_id: row for row, emoji_id in enumerate(rows["emoji_id"]) if rows["style"][row] == style}
    return [position[emoji_id] for emoji_id in emoji_ids]


def _match(source: ImageSource, rows: dict[str, np.ndarray], row: int, relevant: bool | None = None) -> Match:
    return Match(source.read(int(row)), str(rows["name"][row]), relevant)
