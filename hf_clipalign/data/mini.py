"""The built-in mini set: emoji and icons, with two tiny CLIPs that were trained on such images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from transformers import CLIPModel, CLIPProcessor

ASSETS = Path(__file__).resolve().parent.parent / "assets"


class Concepts(NamedTuple):
    """Emoji names, in the order of the emoji table.

    Args:
        known (`list[str]`): names whose images were in training.
        novel (`list[str]`): names whose images were kept out of training, in whole families (303 of them).

    Example:
        ```python
        >>> from hf_clipalign.data import load_mini
        >>> len(load_mini().concepts.known), len(load_mini().concepts.novel)
        (1603, 303)
        ```
    """

    known: list[str]
    novel: list[str]


def load_mini(share_alike: bool = False) -> Mini:
    """Opens the built-in set: no network, no cache, a second of time. See `Mini` for what it holds.

    Args:
        share_alike (`bool`, *optional*, defaults to `False`):
            whether to add the OpenMoji images (styles "openmoji" and "line", CC BY-SA 4.0: what you make of these
            images must carry the same licence).

    Returns:
        `Mini`: images, names and two models.

    Raises:
        `ClipAlignError`: if the files are not there. The share-alike folder may be deleted; it is missed only when
            asked for.

    Example:
        ```python
        >>> from hf_clipalign.data import load_mini
        >>> mini = load_mini()
        >>> mini.emoji[0]["name"], mini.emoji[0]["style"]
        ('grinning face', 'noto')
        >>> inputs = mini.student_processor(text=["an emoji of grinning face"], return_tensors="pt")
        >>> mini.student.get_text_features(**inputs).pooler_output.shape
        torch.Size([1, 128])
        ```
    """
    return Mini(share_alike=share_alike)


class Mini:
    """Emoji, icons, and two small `CLIPModel`s, `student` (2.4 M parameters) and `teacher` (3.0 M).

    The images are 64 x 64 RGBA on transparent ground and have to be put on white before a processor sees them:
    `read_image` does it, and so does every source of this package.

    `emoji`, 5,406 images (9,234 with `share_alike`): `image`, `style` (noto, twemoji, fluent; openmoji, line),
    `emoji_id` (code points), `char`, `name` (CLDR short name), `keywords` (list), `group`, `subgroup`, `family` (name
    without gender words), `novel` (bool), `split`; with `share_alike` also `keywords_openmoji` (list).
    Splits: "train" (4,140), "val_known" (364; a style of a known concept that was left out), "novel" (902; 303
    concepts with no style in training), and, in styles that neither model saw, "unseen_style" (3,222) and
    "unseen_style_novel" (606).

    `icons`, 4,937 images from five icon sets that no model saw: `image`, `set`, `icon`, `name`, `style`,
    `categories` (list), `aliases` (list), `colour` (bool), `licence`.

    Licences of the images: noto Apache-2.0; twemoji CC BY 4.0 (Twitter, jdecked and contributors); fluent MIT
    (Microsoft Corporation); openmoji and line CC BY-SA 4.0 (OpenMoji contributors); icons MIT, streamline-freehand CC
    BY 4.0 (Streamline). Details: `hf_clipalign/assets/mini/README.md` and `licences.tsv` beside it.

    Args:
        share_alike (`bool`, *optional*, defaults to `False`): whether to add the OpenMoji images.

    Attributes:
        emoji (`datasets.Dataset`): emoji, in memory; `row["image"]` is an RGBA `PIL.Image.Image`.
        icons (`datasets.Dataset`): Held-out icons, likewise.
        student_path (`Path`): folder of the student checkpoint.
        teacher_path (`Path`): folder of the teacher checkpoint.

    Raises:
        `ClipAlignError`: if the files are missing.

    Example:
        ```python
        >>> from hf_clipalign.data import Mini
        >>> Mini()
        Mini(emoji=5,406, icons=4,937, share_alike=False)
        ```
    """

    def __init__(self, share_alike: bool = False) -> None:
        self.share_alike = share_alike
        self.student_path = ASSETS / "mini" / "student"
        self.teacher_path = ASSETS / "mini" / "teacher"
        files = [_asset("mini/emoji_noto_twemoji_fluent.parquet")]
        if share_alike:
            files.append(_asset("openmoji/emoji_openmoji_bysa.parquet"))
        self.emoji = _load_dataset(files)
        self.icons = _load_dataset([_asset("mini/icons_heldout.parquet")])

    def __repr__(self) -> str:
        return f"Mini(emoji={len(self.emoji):,}, icons={len(self.icons):,}, share_alike={self.share_alike})"

    @cached_property
    def student(self) -> CLIPModel:
        """The smaller model (48 px), a stock `CLIPModel` in float32 and evaluation mode; loaded once."""
        return _load_model(self.student_path)

    @cached_property
    def teacher(self) -> CLIPModel:
        """The better model (64 px), likewise."""
        return _load_model(self.teacher_path)

    @cached_property
    def student_processor(self) -> CLIPProcessor:
        """Tokenizer and PIL image processor of the student."""
        return _load_processor(self.student_path)

    @cached_property
    def teacher_processor(self) -> CLIPProcessor:
        """Tokenizer and PIL image processor of the teacher."""
        return _load_processor(self.teacher_path)

    @cached_property
    def concepts(self) -> Concepts:
        """Names of known and novel emoji: 1,603 and 303, or 1,611 and 303 with `share_alike`."""
        novel = dict(zip(self._values("name"), self._values("novel"), strict=True))
        return Concepts([n for n in novel if not novel[n]], [n for n in novel if novel[n]])

    def emoji_subset(
        self,
        styles: str | Iterable[str] | None = None,
        novel: bool | None = None,
        split: str | Iterable[str] | None = None,
        exclude_groups: str | Iterable[str] | None = ("flags",),
    ) -> datasets.Dataset:
        """Selects emoji by column; conditions are joined with "and", the order of rows is kept.

        Args:
            styles (`str` or iterable of `str`, *optional*): styles to keep; by default all that are loaded.
            novel (`bool`, *optional*): `True` for novel concepts only, `False` for known ones only.
            split (`str` or iterable of `str`, *optional*): splits to keep; by default all.
            exclude_groups (`str` or iterable of `str`, *optional*, defaults to `("flags",)`): groups to leave out.
                Flags are left out unless this is `None` or empty: their names are those of countries.

        Returns:
            `datasets.Dataset`: in memory, with all columns of `emoji`.

        Raises:
            `ClipAlignError`: if a style, split or group does not exist, or nothing is left.
        """
        wanted = {"style": self._options("style", styles), "split": self._options("split", split)}
        unwanted = self._options("group", exclude_groups) or set()
        columns = (self._values(name) for name in ("style", "split", "group", "novel"))
        rows = [
            row
            for row, (style, part, group, new) in enumerate(zip(*columns, strict=True))
            if (wanted["style"] is None or style in wanted["style"])
            and (wanted["split"] is None or part in wanted["split"])
            and group not in unwanted
            and novel in (None, new)
        ]
        if not rows:
            raise ClipAlignError(
                f"no emoji with styles={short(styles)}, novel={short(novel)}, "
                f"split={short(split)}, exclude_groups={short(exclude_groups)}"
            )
        return self.emoji.select(rows)

    def _values(self, column: str) -> list:
        return self.emoji.data.column(column).to_pylist()

    def _options(self, column: str, asked: str | Iterable[str] | None) -> set[str] | None:
        if asked is None:
            return None
        options = {asked} if isinstance(asked, str) else set(asked)
        present = sorted(set(self._values(column)))
        for option in sorted(options.difference(present)):
            hint = "" if self.share_alike else " (more with share_alike=True)"
            raise ClipAlignError(f"no emoji {column} {short(option)}; there are {', '.join(present)}{hint}")
        return options


def _asset(name: str) -> Path:
    path = ASSETS / name
    if not path.is_file():
        hint = "; load_mini() works without it" if name.startswith("openmoji/") else ""
        raise ClipAlignError(f"{path}: this file of the package is missing; reinstall hf_clipalign{hint}")
    return path


def _load_dataset(files: list[Path]) -> datasets.Dataset:
    """A data set in memory; rows of files that lack a list column get empty lists."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(file).replace_schema_metadata() for file in files]
    features = datasets.Features({name: f for table in tables for name, f in _features(table).items()})
    schema = features.arrow_schema
    for i, table in enumerate(tables):
        for field in schema:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.array([[]] * len(table), type=field.type))
        tables[i] = table.select(schema.names).cast(schema)
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    return datasets.Dataset(
        pa.concat_tables(tables),
        info=datasets.DatasetInfo(features=features, dataset_name=files[0].stem),
        fingerprint=digest.hexdigest()[:16],
    )


def _features(table: pa.Table) -> dict[str, object]:
    import datasets
    import pyarrow as pa

    kinds = {"image": datasets.Image(), **dict.fromkeys(("novel", "colour"), datasets.Value("bool"))}
    text = datasets.Value("string")
    return {
        field.name: kinds.get(field.name, datasets.List(text) if pa.types.is_list(field.type) else text)
        for field in table.schema
    }


def _load_model(path: Path) -> CLIPModel:
    import torch
    from transformers import CLIPModel

    _asset(f"mini/{path.name}/model.safetensors")
    return CLIPModel.from_pretrained(path, dtype=torch.float32).eval()


def _load_processor(path: Path) -> CLIPProcessor:
    from transformers import AutoProcessor

    _asset(f"mini/{path.name}/tokenizer.json")
    return AutoProcessor.from_pretrained(path, backend="pil")
