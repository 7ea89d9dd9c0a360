"""Features of any number of images or texts, into a folder: in shards, resumable, over several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hf_clipalign.features.engines.extraction_run import Extraction
from hf_clipalign.features.engines.processes import extract_with_processes
from hf_clipalign.features.engines.shares import extract_share_of
from hf_clipalign.features.store import FeatureStore


def extract_to_store(
    model: Any,
    source: Any,
    processor: Any,
    folder: str | Path,
    *,
    shard_size: int = 4096,
    batch_size: int = 64,
    num_workers: int | None = None,
    strict: bool = False,
    truncate: bool = False,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
    model_name: str | None = None,
    progress: bool = True,
) -> FeatureStore:
    """Writes features before the projector to a folder, shard by shard; what is there already is not made again.

    A run that was killed is resumed where it stopped, and the files come out byte for byte as if it had not been. That
    holds on the same machine with the same number of threads: shards and the batches in them are fixed rows, which
    `plan.json` lists until the store is complete. Under
    `torchrun` or `accelerate launch` shard i is made by process `i % world_size`; the files are the same. No more than
    one shard a process is in memory, however many items there are.

    Images that were added, removed, renamed or edited in the source that a folder was made from are no other data:
    the features of images whose bytes are unchanged are reused, and a line of the log says how many. The old store
    stays readable until the new one is complete. A reused feature is the stored one; computed again it may differ in
    the last bits, because an image is then in a batch of other size. All else is as in a new folder, to the byte.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, in evaluation mode, on the device to use.
        source (`ImageSource`, `ImageStream`, `TextSource`, `Captions`, list of texts, `datasets.IterableDataset`, or
            what `open_source` takes): the items, in an order that does not change.
        processor (`ProcessorMixin`, image processor or tokenizer): the checkpoint's processor.
        folder (`str` or `Path`): where the store is or will be.
        shard_size (`int`, *optional*, defaults to `4,096`): rows of the source in one file.
        batch_size (`int`, *optional*, defaults to `64`): items per pass.
        num_workers (`int`, *optional*): processes that read images. Default: none for few images, else this
            process's share of the cores but one, at most 8.
        strict (`bool`, *optional*, defaults to `False`): raise at the first image that cannot be read, instead of
            recording it.
        truncate (`bool`, *optional*, defaults to `False`): cut texts over the context length instead of raising.
        dtype (`str` or `torch.dtype`, *optional*): compute in `"float32"`, `"bfloat16"` or `"float16"`, with a copy of
            the model; the features are kept in float32 and go with the given model. Default: the model's own type.
        overwrite (`bool`, *optional*, defaults to `False`): remove what the folder holds first, and reuse nothing.
        model_name (`str`, *optional*): what to call the model. Default: where it was loaded from.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar in the first process.

    Returns:
        `FeatureStore`: the complete store, in every process.

    Raises:
        `ClipAlignError`: the folder holds something else, another run is writing to it, nothing can be read, or
            (`strict`) one image cannot.

    Example:
        ```python
        >>> from hf_clipalign.features import extract_to_store
        >>> store = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False)
        >>> len(store), store.width
        (12, 128)
        ```
    """
    run = Extraction(
        model,
        source,
        processor,
        folder,
        shard_size=shard_size,
        batch_size=batch_size,
        num_workers=num_workers,
        strict=strict,
        truncate=truncate,
        dtype=dtype,
        model_name=model_name,
        progress=progress,
    )
    return extract_with_processes(run, overwrite)


def extract_share(
    model: Any,
    source: Any,
    processor: Any,
    folder: str | Path,
    *,
    share: tuple[int, int],
    shard_size: int = 4096,
    batch_size: int = 64,
    num_workers: int | None = None,
    strict: bool = False,
    truncate: bool = False,
    dtype: str | torch.dtype | None = None,
    model_name: str | None = None,
    progress: bool = True,
) -> FeatureStore | None:
    """Makes one of n shares of what `extract_to_store` makes, for processes that know nothing of each other.

    For the tasks of a Slurm array, or several machines on one shared disk: share i of n are the shards i, i + n, … of
    the plan that the first of them leaves in the folder. They may run at the same time or one after the other, and any
    of them again after it was stopped. The one after which no shard is missing finishes the store. `extract_to_store`,
    with or without `torchrun`, and `extract_with_ray` resume what shares have begun, and the other way round, with the
    same bytes in the end.

    Args:
        model (`nn.Module` or `DualEncoder`): see `extract_to_store`, as all that is not explained here.
        source (`ImageSource`, `ImageStream`, `TextSource`, …): the same items for every share.
        processor (`ProcessorMixin`, image processor or tokenizer): the checkpoint's processor.
        folder (`str` or `Path`): where the store is or will be, on a disk that all processes share.
        share (`tuple[int, int]`): which share, from 1, and how many there are: `(1, 8)` to `(8, 8)`.
        shard_size (`int`, *optional*, defaults to `4,096`): rows of the source in one file.
        batch_size (`int`, *optional*, defaults to `64`): items per pass.
        num_workers (`int`, *optional*): processes that read images.
        strict (`bool`, *optional*, defaults to `False`): raise at the first image that cannot be read.
        truncate (`bool`, *optional*, defaults to `False`): cut texts over the context length instead of raising.
        dtype (`str` or `torch.dtype`, *optional*): what to compute in. Default: the model's own type.
        model_name (`str`, *optional*): what to call the model. Default: where it was loaded from.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `FeatureStore`, *optional*: the complete store; None while shards of other shares are missing.

    Raises:
        `ClipAlignError`: as `extract_to_store`; there is no such share, or another process makes it now; the processes
            see different data.

    Example:
        ```python
        >>> from hf_clipalign.features import extract_share
        >>> options = {"shard_size": 4, "progress": False}
        >>> extract_share(model, "photos", processor, "shares", share=(1, 2), **options) is None
        True
        >>> len(extract_share(model, "photos", processor, "shares", share=(2, 2), **options))
        12
        ```
    """
    run = Extraction(
        model,
        source,
        processor,
        folder,
        shard_size=shard_size,
        batch_size=batch_size,
        num_workers=num_workers,
        strict=strict,
        truncate=truncate,
        dtype=dtype,
        model_name=model_name,
        progress=progress,
    )
    return extract_share_of(run, share)
