"""Evaluations of the networks that a study has kept, or of a file of weights."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator

from automixsearch.config.knobs import knobs_of
from automixsearch.errors import SpecError, unknown
from automixsearch.evaluation import EVALUATIONS, Evaluation, Pictures, Subject
from automixsearch.models.build import build_model
from automixsearch.models.weights import load_weights
from automixsearch.registry import Plugin, load, look_up, resolve
from automixsearch.results.evaluations import EvaluationDocument, ScoreEntry, place_of
from automixsearch.seeds import derive_seed
from automixsearch.training.run import TrainingRun
from automixsearch.versions import code_version

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from automixsearch.config.trial import TrialConfig
    from automixsearch.data.base import ImageSet
    from automixsearch.results.store import Store


def evaluations_of(suites: Iterable[str], settings: Mapping[str, Any]) -> list[tuple[Evaluation, str]]:
    """The evaluations of some names, with `settings` by full name (`attack.steps`), and the code of each.

    Args:
        suites: names of `EVALUATIONS`, or module:Name or file.py:Name.

    Raises:
        SpecError: a name is unknown or occurs twice, a setting belongs to none of them or is illegal.
    """
    made: list[tuple[Evaluation, str]] = []
    left = dict(settings)
    for word in suites:
        code = code_version()
        if word in EVALUATIONS:
            kind = EVALUATIONS[word]
        else:
            plugin = resolve("evaluations", word)
            kind, code = load(plugin), f"{code} {plugin.origin}"
        if kind.name in [evaluation.name for evaluation, _ in made]:
            raise SpecError(f"--suite names {kind.name} twice; once is enough")
        own = {}
        for name, knob in knobs_of(kind).items():
            full = f"{kind.name}.{name}"
            if full in left:
                own[name] = knob.check(left.pop(full), full)
        made.append((kind(**own), code))
    if left:
        known = [f"{one.name}.{name}" for one, _ in made for name in knobs_of(type(one))]
        raise SpecError(unknown("setting", next(iter(left)), known))
    return made


def asked_of(asked: Mapping[str, Mapping[str, Any]], plugins: Iterable[Plugin] = ()) -> list[tuple[Evaluation, str]]:
    """The evaluations that a space names with their settings, and the code of each."""
    origins = {plugin.value: f" {plugin.origin}" for plugin in plugins if plugin.kind == "evaluations"}
    return [
        (look_up("evaluations", name, plugins)(**settings), code_version() + origins.get(name, ""))
        for name, settings in asked.items()
    ]


def subject_of(config: TrialConfig, images: ImageSet, weights: bytes | str, device: torch.device | str) -> Subject:
    """The network of a config with its weights, and the images that a run of it is validated and tested on.

    Args:
        weights: a state_dict as `train --out` saves it, or the name of such a file.

    Raises:
        SpecError: they are of another network or another number of classes.
    """
    if config.knobs["weights"]:  # what it began with; all of it is replaced
        config = config.model_copy(update={"knobs": {**config.knobs, "weights": ""}})
    run = TrainingRun(config, images, device)
    recipe, channels = dataclasses.replace(config.recipe, weights=""), images.train.images.shape[3]
    network = build_model(recipe, channels, len(images.classes), config.seed, run.train_side, config.plugins)
    with tempfile.TemporaryDirectory() as folder:
        name = weights
        if isinstance(name, bytes):
            name = str(Path(folder, "weights.pt"))
            Path(name).write_bytes(weights if isinstance(weights, bytes) else b"")
        if not load_weights(network, name, recipe.backbone):
            raise SpecError(f"{name}: was trained for another number of classes than {images.name} has")
    return subject_of_run(run, network, images.classes)


def subject_of_run(run: TrainingRun, network: Module, classes: Iterable[str]) -> Subject:
    """A network, which becomes one in eval mode without gradients, and the images of a run."""
    recipe = run.recipe
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network = network.to(run.device).to(memory_format=layout).eval().requires_grad_(False)  # type: ignore[call-overload]
    batch = max(256, recipe.batch_size)
    validation, test = (Pictures(part, recipe.test_size, batch) for part in (run.val, run.test))
    mean, std = (values[:, None, None] for values in (run.test.mean, run.test.std))
    return Subject(
        network, validation, test, tuple(classes), lambda x: ((x - mean) / std).contiguous(memory_format=layout)
    )


def answered(store: Store, trial_id: str, evaluation: Evaluation, code: str) -> EvaluationDocument | None:
    """What the ledger has of a question about a trial, by the same code."""
    found = store.document(place_of(trial_id, evaluation.name, evaluation.settings()), EvaluationDocument)
    return found if found is not None and found.code == code else None


def keep(store: Store, document: EvaluationDocument) -> None:
    """Put an answer into the ledger."""
    store.put_document(place_of(document.trial_id, document.suite, document.settings), document)


def evaluated(
    evaluation: Evaluation,
    code: str,
    subject: Subject,
    trial_id: str,
    seed: int,
    heard: Callable[[float], None] = lambda share: None,
) -> EvaluationDocument:
    """Ask one question about one network.

    Args:
        seed: of the run, from which what the question draws follows. heard: is told the share that is behind, by what
            the evaluation says that it takes.
    """
    generator = Generator().manual_seed(derive_seed(seed, "evaluation", evaluation.name))
    behind, whole = 0, evaluation.passes(len(subject.test)) * len(subject.test)

    def count(_: Module, given: tuple[Tensor, ...], __: Tensor) -> None:
        nonlocal behind
        behind += len(given[0]) * (3 if given[0].requires_grad else 1)
        heard(min(behind / whole, 1.0))

    handle = subject.network.register_forward_hook(count)
    try:
        scores = list(evaluation.scores(subject, generator))
    finally:
        handle.remove()
    entries = [
        ScoreEntry(
            name=score.name,
            value=score.value if math.isfinite(score.value) else None,
            images=score.images,
            setting=score.setting,
        )
        for score in scores
    ]
    return EvaluationDocument(
        trial_id=trial_id,
        suite=evaluation.name,
        settings=evaluation.settings(),
        seed=seed,
        code=code,
        scores=entries,
    )
