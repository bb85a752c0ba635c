"""SAMix: AutoMix with a Mix Block that sees both images at once, and masks that vary more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from automixsearch.config.knobs import redeclared
from automixsearch.mixers.automix import AutoMix

CIFAR_VIT = {"ema_end": 0.99996, "ema_hold": 0.25, "rescale": -1.0, "neck_dropout": 0.1, "upsampling": "nearest"}


@dataclass(frozen=True)
class SAMix(AutoMix):
    """AutoMix in the settings of SAMix: x <- (1 - s) x + s x[partner], s made and trained as there.

    The share multiplies the features of both images, A (1 + m g) and B (1 + m (1 - g)), g = lam with a contrast k
    (`rescale`) and m = `lam_mul`; query and key see both images, by a convolution each; a neck of two layers makes the
    value; masks grow bilinearly, and their loss is smaller the more they vary.

    Source: Li et al., arXiv 2111.15454; settings and numbers from OpenMixup at 37e1372.
    Differs: as AutoMix does. The weight of negative classes in the loss of the Mix Block is left out: with softmax it
    changes nothing. Published runs of Swin-T draw nearest or bilinear for each batch; here it is nearest.

    Examples:
        >>> SAMix().embedding, SAMix().mask_loss, SAMix().upsampling
        ('multiply', 'l1_variance', 'bilinear')
    """

    name: ClassVar[str] = "samix"
    source: ClassVar[str] = "arXiv 2111.15454"
    published: ClassVar = {
        "cifar": {"alpha": 2.0, "layer": "l3", "gamma": 0.1, "ema_end": 0.999999, "rescale": 0.25},
        "tiny": {"alpha": 2.0, "layer": "l3", "gamma": 0.1, "ema_end": 0.999999},
        "imagenet": {"alpha": 2.0, "layer": "l3", "gamma": 0.1, "ema_end": 0.99999, "neck_dropout": 0.1},
        "fine_grained": {
            "alpha": 2.0, "layer": "l3", "gamma": 0.1, "ema_end": 0.99999, "neck_dropout": 0.1, "rescale": 1.0
        },
        "cifar/wrn28_8": {"layer": "l2", "mixblock_momentum": 0.0},
        "cifar/deit_s": CIFAR_VIT,
        "cifar/swin_t": CIFAR_VIT,
        "tiny/resnext50": {"rescale": 0.25, "mask_adjust": 0.25},
    }  # fmt: skip

    embedding: str = redeclared(AutoMix, "embedding", "multiply")
    query_key: str = redeclared(AutoMix, "query_key", "separate")
    attend: str = redeclared(AutoMix, "attend", "both")
    neck: bool = redeclared(AutoMix, "neck", True)
    upsampling: str = redeclared(AutoMix, "upsampling", "bilinear")
    mask_loss: str = redeclared(AutoMix, "mask_loss", "l1_variance")
