"""`clipalign concepts`: what is in this folder?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import readable_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.data import check_data, check_out, open_data
from hf_clipalign.cli.models import chosen_device, chosen_model, load, template_for
from hf_clipalign.cli.options import (
    DATA_HELP,
    DeviceOption,
    ImageColumnOption,
    ModelOption,
    SplitOption,
    console,
    folder_option,
    next_step,
    warn,
)

_TEMPLATE = "a photo of a {} ."
_SHOWN_CONCEPTS = 12

DictionaryOption = Annotated[
    str | None,
    typer.Option(help="Text, CSV or TSV file with one concept a line. Default: 20,000 names from WordNet."),
]
AlsoOption = Annotated[
    str | None, typer.Option(help="Comma-separated names to add to the dictionary, such as known classes.")
]
TemplateOption = Annotated[
    str | None,
    typer.Option(help=f"Prompt. Default: {_TEMPLATE!r}; for the built-in models 'an emoji of {{}}'."),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace features of another model or other images in OUT.")
]
OutOption = Annotated[
    Path, folder_option("Folder for concepts.png, images.png, concepts.json, concepts.csv, features.")
]


def concepts(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)],
    model: ModelOption = None,
    dictionary: DictionaryOption = None,
    column: Annotated[str | None, typer.Option(help="The dictionary's column with names.")] = None,
    also: AlsoOption = None,
    template: TemplateOption = None,
    temperature: Annotated[float, typer.Option(help="Of the distribution over the concepts.")] = 0.01,
    beta_e: Annotated[float, typer.Option(help="Share of the variance that the components must carry.")] = 0.95,
    beta_c: Annotated[float, typer.Option(help="Share of the importance that the concepts must carry.")] = 0.99,
    top: Annotated[int, typer.Option(help="How many concepts to print.", min=1)] = 25,
    image_column: ImageColumnOption = None,
    split: SplitOption = None,
    batch_size: Annotated[int, typer.Option(help="Images per pass.", min=1)] = 64,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    out: OutOption = Path("concepts"),
) -> None:
    """Find out what is in a folder of images: the concepts that tell the images apart, without any label.

    Every image is compared with every concept of a dictionary; the concepts that explain how the images differ are
    kept (the filtering stage of SpectralGCD). Features are kept in OUT, so that another dictionary, prompt or
    threshold costs seconds. [bold]concepts.csv[/] is a dictionary again.

    Examples:

    [bold]clipalign concepts photos/ --model openai/clip-vit-large-patch14[/]

    [bold]clipalign concepts shop/ --model my-clip/ --dictionary products.csv --also "gift card,voucher"[/]
    """
    from hf_clipalign.data import fill
    from hf_clipalign.features import text_embeddings
    from hf_clipalign.gcd import concept_contrast, spectral_filter
    from hf_clipalign.gcd.filtering import check_filter_settings

    settings: dict[str, Any] = {"temperature": temperature, "beta_e": beta_e, "beta_c": beta_c}
    check_filter_settings(**settings)
    check_data(data)
    model = chosen_model(model, data)
    _check_out(data, out)
    names = _names(dictionary, column, also)
    fill(template_for(template, model, _TEMPLATE), [])
    opened = open_data(data, image_column, split=split)
    loaded, processor = load(model, device)
    template = template_for(template, model, _TEMPLATE, loaded)
    prompts = fill(template, names)
    store, source = _features(loaded, processor, opened, model, out, overwrite, batch_size)
    with console.status(f"encoding {len(prompts):,} prompts"):
        texts = text_embeddings(loaded, processor, prompts, out / "texts.safetensors").to(chosen_device(device))
    progress = len(names) * len(store) > 10**8
    result = spectral_filter(_projected(loaded, store), texts, names, **settings, progress=progress)
    contrast = concept_contrast(_projected(loaded, store), texts, names, temperature)
    made: dict[str, Any] = {
        "model": model,
        "images": readable_name(data),
        "dictionary": dictionary,
        "template": template,
    }
    made |= {"skipped": store.skipped}
    made |= {"contrast": contrast.ratio, "confidence": contrast.confidence, "flat": contrast.is_flat}
    _report(result, made, 0 if contrast.is_flat else top, out)
    if contrast.is_flat:
        _say_flat(contrast, model)
    if source is not None:
        shown = _show(result, loaded, store, source, texts, out)
        console.print(f"images of the first concepts: {shown}", soft_wrap=True)
    next_step("clipalign", "concepts", data, "--model", model, "--dictionary", out / "concepts.csv", "--out", "again")


def _check_out(data: str, out: Path) -> None:
    check_out(out, data)
    if Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise ClipAlignError(
            f"{str(out)!r} lies in {data!r}: the figures in it would be taken for images; name another folder "
            "with --out"
        )


def _names(dictionary: str | None, column: str | None, also: str | None) -> list[str]:
    from hf_clipalign.data import extend_dictionary, load_dictionary

    names = load_dictionary(dictionary, column)
    return names if also is None else extend_dictionary(names, [name.strip() for name in also.split(",")])


def _report(result: Any, made: dict[str, Any], top: int, out: Path) -> None:
    """Prints the tables, unless `top` is 0; writes concepts.json, concepts.csv and concepts.png."""
    from hf_clipalign._io.files import atomic_file

    if top:
        console.print(result.table(top))
        console.print(result.component_table())
    with atomic_file(out / "concepts.json") as staging:
        staging.write_text(json.dumps(made | result.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    result.save(out / "concepts.csv")
    console.print(f"figure: {result.save(out / 'concepts.png')}   numbers: {out / 'concepts.json'}", soft_wrap=True)


def _say_flat(contrast: Any, model: str) -> None:
    warn(
        "no answer:",
        f"{model} sees nearly the same in all images: from image to image a concept's similarity varies "
        f"{contrast.ratio:.2f} times as much as from concept to concept, and the best concept has "
        f"{100 * contrast.confidence:.0f} % on average. If the images are not all of one kind, the model does not "
        "know such images, and the concepts in the files mean nothing: take a model that was trained on such images, "
        "or a prompt and a dictionary that suit it (--template, --dictionary).",
    )


def _features(
    loaded: Any, processor: Any, opened: Any, model_name: str, out: Path, overwrite: bool, batch_size: int
) -> tuple[Any, Any]:
    """The images' features, made once and kept in OUT, and the images; a features folder has none."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.features import EmbeddingStore, FeatureStore, extract_to_store

    if isinstance(opened, (FeatureStore, EmbeddingStore)):
        opened.check_model(encoder := as_dual_encoder(loaded))
        if isinstance(opened, EmbeddingStore) and opened.width != encoder.embed_dim:
            raise ClipAlignError(
                f"the embeddings in {str(opened.folder)!r} have dimension {opened.width}, those of {model_name} "
                f"{encoder.embed_dim}: give the model that made them."
            )
        return opened, None
    store = extract_to_store(
        loaded,
        opened,
        processor,
        out / "features",
        batch_size=batch_size,
        overwrite=overwrite,
        model_name=model_name,
    )
    for name, reason in store.skipped[:5]:
        warn("left out", f"{name}: {reason}")
    if len(store.skipped) > 5:
        warn(f"and {len(store.skipped) - 5} more", "that could not be read")
    return store, opened


def _show(result: Any, loaded: Any, store: Any, source: Any, texts: Any, out: Path) -> Path:
    """Writes the images that show the first concepts best."""
    from hf_clipalign._io.files import atomic_file
    from hf_clipalign.evaluation import plot_image_rows, strongest_images

    shown = result.retained[:_SHOWN_CONCEPTS]
    numbers = strongest_images(
        _projected(loaded, store), texts, shown, temperature=result.settings["temperature"]
    ).tolist()
    place = {name: number for number, name in enumerate(source.ids)}
    rows = {
        result.concept_names[concept]: [source.read(place[store.ids[number]]) for number in row]
        for concept, row in zip(shown, numbers, strict=True)
    }
    with atomic_file(out / "images.png") as staging:
        plot_image_rows(rows).savefig(staging, dpi=130)
    return out / "images.png"


def _projected(loaded: Any, store: Any) -> Iterator[Any]:
    """The images in the shared space, block by block."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.features import EmbeddingStore, project_image_features

    if isinstance(store, EmbeddingStore):
        return store.blocks()
    encoder = as_dual_encoder(loaded)
    return (project_image_features(encoder, block.values) for block in store.blocks())
