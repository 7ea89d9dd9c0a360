"""Queries, corpus and qrels from folders and tables."""

import json

import datasets
import pandas as pd
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import is_qrels_folder, load_qrels

QUERIES = [{"_id": "q1", "text": "red cat"}, {"_id": "q2", "text": "no judgement"}, {"_id": "d2", "text": "big dog"}]
CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "are red"},
    {"_id": "d2", "title": "", "text": "big dog"},
    {"_id": "d3", "title": None, "text": "a large hound"},
]
QRELS = [("q1", "d1", 2), ("q1", "d3", 0), ("q1", "d2", 1), ("d2", "d3", 1), ("d2", "d2", 1)]


def write(folder, kind):
    pairs = pd.DataFrame(QRELS, columns=["query-id", "corpus-id", "score"])
    if kind == "beir":
        for name, rows in (("queries", QUERIES), ("corpus", CORPUS)):
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (folder / "qrels").mkdir()
        pairs.to_csv(folder / "qrels" / "test.tsv", sep="\t", index=False)
        pairs[:1].to_csv(folder / "qrels" / "dev.tsv", sep="\t", index=False)
    else:
        for name, rows in (("queries", QUERIES), ("corpus", CORPUS)):
            (folder / name).mkdir()
            pd.DataFrame(rows).to_parquet(folder / name / "train-00000-of-00001.parquet")
        pairs.to_csv(folder / "qrels.tsv", sep="\t", index=False)


def check(judged):
    assert (judged.queries.ids, list(judged.queries.texts)) == (["q1", "d2"], ["red cat", "big dog"])
    assert list(judged.corpus.texts) == ["Cats are red", "big dog", "a large hound"]
    assert [row.tolist() for row in judged.relevant] == [[0, 1], [2]]
    assert [row.tolist() for row in judged.grades] == [[2, 1], [1]]
    assert judged.excluded.tolist() == [-1, 1]


@pytest.mark.parametrize("kind", ["beir", "hub"])
def test_folders(tmp_path, kind):
    assert not is_qrels_folder(tmp_path)
    write(tmp_path, kind)
    assert is_qrels_folder(tmp_path)
    check(load_qrels(tmp_path))


def test_a_split_is_chosen(tmp_path):
    write(tmp_path, "beir")
    assert load_qrels(tmp_path, split="dev").queries.ids == ["q1"]
    with pytest.raises(ClipAlignError, match="'dev', 'test'"):
        load_qrels(tmp_path, split="train")


def test_tables():
    pairs = pd.DataFrame(QRELS, columns=["query-id", "corpus-id", "score"])
    check(load_qrels(queries=datasets.Dataset.from_list(QUERIES), corpus=pd.DataFrame(CORPUS), qrels=pairs))
    binary = [{"query-id": query, "corpus-id": text} for query, text, grade in QRELS if grade]
    judged = load_qrels(queries=QUERIES, corpus=CORPUS, qrels=binary)
    assert [row.tolist() for row in judged.grades] == [[1, 1], [1]]


def test_trec_files_have_no_header(tmp_path):
    write(tmp_path, "hub")
    (tmp_path / "qrels.tsv").write_text("".join(f"{query} 0 {text} {grade}\n" for query, text, grade in QRELS))
    check(load_qrels(tmp_path))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"qrels": [{"query-id": "q1", "corpus-id": "d9"}]}, "row 0 .* names the corpus text 'd9'"),
        ({"qrels": [{"query-id": "q1", "corpus-id": "d1", "score": 0}]}, "no query has a relevant text"),
        ({"qrels": [{"a": 1}]}, "no column 'query-id'"),
        (
            {"qrels": [{"query-id": "q1", "corpus-id": "d1", "score": 1}, {"query-id": "q1", "corpus-id": "d2"}]},
            r"row 1 \(from 0\) has no 'score'",
        ),
        ({"corpus": [*CORPUS, CORPUS[0]]}, "the id 'd1' appears twice"),
        ({"queries": None}, "'queries' not given"),
        ({"queries": []}, "no rows"),
    ],
)
def test_what_does_not_fit_is_named(change, match):
    pairs = [{"query-id": "q1", "corpus-id": "d1"}]
    with pytest.raises(ClipAlignError, match=match):
        load_qrels(**({"queries": QUERIES, "corpus": CORPUS, "qrels": pairs} | change))


@pytest.mark.parametrize(
    ("file", "text", "match"),
    [
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\tPK\n", r"row 0 \(from 0\) has the score 'PK'"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\tnan\n", "has the score 'nan', which is no number"),
        (
            "queries.jsonl",
            '{"_id": "q1", "text": "a"}\n{"_iD": "q2"}\n',
            r"row 1 \(from 0\) has no '_id'",
        ),
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n[1]\n', r"row 1 \(from 0\) has no '_id'"),
    ],
)
def test_damaged_rows_are_named(tmp_path, file, text, match):
    write(tmp_path, "beir")
    (tmp_path / file).write_text(text)
    with pytest.raises(ClipAlignError, match=match):
        load_qrels(tmp_path, split="test")


def test_the_only_split_needs_no_choice(tmp_path):
    write(tmp_path, "beir")
    (tmp_path / "qrels" / "test.tsv").unlink()
    assert load_qrels(tmp_path).queries.ids == ["q1"]


def test_queries_and_corpus_are_called_after_their_place(tmp_path):
    write(tmp_path, "beir")
    judged = load_qrels(tmp_path)
    assert (judged.queries.name, judged.corpus.name) == (f"{tmp_path}, queries", f"{tmp_path}, corpus")


def test_four_columns_may_have_a_header_and_trec_files_one_row(tmp_path):
    write(tmp_path, "hub")
    rows = [f"{query}\t0\t{text}\t{grade}" for query, text, grade in QRELS]
    (tmp_path / "qrels.tsv").write_text("\n".join(["query-id\titeration\tcorpus-id\tscore", *rows]))
    check(load_qrels(tmp_path))
    (tmp_path / "qrels.tsv").write_text("q1 0 d1 2")
    assert [row.tolist() for row in load_qrels(tmp_path).grades] == [[2]]
