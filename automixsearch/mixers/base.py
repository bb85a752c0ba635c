"""What every mixing method is: knobs, a random draw, and a pure function of batch and draw."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from automixsearch.config.knobs import Knobbed, Scalar, knob
from automixsearch.lazy import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Draw:
    """The randomness of one mixed batch, and nothing else.

    Examples:
        >>> first, again = (CutMix().draw((8, 3, 32, 32), torch.Generator().manual_seed(0)) for _ in range(2))
        >>> first.centre == again.centre
        True
    """

    def between(self, count: int) -> Self:
        """The same draw, of a batch of 2 `count` images, with each image of one half paired with the one of the same
        rank in the other half.

        Raises:
            TypeError: it makes no pairs.
        """
        raise TypeError(f"{type(self).__name__} makes no pairs")


@dataclass(frozen=True)
class PairDraw(Draw):
    """The randomness of a batch of mixed pairs.

    partner: int64 [B] on the CPU; sample i is mixed with sample partner[i].

    Examples:
        >>> draw = MixUp().draw((8, 3, 32, 32), torch.Generator().manual_seed(0))
        >>> draw.with_lam(0.5).lam
        0.5
    """

    partner: Tensor

    def with_lam(self, lam: float) -> Self:
        """The same draw at another own-sample share `lam` in [0, 1], a field as a rule; every other value stays."""
        return dataclasses.replace(self, lam=lam)  # pyright: ignore[reportCallIssue]

    def between(self, count: int) -> Self:
        return dataclasses.replace(self, partner=torch.arange(2 * count).roll(count))


@dataclass(frozen=True)
class Mixed:
    """A mixed batch, in the one form that losses and the training loop understand, on the device of the batch.

    x: float [B, C, H, W].
    sources: int64 [B, S], the samples whose labels row b carries. For pairs S = 2: the sample itself, its partner.
    shares: float64 [B, S], the weight of each; rows sum to 1.
    stage: `input` where x is mixed already; else the stage of the network at whose output the network has to do it,
        h <- sum over s of shares[:, s] h[sources[:, s]].
    views: None, or float [V, B, C, H, W]: further views of the same images, on which predictions should agree.
    consistency: weight of the Jensen-Shannon divergence of the predictions of x and its views.
    pasted: None, or bool [B, H, W]: where the partner is shown, of pairs whose shares follow what the network looks at:
        own <- (1 - attention) own + attention (share of the class token's attention that is on the sample itself).
    attention: the weight of that share, in [0, 1].

    Examples:
        >>> from automixsearch.losses import MCE
        >>> x, y = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
        >>> mixed = MixUp()(x, torch.Generator().manual_seed(0))
        >>> MCE()(torch.randn(8, 10), y[mixed.sources], mixed.shares).shape  # of the logits of mixed.x
        torch.Size([])
    """

    x: Tensor
    sources: Tensor
    shares: Tensor
    stage: str = "input"
    views: Tensor | None = None
    consistency: float = 0.0
    pasted: Tensor | None = None
    attention: float = 0.0

    @property
    def partner(self) -> Tensor:
        """Of pairs: int64 [B], whom each sample is mixed with."""
        return self.sources[:, 1]

    @property
    def lam(self) -> Tensor:
        """Of pairs: float64 [B], the share of the sample itself."""
        return self.shares[:, 0]


@dataclass(frozen=True)
class Mixer(Knobbed, ABC):
    """A mixing method: a frozen dataclass whose fields are its hyperparameters, each declared with `knob`.

    Randomness and arithmetic are apart. `draw` consumes an explicit CPU generator; `apply` is pure and never
    touches its input, so any published result can be replayed by handing over the draw.

    Examples:
        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> @dataclass(frozen=True)
        ... class Halves(Mixer):
        ...     name: ClassVar[str] = "halves"
        ...     def draw(self, shape, generator):
        ...         return PairDraw(torch.randperm(shape[0], generator=generator))
        ...     def apply(self, x, draw):
        ...         partner, half = draw.partner.to(x.device, non_blocking=True), x.shape[3] // 2
        ...         mixed = torch.cat([x[..., :half], x[partner][..., half:]], dim=3)
        ...         return pairs(mixed, partner, half / x.shape[3])
        >>> Halves()(torch.randn(4, 3, 32, 32), torch.Generator().manual_seed(0)).lam.tolist()
        [0.5, 0.5, 0.5, 0.5]
    """

    name: ClassVar[str]
    mixes: ClassVar[bool] = True
    """False where the method never changes a label (then the loss knobs have no effect and are not searched)."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What `apply` may take beside batch and draw, by keyword; whoever trains supplies it:

    pixels: uint8 [B, H, W, C], the batch before normalisation.
    mean, std: float [C], in 0..1 units: x = (pixels / 255 - mean) / std.
    saliency: float [B, H, W], sqrt of the mean over channels of gradient^2.
    gradient: float [B, C, H, W], d CE / d x at the current weights; any positive scale per sample.
    mask, masks: what a Mix Block made, of methods with a way of training of their own.
    """
    algorithm: ClassVar[str] = "supervised"
    """The way of training that goes with it; see `algorithms`."""
    whole: ClassVar[bool] = False
    """Needs the whole batch for itself: cannot share one with another method."""
    crosses: ClassVar[bool] = True
    """It makes pairs of pixels and needs nothing else of the batch, so it can mix images with those of another one."""
    attends: ClassVar[bool] = False
    """Its shares follow the attention of a class token, which the network has to have."""
    label_slack: ClassVar[float] = 0
    """The own share of the pixels differs from lam by at most this many pixels."""
    published: ClassVar[Mapping[str, Mapping[str, Scalar]]] = {}
    """Knob values used for published tables, by family of data sets (cifar, tiny, imagenet, fine_grained), and what a
    backbone has instead or beside, by family/backbone; see `published_for`."""
    source: ClassVar[str] = ""
    """Paper, arXiv id."""

    @abstractmethod
    def draw(self, shape: Shape, generator: Generator) -> Draw:
        """Draw the randomness for a batch of `shape` [B, C, H, W] from a CPU generator."""

    @abstractmethod
    def apply(self, x: Tensor, draw: Any, **supplied: Tensor) -> Mixed:
        """Mix the float batch `x` [B, C, H, W] as `draw` says; `x` is not changed.

        `supplied` holds what `needs` names; a method lists its own needs as keyword arguments.
        """

    def __call__(self, x: Tensor, generator: Generator, **supplied: Tensor) -> Mixed:
        """Draw and apply; `supplied` holds at least what the draw needs."""
        draw = self.draw((x.shape[0], x.shape[1], x.shape[2], x.shape[3]), generator)
        return self.apply(x, draw, **{need: supplied[need] for need in self.needs_of(draw)})

    @classmethod
    def prepare(cls) -> None:
        """Do once on a machine what every process would else wait for at its first batch: compile, fill caches."""

    def needs_of(self, draw: Any) -> frozenset[str]:
        """What `apply` takes for this `draw`: all or part of `needs`."""
        return self.needs

    def clean_weight_of(self, draw: Any) -> float:
        """Weight of the cross-entropy of the unmixed batch that is added to the loss of the mixed one.

        It is multiplied by the loss's `clean_scale`. Where it is > 0, saliency is taken from that clean pass.
        """
        return 0.0


def alpha_knob(
    default: float, note: str = "Beta(alpha, alpha) of the own share", search: tuple[float, float] = (0.1, 4.0)
) -> Any:
    """Declare the knob alpha of a method: > 0, searched on a logarithmic scale."""
    return knob(default, note, low=0, high=100, open_low=True, search=search, log=True)


def draw_beta(alpha: float, generator: Generator) -> float:
    """One sample of Beta(alpha, alpha), by inverting the distribution function at one uniform draw.

    Inversion uses exactly one random number whatever alpha is, so that runs with the same seed and another alpha
    see the same ranks (common random numbers).
    """
    return draw_betas(alpha, 1, generator).item()


def draw_betas(alpha: float, count: int, generator: Generator) -> Tensor:
    """`count` independent samples of Beta(alpha, alpha), drawn as `draw_beta` does: float64 [count]."""
    from scipy.special import betaincinv

    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.from_numpy(betaincinv(alpha, alpha, uniform.numpy()))


def pairs(x: Tensor, partner: Tensor, lam: Tensor | float, stage: str = "input") -> Mixed:
    """Put mixed pairs into a `Mixed`; `lam`: the own share, [B] or one number for the whole batch.

    Examples:
        >>> pairs(torch.zeros(2, 3, 8, 8), torch.tensor([1, 0]), 0.25).shares.tolist()
        [[0.25, 0.75], [0.25, 0.75]]
    """
    if isinstance(lam, float | int):
        own = torch.full((len(x),), lam, dtype=torch.float64, device=x.device)
    else:
        own = lam.to(x.device, torch.float64, non_blocking=True).expand(len(x))
    index = torch.arange(len(x), device=x.device)
    sources = torch.stack([index, partner.to(x.device, non_blocking=True)], dim=1)
    return Mixed(x, sources, torch.stack([own, 1 - own], dim=1), stage)


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows top..bottom, columns left..right, the ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return self.height * self.width


def clipped_box(size: tuple[int, int], side: float, centre: tuple[int, int]) -> Box:
    """The box of relative side `side` in [0, 1] around `centre` (row, column), clipped to `size` (H, W).

    Sides are truncated to whole pixels and halved with integer division, so an odd side loses one pixel
    (as in the CutMix authors' code).
    """

    def span(length: int, middle: int) -> tuple[int, int]:
        half = int(length * side) // 2
        return min(max(middle - half, 0), length), min(max(middle + half, 0), length)

    (top, bottom), (left, right) = span(size[0], centre[0]), span(size[1], centre[1])
    return Box(top, bottom, left, right)


def draw_centre(size: tuple[int, int], generator: Generator) -> tuple[int, int]:
    """A pixel (row, column), uniform over `size` (H, W)."""
    row = torch.randint(size[0], (), generator=generator).item()
    column = torch.randint(size[1], (), generator=generator).item()
    return int(row), int(column)


def box_masks(centre: Tensor, side: Tensor | float, size: tuple[int, int]) -> Tensor:
    """What `clipped_box` encloses around each `centre`, int64 [M, 2] (row, column): bool [M, H, W].

    side: in [0, 1], float64 [M] or one number for all.
    """

    def span(length: int, middle: Tensor) -> Tensor:
        if isinstance(side, float | int):
            half = int(length * side) // 2
        else:
            half = (length * side).long().reshape(-1, 1) // 2
        offset = torch.arange(length, device=middle.device) - middle[:, None]
        return (offset >= -half) & (offset < half)

    rows, columns = span(size[0], centre[:, 0]), span(size[1], centre[:, 1])
    return rows[:, :, None] & columns[:, None]


def paste(x: Tensor, partner: Tensor, inside: Tensor) -> Mixed:
    """Show the partner where `inside`, bool [M, H, W], says so; M is B, or 1 for one mask for all."""
    lam = 1.0 - inside.sum((1, 2)).double() / inside[0].numel()
    return pairs(torch.where(inside[:, None], x[partner], x), partner, lam)


def own_share(box: Box, size: tuple[int, int]) -> float:
    """The share of the image outside `box`: the label weight of the sample that receives the box."""
    return 1.0 - box.area / (size[0] * size[1])
