"""`clipalign trim`: write an aligned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.common import ModelOption, console, load, parse_band


def trim(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder for the aligned model (IsoCLIPModel).")] = Path("isoclip"),
    image_band: Annotated[
        str | None, typer.Option(help="K_TOP,K_BOTTOM for images. Default: the published band of a known checkpoint.")
    ] = None,
    text_band: Annotated[str | None, typer.Option(help="The same for texts.")] = None,
    stock: Annotated[
        str | None,
        typer.Option(
            help="Write a STOCK checkpoint of one tower instead, image or text: it loads with "
            "CLIPVisionModelWithProjection or CLIPTextModelWithProjection, without this package."
        ),
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="With --stock: fewer numbers per embedding, exactly the same cosines.")
    ] = False,
) -> None:
    """Trim a model's projectors for image-image or text-text similarity. No data, no training, seconds.

    Image-text similarity keeps the original projectors: the aligned model's forward gives the base model's logits.

    Examples:

    [bold]clipalign trim --model openai/clip-vit-base-patch32 --out clip-b32-isoclip[/]

    [bold]clipalign trim --model mini-teacher --image-band 1,48 --stock image --compact --out teacher-image[/]
    """
    from hf_clipalign.isoclip import IsoCLIPModel

    if compact and stock is None:
        raise ClipAlignError("--compact needs --stock image or --stock text: only one tower can have a smaller space.")
    loaded, processor = load(model)
    aligned = IsoCLIPModel.from_clip_pretrained(loaded, parse_band(image_band), parse_band(text_band))
    if stock is None:
        aligned.save_pretrained(out)
        processor.save_pretrained(out)
        console.print(f"aligned model: {out}  (load it with IsoCLIPModel.from_pretrained)")
    else:
        aligned.save_stock(out, modality=stock, compact=compact, processor=processor)  # type: ignore[arg-type]
        kind = "Vision" if stock == "image" else "Text"
        console.print(f"stock checkpoint: {out}  (load it with the {kind}ModelWithProjection class of transformers)")
    for modality in ("image", "text"):
        band = getattr(aligned.config, f"{modality}_band")
        console.print(f"{modality} band: {'not aligned' if band is None else f'{band[0]},{band[1]}'}")
