"""The example runs as it stands, without flags, and counts about as many animals as there are."""

import re


def test_runs_without_flags_and_counts_animals(run_example, tmp_path):
    printed = run_example("count_classes.py")
    numbers = re.search(r"(\d+) classes estimated, (\d+) are there, (\d+) were known", printed).groups()
    estimated, there, known = map(int, numbers)
    assert (there, known) == (130, 65)
    assert 100 < estimated < 170
    assert (tmp_path / "outputs" / "classes.png").stat().st_size > 5_000
