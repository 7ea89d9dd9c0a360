"""One process, or those that `torchrun` or `accelerate launch` has started: process r of n makes every n-th shard."""

from __future__ import annotations

from hf_clipalign.features.engines.computing import walk
from hf_clipalign.features.engines.extraction_run import Extraction
from hf_clipalign.features.engines.workers import refuse_shares, whole_lock
from hf_clipalign.features.ranks import Ranks
from hf_clipalign.features.store import FeatureStore


def extract_with_processes(run: Extraction, overwrite: bool = False) -> FeatureStore:
    """Makes what is missing, and finishes the store.

    Args:
        run (`Extraction`): what is embedded.
        overwrite (`bool`, *optional*, defaults to `False`): remove what the folder holds first.

    Returns:
        `FeatureStore`: the complete store, in every process.

    Raises:
        `ClipAlignError`: as `extract_to_store`.
    """
    ranks = Ranks.current()
    lock = whole_lock(run.folder)
    ranks.from_first(lock.__enter__)
    try:
        ranks.from_first(lambda: refuse_shares(run.folder))
        begun = ranks.from_first(lambda: run.begin(overwrite))
        if not begun.complete:
            way = "one process" if ranks.count == 1 else f"process {ranks.index} of {ranks.count}"
            mine = ranks.count, ranks.index
            n_shards = walk(run, begun, lambda shard: shard % mine[0] == mine[1], way, ranks.index == 0)
            n_shards = max(ranks.gather(n_shards))
            ranks.from_first(lambda: run.finish(begun, n_shards))
    finally:
        if ranks.index == 0:
            lock.__exit__(None, None, None)
    return run.opened()
