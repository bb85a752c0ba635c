"""A network with a second head for mixed images."""

from __future__ import annotations

from torch import Tensor, nn

from automixsearch.models.base import Backbone


class TwoHeads(nn.Module):
    """A backbone with a head for clean images, its own, and one for mixed images."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.mix_head = nn.Linear(backbone.head.in_features, backbone.head.out_features)
        nn.init.normal_(self.mix_head.weight, 0.0, 0.01)
        nn.init.zeros_(self.mix_head.bias)

    def heads(self) -> dict[str, nn.Linear]:
        """Both heads, by name."""
        return {"clean": self.backbone.head, "mix": self.mix_head}

    def clean(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the head for clean images."""
        return self.backbone(x)

    def mix(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the head for mixed images."""
        return self.mix_head(self.backbone.embedded(x))
