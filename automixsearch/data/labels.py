"""Which training images keep their labels: a share of each class, a number of each class, or a published list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.config.knobs import whole_number
from automixsearch.data.base import drawn
from automixsearch.data.files import read_bytes
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.config.data import Data


def kept(
    labels: np.ndarray, classes: Sequence[str], data: Data, where: str, paths: Sequence[str] | None = None
) -> np.ndarray:
    """The training images that `data.labels` keeps: sorted int64 indices into `labels`, int64 [N].

    A fraction keeps ceil(fraction n) images of a class of n, as the published 15, 30 and 50 % lists of CUB-200,
    FGVC-Aircraft and Stanford Cars do; an integer keeps as many of each class. Which: the first of a permutation of
    each class, drawn class by class from one PCG64 generator seeded with `data.labels_seed`, so that a smaller share
    lies within a larger one. A list holds one image in each line: its index from 0, or its file name where `paths`
    are given; words after the name are not read.

    Raises:
        DataError: a class has too few images; the list cannot be read, or a line is no image, or one for a second time.
    """
    if data.labels is None:
        return np.arange(len(labels))
    if isinstance(data.labels, str):
        return _listed(Path(data.labels), len(labels), where, paths)
    counts = np.bincount(labels, minlength=len(classes))
    if isinstance(data.labels, int):
        take = [data.labels] * len(counts)
        for few in np.flatnonzero(counts < data.labels)[:1]:
            raise DataError(
                f"{where} (training part): class {classes[few]!r} has {counts[few]} image(s), and data.labels="
                f"{data.labels} asks for as many of each; lower it"
            )
    else:
        share = Fraction(str(data.labels))  # as written: 0.07 of 100 are 7, though 0.07 * 100 is a little more
        take = [math.ceil(share * int(count)) for count in counts]
    if data.labels_draw == "released":
        return _released(labels, take, data.labels_seed)
    return np.flatnonzero(drawn(labels, take, data.labels_seed))


def _released(labels: np.ndarray, take: Sequence[int], seed: int) -> np.ndarray:
    """Of each class so many images: those that the released code of semi-supervised learning draws with a seed.

    Source: TorchSSL at f26e1d4.
    """
    generator = np.random.RandomState(seed)
    chosen = [
        generator.choice(np.flatnonzero(labels == label), count, replace=False) for label, count in enumerate(take)
    ]
    return np.sort(np.concatenate(chosen))


def _listed(path: Path, total: int, where: str, paths: Sequence[str] | None) -> np.ndarray:
    """The images that the lines of a file name."""
    try:
        lines = [line.strip() for line in read_bytes(path).decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise DataError(f"{path}: the list of data.labels cannot be read: {reason}; check the path") from None
    named: dict[str, list[int]] = {}
    for i, image in enumerate(paths or ()):
        named.setdefault(image.rpartition("/")[2], []).append(i)
    first: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if line.isdecimal():
            index = whole_number(line)
            found = [index] if index is not None and index < total else []
        else:
            found = []
            for name in (line, line.split()[0]):  # a name may hold spaces, or be followed by a label
                same = named.get(name.rpartition("/")[2], [])
                found = found or [i for i in same if paths and f"/{paths[i]}".endswith(f"/{name}")]
        if len(found) != 1:
            forms = f"an index from 0 to {total - 1}" + (", or the name of a file" if paths else "")
            what = f"fits {len(found)} training images" if found else f"must be {forms} of the training part"
            raise DataError(f"{path} line {number}: {line!r} {what} of {where}; correct the list")
        if found[0] in first:
            raise DataError(f"{path} line {number}: {line!r} is listed in line {first[found[0]]} too; remove one")
        first[found[0]] = number
    if not first:
        raise DataError(f"{path}: lists no image; data.labels needs one in each line")
    return np.array(sorted(first), np.int64)
