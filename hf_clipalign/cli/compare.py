"""`clipalign compare`: linear heads and inversions side by side, with the time that a query takes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.common import (
    DeviceOption,
    ImageColumnOption,
    LabelColumnOption,
    ModelOption,
    SplitOption,
    console,
    load,
)
from hf_clipalign.cli.evaluation_run import EvaluationRun, fixed_band, image_features, rich_table, write_results

_DEFAULT_METHODS = {
    "image-image": "baseline,isoclip,text-pca,oti",
    "text-text": "baseline,isoclip,ovi",
    "zero-shot": "baseline,oti,ovi",
}
_DEFAULT_STEPS = {"oti": 150, "ovi": 1000}
_TEXT_PCA_CONCEPTS = 2000

DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        "--dataset",
        help="Folder (class = sub-folder), table, Hub id, features folder of `clipalign embed`; text-text: a "
        "caption file.",
    ),
]
MethodsOption = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated, the first is the reference: baseline, pre-projection, centred, isoclip, text-pca, "
        "oti (images), ovi (texts). Default: what fits the task."
    ),
]
BandOption = Annotated[
    str,
    typer.Option(
        help="For isoclip: auto (chosen on half of the classes, all methods reported on the other half), known, "
        "or K_TOP,K_BOTTOM."
    ),
]
EvaluateAtOption = Annotated[
    str | None, typer.Option(help="Steps whose mAP is shown as a curve, for example 10,25,50,100.")
]
ToleranceOption = Annotated[
    float | None, typer.Option(help="An item stops when its loss fell by less than this in ten steps.")
]


def compare(
    data: DataOption,
    model: ModelOption = "mini-student",
    task: Annotated[str, typer.Option(help="image-image, text-text or zero-shot.")] = "image-image",
    methods: MethodsOption = None,
    gallery: Annotated[str | None, typer.Option(help="image-image: search here instead of in the data.")] = None,
    band: BandOption = "auto",
    steps: Annotated[int | None, typer.Option(help="Of the inversion. Default: 150 for oti, 1000 for ovi.")] = None,
    n_tokens: Annotated[int, typer.Option(help="Pseudo-tokens (oti) or pseudo-patches (ovi) per item.")] = 1,
    oti_template: Annotated[str, typer.Option(help="Prompt around the pseudo-tokens.")] = "a photo of {}",
    evaluate_at: EvaluateAtOption = None,
    tolerance: ToleranceOption = None,
    batch_size: Annotated[int, typer.Option(help="Items inverted together; it decides about rounding.")] = 64,
    template: Annotated[str, typer.Option(help="Prompt for class names (zero-shot, text-pca).")] = "a photo of a {}.",
    image_column: ImageColumnOption = None,
    label_column: LabelColumnOption = None,
    split: SplitOption = None,
    seed: Annotated[int, typer.Option(help="Of the split into halves, the inversion and the bootstrap.", min=0)] = 0,
    device: DeviceOption = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for index.html and results.json.")] = Path("comparison"),
) -> None:
    """Compare baseline, trimmed heads and inversions on one task: scores and milliseconds per query in one table.

    OTI and OVI move every query to the other modality by optimisation (Cross the Gap): they need no training, but
    hundreds of passes for each query. The task zero-shot is the control: there inversion is expected to hurt.

    Examples:

    [bold]clipalign compare --data photos/ --methods baseline,isoclip,text-pca,oti --evaluate-at 10,25,50,100[/]

    [bold]clipalign compare --data captions.csv --task text-text[/]

    [bold]clipalign compare --data photos/ --task zero-shot --steps 100[/]
    """
    from hf_clipalign.data import fill

    if task not in _DEFAULT_METHODS:
        raise ClipAlignError(f"unknown task {task!r}: choose from {', '.join(_DEFAULT_METHODS)}.")
    if gallery is not None and task != "image-image":
        raise ClipAlignError(f"--gallery is for --task image-image, not {task}: drop it.")
    if evaluate_at is not None and task == "zero-shot":
        raise ClipAlignError("--evaluate-at is for retrieval, not --task zero-shot: drop it, or set --steps.")
    fill(template, [])
    names = [name.strip() for name in (methods or _DEFAULT_METHODS[task]).split(",")]
    columns = {"image_column": image_column, "label_column": label_column, "split": split}
    run = EvaluationRun(data, gallery, model, band, names, template, seed, columns, device)
    inversion: dict[str, Any] = {"n_tokens": n_tokens, "tolerance": tolerance, "batch_size": batch_size}
    inversion |= _by_task(task, steps, oti_template, evaluate_at)
    run.model, run.processor = load(model, device)
    run.results = {"model": model, "data": data, "task": task, "gallery": gallery, "seed": seed}
    run.results["inversion"] = inversion
    (_zero_shot if task == "zero-shot" else _retrieval)(run, task, inversion)
    write_results(run, out, "clipalign compare")


def _retrieval(run: EvaluationRun, task_name: str, inversion: dict[str, Any]) -> None:
    from hf_clipalign.evaluation import compare_methods
    from hf_clipalign.evaluation.inter_modal import check_comparison

    modality: Any = task_name.split("-")[0]
    methods = run.heads or []
    check_comparison(run.model, processor=run.processor, modality=modality, methods=methods, **inversion)
    band = _given_band(run, modality) if "isoclip" in methods else None
    task, ids, class_names, tower_ms = _task(run, modality)
    text: list[str] = []
    if "isoclip" in methods and band is None:
        band, task, ids, text = _chosen_band(run, modality, task, ids)
    result = compare_methods(
        run.model, task, processor=run.processor, modality=modality, methods=methods, band=band,
        text_embeds=_texts(run, class_names) if "text-pca" in methods else None, query_ids=ids,
        name=Path(run.data).name or run.data, tower_ms=tower_ms, seed=run.seed, **inversion,
    )  # fmt: skip
    run.results["band"] = band
    _report(run, task_name, result, text)


def _report(run: EvaluationRun, task_name: str, result: Any, text: list[str]) -> None:
    """Prints the table, and keeps it for the page and the numbers."""
    from hf_clipalign.evaluation import ReportTable, Section, plot_snapshots

    comparison = result.retrieval
    for sentence in text:
        console.print(sentence)
    console.print(comparison.table(f"{task_name} retrieval, {run.model_name}"))
    run.results |= {
        "comparison": comparison.to_dict(),
        "milliseconds": result.milliseconds,
        "map_after_steps": result.curve,
        "losses": None if result.inversion is None else result.inversion.losses.tolist(),
    }
    figures = []
    if result.curve:
        baseline = comparison.scores[0].metrics["map"]
        console.print("mAP after steps: " + ", ".join(f"{step}: {100 * v:.1f}" for step, v in result.curve.items()))
        figures = [("mAP over the steps of the inversion", plot_snapshots({"inversion": result.curve}, baseline))]
    table = ReportTable(comparison.columns(), comparison.rows(), comparison.caption())
    run.sections.append(Section(f"{task_name} retrieval", text=text, tables=[table], figures=figures))


def _given_band(run: EvaluationRun, modality: Any) -> tuple[int, int] | None:
    """The band of `--band`, checked against the model; None for `auto`."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.evaluation import comparison_heads

    if run.band == "auto":
        return None
    band = fixed_band(run, modality)
    comparison_heads(as_dual_encoder(run.model), modality, band, names=["isoclip"])
    return band


