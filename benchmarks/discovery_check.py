"""Does hiding known classes say which of two methods is better? Tried on methods that need no training.

    OMP_NUM_THREADS=1 python benchmarks/discovery_check.py --out runs/discovery-check

Four ways to cluster features, each against k-means on the teacher's: k-means on the student's, semi-supervised
k-means, and k-means after a linear discriminant analysis of the labelled images, which is good at known classes and
bad at novel ones. The sets are those of `discovery_table.py`; a seed draws known classes, labels and folds. The
check's verdict stands beside the truth: All of the unlabelled images. `--folder DIR` adds labelled folders.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from discovery_table import SETS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from hf_clipalign.data import GCDSplit, hold_out_labels, image_folder, load_mini
from hf_clipalign.evaluation import held_out_accuracy, kmeans_classes, semi_supervised_kmeans
from hf_clipalign.trainers.gcd.checking import check_on_hidden_classes
from hf_clipalign.trainers.gcd.discovery import held_out_share, in_known_order, scores, student_features

TEACHER = "k-means on teacher features"


def cluster(split: GCDSplit, student: torch.Tensor, teacher: torch.Tensor, n_novel: int, seed: int) -> dict[str, Any]:
    """Classes by method."""
    labels, n = split.training_labels, len(split.class_names) + n_novel
    rows = np.flatnonzero(labels >= 0)
    found = {
        TEACHER: kmeans_classes(teacher, n, seed),
        "k-means on student features": kmeans_classes(student, n, seed),
    }
    if len(split.class_names) > 1:
        analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(teacher[rows], labels[rows])
        seen = torch.nn.functional.normalize(torch.tensor(analysis.transform(teacher), dtype=torch.float32), dim=-1)
        found["k-means after discriminant analysis"] = kmeans_classes(seen, n, seed)
    ordered = {name: in_known_order(classes, split) for name, classes in found.items()}
    return ordered | {"semi-supervised k-means": semi_supervised_kmeans(teacher, labels, n, seed)}


def rows_of(name: str, source: Any, seed: int, features: tuple[torch.Tensor, torch.Tensor]) -> list[dict[str, Any]]:
    """Truth, check and held-out images: every method against k-means on the teacher's features."""
    split = GCDSplit.from_source(source, 0.5, seed=seed, class_seed=seed, per_class=True)
    share = held_out_share(int(split.labelled.sum()))
    visible, held_out = hold_out_labels(split, share, seed)
    found = cluster(visible, *features, split.n_novel, seed)

    def find(part: GCDSplit, n_novel: int, fold: int) -> Any:
        seen, _ = hold_out_labels(part, share, seed)
        methods = cluster(seen, *features, n_novel, seed)
        return SimpleNamespace(split=seen, methods={name: SimpleNamespace(classes=c) for name, c in methods.items()})

    check = check_on_hidden_classes(split, find, split.n_novel, seed=seed)
    truth = {method: scores(visible, classes) for method, classes in found.items()}
    seen = {
        method: held_out_accuracy(visible.labels, classes, np.flatnonzero(visible.labelled), held_out)
        for method, classes in found.items()
    }
    rows = []
    for method in found:
        if method != TEACHER and method in check.right:
            mean, low, high = check.difference(method, TEACHER)
            rows.append({"set": name, "seed": seed, "method": method, "check": mean, "low": low, "high": high})
            rows[-1] |= {"truth": truth[method]["All"] - truth[TEACHER]["All"], "scores": truth[method]}
            rows[-1] |= {"held_out": seen[method] - seen[TEACHER], "n": len(visible.unlabelled_rows)}
            rows[-1] |= {"by_class": (check.by_class(method) - check.by_class(TEACHER)).tolist()}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("discovery-check"))
    parser.add_argument("--folder", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    mini, rows = load_mini(), []
    for name in (*SETS, *args.folder):
        source = SETS[name]() if name in SETS else image_folder(name)
        split = SimpleNamespace(source=source)
        student = student_features(mini.student, mini.student_processor, split)
        teacher = student_features(mini.teacher, mini.teacher_processor, split)
        for seed in args.seeds:
            rows += rows_of(Path(name).name, source, seed, (student, teacher))
            (args.out / "rows.json").write_text(json.dumps(rows))
            for row in rows[-3:]:
                shown = {key: round(100 * row[key]) for key in ("truth", "check", "low", "high", "held_out")}
                print(row["set"], seed, row["method"], shown, flush=True)


if __name__ == "__main__":
    main()
