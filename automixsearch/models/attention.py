"""softmax(q k^T) v for values of one channel on a CPU, in compiled code that keeps every weight in the cache.

A tile is KEYS keys by QUERIES queries; of the n x n weights no more than a tile exists at a time, and all that is done
to a weight is done while its tile is there. Threads share out the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor
from torch.autograd.function import once_differentiable

from automixsearch.native import compiled, in_threads

KEYS, QUERIES = 32, 64
"""What a tile of 32 channels needs, 36 KiB, fits the first-level cache."""
ROWS, COLUMNS, LANES = 8, 32, 16
"""Of the part of a product that is summed up in registers, two vectors a row: what most machines have room for."""
LOG2_E = np.float32(math.log2(math.e))
C0, C1, C2, C3, C4, C5 = map(np.float32, (1.0, 0.693146967, 0.240221197, 0.0555071327, 0.00967554133, 0.00132764715))
"""Of the polynomial in x whose largest relative distance from 2^x between -1/2 and 1/2 is the least: 1e-7."""
LOOSE = {"contract", "reassoc", "nsz", "arcp"}
"""Sums may be reordered; NaN and infinity stay what they are."""


def _product(columns: int, adds: bool) -> Any:
    """A function (out, a, x) for compiled code: out = a x, or out += a x, of float32 a [ROWS, m] and x [m, columns].

    Columns lie side by side in memory in `out` and `x`; m is 1 or more. Written in LLVM's language, for vectors of any
    machine: from loops of Python LLVM would make code that goes through memory for every term of a sum.
    """
    lanes = min(columns, LANES)
    vector = ir.VectorType(ir.FloatType(), lanes)
    size, byte = ir.IntType(64), ir.IntType(8).as_pointer()
    fused = ("contract",)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        arrays = [
            context.make_array(kind)(context, builder, one) for kind, one in zip(signature.args, given, strict=True)
        ]
        out, a, x = (builder.bitcast(array.data, byte) for array in arrays)
        (out_row, _), (a_row, a_step), (x_step, _) = (
            cgutils.unpack_tuple(builder, array.strides, 2) for array in arrays
        )
        steps, _ = cgutils.unpack_tuple(builder, arrays[2].shape, 2)

        def vectors(row: Any) -> list[Any]:
            places = [builder.gep(row, [size(4 * lane)]) for lane in range(0, columns, lanes)]
            return [builder.bitcast(place, vector.as_pointer()) for place in places]

        def loaded(places: list[Any]) -> list[Any]:
            return [builder.load(place, align=4) for place in places]

        def everywhere(number: Any) -> Any:
            alone = builder.insert_element(vector(ir.Undefined), number, ir.IntType(32)(0))
            return builder.shuffle_vector(alone, vector(ir.Undefined), ir.VectorType(ir.IntType(32), lanes)(None))

        rows = [vectors(builder.gep(out, [builder.mul(out_row, size(row))])) for row in range(ROWS)]
        first = [loaded(row) if adds else [vector([0.0] * lanes) for _ in row] for row in rows]
        factors = [builder.gep(a, [builder.mul(a_row, size(row))]) for row in range(ROWS)]
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        count, a_place, x_place = counters = [builder.phi(size) for _ in range(3)]
        sums = [[builder.phi(vector) for _ in row] for row in rows]
        seen, last = loaded(vectors(builder.gep(x, [x_place]))), []
        for row, factor in zip(sums, factors, strict=True):
            place = builder.bitcast(builder.gep(factor, [a_place]), ir.FloatType().as_pointer())
            number = everywhere(builder.load(place))
            terms = [builder.fmul(number, one, flags=fused) for one in seen]
            last.append([builder.fadd(one, term, flags=fused) for one, term in zip(row, terms, strict=True)])
        for counter, by in zip(counters, (size(1), a_step, x_step), strict=True):
            counter.add_incoming(size(0), before)
            counter.add_incoming(builder.add(counter, by), loop)
        for row, start, end in zip(sums, first, last, strict=True):
            for one, begin, finish in zip(row, start, end, strict=True):
                one.add_incoming(begin, before)
                one.add_incoming(finish, loop)
        builder.cbranch(builder.icmp_signed("<", builder.add(count, size(1)), steps), loop, after)
        builder.position_at_end(after)
        for row, places in zip(last, rows, strict=True):
            for one, place in zip(row, places, strict=True):
                builder.store(one, place, align=4)
        return context.get_dummy_value()

    @intrinsic
    def product(_: Any, out: Any, a: Any, x: Any) -> Any:
        return types.void(out, a, x), generate

    return product


put_product, add_product = _product(COLUMNS, adds=False), _product(COLUMNS, adds=True)
add_narrow_product = _product(8, adds=True)


@njit(inline="always", error_model="numpy", fastmath=LOOSE)
def power(x):
    """2^x, for x from -126 to 127."""
    whole = np.rint(x)
    x = x - whole
    part = np.float32(C0 + x * (C1 + x * (C2 + x * (C3 + x * (C4 + x * C5)))))
    doublings = np.int32(np.int32(whole) << np.int32(23))  # where a float32 holds its exponent
    return np.int32(part.view(np.int32) + doublings).view(np.float32)


@njit(inline="always", error_model="numpy", fastmath=LOOSE)
def take(seen, query):
    """Queries side by side, for powers of two; 0 where there are none."""
    for c in range(len(seen)):
        for i in range(len(query)):
            seen[c, i] = query[i, c] * LOG2_E
        seen[c, len(query) :] = 0


@njit(inline="always", error_model="numpy", fastmath=LOOSE)
def score(tile, key, seen):
    """tile = key seen."""
    for r in range(0, len(key), ROWS):
        for i in range(0, QUERIES, COLUMNS):
            put_product(tile[r : r + ROWS, i : i + COLUMNS], key[r : r + ROWS], seen[:, i : i + COLUMNS])


@compiled("float32[:, :, ::1], float32[:, :, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1], int64, int64",
          fastmath=LOOSE)  # fmt: skip
def _forward(query, key, value, out, total, start, step):
    images, n, channels = query.shape
    tile, seen = np.empty((KEYS, QUERIES), np.float32), np.empty((channels, QUERIES), np.float32)
    sums = np.empty((2, QUERIES), np.float32)
    for image in range(start, images, step):
        for row in range(0, n, QUERIES):
            end = min(row + QUERIES, n)
            take(seen, query[image, row:end])
            sums[:] = 0
            for first in range(0, n, KEYS):
                count = min(KEYS, n - first)
                score(tile, key[image, first : first + count], seen)
                for r in range(0, count, 4):
                    v0, v1 = value[image, first + r], value[image, first + r + 1]
                    v2, v3 = value[image, first + r + 2], value[image, first + r + 3]
                    for i in range(QUERIES):
                        w0, w1 = power(tile[r, i]), power(tile[r + 1, i])
                        w2, w3 = power(tile[r + 2, i]), power(tile[r + 3, i])
                        sums[0, i] += w0 + w1 + w2 + w3
                        sums[1, i] += w0 * v0 + w1 * v1 + w2 * v2 + w3 * v3
            total[image, row:end] = sums[0, : end - row]
            out[image, row:end] = sums[1, : end - row] / sums[0, : end - row]


@compiled("float32[:, :, ::1], float32[:, :, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1], "
          "float32[:, :, ::1], float32[:, :, ::1], float32[:, ::1], int64, int64", fastmath=LOOSE)  # fmt: skip
def _backward(query, key, value, out, share, d_query, d_key, d_value, start, step):
    images, n, channels = query.shape
    wide = channels // COLUMNS * COLUMNS
    tile, seen = np.empty((KEYS, QUERIES), np.float32), np.empty((channels, QUERIES), np.float32)
    d_seen, given = np.empty((channels, QUERIES), np.float32), np.zeros((2, QUERIES), np.float32)
    for image in range(start, images, step):
        for row in range(0, n, QUERIES):
            end = min(row + QUERIES, n)
            asked = query[image, row:end]
            take(seen, asked)
            given[:] = 0
            given[0, : end - row], given[1, : end - row] = out[image, row:end], share[image, row:end]
            d_seen[:] = 0
            for first in range(0, n, KEYS):
                count = min(KEYS, n - first)
                keys, d_keys = key[image, first : first + count], d_key[image, first : first + count]
                score(tile, keys, seen)
                for r in range(count):
                    mine, total = value[image, first + r], np.float32(0)
                    for i in range(QUERIES):
                        weight = power(tile[r, i]) * given[1, i]
                        total += weight
                        tile[r, i] = weight * (mine - given[0, i])
                    d_value[image, first + r] += total
                for c in range(0, channels, ROWS):
                    for i in range(0, QUERIES, COLUMNS):
                        here = slice(i, i + COLUMNS)
                        add_product(d_seen[c : c + ROWS, here], keys[:, c : c + ROWS].T, tile[:count, here])
                for r in range(0, count, ROWS):
                    mine = tile[r : r + ROWS]
                    for c in range(0, wide, COLUMNS):
                        here = slice(c, c + COLUMNS)
                        add_product(d_keys[r : r + ROWS, here], mine, asked[:, here])
                    for c in range(wide, channels, 8):
                        here = slice(c, c + 8)
                        add_narrow_product(d_keys[r : r + ROWS, here], mine, asked[:, here])
            for i in range(end - row):
                for c in range(channels):
                    d_query[image, row + i, c] = d_seen[c, i]


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
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, out, total = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        _in_threads(_backward, query, key, value, out, grads[0].squeeze(2) / total, d_query, d_key, d_value)
        return d_query, d_key, d_value[:, :, None]


def _in_threads(function: Callable[..., None], *tensors: Tensor) -> None:
    arrays, count = [tensor.detach().numpy() for tensor in tensors], torch.get_num_threads()
    in_threads(count, lambda start: function(*arrays, start, count))
