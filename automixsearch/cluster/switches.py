"""Ray's switches. They are read when ray is imported, so this module must come first and import none of it."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path
from typing import Any

from automixsearch.errors import ResourceError

SWITCHES = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # A study never goes on from Tune's snapshots, and what they write of each trial is kept in memory for good.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A worker's report waits for the controller's next poll: the default of 2 s would be felt by short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
}


LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes a cluster that Ray starts listen on the loopback alone, as it does by itself on Windows and macOS; Ray turns
a node address of 127.0.0.1 into that of the network."""
_ours: dict[str, str] = {}
"""What was set for a cluster of our own, and must not reach another one."""


def set_switches(address: str | None) -> None:
    """Set Ray's switches for a cluster of our own, or for the one at `address`; what the user has set stays.

    A cluster of our own listens on the loopback alone and wants a token, which only the processes that it starts know.

    Raises:
        ResourceError: others can read the file with the token of the cluster at `address`.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    if address is None:
        wanted = {"RAY_AUTH_MODE": "token", **LOOPBACK}
        if os.environ.get("RAY_AUTH_MODE", "token") == "token":
            wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        for name, value in wanted.items():
            if name not in os.environ:
                os.environ[name] = _ours[name] = value
    else:
        forget_own_cluster()
        if _has_token():
            # Without this a client of Ray 2.60 keeps the token to itself and is turned away.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    if "ray" in sys.modules:  # it has read them already
        _read_again()


def forget_own_cluster() -> None:
    """Take back what was set for a cluster of our own."""
    for name, value in _ours.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    _ours.clear()


def _read_again() -> None:
    from ray._private import ray_constants

    core = _core()
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.ENABLE_RAY_CLUSTER = all(os.environ.get(name, "1") in ("1", "true") for name in LOOPBACK)


def is_authenticated() -> bool:
    """Whether Ray, as it is set now, asks for a token."""
    core = _core()
    return core.get_authentication_mode() == core.AuthenticationMode.TOKEN


def _core() -> Any:
    """Ray's compiled part, which has no types."""
    import ray._raylet

    return ray._raylet


def _has_token() -> bool:
    if "RAY_AUTH_TOKEN" in os.environ:
        return True
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not file.is_file():
        return False
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise ResourceError(
            f"{file} holds a cluster's token, and others can read it; chmod 600 {file}, and make another token if "
            "others use this machine"
        )
    return True