def _chosen_band(
    run: EvaluationRun, modality: Any, task: Any, ids: list[str]
) -> tuple[tuple[int, int], Any, list[str], list[str]]:
    """A band chosen on one half of the classes; the task and the queries' names of the other; what the page says."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.evaluation import search_band

    chosen_on, reported, kept = _halves(task, ids, run.seed)
    band = search_band(chosen_on, as_dual_encoder(run.model), modality=modality).band
    text = (
        f"Band {band[0]},{band[1]} was chosen on one half of the classes ({len(chosen_on.query)} queries). All scores "
        "are those of the other half."
    )
    return band, reported, kept, [text]


def _zero_shot(run: EvaluationRun, task_name: str, inversion: dict[str, Any]) -> None:
    from hf_clipalign.evaluation import ReportTable, Section, zero_shot_controls
    from hf_clipalign.evaluation.inter_modal import check_zero_shot

    options = {"processor": run.processor, "methods": run.heads or [], **inversion}
    check_zero_shot(run.model, **options)
    images = image_features(run, run.data)
    rows = zero_shot_controls(run.model, images, template=run.template, seed=run.seed, **options)
    run.results["scores"] = rows
    columns = list(rows[0])
    text = [
        [row["method"], *(f"{100 * row[name]:.1f}" for name in columns[1:-1]), f"{row['ms_per_image']:.3g}"]
        for row in rows
    ]
    caption = (
        f"percent; {len(images)} images. baseline: image against prompt; oti: inverted image against prompt; ovi: "
        "image against inverted prompt. The last two are within one modality."
    )
    console.print(rich_table(columns, text, caption))
    run.sections.append(
        Section(f"{task_name} classification".capitalize(), tables=[ReportTable(columns, text, caption)])
    )


def _task(run: EvaluationRun, modality: str) -> tuple[Any, list[str], list[str] | None, float]:
    """Task, names of the queries, class names, and milliseconds of the tower per query."""
    from hf_clipalign.data import load_captions
    from hf_clipalign.evaluation import retrieval_task, tower_milliseconds
    from hf_clipalign.features import extract_text_features

    if modality == "image":
        query = image_features(run, run.data)
        gallery = None if run.second is None else image_features(run, run.second)
        return retrieval_task(query, gallery), query.ids, query.class_names, tower_milliseconds(run.model)
    captions = load_captions(run.data)
    start = time.perf_counter()
    features = extract_text_features(run.model, captions.texts, run.processor, labels=captions.labels)
    milliseconds = 1000 * (time.perf_counter() - start) / len(features)
    return retrieval_task(features), features.ids, None, milliseconds


def _halves(task: Any, ids: list[str], seed: int) -> tuple[Any, Any, list[str]]:
    """The half to choose on, the half to report, and the names of the latter's queries."""
    import numpy as np

    from hf_clipalign.evaluation import split_by_class

    chosen_on, reported = split_by_class(task, seed)
    kept = np.isin(np.asarray(task.query_labels), np.unique(np.asarray(reported.query_labels)))
    return chosen_on, reported, [ids[row] for row in np.flatnonzero(kept)]


def _texts(run: EvaluationRun, class_names: list[str] | None) -> Any:
    """Prompts for text-PCA: the class names if they are enough, else the most frequent concepts of the dictionary."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.data import load_dictionary
    from hf_clipalign.evaluation import zero_shot_weights

    enough = as_dual_encoder(run.model).embed_dim // 2
    names = class_names if class_names and len(class_names) > enough else load_dictionary()[:_TEXT_PCA_CONCEPTS]
    return zero_shot_weights(run.model, run.processor, names, run.template)


def _by_task(task: str, steps: int | None, oti_template: str, evaluate_at: str | None) -> dict[str, Any]:
    """The options of the inversion that are called otherwise where both inversions run."""
    wanted = {name: default if steps is None else steps for name, default in _DEFAULT_STEPS.items()}
    if task == "zero-shot":
        return {"oti_template": oti_template, "oti_steps": wanted["oti"], "ovi_steps": wanted["ovi"]}
    own = "oti" if task == "image-image" else "ovi"
    return {"template": oti_template, "steps": wanted[own], "evaluate_at": _steps(evaluate_at)}


def _steps(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise ClipAlignError(f"{text!r} are no steps: write numbers like 10,25,50.") from error
