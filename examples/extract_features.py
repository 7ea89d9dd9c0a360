"""Features of images into a folder, by one process or several; stop it and start it again: it resumes.

    python examples/extract_features.py
    torchrun --standalone --nproc_per_node 2 examples/extract_features.py
    accelerate launch --num_processes 8 examples/extract_features.py photos/ --model my-clip/ --device cuda

Without flags it takes the built-in images and the small built-in model. `accelerate launch --cpu` starts one process
only: use torchrun on CPUs.
"""

from __future__ import annotations

import argparse

from accelerate import PartialState

from hf_clipalign.backbones import load_model, load_processor
from hf_clipalign.data import load_mini, open_source
from hf_clipalign.features import extract_to_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", help="folder, table or Hub id; default: 512 of the built-in icons")
    parser.add_argument("--model", help="checkpoint folder or Hub id; default: the built-in student")
    parser.add_argument("--out", default="outputs/features")
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    state = PartialState(cpu=args.device == "cpu")
    mini = load_mini()
    model_name = args.model or str(mini.student_path)
    source = open_source(args.images or mini.icons.select(range(512)))
    store = extract_to_store(
        load_model(model_name).to(state.device),
        source,
        load_processor(model_name),
        args.out,
        shard_size=args.shard_size,
    )
    state.print(f"{store}: {store.n_skipped} images could not be read")
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main()
