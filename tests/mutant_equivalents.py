"""Mutants that change nothing that could be seen, each with its reason, for the lane of `tests/mutants.py`."""

from __future__ import annotations

_EITHER_ORDER = (
    "the smaller of two numbers, the union of two sets, and whether they overlap are the same in either order"
)
_TWO_AXES = "the tensor always has two axes, so that the last one is number 1"
_SAME_LENGTH = "both sides are made of one sequence and cannot differ in length"

# by file, line of the source and change; the line stands for a part that is swapped or left out
_BY_REASON = {
    _EITHER_ORDER: [
        (
            "gcd/n_classes",
            "return _grid(max(n_known, 2), max(highest, 2), _FIRST_COUNTS)",
            "max(highest, 2) -> max(2, highest)",
        ),
        (
            "inversion/optimisation",
            "end = min(start + settings.batch_size, n)",
            "min(start + settings.batch_size, n) -> min(n, start + settings.batch_size)",
        ),
        (
            "data/splits/leaks",
            "return SeenRows(np.union1d(self.images, other.images), np.union1d(self.patients, other.patients))",
            "np.union1d(self.images, other.images) -> np.union1d(other.images, self.images)",
        ),
        (
            "evaluation/tasks",
            "if not np.isin(query_labels, gallery_labels).any():",
            "np.isin(query_labels, gallery_labels) -> np.isin(gallery_labels, query_labels)",
        ),
        (
            "backbones/packing",
            "block = max(1, batch_tokens // plan.input_ids.shape[1])",
            "max(1, batch_tokens // plan.input_ids.shape[1]) -> max(batch_tokens // plan.input_ids.shape[1], 1)",
        ),
    ],
    _TWO_AXES: [
        (
            "losses/supervised_contrastive",
            "log_probabilities = logits.log_softmax(dim=-1).masked_fill(~positives, 0.0)",
            "-1 -> 1",
        ),
        ("losses/supervised_contrastive", "n_positives = positives.sum(dim=-1)", "-1 -> 1"),
        (
            "losses/supervised_contrastive",
            "per_anchor = log_probabilities.sum(dim=-1) / n_positives.clamp(min=1)",
            "-1 -> 1",
        ),
        ("gcd/prediction", "probabilities, classes = logits.softmax(dim=-1).max(dim=-1)", "-1 -> 1"),
        (
            "gcd/modeling",
            "model.concept_features = F.normalize(concept_features.detach().to(encoder.device).float(), dim=-1)",
            "-1 -> 1",
        ),
        (
            "isoclip/text_pca",
            "unit = F.normalize(as_float64(text_embeds), dim=-1)",
            "F.normalize(as_float64(text_embeds), dim=-1) -> F.normalize(as_float64(text_embeds))",
        ),
    ],
    _SAME_LENGTH: [
        (
            "data/images/tables",
            "for row, (item, group) in enumerate(zip(items, texts, strict=True)):",
            "True -> False",
        ),
        ("data/mini", "for row, (style, part, group, new) in enumerate(zip(*columns, strict=True))", "True -> False"),
        ("metrics/clustering", "return dict(zip(clusters, classes, strict=True))", "True -> False"),
    ],
    "more names than one are found then, the closest first, and only the first is read": [
        (
            "_checks/suggestions",
            "found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)",
            "difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6) -> "
            "difflib.get_close_matches(name.lower(), by_lower, cutoff=0.6)",
        ),
    ],
    "the size decides how the rows are cut into chunks, and ranks are counts over all chunks": [
        ("metrics/retrieval", "chunks, table = buffer.rows(len(rows), int(task.size[rows[0]]))", "0 -> -1"),
    ],
    "masked_bce_sum, two lines below, checks the same tensors": [
        (
            "losses/retune",
            "check_tensors(logits=logits, targets=targets)",
            "check_tensors(logits=logits, targets=targets) -> check_tensors(targets=targets)",
        ),
    ],
    "a positive is one of both images, so that there are no anchors or at least two": [
        ("losses/supervised_contrastive", "n_anchors = (n_positives > 0).sum().clamp(min=1)", "1 -> 2"),
    ],
    "the blocks of a sum in another order: only the rounding differs": [
        (
            "gcd/filtering",
            'for block in tqdm(chain(head, rest), desc="covariance", unit="block", disable=None if progress '
            "else True):",
            "chain(head, rest) -> chain(rest, head)",
        ),
    ],
    "it is read where records are left after the loop, which has set it": [
        (
            "features/engines/computing",
            "row = first * size - 1",
            "first * size -> first / size",
        ),
    ],
    "the schema of the tables holds the same features": [
        (
            "features/store",
            "info=datasets.DatasetInfo(features=features),",
            "datasets.DatasetInfo(features=features) -> datasets.DatasetInfo()",
        ),
    ],
    "one more pixel is cut out than the resize reads": [
        (
            "data/images/processing",
            "first, last = max(0, int(ends[0] - margin)), min(image.size[along], int(ends[1] + margin) + 1)",
            "1 -> 2",
        ),
    ],
    "the matrix of positives is symmetric": [
        ("losses/supervised_contrastive", "n_positives = positives.sum(dim=-1)", "1 -> 0"),
    ],
    "a piece is copied where it need not be: the same values": [
        (
            "features/storage/shards",
            "aligned = piece if (start + first) % dtype.itemsize == 0 else piece.clone()",
            "0 -> -1",
        ),
    ],
    "0 is the default seed of compare_heads": [
        (
            "evaluation/mini_study",
            "images = compare_heads(heads, novel, seed=_SEED)",
            "compare_heads(heads, novel, seed=_SEED) -> compare_heads(heads, novel)",
        ),
    ],
    "the margin of a figure, in inches: a matter of looks": [
        (
            "evaluation/clinical/plots",
            'figure = Figure(figsize=(3.1 * columns + 0.4, 3.1 * lines + 0.3), layout="constrained")',
            "0.4 -> 0.2",
        ),
    ],
}
EQUIVALENT = {
    (f"hf_clipalign/{file}.py", text, change): reason
    for reason, places in _BY_REASON.items()
    for file, text, change in places
}
