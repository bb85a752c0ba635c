"""What can be refused before a run starts; only networks of other packages take torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from automixsearch.config.catalogue import catalogue
from automixsearch.config.policy import methods_of
from automixsearch.config.recipe import Recipe
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.mixers.adautomix import AdAutoMix
from automixsearch.mixers.automix import AutoMix, never_learned
from automixsearch.models.registry import network_of

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace
    from automixsearch.data.base import ImageSet


def check_batches(batch_size: int, images: int, workers: int) -> None:
    """Refuse a batch that the training split cannot fill or the workers cannot share equally.

    Raises:
        SpecError: fewer training images than one batch, or the batch is no multiple of the number of workers.
    """
    if batch_size > images:
        raise SpecError(f"batch_size = {batch_size} exceeds the {images} training images; lower batch_size")
    if batch_size % workers:
        raise SpecError(
            f"batch_size = {batch_size} cannot be shared equally by {workers} workers; use a multiple of {workers}"
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
    """What is amiss where AutoMix reports a teacher that follows too slowly for the run to teach it anything.

    Args:
        images: of the training set, validation split included. epochs: of the shortest run.
    """
    for config in configs:
        mixer = config.mixer
        if not isinstance(mixer, AutoMix | AdAutoMix) or not mixer.report.startswith("teacher"):
            continue
        steps = int(images * (1 - config.data.val_fraction)) // config.recipe.batch_size * epochs
        share = never_learned(mixer, steps)
        if share > STALE:
            return [
                f"{mixer.name} reports its teacher, which after {steps} steps still is {share:.0%} what it began as: "
                f"expect scores near chance; lower {mixer.name}.ema_start and {mixer.name}.ema_end (0.9 and 0.99 suit "
                "a few hundred steps), or train longer"
            ]
    return []
