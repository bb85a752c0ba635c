"""The session with Ray: a cluster of our own or the one at an address, its nodes, its dashboard, what it says."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from automixsearch.cluster.room import TRIAL_SLOT
from automixsearch.cluster.switches import forget_own_cluster, is_authenticated, set_switches
from automixsearch.config.knobs import whole_number
from automixsearch.config.resources import Resources
from automixsearch.errors import ResourceError, remedy
from automixsearch.secrecy import redact
from automixsearch.stopping import has_ended, holds_up, in_background, kept

LEAST_FREE = 10_000_000
"""Bytes without which Ray does not start."""
DASHBOARD_S = 30.0
"""How long a dashboard may take to come up."""


def local_cpus() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def connect(resources: Resources, address: str | None, log: Path, folder: Path) -> bool:
    """Start a Ray cluster in this machine, or join the one at `address`; say whether it was started here.

    Ray's own messages go to the file `log`, and what a cluster of our own writes into `folder`. Such a cluster listens
    on the loopback alone, and refuses whoever lacks its token.

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
            with kept():
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
        with kept(), _own_temporary_files(folder):
            ray.init(
                address="local",
                num_cpus=local_cpus(),
                resources={TRIAL_SLOT: 1000},
                # A distributed trial that is stopped early frees its workers through the dashboard's state API only.
                include_dashboard=resources.distributed,
                dashboard_host="127.0.0.1",
                object_store_memory=128 * 1024 * 1024,
                _temp_dir=str(folder),
                **quiet,
            )
    except Exception as error:  # Ray raises it as such where its processes are not up in time
        disconnect()
        said = str(error).strip().partition("\n")[0].rstrip(".")
        raise ResourceError(
            f"Ray does not start on this machine: {said or type(error).__name__}{_remedy(error, folder)}; --debug runs "
            "trials without Ray"
        ) from None
    log_to(log, "ray")  # ray.init makes itself handlers of its own
    return True


def _remedy(error: Exception, folder: Path) -> str:
    """What to do where Ray does not start, as far as the error tells."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "; the working directory is gone: cd to one that exists"
    if shutil.disk_usage(folder).free < LEAST_FREE:
        return f"; {folder.parent} is full: free some space there, or set RAY_TMPDIR to a short path elsewhere"
    if isinstance(error, OSError) and error.errno is not None:
        return f"; {remedy(error)}"
    if re.search("time|took|within", str(error)):
        return "; the machine may be too busy: try again when it is not"
    return "; automixsearch doctor says more"


def disconnect() -> None:
    """Leave the cluster, and end it if it was started here; where Ray does not answer, it is left behind."""
    ray = sys.modules.get("ray")  # its import can have been interrupted, and fails ever after
    if ray is not None and not holds_up():
        has_ended(in_background(ray.shutdown))
    forget_own_cluster()


@contextmanager
def _own_temporary_files(folder: Path) -> Iterator[None]:
    """Let the processes that are started inside put their temporary files where they are removed with Ray's."""
    place = folder / "tmp"
    place.mkdir()
    compiled = f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}"  # worth keeping for the next search
    wanted = {"TMPDIR": str(place), "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", compiled)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


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
    if colon and (number := whole_number(port)) is not None:
        socket.create_connection((host.strip("[]"), number), timeout=10).close()


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
