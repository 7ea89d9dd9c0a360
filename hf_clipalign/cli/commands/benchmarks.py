"""`clipalign benchmarks`: the papers' data sets, which of them lie on a disk, and scores on them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._tables import NumberTable
from hf_clipalign.cli.command import Command, Commands, ResumingCommand
from hf_clipalign.cli.models import chosen_model, load
from hf_clipalign.cli.options import DeviceOption, ModelOption, console, folder_option, next_step, parse_band

group = typer.Typer(
    name="benchmarks",
    cls=Commands,
    help="The papers' data sets: where to get them, which lie on your disk, and a model's scores on them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)

_BAND_HELP = "For the IsoCLIP heads of {}: K_TOP,K_BOTTOM, known (the published one) or none."
_GAP = 2
"""Between two columns."""
_SHOWN = ("map", "map_easy", "map_medium", "map_hard", "map_at_r", "recall_at_1", "top1", "top5")
PathArgument = Annotated[
    Path, typer.Argument(metavar="PATH", help="The folder of all data sets, or that of one.", show_default=False)
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A data set, in any spelling: CUB, pets.")]


@group.command("list", cls=Command)
def list_benchmarks(
    task: Annotated[str | None, typer.Option(help="Only those with this task, for example image-image.")] = None,
) -> None:
    """List the data sets of the papers.

    Example: [bold]clipalign benchmarks list --task image-image[/]
    """
    from hf_clipalign._checks.suggestions import unknown_name
    from hf_clipalign.benchmarks import BENCHMARKS

    tasks = list(dict.fromkeys(name for entry in BENCHMARKS.values() for name in entry.tasks))
    if task is not None and task not in tasks:
        raise unknown_name("task", task, tasks)
    rows = [
        [entry.name, ", ".join(entry.papers), ", ".join(entry.tasks), entry.hub]
        for entry in BENCHMARKS.values()
        if task is None or task in entry.tasks
    ]
    caption = f"{len(rows)} data sets; every reader was tested on synthetic copies, none on the data sets themselves"
    console.print(_listed(rows, console.width))
    console.print(caption, style="table.caption", soft_wrap=True)
    next_step("clipalign", "benchmarks", "show", rows[0][0])


def _listed(rows: list[list[str]], width: int) -> Table:
    """The data sets with whole names and Hub ids; papers, then tasks, are left out where there is no room for them."""
    columns = {"data set": 0, "papers": 1, "tasks": 2, "on the Hub": 3}
    folded = ("papers", "tasks")
    least = {
        name: max(len(word) for row in rows for word in (row[place].split() if name in folded else [row[place]]))
        for name, place in columns.items()
    }
    for name in folded:
        if sum(least[kept] + _GAP for kept in columns) + _GAP > width:
            del columns[name]
    is_wide_enough = sum(least[kept] + _GAP for kept in columns) + _GAP <= width
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=is_wide_enough and name not in folded)
    for row in rows:
        table.add_row(*(Text(row[place]) for place in columns.values()))
    return table


@group.command("show", cls=Command)
def show_benchmark(name: NameArgument) -> None:
    """Show one data set: where to get it, which files are read, the papers' rule, its licence.

    Example: [bold]clipalign benchmarks show CUB[/]
    """
    from hf_clipalign.benchmarks import benchmark

    entry = benchmark(name)
    lines = [
        ("data set", f"{entry.name}: {entry.title}"),
        ("papers", "; ".join(f"{key} ({', '.join(tables)})" for key, tables in entry.papers.items())),
        ("page", entry.page),
        ("on the Hub", entry.hub),
        ("licence", entry.licence),
        *((task, ", ".join(f"{role}: {part}" for role, part in rule.items())) for task, rule in entry.tasks.items()),
        ("prompt", entry.template or "none"),
        ("class names", ", ".join([*entry.class_names, "underscores become spaces"])),
        ("verified", entry.verified),
        *([("note", entry.note)] if entry.note else []),
    ]
    for title, text in lines:
        console.print(f"{title:12} {text}", soft_wrap=True)
    for number, layout in enumerate(entry.layouts, start=1):
        counts = ", ".join(f"{count:,} {part}" for part, count in layout.counts.items()) or "not recorded"
        console.print(f"\nform {number}, {layout.format}: in {' or '.join(layout.folders)}", soft_wrap=True)
        for file in layout.needed:
            console.print(f"  {file}", soft_wrap=True)
        classes = f"; {layout.classes:,} classes" if layout.classes else ""
        console.print(f"  published: {counts}{classes}", soft_wrap=True)
    next_step("clipalign", "benchmarks", "check", "PATH")


@group.command("check", cls=Command)
def check_path(path: PathArgument) -> None:
    """Say which data sets lie in a folder, and what of them is missing.

    The annotations are read, and every image that they list has to be there; images are not opened. The exit code is
    1 if something is missing or damaged.

    Example: [bold]clipalign benchmarks check data/[/]
    """
    from hf_clipalign.benchmarks import BENCHMARKS, check_benchmarks

    found = check_benchmarks(path)
    if not found:
        raise ClipAlignError(
            f"{str(path)!r} holds none of the {len(BENCHMARKS)} data sets: see `clipalign benchmarks show NAME` for "
            "the folders that are looked for."
        )
    for checked in found:
        entry, place = checked.located.entry, checked.located.folder
        if not checked.is_readable:
            console.print(f"{entry.name}: {checked.problem} (in {place}; get it from {entry.page})", soft_wrap=True)
            continue
        counts = ", ".join(f"{count:,} {part}" for part, count in checked.counts.items())
        console.print(f"{entry.name}: {counts}: {_verdict(checked)} (in {place})", soft_wrap=True)
    readable = [checked.located.entry.name for checked in found if checked.is_readable]
    if readable:
        next_step("clipalign", "benchmarks", "run", readable[0], "--data-root", path, "--model", "MODEL")
    if len(readable) < len(found):
        raise typer.Exit(1)


def _verdict(checked: Any) -> str:
    """How the numbers of a readable data set compare with the published ones."""
    if not checked.located.layout.counts:
        return "readable; the published numbers are not recorded"
    different = checked.differences()
    return f"readable, but not the published numbers ({'; '.join(different)})" if different else "complete"


@group.command("run", cls=ResumingCommand)
def run_on_benchmark(
    name: NameArgument,
    data_root: Annotated[Path, typer.Option(help="The folder of all data sets, or that of this one.")],
    model: ModelOption = None,
    task: Annotated[str | None, typer.Option(help="image-image, text-text or zero-shot. Default: all it has.")] = None,
    heads: Annotated[str | None, typer.Option(help="Comma-separated, see `clipalign evaluate`. Default: all.")] = None,
    image_band: Annotated[str, typer.Option(metavar="BAND", help=_BAND_HELP.format("images"))] = "known",
    text_band: Annotated[str, typer.Option(metavar="BAND", help=_BAND_HELP.format("texts"))] = "known",
    features: Annotated[Path | None, typer.Option(help="Folder that keeps features, to resume a run.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path, folder_option("Folder for NAME.json with every number.")] = Path("benchmark_scores"),
) -> None:
    """Score a model on a data set with the papers' splits, queries, gallery and prompt.

    Example: [bold]clipalign benchmarks run CUB --data-root data/ --model openai/clip-vit-base-patch32[/]
    """
    from hf_clipalign.benchmarks import benchmark, open_benchmark, run_benchmark
    from hf_clipalign.benchmarks.running import scored_tasks

    entry = benchmark(name)
    scored_tasks(entry, task)
    model_name = chosen_model(model)
    opened = open_benchmark(entry.name, data_root)
    loaded, processor = load(model_name, device)
    loaded, bands = _bands(loaded, image_band, text_band)
    names = None if heads is None else [one.strip() for one in heads.split(",")]
    options = {"task": task, "heads": names, "features": features, "seed": seed, **bands}
    scores = run_benchmark(opened, loaded, processor, **options)
    for one in dict.fromkeys(score.task for score in scores):
        console.print(_table([score for score in scores if score.task == one], f"{entry.name}, {one}, {model_name}"))
    _write(out / f"{entry.name}.json", {"model": model_name, "seed": seed, **bands}, scores)


def _bands(model: Any, image: str, text: str) -> tuple[Any, dict[str, Any]]:
    """The model in the layout of a published band, and the bands."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.isoclip import known_bands

    encoder = as_dual_encoder(model)
    published = known_bands(model) if "known" in (image, text) else None
    if published is not None and published.layout != encoder.layout:
        encoder = encoder.with_layout(published.layout)
    known = {side: getattr(published, side, None) for side in ("image", "text")}
    given = {"image": image, "text": text}
    return encoder, {f"{side}_band": _band(one, known[side]) for side, one in given.items()}


