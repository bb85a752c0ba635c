"""What every way of training is: the images that it needs, the terms of a step, what follows a step, and its heads.

A file of an algorithm declares its knobs and columns for commands that must not wait seconds for torch, so it can be
imported without torch: `lazy` brings torch at first use, and `build` makes the class an `nn.Module`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from automixsearch.config.knobs import Knobbed, knobs_of
from automixsearch.lazy import torch
from automixsearch.results.columns import Column
from automixsearch.seeds import derive_seed

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Generator, Tensor
    from torch import device as Device
    from torch.nn import Module

    from automixsearch.config.trial import TrialConfig
    from automixsearch.models.base import Backbone
    from automixsearch.training.world import World
else:
    Module = object

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Needs:
    """The images of one step.

    views: of every labelled image, in this order, by names of `training.augment.VIEWS`; a name that occurs twice gives
    two views. unlabelled: likewise of unlabelled images; (): none. ratio: unlabelled images for each labelled one.
    """

    views: tuple[str, ...] = ("recipe",)
    unlabelled: tuple[str, ...] = ()
    ratio: int = 1


@dataclass(frozen=True)
class Images:
    """Views of a global batch of images, on the device.

    views: each uint8 [B, H, W, C], in the order of `Needs`. index: int64 [B], the place of each image in its part of
    the data set, from 0 on.
    """

    views: tuple[Tensor, ...]
    index: Tensor


@dataclass(frozen=True)
class Batch(Images):
    """What one step trains on: labelled images with their classes y, int64 [B], and unlabelled ones.

    truth: int64, of the unlabelled images the classes where they are known, else -1; to tell how good guesses are, and
    for nothing else.
    """

    y: Tensor
    unlabelled: Images | None = None
    truth: Tensor | None = None


@dataclass(frozen=True)
class Clock:
    """When a step is: `step` of `steps` and `epoch` of `epochs` of the whole run, both from 0 on."""

    step: int
    steps: int
    epoch: int
    epochs: int

    @property
    def progress(self) -> float:
        """The share of the run before this step, in [0, 1)."""
        return self.step / self.steps


@dataclass(frozen=True)
class Term:
    """A weighted term of the loss, a scalar, of this worker's share of a step; and values for the ledger, detached.

    leaf: a tensor whose gradient the next term needs; it has one once the backward pass of this term is made.
    """

    loss: Tensor
    told: Mapping[str, Tensor] = field(default_factory=dict)
    leaf: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """What is trained alike: a module, `scale`, the multiple of the learning rate; `min_lr` and `momentum`, where they
    are not the recipe's (None)."""

    module: Module
    scale: float = 1.0
    min_lr: float | None = None
    momentum: float | None = None


def selected(module: Module, chosen: Container[int]) -> Module:
    """What of the parameters of a module is `chosen` by id, by their names there, to be a `Part` of the optimiser's.

    The parameters belong to the module, and to its `state_dict`, alone.
    """
    from torch import nn

    class Selected(nn.Module):
        def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
            return ((name, one) for name, one in module.named_parameters() if id(one) in chosen)

        def parameters(self, recurse: bool = True) -> Iterator[Any]:
            return (one for _, one in self.named_parameters())

    return Selected()


@dataclass(frozen=True)
class Setup:
    """What an algorithm is built from.

    network: with its first weights. classes: how many there are. images, unlabelled: how many are trained on. side: of
    the training images, in pixels. normalise: uint8 [B, H, W, C] on the device -> float [B, C, H, W], mean 0 and
    deviation 1. mean, std: float [C] on the device, in 0..1 units: what `normalise` takes away and divides by.
    """

    config: TrialConfig
    network: Backbone
    device: Device
    world: World
    classes: int
    images: int
    unlabelled: int
    side: int
    normalise: Callable[[Tensor], Tensor]
    mean: Tensor
    std: Tensor

    def seed(self, stream: str) -> int:
        """An independent seed for first weights, or whatever else `stream` names."""
        return derive_seed(self.config.seed, stream)


