"""Data sets whose annotations are plain lines of text: CUB, Oxford pets, FGVC-Aircraft, Online Products, Places."""

from __future__ import annotations

from pathlib import Path

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.formats.listing import (
    Listed,
    Place,
    fields,
    listed_images,
    numbered_names,
    text_lines,
    whole_number,
)
from hf_clipalign.data import ImageSource


def read_cub(place: Place) -> dict[str, ImageSource]:
    """CUB-200-2011: four files, `images.txt` (`1 001.Black_footed_Albatross/….jpg`), labels, classes, split.

    Args:
        place (`Place`): with the files `images`, `labels`, `classes` and `split`.
    """
    paths, labels, split = (_by_id(place.file(role)) for role in ("images", "labels", "split"))
    for role, table in (("labels", labels), ("split", split)):
        if table.keys() != paths.keys():
            odd = min(table.keys() ^ paths.keys())
            raise ClipAlignError(
                f"{place.file(role)}: image {odd} is in this file or in {place.file('images').name}, not in both"
            )
    rows: dict[str, list[Listed]] = {"train": [], "test": []}
    for image, path in paths.items():
        label = whole_number(labels[image], place.file("labels"), image, first=1)
        rows[_cub_part(split[image], image, place.file("split"))].append(Listed(path, label))
    file = place.file("images")
    return listed_images(rows, place, dict.fromkeys(rows, file), numbered_names(place.file("classes")))


def _by_id(path: Path) -> dict[int, str]:
    """What a file says of each image, by the number of the image."""
    found: dict[int, str] = {}
    for number, line in text_lines(path):
        image, value = fields(path, number, line, 2, "1 VALUE")
        if found.setdefault(whole_number(image, path, number), value) != value:
            raise ClipAlignError(f"{path}: line {number}: image {image} has two values: replace the file")
    return found


def _cub_part(flag: str, image: int, path: Path) -> str:
    if flag not in ("0", "1"):
        raise ClipAlignError(f"{path}: image {image} has {short(flag)}, not 1 (train) or 0 (test)")
    return "train" if flag == "1" else "test"


def read_pets(place: Place) -> dict[str, ImageSource]:
    """Oxford-IIIT Pet: lines `Abyssinian_100 1 1 1` of image, class from 1, species and breed.

    Args:
        place (`Place`): with one file per part.
    """
    names: dict[int, str] = {}
    rows: dict[str, list[Listed]] = {}
    for part in place.layout.files:
        path, rows[part] = place.file(part), []
        for number, line in text_lines(path):
            if line.startswith("#"):
                continue
            image, label, _ = fields(path, number, line, 3, "Abyssinian_100 1 1 1")
            breed, label_number = image.rpartition("_")[0], whole_number(label, path, number, first=1)
            if names.setdefault(label_number, breed) != breed:
                raise ClipAlignError(
                    f"{path}: line {number}: class {label} is {short(breed)}, and {short(names[label_number])} before"
                )
            rows[part].append(Listed(f"{image}.jpg", label_number))
    first = place.file(next(iter(rows)))
    return listed_images(rows, place, {part: place.file(part) for part in rows}, _dense(names, first))


def _dense(names: dict[int, str], path: Path) -> list[str]:
    """Names in the order of their classes, of which none is left out."""
    if names.keys() != set(range(len(names))):
        missing = next(label for label in range(max(names)) if label not in names)
        raise ClipAlignError(f"{path}: no image has class {missing + 1}, though classes go up to {max(names) + 1}")
    return [names[label] for label in range(len(names))]


def read_aircraft(place: Place) -> dict[str, ImageSource]:
    """FGVC-Aircraft: lines `0034309 Boeing 707-320` of image and variant, and the list of variants.

    Args:
        place (`Place`): with the file `classes`, and one for each part.
    """
    names = [name for _, name in text_lines(place.file("classes"))]
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        raise ClipAlignError(f"{place.file('classes')}: a name is listed twice: replace the file")
    rows: dict[str, list[Listed]] = {}
    for part in (role for role in place.layout.files if role != "classes"):
        path, rows[part] = place.file(part), []
        for number, line in text_lines(path):
            image, name = fields(path, number, line, 2, "0034309 Boeing 707-320")
            if name not in numbers:
                known = place.file("classes").name
                raise ClipAlignError(
                    f"{path}: line {number}: {short(name)} is not in {known}: replace one of the files"
                )
            rows[part].append(Listed(f"{image}.jpg", numbers[name]))
    return listed_images(rows, place, {part: place.file(part) for part in rows}, names)


_PRODUCTS_HEADER = "image_id class_id super_class_id path"


def read_products(place: Place) -> dict[str, ImageSource]:
    """Stanford Online Products: `Ebay_*.txt` with a header and lines `1 1 1 bicycle_final/111085122871_0.JPG`.

    Args:
        place (`Place`): with one file per part. Classes are numbers.
    """
    rows: dict[str, list[Listed]] = {}
    for part in place.layout.files:
        path, rows[part] = place.file(part), []
        for number, line in text_lines(path, _PRODUCTS_HEADER):
            _, label, _, image = fields(path, number, line, 4, "1 1 1 bicycle_final/111085122871_0.JPG")
            rows[part].append(Listed(image, whole_number(label, path, number, first=1)))
    return listed_images(rows, place, {part: place.file(part) for part in rows})


def read_numbered(place: Place) -> dict[str, ImageSource]:
    """Lines `Places365_val_00000001.jpg 165` of image and class from 0, as Places has them.

    Args:
        place (`Place`): with one file per part. Classes are numbers.
    """
    rows: dict[str, list[Listed]] = {}
    for part in place.layout.files:
        path, rows[part] = place.file(part), []
        for number, line in text_lines(path):
            image, label = fields(path, number, line, 2, "Places365_val_00000001.jpg 165")
            rows[part].append(Listed(image, whole_number(label, path, number)))
    return listed_images(rows, place, {part: place.file(part) for part in rows})
