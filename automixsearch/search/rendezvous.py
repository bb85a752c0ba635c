"""How the workers of a trial find each other, without a port that is open to the network.

torch's own way is a store that listens on all addresses of its machine, and hands what it holds to whoever asks.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  torch documents it there

LOOPBACK = "127.0.0.1"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""What says where workers listen for each other's tensors."""
_served: list[Any] = []
"""The store of the first worker lives as long as its process."""


class Rendezvous(TorchConfig):
    """The process group of a trial, whose store listens on the address of the first worker's node alone.

    On a cluster of our own that is the loopback, on which its workers then exchange tensors too.
    """

    @property
    def backend_cls(self) -> type:
        """What Ray Train calls to set workers up."""
        return _Backend


class _Backend(TorchConfig().backend_cls):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        size = len(worker_group)
        host, port = worker_group.execute_single(0, serve)
        ray.get(
            [
                worker_group.execute_single_async(rank, join, backend_config, host, port, rank, size)
                for rank in range(size)
            ]
        )


def serve() -> tuple[str, int]:
    """Let a store listen on this node's address in its cluster; where it does."""
    host = ray.util.get_node_ip_address()
    family = socket.getaddrinfo(host, None)[0][0]
    with socket.create_server((host, 0), family=family, backlog=128) as listening:
        port = listening.getsockname()[1]
        store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    _served.append(store)
    return host, port


def join(config: TorchConfig, host: str, port: int, rank: int, size: int) -> None:
    """Make this process the worker `rank` of `size`."""
    if host == LOOPBACK:
        for name in INTERFACES:
            os.environ.setdefault(name, "lo")
    patience = timedelta(seconds=config.timeout_s)
    store = TCPStore(host, port, timeout=patience)
    dist.init_process_group(config.backend, store=store, rank=rank, world_size=size, timeout=patience)
