"""Search a folder of images with an image, before and after trimming the projector.

    python examples/image_search.py                                            # built-in emoji and model, no network
    python examples/image_search.py --images photos/ --query holiday.jpg \
        --model openai/clip-vit-base-patch32 --top 10
    python examples/image_search.py --figure docs/images/search.png            # the figure of the README

The aligned image tower is also written as a stock checkpoint of a smaller dimension (`--out`) and loaded again with
the stock class, with the same cosines: this is what to put in front of a vector database.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from hf_clipalign import IsoCLIPModel
from hf_clipalign.backbones import as_dual_encoder, load_model, load_processor
from hf_clipalign.data import ImageSource, from_dataset, load_mini, open_source, read_image
from hf_clipalign.evaluation import Match, MatchRow, comparison_heads, plot_match_rows, top_matches
from hf_clipalign.features import extract_image_features

BUILT_IN_BAND = (1, 48)
SEED, DRAWN = 0, 4


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder, table or data set to search (default: built-in emoji)")
    parser.add_argument("--query", help="the image to search with (default: an emoji in another style)")
    parser.add_argument("--model", help="checkpoint folder or Hub id (default: the built-in student)")
    parser.add_argument("--band", help="K_TOP,K_BOTTOM (default: the published band, or the one of the demo)")
    parser.add_argument("--top", type=int, default=5, help="how many matches to show (default 5)")
    parser.add_argument("--figure", help="draw what random built-in emoji find, as this .png, and stop")
    parser.add_argument("--out", help="where to write the stock checkpoint (default: a temporary folder)")
    return parser.parse_args()


def images(args: argparse.Namespace) -> tuple[ImageSource, list[str], ImageSource, str]:
    """The gallery, its names, the query and its name."""
    if args.images:
        gallery = open_source(args.images)
        if not args.query:
            raise SystemExit("--images needs --query: which image should be searched with?")
        query = ImageSource([args.query], ids=[Path(args.query).name])
        return gallery, gallery.ids, query, args.query
    mini = load_mini()
    noto, twemoji = (mini.emoji_subset(styles=style, novel=True) for style in ("noto", "twemoji"))
    query = twemoji.select([twemoji["name"][:].index("wolf")])
    names = [f"{name} (noto)" for name in noto["name"][:]]
    return (
        from_dataset(noto, image_column="image"),
        names,
        from_dataset(query, image_column="image"),
        "wolf (twemoji)",
    )


def main() -> None:
    args = parse_arguments()
    if args.figure:
        draw(Path(args.figure))
        return
    path = args.model or str(load_mini().student_path)
    base, processor = load_model(path), load_processor(path)
    given = tuple(int(count) for count in args.band.split(",")) if args.band else None
    band = given or (None if args.model else BUILT_IN_BAND)
    aligned = IsoCLIPModel.from_clip_pretrained(base, image_band=band)

    gallery_source, names, query_source, query_name = images(args)
    gallery = extract_image_features(base, gallery_source, processor).values
    query = extract_image_features(base, query_source, processor, progress=False).values
    heads = comparison_heads(
        as_dual_encoder(base), "image", tuple(aligned.config.image_band), names=("raw", "isoclip-compact")
    )
    for head in heads:
        best = top_matches(head, query, gallery, args.top)[0]
        print(f"\n{query_name} with the head {head.name!r} (dimension {head.width(query)}):")
        print("\n".join(f"  {place}. {names[row]}" for place, row in enumerate(best, 1)))

    out = args.out or tempfile.mkdtemp(prefix="clip-image-")
    aligned.save_stock(out, compact=True, processor=processor)
    print(f"\nstock checkpoint: {out}")
    check_stock(out, aligned, query_source, processor)


def draw(path: Path) -> None:
    """Emoji drawn at random search another drawing style with the plain and the trimmed head of the student."""
    mini = load_mini()
    encoder = as_dual_encoder(mini.student)
    queries, gallery = (mini.emoji_subset(styles=style, novel=True) for style in ("twemoji", "noto"))
    features = [
        extract_image_features(encoder, from_dataset(rows), mini.student_processor).values
        for rows in (queries, gallery)
    ]
    ids, found_ids = queries["emoji_id"][:], gallery["emoji_id"][:]
    chosen = np.random.default_rng(SEED).choice(len(ids), DRAWN, replace=False)
    heads = comparison_heads(encoder, "image", BUILT_IN_BAND, names=("raw", "isoclip"))
    best = {head.name: top_matches(head, *features, 8) for head in heads}
    rows = [
        MatchRow(
            head.name,
            Match(queries[int(query)]["image"], ids[query]),
            [
                Match(gallery[int(row)]["image"], found_ids[row], found_ids[row] == ids[query])
                for row in best[head.name][query]
            ],
        )
        for query in chosen
        for head in heads
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    plot_match_rows(rows).savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"figure: {path}")


@torch.no_grad()
def check_stock(path: str, aligned: IsoCLIPModel, source: ImageSource, processor: object) -> None:
    """The stock class gives the length-normalised embedding whose cosines the aligned model gives."""
    stock_class = type(as_dual_encoder(aligned).stock_tower("image", torch.zeros(1, aligned.encoder.vision_dim)))
    stock = stock_class.from_pretrained(path).eval()
    image = read_image(source.read(0))
    mirrored = image.transpose(0)
    pixel_values = processor(images=[image, mirrored], return_tensors="pt")["pixel_values"]  # type: ignore[operator]
    theirs = F.normalize(stock(pixel_values=pixel_values).image_embeds, dim=-1)
    ours = F.normalize(aligned.get_image_features(pixel_values).pooler_output, dim=-1)
    print(f"{stock_class.__name__} gives dimension {theirs.shape[1]} instead of {ours.shape[1]}; the cosine of the")
    print(f"query and its mirror image is {theirs[0] @ theirs[1]:.6f} there and {ours[0] @ ours[1]:.6f} when aligned")


if __name__ == "__main__":
    main()
