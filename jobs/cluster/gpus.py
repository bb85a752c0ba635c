"""Ask a cluster's autoscaler for GPUs and wait for them: `python gpus.py 8`; `python gpus.py 0` lets them go.

A search counts the GPUs when it starts, and Ray starts nodes only for what already waits for them: where no node runs,
somebody has to ask first. The request stays after this program has ended, so a node that is lost is replaced; nodes
that are not asked for any more are ended when they have been idle for the time that the cluster's file says.
"""

from __future__ import annotations

import sys
import time

import ray
from ray.autoscaler.sdk import request_resources


def ask(wanted: int, patience_s: float = 3600, poll_s: float = 10) -> int:
    """Request `wanted` GPUs and wait; the exit status: 1 where they have not come, and are not asked for any more."""
    request_resources(bundles=[{"GPU": 1}] * wanted)
    until = time.monotonic() + patience_s
    while (found := ray.cluster_resources().get("GPU", 0)) < wanted:
        print(f"{found:g} of {wanted} GPUs", flush=True)
        if time.monotonic() > until:
            request_resources(bundles=[])
            print(f"they did not come in {patience_s:g} s; the request is withdrawn", flush=True)
            return 1
        time.sleep(poll_s)
    print(f"{found:g} GPUs are there" if wanted else "no GPUs are asked for", flush=True)
    return 0


if __name__ == "__main__":
    ray.init(address="auto", log_to_driver=False)
    sys.exit(ask(int(sys.argv[1])))
