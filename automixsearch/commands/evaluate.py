"""`evaluate`: what else a trained network is judged by."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from automixsearch.commands.terminal import (
    add_json,
    add_results,
    console,
    declare,
    dump_json,
    open_named,
    positive,
    print_frame,
    say,
)
from automixsearch.errors import SpecError, StudyError

TELL_S = 15.0
"""Seconds between two words on how far an evaluation is."""


def evaluate_command(args: argparse.Namespace) -> int:
    import torch

    from automixsearch.config.files import load_config, read_override
    from automixsearch.data import load
    from automixsearch.evaluation.run import answered, evaluated, evaluations_of, keep, subject_of
    from automixsearch.results.evaluations import EvaluationDocument
    from automixsearch.training.run import pick_device

    example = "calibration.bins=10"
    settings = dict(read_override(word, example) for word in args.overrides)
    asked = evaluations_of(args.suite.split(","), settings)
    try:
        device = torch.device(args.device) if args.device else pick_device()
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise SpecError(f"--device {args.device!r} cannot be used here; use cpu, or see automixsearch doctor") from None
    found: list[EvaluationDocument] = []
    if args.weights:
        if args.best is not None or args.per:
            raise SpecError("--weights is a file of one network; --best and --per choose trials of a study")
        config = load_config(args.study)
        subject = subject_of(config, load(config.data, config.plugins), args.weights, device)
        for evaluation, code in asked:
            heard = _begun(f"{evaluation.name} of {args.weights}", evaluation, len(subject.test))
            found.append(evaluated(evaluation, code, subject, config.config_id, config.seed, heard))
        return _shown(args, found)
    args.study, _, trial = args.study.partition(":") if "://" not in args.study else (args.study, "", "")
    study = open_named(args)
    if trial and (args.best is not None or args.per):
        raise SpecError(f"{args.study}:{trial} names a trial; --best and --per choose some")
    images: dict[str, Any] = {}
    for trial_id in [study.show(trial)["row"]["trial_id"]] if trial else _best(study, args.best or 1, args.per):
        config, subject = study.config(trial_id), None
        for evaluation, code in asked:
            document = answered(study.store, trial_id, evaluation, code)
            if document is None:
                if subject is None:
                    key = config.data.model_dump_json()
                    if key not in images:
                        images = {key: load(config.data, config.plugins)}
                    subject = subject_of(config, images[key], study.weights(trial_id), device)
                heard = _begun(f"{evaluation.name} of {trial_id}", evaluation, len(subject.test))
                document = evaluated(evaluation, code, subject, trial_id, config.seed, heard)
                keep(study.store, document)
            else:
                say(f"{evaluation.name} of {trial_id}: is in the ledger", file=sys.stderr)
            found.append(document)
    return _shown(args, found)


def _begun(what: str, evaluation: Any, images: int) -> Callable[[float], None]:
    """Say what an evaluation will take; what is returned says from time to time how far it is."""
    from automixsearch.show import duration

    passes = evaluation.passes(images)
    say(f"{what}: about {passes:.0f} pass{'es' * (round(passes) != 1)} over {images:,} images", file=sys.stderr)
    began = told = time.monotonic()

    def heard(share: float) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_S and share:
            told = now
            left = duration((now - began) * (1 - share) / share)
            say(f"{what}: {100 * share:.0f} %, about {left} to go", file=sys.stderr)

    return heard


def _best(study: Any, count: int, per: str | None) -> list[str]:
    """The trials of the best configs, of each value of a column where one is named."""
    from automixsearch.analysis.best import best

    places = best(study, count, per).places
    if not places:
        raise StudyError(f"study {study.name} has no complete trial to evaluate yet")
    return [place.trial_id for place in places]


def _shown(args: argparse.Namespace, found: list[Any]) -> int:
    import pandas as pd

    rows = [row for document in found for row in document.rows]
    if args.json:
        print(dump_json({"evaluations": rows}))
        return 0
    plain = [row for row in rows if not row["name"].startswith("bin_")]
    columns = ["trial_id", "suite", "name", "setting", "value", "images"]
    print_frame(console(), pd.DataFrame([{name: row[name] for name in columns} for row in plain]))
    if len(plain) < len(rows):
        say("The bins of the reliability diagram are in --json, and in Study.evaluations() in Python.")
    return 0


def add(commands: Any) -> None:
    """Declare the command."""
    sub = declare(commands, evaluate_command, "Ask more of trained networks: calibration, corruption, attacks.")
    sub.add_argument(
        "study",
        metavar="STUDY[:TRIAL]",
        help="of which the weights were kept (the best trial); with --weights: a config",
    )
    sub.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings, e.g. calibration.bins=10 attack.steps=20"
    )
    sub.add_argument(
        "--suite",
        default="calibration",
        metavar="NAMES",
        help="calibration, corruption, attack, occlusion, mixed, localisation, my.py:Name; by commas (calibration)",
    )
    sub.add_argument("--best", type=positive, metavar="N", help="of the N best configs")
    sub.add_argument("--per", metavar="COLUMN", help="of the best of each value of a column, e.g. method")
    sub.add_argument("--weights", metavar="FILE", help="of a network that train --out saved; STUDY is its config then")
    sub.add_argument("--device", help="cpu, cuda, cuda:1 ... (CUDA where there is one)")
    add_results(sub)
    add_json(sub, "the scores")
