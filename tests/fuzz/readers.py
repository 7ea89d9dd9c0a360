"""What reads files that others wrote: how to make a sound one, which of its files are damaged, and how it is read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.fuzz import mutations as kinds


@dataclass(frozen=True)
class Reader:
    """One reader under test.

    Args:
        make: fills an empty folder with sound input.
        read: reads the folder; the second argument is the damaged file.
        files: patterns of the files that are damaged, each with the kinds of damage.
        check: says what is wrong with a result, or nothing. It gets the result, the sound input's, and the folder.
        share: inputs to try, of all readers' 7,000.
    """

    make: Callable[[Path], None]
    read: Callable[[Path, Path], Any]
    files: dict[str, list[str]]
    check: Callable[[Any, Any, Path], str | None]
    share: int


def anything(result: Any, sound: Any, folder: Path) -> str | None:
    """For readers whose input has no checksum: another result is what another input means."""
    return None


def as_before(result: Any, sound: Any, folder: Path) -> str | None:
    """For readers of what has a checksum: damage is named, or changes nothing."""
    return None if result == sound else f"another result in silence: {str(result)[:200]} for {str(sound)[:200]}"


def no_empty_texts(result: Iterable[str], sound: Any, folder: Path) -> str | None:
    bad = [text for text in result if not isinstance(text, str) or not text.strip()]
    return f"empty or no text: {bad[:3]}" if bad else None


def finite(result: torch.Tensor, sound: Any, folder: Path) -> str | None:
    return None if torch.as_tensor(result).isfinite().all() else "not finite"


def digest(*tensors: Any) -> str:
    """A value that is equal for equal tensors only, NaN and sign of zero included."""
    import hashlib

    content = hashlib.sha256()
    for tensor in tensors:
        array = np.ascontiguousarray(tensor)
        content.update(f"{array.shape}{array.dtype}".encode() + array.tobytes())
    return content.hexdigest()


def _png(image: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _images(folder: Path) -> None:
    from PIL import Image

    values = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    image = Image.fromarray(values, "RGBA")
    for name, mode in {
        **{"a.png": "RGBA", "b.png": "P", "c.png": "L", "d.png": "1", "e.png": "I;16"},
        **{
            "a.jpg": "RGB",
            "b.jpg": "CMYK",
            "c.jpg": "L",
            "a.gif": "P",
            "a.bmp": "RGB",
            "a.tiff": "RGB",
            "b.tiff": "F",
        },
        **{"a.webp": "RGBA", "a.ppm": "RGB", "a.ico": "RGBA"},
    }.items():
        converted = image.convert("L").convert(mode) if mode in ("I;16", "F") else image.convert(mode)
        try:
            converted.save(folder / name)
        except (OSError, KeyError):  # a build of Pillow without this format
            (folder / name).unlink(missing_ok=True)


def _read_image(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import read_image

    return read_image(file)


def _is_rgb(result: Any, sound: Any, folder: Path) -> str | None:
    return None if result.mode == "RGB" and np.asarray(result).ndim == 3 else f"mode {result.mode}"


def _table(folder: Path) -> None:
    import pandas as pd

    rows = [(f"photos/{i}.jpg", ["cat", "dog", "007"][i % 3], f'a "photo", no {i}') for i in range(8)]
    frame = pd.DataFrame(rows, columns=["image", "label", "caption"])
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_csv(folder / "t.tsv", index=False, sep="\t")
    frame.to_parquet(folder / "t.parquet")


def _read_table(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import from_table

    return from_table(file, label_column="label", text_column="caption")


def _aligned_source(source: Any, sound: Any, folder: Path) -> str | None:
    lengths = {len(source.items), len(source.ids), len(source.labels), len(source.texts)}
    if len(lengths) != 1 or not lengths.pop():
        return "items, ids, labels and texts differ in number, or there are none"
    if source.class_names is not None and max(source.labels) >= len(source.class_names):
        return "a label without a name"
    return no_empty_texts([text for texts in source.texts for text in texts], sound, folder)


def _captions(folder: Path) -> None:
    rows = [(f"{i // 2}.jpg", f"a caption, no {i}") for i in range(8)]
    (folder / "c.csv").write_text("image,caption\n" + "".join(f'{a},"{b}"\n' for a, b in rows))
    (folder / "p.csv").write_text("image_name| comment_number| comment\n" + "".join(f"{a}| 0| {b}\n" for a, b in rows))
    (folder / "f.token").write_text("".join(f"{a}#{i}\t{b}\n" for i, (a, b) in enumerate(rows)))
    coco = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(4)],
        "annotations": [{"image_id": i // 2, "caption": b} for i, (_, b) in enumerate(rows)],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    karpathy = {"images": [{"filename": a, "sentences": [{"raw": b}]} for a, b in rows[::2]]}
    (folder / "karpathy.json").write_text(json.dumps(karpathy))
    (folder / "l.jsonl").write_text("".join(json.dumps({"image": a, "caption": b}) + "\n" for a, b in rows))
    import pandas as pd

    pd.DataFrame(rows, columns=["image", "caption"]).to_parquet(folder / "c.parquet")


def _read_captions(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import load_captions

    return load_captions(file)


def _aligned_captions(captions: Any, sound: Any, folder: Path) -> str | None:
    if len(captions.texts) != len(captions.labels) or not len(captions.texts):
        return "texts and labels differ in number, or there are none"
    return no_empty_texts(captions.texts, sound, folder)


def _qrels(folder: Path) -> None:
    for name in ("queries", "corpus"):
        rows = [{"_id": f"{name[0]}{i}", "title": "T", "text": f"text {i}"} for i in range(5)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\tc{i}\t{i % 3}" for i in range(5))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")


def _read_qrels(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import load_qrels

    return load_qrels(folder)


def _judged(judged: Any, sound: Any, folder: Path) -> str | None:
    if not len(judged.queries) or any(not np.isfinite(grades).all() for grades in judged.grades):
        return "no query, or a grade that is not finite"
    return no_empty_texts(list(judged.queries.texts), sound, folder)


def _dictionary(folder: Path) -> None:
    import gzip

    names = ["cat", "dog", "fire engine", "naïve plant", "T-shirt"]
    (folder / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (folder / "names.csv").write_text("id,name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)))
    (folder / "names.txt.gz").write_bytes(gzip.compress("\n".join(names).encode(), mtime=0))


def _read_dictionary(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import load_dictionary

    return load_dictionary(file)


def _prompts(folder: Path) -> None:
    content = {
        name: {"positive": [f"{name} is there", f"signs of {name}"], "negative": [f"no {name}"]}
        for name in ("Edema", "Pleural Effusion")
    }
    (folder / "p.json").write_text(json.dumps(content))
    lines = []
    for name, parts in content.items():
        lines += [f"{name}:", *(f"  {kind}: [{', '.join(texts)}]" for kind, texts in parts.items())]
    (folder / "p.yaml").write_text("\n".join(lines) + "\n")


def _read_prompts(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import FindingPrompts

    return FindingPrompts.load(file)


def _some_prompts(prompts: Any, sound: Any, folder: Path) -> str | None:
    texts = [text for parts in prompts.to_dict().values() for kind in parts.values() for text in kind]
    return "no prompts" if not texts else no_empty_texts(texts, sound, folder)


_FINDINGS = ("Atelectasis", "Cardiomegaly", "Edema")


def _chexpert(folder: Path) -> None:
    rows = [
        f"CheXpert/train/patient{i:05d}/study1/view1_frontal.jpg,Frontal,{i % 2}.0,{-1 if i % 3 else ''},{i % 2}"
        for i in range(6)
    ]
    (folder / "train.csv").write_text("\n".join(["Path,Frontal/Lateral," + ",".join(_FINDINGS), *rows]) + "\n")


def _read_chexpert(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import read_chexpert

    return read_chexpert(file, _FINDINGS, frontal_only=True)


def _label_values(labels: Any, sound: Any, folder: Path) -> str | None:
    values = np.asarray(labels.values, dtype=float)
    if values.shape != (len(labels.ids), len(labels.findings)):
        return f"values {values.shape} for {len(labels.ids)} ids"
    known = np.isin(values, (-1, 0, 1)) | np.isnan(values)
    return None if known.all() else f"labels {np.unique(values[~known])[:4]}"


def _mimic(folder: Path) -> None:
    rows = [f"1000{i},5000{i},{i % 2}.0,{'' if i % 2 else '-1.0'},0.0" for i in range(5)]
    (folder / "labels.csv").write_text("\n".join(["subject_id,study_id," + ",".join(_FINDINGS), *rows]) + "\n")
    rows = [f"d{i},1000{i},5000{i},{'PA' if i % 2 else 'AP'}" for i in range(5)]
    (folder / "images.csv").write_text("\n".join(["dicom_id,subject_id,study_id,ViewPosition", *rows]) + "\n")


def _read_mimic(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import read_mimic_cxr

    return read_mimic_cxr(folder / "labels.csv", folder / "images.csv", _FINDINGS, views=["PA", "AP"])


class _Encoder:
    """Nothing is loaded twice: the tiny model, its processor, and eight images."""

    @staticmethod
    def model() -> Any:
        from tests.tiny_models import tiny_clip

        return tiny_clip().eval()

    @staticmethod
    def processor() -> Any:
        from tests.tiny_models import tiny_image_processor

        return tiny_image_processor()


def _store(folder: Path) -> None:
    from PIL import Image

    from hf_clipalign.data import ImageSource
    from hf_clipalign.features import extract_to_store

    rng = np.random.default_rng(0)
    images = [_png(Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))) for _ in range(8)]
    source = ImageSource(images, ids=[f"{i}.png" for i in range(8)], labels=np.arange(8) % 2, class_names=["a", "b"])
    model, processor = _Encoder.model(), _Encoder.processor()
    extract_to_store(model, source, processor, folder, shard_size=4, batch_size=4, num_workers=0, progress=False)


def _read_store(folder: Path, file: Path) -> Any:
    from hf_clipalign.features import FeatureStore

    store = FeatureStore.open(folder)
    store.verify()
    labels = None if store.labels is None else np.asarray(store.labels)
    return store.ids, store.class_names, store.modality, store.skipped, digest(store.values(), labels)


def _inversions(folder: Path) -> None:
    from hf_clipalign.inversion import invert_to_store

    embeds = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    invert_to_store(folder, "ovi", _Encoder.model(), embeds, shard_size=2, n_tokens=1, steps=2, progress=False)


def _read_inversions(folder: Path, file: Path) -> Any:
    from hf_clipalign.inversion import read_inversions

    names, output = read_inversions(folder)
    return names, digest(output.tokens, output.features, output.losses)


def _embeddings(folder: Path) -> None:
    import pandas as pd

    from hf_clipalign.data import read_chexpert
    from hf_clipalign.evaluation import LabelledEmbeddings

    _chexpert(folder)
    labels = read_chexpert(folder / "train.csv", _FINDINGS)
    embeds = torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(0))
    LabelledEmbeddings(embeds, labels).save(folder / "e.safetensors")
    pd.DataFrame({"id": labels.ids, "image_embeds": list(embeds.numpy())}).to_parquet(folder / "e.parquet")


def _read_embeddings(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import read_chexpert
    from hf_clipalign.evaluation import LabelledEmbeddings

    return LabelledEmbeddings.from_file(file, read_chexpert(folder / "train.csv", _FINDINGS))


def _embeddings_of_labels(result: Any, sound: Any, folder: Path) -> str | None:
    if len(result.embeds) != len(result.labels):
        return "embeddings and labels differ in number"
    return finite(result.embeds, sound, folder)


def _streamed(folder: Path) -> None:
    """Bytes of an image in a parquet table."""
    import pandas as pd
    from PIL import Image

    images = [{"bytes": _png(Image.new("RGB", (8, 8), (i, 0, 0))), "path": f"{i}.png"} for i in range(4)]
    pd.DataFrame({"image": images, "label": list("abab")}).to_parquet(folder / "t.parquet")


def _read_embedded(folder: Path, file: Path) -> Any:
    from hf_clipalign.data import from_table

    source = from_table(file, label_column="label")
    return [source.read(i) for i in range(len(source.items))]


_TEXT_FILES = {"*.csv": kinds.TABLE, "*.tsv": kinds.TABLE, "*.jsonl": kinds.TEXT, "*.json": kinds.JSON}
DATA_READERS = {
    "image": Reader(_images, _read_image, {"*": kinds.BYTES}, _is_rgb, 1500),
    "table": Reader(_table, _read_table, {**_TEXT_FILES, "*.parquet": kinds.BYTES}, _aligned_source, 600),
    "images in a table": Reader(_streamed, _read_embedded, {"*.parquet": kinds.BYTES}, anything, 200),
    "captions": Reader(
        _captions,
        _read_captions,
        {**_TEXT_FILES, "*.token": kinds.TEXT, "*.parquet": kinds.BYTES},
        _aligned_captions,
        700,
    ),
    "qrels": Reader(_qrels, _read_qrels, {**_TEXT_FILES, "qrels/*.tsv": kinds.TABLE}, _judged, 400),
    "dictionary": Reader(
        _dictionary,
        _read_dictionary,
        {**_TEXT_FILES, "*.txt": kinds.TEXT, "*.gz": kinds.BYTES},
        no_empty_texts,
        400,
    ),
    "prompts": Reader(_prompts, _read_prompts, {"*.json": kinds.JSON, "*.yaml": kinds.TEXT}, _some_prompts, 500),
    "chexpert": Reader(_chexpert, _read_chexpert, _TEXT_FILES, _label_values, 350),
    "mimic": Reader(_mimic, _read_mimic, _TEXT_FILES, _label_values, 350),
    "feature store": Reader(
        _store, _read_store, {"*.json": kinds.JSON, "*.safetensors": [*kinds.BYTES, *kinds.JSON]}, as_before, 500
    ),
    "inversions": Reader(
        _inversions,
        _read_inversions,
        {"*.json": kinds.JSON, "*.safetensors": [*kinds.BYTES, *kinds.JSON]},
        as_before,
        300,
    ),
    "embeddings": Reader(
        _embeddings,
        _read_embeddings,
        {"*.safetensors": [*kinds.BYTES, *kinds.JSON], "*.parquet": kinds.BYTES},
        _embeddings_of_labels,
        300,
    ),
}