def _band(given: str, known: Any) -> Any:
    if given in ("known", "none"):
        return known if given == "known" else None
    return parse_band(given)


def _table(scores: list[Any], title: str) -> NumberTable:
    shown = [metric for metric in _SHOWN if any(score.metric == metric for score in scores)]
    with_interval = any(score.low is not None for score in scores)
    rows = []
    for head in dict.fromkeys(score.head for score in scores):
        found = {score.metric: score for score in scores if score.head == head}
        first = found[shown[0]]
        interval = [f"{100 * first.low:.1f} to {100 * first.high:.1f}"] if with_interval else []
        rows.append([head, str(first.dimension), *(f"{100 * found[one].value:.1f}" for one in shown), *interval])
    columns = ["head", "dimension", *shown, *([f"{shown[0]}, 95 % interval"] if with_interval else [])]
    return NumberTable(columns, rows, title, f"percent; {scores[0].split}")


def _write(path: Path, about: dict[str, Any], scores: list[Any]) -> None:
    from hf_clipalign._io.files import atomic_file
    from hf_clipalign._io.masking import without_secrets

    content = without_secrets({**about, "scores": [asdict(score) for score in scores]})
    with atomic_file(path) as staging:
        staging.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    console.print(f"numbers: {path}", soft_wrap=True)
