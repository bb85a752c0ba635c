"""Which config is trained next, and at which rung: successive halving that promotes, inside each method.

Pure arithmetic on what was handed out and how it ended, in whatever order: a study that goes on decides as one that was
never interrupted.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left, insort
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Move:
    """What to train next, at `rung`: a known `candidate`, or a new config, of `method` where it is that one's turn."""

    rung: int
    candidate: str | None = None
    method: str | None = None


@dataclass
class Candidate:
    """A config on its way: the rung of its latest training, and its score at each rung where it has one.

    Scores are the larger the better.
    """

    name: str
    number: int
    method: str
    rung: int
    running: bool = True
    failed: bool = False
    scores: dict[int, float] = field(default_factory=dict)

    def waits_at(self, rung: int) -> bool:
        """Whether it could be promoted from there."""
        return self.rung == rung and not self.running and not self.failed


class Promotion:
    """Asynchronous successive halving (ASHA) with pauses instead of stops, and with protected methods.

    A config waits at its rung until it is among the best 1 / reduction of its method's that ended there; promotions
    come before new configs, those to higher rungs first. Until `protect` of the trials are handed out, the methods take
    turns with new configs, and as many trials are kept back as every method needs to bring its best config to the last
    rung. What would be begun too late to get there is not begun: the best that waits goes on instead.

    The first `anchors` configs are trained at every rung. Until it is known what they show (`judged`), no other is
    promoted by its rank; `stopped` says why none ever will be: then all are trained at the last rung at once.

    Source: Li et al., arXiv 1810.05934, algorithm 2.
    """

    def __init__(
        self,
        methods: tuple[str, ...],
        rungs: int,
        reduction: int,
        trials: int,
        protect: float = 0.0,
        anchors: int = 0,
    ) -> None:
        self.methods, self.top, self.reduction, self.trials = methods, rungs - 1, reduction, trials
        self.protected, self.anchors = math.ceil(protect * trials), anchors
        self.judged, self.stopped = anchors == 0, ""
        self.candidates: dict[str, Candidate] = {}
        self._of: dict[str, list[Candidate]] = {method: [] for method in methods}
        self._begun: dict[tuple[str, int], int] = {}
        self._ranks: dict[tuple[str, int], list[tuple[float, int]]] = {}
        self._waiting: dict[tuple[str, int], list[tuple[float, int, str]]] = {}

    # What has happened -------------------------------------------------------------------------------------------

    def begin(self, candidate: str, number: int, method: str, rung: int) -> None:
        """Trial `number` trains a candidate, a new one or a known one, at a rung."""
        known = self.candidates.get(candidate)
        if known is None:
            known = self.candidates[candidate] = Candidate(candidate, number, method, rung)
            self._of.setdefault(method, []).append(known)
        known.rung, known.running = rung, True
        self._begun[method, rung] = self._begun.get((method, rung), 0) + 1

    def end(self, candidate: str, rung: int, score: float | None) -> None:
        """The training of a candidate at a rung has ended; None: it has failed, and the candidate is out."""
        one = self.candidates[candidate]
        one.running = False
        if score is None or not math.isfinite(score):
            one.failed = True
            return
        one.scores[rung] = score
        key = one.method, rung
        insort(self._ranks.setdefault(key, []), (-score, one.number))
        if rung < self.top:
            heapq.heappush(self._waiting.setdefault(key, []), (-score, one.number, candidate))

    def anchored(self) -> list[Candidate] | None:
        """The anchors that reached the last rung, when all have ended; None before."""
        first = self._anchors()
        if len(first) < self.anchors or any(not one.failed and self.top not in one.scores for one in first):
            return None
        return [one for one in first if self.top in one.scores]

    def _anchors(self) -> list[Candidate]:
        return sorted(self.candidates.values(), key=lambda one: one.number)[: self.anchors] if self.anchors else []

    def count(self, method: str) -> int:
        """Configs of a method so far."""
        return len(self._of[method])

    # What follows ------------------------------------------------------------------------------------------------

    def next(self, spent: int) -> Move | None:
        """What comes after `spent` trials; None: wait until one of those that run has ended."""
        left = self.trials - spent
        if self.stopped:
            early = next((one for rung in reversed(range(self.top)) for one in self._best_waiting(rung)), None)
            return Move(self.top, method=self._turn(spent)) if early is None else Move(self.top, early.name)
        if not self.judged:
            anchor = min((one for one in self._anchors() if self._waits(one)), key=_age, default=None)
            if anchor is not None:
                return _up(anchor)
        needs = {method: self._need(method) for method in self.methods} if spent < self.protected else {}
        if needs and sum(needs.values()) >= self.protected - spent and any(needs.values()):
            return self._needed(needs)
        for rung in reversed(range(self.top if self.judged else 0)):
            ready = [one for one in self._best_waiting(rung) if self._is_promoted(one)]
            if ready:
                return _up(min(ready, key=self._fewest))
        if left <= self.top:
            for rung in reversed(range(self.top)):
                if found := self._best_waiting(rung):
                    return _up(min(found, key=self._fewest))
        return Move(max(0, self.top + 1 - left), method=self._turn(spent))

    def _waits(self, one: Candidate) -> bool:
        return one.rung < self.top and one.waits_at(one.rung)

    def _turn(self, spent: int) -> str | None:
        """The method of the next new config: the one with the fewest; None where that is the sampler's to say."""
        if spent >= self.protected and len(self.candidates) >= self.anchors:
            return None
        return min(self.methods, key=self.count)

    def _need(self, method: str) -> int:
        """Trials that a method still needs until a config of its has begun at the last rung."""
        if not self._of[method]:
            return self.top + 1
        return self.top - max((one.rung for one in self._of[method] if not one.failed), default=self.top)

    def _needed(self, needs: dict[str, int]) -> Move | None:
        """The next step of a method that has not reached the last rung: first configs first, then the longest way."""
        for method in self.methods:
            if needs[method] and not self._of[method]:
                return Move(0, method=method)
        for rung in range(self.top):
            for one in self._best_waiting(rung):
                if needs[one.method] == self.top - rung:
                    return _up(one)
        return None

    def _best_waiting(self, rung: int) -> list[Candidate]:
        """The best config that waits at a rung, of each method that has one."""
        found = []
        for method in self._of:
            heap = self._waiting.get((method, rung), [])
            while heap and not self.candidates[heap[0][2]].waits_at(rung):  # promoted meanwhile
                heapq.heappop(heap)
            if heap:
                found.append(self.candidates[heap[0][2]])
        return found

    def _is_promoted(self, one: Candidate) -> bool:
        ranks = self._ranks[one.method, one.rung]
        return bisect_left(ranks, (-one.scores[one.rung], one.number)) < len(ranks) // self.reduction

    def _fewest(self, one: Candidate) -> tuple[int, int]:
        """Methods are not compared by their scores: the one with the fewest at the next rung comes first."""
        return self._begun.get((one.method, one.rung + 1), 0), one.number


def rehearsed(made: Promotion, seed: int = 0, stopped: bool = False) -> dict[tuple[str, int], int]:
    """How many trials of each method there are at each rung once all are handed out, with scores by chance.

    The trials run one after the other; where the sampler says which method is next, it is the one with the fewest
    configs. stopped: whether the anchors end the halving.
    """
    chance = random.Random(seed)
    for spent in range(made.trials):
        if not made.judged and made.anchored() is not None:
            made.judged, made.stopped = True, "rehearsed" if stopped else ""
        move = made.next(spent) or Move(0)
        name = move.candidate or f"c{spent}"
        known = made.candidates.get(name)
        method = known.method if known else move.method or min(made.methods, key=made.count)
        made.begin(name, spent, method, move.rung)
        made.end(name, move.rung, chance.random())
    return dict(made._begun)


def _up(one: Candidate) -> Move:
    return Move(one.rung + 1, one.name)


def _age(one: Candidate) -> tuple[int, int]:
    return -one.rung, one.number
