"""Inversions of large sets on the disk: whole shards, a manifest, and going on after a kill.

A shard is a safetensors file of consecutive items, written atomically, with the items' ids in its metadata. The
manifest is written before the first of them and holds everything that decides about the numbers: a folder that was
begun otherwise is an error, never a mix. Several processes share the shards among themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from operator import methodcaller
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._files import atomic_file
from hf_clipalign._numbers import check_integer
from hf_clipalign.backbones import DualEncoder, as_dual_encoder, weights_hash
from hf_clipalign.inversion.image import ovi
from hf_clipalign.inversion.optimisation import InversionOutput, check_targets, join_outputs
from hf_clipalign.inversion.options import complete_options
from hf_clipalign.inversion.text import oti

MANIFEST_FILE = "inversion.json"
_FORMAT = 1
_METADATA = "hf_clipalign"
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
    """Inverts features shard by shard; called again after a kill, it goes on with the shards that are missing.

    Args:
        folder (`str` or `Path`): where shards and manifest go; made if missing.
        method (`"oti"` or `"ovi"`): what is inverted.
        model (`nn.Module` or `DualEncoder`): the backbone.
        embeds (`Tensor` or array `[N, d]`): projected features of all items, in every process.
        processor (`ProcessorMixin`, *optional*): needed by OTI.
        ids (`Iterable`, *optional*): unique names of the items. Default: row numbers.
        seed (`int`): an item's start depends on this and on its id. Default 0.
        shard_size (`int`): items per file. Default 1,024.
        rank (`int`, *optional*), world_size (`int`, *optional*): this process takes every `world_size`-th shard.
            Default: the launcher's RANK and WORLD_SIZE, else one process.
        **options: of `oti` or `ovi` (`n_tokens`, `steps`, `template`, …), without `init` and `generator`. All but
            `progress` decide about the numbers, `batch_size` and `strategy` by their rounding, see `oti`.

    Returns:
        `Path`: the folder; see `read_inversions`.

    Raises:
        `ClipAlignError`: the folder belongs to another model, other data or other settings (it says which); ids occur
            twice; or as `oti` and `ovi`.
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
    manifest = _manifest(method, encoder, embeds, names, seed, shard_size, settings)
    key = _check_manifest(folder, manifest)
    for index in range(-(-len(names) // shard_size))[rank::world_size]:
        file, rows = _shard_file(folder, index), slice(index * shard_size, (index + 1) * shard_size)
        if _is_whole(file, key):
            continue
        arguments = {"ids": names[rows], "generator": torch.Generator().manual_seed(seed), **options}
        output = (
            oti(encoder, embeds[rows], processor=processor, **arguments)
            if method == "oti"
            else ovi(encoder, embeds[rows], **arguments)
        )
        # only now: settings that cannot be used leave nothing behind
        key = _check_manifest(folder, manifest, write=True)
        _write_shard(file, output, names[rows], key)
    return folder


def read_inversions(folder: str | Path) -> tuple[list[str], InversionOutput]:
    """Ids and inversions of a finished folder, in the order of the items; `losses` is the mean over all items.

    Args:
        folder (`str` or `Path`): what `invert_to_store` wrote.

    Returns:
        `(list[str], InversionOutput)`: N ids and N inversions.

    Raises:
        `ClipAlignError`: the folder holds no inversions, or shards are missing.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if manifest is None:
        raise ClipAlignError(f"{str(folder)!r} holds no inversions: make them with invert_to_store.")
    n_shards = -(-manifest["data"]["items"] // manifest["shard_size"])
    key = _key(manifest)
    missing = [index for index in range(n_shards) if not _is_whole(_shard_file(folder, index), key)]
    if missing:
        raise ClipAlignError(
            f"{len(missing)} of {n_shards} shards in {str(folder)!r} are missing or damaged: call invert_to_store "
            "again with the same arguments, it makes these only."
        )
    shards = [_read_shard(_shard_file(folder, index)) for index in range(n_shards)]
    return [name for names, _ in shards for name in names], join_outputs([output for _, output in shards])


def _manifest(
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
        "format": _FORMAT,
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


def _check_manifest(folder: Path, wanted: dict[str, Any], write: bool = False) -> str:
    """Compares the manifest with the one that is there, if any; gives the key that marks the shards."""
    wanted = json.loads(json.dumps(wanted, default=methodcaller("item")))  # settings may be NumPy's numbers
    stored = _read_manifest(folder)
    if stored is None:
        if write:
            with atomic_file(folder / MANIFEST_FILE) as staging:
                staging.write_text(json.dumps(wanted, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return _key(wanted)
    # where a model lies does not matter: its weights do
    told = ("model.name", "model.revision")
    differing = [text for name, text in _differences(stored, wanted) if name not in told]
    if differing:
        raise ClipAlignError(
            f"{str(folder)!r} was begun with another {'; another '.join(differing)}. Use a new folder, or delete it."
        )
    return _key(stored)


def _key(manifest: dict[str, Any]) -> str:
    return _hash(json.dumps(manifest, sort_keys=True))


def _differences(stored: Any, wanted: Any, prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name in dict.fromkeys([*stored, *wanted]):
        old, new, path = stored.get(name), wanted.get(name), f"{prefix}{name}"
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{path}.")
        elif old != new:
            found.append((path, f"{path} ({_short(old)} there, {_short(new)} here)"))
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}…"


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        for number in (manifest["data"]["items"], manifest["shard_size"]):
            check_integer("a size in the manifest", number)
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ClipAlignError(
            f"{str(folder / MANIFEST_FILE)!r} is damaged: delete the folder and begin again."
        ) from error


def _shard_file(folder: Path, index: int) -> Path:
    return folder / f"inversion-{index:05d}.safetensors"


def _is_whole(file: Path, key: str) -> bool:
    """Whether a shard is there, readable, and made under this manifest."""
    try:
        with safe_open(file, "pt") as shard:
            return json.loads(shard.metadata()[_METADATA])["key"] == key
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return False


def _write_shard(file: Path, output: InversionOutput, names: list[str], key: str) -> None:
    tensors = {
        "tokens": output.tokens,
        "features": output.features,
        "losses": output.losses,
        "steps_taken": output.steps_taken,
        **{f"{_SNAPSHOT}{step}": features for step, features in output.snapshots.items()},
    }
    with atomic_file(file) as staging:
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            staging,
            {_METADATA: json.dumps({"key": key, "ids": names})},
        )


def _read_shard(file: Path) -> tuple[list[str], InversionOutput]:
    with safe_open(file, "pt") as shard:
        tensors = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
        names = json.loads(shard.metadata()[_METADATA])["ids"]
    steps = sorted(int(name.removeprefix(_SNAPSHOT)) for name in tensors if name.startswith(_SNAPSHOT))
    snapshots = {step: tensors.pop(f"{_SNAPSHOT}{step}") for step in steps}
    return names, InversionOutput(**tensors, snapshots=snapshots)


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