@dataclass(frozen=True)
class NoKnobs(Knobbed):
    """The settings of an algorithm that has none of its own."""


class Algorithm(ABC, Module):
    """A way of training: an `nn.Module` that says what a step is. Its `state_dict` is its part of the checkpoint, so
    whatever must outlive an interruption (averages, queues, thresholds) is a module, a parameter or a buffer.

    Every worker gets the same global batch and the same random numbers, and computes the terms of its share of the
    batch (`world.share`); the run takes the mean of the gradients over workers.

    Examples:
        >>> from automixsearch.algorithms.supervised import Supervised
        >>> from automixsearch.testing import AlgorithmContract
        >>> class Halved(Supervised):
        ...     name = "halved"
        ...     def terms(self, batch, clock, generator):
        ...         yield from (Term(term.loss / 2, term.told) for term in super().terms(batch, clock, generator))
        >>> contract = AlgorithmContract()
        >>> contract.algorithm = Halved
        >>> contract.test_the_parts_are_what_has_a_gradient()
    """

    name: ClassVar[str]
    knobs: ClassVar[type[Knobbed]] = NoKnobs
    """A frozen dataclass whose fields are the algorithm's own knobs; `settings` holds their values."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """The columns of the ledger's epochs that this algorithm fills: what its terms tell, the mean over the steps that
    tell it, and `val_top1.<head>` where it has several heads."""
    crosses: ClassVar[bool] = False
    """It mixes images with those of another batch, so it goes with mixing methods that can: see `Mixer.crosses`."""
    pretrained: ClassVar[bool] = False
    """It needs weights to start from: see the knob `weights`."""
    heads: tuple[str, ...] = ("network",)
    """What `predict` can give, by name; the first one selects, and is the only one that is tested."""

    @classmethod
    def build(cls, setup: Setup) -> Self:
        """The algorithm as a module; from here on torch is needed."""
        from torch import nn

        module: Any = type(cls.__name__, (cls, nn.Module), {})
        return module(setup)

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        config = setup.config
        self.settings: Any = self.knobs(**{name: config.knobs[f"{self.name}.{name}"] for name in knobs_of(self.knobs)})
        self.recipe, self.loss, self.mixer, self.policy = config.recipe, config.loss, config.mixer, config.policy
        self.world, self.device, self.normalise = setup.world, setup.device, setup.normalise

    @property
    def needs(self) -> Needs:
        """The images of a step."""
        return Needs()

    @abstractmethod
    def parts(self) -> list[Part]:
        """What the optimiser moves."""

    def begin(self, images: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Before the first step of a run, not where it is resumed: fix what follows from the training images.

        Args:
            images: gives them, normalised [B, C, H, W], with their classes [B], in order and without augmentation;
                all of them to every worker.
        """

    @abstractmethod
    def terms(self, batch: Batch, clock: Clock, generator: Generator) -> Iterator[Term]:
        """The terms of the loss of a step, one by one.

        A backward pass is made from each before the next is asked for, so terms with no activations in common need
        the memory of the largest, and a term may use gradients of those before it.

        Args:
            generator: on the CPU, the same for all workers; nothing else may be drawn from.
        """

    def after_step(self, clock: Clock) -> None:
        """What follows when the optimiser has moved the weights: averages, queues, thresholds."""

    @abstractmethod
    def predict(self, x: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
        """The logits [B, K] of images [B, C, H, W] by those of the `heads` that are asked for."""

    @abstractmethod
    def reported(self) -> Backbone:
        """The network that is kept: the one with whose head, or those of whose heads, the run is scored first."""

    @classmethod
    def upgraded(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A `state_dict` of any version of this algorithm -> one of this version."""
        return state

    def autocast(self) -> AbstractContextManager[Any]:
        """Where networks compute in bfloat16, if the recipe says so; to be put around their passes."""
        on = self.recipe.amp == "bf16" or (self.recipe.amp == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def compiled(self, function: Function) -> Function:
        """`function`, compiled where the recipe says so."""
        return torch.compile(function) if self.recipe.compile else function
