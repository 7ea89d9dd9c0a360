"""What a discovery leaves behind: assignments.csv, summary.json and the gallery."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_clipalign._io.files import atomic_file
from hf_clipalign.evaluation import ReportTable, Section, class_gallery, write_report
from hf_clipalign.gcd import concept_contributions, top_concepts
from hf_clipalign.gcd.explanation import ProfileSums, concept_labels
from hf_clipalign.hub import CardEvaluation
from hf_clipalign.trainers.gcd.found import Discovery
from hf_clipalign.trainers.gcd.teacher import TeacherConcepts

COMPARED = (
    "Held out: some labels of every known class are hidden from all methods; clusters are matched one to one "
    "with known classes on the labels that stay; what counts is the share of the hidden labels whose image lies in "
    "the cluster of its class. It says nothing of novel classes. "
)
CHECKED = (
    "Check: each known class is hidden in one of further runs, with all its labels, so that it has to be found like a "
    "novel one; the share of right images is the mean of the hidden and of the known classes. "
)
SPREAD = "Spread: classes of equal size with the same entropy."
_FIELDS = ("image", "class", "name", "probability", "concepts", "label", "held_out")
_BATCH = 64
_N_NAMING = 3
_SHOWN_CONCEPTS = 6


@dataclass(frozen=True)
class Assignment:
    """The class of one image.

    Args:
        image (`str`): its id, for a folder the path below it.
        class_name (`str`): a known class, or "novel-k".
        name (`str`): a readable name: of a novel class its strongest concepts.
        probability (`float`, *optional*): of the class; k-means has none.
        concepts (`list[str]`): what speaks for the class, best first.
        label (`str`): the label that the image came with; empty if it had none.
        held_out (`bool`, *optional*, defaults to `False`): whether that label was hidden from all methods, to compare
            them by it.
    """

    image: str
    class_name: str
    name: str
    probability: float | None
    concepts: list[str]
    label: str
    held_out: bool = False


def assignments(
    discovery: Discovery, method: str, taught: TeacherConcepts, concepts: Sequence[str]
) -> list[Assignment]:
    """The classes that one method gives the images, in their order.

    Names and concepts are the trained model's for its own classes, else those of the teacher's similarities.
    """
    split, found = discovery.split, discovery.methods[method]
    if method == discovery.trained and discovery.model is not None:
        return _of_model(discovery, found.classes)
    labels, explained = _described(discovery, method, taught, concepts)
    names = _names(discovery, found.n_classes)
    given = _given(discovery)
    concepts_of = [[name for name, _ in row[:_N_NAMING]] for row in explained]
    return [
        Assignment(image, names[number], labels[number], None, concepts_of[number], *given[row])
        for row, (image, number) in enumerate(zip(split.source.ids, found.classes.tolist(), strict=True))
    ]


def _of_model(discovery: Discovery, classes: np.ndarray) -> list[Assignment]:
    source, model, given = discovery.split.source, discovery.model, _given(discovery)
    assert model is not None
    rows = []
    for start in range(0, len(source), _BATCH):
        batch = range(start, min(start + _BATCH, len(source)))
        for row, said in zip(
            batch, model.predict([source.read(row) for row in batch], n_concepts=_N_NAMING), strict=True
        ):
            named = [name for name, _ in said.concepts]
            rows.append(Assignment(source.ids[row], said.name, said.label, said.probability, named, *given[row]))
    return rows


def _given(discovery: Discovery) -> list[tuple[str, bool]]:
    """The label that each image came with, and whether it was held out."""
    split = discovery.split
    held_out = np.zeros(len(split), dtype=bool)
    held_out[discovery.held_out] = True
    labels = np.where(split.labelled | held_out, split.labels, -1)
    names = [split.class_names[label] if label >= 0 else "" for label in labels.tolist()]
    return list(zip(names, held_out.tolist(), strict=True))


def _names(discovery: Discovery, n_classes: int) -> list[str]:
    known = discovery.split.class_names
    return [*known, *(f"novel-{number + 1}" for number in range(n_classes - len(known)))]


def _described(
    discovery: Discovery, method: str, taught: TeacherConcepts, concepts: Sequence[str]
) -> tuple[list[str], list[list[tuple[str, float]]]]:
    """Readable names of the classes of a method, and their strongest concepts."""
    found, known = discovery.methods[method], discovery.split.class_names
    if method == discovery.trained and discovery.model is not None:
        return discovery.model.class_labels(), discovery.model.class_concepts(_SHOWN_CONCEPTS)
    sums = ProfileSums(found.n_classes, len(concepts))
    for rows in torch.arange(len(found.classes)).split(_BATCH):
        shares = taught.cross_modal(rows).float().cpu().softmax(dim=-1)
        sums.add(shares, torch.from_numpy(found.classes)[rows])
    explained = top_concepts(concept_contributions(sums.profiles, sums.overall), concepts, _SHOWN_CONCEPTS)
    words = [[name for name, _ in row] for row in explained[len(known) :]]
    novel = concept_labels(_names(discovery, found.n_classes)[len(known) :], words, known, _N_NAMING)
    return [*known, *novel], explained


def comparison(discovery: Discovery) -> ReportTable:
    """All methods side by side, the recommended one first: held-out accuracy, the check, how evenly the images are
    spread, and All, Old, New if known."""
    tests = list(next(iter(discovery.methods.values())).scores)
    check, rows = discovery.check, []
    first = discovery.recommended
    for name in sorted(discovery.methods, key=lambda name: name != first):
        found = discovery.methods[name]
        balance = found.balance
        checked = [] if check is None else [_percent(check.share(name)) if name in check.right else "–"]
        spread = f"{balance['effective']:.1f} of {found.n_classes}"
        rest = [_percent(found.scores[test]) for test in tests]
        row = [name, _percent(found.held_out), *checked, f"{100 * balance['largest']:.0f}", str(balance["empty"])]
        rows.append([*row, spread, *rest])
    title = f"held out, % of {len(discovery.held_out)}"
    checks = [] if check is None else [f"check, % of {check.n_classes} classes"]
    note = COMPARED + (CHECKED if checks else "") + SPREAD
    return ReportTable(["method", title, *checks, "largest class, %", "empty", "spread", *tests], rows, note)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def write_gallery(
    folder: Path,
    discovery: Discovery,
    method: str,
    taught: TeacherConcepts,
    concepts: Sequence[str],
    note: str = "",
) -> Path:
    """Writes `gallery.html`: the comparison, and a row for every class of a method."""
    split, found = discovery.split, discovery.methods[method]
    labels, explained = _described(discovery, method, taught, concepts)
    names = _names(discovery, found.n_classes)
    shown = [
        own if own == label or row < len(split.class_names) else f"{own}: {label}"
        for row, (own, label) in enumerate(zip(names, labels, strict=True))
    ]
    sections = class_gallery(split, found.classes, shown, explained)
    doubts = [f"{reason}." for reason in verdict(discovery)] if method == discovery.trained else []
    sections.insert(0, Section("Methods", text=doubts, tables=[comparison(discovery)]))
    lead = (
        f"By {method}: {len(split)} images, {int(split.labelled.sum())} with a label of {len(split.class_names)} "
        f"known classes; {discovery.n_novel} others were looked for, with {len(concepts)} concepts.{note}"
    )
    return write_report(folder / "gallery.html", "Classes that were found", sections, lead)


def write_assignments(path: Path, rows: Sequence[Assignment]) -> Path:
    """Writes the classes as CSV, concepts separated by "; "; the fields are those of `Assignment`."""
    with atomic_file(path) as staging, staging.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_FIELDS)
        for row in rows:
            probability = "" if row.probability is None else f"{row.probability:.4f}"
            held_out = "yes" if row.held_out else ""
            writer.writerow(
                [row.image, row.class_name, row.name, probability, "; ".join(row.concepts), row.label, held_out]
            )
    return path


def verdict(discovery: Discovery) -> list[str]:
    """All that speaks against the trained model's answer, or that it is not distinguished from k-means."""
    undecided = discovery.undecided()
    return discovery.doubts() or ([] if undecided is None else [undecided])


