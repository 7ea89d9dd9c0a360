"""What a discovery leaves behind."""

from __future__ import annotations

from pathlib import Path

from hf_clipalign.trainers.gcd.outcome import Assignment, write_assignments


def test_the_lines_of_the_assignments(tmp_path: Path) -> None:
    rows = [
        Assignment("owls/a.png", "bird", "bird", 0.98765, ["owl", "duck"], "bird"),
        Assignment("b, c.png", "novel-1", "sun, moon", None, [], ""),
    ]
    assert write_assignments(tmp_path / "assignments.csv", rows).read_bytes() == (
        b"image,class,name,probability,concepts,label\n"
        b"owls/a.png,bird,bird,0.9877,owl; duck,bird\n"
        b'"b, c.png",novel-1,"sun, moon",,,\n'
    )
