"""One builder for the cards of aligned models, stock exports and adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.masking import is_hub_id, public_name, without_secrets
from hf_clipalign.evaluation.reports.pages import ReportTable
from hf_clipalign.hub.markdown import one_line, render
from hf_clipalign.papers import Paper, paper

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

Kind = Literal["clip", "isoclip", "stock", "adapter", "gcd"]
KINDS: tuple[Kind, ...] = ("clip", "isoclip", "stock", "adapter", "gcd")
SPECTRUM_FILE = "spectrum.png"

_LIBRARIES = {
    **{"clip": "transformers", "isoclip": "hf_clipalign", "stock": "transformers", "adapter": "peft"},
    "gcd": "hf_clipalign",
}
_RELATIONS = {"clip": "finetune", "isoclip": "finetune", "stock": "finetune", "adapter": "adapter", "gcd": "finetune"}


@dataclass(frozen=True)
class CardEvaluation:
    """Results on one task: for the metadata, and as a table for people.

    Args:
        title (`str`): heading.
        results (`Sequence[EvalResult]`): this model's own numbers, for `model-index`.
        table (`ReportTable`, *optional*): this model beside what it is compared with.
        verdict (`str`): the outcome in words.

    Example:
        ```python
        >>> from huggingface_hub import EvalResult
        >>> from hf_clipalign.hub import CardEvaluation
        >>> result = EvalResult("image-feature-extraction", "emoji", "emoji", "map", 78.6, metric_name="mAP, %")
        >>> CardEvaluation("Image-image retrieval, emoji", [result]).verdict
        ''
        ```
    """

    title: str
    results: Sequence[EvalResult]
    table: ReportTable | None = None
    verdict: str = ""


@dataclass(frozen=True)
class ModelCardInfo:
    """All that a card says.

    Args:
        kind (`str`): `"isoclip"` (an aligned model), `"stock"` (one aligned tower for stock classes), `"adapter"`
            (PEFT), `"gcd"` (known and novel classes) or `"clip"` (a plain two-tower model).
        name (`str`): title of the card and name in `model-index`.
        load_from (`str`): Hub id or folder that the snippets load from.
        model_class (`str`, *optional*): class of transformers that loads the model without this package; for an
            aligned model, its exported tower. Default: there is none, and the card says so.
        base_model (`str`, *optional*): the model that this one was made from; a Hub id goes into the metadata.
        base_from (`str`, *optional*): where the snippets load the base model from. Default: `base_model`.
        method (`str`, *optional*): key of `hf_clipalign.papers.PAPERS`.
        also_cites (`Sequence[str]`): keys of further methods that took part, each described and cited.
        modality (`str`): `"image"` or `"text"`, of a stock tower.
        description (`str`): a paragraph under the title.
        image_band (`(k_top, k_bottom)`, *optional*): singular directions that the image projector lost.
        text_band (`(k_top, k_bottom)`, *optional*): the same for texts.
        compact (`bool`, *optional*, defaults to `False`): a stock tower with the smaller embedding.
        parameters (`Mapping[str, Any]`): what else was set, shown as a table.
        command (`str`): what was run, shown below the settings as `describe_run` masks it.
        template (`str`): the prompt with `{}` that a prompt adapter was trained with, for the snippet.
        needs_package (`bool`, *optional*, defaults to `False`): an adapter of a type that only this package knows.
        has_processor (`bool`, *optional*, defaults to `True`): a processor lies with the model.
        has_spectrum (`bool`, *optional*, defaults to `False`): `spectrum.png` lies with the model.
        evaluations (`Sequence[CardEvaluation]`): measured results.
        limits (`Sequence[str]`): what one must not expect.
        licence (`str`, *optional*): licence identifier of the base model, as on the Hub (`"mit"`). None: not known.
        licence_note (`str`): a sentence on the licence.
        tags (`Sequence[str]`): more tags.

    All texts are taken for what others have written: secrets and local paths are masked, Markdown but `code` and
    all HTML is shown and not interpreted, and values in snippets are quoted.

    Raises:
        `ClipAlignError`: unknown kind, method or modality; a stock model without its class; a class whose
            name is none.

    Example:
        ```python
        >>> from hf_clipalign.hub import ModelCardInfo
        >>> info = ModelCardInfo("isoclip", "clip-b32-isoclip", "me/clip-b32-isoclip", image_band=(150, 50))
        >>> info.image_band
        (150, 50)
        ```
    """

    kind: Kind
    name: str
    load_from: str
    model_class: str | None = None
    base_model: str | None = None
    base_from: str | None = None
    method: str | None = None
    also_cites: Sequence[str] = ()
    modality: str = "image"
    description: str = ""
    image_band: tuple[int, int] | None = None
    text_band: tuple[int, int] | None = None
    compact: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    template: str = ""
    needs_package: bool = False
    has_processor: bool = True
    has_spectrum: bool = False
    evaluations: Sequence[CardEvaluation] = ()
    limits: Sequence[str] = ()
    licence: str | None = None
    licence_note: str = ""
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ClipAlignError(f"unknown kind of card {self.kind!r}: choose from {', '.join(KINDS)}.")
        if self.modality not in ("image", "text"):
            raise ClipAlignError(f"unknown modality {self.modality!r}: give 'image' or 'text'.")
        if self.kind in ("clip", "stock") and self.model_class is None:
            raise ClipAlignError(f"a card of kind {self.kind!r} needs model_class: name the class that loads it.")
        if self.model_class is not None and not self.model_class.isidentifier():
            raise ClipAlignError(
                f"{one_line(self.model_class)[:40]!r} is not the name of a model class: correct the architectures in "
                "config.json."
            )
        for key in self._methods:
            paper(key)

    @property
    def papers(self) -> list[Paper]:
        """The paper of the method, then those of the further methods."""
        return [paper(key) for key in self._methods]

    @property
    def base_source(self) -> str:
        """Where the snippets load the base model from."""
        return public_name(self.base_from or self.base_model) or "owner/base-model"

    @property
    def base_id(self) -> str | None:
        """The base model's Hub id; None for a folder of this machine."""
        return self.base_model if is_hub_id(self.base_model) and self.base_name == self.base_model else None

    @property
    def base_name(self) -> str:
        """What the base model is called in text."""
        return public_name(self.base_model)

    @property
    def source(self) -> str:
        """Where the snippets load the model from: a Hub id, or the name of a folder."""
        return self.load_from if on_hub(self.load_from) else public_name(self.load_from)

    @property
    def processor_source(self) -> str:
        """Where the snippets load the processor from."""
        return self.source if self.has_processor else self.base_source

    @property
    def tower_output(self) -> str:
        """Where the output of `model_class` has the features of a tower."""
        if not (self.model_class or "").endswith("WithProjection"):
            return "pooler_output"
        return "image_embeds" if self.modality == "image" else "text_embeds"

    @property
    def pipeline_tag(self) -> str:
        """The Hub's name of the task."""
        if self.kind in ("clip", "adapter"):
            return "zero-shot-image-classification"
        if self.kind == "gcd":
            return "image-classification"
        return "image-feature-extraction" if self.modality == "image" else "feature-extraction"

    @property
    def all_tags(self) -> list[str]:
        """Tags of the metadata: each once, in order."""
        parts = ["hf_clipalign", "clip", *self._methods, *self.tags]
        if self.kind == "isoclip":
            parts += ["image-retrieval", "training-free"]
        parts += [f"arxiv:{one.arxiv}" for one in self.papers]
        return list(dict.fromkeys(parts))

    @property
    def band(self) -> tuple[int, int] | None:
        """The band of this card's modality."""
        return self.image_band if self.modality == "image" else self.text_band

    @property
    def settings(self) -> dict[str, Any]:
        """The bands and the other parameters, by the words that the card uses."""
        bands = {"image": self.image_band, "text": self.text_band}
        rows = {f"{name} band (k_top, k_bottom)": band for name, band in bands.items() if band is not None}
        return {
            **rows,
            **({"embedding": "compact, the same cosines"} if self.compact else {}),
            **without_secrets(self.parameters),
        }

    @property
    def head(self) -> str:
        """Which head of a comparison this model is."""
        if self.kind not in ("isoclip", "stock"):
            return "raw"
        return "isoclip-compact" if self.compact else "isoclip"

    @property
    def results(self) -> list[EvalResult]:
        """The results of all evaluations."""
        return [result for evaluation in self.evaluations for result in evaluation.results]

    @property
    def _methods(self) -> list[str]:
        return [*([] if self.method is None else [self.method]), *self.also_cites]


