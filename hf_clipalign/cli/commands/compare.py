"""`clipalign compare`: linear heads and inversions side by side, with the time that a query takes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import counted
from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.commands.evaluation_run import (
    EvaluationRun,
    fixed_band,
    image_features,
    own_band,
    write_results,
)
from hf_clipalign.cli.data import check_data, check_out, check_path
from hf_clipalign.cli.models import chosen_model, load, template_for
from hf_clipalign.cli.options import (
    DATA_HELP,
    BaseModelOption,
    DeviceOption,
    ImageColumnOption,
    LabelColumnOption,
    ModelOption,
    SplitOption,
    TemplateOption,
    console,
    folder_option,
    next_step,
)

_DEFAULT_METHODS = {
    "image-image": "raw,isoclip,text-pca,oti",
    "text-text": "raw,isoclip,ovi",
    "zero-shot": "raw,oti,ovi",
}
_DEFAULT_STEPS = {"oti": 150, "ovi": 1000}
_TEXT_PCA_CONCEPTS = 2000

MethodsOption = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated, the first is the reference: raw, pre-projection, centred, isoclip, text-pca, "
        "oti (images), ovi (texts). Default: what fits the task."
    ),
]
_BAND_HELP = (
    "For isoclip: auto (chosen on half of the classes, all methods reported on the other half), known, or "
    "K_TOP,K_BOTTOM. Default: auto."
)
EvaluateAtOption = Annotated[
    str | None, typer.Option(help="Steps whose mAP is shown as a curve, for example 10,25,50,100.")
]
ToleranceOption = Annotated[
    float | None, typer.Option(help="An item stops when its loss fell by less than this in ten steps.")
]


def compare(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP + " text-text: a caption file.")],
    model: ModelOption = None,
    task: Annotated[str, typer.Option(help="image-image, text-text or zero-shot.")] = "image-image",
    methods: MethodsOption = None,
    gallery: Annotated[str | None, typer.Option(help="image-image: search here instead of in the data.")] = None,
    image_band: Annotated[str | None, typer.Option(metavar="BAND", help=_BAND_HELP)] = None,
    text_band: Annotated[str | None, typer.Option(metavar="BAND", help="The same for --task text-text.")] = None,
    base_model: BaseModelOption = None,
    band: Annotated[str | None, typer.Option("--band", hidden=True)] = None,
    steps: Annotated[int | None, typer.Option(help="Of the inversion. Default: 150 for oti, 1000 for ovi.")] = None,
    n_tokens: Annotated[int, typer.Option(help="Pseudo-tokens (oti) or pseudo-patches (ovi) per item.")] = 1,
    oti_template: Annotated[str, typer.Option(help="Prompt around the pseudo-tokens.")] = "a photo of {}",
    evaluate_at: EvaluateAtOption = None,
    tolerance: ToleranceOption = None,
    batch_size: Annotated[int, typer.Option(help="Items inverted together; it decides about rounding.")] = 64,
    template: TemplateOption = None,
    image_column: ImageColumnOption = None,
    label_column: LabelColumnOption = None,
    split: SplitOption = None,
    seed: Annotated[int, typer.Option(help="Of the split into halves, the inversion and the bootstrap.", min=0)] = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path, folder_option("Folder for index.html and results.json.", "index.html")] = Path("comparison"),
) -> None:
    """Compare plain and trimmed heads and inversions on one task: scores and milliseconds per query in one table.

    OTI and OVI move every query to the other modality by optimisation (Cross the Gap): they need no training, but
    hundreds of passes for each query. The task zero-shot is the control: there inversion is expected to hurt.

    Examples:

    [bold]clipalign compare photos/ --model my-clip/ --evaluate-at 10,25,50,100[/]

    [bold]clipalign compare captions.csv --task text-text --model my-clip/[/]

    [bold]clipalign compare mini:emoji --task zero-shot --steps 100[/]
    """
    from hf_clipalign.data import fill

    if task not in _DEFAULT_METHODS:
        raise unknown_name("task", task, _DEFAULT_METHODS)
    if gallery is not None and task != "image-image":
        raise ClipAlignError(f"--gallery is for --task image-image, not {task}: drop it.")
    if evaluate_at is not None and task == "zero-shot":
        raise ClipAlignError("--evaluate-at is for retrieval, not --task zero-shot: drop it, or set --steps.")
    chosen_band = own_band(task, "text" if task == "text-text" else "image", image_band, text_band, band)
    check_data(data)
    check_out(out, data, gallery)
    name = chosen_model(model, data)
    prompt = template_for(template, name)
    fill(prompt, [])
    names = _methods(methods, task)
    columns = {"image_column": image_column, "label_column": label_column, "split": split}
    run = EvaluationRun(data, gallery, name, chosen_band, names, prompt, seed, columns, device, base_model)
    inversion: dict[str, Any] = {"n_tokens": n_tokens, "tolerance": tolerance, "batch_size": batch_size}
    inversion |= _by_task(task, steps, oti_template, evaluate_at)
    _open(run, task)
    run.model, run.processor = load(name, device)
    run.template = template_for(template, name, loaded=run.model)
    run.results = run.describe(task=task, gallery=gallery)
    run.results["inversion"] = inversion
    (_zero_shot if task == "zero-shot" else _retrieval)(run, task, inversion)
    write_results(run, out, "clipalign compare")
    next_step("clipalign", "evaluate", data, "--model", name, *(() if task == "image-image" else ("--task", task)))


def _methods(given: str | None, task: str) -> list[str]:
    from hf_clipalign.evaluation.inter_modal import current_names

    return current_names([name.strip() for name in (given or _DEFAULT_METHODS[task]).split(",")])


def _open(run: EvaluationRun, task: str) -> None:
    """Opens the data; what has no labels is refused before the model is loaded."""
    if task == "text-text":
        check_path(run.data)
        return
    halved = task == "image-image" and run.band == "auto" and "isoclip" in (run.heads or [])
    run.open_images(with_names=task == "zero-shot", halved=halved)


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
        name=run.task_name, tower_ms=tower_ms, seed=run.seed, **inversion,
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
        plain = comparison.scores[0].metrics["map"]
        console.print("mAP after steps: " + ", ".join(f"{step}: {100 * v:.1f}" for step, v in result.curve.items()))
        figures = [("mAP over the steps of the inversion", plot_snapshots({"inversion": result.curve}, plain))]
    table = ReportTable(comparison.columns(), comparison.rows(), comparison.caption())
    run.sections.append(Section(f"{task_name} retrieval", text=text, tables=[table], figures=figures))


def _given_band(run: EvaluationRun, modality: Any) -> tuple[int, int] | None:
    """The given band, checked against the model; None for `auto`."""
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
        f"Band {band[0]},{band[1]} was chosen on one half of the classes ({counted(len(chosen_on.query), 'query')}). "
        "All scores are those of the other half."
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
        f"percent; {counted(len(images), 'image')}. raw: image against prompt; oti: inverted image against prompt; "
        "ovi: image against inverted prompt. The last two are within one modality."
    )
    table = ReportTable(columns, text, caption)
    console.print(table.to_rich())
    run.sections.append(Section(f"{task_name} classification".capitalize(), tables=[table]))


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
    """The options of the inversion whose names differ where both inversions run."""
    wanted = {name: default if steps is None else steps for name, default in _DEFAULT_STEPS.items()}
    if task == "zero-shot":
        return {"oti_template": oti_template, "oti_steps": wanted["oti"], "ovi_steps": wanted["ovi"]}
    own = "oti" if task == "image-image" else "ovi"
    return {"template": oti_template, "steps": wanted[own], "evaluate_at": _steps(evaluate_at)}


def _steps(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise ClipAlignError(f"--evaluate-at {text!r} are no steps: write numbers like 10,25,50.") from error
