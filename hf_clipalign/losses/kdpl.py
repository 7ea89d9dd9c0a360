"""KDPL (ECCV 2024, arXiv 2407.03056): prompts learned by unsupervised distillation."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.tensors import check_tensors
from hf_clipalign._errors import ClipAlignError


def kdpl_loss(student_logits: Tensor, teacher_logits: Tensor) -> dict[str, Tensor]:
    """The symmetric Kullback-Leibler distance of student and teacher: sum over classes, mean over images.

    Computed in float32, whatever the type of the logits. The teacher gets no gradient.

    Relations: `spectral_gcd_losses` uses both distances, as a sum, between concept distributions; `promptsrc_losses`
    the forward one, divided by the number of classes too.

    Args:
        student_logits (`Tensor [N, C]`): scaled cosines of the student.
        teacher_logits (`Tensor [N, C]`): the same of the teacher, with the STUDENT's scale, for the same classes.

    Returns:
        `dict`: `loss` = ½ `forward_kl` + ½ `reverse_kl`; `forward_kl` = KL(teacher ‖ student); `reverse_kl` =
        KL(student ‖ teacher). Scalars.

    Raises:
        `ClipAlignError`: no tensors, or the shapes differ, or are not `[N, C]`.

    Example:
        ```python
        >>> import torch
        >>> kdpl_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]))["loss"]
        tensor(1.5232)
        ```
    """
    check_tensors(student_logits=student_logits, teacher_logits=teacher_logits)
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ClipAlignError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} "
            "must both be [images, classes] for the same images and classes"
        )
    student = student_logits.float().log_softmax(dim=-1)
    teacher = teacher_logits.detach().float().log_softmax(dim=-1)
    forward_kl = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    reverse_kl = F.kl_div(teacher, student, reduction="batchmean", log_target=True)
    return {"loss": 0.5 * forward_kl + 0.5 * reverse_kl, "forward_kl": forward_kl, "reverse_kl": reverse_kl}


def select_classes(teacher_logits: Tensor, k: int) -> Tensor:
    """The k classes that the teacher finds most probable in a batch (the class-agnostic form of KDPL).

    Where a batch is spread over processes, average the softmax over all of them and call `top_classes`.

    Args:
        teacher_logits (`Tensor [N, C]`): scaled cosines of the teacher for all C concepts of a dictionary.
        k (`int`): classes to keep, 1 to C.

    Returns:
        `LongTensor [k]`: their indices in ascending order: those with the highest softmax averaged over the batch.
        Equal averages go to the lower index.

    Raises:
        `ClipAlignError`: no tensor, or k is not in 1 … C.

    Example:
        ```python
        >>> import torch
        >>> select_classes(torch.tensor([[0.0, 3.0, 1.0], [0.0, 2.0, 4.0]]), k=2)
        tensor([1, 2])
        ```
    """
    check_tensors(teacher_logits=teacher_logits)
    return top_classes(teacher_logits.float().softmax(dim=-1).mean(dim=0), k)


def top_classes(probabilities: Tensor, k: int) -> Tensor:
    """Indices of the k highest of C probabilities in ascending order; equal ones go to the lower index.

    Args:
        probabilities (`Tensor [C]`): mean probability of each class, over all processes.
        k (`int`): classes to keep, 1 to C.

    Returns:
        `LongTensor [k]`.

    Raises:
        `ClipAlignError`: no tensor, or k is not in 1 … C.

    Example:
        ```python
        >>> import torch
        >>> top_classes(torch.tensor([0.2, 0.2, 0.5, 0.1]), k=2)
        tensor([0, 2])
        ```
    """
    check_tensors(probabilities=probabilities)
    if not 1 <= k <= len(probabilities):
        raise ClipAlignError(f"k = {k} classes cannot be chosen from a dictionary of {len(probabilities)}")
    return probabilities.sort(descending=True, stable=True).indices[:k].sort().values
