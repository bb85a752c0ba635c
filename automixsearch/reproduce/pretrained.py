"""Weights from which fine-tuning starts at scale tiny: a narrow network that has learned the digits upside down."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

from automixsearch.config.data import Data
from automixsearch.data import cache, load

EPOCHS = 20
"""Of the training that makes them: seconds to a minute."""


def tiny_weights(backbone: str) -> Path:
    """Where they lie for a backbone, whether or not they are there yet."""
    return (cache.folder() or Path(tempfile.gettempdir())) / f"tiny-{backbone}-1.pt"


def make_tiny(path: str) -> None:
    """Train the weights of such a file, unless it is there; several processes may do so at once."""
    file = Path(path)
    if file.exists():
        return
    import numpy as np

    from automixsearch.config.trial import TrialConfig
    from automixsearch.training.run import TrainingRun

    backbone = file.name.split("-")[1]
    digits = load(Data())
    turned, held = (
        dataclasses.replace(part, images=np.ascontiguousarray(np.asarray(part.images)[:, ::-1]))
        for part in (digits.train, digits.test)
    )
    knobs = {"method": "vanilla", "backbone": backbone, "width": 8, "epochs": EPOCHS, "batch_size": 64, "lr": 0.05}
    config = TrialConfig(data=Data(), knobs={**knobs, "crop_pad": 1, "flip": False})
    run = TrainingRun(config, dataclasses.replace(digits, train=turned, test=held), "cpu")
    for _ in run.epochs():
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}")
    part.write_bytes(run.weights())
    part.rename(file)
