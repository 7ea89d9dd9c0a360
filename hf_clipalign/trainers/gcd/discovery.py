"""From partly labelled images to classes: the baselines, the training with and without centring, and the verdict."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PrinterCallback, TrainerCallback, set_seed

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import GCDSplit, hold_out_labels
from hf_clipalign.evaluation import collapse, held_out_accuracy, kmeans_classes, semi_supervised_kmeans
from hf_clipalign.features import extract_image_features, project_image_features
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.metrics import clustering_accuracy, match_clusters
from hf_clipalign.trainers.checkpoints import whole_checkpoints
from hf_clipalign.trainers.gcd.arguments import SpectralGCDTrainingArguments
from hf_clipalign.trainers.gcd.checking import check_on_hidden_classes
from hf_clipalign.trainers.gcd.found import (
    CENTRED,
    KMEANS_STUDENT,
    KMEANS_TEACHER,
    NOT_CENTRED,
    SEMI_SUPERVISED,
    Discovery,
    FoundClasses,
)
from hf_clipalign.trainers.gcd.teacher import TeacherConcepts
from hf_clipalign.trainers.gcd.trainer import SpectralGCDTrainer, warn_of_collapse
from hf_clipalign.trainers.teacher import weights_digest

_STEPS = 400
_MOST_EPOCHS = 200
_HELD_OUT_IMAGES = 20
_RECORD = "discovery.json"
_WITHOUT_EFFECT = ("output_dir", "logging_dir", "run_name", "push_to_hub", "hub_token", "hub_model_id")


def short_run(n_images: int, batch_size: int = 64, epochs: int | None = None) -> dict[str, Any]:
    """Settings of `SpectralGCDTrainingArguments` for a folder of some thousand images or less.

    As many epochs as make about 400 steps, at most the published 200; the self-distillation's temperature falls over
    the first fifth of them.
    """
    batch_size = max(1, min(batch_size, n_images))
    epochs = epochs or min(_MOST_EPOCHS, max(1, math.ceil(_STEPS / max(1, n_images // batch_size))))
    return {
        "per_device_train_batch_size": batch_size,
        "num_train_epochs": epochs,
        "warmup_teacher_epochs": max(1, epochs // 5),
    }


def held_out_share(n_labelled: int) -> float:
    """The share of the labels to hold out: a fifth, more where that is fewer than 20 images, at most a half."""
    return min(0.5, max(0.2, _HELD_OUT_IMAGES / max(1, n_labelled)))


def student_features(student: Any, processor: Any, split: GCDSplit) -> Tensor:
    """Unit image features of the untrained student, `[N, d]`."""
    encoder = as_dual_encoder(student)
    features = extract_image_features(encoder, split.source, processor)
    return F.normalize(project_image_features(encoder, features.values), dim=-1)


def discover(
    split: GCDSplit,
    student: Any,
    processor: Any,
    taught: TeacherConcepts,
    concepts: Sequence[str],
    training: SpectralGCDTrainingArguments,
    *,
    n_novel: int,
    template: str,
    hold_out: float = 0.0,
    check_folds: int = 0,
    centring: Sequence[bool] | None = None,
    train: bool = True,
    reuse: bool = False,
    say: Callable[[str], None] | None = None,
    warn: bool = True,
    **sizes: int,
) -> Discovery:
    """Finds classes by k-means, by semi-supervised k-means and by SpectralGCD, and compares what was found.

    Args:
        split (`GCDSplit`): the images.
        student (`nn.Module`): the CLIP to train; it is copied.
        processor (`ProcessorMixin`): its processor.
        taught (`TeacherConcepts`): the teacher's features of the images and of the concepts.
        concepts (`Sequence[str]`): the concepts.
        training (`SpectralGCDTrainingArguments`): settings.
        n_novel (`int`): novel classes to look for.
        template (`str`): prompt of the concepts.
        hold_out (`float`, *optional*, defaults to 0.0): share of the labels that all methods do without, so that they
            can be compared; see `hf_clipalign.data.hold_out_labels`.
        check_folds (`int`, *optional*, defaults to 0): hide the known classes in so many parts, one part after the
            other, and compare the methods on them; each part is a training of its own. Fewer where there are fewer
            known classes, none with a single one.
        centring (`Sequence[bool]`, *optional*): values of `center_concepts` to train with, each in a folder of its
            own; kept is the model that has not collapsed and is right on most held-out images, of equal ones the
            first. Default: that of `training` alone, in `output_dir`.
        train (`bool`, *optional*, defaults to `True`): False leaves it at k-means.
        reuse (`bool`, *optional*, defaults to `False`): take finished trainings with the same settings and data from
            their folders, and resume interrupted ones.
        say (function, *optional*): is given a line of progress whenever the trainer logs, in place of the trainer's
            own output.
        warn (`bool`, *optional*, defaults to `True`): log a warning if the training that is kept has collapsed; of
            those that are not kept, and of the check's, none is logged.
        **sizes: `hidden_size`, `mlp_hidden_size`, `bottleneck_size`, see `SpectralGCDConfig`.

    Raises:
        `ClipAlignError`: as `SpectralGCDTrainer`; a folder holds a training with other settings or data.
    """
    visible, held_out = (
        hold_out_labels(split, hold_out, training.seed) if hold_out else (split, np.array([], dtype=np.int64))
    )
    n_known = len(split.class_names)
    judge = _Judge(visible, held_out, n_known, n_novel)
    for name, classes in baselines(
        visible, student_features(student, processor, split), taught.images, n_novel, training.seed
    ):
        judge.add(name, classes)
    if not train:
        return Discovery(visible, held_out, n_novel, judge.methods)
    models, trainers, centred_by = {}, {}, {}
    for centred in centring or [training.center_concepts]:
        name = CENTRED if centred or centring is None else NOT_CENTRED
        folder = Path(training.output_dir or ".")
        folder = folder if centring is None else folder / ("centred" if centred else "not-centred")
        settings = dataclasses.replace(training, output_dir=str(folder), center_concepts=centred)
        set_seed(settings.seed)  # before the head is drawn
        model = SpectralGCDModel.from_student(
            student, concepts, split.class_names, n_novel, processor=processor, template=template, **sizes
        )
        progress = None if say is None else _Progress(say, folder.relative_to(Path(training.output_dir or ".").parent))
        models[name], classes, trainers[name] = _trained(model, settings, visible, taught, reuse, progress)
        judge.add(name, classes)
        centred_by[name] = centred
    best = max(models, key=lambda name: judge.rank(name))
    if warn and training.process_index == 0 and (fallen := judge.methods[best].collapse) is not None:
        warn_of_collapse(fallen)

    own_sizes: dict[str, Any] = dict(sizes)

    def find(part: GCDSplit, n_wanted: int, fold: int) -> Discovery:
        hidden = set(part.novel_names[: len(split.class_names) - len(part.class_names)])
        rows = [row for row, concept in enumerate(concepts) if concept not in hidden]
        folder = Path(training.output_dir or ".") / f"check-{fold + 1}"
        chosen = None if centring is None else [centred_by[best]]
        return discover(
            part, student, processor, taught.of_concepts(rows), [concepts[row] for row in rows],
            dataclasses.replace(training, output_dir=str(folder)), n_novel=n_wanted, template=template,
            hold_out=hold_out, centring=chosen, reuse=reuse, say=say, warn=False, **own_sizes,
        )  # fmt: skip

    check = None
    if check_folds and n_known > 1:
        check = check_on_hidden_classes(split, find, n_novel, min(check_folds, n_known), training.seed)
    return Discovery(visible, held_out, n_novel, judge.methods, best, models[best], trainers[best], check)


def baselines(
    split: GCDSplit, student: Tensor, teacher: Tensor, n_novel: int, seed: int
) -> list[tuple[str, np.ndarray]]:
    """What three kinds of k-means find without training: on student and teacher, and semi-supervised."""
    n_classes = len(split.class_names) + n_novel
    plain = {KMEANS_STUDENT: student, KMEANS_TEACHER: teacher}
    found = [(name, in_known_order(kmeans_classes(values, n_classes, seed), split)) for name, values in plain.items()]
    return [*found, (SEMI_SUPERVISED, semi_supervised_kmeans(teacher, split.training_labels, n_classes, seed))]


def in_known_order(clusters: np.ndarray, split: GCDSplit) -> np.ndarray:
    """Clusters under the numbers of the known classes that they are matched with; the others follow them.

    A known class without a cluster stays empty, so there may be more novel classes than were looked for.
    """
    matched = match_clusters(split.labels[split.labelled], clusters[split.labelled])
    others = [cluster for cluster in np.unique(clusters).tolist() if cluster not in matched]
    places = matched | {cluster: len(split.class_names) + place for place, cluster in enumerate(others)}
    return np.array([places[cluster] for cluster in clusters.tolist()], dtype=np.int64)


class _Progress(TrainerCallback):
    """Says in one line how far a training is, and how the classes are spread."""

    def __init__(self, say: Callable[[str], None], name: Path):
        self.say, self.name = say, name

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "largest_class" in logs:
            self.say(
                f"{self.name}: step {state.global_step} of {state.max_steps}, loss {float(logs['loss']):.2f}, largest "
                f"class {100 * float(logs['largest_class']):.0f} %, {logs['empty_classes']} empty"
            )


class _Judge:
    """Adds what every method found, measured alike."""

    def __init__(self, split: GCDSplit, held_out: np.ndarray, n_known: int, n_novel: int):
        self.split, self.held_out, self.n_known, self.n_novel = split, held_out, n_known, n_novel
        self.methods: dict[str, FoundClasses] = {}

    def add(self, name: str, classes: np.ndarray) -> None:
        n_classes = max(self.n_known + self.n_novel, int(classes.max()) + 1)
        right = held_out_accuracy(self.split.labels, classes, np.flatnonzero(self.split.labelled), self.held_out)
        fallen = collapse(classes, self.split.unlabelled_rows, self.n_known, n_classes - self.n_known)
        self.methods[name] = FoundClasses(name, classes, n_classes, right, fallen, scores(self.split, classes))

    def rank(self, name: str) -> tuple[bool, float, float]:
        found = self.methods[name]
        spread = found.balance["effective"] if found.collapse else 0.0
        return found.collapse is None, float(np.nan_to_num(found.held_out)), spread


def scores(split: GCDSplit, classes: np.ndarray) -> dict[str, float]:
    """All, Old and New of the unlabelled images; empty where the truth is not known."""
    if not split.has_truth:
        return {}
    rows = split.unlabelled_rows
    found = clustering_accuracy(split.labels[rows], classes[rows], split.known_mask[rows])
    return {name.capitalize(): found[name] for name in ("all", "old", "new")}


def _trained(
    model: SpectralGCDModel,
    settings: SpectralGCDTrainingArguments,
    split: GCDSplit,
    taught: TeacherConcepts,
    reuse: bool,
    progress: _Progress | None = None,
) -> tuple[SpectralGCDModel, np.ndarray, SpectralGCDTrainer | None]:
    """The trained model, its classes and its trainer; from its folder, without one, if the training ended there."""
    folder = Path(settings.output_dir or ".")
    key = _key(model, settings, split, taught) if reuse else ""
    record = _read_record(folder, key) if reuse else {}
    if "classes" in record:
        kept = SpectralGCDModel.from_pretrained(folder).to(settings.device)
        kept.image_processor = model.image_processor
        return kept, np.array(record["classes"], dtype=np.int64), None
    if reuse and not record:
        _write_record(folder, {"key": key})
    resume: Any = settings.resume_from_checkpoint
    if record and whole_checkpoints(folder):
        resume = True
    trainer = SpectralGCDTrainer(model, settings, train_dataset=split, teacher=taught)
    if progress is not None:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(progress)
    trainer.warns_of_collapse = False  # only what is kept matters
    trainer.train(resume_from_checkpoint=resume)
    classes = trainer.assign_classes()
    trainer.save_model()
    if reuse:
        _write_record(folder, {"key": key, "classes": classes.tolist()})
        for checkpoint in whole_checkpoints(folder):
            shutil.rmtree(checkpoint)
    return model, classes, trainer


def _key(
    model: SpectralGCDModel, settings: SpectralGCDTrainingArguments, split: GCDSplit, taught: TeacherConcepts
) -> str:
    """A hash of all that the training depends on."""
    own = {name: value for name, value in settings.to_dict().items() if name not in _WITHOUT_EFFECT}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode())
    digest.update(f"{split.source.fingerprint()} {split.training_labels.tolist()} {weights_digest(model)}".encode())
    for values in (taught.images, taught.texts):
        digest.update(values.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read_record(folder: Path, key: str) -> dict[str, Any]:
    try:
        record = json.loads((folder / _RECORD).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ClipAlignError(f"{str(folder / _RECORD)!r} cannot be read: delete the folder {str(folder)!r}") from error
    if not isinstance(record, dict) or record.get("key") != key:
        raise ClipAlignError(
            f"{str(folder)!r} holds a training on other images or with other settings: delete it, or name another "
            "folder for the results"
        )
    return record


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    with atomic_file(folder / _RECORD) as staging:
        staging.write_text(json.dumps(record), encoding="utf-8")
