"""`clipalign evaluate`: heads side by side on your data."""

from __future__ import annotations

from collections.abc import Callable
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
from hf_clipalign.cli.store_commands.embeddings_evaluation import evaluate_embeddings, holds_embeddings

_BAND_HELP = (
    "{}: auto (chosen on half of the classes, reported on the other half), known (the published one), none (no "
    "IsoCLIP), or K_TOP,K_BOTTOM. Default: auto."
)


def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help=DATA_HELP + " text-text: a caption file, or a folder with queries, corpus and qrels."
        ),
    ],
    model: ModelOption = None,
    task: Annotated[str, typer.Option(help="image-image, text-text, ncm or zero-shot.")] = "image-image",
    second: Annotated[
        str | None,
        typer.Option(
            "--gallery",
            "--train",
            help="image-image: search here instead of in DATA. ncm: the labelled training data.",
        ),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: raw, linearised (SigLIP), pre-projection, centred, centred-each, isoclip, "
            "isoclip-compact, text-pca. Default: all that apply."
        ),
    ] = None,
    image_band: Annotated[str | None, typer.Option(metavar="BAND", help=_BAND_HELP.format("Image tasks"))] = None,
    text_band: Annotated[str | None, typer.Option(metavar="BAND", help="The same for --task text-text.")] = None,
    base_model: BaseModelOption = None,
    band: Annotated[str | None, typer.Option("--band", hidden=True)] = None,
    template: TemplateOption = None,
    image_column: ImageColumnOption = None,
    label_column: LabelColumnOption = None,
    split: SplitOption = None,
    seed: Annotated[int, typer.Option(help="Of the split into halves and of the bootstrap.", min=0)] = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path, folder_option("Folder for index.html and results.json.", "index.html")] = Path("evaluation"),
) -> None:
    """Score heads side by side: a table here, results.json and index.html in a folder.

    The images are read once; every head and every band is scored from the same features. Unless a band is given, it
    is chosen on one half of the classes and every head is reported on the other half.

    Examples:

    [bold]clipalign evaluate photos/ --model openai/clip-vit-base-patch32[/]

    [bold]clipalign evaluate test/ --task ncm --train train/ --image-band 150,50 --model my-clip/[/]

    [bold]clipalign evaluate captions.csv --task text-text --model my-clip/[/]

    [bold]clipalign evaluate mini:emoji[/]
    """
    if task not in _TASKS:
        raise unknown_name("task", task, _TASKS)
    modality = "text" if task == "text-text" else "image"
    chosen_band = own_band(task, modality, image_band, text_band, band)
    check_data(data)
    check_out(out, data, second)
    columns = {"image_column": image_column, "label_column": label_column, "split": split}
    names = None if heads is None else [name.strip() for name in heads.split(",")]
    if holds_embeddings(data):
        stored = EvaluationRun(data, second, model or "not known", chosen_band, names, "", seed, columns, device)
        stored.results = {"model": model, "data": data, "task": task, "second": second, "seed": seed}
        evaluate_embeddings(stored, task, out)
        return
    name = chosen_model(model, data)
    prompt = template_for(template, name)
    run = EvaluationRun(data, second, name, chosen_band, names, prompt, seed, columns, device, base_model)
    _check(run, task)
    run.model, run.processor = load(name, device)
    run.template = template_for(template, name, loaded=run.model)
    run.results = run.describe(task=task, second=second)
    _TASKS[task](run)
    write_results(run, out, "clipalign evaluate")
    _next(run, task, modality)


def _check(run: EvaluationRun, task: str) -> None:
    """Opens the data, and refuses what would only fail after the features are there."""
    from hf_clipalign.evaluation import HEAD_NAMES

    for head in run.heads or []:
        if head not in HEAD_NAMES:
            raise unknown_name("head", head, HEAD_NAMES)
    if run.band not in ("auto", "known", "none"):
        fixed_band(run, "image")
    if task == "text-text":
        check_path(run.data)
        return
    if task == "ncm" and run.second is None:
        raise ClipAlignError("ncm needs labelled training data: add --train DATA.")
    if task == "ncm" and run.band == "auto":
        raise ClipAlignError(
            "ncm takes a given band: --image-band K_TOP,K_BOTTOM, known or none (choose it with --task image-image)."
        )
    run.open_images(with_names=task == "zero-shot", halved=task == "image-image" and run.band == "auto")