def build_card(info: ModelCardInfo) -> ModelCard:
    """Writes the card: metadata, snippets for this package and for stock libraries, results, citation, licence.

    Args:
        info (`ModelCardInfo`): the facts.

    Returns:
        `huggingface_hub.ModelCard`: `str(card)` is the file, `card.data` its metadata.

    Raises:
        `ClipAlignError`: the metadata would not be valid on the Hub.

    Example:
        ```python
        >>> info = ModelCardInfo("isoclip", "clip-b32-isoclip", load_from="me/clip-b32-isoclip", method="isoclip")
        >>> build_card(info).save("README.md")
        ```
    """
    from huggingface_hub import ModelCard

    body = render(f"{info.kind}.md.jinja", info=info, spectrum_file=SPECTRUM_FILE)
    card = ModelCard(f"---\n{_metadata(info).to_yaml()}\n---\n\n{body}")
    check_card(card)
    return card


def check_card(card: ModelCard | str) -> ModelCardData:
    """Checks a card's metadata without a network.

    The YAML must survive a round trip, `model-index` must give back the same results, Hub ids must be possible ones,
    and what a reader of the Hub filters by must be there.

    Args:
        card (`ModelCard` or `str`): the card or its text.

    Returns:
        `ModelCardData`: the parsed metadata.

    Raises:
        `ClipAlignError`: the first thing that is wrong.

    Example:
        ```python
        >>> from hf_clipalign.hub import ModelCardInfo, build_card, check_card
        >>> info = ModelCardInfo("isoclip", "clip-b32-isoclip", "me/clip-b32-isoclip", image_band=(150, 50))
        >>> check_card(build_card(info)).library_name
        'hf_clipalign'
        ```
    """
    from huggingface_hub import ModelCard

    text = str(card)
    data: Any
    if not text.startswith("---\n"):
        raise ClipAlignError("the card has no metadata: it must start with a block between two lines of ---.")
    try:
        data = ModelCard(text).data
        again = ModelCard(f"---\n{data.to_yaml()}\n---\n").data
    except Exception as error:
        raise ClipAlignError(f"the card's metadata cannot be read: {str(error).splitlines()[0]}") from error
    if data.to_dict() != again.to_dict():
        raise ClipAlignError("the card's metadata change when they are written and read again.")
    for name in ("library_name", "pipeline_tag", "tags"):
        if not data.get(name):
            raise ClipAlignError(f"the card's metadata lack {name!r}.")
    base = data.get("base_model")
    if base is not None and not is_hub_id(base):
        raise ClipAlignError(f"the card's base_model {base!r} is no Hub id: give owner/name, or leave it out.")
    for result in data.get("eval_results") or []:
        if isinstance(result.metric_value, bool) or not isinstance(result.metric_value, (int, float)):
            raise ClipAlignError(f"the card's result {result.metric_type!r} is no number: {result.metric_value!r}.")
    return data


def on_hub(name: Any) -> bool:
    """Whether `name` has the form of a Hub id and is no folder on this machine."""
    return is_hub_id(name) and not Path(name).exists()


def _metadata(info: ModelCardInfo) -> ModelCardData:
    from huggingface_hub import ModelCardData

    extra: dict[str, Any] = {} if info.base_id is None else {"base_model_relation": _RELATIONS[info.kind]}
    results = [replace(result, **cast(dict[str, Any], _masked_texts(result))) for result in info.results]
    return ModelCardData(
        base_model=info.base_id,
        license=info.licence if info.licence is None else one_line(info.licence),
        library_name=_LIBRARIES[info.kind],
        pipeline_tag=info.pipeline_tag,
        tags=[one_line(tag) for tag in info.all_tags],
        model_name=one_line(info.name) if results else None,
        eval_results=results or None,
        **extra,
    )


def _masked_texts(result: EvalResult) -> dict[str, str]:
    """The texts of a result that change when they are masked."""
    texts = {one.name: getattr(result, one.name) for one in fields(result)}
    return {name: one_line(text) for name, text in texts.items() if isinstance(text, str) and one_line(text) != text}
