"""`clipalign trim`: write an aligned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.commands.push import OverwriteOption, PrivateOption, RevisionOption
from hf_clipalign.cli.models import check_band, check_modality, chosen_model, load
from hf_clipalign.cli.options import (
    BaseModelOption,
    ImageBandOption,
    ModelOption,
    TextBandOption,
    console,
    folder_option,
    next_step,
    parse_band,
    repo_option,
)


def trim(
    model: ModelOption = None,
    out: Annotated[Path, folder_option("Folder for the aligned model (IsoCLIPModel).", writes="a model")] = Path(
        "isoclip"
    ),
    image_band: ImageBandOption = None,
    text_band: TextBandOption = None,
    base_model: BaseModelOption = None,
    stock: Annotated[
        str | None,
        typer.Option(
            help="Write a STOCK checkpoint of one tower instead, image or text: it loads with "
            "CLIPVisionModelWithProjection or CLIPTextModelWithProjection, without this package."
        ),
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="With --stock: embeddings of a smaller dimension, the same cosines.")
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Push it to this repository on the Hub, too.", callback=repo_option),
    ] = None,
    private: PrivateOption = False,
    revision: RevisionOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Trim a model's projectors for image-image or text-text similarity. No data, no training, seconds.

    Image-text similarity keeps the original projectors: the aligned model's forward gives the base model's logits.

    Examples:

    [bold]clipalign trim --model openai/clip-vit-base-patch32 --out clip-b32-isoclip[/]

    [bold]clipalign trim --model openai/clip-vit-base-patch32 --push-to-hub me/clip-b32-isoclip --private[/]

    [bold]clipalign trim --model mini:teacher --image-band 1,48 --stock image --compact --out teacher-image[/]
    """
    from hf_clipalign.hub import written_folder
    from hf_clipalign.hub.push import SPECTRUM_FILE, push_isoclip, push_stock, save_spectrum
    from hf_clipalign.isoclip import IsoCLIPModel

    if push_to_hub is None and (private or revision is not None):
        raise ClipAlignError("--private and --revision need --push-to-hub OWNER/NAME.")
    if compact and stock is None:
        raise ClipAlignError("--compact needs --stock image or --stock text: only one tower can have a smaller space.")
    bands = parse_band(image_band), parse_band(text_band)
    source = chosen_model(model)
    loaded, processor = load(source)
    check_band(loaded, source, base_model, bands)
    aligned = IsoCLIPModel.from_clip_pretrained(loaded, *bands, base_model=base_model)
    check_modality(aligned, *([] if stock is None else [stock]))
    form = "isoclip" if stock is None else "stock"
    with written_folder(out, form, source, overwrite=overwrite, option="--overwrite") as folder:
        if stock is None:
            aligned.save_pretrained(folder, processor)
        else:
            aligned.save_stock(folder, modality=stock, compact=compact, processor=processor)  # type: ignore[arg-type]
        save_spectrum(aligned, folder / SPECTRUM_FILE)
    if stock is None:
        console.print(f"aligned model: {out}  (load it with IsoCLIPModel.from_pretrained)", soft_wrap=True)
    else:
        kind = "Vision" if stock == "image" else "Text"
        console.print(
            f"stock checkpoint: {out}  (load it with the {kind}ModelWithProjection class of transformers)",
            soft_wrap=True,
        )
    for modality in ("image", "text"):
        band = getattr(aligned.config, f"{modality}_band")
        console.print(f"{modality} band: {'not aligned' if band is None else f'{band[0]},{band[1]}'}")
    if push_to_hub is not None:
        options = {"processor": processor, "private": private or None, "revision": revision}
        if stock is None:
            commit = push_isoclip(aligned, push_to_hub, **options)
        else:
            commit = push_stock(aligned, push_to_hub, stock, compact, **options)
        console.print(f"pushed: {commit}", soft_wrap=True)
    else:
        next_step("clipalign", "push", out, "OWNER/NAME")
