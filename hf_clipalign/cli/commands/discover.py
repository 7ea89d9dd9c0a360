"""`clipalign discover`: classes of the images that nobody labelled."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import readable_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import exclusive_lock
from hf_clipalign.cli.data import check_data
from hf_clipalign.cli.models import chosen_device, chosen_model, load, template_for
from hf_clipalign.cli.names import is_built_in_model
from hf_clipalign.cli.options import DeviceOption, ModelOption, console, folder_option, next_step, warn

NOT_WORTH_HAVING = 3
_TEMPLATE = "a photo of a {} ."
_BATCH = 64
_LOGGED_SHARE = 0.2  # of all steps
_SMALL_HEAD: dict[str, Any] = {"hidden_size": 256, "mlp_hidden_size": 512, "bottleneck_size": 128}
_METHODS = ("spectralgcd", "kmeans", "semi-kmeans")
_CENTRING = {"auto": (True, False), "yes": (True,), "no": (False,)}

NovelOption = Annotated[
    str, typer.Option("--n-novel", metavar="auto|K", help="How many novel classes to look for; auto: an estimate.")
]
MethodOption = Annotated[
    str, typer.Option(metavar="METHOD", help=f"Whose classes are written: {', '.join(_METHODS)} (no training).")
]
CentringOption = Annotated[
    str,
    typer.Option(
        metavar="auto|yes|no", help="Subtract the mean similarities. auto: train with and without, keep the better."
    ),
]
CheckOption = Annotated[
    int,
    typer.Option(
        help="Parts of the known classes to hide in turn for the comparison with k-means, a training each; 0: compare "
        "on held-out images of known classes only.",
        min=0,
    ),
]
DictionaryOption = Annotated[
    str | None,
    typer.Option(
        help="File with one concept a line. Default: 20,000 names from WordNet; for the built-in models emoji names."
    ),
]


def discover(
    data: Annotated[str, typer.Argument(metavar="DIR", help="Folder: a sub-folder for each class you know.")],
    model: ModelOption = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", show_default=False, help="The bigger CLIP, named like --model. Needed."),
    ] = None,
    n_novel: NovelOption = "auto",
    unlabelled: Annotated[
        str, typer.Option(metavar="NAME", help="Sub-folder without labels. Images directly in DIR have none either.")
    ] = "unlabelled",
    method: MethodOption = "spectralgcd",
    center_concepts: CentringOption = "auto",
    check_folds: CheckOption = 2,
    dictionary: DictionaryOption = None,
    template: Annotated[str | None, typer.Option(help=f"Prompt of the concepts. Default: {_TEMPLATE!r}.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: about 400 steps, at most 200 epochs.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.", min=0)] = 0,
    device: DeviceOption = "auto",
    out: Annotated[
        Path,
        folder_option("Folder for assignments.csv, summary.json, gallery.html and the model.", "gallery.html"),
    ] = Path("discovery"),
) -> None:
    """Sort images into the classes you know and into new ones that get names (SpectralGCD).

    DIR has a sub-folder for every class you know, and the other images in one called "unlabelled" or directly in it.
    Known classes are hidden in turn to compare SpectralGCD with k-means: only where it is shown to be better, its
    classes are recommended. A second call with the same OUT resumes.

    Exit code 3: all files are written, but the classes have collapsed or k-means is better; the last line says what to
    type.

    Examples:

    [bold]clipalign discover animals/ --model openai/clip-vit-base-patch16 --teacher openai/clip-vit-large-patch14[/]

    [bold]clipalign discover icons/ --model mini:student --teacher mini:teacher --n-novel 5 --out found[/]
    """
    from hf_clipalign.data import GCDSplit

    wanted = _checked(n_novel, method, center_concepts)
    check_data(data, "DIR")
    model = chosen_model(model, data)
    if teacher is None:
        raise ClipAlignError("which teacher? Add --teacher with a bigger CLIP of the same kind, such as mini:teacher.")
    if Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise ClipAlignError(f"{str(out)!r} lies in {data!r}, among the images; name another folder with --out")
    split = GCDSplit.from_folder(data, unlabelled, wanted)
    template = template_for(template, model, _TEMPLATE)
    with exclusive_lock(out / ".discover.lock", f"another run writes to {str(out)!r}: name another folder with --out"):
        student, processor = load(model, device)
        found, concepts, taught = _concepts(split, teacher, _dictionary(dictionary, model), template, device, out)
        console.print(f"{found.n_retained} of {len(found.concept_names)} concepts tell the images apart")
        estimated = None
        if wanted is None:
            wanted, estimated = _counted(split, taught, seed)
        result = _run(
            split, student, processor, taught, concepts, model,
            n_novel=wanted, template=template, method=method, centring=_CENTRING[center_concepts],
            check_folds=check_folds, epochs=epochs, seed=seed, device=device, out=out,
        )  # fmt: skip
        chosen = {"spectralgcd": result.trained, "kmeans": _plain(), "semi-kmeans": _semi()}[method]
        made = {"n_classes_range": estimated, "model": model, "images": readable_name(data)}
        _write(result, str(chosen), taught, concepts, data, out, made)
    _verdict(result, str(chosen), data, ["--model", model, "--teacher", teacher, "--n-novel", wanted, "--out", out])


def _checked(n_novel: str, method: str, centring: str) -> int | None:
    """The number of novel classes, None for an estimate; other words are refused before any work."""
    for name, value, allowed in (("--method", method, _METHODS), ("--center-concepts", centring, tuple(_CENTRING))):
        if value not in allowed:
            raise ClipAlignError(f"{name} is {value!r}: give one of {', '.join(allowed)}")
    if n_novel == "auto":
        return None
    if not n_novel.isdecimal():
        raise ClipAlignError(f"--n-novel is {n_novel!r}: give a number, or auto")
    return int(n_novel)


def _plain() -> str:
    from hf_clipalign.trainers.gcd.discovery import KMEANS_TEACHER

    return KMEANS_TEACHER


def _semi() -> str:
    from hf_clipalign.trainers.gcd.discovery import SEMI_SUPERVISED

    return SEMI_SUPERVISED


def _dictionary(dictionary: str | None, model: str) -> list[str]:
    from hf_clipalign.data import load_dictionary, load_mini

    if dictionary is None and is_built_in_model(model):
        names = load_mini().concepts
        return names.known + names.novel
    return load_dictionary(dictionary)


def _concepts(split: Any, teacher: str, names: list[str], template: str, device: str, out: Path) -> Any:
    from hf_clipalign.trainers import Teacher
    from hf_clipalign.trainers.gcd.preparation import filter_concepts

    loaded, processor = load(chosen_model(teacher), device)
    return filter_concepts(split, Teacher(loaded, processor), names, template, cache=out / "teacher.safetensors")


def _counted(split: Any, taught: Any, seed: int) -> tuple[int, list[int]]:
    from hf_clipalign.trainers.gcd.preparation import count_novel

    n_novel, estimate = count_novel(split, taught.images, seed)
    low, high = estimate.range
    console.print(
        f"estimate: {low} to {high} classes, {estimate.n_known} of them known; looking for {n_novel} novel ones"
    )
    return n_novel, [low, high]


def _run(
    split: Any, student: Any, processor: Any, taught: Any, concepts: list[str], model: str,
    *, n_novel: int, template: str, method: str, centring: tuple[bool, ...], check_folds: int, epochs: int | None,
    seed: int, device: str, out: Path,
) -> Any:  # fmt: skip
    from hf_clipalign.trainers import SpectralGCDTrainingArguments
    from hf_clipalign.trainers.gcd.discovery import discover as discover_classes
    from hf_clipalign.trainers.gcd.discovery import held_out_share, short_run

    on_mini = is_built_in_model(model)
    training = SpectralGCDTrainingArguments(
        output_dir=str(out / "training"),
        seed=seed,
        use_cpu=chosen_device(device) == "cpu",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="steps",
        logging_steps=_LOGGED_SHARE,
        save_total_limit=1,
        crop_share=0.9 if on_mini else 0.875,
        **short_run(len(split), _BATCH, epochs),
    )
    return discover_classes(
        split,
        student,
        processor,
        taught.to(training.device),
        concepts,
        training,
        n_novel=n_novel,
        template=template,
        hold_out=held_out_share(int(split.labelled.sum())),
        check_folds=check_folds,
        centring=centring,
        train=method == "spectralgcd",
        reuse=True,
        say=console.print,
        **(_SMALL_HEAD if on_mini else {}),
    )


def _write(
    result: Any, method: str, taught: Any, concepts: list[str], data: str, out: Path, made: dict[str, Any]
) -> None:
    """Writes the answer, that of the better k-means beside it, and the gallery."""
    from hf_clipalign.trainers.gcd.outcome import (
        assignments,
        comparison,
        write_assignments,
        write_card,
        write_gallery,
        write_summary,
    )

    rows = assignments(result, method, taught, concepts)
    kmeans = assignments(result, result.best_kmeans, taught, concepts)
    write_assignments(out / "assignments.csv", rows)
    write_assignments(out / "assignments-kmeans.csv", kmeans)
    write_summary(out / "summary.json", result, method, rows, made)
    gallery = write_gallery(out, result, method, taught, concepts)
    write_card(result, shlex.join(["clipalign", "discover", data]), "Unlabelled images")
    if result.model is not None:
        result.model.save_pretrained(out / "model")
    console.print(comparison(result).to_rich())
    console.print(f"classes by {method}: {out / 'assignments.csv'}   gallery: {gallery}", soft_wrap=True)


def _verdict(result: Any, method: str, data: str, options: list[Any]) -> None:
    """Says what to run next; exit code 3 where the answer is not worth having."""
    better = "semi-kmeans" if result.best_kmeans == _semi() else "kmeans"
    kmeans = options[-1] / "assignments-kmeans.csv"
    if method != result.trained:
        next_step("open", options[-1] / "gallery.html")
        return
    doubts, undecided = result.doubts(), result.undecided()
    for reason in doubts:
        warn("not worth having:", reason)
    if undecided is not None:
        warn("take k-means:", f"{undecided}. Its classes are in {kmeans}")
    if result.recommended == result.trained:
        next_step("open", options[-1] / "gallery.html")
        return
    if math.isnan(result.checked(method)):
        warn("not compared:", f"label three images of a class or more to see which method is better; see {kmeans} too")
    next_step("clipalign", "discover", data, *options, "--method", better)
    if doubts:
        raise typer.Exit(NOT_WORTH_HAVING)
