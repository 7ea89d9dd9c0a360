"""What the examples of docstrings find defined, and the files that they open."""

from __future__ import annotations

import copy
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import FindingLabels, from_dataset, load_mini
from hf_clipalign.features import extract_image_features, project_image_features
from hf_clipalign.isoclip import IsoCLIPModel
from hf_clipalign.search import ImageIndex

FILES = {
    "table.csv": "image,kind\nphotos/cat/1.png,pet\nphotos/dog/1.png,pet\nphotos/owl/1.png,wild\n",
    "captions.csv": "image,caption\ncat.png,a cat\ncat.png,a red cat\ndog.png,a dog\n",
    "prompts.yaml": "Edema:\n  positive: [fluid in the lungs]\n  negative: [clear lungs]\n",
    "train.csv": "Path,Frontal/Lateral,Cardiomegaly,Edema\n"
    "train/patient00001/study1/view1_frontal.jpg,Frontal,,\n"
    "train/patient00002/study2/view1_frontal.jpg,Frontal,-1.0,1.0\n"
    "train/patient00002/study2/view2_lateral.jpg,Lateral,0.0,1.0\n",
    "benchmarks/oxford_pets/split_zhou_OxfordPets.json": json.dumps(
        {part: [[f"{part}_{n}.png", n, ("Abyssinian", "maine_coon")[n]] for n in (0, 1)] for part in ("train", "test")}
    ),
    "mimic-chexpert.csv": "subject_id,study_id,Edema\n10000032,50414267,1.0\n10000032,53189527,-1.0\n",
    "mimic-split.csv": "dicom_id,study_id,subject_id,split\n"
    "02aa804e,50414267,10000032,train\n2a2277a9,53189527,10000032,test\n",
    "retrieval/queries.jsonl": json.dumps({"_id": "q", "text": "what purrs?"}),
    "retrieval/corpus.jsonl": '{"_id": "1", "text": "a dog"}\n{"_id": "2", "text": "a cat"}\n',
    "retrieval/qrels.tsv": "query-id\tcorpus-id\tscore\nq\t2\t1\n",
}


def write_files(root: Path) -> None:
    """Twelve images of three classes, two captioned ones, a benchmark of four, and tables."""
    photos = [f"photos/{kind}/{number}.png" for kind in ("cat", "dog", "owl") for number in range(1, 5)]
    pets = [f"benchmarks/oxford_pets/images/{part}_{number}.png" for part in ("train", "test") for number in (0, 1)]
    for number, name in enumerate((*photos, "pairs/cat.png", "pairs/dog.png", *pets)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (0, 0, 10 * number)).save(root / name)
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    write_interchange(root)


def write_interchange(root: Path) -> None:
    """A tar as img2dataset writes it, and embeddings as clip-retrieval does."""
    (root / "tars").mkdir()
    with tarfile.open(root / "tars" / "00000.tar", "w") as tar:
        for number, kind in enumerate(("cat", "dog", "owl")):
            image = (root / "photos" / kind / "1.png").read_bytes()
            for ending, content in (("png", image), ("txt", f"a {kind}".encode())):
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    names = [f"{kind}/{number}.png" for kind in ("cat", "dog", "owl") for number in range(1, 5)]
    folder = root / "clip-retrieval"
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", np.eye(12, 128, dtype=np.float16))
    pq.write_table(pa.table({"image_path": names}), folder / "metadata" / "metadata_0.parquet")


def write_index(root: Path) -> None:
    """An index of the photos."""
    ImageIndex.create(root / "photos", load_mini().student_path, root / "photos.index").update(progress=False)


class Names:
    """The names that an example finds defined: the built-in student, and 24 images of twelve emoji with features."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.mini = load_mini()
        rows = self.mini.emoji_subset(styles=["noto", "twemoji"], novel=True)
        emoji = np.array(rows["name"][:])
        _, counts = np.unique(emoji, return_counts=True)
        chosen = np.unique(emoji)[counts == 2][::25][:12]
        self.images = from_dataset(rows.select(np.flatnonzero(np.isin(emoji, chosen))), label_column="name")
        self.encoder = as_dual_encoder(self.mini.student)
        self.features = extract_image_features(self.encoder, self.images, self.mini.student_processor, progress=False)
        self.embeds = project_image_features(self.encoder, self.features.values)
        self.aligned = IsoCLIPModel.from_clip_pretrained(self.mini.student, image_band=(1, 48), text_band=(1, 48))
        values = np.eye(2)[np.arange(24) % 2]
        self.labels = FindingLabels(self.features.ids, ["Edema", "Fracture"], values, name="x-rays")

    def fresh_mini(self, share_alike: bool = False):
        """`load_mini()` without reading the images again; models are loaded anew, as examples change them."""
        if share_alike:
            return load_mini(share_alike=True)
        mini = copy.copy(self.mini)
        for name in ("student", "teacher"):
            mini.__dict__.pop(name, None)
        return mini

    def as_dict(self) -> dict[str, object]:
        """The names, by name."""
        return {
            **{"mini": self.mini, "model": self.mini.student, "processor": self.mini.student_processor},
            **{"encoder": self.encoder, "images": self.images, "features": self.features, "embeds": self.embeds},
            **{"aligned": self.aligned, "labels": self.labels, "torch": torch, "np": np},
        }
