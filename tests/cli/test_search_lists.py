"""Many queries at once, and queries that begin with a minus."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.search import engine
from tests.cli.calls import call

LINES = ["a cat", '"a heart" - "green heart"', "noto/sailboat.png"]


def paths(hits):
    return [os.path.relpath(hit["path"], "photos") for hit in hits]


def alone(*arguments):
    return json.loads(call("search", "photos.index", *arguments, "--json"))


def together(*arguments, **options):
    return json.loads(call("search", "photos.index", "--queries", *arguments, "--json", **options))


@pytest.fixture
def queries(here, tmp_path):
    (tmp_path / "queries.txt").write_text("\ufeff" + LINES[0] + "\n\n" + "\r\n".join(LINES[1:]), encoding="utf-8")
    return tmp_path / "queries.txt"


def test_a_list_is_answered_as_its_queries_are(queries):
    answers = together(queries, "--top", "3")
    assert [answer["query"] for answer in answers] == LINES
    assert [answer["head"] for answer in answers] == ["raw", "raw", "aligned"]
    assert [paths(answer["hits"]) for answer in answers] == [paths(alone(line, "--top", "3")) for line in LINES]
    assert set(answers[0]) == {"query", "head", "hits"}


def test_a_list_is_answered_in_one_pass(queries, monkeypatch):
    calls = []
    real = engine.neighbours
    monkeypatch.setattr(engine, "neighbours", lambda *args: calls.append(len(args[2])) or real(*args))
    queries.write_text("a cat\na dog\n" * 50)
    assert len(together(queries, "--top", "1")) == 100
    assert calls == [100]


def test_lines_of_the_standard_input(here):
    answers = together("-", "--top", "1", given="a cat\nsailboat\n")
    assert [answer["query"] for answer in answers] == ["a cat", "sailboat"]


def test_a_table_of_queries(here, tmp_path):
    table = tmp_path / "queries.csv"
    table.write_text("id,Query,image,not\n1,a cat,,\n2,,noto/cat.png,\n3,a heart,noto/cat.png,green heart\n,,,\n")
    answers = together(table, "--top", "4")
    assert [answer["query"] for answer in answers] == [
        "a cat",
        "noto/cat.png",
        '"a heart" + noto/cat.png − "green heart"',
    ]
    assert paths(answers[1]["hits"]) == paths(alone("--image", "noto/cat.png", "--top", "4"))
    assert paths(answers[2]["hits"]) == paths(alone('"a heart" + noto/cat.png - "green heart"', "--top", "4"))
    table = table.rename(tmp_path / "queries.tsv")
    table.write_text("image\tx\nnoto/cat.png\t1\n")
    assert [answer["query"] for answer in together(table)] == ["noto/cat.png"]


def test_a_folder_of_images(here, tmp_path):
    folder = tmp_path / "asked"
    (folder / "deep").mkdir(parents=True)
    Image.open("photos/noto/cat.png").resize((50, 50)).save(folder / "deep" / "cat.png")
    Image.open("photos/noto/sailboat.png").resize((50, 50)).save(folder / "boat.png")
    (folder / ".hidden.png").write_text("")
    answers = together(folder, "--top", "1")
    assert [os.path.relpath(answer["query"], folder) for answer in answers] == ["boat.png", "deep/cat.png"]
    assert [os.path.basename(answer["hits"][0]["path"])[:3] for answer in answers] == ["sai", "cat"]


def test_csv_table_and_page_name_the_query(queries, tmp_path):
    rows = list(
        csv.DictReader(io.StringIO(call("search", "photos.index", "--queries", queries, "--csv", "--top", "2")))
    )
    assert [row["query"] for row in rows] == [line for line in LINES for _ in range(2)]
    assert [(row["number"], row["rank"]) for row in rows] == [(n, r) for n in "123" for r in "12"]
    printed = call("search", "photos.index", "--queries", queries, "--top", "1", "--html", tmp_path / "page.html")
    assert printed.index('"a cat"; head: raw') < printed.index('"a heart" − "green heart"; head: raw')
    page = (tmp_path / "page.html").read_text()
    assert "<h1>3 queries</h1>" in page
    assert "<h2>a cat</h2>" in page
    assert page.count("data:image/jpeg") == 3


def test_a_query_without_a_match_is_named_in_every_form(queries):
    nothing = ("search", "photos.index", "--queries", queries, "--where", "path=violins/")
    note = "no good match: no file meets the conditions."
    assert [(answer["hits"], answer["note"]) for answer in json.loads(call(*nothing, "--json"))] == [([], note)] * 3
    rows = list(csv.DictReader(io.StringIO(call(*nothing, "--csv"))))
    assert [(row["number"], row["query"], row["path"], row["note"]) for row in rows] == [
        (str(number), line, "", note) for number, line in enumerate(LINES, start=1)
    ]
    assert call(*nothing).count(note) == 3


def test_what_hits_should_be_unlike_is_for_all_queries_of_a_list(queries):
    found = [paths(answer["hits"]) for answer in together(queries, "--not", "sailboat")]
    assert found[0] == paths(alone("a cat", "--not", "sailboat"))


MISTAKES = [
    ('a cat\n\n"cat\n', (), "line 3: the query '\"cat' has a quotation mark .* left open"),
    ("\n\n", (), "holds no queries: give one query a line"),
    ("a cat\n", ("a", "dog"), "a query and --queries are two ways to ask: give one of them"),
    ("a cat\n", ("--image", "photos/noto/cat.png"), "a query and --queries are two ways to ask"),
    ("a cat\n", ("--with-itself",), "--with-itself is for queries by an image"),
    ("a cat\n", ("--not", "missing.png"), "^no file 'missing.png', neither in the index nor on the disk"),
    ("a cat\n" + "cat " * 200, (), r"^line 2: the text 'cat cat .* has \d+ tokens, but the model reads \d+"),
    ("a cat\n", ("--not", "cat " * 200), r"^the text 'cat cat .* has \d+ tokens, but the model reads \d+"),
    ("caf\udce9\n", (), "cannot be read .*utf-8"),
]


@pytest.mark.parametrize(("content", "more", "message"), MISTAKES, ids=[message[:30] for *_, message in MISTAKES])
def test_mistakes_in_a_list_are_explained_on_one_line(here, tmp_path, content, more, message):
    (tmp_path / "queries.txt").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ClipAlignError, match=message) as error:
        call("search", "photos.index", *more, "--queries", tmp_path / "queries.txt")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,x\na cat,1\n", "has no column 'query' or 'image'"),
        ("", "has no column 'query' or 'image'"),
        ("query\n", "holds no queries"),
        ("query,x\n,1\n", "line 2: the query is empty"),
        ('query\n"a cat\n', "a quotation mark is missing"),
        ("x,query\n1,a cat\n2," + "cat " * 200, r"^line 3: the text 'cat cat .* has \d+ tokens"),
        ('image,query\nmissing.png,\n,"nan*""cat"""\n', "^line 3: in the query "),
    ],
)
def test_mistakes_in_a_table_are_explained(here, tmp_path, content, message):
    (tmp_path / "queries.csv").write_text(content)
    with pytest.raises(ClipAlignError, match=message):
        call("search", "photos.index", "--queries", tmp_path / "queries.csv")


