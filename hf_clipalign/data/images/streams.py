"""Images that come one after the other, of a number that need not be known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_clipalign._checks.quoting import quoted, short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.hf_datasets import _pick
from hf_clipalign.data.images.source import digest
from hf_clipalign.data.labels.columns import require_column

if TYPE_CHECKING:
    import datasets


class StreamRecord(NamedTuple):
    """One image of a stream, not yet decoded.

    Attributes:
        id (`str`): its name.
        item (`Any`): what `read_image` takes: bytes, a path, a `{"bytes", "path"}` dict or an array.
        label (`int`, *optional*): its class.

    Example:
        ```python
        >>> from hf_clipalign.data import StreamRecord
        >>> StreamRecord("first", "photos/cat/1.png", label=0).id
        'first'
        ```
    """

    id: str
    item: Any
    label: int | None = None


class ImageStream:
    """Images that are read in order and kept nowhere. Build one with `open_stream`, or from any iterator.

    Args:
        records (`Callable[[int], Iterator[StreamRecord]]`):
            gives the records from a row on: `records(0)` from the first, `records(4096)` after 4,096 of them. Every
            call must give the same order.
        fingerprint (`Callable[[], str]`): computes the value of `fingerprint`.
        class_names (`list[str]`, *optional*): name per class.
        name (`str`, *optional*, defaults to `"stream"`): what errors call the source.

    Example:
        ```python
        >>> from itertools import islice
        >>> from hf_clipalign.data import ImageStream, StreamRecord, image_folder
        >>> source = image_folder("photos")
        >>> def records(first):
        ...    for row in range(first, len(source)):
        ...        yield StreamRecord(source.ids[row], source.items[row])
        >>> stream = ImageStream(records, fingerprint=source.fingerprint, name="photos")
        >>> [record.id for record in islice(stream.records(10), 2)]
        ['owl/3.png', 'owl/4.png']
        ```
    """

    def __init__(
        self,
        records: Callable[[int], Iterator[StreamRecord]],
        *,
        fingerprint: Callable[[], str],
        class_names: list[str] | None = None,
        name: str = "stream",
    ) -> None:
        self.records = records
        self.class_names = class_names
        self.name = name
        self._fingerprint = fingerprint

    def __repr__(self) -> str:
        return f"ImageStream({self.name!r})"

    def fingerprint(self) -> str:
        """Identifies the content as far as a stream can tell, to key caches; equal across processes."""
        return self._fingerprint()


def open_stream(
    dataset: datasets.IterableDataset,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    fingerprint: str | None = None,
) -> ImageStream:
    """Opens a streamed data set (`load_dataset(..., streaming=True)`). Nothing is decoded by the datasets library.

    Args:
        dataset (`datasets.IterableDataset`): one split, not shuffled, so that every pass has the same order.
        image_column (`str`, *optional*): column with images; by default the only `Image` column, or "image".
        label_column (`str`, *optional*): column of class numbers; by default the only `ClassLabel` column, if any.
        id_column (`str`, *optional*): column with a unique name per image. By default the row number.
        fingerprint (`str`, *optional*):
            identifies the content, to key caches. By default a hash of the data set's name, configuration, version,
            split and columns, and of the first record: a change further on goes unnoticed.

    Returns:
        `ImageStream`: the images.

    Raises:
        `ClipAlignError`: if it is no streamed data set, a column is missing or ambiguous, or it is empty.

    Example:
        ```python
        >>> from hf_clipalign.data import load_mini, open_stream
        >>> stream = open_stream(load_mini().emoji.to_iterable_dataset(), id_column="emoji_id")
        >>> next(stream.records(0)).id
        '1F600'
        ```
    """
    import datasets

    if not isinstance(dataset, datasets.IterableDataset):
        raise ClipAlignError(f"a {type(dataset).__name__} is no stream; open it with open_source, or choose a split")
    if dataset.features is None:
        dataset = dataset._resolve_features()
    name = f"data set {dataset.info.dataset_name or ''}".strip()
    image_column = _pick(dataset, image_column, datasets.Image, ("image",), name, required=True)  # type: ignore[arg-type]
    label_column = _pick(dataset, label_column, datasets.ClassLabel, ("label", "labels"), name, required=False)  # type: ignore[arg-type]
    if id_column is not None:
        require_column(id_column, dataset.column_names or [], name)
    columns = [column for column in (image_column, label_column, id_column) if column is not None]
    raw = dataset.select_columns(columns)
    if isinstance(dataset.features[image_column], datasets.Image):
        raw = raw.cast_column(str(image_column), datasets.Image(decode=False))
    names = getattr(dataset.features[label_column], "names", None) if label_column else None
    records = partial(_records, raw, str(image_column), label_column, id_column, name)
    return ImageStream(
        records,
        fingerprint=partial(_stream_fingerprint, dataset, columns, records, fingerprint),
        class_names=None if names is None else list(names),
        name=name,
    )


def _records(
    dataset: datasets.IterableDataset,
    image_column: str,
    label_column: str | None,
    id_column: str | None,
    name: str,
    first: int,
) -> Iterator[StreamRecord]:
    rows = iter(dataset.skip(first) if first else dataset)
    for row, example in enumerate(rows, start=first):
        label = None if label_column is None else example[label_column]
        if label_column is not None and (not isinstance(label, int) or label < 0):
            raise ClipAlignError(
                f"{name}: row {row} (from 0) of column {short(label_column)} holds "
                f"{short(label)}; labels of a stream are class "
                "numbers from 0: number them first, or leave label_column out"
            )
        yield StreamRecord(str(row if id_column is None else example[id_column]), example[image_column], label)


def _stream_fingerprint(
    dataset: datasets.IterableDataset,
    columns: list[str],
    records: Callable[[int], Iterator[StreamRecord]],
    given: str | None,
) -> str:
    if given is not None:
        return digest([given, *columns])
    info = dataset.info
    about = [info.dataset_name, info.config_name, info.version, dataset.split, quoted(columns), dataset.features]
    first = list(islice(records(0), 1))
    if not first:
        raise ClipAlignError(f"data set {info.dataset_name or ''} has no rows".replace("  ", " "))
    return digest(map(str, about), [_content(first[0].item)])


def _content(item: Any) -> str | bytes:
    if isinstance(item, dict):
        item = item.get("bytes") or item.get("path") or ""
    return item if isinstance(item, (bytes, str)) else repr(item)
