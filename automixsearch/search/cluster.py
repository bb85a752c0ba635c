"""Connect to Ray, and find out how many trials fit."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from automixsearch.errors import ResourceError
from automixsearch.search.environment import forget_own_cluster, is_authenticated, set_switches
from automixsearch.secrecy import redact
from automixsearch.spec import Resources

TRIAL_SLOT = "automix_trial"
"""Custom resource of the clusters that we start: what the driver of a distributed trial holds, since Ray refuses
trials that hold nothing and a held CPU would be missing for the workers."""

SLIVER = 0.001
"""CPUs that it holds on a cluster that somebody else started."""


DASHBOARD_S = 30.0
"""How long a dashboard may take to come up."""
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


def local_cpus() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def connect(resources: Resources, address: str | None, log: Path) -> bool:
    """Start a Ray cluster in this machine, or join the one at `address`; say whether it was started here.

    Ray's own messages go to the file `log`. A cluster that is started here listens on the loopback alone, and refuses
    whoever lacks its token.

    Raises:
        ResourceError: no cluster answers at `address`, or Ray does not start here, or would start without a token
            though RAY_AUTH_MODE is not `disabled`.
    """
    if address is not None:
        try:
            reach(address)
        except OSError as error:
            raise _silent(address, error) from None
    set_switches(address)
    import ray

    log_to(log, "ray")
    quiet = {"log_to_driver": False, "logging_level": logging.INFO}
    if address is not None:
        try:
            ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise _silent(address, error) from None
        log_to(log, "ray")
        return False
    if not is_authenticated() and os.environ.get("RAY_AUTH_MODE") != "disabled":
        forget_own_cluster()
        raise ResourceError(
            f"Ray {ray.__version__} asks for no token here, so whoever reaches its ports could run anything; set "
            "RAY_AUTH_MODE=disabled to allow that, or install a version from 2.59 on"
        )
    # Asking for `local` keeps us out of a cluster that RAY_ADDRESS or another user's session points at.
    try:
        ray.init(
            address="local",
            num_cpus=local_cpus(),
            resources={TRIAL_SLOT: 1000},
            # A distributed trial that is stopped early frees its workers through the dashboard's state API only.
            include_dashboard=resources.distributed,
            dashboard_host="127.0.0.1",
            object_store_memory=128 * 1024 * 1024,
            **quiet,
        )
    except Exception as error:  # Ray raises it as such where its processes are not up in time
        disconnect()
        said = str(error).strip().partition("\n")[0]
        raise ResourceError(
            f"Ray does not start on this machine: {said.rstrip('.')}; it may be too busy: try again; automixsearch "
            "doctor says more, and --debug runs trials without Ray"
        ) from None
    log_to(log, "ray")  # ray.init makes itself handlers of its own
    return True


def disconnect() -> None:
    """Leave the cluster, and end it if it was started here."""
    import ray

    ray.shutdown()
    forget_own_cluster()


def _silent(address: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"no Ray cluster answers at address {address!r}: {error}; start one with `RAY_AUTH_MODE=token ray start "
        "--head`, or leave --address out to run on this machine"
    )


def reach(address: str) -> None:
    """Fail at once where nobody listens at host:port; Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


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


def live_nodes() -> dict[str, dict[str, float]]:
    """The resources of the nodes of the connected cluster that are alive, by id."""
    import ray

    return {node["NodeID"]: dict(node["Resources"]) for node in ray.nodes() if node["Alive"]}


def check_dashboard(resources: Resources, stops: bool, note: Callable[[str], None]) -> None:
    """Refuse early stopping of distributed trials where stopped ones would keep their resources for ever; where none
    is stopped, those that die would, of which `note` is told.

    Raises:
        ResourceError: the cluster's state API does not answer.
    """
    if not resources.distributed:
        return
    import ray
    from ray.util.state import list_placement_groups

    here = ray.get_runtime_context().gcs_address  # without it, any cluster of this machine would be asked
    until = time.monotonic() + DASHBOARD_S
    while True:
        try:
            list_placement_groups(here, limit=1)
            return
        except Exception as error:  # the state API raises many types when there is no dashboard
            if time.monotonic() < until:  # on a cluster that has just started it is not up yet
                time.sleep(1)
                continue
            if not stops:
                note(
                    "the cluster's dashboard does not answer: if the process of a trial dies, its workers' places stay "
                    "taken; start the head with --include-dashboard=true"
                )
                return
            raise ResourceError(
                "stopping trials of several workers (rungs: cooldown) needs the cluster's dashboard, which frees their "
                f"places, and it does not answer ({type(error).__name__}); start the head with "
                "--include-dashboard=true, or use rungs: schedules"
            ) from None


class _Redacting(logging.Formatter):
    """Leaves secrets out of what is written, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def log_to(log: Path, name: str) -> None:
    """Send what the imported library `name` says to a file, instead of to the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log)
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(name)
    for old in logger.handlers:
        old.close()
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # It misses files that we do not let Tune write, which would look like an error.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
