"""Two-level factorials: all combinations of parts that are on or off, or a balanced fraction, and what it cannot tell.

Source: Box, Hunter & Hunter, Statistics for Experimenters, ch. 6. The generators of fractions are searched here: those
of pyDOE 1.6 and pyDOE3 1.6 for resolution V have resolution IV for 7 and 8 factors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product


def fraction(factors: int, resolution: str | int) -> list[tuple[bool, ...]]:
    """Rows of a two-level factorial: all, or the smallest fraction of at least a resolution."""
    generators = [] if resolution == "full" else find_generators(factors, int(resolution))
    own = factors - len(generators)
    rows = []
    for base in product((False, True), repeat=own):
        # With -1 and +1 a generated column is the product of those of its word.
        made = [sum(not base[place] for place in range(own) if word >> place & 1) % 2 == 0 for word in generators]
        rows.append((*base, *made))
    return rows


def find_generators(factors: int, resolution: int) -> list[int]:
    """Generators of the smallest 2^(k-p) design of at least a resolution, with few short words.

    The last p factors are each the product of a set of the first k - p, given as bits. The least aliased choice of all
    is taken (minimum aberration, Fries & Hunter 1980): the fewest words of length 4, then of 5, ...

    Args:
        factors: k, 1 to 10. resolution: 4 or 5.
    """
    for own in range(1, factors):
        extra = factors - own
        words = [word for word in range(1, 1 << own) if word.bit_count() >= resolution - 1]
        best: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        for chosen in _searched(words, extra):
            lengths = [word.bit_count() for word in defining_relation(list(chosen), own)]
            if min(lengths) >= resolution:
                found = (tuple(lengths.count(length) for length in range(resolution, factors + 1)), chosen)
                best = min(best, found) if best else found
        if best is not None:
            return list(best[1])
    return []


MOST_TRIED = 20_000
"""Choices of generators that are compared; for up to 8 factors that is all of them."""


def _searched(words: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    # Long words first: where not all can be tried, the good ones have been.
    ordered = sorted(words, key=lambda word: (-word.bit_count(), word))
    for number, chosen in enumerate(combinations(ordered, count)):
        if number == MOST_TRIED:
            return
        yield chosen


def defining_relation(generators: Sequence[int], own: int) -> list[int]:
    """All words of a fraction, as bits over its factors: products of columns that are constant."""
    words = [word | 1 << (own + place) for place, word in enumerate(generators)]
    found = []
    for count in range(1, len(words) + 1):
        for chosen in combinations(words, count):
            product_of = 0
            for word in chosen:
                product_of ^= word
            found.append(product_of)
    return found


def aliases(factors: Sequence[str], resolution: str | int) -> dict[str, list[str]]:
    """For each main effect and two-way interaction, what it cannot be told from, up to two factors."""
    if resolution == "full":
        return {}
    generators = find_generators(len(factors), int(resolution))
    relation = defining_relation(generators, len(factors) - len(generators))
    effects = [1 << place for place in range(len(factors))]
    effects += [one | other for one, other in combinations(effects, 2)]
    known = set(effects)

    def name(effect: int) -> str:
        return ":".join(factor for place, factor in enumerate(factors) if effect >> place & 1)

    return {
        name(effect): sorted(name(effect ^ word) for word in relation if effect ^ word in known) for effect in effects
    }
