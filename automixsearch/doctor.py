"""Checks of the machine that a search would run on, each with a remedy."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from automixsearch import __version__
from automixsearch.errors import StudyError

FREE_GIB = 5


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, whether it will do, and what to do where it will not.

    needed: a search cannot run without it.
    """

    name: str
    found: str
    ok: bool = True
    remedy: str = ""
    needed: bool = True


def checks(results: str, ray: bool = True) -> Iterator[Check]:
    """Check versions, processors, GPU, disk, write access and, with `ray`, the start of a cluster."""
    yield _python()
    yield from _packages()
    yield _cores()
    yield _safely("GPU", _gpu)
    yield _safely("disk", lambda: _disk(results))
    yield _safely("cache", _cache)
    yield _safely("write access", lambda: _write(results))
    if ray:
        yield _safely("Ray start", _ray)


def _safely(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # whatever is broken here is what the user wants to know
        return Check(name, f"{type(error).__name__}: {error}", False, "see the message; reinstall the package it names")


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}, automixsearch {__version__}"
    return Check("Python", found, (3, 11) <= sys.version_info[:2] <= (3, 13), "use Python 3.11, 3.12 or 3.13")


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in requires("automixsearch") or ()]
    except PackageNotFoundError:
        yield Check("packages", "automixsearch is not installed", False, "pip install -e .")
        return
    found, problems = [], []
    for requirement in declared:
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        found.append(f"{requirement.name} {have}")
        if not requirement.specifier.contains(have, prereleases=True):
            problems.append(f"{requirement.name} {have} does not satisfy {requirement.specifier}")
    remedy = "pip install --upgrade -e . in the environment of automixsearch"
    yield Check("packages", "; ".join(problems) or ", ".join(found), not problems, remedy)


def _cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    return Check("processors", f"{cores} usable", cores >= 2, "one trial runs at a time; 2 or more help", needed=False)


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        free = torch.cuda.mem_get_info()[0] / 2**30
        return Check("GPU", f"{', '.join(names)}; {free:.0f} GiB free on the first")
    remedy = "none is needed for small data; with one, check its driver: nvidia-smi"
    return Check("GPU", "none that torch can use; trials run on the CPU", False, remedy, needed=False)


def _disk(results: str) -> Check:
    place = next(path for path in [Path(results).absolute(), *Path(results).absolute().parents] if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    return Check("disk", f"{free:.0f} GiB free at {place}", free >= FREE_GIB, "free some, or use --results elsewhere")


def _cache() -> Check:
    from automixsearch.data import cache

    place = cache.folder()
    if place is None:
        return Check("cache", f"off ({cache.VARIABLE}=off): every process decodes its images into its own memory")
    found = cache.entries(place)
    there = next(path for path in (place, *place.parents) if path.exists())
    size = sum(entry.size for entry in found) / 1e9
    text = f"{len(found)} sets of images, {size:,.1f} GB, at {place}"
    remedy = f"set {cache.VARIABLE} to a directory that you can write to"
    return Check("cache", text, there.is_dir() and os.access(there, os.W_OK), remedy, needed=False)


def _write(results: str) -> Check:
    from automixsearch.results.store import Store

    store = Store(results, f"doctor-{os.getpid()}")
    try:
        store.put("probe", b"x")
        back = store.get("probe")
        store.delete("probe")
    except StudyError as error:
        return Check("write access", str(error), False, "use --results with a place you can write to")
    finally:
        local = store.local_path("probe")
        if local is not None and local.parent.is_dir():
            shutil.rmtree(local.parent, ignore_errors=True)
    return Check("write access", f"{results} can be written", back == b"x", "use --results elsewhere")


def _ray() -> Check:
    from automixsearch.cluster.scratch import scratch
    from automixsearch.cluster.session import connect, disconnect
    from automixsearch.config.resources import Resources

    started = time.monotonic()
    with scratch() as folder:
        connect(Resources(), None, folder / "ray.log", folder)
        import ray

        try:
            total = ray.cluster_resources()
        finally:
            disconnect()
    found = f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs in {time.monotonic() - started:.1f} s"
    return Check("Ray start", found)
