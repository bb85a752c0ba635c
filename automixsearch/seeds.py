"""Independent seeds for every stream of random numbers."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *path: object) -> int:
    """An independent 63-bit seed for the stream named by `path` under `seed`."""
    digest = hashlib.sha256(f"{seed}/{'/'.join(map(str, path))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
