"""The example runs as it stands, without flags, and finds animals among animals."""

import re

from hf_clipalign.data import load_dictionary


def test_runs_without_flags_and_keeps_animals(run_example, tmp_path):
    printed = run_example("filter_concepts.py")
    carried, chance = map(float, re.search(r"carry (\d+) % .* dictionary ([\d.]+) % are", printed).groups())
    assert carried > 10 * chance
    kept = load_dictionary(tmp_path / "outputs" / "concepts" / "concepts.csv")
    assert {"giraffe", "frog", "penguin"} <= set(kept)
    assert (tmp_path / "outputs" / "concepts" / "concepts.png").stat().st_size > 10_000
