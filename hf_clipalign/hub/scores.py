"""Measured results, as cards show them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.evaluation.comparison import HeadScores, RetrievalComparison
from hf_clipalign.evaluation.reports.pages import ReportTable
from hf_clipalign.hub.cards import CardEvaluation, ModelCardInfo, is_hub_id

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_METRICS = {
    "map": ("mean_average_precision", "mAP, %"),
    "recall_at_1": ("recall_at_1", "recall@1, %"),
    "recall_at_5": ("recall_at_5", "recall@5, %"),
}
_TASKS = {
    "image": ("image-feature-extraction", "Image-image retrieval"),
    "text": ("sentence-similarity", "Text-text retrieval"),
}


def retrieval_evaluation(
    comparison: RetrievalComparison | Mapping[str, Any],
    head: str,
    modality: str = "image",
    *,
    dataset_name: str,
    dataset_type: str,
    verdict: str = "",
) -> CardEvaluation:
    """A comparison of heads for a card: one head's numbers for the metadata, all heads in the table.

    Args:
        comparison (`RetrievalComparison` or its `to_dict()`): the measured heads.
        head (`str`): which one the model is: `"raw"`, `"isoclip"`, `"isoclip-compact"` …
        modality (`"image"` or `"text"`): what was compared. Default `"image"`.
        dataset_name (`str`): for people.
        dataset_type (`str`): Hub id of the data set, or a short name where it has none.
        verdict (`str`): the outcome in words.

    Raises:
        `ClipAlignError`: that head was not measured.
    """
    if not isinstance(comparison, RetrievalComparison):
        comparison = _as_comparison(comparison)
    found = {score.head: score for score in comparison.scores}
    if head not in found:
        raise ClipAlignError(f"the results hold no head {head!r}, only {', '.join(found)}: evaluate it first.")
    results = _eval_results(found[head], modality, dataset_name, dataset_type)
    table = ReportTable(comparison.columns(), comparison.rows(), comparison.caption())
    title = f"{_TASKS[modality][1]}, {dataset_name}: this model is “{head}”"
    return CardEvaluation(title, results, table, verdict)


def read_evaluations(path: str | Path, info: ModelCardInfo) -> list[CardEvaluation]:
    """Reads the `results.json` of `clipalign evaluate` for the card of one model.

    Args:
        path (`str` or `Path`): the file.
        info (`ModelCardInfo`): the model: its kind says which head it is, its band must be the measured one.

    Raises:
        `ClipAlignError`: the file is no such results file, or another band was measured.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        modality, comparison = results["task"].split("-")[0], results["comparison"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClipAlignError(
            f"{str(path)!r} is no results.json of `clipalign evaluate` with a comparison of heads "
            f"({type(error).__name__}: {error}). Run it with --task image-image or text-text."
        ) from error
    band = getattr(info, f"{modality}_band")
    if info.head != "raw" and (band is None or list(band) != list(results.get("band") or ())):
        raise ClipAlignError(
            f"{str(path)!r} was measured with the {modality} band {results.get('band')}, the model has {band}: "
            f"evaluate again with --band of the model."
        )
    data = str(results.get("data", "data"))
    name = data if is_hub_id(data) and not Path(data).exists() else Path(data).name
    return [retrieval_evaluation(comparison, info.head, modality, dataset_name=name, dataset_type=name)]


def _as_comparison(values: Mapping[str, Any]) -> RetrievalComparison:
    try:
        scores = [HeadScores(**score) for score in values["scores"]]
        return RetrievalComparison(**{**values, "scores": scores})
    except (KeyError, TypeError) as error:
        raise ClipAlignError(f"the results are no comparison of heads: {error}. Evaluate again.") from error


def _eval_results(score: HeadScores, modality: str, dataset_name: str, dataset_type: str) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    task_type, task_name = _TASKS[modality]
    return [
        EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            metric_type=metric_type,
            metric_name=metric_name,
            metric_value=round(100 * score.metrics[name], 2),
        )
        for name, (metric_type, metric_name) in _METRICS.items()
        if name in score.metrics
    ]
