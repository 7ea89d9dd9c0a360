"""Inversions of large sets on the disk: a keyed folder of shards, resumed after a kill.

The manifest is written before the first shard and holds everything that decides about the numbers: a folder that was
begun otherwise is an error, never a mix. Several processes share the shards among themselves without talking.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import natural
from hf_clipalign._io.urls import shown_place
from hf_clipalign.backbones import DualEncoder, as_dual_encoder, weights_hash
from hf_clipalign.features.storage.folder import ShardFolder, folder_lock
from hf_clipalign.features.storage.manifest import Column, Kind, differences, is_earlier
from hf_clipalign.features.storage.remote import open_folder
from hf_clipalign.features.storage.shards import Shard
from hf_clipalign.inversion.image import ovi
from hf_clipalign.inversion.optimisation import InversionOutput, check_targets, join_outputs
from hf_clipalign.inversion.options import complete_options
from hf_clipalign.inversion.text import oti

INVERSIONS = Kind(
    name="inversion",
    noun="inversions",
    columns={
        "tokens": Column("float", 3),
        "features": Column("float", 2),
        "losses": Column("float", 1, per_row=False),
        "steps_taken": Column("int64", 1),
    },
    # where a model lies does not matter: its weights do
    identity=(
        *("method", "model.class", "model.dtype", "model.device", "model.weights"),
        *("data.items", "data.ids", "data.features", "settings", "shard_size"),
    ),
    description={
        "method": str,
        "model": {"weights": str},
        "data": {"items": natural, "ids": str, "features": str},
        "settings": dict,
        "shard_size": lambda value: natural(value) and value > 0,
    },
    remedy="Call invert_to_store again with the same arguments, it makes these only",
    titles={"model.weights": "model weights", "data.features": "features", "data.ids": "ids"}
    | {"data.items": "number of items"},
    restart="Delete the folder and begin again, or use a new one",
)
_SNAPSHOT = "features_after_"


def invert_to_store(
    folder: str | Path,
    method: Literal["oti", "ovi"],
    model: Any,
    embeds: Any,
    *,
    processor: Any = None,
    ids: Iterable[Any] | None = None,
    seed: int = 0,
    shard_size: int = 1024,
    rank: int | None = None,
    world_size: int | None = None,
    **options: Any,
) -> Path:
    """Inverts features shard by shard; called again after a kill, it resumes with the shards that are missing.

    Args:
        folder (`str` or `Path`): where shards and manifest go; made if missing.
        method (`"oti"` or `"ovi"`): what is inverted.
        model (`nn.Module` or `DualEncoder`): the backbone.
        embeds (`Tensor` or array `[N, d]`): projected features of all items, in every process.
        processor (`ProcessorMixin`, *optional*): needed by OTI.
        ids (`Iterable`, *optional*): unique names of the items. Default: row numbers.
        seed (`int`, *optional*, defaults to `0`): an item's start depends on this and on its id.
        shard_size (`int`, *optional*, defaults to `1,024`): items per file.
        rank (`int`, *optional*), world_size (`int`, *optional*): this process takes every `world_size`-th shard.
            Default: the launcher's RANK and WORLD_SIZE, else one process.
        **options: of `oti` or `ovi` (`n_tokens`, `steps`, `template`, …), without `init` and `generator`. All but
            `progress` decide about the numbers, `batch_size` and `strategy` by their rounding, see `oti`.

    Returns:
        `Path`: the folder; see `read_inversions`.

    Raises:
        `ClipAlignError`: the folder belongs to another model, other data or other settings (it says which); ids occur
            twice; or as `oti` and `ovi`.

    Example:
        ```python
        >>> from hf_clipalign.inversion import invert_to_store
        >>> invert_to_store("inversions", "oti", model, embeds[:4], processor=processor, steps=2).name
        'inversions'
        ```
    """
    check_integer("shard_size", shard_size)
    check_integer("seed", seed, 0)
    rank, world_size = _place(rank, world_size)
    for name in ("init", "generator"):
        if name in options:
            raise ClipAlignError(f"invert_to_store takes no {name}: every item starts from the seed and its id.")
    folder, encoder = Path(folder), as_dual_encoder(model)
    settings = complete_options(method, encoder, processor, options)
    embeds, keys = check_targets(embeds, encoder.embed_dim, f"{method} features", ids)
    names = [str(name) for name in keys]
    twice, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ClipAlignError(f"the id {twice!r} occurs more than once: ids must be unique.")
    description = _description(method, encoder, embeds, names, seed, shard_size, settings)
    begun = _opened(folder, description)
    shards = begun or ShardFolder.describe(folder, INVERSIONS, description)
    mine = range(-(-len(names) // shard_size))[rank::world_size]
    done = frozenset() if begun is None else begun.done()
    todo = [index for index in mine if index not in done]

    def output_of(index: int) -> tuple[InversionOutput, list[str]]:
        rows = slice(index * shard_size, (index + 1) * shard_size)
        arguments = {"ids": names[rows], "generator": torch.Generator().manual_seed(seed), **options}
        if method == "oti":
            return oti(encoder, embeds[rows], processor=processor, **arguments), names[rows]
        return ovi(encoder, embeds[rows], **arguments), names[rows]

    if not todo:
        return folder
    first = None if folder.exists() else output_of(todo[0])  # settings that cannot be used leave nothing behind
    with folder_lock(folder, INVERSIONS, f"-{rank}-of-{world_size}"):
        if _opened(folder, description) is None:
            shards.begin()
        for index in todo:
            output, ids = first or output_of(index)
            first = None
            _write(shards, index, output, ids)
    return folder


def read_inversions(folder: str | Path) -> tuple[list[str], InversionOutput]:
    """Ids and inversions of a finished folder, in the order of the items; `losses` is the mean over all items.

    Args:
        folder (`str` or `Path`): what `invert_to_store` wrote, on a disk or behind a URL of fsspec. All of it is held
            in memory; see `inversion_blocks`.

    Returns:
        `(list[str], InversionOutput)`: N ids and N inversions.

    Raises:
        `ClipAlignError`: the folder holds no inversions, or shards are missing.

    Example:
        ```python
        >>> from hf_clipalign.inversion import invert_to_store, read_inversions
        >>> folder = invert_to_store("inversions", "oti", model, embeds[:4], processor=processor, steps=2)
        >>> ids, output = read_inversions(folder)
        >>> ids, output.features.shape
        (['0', '1', '2', '3'], torch.Size([4, 128]))
        ```
    """
    content = list(inversion_blocks(folder))
    return [name for names, _ in content for name in names], join_outputs([output for _, output in content])


def inversion_blocks(folder: str | Path) -> Iterator[tuple[list[str], InversionOutput]]:
    """Ids and inversions of a finished folder, shard by shard: memory does not grow with their number.

    Args:
        folder (`str` or `Path`): what `invert_to_store` wrote, on a disk or behind a URL of fsspec.

    Returns:
        An iterator of `(list[str], InversionOutput)`, in the order of the items.

    Raises:
        `ClipAlignError`: the folder holds no inversions, or shards are missing.

    Example:
        ```python
        >>> from hf_clipalign.inversion import inversion_blocks, invert_to_store
        >>> options = {"processor": processor, "steps": 2, "shard_size": 3}
        >>> folder = invert_to_store("inversions-of-four", "oti", model, embeds[:4], **options)
        >>> [output.features.shape for _, output in inversion_blocks(folder)]
        [torch.Size([3, 128]), torch.Size([1, 128])]
        ```
    """
    shards, name = open_folder(folder, INVERSIONS), shown_place(folder)
    if shards is None:
        raise ClipAlignError(f"{name!r} holds no inversions: make them with invert_to_store.")
    _refuse_earlier(shards)
    n_shards = -(-shards.manifest["data"]["items"] // shards.manifest["shard_size"])
    problems = {shards.file(index).name: problem for index in range(n_shards) if (problem := shards.problem(index))}
    if problems:
        first, problem = next(iter(problems.items()))
        raise ClipAlignError(
            f"{len(problems)} of {n_shards} shards in {name!r} are missing or damaged (first {first}: {problem}): "
            "call invert_to_store again with the same arguments, it makes these only."
        )
    return (_outputs(shards.read(index)) for index in range(n_shards))


def _description(
    method: str,
    encoder: DualEncoder,
    embeds: Tensor,
    names: list[str],
    seed: int,
    shard_size: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    settings = {name: value for name, value in settings.items() if name != "progress"}
    settings["evaluate_at"] = sorted(settings["evaluate_at"])
    return {
        "method": method,
        "model": {
            "name": getattr(encoder.config, "_name_or_path", None) or None,
            "revision": getattr(encoder.config, "_commit_hash", None),
            "class": type(encoder.model).__name__,
            "dtype": str(encoder.dtype).removeprefix("torch."),
            "device": encoder.device.type,
            "weights": weights_hash(encoder.model),
        },
        "data": {
            "items": len(names),
            "ids": _hash(json.dumps(names)),
            "features": _hash(embeds.detach().float().cpu().contiguous().numpy().tobytes()),
        },
        "settings": {**settings, "seed": seed},
        "shard_size": shard_size,
    }


def _opened(folder: Path, description: dict[str, Any]) -> ShardFolder | None:
    """The run that a folder holds, None if it holds none; an error if it is another one."""
    stored = ShardFolder.open(folder, INVERSIONS)
    if stored is None:
        return None
    _refuse_earlier(stored)
    wanted = ShardFolder.describe(folder, INVERSIONS, description)
    if found := differences(INVERSIONS, stored.manifest, wanted.manifest):
        raise ClipAlignError(
            f"{str(folder)!r} holds another run; what differs: {'; '.join(found.values())}. Use a new folder, or "
            "delete it."
        )
    return stored


def _refuse_earlier(shards: ShardFolder) -> None:
    if is_earlier(shards.manifest):
        raise ClipAlignError(
            f"the inversions in {str(shards.place)!r} were written by an earlier version of hf_clipalign, without "
            f"what proves them. {INVERSIONS.restart}."
        )


def _write(shards: ShardFolder, index: int, output: InversionOutput, names: list[str]) -> None:
    tensors = {
        "tokens": output.tokens,
        "features": output.features,
        "losses": output.losses,
        "steps_taken": output.steps_taken,
        **{f"{_SNAPSHOT}{step}": features for step, features in output.snapshots.items()},
    }
    shards.write(index, tensors, {"ids": names})


def _outputs(shard: Shard) -> tuple[list[str], InversionOutput]:
    tensors = {name: tensor.clone() for name, tensor in shard.tensors.items()}
    steps = sorted(int(name.removeprefix(_SNAPSHOT)) for name in tensors if name.startswith(_SNAPSHOT))
    snapshots = {step: tensors.pop(f"{_SNAPSHOT}{step}") for step in steps}
    return shard.meta["ids"], InversionOutput(**tensors, snapshots=snapshots)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    rank, world_size = _launched("rank", rank, 0), _launched("world_size", world_size, 1)
    if not 0 <= rank < world_size:
        raise ClipAlignError(f"rank is {rank} of {world_size} processes: give 0 to {world_size - 1}.")
    return rank, world_size


def _launched(name: str, given: int | None, default: int) -> int:
    """A number of this process: given, or the launcher's."""
    value: Any = os.environ.get(name.upper(), default) if given is None else given
    return check_integer(name, int(value) if str(value).isdecimal() else value, 0)


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
