"""Connect to Ray, and find out how many trials fit."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from automixsearch.errors import ResourceError
from automixsearch.search.environment import set_switches
from automixsearch.spec import Resources

TRIAL_SLOT = "automix_trial"
"""Custom resource of the clusters that we start: what the driver of a distributed trial holds, since Ray refuses
trials that hold nothing and a held CPU would be missing for the workers."""

SLIVER = 0.001
"""CPUs that it holds on a cluster that somebody else started."""


@dataclass(frozen=True)
class Allotment:
    """What each trial gets, and how many run at once.

    held: Ray resources of the trial's own actor. gpus: for each worker.
    """

    held: dict[str, float]
    gpus: float
    concurrent: int


def local_cpus() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def connect(resources: Resources, address: str | None, log: Path) -> bool:
    """Start a Ray cluster in this machine, or join the one at `address`; say whether it was started here.

    Ray's own messages go to the file `log`.

    Raises:
        ResourceError: no cluster answers at `address`.
    """
    set_switches(address)
    import ray

    log_to(log, "ray")
    quiet = {"log_to_driver": False, "logging_level": logging.INFO}
    if address is not None:
        try:
            _reach(address)
            ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise ResourceError(
                f"no Ray cluster answers at address {address!r}: {error}; start one with `ray start --head`, or "
                "leave --address out to run on this machine"
            ) from None
        log_to(log, "ray")
        return False
    # Asking for `local` keeps us out of a cluster that RAY_ADDRESS or another user's session points at.
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
    log_to(log, "ray")  # ray.init makes itself handlers of its own
    return True


def _reach(address: str) -> None:
    """Fail at once where nobody listens at host:port; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def allot(resources: Resources, started_here: bool) -> Allotment:
    """Decide what a trial holds and how many run at once on the connected cluster.

    Raises:
        ResourceError: not even one trial fits.
    """
    import ray

    total: dict[str, float] = dict(ray.cluster_resources())
    gpus = resources.gpus
    if gpus == "auto":
        gpus = 1.0 if total.get("GPU", 0) >= resources.workers else 0.0
    if not resources.distributed:
        held = {"CPU": resources.cpus} | ({"GPU": gpus} if gpus else {})
        need = dict(held)
    else:
        held = {TRIAL_SLOT: 1.0} if started_here else {"CPU": SLIVER}
        need = {"CPU": resources.workers * resources.cpus + held.get("CPU", 0.0)}
        need |= {"GPU": resources.workers * gpus} if gpus else {}
    fitting = {name: int(total.get(name, 0.0) / amount + 1e-9) for name, amount in need.items()}
    scarce = min(fitting, key=lambda name: fitting[name])
    if fitting[scarce] < 1:
        key = f"resources.{scarce.lower()}s"
        raise ResourceError(
            f"one trial needs {need[scarce]:g} {scarce} and the cluster has {total.get(scarce, 0):g}; "
            f"lower {key} or resources.workers, e.g. {key}={_fitting_share(total, scarce, held, resources):g}"
        )
    most = fitting[scarce]
    if resources.concurrent != "auto" and resources.concurrent > most:
        raise ResourceError(
            f"resources.concurrent = {resources.concurrent} trials need "
            f"{resources.concurrent * need[scarce]:g} {scarce} and the cluster has {total.get(scarce, 0):g}; "
            f"use at most {most}"
        )
    return Allotment(held, gpus, most if resources.concurrent == "auto" else resources.concurrent)


def _fitting_share(total: dict[str, float], name: str, held: dict[str, float], resources: Resources) -> float:
    left = total.get(name, 0.0) - (held.get(name, 0.0) if resources.distributed else 0.0)
    return int(left / resources.workers * 100) / 100


def check_dashboard(resources: Resources, stops: bool) -> None:
    """Refuse early stopping of distributed trials where stopped ones would keep their resources for ever.

    Raises:
        ResourceError: the cluster's state API does not answer.
    """
    if not resources.distributed or not stops:
        return
    from ray.util.state import list_placement_groups

    try:
        list_placement_groups(limit=1)
    except Exception as error:  # the state API raises many types when there is no dashboard
        raise ResourceError(
            "stopping trials of several workers (rungs: cooldown) needs the cluster's dashboard, which frees their "
            f"places, and it does not answer ({type(error).__name__}); start the head with "
            "--include-dashboard=true, or use rungs: schedules"
        ) from None


def log_to(log: Path, name: str) -> None:
    """Send what the imported library `name` says to a file, instead of to the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(name)
    for old in logger.handlers:
        old.close()
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # It misses files that we do not let Tune write, which would look like an error.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
