"""What trials hold on a cluster, and how many of them fit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import astuple, dataclass

from automixsearch.config.resources import Resources
from automixsearch.errors import ResourceError

TRIAL_SLOT = "automix_trial"
"""Custom resource of the clusters that we start: what the driver of a distributed trial holds, since Ray refuses
trials that hold nothing and a held CPU would be missing for the workers."""

SLIVER = 0.001
"""CPUs that it holds on a cluster that somebody else started."""


MARGIN = 1.2
"""A trial is given this many times the memory that its probe has taken."""
MOST_ON_GPU = 8
"""Trials that share a GPU at most, however small they are: more only wait for one another."""
TO_COME = "to come"
"""Stands for the nodes that an autoscaler would add."""
LOOK_S = 2.0
"""Seconds for which a look at the cluster's nodes is good: they come and go."""


@dataclass(frozen=True)
class Need:
    """What one trial asks of a cluster: `held` by its own actor, and `worker` for each of `workers` beside it."""

    held: dict[str, float]
    worker: dict[str, float]
    workers: int = 0

    @property
    def parts(self) -> list[dict[str, float]]:
        """What must find a place on one node each."""
        return [self.held, *[self.worker] * self.workers]

    @property
    def total(self) -> dict[str, float]:
        """All of it."""
        return _sum(self.parts)


@dataclass(frozen=True)
class Peak:
    """The most memory that a trial has taken: `host` bytes of its process, `device` bytes of a GPU of `of` bytes."""

    host: float
    device: float = 0.0
    of: float = 0.0


def place(free: list[dict[str, float]], need: Need) -> bool:
    """Take a need away from what is `free` on each node, where all its parts fit; whether they did."""
    left = [dict(node) for node in free]
    for part in need.parts:
        node = next((node for node in left if _fits(part, node)), None)
        if node is None:
            return False
        for name, amount in part.items():
            node[name] -= amount
    free[:] = left
    return True


def _fits(part: Mapping[str, float], node: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) + 1e-9 >= amount for name, amount in part.items())


def _sum(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0.0) + amount
    return total


