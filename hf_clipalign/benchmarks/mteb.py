"""Our models and data in mteb: an encoder for its tasks, and its retrieval task on any labelled data.

Needs the extra `mteb`: `pip install "hf_clipalign[mteb]"`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import similarities, unit_rows
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import Captions, ImageSource, read_image
from hf_clipalign.data.images.processing import process_images, reduce_image
from hf_clipalign.evaluation import Head, comparison_heads
from hf_clipalign.features import extract_text_features
from hf_clipalign.features.in_memory import image_block

try:
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta
except ImportError as error:  # the module is for those who have it
    raise ClipAlignError(f"this needs the package {error.name}: pip install 'hf_clipalign[mteb]'.") from error

Band = tuple[int, int]
_PAGE = "https://github.com/embeddings-benchmark/mteb"


class MTEBEncoder:
    """A dual encoder as mteb's `EncoderProtocol`: `mteb.evaluate(MTEBEncoder(model, processor), tasks)`.

    Where a task compares images with images, or texts with texts, features go through the aligned head of that
    modality; where it compares images with texts they go through the model's own projectors. Which of the two it is,
    the modalities of the task's queries and documents say. An item with an image and a text is the sum of both.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone, on the device to use.
        processor (`ProcessorMixin`): the checkpoint's processor.
        image_band (`(k_top, k_bottom)`, *optional*): IsoCLIP's band for image-image tasks. Default: no trimming.
        text_band (`(k_top, k_bottom)`, *optional*): likewise for text-text tasks.
        name (`str`, *optional*): owner and name of the model in mteb's results. Default: the model's own.

    Example:
        ```python
        >>> import mteb
        >>> from hf_clipalign.benchmarks.mteb import LocalRetrievalTask, MTEBEncoder
        >>> encoder = MTEBEncoder(model, processor, image_band=(4, 30))
        >>> result = mteb.evaluate(encoder, LocalRetrievalTask("photos"), cache=None)
        ```
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        image_band: Band | None = None,
        text_band: Band | None = None,
        name: str | None = None,
    ) -> None:
        self.encoder, self.processor = as_dual_encoder(model), processor
        self.name = name or self.encoder.config._name_or_path or "unnamed"
        self.bands: Mapping[str, Band | None] = {"image": image_band, "text": text_band}
        self._between = {side: self._head(side, None) for side in self.bands}
        self._within = {side: self._head(side, band) for side, band in self.bands.items()}

    def _head(self, modality: Any, band: Band | None) -> Head:
        name = "raw" if band is None else "isoclip"
        return comparison_heads(self.encoder, modality, band, names=[name])[0]

    def encode(
        self, inputs: Iterable[Mapping[str, Any]], *, task_metadata: Any, prompt_type: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Unit embeddings of the items, `[N, d]` float32.

        Args:
            inputs (`DataLoader`): batches with `image`, `text` or both.
            task_metadata (`TaskMetadata`): the task, whose modalities choose the head.
            prompt_type (`PromptType`, *optional*): which side the items are on; it changes nothing, as both sides are
                compared with each other.
            **kwargs: mteb's other arguments, which are not used.
        """
        compared = _modalities(task_metadata)
        return torch.cat([self._batch(batch, compared) for batch in inputs]).numpy()

    def _batch(self, batch: Mapping[str, Any], compared: set[str]) -> Tensor:
        heads = self._within if len(compared) == 1 else self._between
        rows = []
        if "image" in batch:
            images = self.processor.image_processor
            inputs = process_images(images, (reduce_image(read_image(one), images) for one in batch["image"]))
            rows.append(_embedded(heads["image"], image_block(self.encoder, inputs or {})))
        if "text" in batch:
            found = extract_text_features(
                self.encoder, list(batch["text"]), self.processor, truncate=True, progress=False
            )
            rows.append(_embedded(heads["text"], found.values))
        if not rows:
            raise ClipAlignError(f"items have images or texts, these have {', '.join(batch)}: choose another task")
        return rows[0] if len(rows) == 1 else unit_rows(rows[0] + rows[1])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines `[N, M]` of unit embeddings."""
        return similarities(_tensor(embeddings1), _tensor(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines `[N]` of unit embeddings, row by row."""
        return (_tensor(embeddings1) * _tensor(embeddings2)).sum(-1)

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb's results say of the model: its name, its size, and the bands."""
        unknown = dict.fromkeys(
            [
                *("loader", "revision", "release_date", "languages", "memory_usage_mb", "max_tokens", "license"),
                *("open_weights", "public_training_code", "public_training_data", "training_datasets"),
            ]
        )
        bands = {f"{side}_band": str(band) for side, band in self.bands.items() if band is not None}
        owner, _, name = self.name.rstrip("/").replace("\\", "/").rpartition("/")
        return ModelMeta(
            **unknown,
            name=f"{owner.rpartition('/')[-1] or 'local'}/{name}",
            n_parameters=sum(parameter.numel() for parameter in self.encoder.model.parameters()),
            embed_dim=self.encoder.embed_dim,
            framework=["PyTorch"],
            similarity_fn_name="cosine",
            use_instructions=False,
            modalities=["image", "text"],
            experiment_kwargs=bands or None,
        )


class LocalRetrievalTask(AbsTaskRetrieval):
    """mteb's retrieval task on labelled images, or on captions: items of one class are relevant to each other.

    Scores are mteb's own. Beside them stand `map`, `ndcg_at_10`, `recall_at_10` and `hit_rate_at_10` as
    `exact_…`, which mteb rounds to five digits elsewhere, over `depth` results.

    Args:
        source (what `open_source` takes, `ImageSource` or `Captions`): the queries.
        gallery (likewise, *optional*): what is searched. Default: the queries, each without itself.
        name (`str`, *optional*, defaults to `"LocalRetrieval"`): of the task in mteb's results.
        depth (`int`, *optional*, defaults to `1000`): results per query; with the gallery's size the mAP is that of
            `hf_clipalign.metrics.retrieval_metrics`.

    Raises:
        `ClipAlignError`: data without labels, images on one side and captions on the other.

    Example:
        ```python
        >>> from hf_clipalign.benchmarks.mteb import LocalRetrievalTask
        >>> LocalRetrievalTask("photos").metadata.category
        'i2i'
        ```
    """

    data_loaded: bool = False

    def __init__(self, source: Any, gallery: Any = None, *, name: str = "LocalRetrieval", depth: int = 1000) -> None:
        self.query = _labelled(source)
        self.gallery = self.query if gallery is None else _labelled(gallery)
        self.ignore_identical_ids = gallery is None
        kinds = {_kind(side) for side in (self.query, self.gallery)}
        if len(kinds) > 1:
            raise ClipAlignError("images on one side and captions on the other: give one kind")
        (kind,) = kinds
        self.metadata = _metadata(name, kind)
        self.k_values = sorted({1, 3, 5, 10, 20, 100, depth})
        self.depth = depth
        super().__init__()
        self._top_k = depth + self.ignore_identical_ids

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Gives mteb the items and what is relevant.

        Args:
            num_proc (`int`, *optional*): not used.
            **kwargs: not used.
        """
        if self.data_loaded:
            return
        split = {
            "queries": _dataset(self.query, "d" if self.query is self.gallery else "q"),
            "corpus": _dataset(self.gallery, "d"),
            "relevant_docs": self._relevant(),
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True

    def unload_data(self) -> None:
        """Gives the memory of the items back; the task can be run again."""
        self.dataset = {}
        self.data_loaded = False

    def _relevant(self) -> dict[str, dict[str, int]]:
        members: dict[str, list[int]] = {}
        for row, label in enumerate(_labels(self.gallery)):
            members.setdefault(label, []).append(row)
        same = self.query is self.gallery
        return {
            f"{'d' if same else 'q'}{query}": {
                f"d{row}": 1 for row in members.get(label, ()) if not (same and row == query)
            }
            for query, label in enumerate(_labels(self.query))
        }

    def task_specific_scores(self, scores: Any, qrels: Any, results: Any, **kwargs: Any) -> dict[str, float]:
        """Means that are not rounded.

        Args:
            scores (`dict`): of every query, from mteb.
            qrels (`dict`): not used.
            results (`dict`): not used.
            **kwargs: not used.
        """
        names = {
            "exact_map": f"map_cut_{self.depth}",
            "exact_ndcg_at_10": "ndcg_cut_10",
            "exact_recall_at_10": "recall_10",
            "exact_hit_rate_at_10": "success_10",
        }
        return {ours: float(np.mean([one[theirs] for one in scores.values()])) for ours, theirs in names.items()}


def _modalities(metadata: Any) -> set[str]:
    """What is compared in a task: the modalities of both sides."""
    if metadata.category is None:
        return set(metadata.modalities)
    names = {"i": "image", "t": "text"}
    return {names.get(letter, letter) for letter in metadata.category.replace("2", "").replace("c", "")} or set(
        metadata.modalities
    )


def _embedded(head: Head, features: Tensor) -> Tensor:
    return unit_rows(head.project(features).float().cpu())


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values).float()


def _labelled(source: Any) -> ImageSource | Captions:
    from hf_clipalign.data import open_source

    opened = source if isinstance(source, (ImageSource, Captions)) else open_source(source)
    if opened.labels is None:
        raise ClipAlignError(f"{opened.name}: the images have no labels; put each class into a sub-folder of its own")
    return opened


def _kind(source: ImageSource | Captions) -> str:
    return "text" if isinstance(source, Captions) else "image"


def _labels(source: ImageSource | Captions) -> list[str]:
    names: Sequence[str] | None = source.image_ids if isinstance(source, Captions) else source.class_names
    numbers = np.asarray(source.labels).tolist()
    return [str(number) if names is None else names[number] for number in numbers]


def _dataset(source: ImageSource | Captions, letter: str) -> Any:
    import datasets

    ids = [f"{letter}{row}" for row in range(len(source))]
    if isinstance(source, Captions):
        return datasets.Dataset.from_dict({"id": ids, "text": source.texts})
    images = [source.items[row] for row in range(len(source))]
    encoded = [{"bytes": one, "path": None} if isinstance(one, bytes) else one for one in images]
    features = datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()})
    return datasets.Dataset.from_dict({"id": ids, "image": encoded}, features=features)


def _metadata(name: str, kind: str) -> Any:
    unknown = dict.fromkeys(("date", "domains", "task_subtypes", "license", "annotations_creators", "dialect"))
    return TaskMetadata(
        **unknown,
        name=name,
        description="Items of one class of local data are relevant to each other.",
        reference=_PAGE,
        dataset={"path": "local", "revision": "local"},
        type="Any2AnyRetrieval" if kind == "image" else "Retrieval",
        category="i2i" if kind == "image" else "t2t",
        modalities=[kind],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        sample_creation=None,
        bibtex_citation="",
    )
