"""What several test modules share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden():
    """Read a golden file by name: a dict of arrays."""
    folder = Path(__file__).parent / "golden"

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / f"{name}.npz") as file:
            return {key: file[key] for key in file.files if key != "meta_json"}

    return read


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Losses are asserted to many digits: sums must not depend on the number of cores."""
    import torch

    torch.set_num_threads(1)
