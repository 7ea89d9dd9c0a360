"""`clipalign demo`: what trimming does to image search, on the built-in data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign.cli.options import console, folder_option, next_step


def demo(
    out: Annotated[Path, folder_option("Folder for index.html and results.json.", "index.html")] = Path("demo-report"),
    model: Annotated[str, typer.Option(help="student, teacher or both.")] = "both",
) -> None:
    """Search emoji of one drawing style with emoji of another, before and after trimming. No network, no data needed.

    The band is chosen on known emoji and every head is scored on emoji whose concepts the models never saw. What does
    not help is shown as not helping.

    Example: [bold]clipalign demo --model student[/]
    """
    from transformers.utils import logging

    from hf_clipalign._io.files import atomic_file
    from hf_clipalign.evaluation import write_report
    from hf_clipalign.evaluation.mini_study import MODELS, run_mini_study

    if model not in (*MODELS, "both"):
        raise unknown_name("model", model, (*MODELS, "both"))
    logging.disable_progress_bar()
    sections: list[Any] = []
    results: dict[str, Any] = {}
    for name in MODELS if model == "both" else (model,):
        study = run_mini_study(name)
        console.print(study.images.table(f"{name}: images of one style search another style, novel emoji"))
        console.print(study.texts.table(f"{name}: keywords search names, novel emoji"))
        console.print(study.verdict)
        sections += study.sections
        results[name] = study.to_dict()
    with atomic_file(out / "results.json") as staging:
        staging.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    page = write_report(out / "index.html", "What trimming a projector does to image search", sections, _LEAD)
    numbers = out / "results.json"
    line = Text.assemble("\nOpen ", (str(page), "bold"), f" in a browser; the numbers are in {numbers}.")
    console.print(line, soft_wrap=True)
    next_step("clipalign", "evaluate", "DATA", "--model", "openai/clip-vit-base-patch32")


_LEAD = (
    "CLIP is trained to compare images with texts. Here it compares images with images: an emoji drawn in one "
    "style searches a gallery drawn in another. Every row of a table is another way to use the same image tower; "
    "IsoCLIP's rows trim the projector, without any training. The band of directions to keep was chosen on emoji that "
    "the models have seen and is scored here on emoji whose concepts they never saw."
)
