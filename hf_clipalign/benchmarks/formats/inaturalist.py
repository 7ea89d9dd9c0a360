"""iNaturalist: JSON files of images, annotations and categories, as in COCO."""

from __future__ import annotations

from pathlib import Path

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import natural
from hf_clipalign.benchmarks.formats.listing import Listed, Place, json_file, listed_images
from hf_clipalign.data import ImageSource

_MOST_BYTES = 2**30
_SCHEMA = {
    "images": [{"id": natural, "file_name": str}],
    "annotations": [{"image_id": natural, "category_id": natural}],
    "categories": [{"id": natural, "name": str, "image_dir_name?": str}],
}


def read_inaturalist(place: Place) -> dict[str, ImageSource]:
    """Lists `images`, `annotations` (one per image) and `categories`; classes are the categories in their order.

    Names that several categories share are replaced by the names of their folders.

    Args:
        place (`Place`): with one file per part.
    """
    rows: dict[str, list[Listed]] = {}
    names: list[str] = []
    for part in place.layout.files:
        path = place.file(part)
        rows[part], found = _read(path)
        if names and found != names:
            raise ClipAlignError(f"{path}: the categories are not those of the other files: replace one of them")
        names = found
    return listed_images(rows, place, {part: place.file(part) for part in rows}, names)


def _read(path: Path) -> tuple[list[Listed], list[str]]:
    content = json_file(path, _SCHEMA, _MOST_BYTES)
    categories = content["categories"]
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    labels: dict[int, int] = {}
    for number, entry in enumerate(content["annotations"]):
        if entry["category_id"] not in numbers:
            raise ClipAlignError(
                f"{path}: annotation {number} (from 0) has category {entry['category_id']}, unknown here"
            )
        if labels.setdefault(entry["image_id"], numbers[entry["category_id"]]) != numbers[entry["category_id"]]:
            raise ClipAlignError(f"{path}: annotation {number} (from 0): image {entry['image_id']} has two categories")
    rows = []
    for image in content["images"]:
        if image["id"] not in labels:
            raise ClipAlignError(
                f"{path}: image {image['id']} has no annotation; test sets without labels are not read"
            )
        rows.append(Listed(image["file_name"], labels[image["id"]]))
    return rows, _unique_names(categories, path)


def _unique_names(categories: list[dict[str, str]], path: Path) -> list[str]:
    for field in ("name", "image_dir_name"):
        names = [category.get(field, "") for category in categories]
        if len(set(names)) == len(names):
            return names
    raise ClipAlignError(f"{path}: categories share a name, and have no image_dir_name that differs: replace it")
