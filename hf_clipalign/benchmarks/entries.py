"""What the registry records of a data set, and how its files are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import BadJson, check_schema, entries, natural, read_json
from hf_clipalign.data.benchmarks import BENCHMARKS as ON_THE_HUB
from hf_clipalign.data.splits.gcd import GCD_PRESETS
from hf_clipalign.data.texts.templates import PROMPT_TEMPLATES

UNKNOWN = "unknown"
SYNTHETIC = "a synthetic copy in the published layout, not the data set itself"
_TEXTS = entries(str)
_SCHEMA = {
    "family": str,
    "about": str,
    "sets": [
        {
            "name": str,
            "title": str,
            "papers": entries([str]),
            "page": str,
            "licence": str,
            "hub?": str,
            "aliases?": [str],
            "class_names?": [str],
            "note?": str,
            "verified?": str,
            "layouts": [
                {
                    "format": str,
                    "folders": [str],
                    "files": _TEXTS,
                    "images?": _TEXTS,
                    "counts?": entries(natural),
                    "classes?": natural,
                }
            ],
            "tasks": entries(_TEXTS),
        }
    ],
}


@dataclass(frozen=True)
class Layout:
    """One published form of a data set: its folder, its annotations, its images.

    Attributes:
        format (`str`): name of the reader, see `hf_clipalign.benchmarks.FORMATS`.
        folders (`tuple[str, ...]`): usual names of the data set's folder below the data root.
        files (`Mapping[str, str]`): annotation files by what they hold, relative to the folder.
        images (`Mapping[str, str]`): folders of images by part, or for all parts (`"all"`), relative to the folder.
        counts (`Mapping[str, int]`): published numbers of images, or of captions, by part.
        classes (`int`): published number of classes, 0 where there are none.

    Example:
        ```python
        >>> BENCHMARKS["CUB"].layouts[0].files["split"]
        'train_test_split.txt'
        ```
    """

    format: str
    folders: tuple[str, ...]
    files: Mapping[str, str]
    images: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    classes: int = 0

    @property
    def needed(self) -> list[str]:
        """Everything that has to be in the folder, relative to it."""
        return [*self.files.values(), *(folder for folder in self.images.values() if folder != ".")]


@dataclass(frozen=True)
class Benchmark:
    """One data set of the papers.

    Attributes:
        name (`str`): how the package calls it.
        title (`str`): how its authors call it.
        family (`str`): which file of the registry it is from.
        papers (`Mapping[str, list[str]]`): tables that it is in, by the key of the paper (`hf_clipalign.papers`).
        page (`str`): original page.
        hub (`str`): id on the Hub, or "unknown".
        licence (`str`): as far as its authors state one, or "unknown".
        layouts (`tuple[Layout, ...]`): published forms that are read; the first is that of the papers.
        tasks (`Mapping[str, Mapping[str, str]]`): by task, which part is queried, searched, trained or tested on.
        aliases (`tuple[str, ...]`): other names.
        class_names (`tuple[str, ...]`): how names are cleaned, besides underscores that become spaces.
        note (`str`): what to know before using it.
        verified (`str`): what the reader was tested on.

    Example:
        ```python
        >>> BENCHMARKS["CUB"].tasks["image-image"]
        {'query': 'train+test', 'gallery': 'train+test'}
        ```
    """

    name: str
    title: str
    family: str
    papers: Mapping[str, list[str]]
    page: str
    hub: str
    licence: str
    layouts: tuple[Layout, ...]
    tasks: Mapping[str, Mapping[str, str]]
    aliases: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    note: str = ""
    verified: str = SYNTHETIC

    @property
    def template(self) -> str | None:
        """The papers' prompt for its classes; None where no paper classifies it by prompts."""
        known = PROMPT_TEMPLATES.get(self.name)
        preset = GCD_PRESETS.get(self.tasks.get("discovery", {}).get("preset", ""))
        return known.template if known else preset.template if preset else None

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name by which it can be looked up."""
        known = PROMPT_TEMPLATES.get(self.name)
        folders = [folder for layout in self.layouts for folder in layout.folders if folder not in (".", "imagenet")]
        return (self.name, *self.aliases, *(known.aliases if known else ()), *folders)


def read_family(path: Path) -> list[Benchmark]:
    """The data sets of one file of the registry.

    Args:
        path (`Path`): A JSON file: `family`, `about`, and `sets` with the fields of `Benchmark`. Where `hub` is left
            out it is that of `hf_clipalign.data.BENCHMARKS`.

    Raises:
        `ClipAlignError`: it cannot be read, or does not fit.
    """
    try:
        content = read_json(path)
        check_schema(content, _SCHEMA)
    except OSError as error:
        raise ClipAlignError(f"{path}: the registry's file cannot be read ({short_reason(error)})") from error
    except BadJson as error:
        raise ClipAlignError(f"{path}: {error}; see docs/benchmarks.md for the fields") from error
    return [_benchmark(fields, content["family"]) for fields in content["sets"]]


def _benchmark(fields: dict[str, Any], family: str) -> Benchmark:
    listed = ON_THE_HUB.get(fields["name"])
    given: dict[str, Any] = {name: tuple(fields[name]) for name in ("aliases", "class_names") if name in fields}
    texts: dict[str, Any] = {name: fields[name] for name in ("note", "verified") if name in fields}
    return Benchmark(
        **{name: fields[name] for name in ("name", "title", "papers", "page", "licence", "tasks")},
        family=family,
        hub=fields.get("hub") or (listed.hub_id if listed else UNKNOWN),
        layouts=tuple(Layout(**{**layout, "folders": tuple(layout["folders"])}) for layout in fields["layouts"]),
        **given,
        **texts,
    )
