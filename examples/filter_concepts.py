"""What is in this folder? The concepts of a dictionary that tell its images apart, without a label.

    python examples/filter_concepts.py                                       # built-in emoji of animals, no network
    python examples/filter_concepts.py --template "a photo of a {} ."        # the prompt matters: this one fits badly
    python examples/filter_concepts.py --images photos/ --model openai/clip-vit-large-patch14

Without flags the dictionary is the names of all 1,906 built-in emoji, of which 130 are animals; the images are the
390 emoji of animals. With --images it is 20,000 names from WordNet, or a file of your own (--dictionary).
The kept concepts go to `--out` as concepts.csv (a dictionary again), concepts.json and concepts.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, load_model, load_processor
from hf_clipalign.data import fill, from_dataset, load_dictionary, load_mini, open_source
from hf_clipalign.features import extract_image_features, project_image_features, text_embeddings
from hf_clipalign.gcd import SpectralFilterResult, spectral_filter


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder, table or data set (default: built-in emoji of animals)")
    parser.add_argument("--model", help="checkpoint folder or Hub id (default: the built-in teacher)")
    parser.add_argument("--dictionary", help="file with one concept a line (default: see above)")
    parser.add_argument("--template", help="prompt (default: 'an emoji of {}', with --images 'a photo of a {} .')")
    parser.add_argument("--top", type=int, default=20, help="how many concepts to print (default 20)")
    parser.add_argument("--out", type=Path, default=Path("outputs/concepts"), help="folder (default outputs/concepts)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    mini = load_mini()
    if args.images:
        source, names, animals = open_source(args.images), load_dictionary(args.dictionary), set()
    else:
        emoji = mini.emoji_subset()
        images = emoji.filter(lambda group: group.startswith("animal-"), input_columns="subgroup")
        source, animals = from_dataset(images, image_column="image"), set(images["name"][:])
        names = load_dictionary(args.dictionary) if args.dictionary else mini.concepts.known + mini.concepts.novel
    template = args.template or ("a photo of a {} ." if args.images else "an emoji of {}")

    path = args.model or str(mini.teacher_path)
    model, processor = load_model(path), load_processor(path)
    features = extract_image_features(model, source, processor)
    images = project_image_features(as_dual_encoder(model), features.values)
    texts = text_embeddings(model, processor, fill(template, names), cache=args.out / "texts.safetensors")
    result = spectral_filter(images, texts, names)

    console = Console(markup=False)
    console.print(result.table(args.top))
    console.print(result.component_table())
    if animals & set(names):
        console.print(how_many_animals(result, animals))
    for ending in ("csv", "json", "png"):
        print("written:", result.save(args.out / f"concepts.{ending}"))


def how_many_animals(result: SpectralFilterResult, animals: set[str]) -> str:
    """What the built-in set can check: all images are animals, so the kept concepts should be."""
    kept = [name in animals for name in result.concepts]
    carried = sum(share for share, animal in zip(result.shares, kept, strict=True) if animal)
    chance = sum(name in animals for name in result.concept_names) / len(result.concept_names)
    return (
        f"{sum(kept)} of the {len(kept)} kept concepts are animals of these images; they carry "
        f"{100 * carried:.0f} % of the importance. Of the whole dictionary {100 * chance:.2g} % are."
    )


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
