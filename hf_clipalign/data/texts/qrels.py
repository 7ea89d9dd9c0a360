"""Text retrieval with judged pairs: queries, a corpus and qrels, as BEIR and NanoBEIR have them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import quoted, short, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.labels.columns import first_column
from hf_clipalign.data.texts.source import TextSource

_ID_COLUMNS = ("_id", "id", "query-id", "corpus-id", "query_id", "corpus_id", "doc_id", "docid", "qid")
_TEXT_COLUMNS = ("text", "query", "document", "passage", "content")
_QUERY_COLUMNS = ("query-id", "query_id", "qid", "query")
_CORPUS_COLUMNS = ("corpus-id", "corpus_id", "docid", "doc_id", "doc-id", "document")
_SCORE_COLUMNS = ("score", "relevance", "rel", "label", "grade")


@dataclass
class JudgedRetrieval:
    """Queries, what is searched, and which texts are relevant to which query.

    Args:
        queries (`TextSource`): Q queries that have a judgement.
        corpus (`TextSource`): N texts.
        relevant (`list[numpy.ndarray]`): positions in the corpus of each query's relevant texts, int64; Q arrays.
        grades (`list[numpy.ndarray]`): how relevant, float64, above 0; for binary judgements all 1.
        excluded (`numpy.ndarray` of int64 `[Q]`):
            position in the corpus of the text with the query's own id, which is not to be found, -1 if there is none.

    Example:
        ```python
        >>> from hf_clipalign.data import load_qrels
        >>> judged = load_qrels("retrieval")
        >>> judged.queries.texts, judged.relevant
        (['what purrs?'], [array([1])])
        ```
    """

    queries: TextSource
    corpus: TextSource
    relevant: list[np.ndarray]
    grades: list[np.ndarray]
    excluded: np.ndarray


def load_qrels(
    source: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    queries: Any = None,
    corpus: Any = None,
    qrels: Any = None,
) -> JudgedRetrieval:
    """Reads a retrieval set from a folder, or from three tables.

    A folder holds `queries` and `corpus` (`.jsonl` or `.parquet`, or a folder of such files) with `_id`, `text` and
    for the corpus maybe `title`, which is put in front; and `qrels` (also `.tsv`, or a folder with one file a split)
    with `query-id`, `corpus-id` and maybe `score`. Queries without a judgement are left out; a score of 0 or less
    means "not relevant".

    Args:
        source (`str` or `os.PathLike`, *optional*): the folder.
        split (`str`, *optional*): which file of the folder `qrels`. By default "test", else the only one.
        queries (`Any`, *optional*), corpus (`Any`, *optional*), qrels (`Any`, *optional*):
            Instead of a folder: tables, each a `datasets.Dataset`, a pandas frame or a list of dicts.

    Returns:
        `JudgedRetrieval`: queries and corpus in the order of their tables.

    Raises:
        `ClipAlignError`: if a table or a column is missing, an id appears twice, or a judgement names an unknown id.

    Example:
        ```python
        >>> from hf_clipalign.data import load_qrels
        >>> load_qrels("retrieval").corpus.texts
        ['a dog', 'a cat']
        ```
    """
    if source is not None:
        name, tables = str(source), _folder_tables(Path(source).expanduser(), split)
    else:
        name, tables = "retrieval set", {"queries": queries, "corpus": corpus, "qrels": qrels}
        if missing := [part for part, table in tables.items() if table is None]:
            raise ClipAlignError(f"{name}: {quoted(missing)} not given; give a folder, or queries, corpus and qrels")
    rows = {part: _rows(table) for part, table in tables.items()}
    texts = {part: _texts(rows[part], f"{name}, {part}") for part in ("queries", "corpus")}
    judged = _judgements(rows["qrels"], texts["queries"], texts["corpus"], f"{name}, qrels")
    return _assemble(texts["queries"], texts["corpus"], judged, name)


def is_qrels_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like one that `load_qrels` reads.

    Args:
        path (`str` or `os.PathLike`): the folder.

    Example:
        ```python
        >>> from hf_clipalign.data import is_qrels_folder
        >>> is_qrels_folder("retrieval"), is_qrels_folder("photos")
        (True, False)
        ```
    """
    folder = Path(path).expanduser()
    return folder.is_dir() and all(any(folder.glob(f"{part}*")) for part in ("queries", "corpus", "qrels"))


def _folder_tables(folder: Path, split: str | None) -> dict[str, Any]:
    if not folder.is_dir():
        raise ClipAlignError(f"{folder}: no such folder of queries, corpus and qrels")
    return {part: _read_files(_files(folder, part, split)) for part in ("queries", "corpus", "qrels")}


def _files(folder: Path, part: str, split: str | None) -> list[Path]:
    """`part.<ending>`, or the files of the folder `part`; of the qrels one split."""
    single = [file for suffix in _READERS if (file := folder / f"{part}{suffix}").is_file()]
    if single:
        return single[:1]
    files = sorted(file for file in (folder / part).glob("*") if file.suffix.lower() in _READERS)
    if part == "qrels" and (split is not None or len(files) > 1):
        wanted = split or "test"
        chosen = [file for file in files if file.stem == wanted or file.stem.startswith(f"{wanted}-")]
        if not chosen:
            present = quoted(file.stem for file in files)
            raise ClipAlignError(f"{folder}: no qrels of split {short(wanted)}; pass split, one of {present}")
        return chosen
    if not files:
        endings = ", ".join(_READERS)
        raise ClipAlignError(f"{folder}: no {part}; looked for the endings {endings}, and for a folder {part}")
    return files


