"""Run the trials of a search on a Ray cluster: connect, look for room, and let Tune run them."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from automixsearch.cluster.room import Room
from automixsearch.cluster.scratch import scratch
from automixsearch.cluster.session import check_dashboard, connect, disconnect, live_nodes
from automixsearch.errors import StudyError
from automixsearch.search.memory import probe
from automixsearch.search.proposers import make_proposer

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace
    from automixsearch.results.store import Store
    from automixsearch.search.watcher import Watcher
    from automixsearch.studies.design import Design


def run_on_ray(
    space: SearchSpace,
    store: Store,
    address: str | None,
    watcher: Watcher,
    loading: Future[tuple[str, list[str]]],
    design: Design | None,
) -> None:
    """Run the missing trials on a cluster; `loading` ends with what `prepare` returns."""
    with scratch() as folder:
        log = store.local_path("driver.log") or folder / "driver.log"
        try:
            started_here = connect(space.resources, address, log, folder)
            check_dashboard(space.resources, bool(space.branches), watcher.note)
            room = Room(space.resources, live_nodes, started_here)
            room.check(space.methods)
            fingerprint, notes = loading.result()
            if space.resources.packing == "auto":
                room.peaks = probe(space, fingerprint, room.need, watcher.note)
                room.check(space.methods)
            proposer = make_proposer(space, store, fingerprint, design, watcher.note, log)
            for note in (*notes, *proposer.notes):
                watcher.note(note)
            from automixsearch.search.tune_run import fit  # Ray reads its switches, which `connect` sets, at its import

            fit(proposer, room, watcher, folder)
            if proposer.problem is not None:
                raise StudyError(proposer.problem)
        finally:
            disconnect()
            if store.local_path("driver.log") is None and log.exists():
                store.put("driver.log", log.read_bytes())