def _next(run: EvaluationRun, task: str, modality: str) -> None:
    """The command that follows: trim where IsoCLIP is clearly better, else another comparison."""
    model = ("--model", run.model_name)
    if "comparison" not in run.results:
        next_step("clipalign", "evaluate", run.data, *model)
        return
    scores = {score["head"]: score for score in run.results["comparison"]["scores"]}
    band = run.results["band"]
    if band and scores.get("isoclip", {}).get("gain_interval", (0, 0))[0] > 0:
        next_step("clipalign", "trim", *model, f"--{modality}-band", f"{band[0]},{band[1]}", "--out", "isoclip")
        return
    if "isoclip" in scores:
        console.print(f"isoclip is not clearly better than {next(iter(scores))} here.")
    next_step("clipalign", "compare", run.data, *model, "--task", task)


def _image_image(run: EvaluationRun) -> None:
    from hf_clipalign.evaluation import retrieval_task

    query = image_features(run, run.data)
    gallery = None if run.second is None else image_features(run, run.second)
    _compare(run, retrieval_task(query, gallery), "image", query.class_names, query.ids)


def _text_text(run: EvaluationRun) -> None:
    from hf_clipalign.data import is_qrels_folder, load_captions, load_qrels
    from hf_clipalign.evaluation import judged_task, retrieval_task
    from hf_clipalign.features import extract_text_features

    if is_qrels_folder(run.data):
        judged = load_qrels(run.data, split=run.columns["split"])
        queries, corpus = (
            extract_text_features(run.model, part.texts, run.processor, truncate=True)
            for part in (judged.queries, judged.corpus)
        )
        _compare(run, judged_task(queries, corpus, judged), "text", None, judged.queries.ids or [])
        return
    captions = load_captions(run.data)
    features = extract_text_features(run.model, captions.texts, run.processor, labels=captions.labels)
    _compare(run, retrieval_task(features), "text", None, captions.texts)


def _nearest_class_mean(run: EvaluationRun) -> None:
    from hf_clipalign.evaluation import ReportTable, Section, nearest_class_mean_scores

    assert run.second is not None
    train, test = image_features(run, run.second), image_features(run, run.data)
    heads = _heads(run, "image", fixed_band(run, "image"), train.class_names)
    rows = nearest_class_mean_scores([head for head in heads if head.centering == "none"], train, test)
    run.results["scores"] = rows
    columns = ["head", "dimension", *[name for name in rows[0] if name not in ("head", "dimension")]]
    text = [[row["head"], str(row["dimension"]), *(f"{100 * row[name]:.1f}" for name in columns[2:])] for row in rows]
    caption = f"percent; nearest class mean of {counted(len(train), 'image')}, {len(test)} tested"
    table = ReportTable(columns, text, caption)
    console.print(table.to_rich())
    run.sections.append(Section("Nearest class mean", tables=[table]))


def _zero_shot(run: EvaluationRun) -> None:
    from torch.nn.functional import normalize

    from hf_clipalign._rows import similarities
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.evaluation import ReportTable, Section, zero_shot_weights
    from hf_clipalign.features import project_image_features
    from hf_clipalign.metrics import mean_per_class_accuracy, top_k_accuracy

    features = image_features(run, run.data)
    encoder = as_dual_encoder(run.model)
    weights = zero_shot_weights(encoder, run.processor, features.class_names, run.template).cpu().float()
    embeds = normalize(project_image_features(encoder, features.values), dim=-1)
    logits = similarities(embeds, weights)
    scores = top_k_accuracy(logits, features.labels, ks=tuple(k for k in (1, 5) if k <= len(weights)))
    scores["mean_per_class"] = mean_per_class_accuracy(logits, features.labels)
    run.results["scores"] = scores
    caption = (
        f"percent; {counted(len(features), 'image')}, {counted(len(weights), 'class')}, prompt "
        f"{run.template!r}. Image-text similarity keeps the original projectors: "
        "trimming is for image-image and text-text similarity only."
    )
    row = ["raw", *(f"{100 * value:.1f}" for value in scores.values())]
    table = ReportTable(["head", *scores], [row], caption)
    console.print(table.to_rich())
    run.sections.append(Section("Zero-shot classification", tables=[table]))


_TASKS: dict[str, Callable[[EvaluationRun], None]] = {
    "image-image": _image_image,
    "text-text": _text_text,
    "ncm": _nearest_class_mean,
    "zero-shot": _zero_shot,
}


