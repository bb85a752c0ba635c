"""What can be refused before a run starts; only networks of other packages take torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from automixsearch.config.catalogue import catalogue
from automixsearch.config.policy import methods_of
from automixsearch.config.recipe import Recipe
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import DataError, SpecError
from automixsearch.mixers.adautomix import AdAutoMix
from automixsearch.mixers.automix import AutoMix, never_learned
from automixsearch.models.registry import network_of

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace
    from automixsearch.data.base import ImageSet


def check_batches(batch_size: int, images: int, workers: int, steps: int = 0) -> None:
    """Refuse a batch that the training split cannot fill or the workers cannot share equally.

    Args:
        steps: of an epoch, where their number is set: then a batch may show an image more than once.

    Raises:
        SpecError: fewer training images than one batch, or the batch is no multiple of the number of workers.
    """
    if batch_size > images and not steps:
        raise SpecError(
            f"batch_size = {batch_size} exceeds the {images} training images; lower it, or let batches go on from one "
            "pass to the next with e.g. steps_per_epoch=100"
        )
    if batch_size % workers:
        raise SpecError(
            f"batch_size = {batch_size} cannot be shared equally by {workers} workers; use a multiple of {workers}"
        )


def check_unlabelled(config: TrialConfig) -> None:
    """Refuse semi-supervised training on the few images that have a label alone.

    Raises:
        DataError: labels are taken away, and no unlabelled images are named.
    """
    data = config.data
    if data.labels is not None and data.unlabelled is None:
        raise DataError(
            f"algorithm {config.algorithm} learns from unlabelled images too, and data.labels={data.labels} leaves "
            "none; add data.unlabelled=all, rest, or a folder of images"
        )


def check_network(recipe: Recipe, space: SearchSpace, images: ImageSet) -> None:
    """Build the network of a recipe where nothing else tells whether it takes the images and can be mixed as is asked.

    Raises:
        SpecError: it is not there, takes no such images, or has no stage that a value of the space asks for.
    """
    if not network_of(recipe.backbone).late:
        return
    import torch

    from automixsearch.models.build import build_model

    *size, channels = images.train.images.shape[1:]
    (side, _), test = recipe.sides(*size)
    network = build_model(recipe, channels, len(images.classes), 0, side, space.plugins).eval()
    if test != (side, side):
        try:
            with torch.no_grad():
                network(torch.zeros(1, channels, *test))
        except Exception as error:  # of any type
            raise SpecError(
                f"backbone {recipe.backbone}, built for images of {side} x {side} pixels, does not take those of "
                f"{test[0]} x {test[1]} that are tested: {' '.join(str(error).split())[:200]}; use test_size={side}"
            ) from None
    known = catalogue(space.plugins)
    for dimension in space.dimensions:
        if all(recipe.backbone in allowed for name, allowed in dimension.when if name == "backbone"):
            for value in map(str, dimension.choices or ()):
                if dimension.name == "method":
                    if any(known.methods[method].attends for method in methods_of(value)):
                        network.check_attended()
                elif dimension.name.endswith(".layer"):
                    network.check_stage(f"stage{value[1:]}")
                elif dimension.name.endswith(".stages"):
                    for stage in {*value.split("+")} - {"input"}:
                        network.check_stage(stage, mixed=True)


STALE = 0.5
"""Share of a teacher's first weights above which it says more about chance than about the run."""


def stale_teachers(configs: Iterable[TrialConfig], images: int, epochs: int) -> list[str]:
    """What is amiss where averaged weights are scored that follow too slowly for the run to teach them anything.

    Args:
        images: of the training set, validation split included. epochs: of the shortest run.
    """
    for config in configs:
        steps = config.recipe.steps(int(images * (1 - config.data.val_fraction))) * epochs
        decay = config.knobs.get(f"{config.algorithm}.decay")
        if decay is not None and float(decay) ** steps > STALE:
            return [
                f"{config.algorithm} scores averaged weights, which after {steps} steps still are "
                f"{float(decay) ** steps:.0%} what they began as: expect scores near chance; lower "
                f"{config.algorithm}.decay (0.98 suits a few hundred steps), or train longer"
            ]
        mixer = config.mixer
        if not isinstance(mixer, AutoMix | AdAutoMix) or not mixer.report.startswith("teacher"):
            continue
        share = never_learned(mixer, steps)
        if share > STALE:
            return [
                f"{mixer.name} reports its teacher, which after {steps} steps still is {share:.0%} what it began as: "
                f"expect scores near chance; lower {mixer.name}.ema_start and {mixer.name}.ema_end (0.9 and 0.99 suit "
                "a few hundred steps), or train longer"
            ]
    return []
