"""Shares of one extraction, each made by a process that knows nothing of the others but the shared folder."""

from __future__ import annotations

from contextlib import ExitStack

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.features.engines.computing import walk
from hf_clipalign.features.engines.extraction_run import Begun, Extraction
from hf_clipalign.features.engines.plan import Plan
from hf_clipalign.features.engines.workers import share_lock, whole_lock
from hf_clipalign.features.ranks import launched
from hf_clipalign.features.rows import FEATURES
from hf_clipalign.features.storage.folder import ShardFolder
from hf_clipalign.features.store import FeatureStore

_PATIENCE = 600.0
"""Seconds to wait for others that begin at the same time: each holds the folder for moments only."""
_MOMENT = 5.0
"""Seconds to wait for whoever finishes the store, or only begins."""


def extract_share_of(run: Extraction, share: tuple[int, int]) -> FeatureStore | None:
    """Makes the missing shards of one share; the process after which none is missing finishes the store.

    Args:
        run (`Extraction`): what is embedded.
        share (`tuple[int, int]`): this share, from 1, and the number of shares.

    Returns:
        `FeatureStore`, *optional*: the complete store; None while other shares are missing.

    Raises:
        `ClipAlignError`: as `extract_to_store`; another process makes this share; or a launcher runs several.
    """
    index, count = check_share(share)
    run.share = index, count

    def mine(shard: int) -> bool:
        return shard % count == index - 1

    if launched():
        raise ClipAlignError("a share is made by one process: leave out either the launcher (torchrun) or the share.")
    with share_lock(run.folder, index, count):
        with whole_lock(run.folder, _PATIENCE):
            begun = run.begin(mine=mine)
        if not begun.complete:
            n_shards = walk(run, begun, mine, f"share {index}/{count}")
            _finish_if_none_is_missing(run, begun, n_shards)
    stored = ShardFolder.open(run.folder, FEATURES)
    return run.opened() if stored is not None and stored.complete and stored.key == run.plan.key else None


def check_share(share: tuple[int, int]) -> tuple[int, int]:
    """Refuses a share that is not one of 1 to n."""
    index, count = share
    if not 1 <= index <= count:
        last = max(count, 1)
        raise ClipAlignError(f"there is no share {index}/{count}: give one of 1/{last} to {last}/{last}.")
    return index, count


def _finish_if_none_is_missing(run: Extraction, begun: Begun, n_shards: int) -> None:
    """Finishes the store, unless another process holds the folder for long.

    Shards never go away, so that none is missing for that process either when it looks after it has made its own.
    Damaged ones of other shares are made again here, as nobody else may come for them.
    """
    shards = run.shards(begun)
    if set(range(n_shards)) - set(shards.present()):
        return
    with ExitStack() as held:
        try:
            held.enter_context(whole_lock(run.folder, _MOMENT))
        except ClipAlignError:
            return
        stored = ShardFolder.open(run.folder, FEATURES)
        is_finished = stored is not None and stored.complete and stored.key == shards.key
        if not is_finished or Plan.read(run.folder) is not None:
            damaged = set(range(n_shards)) - shards.done()
            if damaged:
                walk(run, begun, damaged.__contains__, "mending")
            run.finish(begun, n_shards, shards)
