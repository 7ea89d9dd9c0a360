"""What a discovery leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_clipalign.trainers.gcd.discovery import KMEANS_TEACHER, SEMI_SUPERVISED, Discovery, FoundClasses
from hf_clipalign.trainers.gcd.outcome import Assignment, write_assignments


def test_the_lines_of_the_assignments(tmp_path: Path) -> None:
    rows = [
        Assignment("owls/a.png", "bird", "bird", 0.98765, ["owl", "duck"], "bird", True),
        Assignment("b, c.png", "novel-1", "sun, moon", None, [], ""),
    ]
    assert write_assignments(tmp_path / "assignments.csv", rows).read_bytes() == (
        b"image,class,name,probability,concepts,label,held_out\n"
        b"owls/a.png,bird,bird,0.9877,owl; duck,bird,yes\n"
        b'"b, c.png",novel-1,"sun, moon",,,,\n'
    )


@pytest.mark.parametrize(
    ("plain", "semi", "best"),
    [
        (0.5, 0.5, KMEANS_TEACHER),
        (0.4, 0.5, SEMI_SUPERVISED),
        (float("nan"), 0.0, SEMI_SUPERVISED),
        (float("nan"), float("nan"), KMEANS_TEACHER),
    ],
)
def test_the_better_k_means(plain: float, semi: float, best: str) -> None:
    split: Any = None
    shares = {KMEANS_TEACHER: plain, SEMI_SUPERVISED: semi}
    methods = {name: FoundClasses(name, np.array([0, 1]), 2, share, None, {}) for name, share in shares.items()}
    assert Discovery(split, np.arange(2), 1, methods).best_kmeans == best
