"""FMix: a mask of smooth random shapes, the level set of low-frequency noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import torch
from automixsearch.mixers.base import Mixed, Mixer, PairDraw, Shape, alpha_knob, draw_beta, pairs

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class FMixDraw(PairDraw):
    """lam: the own share, in [0, 1]. noise: float64 [M, H, W // 2 + 1 + W % 2, 2] on the CPU, standard normal; M is 1
    or B. ceil: whether the mask has ceil(lam H W) ones or floor(lam H W)."""

    lam: float
    noise: Tensor
    ceil: bool


@dataclass(frozen=True)
class FMix(Mixer):
    """Show the own image where a low-frequency grey image is brightest, the partner elsewhere.

    The grey image is noise whose spectrum falls as frequency^-decay; the lam H W brightest pixels of it, rounded up
    or down by a coin, belong to the own image, lam ~ Beta(alpha, alpha). One mask per batch as published, or one per
    sample. The own label weighs the drawn lam, as published; the own share of the pixels differs from it by less
    than 1 / (H W).

    `variant = released` reproduces the authors' masks. Their code indexes the wrong axis of the spectrum: the first row
    becomes the real part and the second the imaginary part of two columns, so that along every row of pixels the grey
    image is a constant plus one cosine.

    Source: Harris et al., arXiv 2002.12047, section 4; authors' code FMix at e5991dc.
    Differs: the default uses the whole spectrum, as the paper says. lam is not redrawn from Beta(alpha + 1, alpha)
    (`reformulate`, off in the authors' runs).

    Examples:
        >>> x = torch.stack([torch.ones(1, 32, 32), torch.zeros(1, 32, 32)])
        >>> mixed = FMix(decay=3.0)(x, torch.Generator().manual_seed(1))
        >>> abs(mixed.x[0].mean().item() - mixed.lam[0].item()) < 1 / 32**2
        True
    """

    name: ClassVar[str] = "fmix"
    source: ClassVar[str] = "arXiv 2002.12047"
    label_slack: ClassVar[int] = 1
    """The own share of the pixels differs from lam by less than this many pixels."""
    published: ClassVar = {
        "cifar": {"alpha": 0.2},
        "tiny": {"alpha": 1.0},
        "imagenet": {"alpha": 1.0},
        "fine_grained": {"alpha": 0.2},
    }

    alpha: float = alpha_knob(1.0)
    decay: float = knob(3.0, "how fast the spectrum falls: larger is smoother", low=0, high=10)
    max_soft: float = knob(0.0, "half width of the soft edge, as a share of the pixels", low=0, high=0.5)
    masks: str = knob("batch", "one mask per batch or per sample", choices=("batch", "sample"))
    variant: str = knob("paper", "spectrum of the paper or of its code", choices=("paper", "released"))

    def draw(self, shape: Shape, generator: Generator) -> FMixDraw:
        """Draw the permutation, lam, the coin, then the noise."""
        samples, _, height, width = shape
        partner = torch.randperm(samples, generator=generator)
        lam = draw_beta(self.alpha, generator)
        ceil = bool(torch.randint(2, (), generator=generator))
        size = (samples if self.masks == "sample" else 1, height, width // 2 + 1 + width % 2, 2)
        return FMixDraw(partner, lam, torch.randn(size, generator=generator, dtype=torch.float64), ceil)

    def apply(self, x: Tensor, draw: FMixDraw) -> Mixed:
        """Return m x + (1 - m) x[partner] with the mask m, and the drawn lam."""
        grey = grey_images(
            draw.noise.to(x.device, non_blocking=True), (x.shape[2], x.shape[3]), self.decay, self.variant
        )
        mask = brightest(grey, draw.lam, draw.ceil, self.max_soft)
        partner = draw.partner.to(x.device, non_blocking=True)
        return pairs(torch.lerp(x[partner], x, mask[:, None].to(x.dtype)), partner, draw.lam)


def grey_images(noise: Tensor, size: tuple[int, int], decay: float, variant: str) -> Tensor:
    """Low-frequency images from the noise of `FMixDraw`, at any brightness and scale: [M, H, W].

    The released spectrum needs the first two rows of the noise only.
    """
    height, width = size
    rows, columns = noise.shape[1:3]
    down = torch.fft.fftfreq(height, dtype=noise.dtype, device=noise.device)[:rows]
    right = torch.arange(columns, dtype=noise.dtype, device=noise.device).clamp_(max=width // 2) / width
    spectrum = noise * torch.hypot(down[:, None], right).clamp_(min=1 / max(size)).pow_(-decay)[..., None]
    if variant == "released":
        spectrum = torch.complex(spectrum[:, 0], spectrum[:, 1])
    else:
        spectrum = torch.view_as_complex(spectrum)
    # one axis after the other: a two-dimensional irfft of what has no symmetry is not defined on every device
    return torch.fft.irfft(torch.fft.ifft(spectrum, height, dim=1), width, dim=2)


def brightest(grey: Tensor, lam: float, ceil: bool, max_soft: float) -> Tensor:
    """The mask of the lam H W brightest pixels of each image [M, H, W], 1 there and 0 elsewhere, in the type of `grey`.

    With `max_soft` s > 0, the ranks from k above to k below the edge, k = H W min(s, lam, 1 - lam), fall from 1 to 0.
    """
    pixels = grey[0].numel()
    ones = math.ceil(lam * pixels) if ceil else math.floor(lam * pixels)
    soft = min(int(pixels * min(max_soft, lam, 1 - lam)), ones, pixels - ones)
    ramp = torch.linspace(1, 0, 2 * soft, dtype=grey.dtype, device=grey.device)
    values = torch.cat([ramp.new_ones(ones - soft), ramp]).expand(len(grey), -1)
    chosen = grey.flatten(1).topk(ones + soft, sorted=soft > 0).indices
    return torch.zeros_like(grey).flatten(1).scatter_(1, chosen, values).view_as(grey)
