"""New images through the package's reading and the model, into shards: one transaction for each."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.features.content import NO_HASH, file_content_hash
from hf_clipalign.search.collection.changes import Bookkeeper, Candidate, known_images, settle
from hf_clipalign.search.collection.manifest import Manifest, SkippedRow, next_generation, put_skipped
from hf_clipalign.search.collection.shards import insert_shard, next_number, write_rows

_SPARE_BYTES = 8 * 2**20


@dataclass
class Work:
    """What embedding needs to know.

    Attributes:
        manifest (`Manifest`): the database.
        key (`str`): of the shards: what decides about a row.
        width (`int`): of a row.
        path_of (`Callable`): the path of a file from root and name.
        reader (`str`): versions of the libraries that read images.
        shard_size (`int`), batch_size (`int`): images in a file, and in a pass.
        num_workers (`int`, *optional*): processes that read.
        progress (`bool` or `Callable`): show a bar; or a function of how many are done, and of how many.
    """

    manifest: Manifest
    key: str
    width: int
    path_of: Callable[[int, bytes], str]
    reader: str
    shard_size: int
    batch_size: int
    num_workers: int | None
    progress: bool | Callable[[int, int], None]

    @property
    def folder(self) -> Path:
        """Where the shards are."""
        return self.manifest.folder


def embed(work: Work, encoder: Any, processor: Any, candidates: Sequence[Candidate], book: Bookkeeper) -> None:
    """Embeds candidates and stores them, shard by shard; of equal files the first is embedded.

    Raises:
        `ClipAlignError`: the disk refuses, or too little room is left for the next shard.
    """
    first, copies = _without_copies(candidates)
    for group in _embedded(work, encoder, processor, first):
        _store(work, group, copies, book)


def features_of(encoder: Any, inputs: dict[str, Any]) -> Any:
    """Rows of an index `[N, w]`: features before the projector, beside the model's own embeddings where these are no
    linear map of them."""
    import torch

    from hf_clipalign.features.in_memory import image_block, project_image_features

    block = image_block(encoder, inputs)
    if encoder.exact_image_projector:
        return block
    return torch.cat([block, project_image_features(encoder, block)], dim=1)


def _without_copies(candidates: Sequence[Candidate]) -> tuple[list[Candidate], dict[bytes, list[Candidate]]]:
    """The first candidate of each content, and the others by their content."""
    first: list[Candidate] = []
    copies: dict[bytes, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.digest is None:
            first.append(candidate)
        elif candidate.digest in copies:
            copies[candidate.digest].append(candidate)
        else:
            copies[candidate.digest] = []
            first.append(candidate)
    return first, copies


@dataclass
class _Group:
    """The images of one shard, and the files that could not be read, with the reasons."""

    candidates: list[Candidate]
    digests: list[bytes]
    values: Any
    failures: list[tuple[Candidate, str]]


def _embedded(work: Work, encoder: Any, processor: Any, candidates: list[Candidate]) -> Iterator[_Group]:
    import torch
    from tqdm.auto import tqdm

    from hf_clipalign.data import ImageSource
    from hf_clipalign.features.reading import ImageJob, default_workers, image_batches

    paths = [work.path_of(candidate.root, candidate.name) for candidate in candidates]
    source = ImageSource(paths, ids=map(str, range(len(paths))), name=printable(str(work.folder)))
    jobs = []
    for start in range(0, len(paths), work.shard_size):
        stop = min(start + work.shard_size, len(paths))
        for begin in range(start, stop, work.batch_size):
            jobs.append(ImageJob(start, range(begin, min(begin + work.batch_size, stop))))
    workers = default_workers(len(paths)) if work.num_workers is None else work.num_workers
    batches = image_batches(source, processor, _with_room(work, jobs), workers, encoder.device.type == "cuda")
    say = work.progress if callable(work.progress) else lambda done, total: None
    done, is_shown = 0, bool(work.progress) and not callable(work.progress)
    say(done, len(paths))
    with tqdm(total=len(paths), desc="images", unit="image", disable=None if is_shown else True) as bar:
        for _, parts in groupby(batches, key=lambda batch: batch.shard):
            group, blocks = _Group([], [], None, []), [torch.empty(0, work.width)]
            for batch in parts:
                if batch.inputs is not None:
                    blocks.append(features_of(encoder, batch.inputs))
                group.candidates += [candidates[row] for row in batch.rows]
                group.digests += batch.content
                group.failures += [(candidates[int(name)], reason) for name, reason in batch.failures]
                bar.update(batch.n_rows)
                done += batch.n_rows
                say(done, len(paths))
            group.values = torch.cat(blocks)
            yield group


def _with_room(work: Work, jobs: Sequence[Any]) -> Iterator[Any]:
    """The jobs; before each shard, whether the disk has room for it: what is computed must also be kept."""
    shard = None
    for job in jobs:
        if job.shard != shard:
            shard = job.shard
            needed = work.shard_size * work.width * 4 + _SPARE_BYTES
            if (free := shutil.disk_usage(work.folder).free) < needed:
                raise ClipAlignError(
                    f"cannot write to {str(work.folder)!r}: {free // 2**20} MiB are free, the next images need "
                    f"{needed // 2**20} MiB. Make room and run the same again: what is computed is kept."
                )
        yield job


def _store(work: Work, group: _Group, copies: dict[bytes, list[Candidate]], book: Bookkeeper) -> None:
    """Writes a shard and records it and its files, all in one transaction."""
    paths = [work.path_of(candidate.root, candidate.name) for candidate in group.candidates]
    there = [settle(candidate, path) for candidate, path in zip(group.candidates, paths, strict=True)]
    digests = [
        _streamed(path) if digest == NO_HASH else digest for digest, path in zip(group.digests, paths, strict=True)
    ]
    waiting: dict[bytes, list[Candidate]] = defaultdict(list)
    for candidate, digest, is_there in zip(group.candidates, digests, there, strict=True):
        if is_there and digest is not None:
            waiting[digest].append(candidate)
        for copy in copies.pop(candidate.digest, []) if candidate.digest else []:
            waiting[copy.digest or b""].append(copy)
    skipped = [row for candidate, reason in group.failures for row in _skipped(work, candidate, reason)]
    for candidate, reason in group.failures:
        for copy in copies.pop(candidate.digest, []) if candidate.digest else []:
            skipped += _skipped(work, copy, _without_path(reason, work.path_of(candidate.root, candidate.name)))
    with work.manifest.reading() as connection:
        known = known_images(connection, [digest for digest in digests if digest is not None])
        number = next_number(connection)
    rows = _new_rows(digests, known)
    kept = [group.candidates[row] for row in rows]
    new = [digests[row] or b"" for row in rows]
    sizes, names = [c.size for c in kept], [(c.root, c.name) for c in kept]
    if rows:
        write_rows(work.folder, number, work.key, group.values[rows], new, sizes, names, skipped)
    with work.manifest.writing() as connection:
        images = insert_shard(connection, work.folder, number, work.key, new, sizes) if rows else {}
        for candidate, digest in zip(kept, new, strict=True):
            if any(candidate is other for other in waiting[digest]):
                waiting[digest] = [other for other in waiting[digest] if other is not candidate]
                book.add(connection, candidate, images[digest])
        for digest, others in waiting.items():
            for candidate in others:
                candidate.digest = digest
            book.link(connection, others)
        put_skipped(connection, skipped)
        next_generation(connection)
    book.report.embedded += len(rows)
    book.report.skipped += len(skipped)


def _new_rows(digests: Sequence[bytes | None], known: dict[bytes, int]) -> list[int]:
    """The rows whose content is neither known nor that of a row before."""
    seen, rows = set(known), []
    for row, digest in enumerate(digests):
        if digest is not None and digest not in seen:
            seen.add(digest)
            rows.append(row)
    return rows


def _skipped(work: Work, candidate: Candidate, reason: str) -> Iterator[SkippedRow]:
    """A file that cannot be read; none if it has gone, so that nothing is known about it."""
    path = work.path_of(candidate.root, candidate.name)
    if not settle(candidate, path):
        return
    settled = candidate.settled and _is_readable(path)
    root, name, size, mtime = candidate.root, candidate.name, candidate.size, candidate.mtime
    yield SkippedRow(root, name, size, mtime, int(settled), work.reader, reason)


def _without_path(reason: str, path: str) -> str:
    """A reason that is true of all files with the same bytes."""
    return reason.removeprefix(f"{printable(path)}: ").removeprefix(f"{path}: ")


def _is_readable(path: str) -> bool:
    """Whether the bytes of a file can be read, so that it is the content that is not understood."""
    try:
        with open(path, "rb") as stream:
            stream.read(1)
    except OSError:
        return False
    return os.path.exists(path)


def _streamed(path: str) -> bytes | None:
    try:
        return file_content_hash(path)
    except OSError:
        return None
