"""Ray's switches. They are read when ray is imported, so this module must come first and import none of it."""

from __future__ import annotations

import os
from pathlib import Path

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


def set_switches(address: str | None) -> None:
    """Set Ray's switches for a cluster of our own, or for the one at `address`; what the user has set stays."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    if address is not None and _has_token():
        # Without this a client of Ray 2.60 keeps the token to itself and is turned away.
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _has_token() -> bool:
    places = (os.environ.get("RAY_AUTH_TOKEN_PATH"), Path.home() / ".ray" / "auth_token")
    return "RAY_AUTH_TOKEN" in os.environ or any(place and Path(place).is_file() for place in places)
