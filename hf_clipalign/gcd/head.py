"""The trained part of SpectralGCD above the backbone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_MLP_STD = 0.02


class ConceptHead(nn.Module):
    """From similarities to concepts to class cosines and a contrastive embedding.

    h = Linear(x); the embedding is MLP(h), three linear layers with exact GELU between; the class cosines are those of
    h itself (not of the embedding) with one unit prototype per class.

    Args:
        n_concepts (`int`): C.
        n_classes (`int`): K.
        hidden_size (`int`): width of h.
        mlp_hidden_size (`int`): width of the MLP's inner layers.
        bottleneck_size (`int`): size of the embedding.
    """

    def __init__(self, n_concepts: int, n_classes: int, hidden_size: int, mlp_hidden_size: int, bottleneck_size: int):
        super().__init__()
        self.projection = nn.Linear(n_concepts, hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, mlp_hidden_size),
            nn.GELU(),
            nn.Linear(mlp_hidden_size, mlp_hidden_size),
            nn.GELU(),
            nn.Linear(mlp_hidden_size, bottleneck_size),
        )
        self.prototypes = nn.Linear(hidden_size, n_classes, bias=False)

    def forward(self, cross_modal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projected similarities `[N, h]`, class cosines `[N, K]` and embeddings `[N, e]` from `[N, C]`."""
        projected = self.projection(cross_modal.to(self.projection.weight.dtype))
        logits = F.linear(F.normalize(projected, dim=-1), F.normalize(self.prototypes.weight, dim=-1))
        return projected, logits, self.mlp(projected)

    def reset_parameters(self) -> None:
        """Draws the weights: the MLP's from a normal distribution cut at two units, as DINO's head; PyTorch's else."""
        bound = self.projection.in_features**-0.5
        nn.init.uniform_(self.projection.weight, -bound, bound)
        nn.init.uniform_(self.projection.bias, -bound, bound)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=_MLP_STD)
                nn.init.zeros_(layer.bias)
        nn.init.uniform_(
            self.prototypes.weight, -(self.prototypes.in_features**-0.5), self.prototypes.in_features**-0.5
        )
