"""Fine-tuning: from pretrained weights, with a head that learns faster, and what is asked of the network frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.base import Batch, Clock, Part, Setup, Term, selected
from automixsearch.algorithms.supervised import Supervised
from automixsearch.config.knobs import Knobbed, knob
from automixsearch.errors import SpecError
from automixsearch.lazy import functional
from automixsearch.mixers.vanilla import Vanilla
from automixsearch.results.columns import Column, amount

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from automixsearch.models.base import Backbone

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")


@dataclass(frozen=True)
class TuningKnobs(Knobbed):
    """The settings of how a pretrained network is moved."""

    head_lr: float = knob(
        10.0,
        "learning rate of the head, as a multiple of lr",
        low=0,
        open_low=True,
        high=1000,
        search=(1, 30),
        log=True,
    )
    layer_decay: float = knob(
        1.0,
        "what the learning rate is multiplied by from each stage to the one before",
        low=0.01,
        high=1,
        search=(0.3, 1),
    )
    frozen: str = knob(
        "none",
        "what keeps its weights and statistics: nothing, the stages up to one, or all but the head (a linear probe)",
        choices=("none", *STAGES, "all"),
        search=("none", "stem", "stage1", "stage2"),
    )


def tuned_parts(network: Backbone, settings: TuningKnobs) -> list[Part]:
    """The parts of a network by their learning rates; what is frozen is in none, and needs no gradient from here on.

    Raises:
        SpecError: the stages of this network cannot be told apart, or there is no such stage.
    """
    stages = list(network.widths)
    known = all(hasattr(network, stage) for stage in stages)
    if not known and (settings.frozen not in ("none", "all") or settings.layer_decay != 1):
        raise SpecError(
            f"{type(network).__name__}: its weights cannot be told apart by stages; use frozen=none or all, and "
            "layer_decay=1"
        )
    if settings.frozen in STAGES and settings.frozen not in stages:
        raise SpecError(f"{type(network).__name__} has no {settings.frozen} to freeze, but {', '.join(stages)}")
    last = stages.index(settings.frozen) if settings.frozen in stages else -1
    frozen = {*stages[: last + 1]}
    heads = {id(parameter) for parameter in network.head.parameters()}
    groups: dict[float, set[int]] = {}
    for name, parameter in network.named_parameters():
        place = next((stage for stage in stages if name.startswith(f"{stage}.")), "")
        if id(parameter) in heads:
            groups.setdefault(settings.head_lr, set()).add(id(parameter))
        elif settings.frozen == "all" or place in frozen:
            parameter.requires_grad_(False)
        else:
            depth = len(stages) - 1 - stages.index(place) if place and known else 0
            groups.setdefault(settings.layer_decay**depth, set()).add(id(parameter))
    return [Part(selected(network, chosen), scale) for scale, chosen in groups.items()]


def rest(network: Backbone, settings: TuningKnobs) -> None:
    """Keep what is frozen in evaluation mode, so that its statistics stay as they are."""
    if settings.frozen == "none":
        return
    for name, stage in network.named_children():
        if stage is not network.head and (settings.frozen == "all" or name in _upto(network, settings.frozen)):
            stage.eval()


def _upto(network: Backbone, stage: str) -> Sequence[str]:
    stages = list(network.widths)
    return stages[: stages.index(stage) + 1] if stage in stages else ()


class FineTuning(Supervised):
    """L = CE(clean images) + M(mixed images), the second where a method mixes.

    Source: Kornblith et al., arXiv 1805.08974, and the baselines of Co-Tuning (CoTuning at fc3eb54).
    """

    name: ClassVar[str] = "fine_tuning"
    knobs: ClassVar[type[Knobbed]] = TuningKnobs
    columns: ClassVar[tuple[Column, ...]] = (amount("labelled_loss", "loss of the labelled images"),)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._parts = tuned_parts(self.network, self.settings)
        self.embedded = self.compiled(self.network.embedded)

    def parts(self) -> list[Part]:
        return self._parts

    def train(self, mode: bool = True) -> FineTuning:
        """As any module; what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            rest(self.network, self.settings)
        return self

    def terms(self, batch: Batch, clock: Clock, generator: Generator) -> Iterator[Term]:
        x = self.normalise(batch.views[0])
        with self.autocast():
            features = self.embedded(self.world.share(x))
            logits = self.network.head(features).float()
        y = self.world.share(batch.y)
        labelled = functional.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        extra = self.extra_term(features.float(), y)
        yield Term(labelled if extra is None else labelled + extra, {"labelled_loss": labelled.detach()})
        mixer = self.mixer_at(clock)
        if not isinstance(mixer, Vanilla):
            yield from self.mixed_terms(x, batch.y, mixer, generator, {"pixels": batch.views[0], **self.known})

    def extra_term(self, features: Tensor, y: Tensor) -> Tensor | None:
        """What an algorithm adds to the loss of clean images, of this worker's features [b, D] and classes [b]."""
        return None

    @classmethod
    def upgraded(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state
