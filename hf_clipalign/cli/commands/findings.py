"""`clipalign findings`: from label files to an adapter and a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.data import check_data, check_out
from hf_clipalign.cli.models import chosen_device, chosen_model, load
from hf_clipalign.cli.names import is_built_in_model
from hf_clipalign.cli.options import DeviceOption, ModelOption, console, folder_option, next_step, warn

_SCENARIOS = ("joint", "class-incremental", "label-incremental", "data-incremental")
_LARGEST_BATCH, _STEPS = 6144, 10


def findings(
    train: Annotated[str, typer.Argument(metavar="TRAIN.csv", help="Labels in CheXpert's or MIMIC-CXR's format.")],
    images: Annotated[str, typer.Option(metavar="ROOT", help="Folder of the images that the labels name.")],
    test: Annotated[
        str | None, typer.Option(metavar="TEST.csv", help="Test labels. MIMIC-CXR: default is its split test.")
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="V.csv",
            help="Labels for thresholds and calibration. Default: a part of the training patients, which are then not "
            "learned; MIMIC-CXR: its split validate.",
        ),
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="That part, without --validation; 0: none, and nothing that needs a threshold.")
    ] = 0.2,
    label_format: Annotated[
        str | None, typer.Option("--format", help="chexpert or mimic. Default: by the columns.")
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT.csv", help="MIMIC-CXR's list of images. Default: its split file beside TRAIN.csv."
        ),
    ] = None,
    names: Annotated[
        str | None, typer.Option("--findings", help="Comma-separated columns. Default: CheXpert's five.")
    ] = None,
    scenario: Annotated[str, typer.Option(help=f"{', '.join(_SCENARIOS)}.")] = "joint",
    n_parts: Annotated[int, typer.Option(help="Parts of data-incremental.", min=2)] = 5,
    prompts: Annotated[
        str | None, typer.Option(help="YAML or JSON file of prompts. Default: the published ones.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="An earlier adapter to build on: its folder or Hub id. Default: a fresh one.")
    ] = None,
    uncertain: Annotated[str, typer.Option(help="Labels -1: ignore, zeros or ones, or JSON by finding.")] = "ignore",
    missing: Annotated[str, typer.Option(help="Empty labels, likewise.")] = "ignore",
    epochs: Annotated[float, typer.Option(help="Passes over the data of each task.")] = 10,
    batch_size: Annotated[
        int | None, typer.Option(help="Embeddings per step. Default: 6144 or, if less, a tenth of the smallest task.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-4,
    identity_start: Annotated[
        bool, typer.Option("--identity-start", help="Start the adapter as the identity; published: random.")
    ] = False,
    score: Annotated[str, typer.Option(help="Score for curves: positive or difference.")] = "positive",
    seed: Annotated[int, typer.Option(help="Of parts, adapter and order of the data.")] = 27,
    allow_shared_patients: Annotated[
        bool, typer.Option("--allow-shared-patients", help="Continue though test patients were seen in training.")
    ] = False,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap over patients.", min=1)] = 1000,
    model: ModelOption = None,
    out: Annotated[
        Path,
        folder_option("Folder for index.html, findings.csv, the adapter and the embeddings.", "index.html"),
    ] = Path("findings"),
    device: DeviceOption = "auto",
) -> None:
    """Learn findings of chest X-rays (or any images) from label files, and say what the result is worth.

    The images are embedded once and the embeddings are kept in OUT; small adapters learn the findings by RE-tune. The
    page has, for each finding, AUROC and AUPRC with intervals over patients, a threshold chosen on validation data,
    calibration, subgroups, and plain baselines beside it. The same command resumes a run that was stopped. Research
    software, not for diagnosis.

    Examples:

    [bold]clipalign findings train.csv --test valid.csv --images CheXpert-v1.0-small --model me/biomedical-clip[/]

    [bold]clipalign findings mimic-cxr-2.0.0-chexpert.csv --images mimic-cxr-jpg --model me/biomedical-clip[/]
    """
    if scenario not in _SCENARIOS:
        raise ClipAlignError(f"no scenario {scenario!r}: choose one of {', '.join(_SCENARIOS)}.")
    if not 0 <= holdout < 1:
        raise ClipAlignError(f"holdout is {holdout}: give a share from 0 to below 1.")
    check_data(train, "TRAIN.csv")
    check_out(out, images)
    model = chosen_model(model)
    parts = _labels(train, test, validation, label_format, splits, names, images, holdout, seed)
    leak = _check_leaks(parts, adapter, allow_shared_patients)
    from hf_clipalign.data import FindingPrompts
    from hf_clipalign.trainers import RETuneTrainingArguments
    from hf_clipalign.trainers.retune.data import check_tasks

    tasks = _tasks(scenario, parts["train"], n_parts, seed)
    smallest = min(len(task.rows) for task in tasks)
    settings = RETuneTrainingArguments(
        str(out / "adapter"),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size or min(_LARGEST_BATCH, max(1, -(-smallest // _STEPS))),
        learning_rate=learning_rate,
        uncertain=uncertain,
        missing=missing,
        score=score,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=chosen_device(device) == "cpu",
    )
    check_tasks(tasks, parts["train"], settings)
    texts = None if prompts is None else FindingPrompts.load(prompts)
    loaded, processor = load(model, device)
    data = _embedded(parts, images, loaded, processor, model, out)
    tasks = _tasks(scenario, data["train"].labels, n_parts, seed)
    trainer = _trainer(loaded, processor, settings, data, tasks, texts, adapter, identity_start, scenario)
    trainer.leak = leak or trainer.leak  # an earlier folder's training data are known here alone
    trainer.train(resume_from_checkpoint=True)
    _report(trainer, data, out, resamples, model)


def _labels(
    train: str,
    test: str | None,
    validation: str | None,
    kind: str | None,
    splits: str | None,
    names: str | None,
    images: str,
    holdout: float,
    seed: int,
) -> dict[str, Any]:
    """Labels by part: train, test and, where there is one, validation."""
    from hf_clipalign.data import CHEXPERT_COMPETITION, split_patients
    from hf_clipalign.data.labels.formats import below, label_format, read_findings

    chosen = [name.strip() for name in names.split(",")] if names else list(CHEXPERT_COMPETITION)
    kind = kind or label_format(train)
    if test is None and kind != "mimic":
        raise ClipAlignError("which test labels? Add --test TEST.csv.")
    files = {"train": train, "test": test or train}
    if validation is not None or (kind == "mimic" and test is None):
        files["validation"] = validation or train
    split_names = {"train": "train", "test": "test", "validation": "validate"}
    parts = {}
    for part, file in files.items():
        split = split_names[part] if kind == "mimic" else None
        parts[part] = below(read_findings(file, kind, chosen, splits, split), images)
    if "validation" not in parts and holdout:
        kept, held = split_patients(parts["train"], holdout, seed)
        parts |= {"validation": parts["train"].select(held), "train": parts["train"].select(kept)}
    return parts


def _check_leaks(parts: dict[str, Any], adapter: str | None, allow_shared_patients: bool) -> str:
    """Stops where test data were seen, also by an earlier adapter in its folder: images always, patients unless they
    are allowed; gives the sentence about those of the test data."""
    from hf_clipalign.data import SeenRows, check_leaks
    from hf_clipalign.trainers import RETuneState

    seen, leak = SeenRows.of(parts["train"]), ""
    if adapter is not None:
        seen |= RETuneState(adapter).seen
    others = {"validation": seen, "test": seen}
    if "validation" in parts:
        others["test"] = seen | SeenRows.of(parts["validation"])
    for part in ("validation", "test"):
        if part in parts and (leak := check_leaks(others[part], parts[part], part)):
            if not allow_shared_patients:
                raise ClipAlignError(f"{leak} Give other data, or add --allow-shared-patients.")
            warn("warning:", leak)
    return leak


def _embedded(
    parts: dict[str, Any], images: str, loaded: Any, processor: Any, model: str, out: Path
) -> dict[str, Any]:
    """Embeddings with labels by part; each image goes through the tower once, and features stay in OUT."""
    from dataclasses import replace

    from hf_clipalign.features import LabelledEmbeddings

    found = {}
    for part, labels in parts.items():
        console.print(f"{part}: {counted(len(labels), 'image')} of {Path(labels.name).name}", soft_wrap=True)
        folder = out / "embeddings" / part
        named = replace(labels, name=f"{part} labels")
        found[part] = LabelledEmbeddings.from_images(
            named, images, loaded, processor, folder, model_name=model, progress=False
        )
    return found


def _tasks(scenario: str, labels: Any, n_parts: int, seed: int) -> Any:
    from hf_clipalign.data import class_incremental, data_incremental, joint, label_incremental

    if scenario == "joint":
        return joint(labels)
    if scenario == "data-incremental":
        return data_incremental(labels, n_parts, seed)
    make = class_incremental if scenario == "class-incremental" else label_incremental
    return make(labels, seed=seed)


def _trainer(
    loaded: Any,
    processor: Any,
    settings: Any,
    data: dict[str, Any],
    tasks: Any,
    prompts: Any,
    adapter: str | None,
    identity_start: bool,
    scenario: str,
) -> Any:
    from peft import PeftModel, get_peft_model
    from transformers import PrinterCallback, set_seed

    from hf_clipalign.trainers import RETuneTrainer
    from hf_clipalign.tuners import RETuneConfig

    set_seed(settings.seed)
    wrapped: Any
    if adapter is None:
        wrapped = get_peft_model(loaded, RETuneConfig(identity_start=identity_start))
    else:
        wrapped = PeftModel.from_pretrained(loaded, adapter, is_trainable=True)
    trainer = RETuneTrainer(
        wrapped,
        settings,
        prompts=prompts,
        train_dataset=data["train"],
        eval_dataset=data["test"],
        tasks=tasks,
        processing_class=processor,
        scenario=scenario,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _report(trainer: Any, data: dict[str, Any], out: Path, resamples: int, model: str) -> None:
    from hf_clipalign.hub import describe_run
    from hf_clipalign.trainers.retune.findings_report import measure_findings, write_findings

    table = measure_findings(trainer, data["test"], data.get("validation"), resamples)
    command = describe_run(["clipalign", *sys.argv[1:]])
    trainer.create_model_card(command=command)
    sizes = ", ".join(f"{counted(len(part), 'image')} for {name}" for name, part in data.items())
    page = write_findings(trainer, out, f"{sizes}. Research software, not for diagnosis.")
    console.print(table.ranking_table().to_rich())
    console.print(table.threshold_table().to_rich())
    for text in table.notes:
        warn("note:", text)
    console.print(f"verdict: {table.verdict}", soft_wrap=True)
    console.print(f"page: {page}   table: {out / 'findings.csv'}   adapter: {out / 'adapter'}", soft_wrap=True)
    if not is_built_in_model(model) and not Path(model).exists():  # an adapter needs a base with an address
        next_step("clipalign", "push", out / "adapter", "OWNER/NAME")
