"""What can be refused before a run starts; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable

from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.mixers.automix import AutoMix, never_learned


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


STALE = 0.5
"""Share of a teacher's first weights above which it says more about chance than about the run."""


def stale_teachers(configs: Iterable[TrialConfig], images: int, epochs: int) -> list[str]:
    """What is amiss where AutoMix reports a teacher that follows too slowly for the run to teach it anything.

    Args:
        images: of the training set, validation split included. epochs: of the shortest run.
    """
    for config in configs:
        mixer = config.mixer
        if not isinstance(mixer, AutoMix) or not mixer.report.startswith("teacher"):
            continue
        steps = int(images * (1 - config.data.val_fraction)) // config.recipe.batch_size * epochs
        share = never_learned(mixer, steps)
        if share > STALE:
            return [
                f"automix reports its teacher, which after {steps} steps still is {share:.0%} what it began as: expect "
                "scores near chance; lower automix.ema_start and automix.ema_end (0.9 and 0.99 suit a few hundred "
                "steps), or train longer"
            ]
    return []