def _compare(run: EvaluationRun, task: Any, modality: Any, class_names: list[str] | None, ids: list[str]) -> None:
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.evaluation import (
        ReportTable,
        Section,
        compare_heads,
        plot_band_grid,
        plot_similarities,
        plot_spectrum,
        search_band,
        split_by_class,
        split_by_query,
    )
    from hf_clipalign.evaluation.tasks import JudgedPairs
    from hf_clipalign.isoclip import decompose
    from hf_clipalign.metrics import pair_similarities

    encoder, name = as_dual_encoder(run.model), run.task_name
    section = Section(f"{modality}-{modality} retrieval", text=[], tables=[], figures=[])
    if run.band == "auto":
        judged = isinstance(task, JudgedPairs)
        chosen_on, task = (split_by_query if judged else split_by_class)(task, run.seed)
        search = search_band(chosen_on, encoder, modality=modality)
        band: Any = search.band
        run.results["band_search"] = {"band": band, "score": search.score, "untrimmed": search.untrimmed_score}
        halved = "queries" if judged else "classes"
        section.text = [
            f"Band {band[0]},{band[1]} was chosen on one half of the {halved} "
            f"({counted(len(chosen_on.query), 'query')}, mAP {100 * search.score:.1f} there, "
            f"{100 * search.untrimmed_score:.1f} untrimmed). The scores below are "
            "those of the other half."
        ]
        section.figures = [("mAP of every band, on the half it was chosen on", plot_band_grid(search.grid))]
        query_ids = None
    else:
        band, query_ids = fixed_band(run, modality), {name: ids}
        encoder = as_dual_encoder(run.model)
    heads = _heads(run, modality, band, class_names)
    comparison = compare_heads(heads, {name: task}, query_ids=query_ids, seed=run.seed)
    console.print(comparison.table(f"{modality}-{modality} retrieval, {run.model_name}"))
    notes = _missing_heads(run, heads, modality, class_names)
    for note in notes:
        console.print(note, style="dim", soft_wrap=True, markup=False)
    spectrum = decompose(encoder.image_projector.matrix, encoder.text_projector.matrix)
    run.results |= {"band": band, "comparison": comparison.to_dict()}
    caption = " ".join([comparison.caption(), *notes]).strip()
    section.tables = [ReportTable(comparison.columns(), comparison.rows(), caption)]
    pairs = {}
    for head in heads if not isinstance(task, JudgedPairs) else []:
        query, gallery = head.embed(task.query, task.gallery)
        other = {} if task.exclude_self else {"other": gallery, "other_labels": task.gallery_labels}
        pairs[head.name] = pair_similarities(query, task.query_labels, **other)
    section.figures = [
        *([("Cosines of pairs of the same class and of other pairs", plot_similarities(pairs))] if pairs else []),
        *section.figures,
        ("Spectrum of the inter-modal operator", plot_spectrum(spectrum.S.cpu(), {modality: band or (0, 0)})),
    ]
    run.sections.append(section)


def _missing_heads(run: EvaluationRun, heads: list[Any], modality: str, class_names: list[str] | None) -> list[str]:
    """Why text-PCA, which only texts can give, is not in the table, and how to have it."""
    if modality != "image" or run.heads is not None or any(head.name == "text-pca" for head in heads):
        return []
    from hf_clipalign.backbones import as_dual_encoder

    needed = as_dual_encoder(run.model).embed_dim // 2 + 1
    found = "the data have no class names" if class_names is None else f"the data have {len(class_names)} class names"
    return [
        f"text-pca is not shown: it takes the texts of at least {needed} class names, and {found}. Give data with "
        "more class folders, or texts of your own to comparison_heads(encoder, text_embeds=…) in Python."
    ]


def _heads(
    run: EvaluationRun, modality: Any, band: tuple[int, int] | None, class_names: list[str] | None
) -> list[Any]:
    from dataclasses import replace

    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.evaluation import comparison_heads, zero_shot_weights

    encoder = as_dual_encoder(run.model)
    texts = None
    if class_names is not None and modality == "image" and len(class_names) > encoder.embed_dim // 2:
        texts = zero_shot_weights(encoder, run.processor, class_names, run.template)
    heads = comparison_heads(encoder, modality, band, texts, run.heads)
    return [replace(head, matrix=None if head.matrix is None else head.matrix.float().cpu()) for head in heads]
