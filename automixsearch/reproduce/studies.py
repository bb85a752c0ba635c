"""Runs cells of the published tables, as studies of designs: the same driver, ledger and resume as everything else.

A column of a table (one data set, network, schedule) is one study. Its arms are the rows, its replicates seeds; every
replicate has one training seed and one validation split for all rows, so that rows are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automixsearch.config.files import build
from automixsearch.config.resources import Resources
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.reproduce.outcome import outcomes
from automixsearch.reproduce.pretrained import make_tiny
from automixsearch.reproduce.registry import Cell, find_table, select
from automixsearch.reproduce.settings import MARGIN, SHARE, Changes, Plan, plan, read_changes, study_name, trained
from automixsearch.results.store import Store
from automixsearch.search.driver import run_search
from automixsearch.seeds import derive_seed
from automixsearch.studies.design import Design, Run

if TYPE_CHECKING:
    from automixsearch.reproduce.outcome import Outcome
    from automixsearch.search.driver import SearchResult
    from automixsearch.search.watcher import Watcher

SEEDS = 3
"""Replicates where no number is given: the fewest from which an interval says anything."""


@dataclass(frozen=True)
class Column:
    """A column of a table as a study: the cells that are to be run, with all the runs that the study will have.

    done: how many of the runs have ended. wanted: how many of them belong to the cells and seeds that are asked for.
    """

    space: SearchSpace
    design: Design
    cells: tuple[Cell, ...]
    done: int
    wanted: int

    @property
    def name(self) -> str:
        return self.space.name

    @property
    def plans(self) -> dict[str, TrialConfig]:
        """The config of each row, by its name, with the seeds of the first replicate."""
        rows = {cell.row for cell in self.cells}
        first = {run.arm: run for run in self.design.runs if run.replicate == 0 and run.arm in rows}
        return {
            arm: TrialConfig.of(self.space, run.values, seed=run.seed, split_seed=run.split_seed)
            for arm, run in first.items()
        }


def reproduce(
    target: str | Sequence[Cell],
    scale: str = "tiny",
    seeds: int = SEEDS,
    results: str | Path = "results",
    address: str | None = None,
    overrides: Iterable[str] = (),
    *,
    share: float = SHARE,
    margin: float = MARGIN,
    watcher: Callable[[], Watcher] | None = None,
    retry_failed: bool = False,
    debug: bool = False,
) -> tuple[Outcome, ...]:
    """Run the cells that `target` names (`TABLE[:CELLS]`, or cells) and put them beside what was published.

    What has been run is not run again; what cannot be run says so.

    Args:
        scale: tiny, short or paper; see `SCALES`.
        seeds: replicates of every cell.
        address: of a Ray cluster; None starts one here.
        overrides: `key=value` strings such as `data.path=DIR`, or knobs by full name.
        share: of the published epochs, at scale short.
        margin: points within which a figure counts as reproduced.
        watcher: makes one for each study.
        debug: in this process, without Ray.
    """
    cells = select(target) if isinstance(target, str) else tuple(target)
    changes = read_changes(overrides)
    for result in run(cells, scale, seeds, results, address, changes, share=share, watcher=watcher,
                      retry_failed=retry_failed, debug=debug):  # fmt: skip
        if result.interrupted:
            break
    return outcomes(cells, scale, results, changes=changes, share=share, margin=margin, seeds=seeds)


def run(
    cells: Sequence[Cell],
    scale: str,
    seeds: int,
    results: str | Path,
    address: str | None,
    changes: Changes,
    *,
    share: float = SHARE,
    watcher: Callable[[], Watcher] | None = None,
    retry_failed: bool = False,
    debug: bool = False,
) -> Iterator[SearchResult]:
    """Run the studies of `cells` one after the other, yielding how each ended; what is complete is left alone."""
    found = studies(cells, scale, seeds, results, changes, share)
    if not any(column.done < column.wanted for column in found) and not retry_failed:
        return
    for column in found:
        if column.done < column.wanted or retry_failed:
            if scale == "tiny":
                for weights in sorted({str(run.values.get("weights") or "") for run in column.design.runs} - {""}):
                    make_tiny(weights)
            hears = watcher() if watcher is not None else None
            try:
                yield run_search(
                    column.space, results, address, hears, retry_failed=retry_failed, debug=debug, design=column.design
                )
            finally:
                if hears is not None:
                    hears.end()


def studies(
    cells: Sequence[Cell], scale: str, seeds: int, results: str | Path, changes: Changes, share: float = SHARE
) -> tuple[Column, ...]:
    """The studies that hold the runs of `cells`, gains by their terms, as they are after this call.

    Raises:
        SpecError: the data set needs a path, a knob is wrong, or fewer than one seed is asked for.
    """
    if seeds < 1:
        raise SpecError(f"seeds = {seeds} must be 1 or more")
    needed = dict.fromkeys(term for cell in cells for _, term in cell.terms if trained(cell) or cell.derived)
    by_study: dict[str, list[Cell]] = {}
    for cell in needed:
        if trained(cell):
            by_study.setdefault(study_name(cell, scale, changes, share), []).append(cell)
    return tuple(
        _column(name, tuple(members), scale, seeds, results, changes, share) for name, members in by_study.items()
    )


def _column(
    name: str,
    cells: tuple[Cell, ...],
    scale: str,
    seeds: int,
    results: str | Path,
    changes: Changes,
    share: float,
) -> Column:
    """The study of one column: the runs that it has, and after them those that it lacks."""
    whole = [cell for cell in find_table(cells[0].table).cells if cell.column == cells[0].column and trained(cell)]
    plans = {cell.row: plan(cell, scale, changes, share) for cell in whole}
    store = Store(results, name)
    known = store.info().get("design", {}).get("runs", [])
    listed = [(row["arm"], row["replicate"]) for row in known]
    wanted = [(cell.row, replicate) for replicate in range(seeds) for cell in cells]
    listed += [pair for pair in wanted if pair not in set(listed)]
    made = tuple(_run(number, arm, replicate, plans[arm]) for number, (arm, replicate) in enumerate(listed))
    finished = store.finished() if known else set()
    pairs = set(wanted)
    done = sum(f"t{run.number:05d}" in finished for run in made if (run.arm, run.replicate) in pairs)
    table = find_table(cells[0].table)
    about = {
        "question": f"{table.title}: are the published figures reproduced?",
        "metric": "val_top1",  # what other analyses look at; tables report test scores
        "measured": plans[cells[0].row].measured,
        "margin": MARGIN,
        "factors": {},
    }
    methods = tuple(dict.fromkeys(str(run.values["method"]) for run in made))
    design = Design("cells", about, made, (), methods, methods)
    space = _space(name, f"{table.name}, {table.paper}", list(plans.values()), len(made), changes)
    return Column(space, design, cells, done, len(pairs))


def _run(number: int, arm: str, replicate: int, chosen: Plan) -> Run:
    return Run(
        number=number,
        purpose="study",
        arm=arm,
        levels={},
        values=chosen.knobs,
        seed=derive_seed(0, "reproduce", replicate),
        split_seed=replicate,
        replicate=replicate,
        stratum=str(chosen.knobs["method"]),
    )


def _space(name: str, about: str, plans: Sequence[Plan], runs: int, changes: Changes) -> SearchSpace:
    """All that the rows of a column may be, as a space: the same one whichever of them are run."""
    values: dict[str, list[Any]] = {}
    configs = [chosen.config() for chosen in plans]
    for knob in dict.fromkeys(knob for chosen in plans for knob in chosen.knobs if knob != "epochs"):
        values[knob] = list(dict.fromkeys(config.knobs[knob] for config in configs if knob in config.knobs))
    content = {
        "name": name,
        "about": about,
        "data": dict(plans[0].data),
        "knobs": {knob: known[0] if len(known) == 1 else known for knob, known in values.items()},
        "budget": {"trials": runs, "epochs": configs[0].recipe.epochs},
        "sampler": "random",
        "purpose": "study",
        "resources": build(Resources, changes.resources, "resources").model_dump(),
    }
    space = build(SearchSpace, content, name)
    _ = space.dimensions
    return space
