"""The field's words, in everything that a reader or a user of the package meets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READ = ["hf_clipalign/**/*.py", "hf_clipalign/**/*.jinja", "examples/*.py", "benchmarks/*.py", "docs/**/*.md", "*.md"]
# the word to avoid, and what the field says
BANNED = {
    r"\bpictures?\b": "image",
    r"\bwhole (checkpoints?|shards?|models?)\b|\bis (not|n't) whole\b|\bwhole or not at all\b": "complete, incomplete",
    r"\bwrit(e|es|ten) (it )?whole\b|\bwhole one\b": "complete, in full",
    r"\bat home\b": "is not uploaded",
    r"\b(the|at|every|our|per) doors?\b": "on input",
    r"\bgo(es|ing)? on\b": "resume, continue",
    r"\b(is|are|be) told\b(?! apart)": "is named, is known",
    r"\b(attends?|attention|looks?) both ways\b|\bboth-way\b": "bidirectional",
    r"\b(embeddings?|features?|vectors?) (have|of|with) \S+ numbers\b|\bnumbers per embedding\b": "dimension",
    r"\b(image|file|row|text|word|task|hit|item|name|folder|finding)\(s\)": "1 image, 2 images (counted)",
    r"\b(folder|store|file|cache|model|tower|index|run)s? remembers?\b": "records",
}
# what may hold a banned word all the same: templates whose words are the published ones
ALLOWED = [r"\ba picture of (\{|a\b|\")"]


def written_files():
    return sorted({file for pattern in READ for file in ROOT.glob(pattern)})


def banned_words(text):
    for allowed in ALLOWED:
        text = re.sub(allowed, "", text, flags=re.IGNORECASE)
    # a phrase may be broken over two lines
    text = re.sub(r"\n\s*(?:#\s*)?", " ", text)
    return [match[0] for pattern in BANNED for match in re.finditer(pattern, text, flags=re.IGNORECASE)]


def test_the_words_of_the_field_are_used():
    found = {
        file.relative_to(ROOT).as_posix(): banned_words(file.read_text(encoding="utf-8")) for file in written_files()
    }
    found = {name: words for name, words in found.items() if words}
    assert not found, f"use the field's words ({', '.join(sorted(set(BANNED.values())))})"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Pictures of cats", 1),
        ("a picture of {}.", 0),
        ("is not a whole\n    # checkpoint", 1),
        ("attention both ways", 1),
        ("a tower that looks both ways", 1),
        ("the store remembers", 1),
        ("a run goes on where it stopped", 1),
        ("features have 7 numbers", 1),
        ("row numbers of the features", 0),
        ("doorbell", 0),
        ("3 image(s)", 1),
        ("an image", 0),
        ("picturesque", 0),
    ],
)
def test_what_counts_as_a_banned_word(text, count):
    assert len(banned_words(text)) == count
