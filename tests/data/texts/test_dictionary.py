"""Concept dictionaries: the shipped one, users' files, and what is wrong with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import check_names, extend_dictionary, load_dictionary


def test_shipped_dictionary_is_clean_and_frequent_first() -> None:
    names = load_dictionary()
    assert len(names) == 20_000
    assert names.index("dog") < names.index("corkscrew") < 20_000
    assert check_names(names) == names
    assert load_dictionary("wordnet_physical") == names


def test_shipped_files_are_small_and_carry_their_licence() -> None:
    import hf_clipalign

    folder = Path(hf_clipalign.__file__).parent / "assets" / "concepts"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 600_000
    assert "Princeton University" in (folder / "LICENSE.txt").read_text()


def test_text_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("red_fox\nbarn owl\n", encoding="utf-8")
    assert load_dictionary(file) == ["red fox", "barn owl"]


def test_gzipped_csv_with_header(tmp_path: Path) -> None:
    file = tmp_path / "names.csv.gz"
    file.write_bytes(gzip.compress(b'id,Name\n1,"fox, red"\n2,owl\n'))
    assert load_dictionary(file) == ["fox, red", "owl"]
    assert load_dictionary(file, column="id") == ["1", "2"]


def test_csv_without_header_and_tsv(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("fox\nowl\n")
    (tmp_path / "names.tsv").write_text("tag\tcount\nfox\t3\n")
    assert load_dictionary(tmp_path / "names.csv") == ["fox", "owl"]
    assert load_dictionary(tmp_path / "names.tsv") == ["fox"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("fox\n\nowl\n", "line 2 is blank"),
        ("fox\nowl\nFOX\n", r"duplicates .*'FOX' \(line 3, before in 1\)"),
        ("red fox\nred_fox\n", "duplicates"),
        ("", "there are none"),
    ],
)
def test_bad_content_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "names.txt"
    file.write_text(content)
    with pytest.raises(ClipAlignError, match=f"names.txt.*{message}"):
        load_dictionary(file)


def test_missing_file_folder_column_and_encoding(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=r"no such file.*wordnet_physical"):
        load_dictionary(tmp_path / "nothing.txt")
    with pytest.raises(ClipAlignError, match="is a folder"):
        load_dictionary(tmp_path)
    (tmp_path / "names.csv").write_text("name\nfox\n")
    with pytest.raises(ClipAlignError, match="no column 'word'; the columns are name"):
        load_dictionary(tmp_path / "names.csv", column="word")
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(ClipAlignError, match="UTF-8"):
        load_dictionary(tmp_path / "latin.txt")


def test_names_are_checked() -> None:
    with pytest.raises(ClipAlignError, match="class names is a single string, 'fox'"):
        check_names("fox")
    with pytest.raises(ClipAlignError, match="position 1 is blank"):
        check_names(["fox", " "])
    with pytest.raises(ClipAlignError, match=r"before in 2\); keep one of each"):
        check_names([*"abc", *"abc"])
    with pytest.raises(ClipAlignError, match=r"before in 2\) and 1 more; keep one of each"):
        check_names([*"abcd", *"abcd"])


def test_a_name_that_is_no_text_is_named() -> None:
    with pytest.raises(ClipAlignError, match="position 1 is 7, not a text"):
        check_names(["fox", 7])  # type: ignore[list-item]


def test_extending_keeps_order_and_ignores_case() -> None:
    assert extend_dictionary(["dog", "red fox"], ["owl", "Dog", "red_fox", "bee"]) == ["dog", "red fox", "owl", "bee"]
    with pytest.raises(ClipAlignError, match="names to add: duplicates"):
        extend_dictionary(["dog"], ["owl", "OWL"])


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:12] + b"\xff" * 20])
def test_damaged_gzip_is_one_clear_error(damage, tmp_path: Path) -> None:
    (tmp_path / "names.txt.gz").write_bytes(damage(gzip.compress("\n".join(map(str, range(99))).encode())))
    with pytest.raises(ClipAlignError, match=r"names\.txt\.gz' cannot be read \(.*\): replace it"):
        load_dictionary(tmp_path / "names.txt.gz")