def test_an_image_that_cannot_be_read_costs_its_own_query_alone(here, tmp_path):
    folder = tmp_path / "asked"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    Image.open("photos/noto/cat.png").resize((50, 50)).save(folder / "cat.png")
    (folder / "z.png").write_bytes(b"nothing")
    empty, cat, broken = together(folder, "--top", "1")
    assert os.path.basename(cat["hits"][0]["path"]) == "cat.png"
    assert "note" not in cat
    assert (empty["hits"], broken["hits"]) == ([], [])
    assert empty["note"] == f"cannot be read: {folder}/a.png: the file is empty (0 bytes); fetch or export it again"
    assert broken["note"].startswith(f"cannot be read: {folder}/z.png: is not an image")
    asked = ("search", "photos.index", "--queries", folder, "--top", "1")
    rows = list(csv.DictReader(io.StringIO(call(*asked, "--csv"))))
    assert [(row["number"], row["rank"], row["note"]) for row in rows] == [
        ("1", "", empty["note"]),
        ("2", "1", ""),
        ("3", "", broken["note"]),
    ]
    assert empty["note"] in call(*asked)
    (folder / "cat.png").unlink()
    assert [answer["hits"] for answer in together(folder)] == [[], []]


def test_missing_images_of_a_list_are_noted(here, tmp_path):
    lines = tmp_path / "queries.txt"
    lines.write_text(f'missing.png\na cat\n{tmp_path}/queries.png + "a cat"\n"a cat" - "a cat"\n')
    missing, cat, both, nothing = together(lines)
    assert missing["note"].startswith("cannot be read: no file 'missing.png', neither in the index nor on the disk")
    assert missing["note"].endswith("put it in quotation marks to search for the words.")
    assert both["note"].startswith("cannot be read: no file")
    assert nothing["note"].endswith("cancel one another: nothing is left to look for.")
    assert paths(cat["hits"]) == paths(alone("a cat"))
    table = tmp_path / "queries.csv"
    table.write_text("image,query\nnoto/cta.png,\n,a cat\nnothing-alike.jpg,a cat\n")
    near, cat, both = together(table)
    shown = "cannot be read: no file {!r}, neither in the index nor on the disk: "
    assert near["note"] == shown.format("noto/cta.png") + "did you mean 'noto/cat.png'?"
    assert both["note"] == shown.format("nothing-alike.jpg") + "check the name."
    assert paths(cat["hits"]) == paths(alone("a cat"))


