"""Which input every block of every output shows: the problem of Co-Mixup, solved by sweeps that Numba compiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from automixsearch.native import compiled as _compiled

Weights = tuple[float, float, float]
"""Smoothness, diversity, threshold."""
SOFT_INPUTS = 3
"""Half-and-half labels are offered for so many of the inputs that an output shows most."""
ENOUGH = 1e-12
"""What a change has to gain, so that rounding cannot turn it back and forth."""


@_compiled("float64(float64[:, ::1], float64[:, ::1], int64, int64[::1])")
def _energy(unary, pair, side, labels):
    energy = 0.0
    for block in range(labels.size):
        label = labels[block]
        energy += unary[block, label]
        if block % side > 0:
            energy += pair[label, labels[block - 1]]
        if block >= side:
            energy += pair[label, labels[block - side]]
    return energy


@_compiled("float64(float64[:, ::1], float64[:, ::1], int64, int64[::1])")
def _improve(unary, pair, side, labels):
    """Give whole rows and columns their best labels (by dynamic programming, the rest given) until none changes.

    Returns the energy.
    """
    kinds = unary.shape[1]
    cost, came = np.empty((side, kinds)), np.empty((side, kinds), np.int64)
    energy, before = _energy(unary, pair, side, labels), np.inf
    while energy < before - ENOUGH:
        before = energy
        for line in range(2 * side):  # the rows, then the columns
            along, across = (1, side) if line < side else (side, 1)
            at = line % side  # its place among its like
            for place in range(side):
                block = at * across + place * along
                for label in range(kinds):
                    total = unary[block, label]
                    if at > 0:
                        total += pair[label, labels[block - across]]
                    if at < side - 1:
                        total += pair[label, labels[block + across]]
                    if place > 0:
                        least, which = np.inf, 0
                        for other in range(kinds):
                            reached = cost[place - 1, other] + pair[label, other]
                            if reached < least:
                                least, which = reached, other
                        total += least
                        came[place, label] = which
                    cost[place, label] = total
            label = 0
            for other in range(1, kinds):
                if cost[side - 1, other] < cost[side - 1, label]:
                    label = other
            for place in range(side - 1, -1, -1):
                labels[at * across + place * along] = label
                if place > 0:
                    label = came[place, label]
        energy = _energy(unary, pair, side, labels)
    return energy


@_compiled("float64(float64[:, ::1], float64[:, ::1], int64, int64[::1], boolean)")
def _label(unary, pair, side, best, thorough):
    """Write labels of small energy into `best`, whatever it holds; returns the energy.

    Starts: every block for itself; thorough: also every block for itself without one label, and one label everywhere.
    """
    blocks, kinds = unary.shape
    labels = np.empty(blocks, np.int64)
    least = np.inf
    for start in range(2 * kinds + 1 if thorough and kinds > 1 else 1):
        without = (start - 1) // 2 if start % 2 == 1 else -1
        for block in range(blocks):
            labels[block] = 0 if without != 0 else 1
            for label in range(kinds):
                if label != without and unary[block, label] < unary[block, labels[block]]:
                    labels[block] = label
            if start > 0 and start % 2 == 0:
                labels[block] = start // 2 - 1
        energy = _improve(unary, pair, side, labels)
        if energy < least - ENOUGH:
            least = energy
            for block in range(blocks):
                best[block] = labels[block]
    return least


@_compiled("float64(float64[:, ::1], float64[:, ::1], int64, int64[::1], int64[::1], int64[::1], float64[:, ::1])")
def _settle(unary, pair, side, labels, first, second, toll):
    """Relabel single blocks until none gains; returns the energy, tolls included.

    toll[k, h]: what showing h half blocks of input k costs beside `unary`. Label l is half first[l], half second[l].
    """
    blocks, kinds = unary.shape
    count = np.zeros(toll.shape[0], np.int64)
    for block in range(blocks):
        count[first[labels[block]]] += 1
        count[second[labels[block]]] += 1
    changed = True
    while changed:
        changed = False
        for block in range(blocks):
            old, column = labels[block], block % side
            count[first[old]] -= 1
            count[second[old]] -= 1
            least, here, best = np.inf, 0.0, old
            for label in range(kinds):
                cost = unary[block, label]
                if column > 0:
                    cost += pair[label, labels[block - 1]]
                if column < side - 1:
                    cost += pair[label, labels[block + 1]]
                if block >= side:
                    cost += pair[label, labels[block - side]]
                if block < blocks - side:
                    cost += pair[label, labels[block + side]]
                a, c = first[label], second[label]
                if a == c:
                    cost += toll[a, count[a] + 2] - toll[a, count[a]]
                else:
                    cost += toll[a, count[a] + 1] - toll[a, count[a]]
                    cost += toll[c, count[c] + 1] - toll[c, count[c]]
                if label == old:
                    here = cost
                if cost < least:
                    least, best = cost, label
            if least >= here - ENOUGH:
                best = old
            changed = changed or best != old
            labels[block] = best
            count[first[best]] += 1
            count[second[best]] += 1
    energy = _energy(unary, pair, side, labels)
    for k in range(toll.shape[0]):
        energy += toll[k, count[k]]
    return energy


@_compiled("float64(float64, float64, boolean)")
def _charged(used, threshold, excess):
    """How many of `used` blocks are charged: none up to the threshold; then all, or (excess) those above it."""
    if used <= threshold:
        return 0.0
    return used - threshold if excess else used


@_compiled("float64[::1](float64[:, ::1], int64, float64, boolean)")
def _charges(shown, output, threshold, excess):
    """For every input, the blocks of it that the other outputs show, if above the threshold, else 0.

    Gradual: only those above the threshold.
    """
    charges = np.zeros(shown.shape[1])
    for k in range(charges.size):
        for other in range(shown.shape[0]):
            if other != output:
                charges[k] += shown[other, k]
        charges[k] = _charged(charges[k], threshold, excess)
    return charges


@_compiled("float64[::1](float64[:, ::1], float64[:, ::1], int64, float64[::1], boolean)")
def block_prices(alike, shown, output, weights, excess):
    """What a block of each input costs `output` for being shown elsewhere, to first order: 2 gamma A charges.

    shown[j, k]: blocks of output j that show input k. weights: smoothness, diversity gamma, threshold.
    """
    charges = _charges(shown, output, weights[2], excess)
    prices = np.zeros(charges.size)
    for k in range(charges.size):
        for other in range(charges.size):
            prices[k] += 2 * weights[1] * alike[k, other] * charges[other]
    return prices


@_compiled("void(float64[:, ::1], int64, int64, float64[::1], boolean, float64[::1])")
def _tolls(shown, output, k, weights, excess, toll):
    """What 0, 1, 2 ... half blocks of input k in `output` add to the diversity term of all outputs, exactly."""
    others = 0.0
    for other in range(shown.shape[0]):
        if other != output:
            others += shown[other, k]
    price = weights[1] * _charged(others, weights[2], excess)
    for half in range(toll.size):
        toll[half] = price * half / 2
    for other in range(shown.shape[0]):
        part = shown[other, k]
        if other != output and part > 0:
            for half in range(toll.size):
                toll[half] += weights[1] * _charged(others - part + half / 2, weights[2], excess) * part


@_compiled(
    "float64(float64[:, ::1], float64[:, ::1], int64, float64[::1], boolean, int64, float64[:, ::1], "
    "int64[:, ::1], int64[:, ::1], int64, int64, int64[::1], int64[::1])"
)
def _relabel(cost, alike, side, weights, excess, sweep, shown, one, two, output, gone, first, second):
    """Find labels for one output, the others given; they are written into `first` and `second`. Returns their energy.

    Sweep 0: only whole inputs, from nothing, diversity to first order. Then half-and-half labels too, and from
    these labels as well as from the present ones single blocks are changed with the exact diversity term. Input `gone`
    may not be shown (-1: all may).
    """
    inputs, blocks = cost.shape
    prices = block_prices(alike, shown, output, weights, excess)
    room = inputs + SOFT_INPUTS * SOFT_INPUTS + blocks
    left, right = np.empty(room, np.int64), np.empty(room, np.int64)
    kinds = 0
    least = np.full(blocks, np.inf)
    for k in range(inputs):
        if k != gone:
            for block in range(blocks):
                least[block] = min(least[block], cost[k, block] + prices[k])
    for k in range(inputs):
        useful = False  # where the best input is cheaper by four unlike neighbours, this one cannot be better
        for block in range(blocks):
            useful = useful or cost[k, block] + prices[k] <= least[block] + 4 * weights[0]
        if useful and k != gone:
            left[kinds] = right[kinds] = k
            kinds += 1
    if sweep > 0:
        most = np.full(SOFT_INPUTS, -1)
        for rank in range(SOFT_INPUTS):
            for k in range(inputs):
                taken = k == gone or shown[output, k] == 0
                for before in range(rank):
                    taken = taken or most[before] == k
                if not taken and (most[rank] < 0 or shown[output, k] > shown[output, most[rank]]):
                    most[rank] = k
            for before in range(rank):
                if most[rank] >= 0:
                    left[kinds], right[kinds] = min(most[before], most[rank]), max(most[before], most[rank])
                    kinds += 1
    present = np.zeros(blocks, np.int64)
    if sweep > 0 and gone < 0:
        for block in range(blocks):
            label = 0
            while label < kinds and (left[label] != one[output, block] or right[label] != two[output, block]):
                label += 1
            if label == kinds:
                left[kinds], right[kinds] = one[output, block], two[output, block]
                kinds += 1
            present[block] = label

    unary, pair = np.empty((blocks, kinds)), np.empty((kinds, kinds))
    for label in range(kinds):
        a, c = left[label], right[label]
        for block in range(blocks):
            unary[block, label] = (cost[a, block] + cost[c, block] + prices[a] + prices[c]) / 2
        for other in range(kinds):  # half the squared distance of the shares
            i, j = left[other], right[other]
            common = (a == i) + (a == j) + (c == i) + (c == j)
            pair[label, other] = weights[0] * (2 + (a == c) + (i == j) - common) / 4
    labels = np.empty(blocks, np.int64)
    energy = _label(unary, pair, side, labels, sweep == 0)

    if sweep > 0:
        toll = np.zeros((inputs, 2 * blocks + 1))
        known = np.zeros(inputs, np.bool_)
        charges = _charges(shown, output, weights[2], excess)
        for label in range(kinds):
            for k in (left[label], right[label]):
                if not known[k]:
                    known[k] = True
                    _tolls(shown, output, k, weights, excess, toll[k])
                for block in range(blocks):
                    unary[block, label] -= weights[1] * alike[k, k] * charges[k]  # the tolls say it exactly
        energy = _settle(unary, pair, side, labels, left, right, toll)
        if gone < 0:
            now = _settle(unary, pair, side, present, left, right, toll)
            if now <= energy:
                energy, labels = now, present
    for block in range(blocks):
        first[block], second[block] = left[labels[block]], right[labels[block]]
    return energy


@_compiled("boolean(float64[:, ::1], int64, int64[::1], int64[::1])")
def _repeats(shown, output, first, second):
    """Whether these labels of `output` show exactly the inputs that another output shows."""
    used = np.zeros(shown.shape[1], np.bool_)
    for block in range(first.size):
        used[first[block]] = used[second[block]] = True
    for other in range(shown.shape[0]):
        same = other != output
        for k in range(used.size):
            same = same and used[k] == (shown[other, k] > 0)
        if same:
            return True
    return False


@_compiled(
    "void(float64[:, ::1], float64[:, ::1], int64, float64[::1], boolean, boolean, int64, int64[:, ::1], int64[:, ::1])"
)
def _sweep(cost, alike, side, weights, excess, resolve, sweeps, one, two):
    """Improve the labels of one part in place; block p of output j is half one[j, p], half two[j, p]."""
    inputs, blocks = cost.shape
    shown = np.zeros((inputs, inputs))
    for output in range(inputs):
        for block in range(blocks):
            shown[output, one[output, block]] += 0.5
            shown[output, two[output, block]] += 0.5
    found, trial = np.empty((2, blocks), np.int64), np.empty((2, blocks), np.int64)
    used = np.zeros(inputs, np.bool_)
    settled = False
    for sweep in range(sweeps):
        last = settled or sweep == sweeps - 1
        settled = True
        for output in range(inputs):
            least = np.inf
            for gone in range(-1, inputs):  # all inputs; if the output repeats another, without each that it uses
                if gone >= 0 and not used[gone]:
                    continue
                energy = _relabel(
                    cost, alike, side, weights, excess, sweep, shown, one, two, output, gone, trial[0], trial[1]
                )
                repeats = last and resolve and _repeats(shown, output, trial[0], trial[1])
                if gone < 0 or (energy < least and not repeats):
                    least = np.inf if gone < 0 else energy
                    found, trial = trial, found
                if gone < 0:
                    used[:] = False
                    for block in range(blocks if repeats else 0):
                        used[found[0, block]] = used[found[1, block]] = True
            for block in range(blocks):
                for old, new in ((one[output, block], found[0, block]), (two[output, block], found[1, block])):
                    settled = settled and old == new
                    shown[output, old] -= 0.5
                    shown[output, new] += 0.5
                one[output, block], two[output, block] = found[0, block], found[1, block]
        if last:
            break


def label_grid(unary: NDArray, pair: NDArray) -> NDArray[np.int64]:
    """Labels [b, b] of small energy: sum of unary[p, l_p] over blocks + pair[l_p, l_q] over neighbours.

    Args:
        unary: finite [b, b, L]. pair: [L, L], symmetric, 0 between equal labels.
    """
    side, _, kinds = unary.shape
    labels = np.empty(side * side, np.int64)
    flat = np.ascontiguousarray(unary, np.float64).reshape(-1, kinds)
    _label(flat, np.ascontiguousarray(pair, np.float64), side, labels, True)
    return labels.reshape(side, side)


def objective(cost: NDArray, one: NDArray, two: NDArray, weights: Weights, *, excess: bool = False) -> float:
    """The objective of labels [n, b, b], see `assign_inputs`."""
    smoothness, diversity, threshold = weights
    share = (np.eye(len(cost))[one] + np.eye(len(cost))[two]) / 2  # [n, b, b, n]
    shown = share.sum((1, 2))
    others = shown.sum(0) - shown
    charged = np.maximum(others - threshold, 0) if excess else np.where(others > threshold, others, 0)
    jumps = sum((np.diff(share, axis=axis) ** 2).sum() for axis in (1, 2))
    return float((cost.transpose(1, 2, 0) * share).sum() + smoothness / 2 * jumps + diversity * (charged * shown).sum())


def assign_inputs(
    cost: NDArray,
    alike: NDArray,
    start: NDArray,
    weights: Weights,
    *,
    excess: bool = False,
    resolve: bool = True,
    sweeps: int = 4,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every block of every output, the inputs one and two of which it is made half and half: two [n, b, b].

    Sought is a small value of: sum of the costs shown + smoothness/2 sum over neighbours |z - z'|^2 + diversity sum_jk
    [o_jk > threshold] o_jk n_jk, for the share z_jk of input k in a block of output j, its sum n_jk over the blocks and
    o_jk = sum of n_ik over i != j. Every sweep labels each output in turn, the others given:

    * Sweep 0 replaces the diversity term by its linear form of the authors, 2 gamma A (o [o > threshold]) per block,
      and minimises over whole inputs (`label_grid`).
    * Later sweeps also offer half and half of the three inputs that the output shows most, and from two starts, that
      minimum (found less thoroughly) and the present labels, change single blocks while the true objective (plus the
      linear form of what A says about different inputs) falls.
    * The last sweep, `resolve`: an output with just the inputs of another is labelled without one of its own.

    The linear form alone, as released, misses what an output does to the outputs that show its inputs already: all
    turn to the same free inputs, and away again. Least, median and greatest objective on the golden problems, 6 random
    starts of the authors, 40 here: 10 images, 4 x 4 blocks: -10.0, 4.1, 18.5; here -10.4, -10.2, -9.0. 6 images, 8 x 8:
    -7.2, -6.8, 24.3; here -8.1, -7.5, 1.4. Outputs then show more inputs (2.7 and 3.2 instead of 2.2).

    Numba, because every output depends on the one before: a part of 16 images takes 1 ms with 4 x 4 blocks, 3 to 5 ms
    with 8 x 8 (one core); its 64 labellings leave 16 us for each, about ten calls of NumPy. Tried and dropped: the
    thorough labelling in every sweep (five times as long, no better), exchanging blocks, changing whole labels, leaving
    an overcharged input (no better), the true objective from sweep 0 on (far worse for 6 and 10 images: a random start
    has every input overcharged). The first import on a machine compiles (6 s of one core); later ones take 0.7 s.

    Args:
        cost: finite [n, b, b]. alike: [n, n]. start: [n, b, b], 0 to n - 1.
        weights: smoothness, diversity, threshold in blocks.
        excess: o - threshold instead of o is charged above the threshold.
    """
    inputs, side, _ = cost.shape
    one = np.array(start, np.int64).reshape(inputs, side * side)
    two = one.copy()
    flat = np.ascontiguousarray(cost, np.float64).reshape(inputs, side * side)
    alike = np.ascontiguousarray(alike, np.float64)
    _sweep(flat, alike, side, np.array(weights, np.float64), excess, resolve, sweeps, one, two)
    return one.reshape(cost.shape), two.reshape(cost.shape)
