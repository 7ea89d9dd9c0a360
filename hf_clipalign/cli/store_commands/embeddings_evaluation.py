"""`clipalign evaluate EMBEDDINGS`: how good stored embeddings are, as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.commands.evaluation_run import EvaluationRun, write_results
from hf_clipalign.cli.data import check_labelled, open_data
from hf_clipalign.cli.names import is_stored
from hf_clipalign.cli.options import console


def holds_embeddings(name: str | None) -> bool:
    """Whether a name is that of embeddings, which are behind a projector already."""
    if name is None or not is_stored(name):
        return False
    from hf_clipalign.features import EmbeddingStore, open_store

    return isinstance(open_store(name), EmbeddingStore)


def evaluate_embeddings(run: EvaluationRun, task: str, out: Path) -> None:
    """Scores retrieval among embeddings of one kind; nothing but centring can be done to them.

    Raises:
        `ClipAlignError`: a band, a head or a task that needs features before the projector; no labels.
    """
    from hf_clipalign.evaluation import Head, LabelledRetrieval, ReportTable, Section, compare_heads
    from hf_clipalign.features.rows import not_features

    if task != "image-image" or run.heads is not None or run.band not in ("auto", "none"):
        raise not_features(run.data)
    if run.second is not None and not holds_embeddings(run.second):
        raise ClipAlignError(f"{run.data!r} holds embeddings, {run.second!r} does not: give two of a kind.")
    stores = [open_data(name) for name in (run.data, run.second) if name is not None]
    for name, store in zip((run.data, run.second), stores, strict=False):
        check_labelled(str(name), store)
    if len({store.width for store in stores}) > 1:
        raise ClipAlignError(
            f"{run.data!r} and {run.second!r} hold embeddings of dimensions {stores[0].width} and "
            f"{stores[1].width}: they are of different models."
        )
    query, gallery = stores[0], stores[-1]
    values = query.values()
    labels = _classes(query), _classes(gallery)
    task_of = LabelledRetrieval(values, values if gallery is query else gallery.values(), *labels, gallery is query)
    name = Path(run.data).name or run.data
    heads = [Head("as stored"), Head("centred", centering="gallery")]
    comparison = compare_heads(heads, {name: task_of}, query_ids={name: query.ids}, seed=run.seed)
    console.print(comparison.table(f"image-image retrieval, {query.model or 'model not known'}"))
    run.results |= {"band": None, "comparison": comparison.to_dict()}
    table = ReportTable(comparison.columns(), comparison.rows(), comparison.caption())
    run.sections.append(Section("image-image retrieval", tables=[table]))
    write_results(run, out, "clipalign evaluate")


def _classes(store: Any) -> Any:
    """Labels by name where there are names, so that two stores can be compared."""
    import numpy as np

    return store.labels if store.class_names is None else np.asarray(store.class_names)[store.labels]
