"""Load the data of a search and refuse what cannot be trained on them, before anything else starts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.config.policy import methods_of
from automixsearch.config.recipe import Recipe
from automixsearch.config.space import SearchSpace
from automixsearch.data import load
from automixsearch.data.base import split
from automixsearch.errors import SpecError, StudyError
from automixsearch.registry import look_up
from automixsearch.search.claim import claim, is_free
from automixsearch.search.provenance import described, other_data
from automixsearch.show import few_images
from automixsearch.studies.plan.settings import config_of, method_settings, teacher_settings
from automixsearch.training.checks import check_batches, check_network, check_unlabelled, stale_teachers

if TYPE_CHECKING:
    from automixsearch.results.store import Store
    from automixsearch.studies.design import Design

SIZES = ("backbone", "train_size", "test_size", "crop", "crop_pad")
"""The knobs that decide whether images of a size can be trained on."""


def prepare(space: SearchSpace, store: Store, design: Design | None) -> tuple[str, list[str]]:
    """Load the data, refuse a space that cannot train on them, and only then make the study its own.

    Returns:
        The fingerprint of the data, and what a user should know before hours are spent.
    """
    images = load(space.data, space.plugins)
    if "val_auroc" in space.objective and len(images.classes) != 2:
        raise SpecError(
            f"objective = val_auroc is of two classes, and {images.name} has {len(images.classes)}; use "
            "val_balanced_accuracy or val_macro_f1"
        )
    seeds = sorted({run.split_seed for run in design.runs}) if design else [space.seeds.split]
    splits = {seed: split(images, space.data.val_fraction, seed) for seed in seeds}
    by_name = {dimension.name: dimension for dimension in space.dimensions}

    def extremes(name: str) -> tuple[Any, ...]:
        dimension = by_name.get(name)
        return (getattr(Recipe(), name),) if dimension is None else dimension.choices or (dimension.low, dimension.high)

    fewest = min(len(part.train) for part in splits.values())
    for size, steps in itertools.product(extremes("batch_size"), extremes("steps_per_epoch")):
        check_batches(int(size), fewest, space.resources.workers, int(steps))
    for chosen in itertools.product(*map(extremes, SIZES)):
        recipe = Recipe(**dict(zip(SIZES, chosen, strict=True)))
        recipe.sides(*images.train.images.shape[1:3])
        check_network(recipe, space, images)
    data = described(images, splits, space.data.path)
    if (why := other_data(store, data)) and not is_free(store):
        raise StudyError(why)
    claim(store, space, design, data)
    for method in space.methods:
        for name in methods_of(method):
            look_up("mixers", name, space.plugins).prepare()
    for part in splits.values():
        store.put(f"splits/{part.split_id}.json", part.to_json(images).encode())
    settings = method_settings(space).values() if design is None else teacher_settings(design)
    configs = [config_of(space, values) for values in settings]
    for config in configs:
        if config.algorithm in config.catalogue.crossing:
            check_unlabelled(config)
    held = images.train.labels[split(images, space.data.val_fraction, space.seeds.split).val]
    rarest = (int(np.bincount(labels, minlength=len(images.classes)).min()) for labels in (held, images.test.labels))
    stale = stale_teachers(configs, len(images.train.labels), space.rungs[0])
    return images.fingerprint, [*images.notes, *few_images(*rarest), *stale]
