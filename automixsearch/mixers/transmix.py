"""TransMix: CutMix whose labels follow what a vision transformer looks at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import torch
from automixsearch.mixers.base import Mixed, box_masks, paste
from automixsearch.mixers.cutmix import CutMix

if TYPE_CHECKING:
    from torch import Tensor

    from automixsearch.mixers.cutmix import CutMixDraw


@dataclass(frozen=True)
class TransMix(CutMix):
    """Paste a box as CutMix does; the own share of a label is that of the area, and of the attention on it, half each.

    Attention is that of the class token in the last block on the patches of the mixed image, the mean over heads. A
    patch belongs to the image that its first pixel shows, as in the authors' code. The pass that trains gives it. It
    takes a network with a class token: deit_s, or a plain vision transformer of timm or torchvision.

    Source: Chen et al., arXiv 2111.09833, eq. 3-5.
    Differs: applied to every batch; the published recipe draws MixUp (alpha 0.8) for half of them: `mixup+transmix`.

    Examples:
        >>> x = torch.stack([torch.ones(1, 32, 32), torch.zeros(1, 32, 32)])
        >>> mixed = TransMix()(x, torch.Generator().manual_seed(1))
        >>> mixed.pasted[0].logical_not().double().mean().item() == mixed.lam[0].item()  # until attention is known
        True
    """

    name: ClassVar[str] = "transmix"
    crosses: ClassVar[bool] = False
    attends: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv 2111.09833"
    published: ClassVar = {"cifar": {"alpha": 1.0}, "imagenet": {"alpha": 1.0}}

    attention_share: float = knob(0.5, "weight of attention in the labels; 0: CutMix", low=0, high=1, search=(0.0, 1.0))

    def apply(self, x: Tensor, draw: CutMixDraw) -> Mixed:
        """Return `x` with the partner's box in it, the share outside the box, and where the box is."""
        size, partner = (x.shape[2], x.shape[3]), draw.partner.to(x.device, non_blocking=True)
        centre = torch.tensor([draw.centre]) if isinstance(draw.centre, tuple) else draw.centre
        side = torch.as_tensor(1.0 - draw.lam, dtype=torch.float64).reshape(-1).sqrt()
        inside = box_masks(centre, side, size).to(x.device, non_blocking=True)
        mixed = paste(x, partner, inside)
        return dataclasses.replace(mixed, pasted=inside.expand(len(x), *size), attention=self.attention_share)
