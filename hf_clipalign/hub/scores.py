"""Measured results, as cards show them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_clipalign._checks.quoting import quoted, short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_read
from hf_clipalign._io.limited_json import MAX_BYTES, BadJson, check_schema, checked_json, entries, natural, number
from hf_clipalign._io.masking import is_hub_id, public_name
from hf_clipalign.evaluation import IncrementalResult, ResultTable
from hf_clipalign.evaluation.comparison import HeadScores, RetrievalComparison
from hf_clipalign.evaluation.reports.pages import ReportTable
from hf_clipalign.hub.cards import CardEvaluation, ModelCardInfo

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


def interval(value: Any) -> bool:
    """Whether a value is an interval, `(low, high)`."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(number, value))


def retrieval_task(value: Any) -> bool:
    """Whether a value names a task whose heads are compared."""
    return value in ("image-image", "text-text")


_SCORE = {
    **{"head": str, "width": natural, "metrics": entries(number), "map_interval": interval, "gain": number},
    **{"gain_interval": interval, "per_task": entries(number), "ms_per_query?": (None, number)},
}
_COMPARISON = {
    **{"scores": [_SCORE], "tasks": [str], "n_queries": natural},
    **{"n_without_positive": natural, "without_positive": [str]},
}
_RESULTS = {"task": retrieval_task, "comparison": _COMPARISON, "band?": (None, [natural]), "data?": str}


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
        modality (`"image"` or `"text"`, *optional*, defaults to `"image"`): what was compared.
        dataset_name (`str`): for people.
        dataset_type (`str`): Hub id of the data set, or a short name where it has none.
        verdict (`str`): the outcome in words.

    Raises:
        `ClipAlignError`: that head was not measured.

    Example:
        ```python
        >>> from hf_clipalign.evaluation import compare_heads, comparison_heads, retrieval_task
        >>> from hf_clipalign.hub import retrieval_evaluation
        >>> comparison = compare_heads(comparison_heads(encoder, band=(1, 48)), {"emoji": retrieval_task(features)})
        >>> evaluation = retrieval_evaluation(comparison, "isoclip", dataset_name="emoji", dataset_type="emoji")
        >>> evaluation.title
        'Image-image retrieval, emoji: this model is “isoclip”'
        ```
    """
    if not isinstance(comparison, RetrievalComparison):
        comparison = _as_comparison(comparison)
    found = {score.head: score for score in comparison.scores}
    if head not in found:
        raise ClipAlignError(f"the results hold no head {head!r}, only {quoted(found)}: evaluate it first.")
    results = _eval_results(found[head], modality, dataset_name, dataset_type)
    table = ReportTable(comparison.columns(), comparison.rows(), comparison.caption())
    title = f"{_TASKS[modality][1]}, {dataset_name}: this model is “{head}”"
    return CardEvaluation(title, results, table, verdict)


def table_evaluation(results: ResultTable, row: str | None = None) -> CardEvaluation:
    """A table of accuracies for a card, one row of it for the metadata.

    Args:
        results (`ResultTable`): the numbers to show.
        row (`str`, *optional*): the row that is the card's model. Defaults to the only row; of several none, so that
            no other model's numbers are taken for this one's.

    Raises:
        `ClipAlignError`: there is no such row.
    """
    if row is not None and row not in results.scores:
        raise ClipAlignError(f"the results have no row {row!r}, only {quoted(results.scores)}: name one of them.")
    if row is None and len(results.scores) == 1:
        row = next(iter(results.scores))
    runs = {} if row is None else {test: list(values.values()) for test, values in results.scores[row].items()}
    own = [
        _zero_shot_result(test, "accuracy", "accuracy, %", round(100 * values[0], 2))
        for test, values in runs.items()
        if len(values) == 1 and math.isfinite(values[0])  # a mean over several is no number of this model
    ]
    table = ReportTable(["method", *results.tests], results.cells())
    return CardEvaluation(f"{results.title or 'Accuracy'}{results.unit}", own, table, results.note)


def incremental_evaluation(result: IncrementalResult, dataset: str) -> CardEvaluation:
    """The scores after every task for a card, the means after the last one for the metadata.

    Args:
        result (`IncrementalResult`): what was measured, after one task or more.
        dataset (`str`): what the test data are called; not by their file, which may tell who the people are.
    """
    last = zip(result.findings, result.scores["auroc"][-1], strict=True)
    scored = [name for name, score in last if math.isfinite(score)]
    over = "findings" if scored == result.findings else ", ".join(scored)
    labels = {"macro_auroc": f"AUROC, mean over {over}", "macro_f1": f"F1, mean over {over}"}
    own = [
        _zero_shot_result(dataset, key, label, round(result.means[-1][key], 4))
        for key, label in labels.items()
        if math.isfinite(result.means[-1][key])
    ]
    return CardEvaluation(f"{dataset}, after every task", own, result.table("auroc"))


def read_evaluations(path: str | Path, info: ModelCardInfo) -> list[CardEvaluation]:
    """Reads the `results.json` of `clipalign evaluate` for the card of one model.

    Args:
        path (`str` or `Path`): the file.
        info (`ModelCardInfo`): the model: its kind says which head it is, its band must be the measured one.

    Raises:
        `ClipAlignError`: the file is no such results file, or another band was measured.

    Example:
        ```python
        >>> import json
        >>> from hf_clipalign.evaluation import compare_heads, comparison_heads, retrieval_task
        >>> from hf_clipalign.hub import ModelCardInfo, read_evaluations
        >>> comparison = compare_heads(comparison_heads(encoder, band=(1, 48)), {"emoji": retrieval_task(features)})
        >>> results = {"task": "image-image", "band": [1, 48], "data": "emoji", "comparison": comparison.to_dict()}
        >>> _ = open("results.json", "w").write(json.dumps(results))  # `clipalign evaluate` writes such a file
        >>> info = ModelCardInfo("isoclip", "clip-isoclip", "me/clip-isoclip", image_band=(1, 48))
        >>> [evaluation.title for evaluation in read_evaluations("results.json", info)]
        ['Image-image retrieval, emoji: this model is “isoclip”']
        ```
    """
    try:
        with explained_read(path):
            results = checked_json(Path(path).read_bytes(), _RESULTS, MAX_BYTES)
    except BadJson as error:
        raise ClipAlignError(
            f"{str(path)!r} is no results.json of `clipalign evaluate` with a comparison of heads: it {error}. Run it "
            "with --task image-image or text-text."
        ) from error
    modality, comparison = results["task"].split("-")[0], results["comparison"]
    band = getattr(info, f"{modality}_band")
    if info.head != "raw" and (band is None or list(band) != list(results.get("band") or ())):
        raise ClipAlignError(
            f"{str(path)!r} was measured with the {modality} band {short(results.get('band'))}, the model has {band}: "
            f"evaluate again with --{modality}-band of the model."
        )
    name = public_name(results.get("data", "data"))
    return [retrieval_evaluation(comparison, info.head, modality, dataset_name=name, dataset_type=name)]


def _zero_shot_result(dataset: str, metric: str, label: str, value: float) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="zero-shot-image-classification",
        dataset_type=dataset if is_hub_id(dataset) else re.sub(r"[^\w.]+", "-", dataset),
        dataset_name=dataset,
        metric_type=metric,
        metric_name=label,
        metric_value=value,
    )


def _as_comparison(values: Mapping[str, Any]) -> RetrievalComparison:
    try:
        check_schema(values, _COMPARISON)
    except BadJson as error:
        raise ClipAlignError(f"no comparison of heads: it {error}. Evaluate again.") from error
    known = [
        {field.name: score[field.name] for field in fields(HeadScores) if field.name in score}
        for score in values["scores"]
    ]
    scores = [HeadScores(**score) for score in known]
    if not scores or any(score.metrics.keys() != scores[0].metrics.keys() for score in scores):
        raise ClipAlignError(
            "no comparison of heads: not all of them were measured by the same metrics. Evaluate again."
        )
    return RetrievalComparison(
        **{field.name: values[field.name] for field in fields(RetrievalComparison)} | {"scores": scores}
    )


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