def test_a_list_that_is_not_there(here, tmp_path):
    with pytest.raises(
        ClipAlignError, match=r"no file 'queires.txt' with queries: give a text file, a CSV, or a folder"
    ):
        call("search", "photos.index", "--queries", "queires.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClipAlignError, match="holds no images"):
        call("search", "photos.index", "--queries", tmp_path / "empty")


@pytest.mark.parametrize(
    "arguments",
    [
        ('-"green heart" + "a heart"',),
        ('- "green heart" + "a heart"',),
        ('-1*"green heart" + "a heart"',),
        ("--", '-"green heart"', '+"a heart"'),
        ("--", "-green heart", "+a heart"),
        ("--", "-1*green heart", "+1*a heart"),
        ("a heart", "--not", "green heart"),
        ("--not", "green heart", "a heart"),
        ("--not", "green heart", '"a heart"'),
    ],
)
def test_what_comes_first_may_be_subtracted(here, arguments):
    expected = json.loads(call("search", "photos.index", '"a heart" - "green heart"', "--json"))
    found = json.loads(call("search", "photos.index", "--json", *arguments))
    assert paths(found) == paths(expected)
    assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)


def test_a_summand_may_be_an_image_in_an_argument_of_its_own(here):
    found = json.loads(call("search", "photos.index", "--json", "--", "-noto/cat.png", "+twemoji/sailboat.png"))
    assert paths(found) == paths(
        json.loads(call("search", "photos.index", "twemoji/sailboat.png - noto/cat.png", "--json"))
    )


def test_words_keep_their_signs(here):
    assert '"rock + roll"; head' in call("search", "photos.index", "rock", "+", "roll")
    assert '"semi-automatic +1"; head' in call("search", "photos.index", "semi-automatic", "+1")


def test_an_option_that_may_be_a_negative_is_explained(here):
    printed = call("search", "photos.index", "-toy", "+car", expect=2)
    assert "To subtract words, write --not toy" in " ".join(printed.replace("│", " ").split())


def test_a_shell_gives_the_line_as_it_is_documented(here):
    """What the help says, through a real shell."""
    code = "import sys; from hf_clipalign.cli import main; main()"
    line = f"""{sys.executable} -c '{code}' search photos.index --json -- -"green heart" +"a heart" """
    found = subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout
    assert paths(json.loads(found)) == paths(alone('"a heart" - "green heart"'))
