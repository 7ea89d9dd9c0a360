"""Tiny copies of data sets in their published layouts: every format that the registry reads."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

WNIDS = ("n01440764", "n01443537", "n01484850")


def image_bytes(colour=(10, 20, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "JPEG")
    return stream.getvalue()


IMAGE = image_bytes()


def put(path: Path, content: bytes | str = IMAGE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def folder_of(layout, folder: Path, part: str = "all") -> Path:
    return folder / layout.images.get(part, layout.images.get("all", "."))


def split_zhou(folder, layout):
    rows = {
        "train": [["a/1.jpg", 0, "maine_coon"], ["b/1.jpg", 1, "beagle"], ["b/2.jpg", 1, "beagle"]],
        "val": [["a/2.jpg", 0, "maine_coon"]],
        "test": [["b/3.jpg", 1, "beagle"], ["a/3.jpg", 0, "maine_coon"]],
    }
    for path, _, _ in (row for part in rows.values() for row in part):
        put(folder_of(layout, folder) / path)
    put(folder / layout.files["split"], json.dumps(rows))
    return {"train": [0, 1, 1], "val": [0], "test": [1, 0]}, ["maine coon", "beagle"]


def cub(folder, layout):
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    rows = [(1, 0, 1), (2, 0, 0), (3, 1, 1), (4, 1, 0), (5, 1, 0)]
    paths = {image: f"{names[label]}/bird_{image}.jpg" for image, label, _ in rows}
    for path in paths.values():
        put(folder_of(layout, folder) / path)
    put(folder / layout.files["images"], "".join(f"{image} {path}\n" for image, path in paths.items()))
    put(folder / layout.files["labels"], "".join(f"{image} {label + 1}\n" for image, label, _ in rows))
    put(folder / layout.files["split"], "".join(f"{image} {train}\n" for image, _, train in rows))
    put(folder / layout.files["classes"], "".join(f"{n} {name}\n" for n, name in enumerate(names, start=1)))
    return {"train": [0, 1], "test": [0, 1, 1]}, ["Black footed Albatross", "Laysan Albatross"]


def pets(folder, layout):
    lines = {
        "trainval": "Abyssinian_100 1 1 1\namerican_bulldog_7 2 2 1\namerican_bulldog_8 2 2 1\n",
        "test": "#Image CLASS-ID SPECIES BREED ID\namerican_bulldog_9 2 2 1\n",
    }
    for part, text in lines.items():
        put(folder / layout.files[part], text)
    for name in ("Abyssinian_100", "american_bulldog_7", "american_bulldog_8", "american_bulldog_9"):
        put(folder_of(layout, folder) / f"{name}.jpg")
    return {"trainval": [0, 1, 1], "test": [1]}, ["Abyssinian", "american bulldog"]


def cars(folder, layout):
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    put(folder / layout.files["classes"], "")
    names = np.array(
        ["AM General Hummer SUV 2000", "Audi TTS Coupe 2012", "Ram C/V Cargo Van Minivan 2012"], dtype=object
    )
    savemat(folder / layout.files["classes"], {"class_names": names[None]})
    labels = {"train": [2, 1, 3], "test": [1, 2]}
    for part, classes in labels.items():
        rows = np.array([[(39, label, f"{n:05d}.jpg") for n, label in enumerate(classes, start=1)]], dtype=kind)
        savemat(folder / layout.files[part], {"annotations": rows})
        for number in range(1, len(classes) + 1):
            put(folder_of(layout, folder, part) / f"{number:05d}.jpg")
    cleaned = ["2000 AM General Hummer SUV", "2012 Audi TTS Coupe", "2012 Ram C/V Cargo Van Minivan"]
    return {part: [label - 1 for label in classes] for part, classes in labels.items()}, cleaned


def aircraft(folder, layout):
    names = ["707-320", "A300B4", "Gulfstream IV"]
    put(folder / layout.files["classes"], "\n".join(names) + "\n")
    parts = {"train": [0, 2], "val": [1], "test": [2, 2, 1]}
    number = 34309
    for part, labels in parts.items():
        lines = ""
        for label in labels:
            number += 1
            lines += f"{number:07d} {names[label]}\n"
            put(folder_of(layout, folder) / f"{number:07d}.jpg")
        put(folder / layout.files[part], lines)
    return parts, names


def products(folder, layout):
    parts = {"train": [(1, "bicycle_final/1_0.JPG"), (1, "bicycle_final/1_1.JPG"), (2, "chair_final/2_0.JPG")]}
    parts["test"] = [(3, "mug_final/3_0.JPG"), (3, "mug_final/3_1.JPG")]
    for part, rows in parts.items():
        lines = "".join(f"{n} {label} 1 {path}\n" for n, (label, path) in enumerate(rows, start=1))
        put(folder / layout.files[part], "image_id class_id super_class_id path\n" + lines)
        for _, path in rows:
            put(folder / path)
    return {part: [label - 1 for label, _ in rows] for part, rows in parts.items()}, None


def numbered(folder, layout):
    labels = [165, 0, 165]
    names = [f"Places365_val_{n:08d}.jpg" for n in range(1, 4)]
    put(folder / layout.files["val"], "".join(f"{n} {label}\n" for n, label in zip(names, labels, strict=True)))
    for name in names:
        put(folder_of(layout, folder) / name)
    return {"val": labels}, None


def inaturalist(folder, layout):
    paths = [f"train_mini/0000{n % 2}_Animalia/{n}.jpg" for n in range(3)]
    content = {
        "info": {"year": 2021},
        "images": [{"id": 10 + n, "file_name": path, "width": 8, "height": 8} for n, path in enumerate(paths)],
        "annotations": [{"id": n, "image_id": 10 + n, "category_id": 70 + n % 2} for n in range(3)],
        "categories": [
            {"id": 70, "name": "Lumbricus terrestris", "common_name": "Earthworm", "image_dir_name": "00000_Animalia"},
            {"id": 71, "name": "Sabella spallanzanii", "common_name": "Fan worm", "image_dir_name": "00001_Animalia"},
        ],
    }
    put(folder / layout.files["train"], json.dumps(content))
    for path in paths:
        put(folder / path)
    return {"train": [0, 1, 0]}, ["Lumbricus terrestris", "Sabella spallanzanii"]


def folders(folder, layout):
    role = next(iter(layout.files))
    names = ["tench", "goldfish", "great white shark"]
    put(folder / layout.files[role], "".join(f"{w} {n}\n" for w, n in zip(WNIDS, names, strict=True)))
    labels = {}
    for part, place in layout.images.items():
        labels[part] = [0, 0, 1] if part == "train" else [0, 1]
        for number, label in enumerate((0, 0, 2) if part == "train" else (0, 2)):
            put(folder / place / (str(label) if role == "numbered" else WNIDS[label]) / f"{number}.JPEG")
    put(folder / next(iter(layout.images.values())) / "README.txt", "not an image")
    return labels, ["tench", "great white shark"]


JUDGED = [
    {"bbx": [1.5, 2.0, 6.0, 7.5], "easy": [0, 2], "hard": [1], "junk": []},
    {"bbx": [0.0, 0.0, 8.0, 8.0], "easy": [1], "hard": [], "junk": [0]},
]


def revisited(folder, layout, protocol=2, arrays=False):
    gallery, query = ["all_souls_000000", "ashmolean_000001", "christ_church_000002"], ["query_0", "query_1"]
    judged = JUDGED
    if arrays:
        judged = [{k: np.array(v, dtype=float if k == "bbx" else np.int64) for k, v in one.items()} for one in JUDGED]
    content = {"gnd": judged, "imlist": gallery, "qimlist": query}
    put(folder / layout.files["judgements"], pickle.dumps(content, protocol=protocol))
    for name in gallery + query:
        put(folder_of(layout, folder) / f"{name}.jpg")
    return {"query": None, "gallery": None}, None


def sentences(*texts):
    return [{"raw": text, "tokens": text.split()} for text in texts]


def karpathy(folder, layout):
    images = [
        {"filename": "1.jpg", "split": "train", "sentences": sentences("a cat", "a red cat")},
        {"filename": "2.jpg", "split": "test", "sentences": sentences("a dog", "a big dog", "a dog runs")},
        {"filename": "3.jpg", "split": "val", "sentences": sentences("an owl", "an owl flies")},
        {"filename": "4.jpg", "split": "test", "filepath": "val2014", "sentences": sentences("a car", "a red car")},
    ]
    put(folder / layout.files["captions"], json.dumps({"images": images, "dataset": "coco"}))
    return {"train": [0, 0], "test": [0, 0, 0, 1, 1], "val": [0, 0]}, None


def coco(folder, layout):
    texts = [(7, "a cat"), (9, "a dog"), (7, "a red cat"), (9, "a big dog")]
    content = {
        "images": [{"id": 7, "file_name": "0007.jpg"}, {"id": 9, "file_name": "0009.jpg"}],
        "annotations": [{"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(texts)],
    }
    put(folder / layout.files["val"], json.dumps(content))
    return {"val": [0, 1, 0, 1]}, None


def caption_lines(folder, layout):
    put(folder / layout.files["all"], "1.jpg#0\ta cat\n1.jpg#1\ta red cat\n2.jpg#0\ta dog\n")
    return {"all": [0, 0, 1]}, None


def cifar(folder, layout):
    names = [f"class_{n}" for n in range(layout.classes)]
    put(folder / layout.files["classes"], "\n".join(names) + "\n\n")
    labels = {"train": [], "test": []}
    for number, (role, file) in enumerate(layout.files.items()):
        if role == "classes":
            continue
        classes = [number % layout.classes, 3]
        coarse = [] if layout.classes == 10 else [19]
        pixels = [[200] * 1024 + [100] * 1024 + [50] * 1024] * 2
        put(folder / file, b"".join(bytes([*coarse, label, *row]) for label, row in zip(classes, pixels, strict=True)))
        labels[role.split()[0]] += classes
    return labels, [f"class {n}" for n in range(layout.classes)]


FINDINGS = "Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion"


def chexpert(folder, layout):
    for part in ("train", "valid"):
        path = f"{part}/patient00001/study1/view1_frontal.jpg"
        header = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{FINDINGS}\n"
        row = f"{folder.name}/{path},Female,68,Frontal,AP,,1.0,-1.0,0.0,\n"
        put(folder / layout.files[part], header + row)
        put(folder / path)
    return {"train": None, "valid": None}, None


def mimic(folder, layout):
    labels = f"subject_id,study_id,{FINDINGS}\n"
    splits = "dicom_id,study_id,subject_id,split\n"
    for number, split in enumerate(("train", "validate", "test")):
        subject, study = 10000032 + number, 50414267 + number
        labels += f"{subject},{study},1.0,,0.0,-1.0,\n"
        splits += f"d{number},{study},{subject},{split}\n"
        put(folder / f"files/p10/p{subject}/s{study}/d{number}.jpg")
    for role, text in (("labels", labels), ("split", splits)):
        name = layout.files[role]
        put(folder / name, gzip.compress(text.encode()) if name.endswith(".gz") else text)
    return {"train": None, "validate": None, "test": None}, None


COPIES = {
    **{"split_zhou": split_zhou, "cub": cub, "pets": pets, "cars": cars, "aircraft": aircraft, "products": products},
    **{"numbered": numbered, "inaturalist": inaturalist, "folders": folders, "revisited": revisited},
    **{"karpathy": karpathy, "coco": coco, "caption lines": caption_lines, "cifar": cifar, "chexpert": chexpert},
    "mimic": mimic,
}
"""Writes a copy into a folder by the layout; gives the labels of each part (None: none) and the cleaned names."""


def usual_folder(entry, layout, root: Path) -> Path:
    """Where a layout is looked for first."""
    return root / layout.folders[0]


def publish(entry, layout, root: Path, **options):
    """Writes a copy of a data set below a data root."""
    return COPIES[layout.format](usual_folder(entry, layout, root), layout, **options)