def _read_files(files: list[Path]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            rows += _READERS[file.suffix.lower()](file)
        except Exception as error:
            raise ClipAlignError(f"{file}: cannot be read ({short_reason(error)})") from error
    return rows


def _read_json_lines(file: Path) -> list[dict[str, Any]]:
    with open(file, encoding="utf-8-sig") as stream:
        return [json.loads(line) for line in stream if line.strip()]


def _read_parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(file).to_pylist()


def _read_tsv(file: Path) -> list[dict[str, Any]]:
    """With a header, or TREC's four columns (query, iteration, document, grade) without one."""
    lines = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    cells = [line.split("\t") if "\t" in line else line.split() for line in lines]
    if cells and len(cells[0]) == 4 and first_column(cells[0], _QUERY_COLUMNS) is None:
        return [{"query-id": row[0], "corpus-id": row[2], "score": row[3]} for row in cells]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def _rows(table: Any) -> list[dict[str, Any]]:
    if hasattr(table, "iloc"):
        return table.to_dict("records")
    return [dict(row) if isinstance(row, Mapping) else row for row in table]


def _column(rows: list[dict[str, Any]], usual: tuple[str, ...], name: str) -> str:
    if not rows:
        raise ClipAlignError(f"{name}: the table has no rows")
    column = first_column(rows[0], usual) if isinstance(rows[0], dict) else None
    if column is None:
        raise ClipAlignError(f"{name}: no column {quoted(usual[:2])}; the columns are {quoted(rows[0])}")
    _check_rows(rows, column, name)
    return column


def _check_rows(rows: list[dict[str, Any]], column: str, name: str) -> None:
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or column not in row:
            raise ClipAlignError(f"{name}: row {number} (from 0) has no {short(column)}; fill it or drop the row")


def _texts(rows: list[dict[str, Any]], name: str) -> TextSource:
    id_column, text_column = _column(rows, _ID_COLUMNS, name), _column(rows, _TEXT_COLUMNS, name)
    ids = [str(row[id_column]) for row in rows]
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        double = next(entry for entry in ids if entry in seen or seen.add(entry))  # type: ignore[func-returns-value]
        raise ClipAlignError(f"{name}: the id {short(double)} appears twice; ids must be unique")
    texts = [" ".join(part for part in (row.get("title"), row[text_column]) if isinstance(part, str)) for row in rows]
    return TextSource([text.strip() for text in texts], ids=ids, name=name)


def _judgements(
    rows: list[dict[str, Any]], queries: TextSource, corpus: TextSource, name: str
) -> dict[int, dict[int, float]]:
    """Grade by position of the query and of the text; only relevant ones."""
    query_column, corpus_column = _column(rows, _QUERY_COLUMNS, name), _column(rows, _CORPUS_COLUMNS, name)
    score_column = first_column(rows[0], _SCORE_COLUMNS)
    if score_column is not None:
        _check_rows(rows, score_column, name)
    query_of, text_of = _positions(queries), _positions(corpus)
    judged: dict[int, dict[int, float]] = {}
    for number, row in enumerate(rows):
        ids = str(row[query_column]), str(row[corpus_column])
        for entry, known, what in ((ids[0], query_of, "query"), (ids[1], text_of, "corpus text")):
            if entry not in known:
                raise ClipAlignError(
                    f"{name}: row {number} (from 0) names the {what} {short(entry)}, which does not exist"
                )
        grade = 1.0 if score_column is None else _grade(row[score_column], number, name)
        if grade > 0:
            judged.setdefault(query_of[ids[0]], {})[text_of[ids[1]]] = grade
    return judged


def _grade(value: Any, number: int, name: str) -> float:
    try:
        grade = float(value)
    except (TypeError, ValueError, OverflowError):
        grade = math.nan
    if not math.isfinite(grade):
        raise ClipAlignError(f"{name}: row {number} (from 0) has the score {short(value)}, which is no number")
    return grade


def _positions(source: TextSource) -> dict[str, int]:
    return {entry: position for position, entry in enumerate(source.ids or [])}


def _assemble(
    queries: TextSource, corpus: TextSource, judged: dict[int, dict[int, float]], name: str
) -> JudgedRetrieval:
    assert queries.ids is not None
    kept = sorted(judged)
    if not kept:
        raise ClipAlignError(f"{name}: no query has a relevant text; are the scores in the right column?")
    text_of, ids = _positions(corpus), [queries.ids[row] for row in kept]
    excluded = [text_of.get(entry, -1) for entry in ids]
    relevant = [_without(judged[row], own) for row, own in zip(kept, excluded, strict=True)]
    return JudgedRetrieval(
        queries=TextSource([queries.texts[row] for row in kept], ids=ids, name=queries.name),
        corpus=corpus,
        relevant=[np.array(list(grades), dtype=np.int64) for grades in relevant],
        grades=[np.array(list(grades.values()), dtype=np.float64) for grades in relevant],
        excluded=np.array(excluded, dtype=np.int64),
    )


def _without(grades: dict[int, float], own: int) -> dict[int, float]:
    return {position: grade for position, grade in sorted(grades.items()) if position != own}


_READERS: dict[str, Any] = {
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
    ".tsv": _read_tsv,
    ".txt": _read_tsv,
}
