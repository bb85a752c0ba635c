"""The seal of a row file: a digest over all its other bytes, in the file itself, so that one file is one thing.

It lies before the footer, where no reader of Parquet looks, and a tool that writes the rows anew leaves it out. Whoever
reads a ledger looks at it first, so no damage, wherever it is, passes for other values. Only rows that keep every rule
of the ledger are sealed, by the function that has looked at them.
"""

from __future__ import annotations

import hashlib
import mmap
import re

_SEAL = re.compile(rb"automixsearch-v(\d{4})-sha256:([0-9a-f]{64})")
_WORDS, _HEX = b"automixsearch-v", re.compile(rb"[0-9a-f]{64}$")
SIZE = len("automixsearch-v0001-sha256:") + 64
TAIL = 64 * 1024
"""A seal within so many last bytes that is not where it belongs tells of damage too."""


class Damaged(Exception):
    """A file is not what its writer wrote, or nothing that a ledger can hold; the message says why."""


class Newer(Damaged):
    """A file was written by a later version."""


def seal(data: bytes, version: int) -> bytes:
    """A Parquet file with the seal of rows of schema `version`."""
    at = _footer(data)
    begun = data[:at] + f"automixsearch-v{version:04d}-sha256:".encode()
    return b"".join((begun, hashlib.sha256(begun + data[at:]).hexdigest().encode(), data[at:]))


def check_seal(data: bytes | mmap.mmap, version: int) -> bool:
    """Whether a file is sealed; False for those of other tools and of versions that knew no seals.

    Raises:
        Damaged: it was sealed, and is another file now. Newer: it is of a later version than `version`.
    """
    at = _footer(data)
    place = bytes(data[max(0, at - SIZE) : max(0, at)])
    found = _SEAL.fullmatch(place)
    if found is None and not (_SEAL.search(bytes(data[-TAIL:])) or place.startswith(_WORDS) or _HEX.search(place)):
        return False
    if found is None or _digest(data, at - 64, at) != found[2].decode():
        raise Damaged("is damaged: its digest is not that of its bytes")
    if int(found[1]) > version:
        raise Newer(f"has schema version {int(found[1])}; upgrade AutoMixSearch")
    return True


def _footer(data: bytes | mmap.mmap) -> int:
    """Where the footer of a Parquet file begins."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def _digest(data: bytes | mmap.mmap, start: int, end: int) -> str:
    """The digest of all bytes but those from `start` to `end`."""
    made = hashlib.sha256()
    with memoryview(data) as view, view[:start] as before, view[end:] as after:
        made.update(before)
        made.update(after)
    return made.hexdigest()