def write_card(discovery: Discovery, command: str, title: str) -> None:
    """Writes the card beside the model that was trained, with the comparison; a training done before has one."""
    if discovery.trainer is not None:
        evaluations = [CardEvaluation(title, [], comparison(discovery), "; ".join(verdict(discovery)))]
        discovery.trainer.create_model_card(command=command, evaluations=evaluations)


def write_summary(
    path: Path, discovery: Discovery, method: str, rows: Sequence[Assignment], more: dict[str, Any]
) -> Path:
    """Writes what was found as JSON: sizes of the classes, all methods, and why an answer is doubted."""
    n_classes = discovery.methods[method].n_classes
    counts = np.bincount(discovery.methods[method].classes, minlength=n_classes).tolist()
    readable = {row.class_name: row.name for row in rows}
    content = {
        **more,
        "method": method,
        "n_images": len(discovery.split),
        "n_labelled": int(discovery.split.labelled.sum()),
        "n_held_out": len(discovery.held_out),
        "n_known": len(discovery.split.class_names),
        "n_novel": discovery.n_novel,
        "doubts": discovery.doubts() if method == discovery.trained else [],
        "undecided": discovery.undecided() if method == discovery.trained else None,
        "recommended": discovery.recommended,
        "compared": COMPARED + CHECKED + SPREAD,
        "classes": [
            {"class": name, "name": readable.get(name, name), "images": count}
            for name, count in zip(_names(discovery, n_classes), counts, strict=True)
        ],
        "methods": {name: _method(found) | _check(discovery, name) for name, found in discovery.methods.items()},
    }
    with atomic_file(path) as staging:
        staging.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _method(found: Any) -> dict[str, Any]:
    held_out = None if math.isnan(found.held_out) else found.held_out
    return {"held_out_accuracy": held_out, **found.balance, "collapse": found.collapse, **found.scores}


def _check(discovery: Discovery, name: str) -> dict[str, Any]:
    check = discovery.check
    return {} if check is None or name not in check.right else {"check": check.share(name)}
