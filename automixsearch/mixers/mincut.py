"""The labelling of a grid with the least energy, exactly, for a whole batch by one minimum cut."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

BITS = 28
"""Capacities are whole numbers up to 2**28 (times a few at one node), so that no int32 of the solver overflows."""
BLOCKS_AT_ONCE = 2048
"""Blocks in one graph: fewer repeat the cost of a call, more make every grid wait for the longest path of all."""


def least_energy_labels(unary: NDArray, below: NDArray, right: NDArray) -> NDArray[np.int64]:
    """Label every block of every grid so that the energy of each grid is as small as possible.

    Energy of labels l in 0..L-1: sum over blocks of unary[l] + sum over neighbours p, q of w (l_p - l_q)^2 / (L-1)^2.
    The pair cost is convex in l_p - l_q, so the problem is one minimum cut (Ishikawa): block p becomes L-1 nodes,
    node k on the source side meaning l_p > k; an arc (p, k) -> (q, j) of capacity w/(L-1)^2 for j = k, twice that for
    j < k, is cut once for every unit of the squared difference, and an uncuttable arc (p, k+1) -> (p, k) keeps
    the nodes of a block in order. Many grids share one source and sink. Where several labellings cost the same up to
    rounding, the lowest labels are returned.

    Solver: Dinic's algorithm in SciPy. 32 grids, 3 labels, one CPU core, ms, all included:
    2x2 0.5, 4x4 1.2, 8x8 5, 16x16 15 to 40. Tried and dropped: PyMaxflow (0.2, 0.3, 1.2, 5 to 10; the only one clearly
    faster, but GPL); fixing labels by best responses from below and above first (leaves 64 % of a 16x16 grid open);
    pushing flow between neighbours first (routes 3 % of it); up and down cuts in turn (needs several, each half
    as dear); one graph for the whole batch (16x16, batch 128: 157 ms instead of 95); two threads (the
    solver holds the interpreter lock).

    Args:
        unary: [N, H, W, L], finite; any cost over the labels, N >= 1.
        below: [N, H-1, W], w >= 0 between a block and the one below. right: [N, H, W-1], likewise to the right.

    Returns:
        [N, H, W]. Costs are rounded to 2^-28 of the largest difference in their grid.

    Source: Ishikawa, "Exact optimization for Markov random fields with convex priors", TPAMI 2003.
    """
    grids = max(1, BLOCKS_AT_ONCE // (unary.shape[1] * unary.shape[2]))
    parts = [slice(first, first + grids) for first in range(0, len(unary), grids)]
    return np.concatenate([_cut(unary[part], below[part], right[part]) for part in parts])


def _cut(unary: NDArray, below: NDArray, right: NDArray) -> NDArray[np.int64]:
    """Label the grids of one graph: a node is reached from the source if its block's label is higher."""
    graph = _graph(unary.shape)
    capacity = _capacities(unary, below, right)[graph.order]
    size = graph.nodes.size + 2
    source, sink = size - 2, size - 1
    arcs = csr_array((capacity, graph.heads, graph.starts), shape=(size, size))
    left = capacity > maximum_flow(arcs, source, sink).flow.data
    starts = np.concatenate([[0], np.cumsum(left)])[graph.starts].astype(np.int32)
    open_arcs = csr_array((np.ones(starts[-1]), graph.heads[left], starts), shape=(size, size))
    reached = np.zeros(size, bool)
    reached[breadth_first_order(open_arcs, source, return_predecessors=False)] = True
    return reached[graph.nodes].sum(-1)


class _Graph(NamedTuple):
    """nodes: [N, H, W, L-1] node numbers; source and sink follow. starts, heads: the arcs by tail, as CSR; both
    directions of each are present. order: for each arc its place in what `_capacities` returns."""

    nodes: NDArray[np.int32]
    starts: NDArray[np.int32]
    heads: NDArray[np.int32]
    order: NDArray[np.int64]


@lru_cache(maxsize=16)
def _graph(shape: tuple[int, int, int, int]) -> _Graph:
    """The arcs, which are the same for every batch of one shape."""
    levels = shape[-1] - 1
    nodes = np.arange(np.prod(shape[:-1]) * levels, dtype=np.int32).reshape(*shape[:-1], levels)
    source, sink = nodes.size, nodes.size + 1
    pairs = [(np.full_like(nodes, source), nodes), (nodes, np.full_like(nodes, sink))]
    for first, second in ((nodes[:, :-1], nodes[:, 1:]), (nodes[:, :, :-1], nodes[:, :, 1:])):
        first, second = np.broadcast_arrays(first[..., :, None], second[..., None, :])
        pairs.append((first, second))
    pairs.append((nodes[..., 1:], nodes[..., :-1]))
    tails = np.concatenate([end.ravel() for pair in pairs for end in pair])
    heads = np.concatenate([end.ravel() for pair in pairs for end in reversed(pair)])
    order = np.lexsort((heads, tails))
    starts = np.concatenate([[0], np.bincount(tails, minlength=nodes.size + 2).cumsum()])
    return _Graph(nodes, starts.astype(np.int32), heads[order], order)


def _capacities(unary: NDArray, below: NDArray, right: NDArray) -> NDArray[np.int32]:
    """The capacity of every arc, forth and back, in the order in which `_graph` makes them; each grid has its scale."""
    levels = unary.shape[-1] - 1
    rise = np.diff(unary, axis=-1)  # what the next label costs more: paid on the source side if > 0, else saved there
    none = np.zeros_like(rise)
    coupling = (np.eye(levels) + 2 * np.tril(np.ones((levels, levels)), -1)) / levels**2
    costs = [np.maximum(-rise, 0), none, np.maximum(rise, 0), none]
    for weight in (below, right):
        costs += [weight[..., None, None] * coupling, weight[..., None, None] * coupling.T]
    largest = [np.abs(rise).max((1, 2, 3))]
    largest += [4 * weight.max((1, 2), initial=0) for weight in (below, right)]
    scale = 2.0**BITS / np.maximum(np.max(largest, axis=0), np.finfo(float).tiny * 2**BITS)
    scaled = [np.rint(cost * scale.reshape(-1, *[1] * (cost.ndim - 1))).ravel() for cost in costs]
    scaled += [np.full(none[..., 1:].size, 2.0 ** (BITS + 2)), none[..., 1:].ravel()]
    return np.concatenate(scaled).astype(np.int32)
