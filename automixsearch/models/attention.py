"""softmax(q k^T) v for values of one channel on a CPU, in compiled code that keeps every weight in the cache.

A tile is QUERIES queries, side by side in the vector units, by KEYS keys; of the n x n weights no more than a tile
exists at a time, and all that is done to a weight is done while its tile is there. Threads share out the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from automixsearch.native import compiled, in_threads

KEYS, QUERIES = 8, 1568
"""Half of 56 x 56: wide tiles have fewer partial sums to add up, and what one needs fits the second-level cache."""
GAP = 16
"""Between rows: at powers of two all rows would fall on the same few places of the cache."""
LOG2_E = np.float32(math.log2(math.e))
C0, C1, C2, C3, C4, C5 = map(np.float32, (1.0, 0.693146967, 0.240221197, 0.0555071327, 0.00967554133, 0.00132764715))
"""Of the polynomial in x whose largest relative distance from 2^x between -1/2 and 1/2 is the least: 1e-7."""
LOOSE = {"contract", "reassoc", "nsz", "arcp"}
"""Sums may be reordered; NaN and infinity stay what they are."""


@njit(inline="always", error_model="numpy", fastmath=LOOSE)
def add_products(out, o, a, r, c, x, y, width):
    """out[o + n] += the sum over m < 8 of a[r + n, c + m] x[y + m], for n < 4."""
    a0, a1, a2, a3 = a[r, c], a[r, c + 1], a[r, c + 2], a[r, c + 3]
    a4, a5, a6, a7 = a[r, c + 4], a[r, c + 5], a[r, c + 6], a[r, c + 7]
    b0, b1, b2, b3 = a[r + 1, c], a[r + 1, c + 1], a[r + 1, c + 2], a[r + 1, c + 3]
    b4, b5, b6, b7 = a[r + 1, c + 4], a[r + 1, c + 5], a[r + 1, c + 6], a[r + 1, c + 7]
    c0, c1, c2, c3 = a[r + 2, c], a[r + 2, c + 1], a[r + 2, c + 2], a[r + 2, c + 3]
    c4, c5, c6, c7 = a[r + 2, c + 4], a[r + 2, c + 5], a[r + 2, c + 6], a[r + 2, c + 7]
    d0, d1, d2, d3 = a[r + 3, c], a[r + 3, c + 1], a[r + 3, c + 2], a[r + 3, c + 3]
    d4, d5, d6, d7 = a[r + 3, c + 4], a[r + 3, c + 5], a[r + 3, c + 6], a[r + 3, c + 7]
    for i in range(width):
        x0, x1, x2, x3 = x[y, i], x[y + 1, i], x[y + 2, i], x[y + 3, i]
        x4, x5, x6, x7 = x[y + 4, i], x[y + 5, i], x[y + 6, i], x[y + 7, i]
        out[o, i] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3 + a4 * x4 + a5 * x5 + a6 * x6 + a7 * x7
        out[o + 1, i] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3 + b4 * x4 + b5 * x5 + b6 * x6 + b7 * x7
        out[o + 2, i] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3 + c4 * x4 + c5 * x5 + c6 * x6 + c7 * x7
        out[o + 3, i] += d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3 + d4 * x4 + d5 * x5 + d6 * x6 + d7 * x7


@njit(inline="always", error_model="numpy", fastmath=LOOSE)
def add_dots(out, r, c, a, n, x, m, width):
    """out[r + i, c + j] += a[n + i] . x[m + j], for i, j < 4."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = np.float32(0)
    for i in range(width):
        w0, w1, w2, w3 = a[n, i], a[n + 1, i], a[n + 2, i], a[n + 3, i]
        x0, x1, x2, x3 = x[m, i], x[m + 1, i], x[m + 2, i], x[m + 3, i]
        a0, a1, a2, a3 = a0 + w0 * x0, a1 + w0 * x1, a2 + w0 * x2, a3 + w0 * x3
        b0, b1, b2, b3 = b0 + w1 * x0, b1 + w1 * x1, b2 + w1 * x2, b3 + w1 * x3
        c0, c1, c2, c3 = c0 + w2 * x0, c1 + w2 * x1, c2 + w2 * x2, c3 + w2 * x3
        d0, d1, d2, d3 = d0 + w3 * x0, d1 + w3 * x1, d2 + w3 * x2, d3 + w3 * x3
    for i, row in enumerate(((a0, a1, a2, a3), (b0, b1, b2, b3), (c0, c1, c2, c3), (d0, d1, d2, d3))):
        for j in range(4):
            out[r + i, c + j] += row[j]