class Room:
    """What the trials of a search hold on a cluster, and whether there is room for one more.

    `nodes` gives the resources of each node by its id, now; they may change. `peaks`: by method, where packing is by
    measured memory.
    """

    def __init__(
        self,
        resources: Resources,
        nodes: Callable[[], dict[str, dict[str, float]]],
        own: bool = False,
        peaks: Mapping[str, Peak] | None = None,
    ) -> None:
        self.resources, self.own, self.peaks = resources, own, dict(peaks or {})
        self.avoided: set[str] = set()
        self.tight: dict[str, int] = {}
        self._look, self._looked, self._seen = nodes, -LOOK_S, {}
        total = _sum(self.nodes().values())
        self.gpus = resources.gpus
        if self.gpus == "auto":
            self.gpus = 1.0 if total.get("GPU", 0.0) >= resources.workers else 0.0

    def nodes(self, everywhere: bool = False) -> dict[str, dict[str, float]]:
        """The resources of the nodes that trials may use, those included that an autoscaler would add; everywhere: of
        all that run."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._seen, self._looked = self._look(), time.monotonic()
        if everywhere:
            return self._seen
        usable = {node: held for node, held in self._seen.items() if node not in self.avoided}
        if self.resources.most is not None and not self.own:
            total = _sum(usable.values())
            missing = {
                "CPU": self.resources.most.cpus - total.get("CPU", 0.0),
                "GPU": self.resources.most.gpus - total.get("GPU", 0.0),
            }
            # Nobody knows the shape of nodes that do not run yet; their memory is the autoscaler's business.
            usable[TO_COME] = {"memory": math.inf} | {name: max(amount, 0.0) for name, amount in missing.items()}
        return usable

    def _there(self) -> list[dict[str, float]]:
        """The resources of the nodes that run already, of those to come where none does."""
        nodes = self.nodes()
        return [held for node, held in nodes.items() if node != TO_COME or len(nodes) == 1]

    def need(self, method: str, doublings: int = 0) -> Need:
        """What a trial of a method asks for; each of `doublings` halves the neighbours that it can have."""
        resources, share = self.resources, self.resources.share(method)
        own = {"CPU": resources.cpus if share.cpus is None else share.cpus}
        own["GPU"] = self._gpus(method) if share.gpus is None else share.gpus
        own["memory"] = self._memory(method)
        own = {name: amount for name, amount in own.items() if amount}
        nodes = self._there()
        for times in range(max(doublings, self.tight.get(method, 0)), -1, -1):
            made = self._shaped({name: self._grown(name, amount, times, nodes) for name, amount in own.items()})
            if times == 0 or self.fits(made, nodes):
                return made
        raise AssertionError("unreachable")

    def _shaped(self, own: dict[str, float]) -> Need:
        if not self.resources.distributed:
            return Need(own, {})
        return Need({TRIAL_SLOT: 1.0} if self.own else {"CPU": SLIVER}, own, self.resources.workers)

    @staticmethod
    def _grown(name: str, amount: float, times: int, nodes: list[dict[str, float]]) -> float:
        """Double an amount so many times, up to all that a node has (of GPUs: to one whole)."""
        top = 1.0 if name == "GPU" else max((node.get(name, 0.0) for node in nodes), default=0.0)
        return max(amount, min(amount * 2**times, top))

    def _gpus(self, method: str) -> float:
        gpus, packing = float(self.gpus), self.resources.packing
        if not gpus or packing == "off":
            return gpus
        if isinstance(packing, int):
            return math.floor(1e4 / packing) / 1e4  # Ray counts ten-thousandths
        return gpu_share(self._peak(method))

    def _memory(self, method: str) -> float:
        packing = self.resources.packing
        if packing == "auto":
            return float(math.ceil(self._peak(method).host * MARGIN))
        if packing == "off" or self._gpus(method):
            return 0.0
        return float(
            math.floor(min((node.get("memory", 0.0) for node in self.nodes().values()), default=0.0) / packing)
        )

    def _peak(self, method: str) -> Peak:
        """What was measured of a method; of one that was not, the most of any."""
        if method in self.peaks or not self.peaks:
            return self.peaks.get(method, Peak(0.0))
        return Peak(*map(max, *map(astuple, self.peaks.values()), (0.0, 0.0, 0.0)))

    def grows(self, method: str, doublings: int) -> bool:
        """Whether a trial that has held as much as with `doublings` can be given more."""
        return self.need(method, doublings + 1) != self.need(method, doublings)

    def has_for(self, need: Need, running: Collection[Need]) -> bool:
        """Whether one more trial can run beside those that do.

        Trials of one actor are counted by the sum: one that has to wait for its node holds nothing meanwhile. Those of
        several workers get a place for every part, since what a started one lacks would never come.
        """
        concurrent = self.resources.concurrent
        if concurrent != "auto" and len(running) >= concurrent:
            return False
        nodes = list(self.nodes().values())
        if self.resources.distributed:
            free = [dict(node) for node in nodes]
            return all(place(free, one) for one in (*running, need))
        everything = _sum([*(one.held for one in running), need.held])
        return self.fits(need, nodes) and _fits(everything, _sum(nodes))

    @staticmethod
    def fits(need: Need, nodes: Iterable[Mapping[str, float]]) -> bool:
        """Whether one trial fits on these nodes when nothing else runs."""
        return place([dict(node) for node in nodes], need)

    def at_once(self, need: Need) -> int:
        """How many trials of one kind run at once when nothing else does."""
        nodes, count = [dict(node) for node in self.nodes().values()], 0
        while place(nodes, need):
            count += 1
        return count

    def check(self, methods: Iterable[str]) -> None:
        """Refuse what can never run.

        Raises:
            ResourceError: not even one trial of a method fits, or fewer than `resources.concurrent` do.
        """
        resources, most = self.resources, 0
        for method in methods:
            need = self.need(method)
            most = max(most, self.at_once(need))
            if not self.fits(need, self.nodes().values()):
                raise ResourceError(self._too_much(method, need))
        if resources.concurrent != "auto" and resources.concurrent > most:
            raise ResourceError(
                f"resources.concurrent = {resources.concurrent} trials do not fit on the cluster at once; "
                f"use at most {most}"
            )

    def _too_much(self, method: str, need: Need) -> str:
        nodes = list(self.nodes().values())
        total, asked = _sum(nodes), need.total
        scarce = min(asked, key=lambda name: total.get(name, 0.0) / asked[name])
        largest = max((node.get(scarce, 0.0) for node in nodes), default=0.0)
        have = f"the cluster has {total.get(scarce, 0.0):g}"
        if total.get(scarce, 0.0) + 1e-9 >= asked[scarce]:
            have += f", no node more than {largest:g}"
        if scarce == "memory":
            return (
                f"one trial of {method} takes {asked[scarce] / 2**30:.1f} GiB of memory, measured with a margin, and "
                f"the largest node has {largest / 2**30:.1f}; lower batch_size or width, or use packing: off"
            )
        key = f"resources.{scarce.lower()}s"
        if self.resources.share(method).cpus is not None or self.resources.share(method).gpus is not None:
            return f"one trial of {method} needs {asked[scarce]:g} {scarce} and {have}; lower resources.per_method"
        left = min(largest, total.get(scarce, 0.0) / self.resources.workers)
        left -= need.held.get(scarce, 0.0) if self.resources.distributed else 0.0
        return (
            f"one trial needs {asked[scarce]:g} {scarce} and {have}; "
            f"lower {key} or resources.workers, e.g. {key}={max(int(left * 100) / 100, 0.0):g}"
        )


def gpu_share(peak: Peak) -> float:
    """The part of a GPU that a trial holds, by the memory that it takes there."""
    share = min(1.0, max(peak.device * MARGIN / peak.of, 1 / MOST_ON_GPU)) if peak.of else 1.0
    return math.ceil(share * 1e4) / 1e4
