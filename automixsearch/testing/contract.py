"""Contracts: checks as methods, each of which says what is wrong and what to do."""

from __future__ import annotations

import dataclasses
import inspect
import math
import pickle
import random
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from automixsearch.config.knobs import Knobbed, knobs_of
from automixsearch.errors import SpecError


class ContractError(AssertionError):
    """A class breaks a rule of its contract; the message names the rule, what was seen and what to do."""


def require(condition: bool, message: str) -> None:
    """Raise `ContractError` with `message` unless `condition` holds, also where Python drops assertions."""
    if not condition:
        raise ContractError(message)


class Contract:
    """Checks of one object, as methods that pytest runs as tests: `test_...`, without arguments."""

    def check_all(self) -> None:
        """Run every check, and name all that fail in one error.

        Raises:
            ContractError: one line for each check that failed.
        """
        lines, cause = [], None
        for name in dir(self):
            if name.startswith("test_"):
                try:
                    getattr(self, name)()
                except ContractError as error:
                    lines.append(str(error))
                except Exception as error:
                    lines.append(f"{_words(name)}: {type(error).__name__}: {error}")
                    cause = cause or error
        if lines:
            raise ContractError("\n".join(lines)) from cause


def _words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def seeded(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def _states() -> dict[str, bytes]:
    return {
        "torch": torch.random.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "random": pickle.dumps(random.getstate()),
    }


@contextmanager
def no_global_randomness(of: str) -> Iterator[None]:
    """Require that what runs inside leaves the global random states of torch, NumPy and Python alone.

    Raises:
        ContractError: a state has changed; it names the library.
    """
    before = _states()
    yield
    after = _states()
    for library in before:
        require(
            before[library] == after[library],
            f"{of} draws from the global random state of {library}; draw from the generator that it is given",
        )


def reseed(seed: int) -> None:
    """Set the global random states of torch, NumPy and Python, which nothing may depend on."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def unchanged(of: str, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Require that what runs inside does not edit any of `tensors`.

    Raises:
        ContractError: values have changed; it names the tensor and how many.
    """
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    yield
    for name, tensor in tensors.items():
        count = int((tensor != before[name]).sum())
        require(
            count == 0,
            f"{of} edits {name} in place: {count} of {tensor.numel()} values have changed; work on a copy, "
            f"{name}.clone()",
        )


@contextmanager
def no_waiting(of: str, kind: type) -> Iterator[None]:
    """Require that what runs inside needs no value of a tensor without values; `kind` is the class to look at.

    Raises:
        ContractError: it does, and the host would have waited for the GPU; it names the line in the file of `kind`.
    """
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        file = inspect.getsourcefile(kind)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f" in line {frames[-1].lineno} of {file} ({frames[-1].line})" if frames else ""
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise ContractError(
            f"{of} makes the host wait for the GPU{where}: {reason}; read no values of tensors of the device (.item(), "
            "float(), if, .cpu(), boolean masks), and copy to it with non_blocking=True"
        ) from error


def check_knobs(of: Knobbed) -> None:
    """Require that a class takes its knobs and nothing else, that each is checked, and that it is frozen.

    Raises:
        ContractError: it names the knob.
    """
    kind = type(of)
    for name, knob in knobs_of(kind).items():
        wrong: Any = object() if knob.choices else math.nan
        try:
            kind(**{name: wrong})
        except SpecError as error:
            require(name in str(error), f"{kind.__name__}({name}={wrong!r}) is refused without the name of the knob")
        else:
            raise ContractError(f"{kind.__name__}({name}={wrong!r}) is not refused; call super().__post_init__()")
        for value in knob.search or ():
            kind(**{name: value})
    try:
        kind(**{"no such knob": 1})
    except TypeError:
        pass
    else:
        raise ContractError(f"{kind.__name__} takes a knob that it does not have; drop **kwargs")
    try:
        setattr(of, "name", "other")  # noqa: B010
    except dataclasses.FrozenInstanceError:
        pass
    else:
        raise ContractError(f"{kind.__name__} can be changed after it was made; put @dataclass(frozen=True) above it")
