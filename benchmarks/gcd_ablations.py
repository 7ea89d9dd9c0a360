"""Category discovery on the built-in set over seeds: the whole method, and with one part left out.

    python benchmarks/gcd_ablations.py                        # three seeds, four variants, two k-means baselines
    python benchmarks/gcd_ablations.py --seeds 0 --variants full -- --num_train_epochs 20

Every run is one of `examples/train_gcd.py`; a seed also draws which classes are known. What follows `--` goes to the
example. The table is saved after every run, and runs that it holds already are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from hf_clipalign.evaluation import ResultTable

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import train_gcd  # the example lies outside the package

FULL = "SpectralGCD"
VARIANTS = {
    "full": (FULL, ()),
    "no-distillation": (f"{FULL} without distillation", ("--distillation_weight", "0")),
    "no-filter": (f"{FULL} without filtering", ("--no_filter",)),
    "not-centred": (f"{FULL} without centring, as published", ("--center_concepts", "false")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Default: 0 1 2.")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="Default: all.")
    parser.add_argument("--out", type=Path, default=Path("gcd-ablations"), help="Folder for the table and the runs.")
    parser.add_argument("more", nargs="*", help="After --: flags of the example.")
    arguments = parser.parse_args()
    file = arguments.out / "table.json"
    title = "Clustering accuracy of the unlabelled images of the built-in set"
    table = ResultTable.from_json(file.read_text()) if file.is_file() else ResultTable(title)
    for seed in arguments.seeds:
        for variant in arguments.variants:
            name, flags = VARIANTS[variant]
            if seed in table.scores.get(name, {}).get("All", {}):
                continue
            folder = arguments.out / f"{variant}-{seed}"
            run = train_gcd.main(["--seed", str(seed), "--output_dir", str(folder), *flags, *arguments.more])
            for method in run.scores:
                own = {test: run.mean(method, test) for test in run.tests}
                table.add(name if method == FULL else method, own, seed=seed)
            table.save(file)
            Console().print(table.to_rich())
    table.save(arguments.out / "table.md")


if __name__ == "__main__":
    main()