@njit(inline="always", error_model="numpy", fastmath=LOOSE)
def weigh(tile, key, first, seen, width):
    """tile = 2^(key[first:] seen)."""
    tile[:] = 0
    for r in range(0, KEYS, 4):
        for c in range(0, len(seen), 8):
            add_products(tile, r, key, first + r, c, seen, c, width)
    for r in range(KEYS):
        for i in range(width):
            whole = np.rint(tile[r, i])
            x = tile[r, i] - whole
            part = np.float32(C0 + x * (C1 + x * (C2 + x * (C3 + x * (C4 + x * C5)))))
            doublings = np.int32(np.int32(whole) << np.int32(23))  # where a float32 holds its exponent
            tile[r, i] = np.int32(part.view(np.int32) + doublings).view(np.float32)


@njit(inline="always", error_model="numpy", fastmath=LOOSE)
def take(seen, query, row, width):
    """Queries row, row + 1, ... side by side, for powers of two."""
    for c in range(len(seen)):
        for i in range(width):
            seen[c, i] = query[row + i, c] * LOG2_E


@compiled("float32[:, :, ::1], float32[:, :, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1], int64, int64",
          fastmath=LOOSE)  # fmt: skip
def _forward(query, key, value, out, total, start, step):
    images, n, channels = query.shape
    room = min(n, QUERIES) + GAP
    tile, seen = np.empty((KEYS, room), np.float32), np.empty((channels, room), np.float32)
    sums, factors = np.empty((4, room), np.float32), np.zeros((4, n), np.float32)
    for image in range(start, images, step):
        factors[0], factors[1] = 1, value[image]
        for row in range(0, n, QUERIES):
            width = min(QUERIES, n - row)
            take(seen, query[image], row, width)
            sums[:] = 0
            for first in range(0, n, KEYS):
                weigh(tile, key[image], first, seen, width)
                add_products(sums, 0, factors, 0, first, tile, 0, width)
            total[image, row : row + width] = sums[0, :width]
            out[image, row : row + width] = sums[1, :width] / sums[0, :width]


@compiled("float32[:, :, ::1], float32[:, :, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1], "
          "float32[:, :, ::1], float32[:, :, ::1], float32[:, ::1], int64, int64", fastmath=LOOSE)  # fmt: skip
def _backward(query, key, value, out, share, d_query, d_key, d_value, start, step):
    images, n, channels = query.shape
    room = min(n, QUERIES) + GAP
    tile, seen = np.empty((KEYS, room), np.float32), np.empty((channels, room), np.float32)
    d_seen, given = np.empty((channels, room), np.float32), np.empty((2, room), np.float32)
    for image in range(start, images, step):
        for row in range(0, n, QUERIES):
            width = min(QUERIES, n - row)
            take(seen, query[image], row, width)
            given[0, :width], given[1, :width] = out[image, row : row + width], share[image, row : row + width]
            d_seen[:] = 0
            for first in range(0, n, KEYS):
                weigh(tile, key[image], first, seen, width)
                for r in range(KEYS):
                    mine, total = value[image, first + r], np.float32(0)
                    for i in range(width):
                        weight = tile[r, i] * given[1, i]
                        total += weight
                        tile[r, i] = weight * (mine - given[0, i])
                    d_value[image, first + r] += total
                for c in range(0, channels, 4):
                    add_products(d_seen, c, key[image].T, c, first, tile, 0, width)
                    for r in range(0, KEYS, 4):
                        add_dots(d_key[image], first + r, c, tile, r, seen, c, width)
            for i in range(width):
                for c in range(channels):
                    d_query[image, row + i, c] = d_seen[c, i]
        d_key[image] /= LOG2_E


class TiledAttention(torch.autograd.Function):
    """softmax(q k^T) v [B, n, 1], for float32 q, k [B, n, C] and v [B, n, 1].

    n and C are multiples of 8, and no q k^T is larger than 80 in size.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.squeeze(2).contiguous()
        out, total = torch.empty_like(value), torch.empty_like(value)
        _in_threads(_forward, query, key, value, out, total)
        ctx.save_for_backward(query, key, value, out, total)
        return out[:, :, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, out, total = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        _in_threads(_backward, query, key, value, out, grads[0].squeeze(2) / total, d_query, d_key, d_value)
        return d_query, d_key, d_value[:, :, None]


def _in_threads(function: Callable[..., None], *tensors: Tensor) -> None:
    arrays, count = [tensor.detach().numpy() for tensor in tensors], torch.get_num_threads()
    in_threads(count, lambda start: function(*arrays, start, count))
