"""Run a search: one study, from its space to its ledger, to its total number of trials."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automixsearch import __version__
from automixsearch.cluster.room import Room
from automixsearch.cluster.scratch import scratch
from automixsearch.cluster.session import check_dashboard, connect, disconnect, live_nodes, log_to
from automixsearch.config.identity import ELSEWHERE, PASSING, hash_json
from automixsearch.config.policy import methods_of
from automixsearch.config.recipe import Recipe
from automixsearch.config.space import SearchSpace
from automixsearch.config.upgrade import SCHEMA_VERSION
from automixsearch.errors import AutoMixError, ResourceError, SpecError, StudyError, remedy
from automixsearch.mixers import MIXERS
from automixsearch.results.schema import TABLES, listed
from automixsearch.results.store import Store
from automixsearch.search.failures import STORAGE_PATIENCE_S, TRIES, Place, cause_of, is_of_world
from automixsearch.search.provenance import ENTRY, described, other_data
from automixsearch.search.retention import Retention
from automixsearch.search.tidying import Tidying
from automixsearch.stopping import as_interrupt, in_background
from automixsearch.studies.design import enumerate_runs, space_of
from automixsearch.versions import versions

if TYPE_CHECKING:
    from automixsearch.cluster.room import Room
    from automixsearch.data.base import ImageSet
    from automixsearch.results.store import Store
    from automixsearch.search.designed import Designed
    from automixsearch.search.proposer import Proposer
    from automixsearch.search.task import Task
    from automixsearch.studies.design import Design
    from automixsearch.studies.file import StudyFile

COMPACT_FROM = 500
"""A study with more files than this is compacted, at the end and before it goes on: all its rows are read then."""
MOST_AT_ONCE = 10_000
"""Trials that Tune may have in hand; how many run is decided by the room there is."""


SIZES = ("backbone", "train_size", "test_size", "crop", "crop_pad")
"""The knobs that decide whether images of a size can be trained on."""


class Watcher:
    """Hears what happens in a search; this one ignores it all. See `automixsearch.watch` for one that shows it."""

    def begin(self, space: SearchSpace, done: list[dict[str, Any]]) -> None:
        """The search starts, with the rows of the trials that earlier runs finished."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def heard(self, event: str, task: Task, values: dict[str, Any]) -> None:
        """A trial had a `start`, an `epoch` (its metrics) or an `end` (its row)."""

    def end(self) -> None:
        """The search is over."""


@dataclass(frozen=True)
class SearchResult:
    """How a search ended. `place` is the study's directory or URI; `finished` trials have their row."""

    study: str
    place: str
    finished: int
    total: int
    interrupted: bool


def run_search(
    space: SearchSpace,
    results: str | Path = "results",
    address: str | None = None,
    watcher: Watcher | None = None,
    *,
    retry_failed: bool = False,
    force: bool = False,
    debug: bool = False,
    design: Design | None = None,
) -> SearchResult:
    """Run or continue the study `space.name` under `results` until it has `space.budget.trials` trials.

    Args:
        results: directory, or any URI that pyarrow can open.
        address: of a running Ray cluster (`auto` finds one on this machine); None starts one for this search.
        watcher: is told what happens.
        retry_failed: let the trials that failed run again, with the configs they had; but for those that have failed
            three times of one cause, unless `force`.
        debug: run the trials in this process, one after the other and without Ray, so that breakpoints work; none is
            stopped early.
        design: the runs, where they are known beforehand; see `run_study`.

    Raises:
        StudyError: the study belongs to another space; StudyBusy: another driver holds it.
        DataError, ResourceError: the data or the cluster do not fit.

    Examples:
        >>> from automixsearch import SearchSpace, open_study
        >>> space = SearchSpace(name="tiny", knobs={"method": "mixup", "width": 4}, budget={"trials": 1, "epochs": 1})
        >>> result = run_search(space, debug=True)
        >>> open_study(result.place).trials().state.tolist()
        ['complete']
    """
    watcher = watcher or Watcher()
    store = Store(results, space.name, STORAGE_PATIENCE_S, note=watcher.note)
    with as_interrupt(), store.lock(), _leaving_nothing_behind(store):
        store.repair()
        _refuse_other_space(store, space, design)
        space = _with_what_has_begun(store, space, watcher)
        _compact(store)
        # Reading the data and starting Ray take seconds each and wait for different things.
        loading = in_background(_prepare, space, store.shared(), design)
        if retry_failed:
            loading.result()  # where the data are refused, the ledger stays as it is
            again, left = _set_failed_free(store, space, force)
            watcher.note(f"failed trials that run again: {again}")
            if left:
                watcher.note(f"failed trials that stay so: {left}, which failed {TRIES} times of one cause; --force")
        watcher.begin(space, store.trial_rows())
        if store.left_out:
            watcher.note(f"left out as damaged: {listed(store.left_out[:3], len(store.left_out))}")
        if _is_complete(store, space):
            loading.result()
            interrupted = False
        elif debug:
            interrupted = _run_here(space, store, watcher, loading.result(), design)
        else:
            interrupted = _run(space, store, address, watcher, loading, design)
        watcher.end()
        if _is_complete(store, space):
            _compact(store)
        finished = len(store.finished())
    return SearchResult(space.name, store.uri, finished, space.budget.trials, interrupted)


def run_study(
    study: StudyFile,
    results: str | Path = "results",
    address: str | None = None,
    watcher: Watcher | None = None,
    *,
    retry_failed: bool = False,
    force: bool = False,
    debug: bool = False,
) -> SearchResult:
    """Run or continue the study of a study file until all runs of its design have ended; see `run_search`.

    Raises:
        StudyError: the study belongs to a search or another design, or no run has a score and a confirmation should
            follow.
    """
    design = enumerate_runs(study)
    more = {"retry_failed": retry_failed, "force": force, "debug": debug}
    return run_search(space_of(study, design), results, address, watcher, design=design, **more)


@contextlib.contextmanager
def _leaving_nothing_behind(store: Store) -> Iterator[None]:
    """Where a search is refused before its study exists, remove its log, so that an empty folder goes too."""
    try:
        yield
    except Exception:
        log = store.local_path("driver.log")
        if log is not None and not log.with_name("study.json").exists():
            with contextlib.suppress(OSError):  # why the search was refused matters more than what stays
                log.unlink(missing_ok=True)
        raise


def _refuse_other_space(store: Store, space: SearchSpace, design: Design | None) -> None:
    """Refuse to continue a study that was started with another space or design."""
    from automixsearch.search.designed import is_other_design, refuse_other_design

    old = store.info()
    if not old:
        return
    here, there = old.get("design"), design.content if design else None
    same = space.space_id in (old.get("space_id"), _space_id(old))
    if same and not is_other_design(here, there):
        return
    if _is_free(store):
        return
    if (here is None) != (there is None) or same:
        refuse_other_design(space.name, store.uri, here, there)
    changed = ", ".join(_differences(old.get("space") or {}, space.model_dump(mode="json"))) or "the code's defaults"
    raise StudyError(
        f"study {space.name!r} in {store.uri} was started with another space (changed: {changed}); "
        "undo the change, or give this search a name of its own with --name"
    )


def _space_id(study: Mapping[str, Any]) -> str | None:
    """The id of a study's space as this version makes it; None where it cannot be read."""
    try:
        return SearchSpace.model_validate(study.get("space")).space_id
    except (ValueError, AutoMixError):
        return None


def _is_free(store: Store) -> bool:
    """Whether nothing was ever trained under this name; what a search left that never began is removed."""
    from automixsearch.search.task import Task

    if any(store.live(table) for table in TABLES):
        return False
    for name in ["study.json", "optuna.journal", *(f"pending/{trial_id}.json" for trial_id in Task.in_flight(store))]:
        store.delete(name)
    return True


def _with_what_has_begun(store: Store, space: SearchSpace, watcher: Watcher) -> SearchSpace:
    """The space with a total of no fewer trials than were ever begun: these have happened, or go on."""
    from automixsearch.search.task import Task

    begun = len(store.finished() | set(Task.in_flight(store)))
    if begun <= space.budget.trials:
        return space
    watcher.note(f"{begun} trials have begun, more than the {space.budget.trials} asked for: no others will")
    return space.model_copy(update={"budget": space.budget.model_copy(update={"trials": begun})})


def _claim(store: Store, space: SearchSpace, design: Design | None, data: dict[str, Any]) -> None:
    """Write down what the study is about, and on which data."""
    from automixsearch.search.designed import claimed

    content = {
        "schema_version": SCHEMA_VERSION,
        "name": space.name,
        "space_id": space.space_id,
        "objective": list(space.objective),
        "total_trials": space.budget.trials,
        "space": space.model_dump(mode="json"),
        ENTRY: data,
    }
    before = store.info()
    content["environments"] = _environments(before.get("environments") or [])
    if design is not None:
        content["design"] = claimed(design.content, before.get("design"))
    store.put_document("study.json", content)


def _environments(before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The versions of Python and of the packages that decide results, of every driver that the study had."""
    here = {"automixsearch": __version__, "python": platform.python_version(), "packages": versions()}
    here = {"hash": hash_json(here), **here}
    return before if any(known["hash"] == here["hash"] for known in before) else [*before, here]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        here, there = old.get(key), new.get(key)
        elsewhere = (f"data.{name}" for name in ELSEWHERE)
        if prefix + key in (*PASSING, "budget.trials", *elsewhere):
            continue
        if isinstance(here, dict) and isinstance(there, dict):
            yield from _differences(here, there, f"{prefix}{key}.")
        elif here != there:
            yield prefix + key


def _compact(store: Store) -> None:
    if sum(len(store.live(table)) for table in TABLES) > COMPACT_FROM:
        store.compact()


def _is_complete(store: Store, space: SearchSpace) -> bool:
    return len(store.finished()) >= space.budget.trials


def _prepare(space: SearchSpace, store: Store, design: Design | None) -> ImageSet:
    """Load the data, refuse a space that cannot train on them, and only then make the study its own."""
    from automixsearch.data import load
    from automixsearch.data.base import split
    from automixsearch.training.checks import check_batches, check_network

    images = load(space.data)
    if "val_auroc" in space.objective and len(images.classes) != 2:
        raise SpecError(
            f"objective = val_auroc is of two classes, and {images.name} has {len(images.classes)}; use "
            "val_balanced_accuracy or val_macro_f1"
        )
    seeds = sorted({run.split_seed for run in design.runs}) if design else [space.seeds.split]
    splits = {seed: split(images, space.data.val_fraction, seed) for seed in seeds}
    by_name = {dimension.name: dimension for dimension in space.dimensions}

    def extremes(name: str) -> tuple[Any, ...]:
        dimension = by_name.get(name)
        return (getattr(Recipe(), name),) if dimension is None else dimension.choices or (dimension.low, dimension.high)

    for size in extremes("batch_size"):
        check_batches(int(size), min(len(made.train) for made in splits.values()), space.resources.workers)
    for chosen in itertools.product(*map(extremes, SIZES)):
        recipe = Recipe(**dict(zip(SIZES, chosen, strict=True)))
        recipe.sides(*images.train.images.shape[1:3])
        check_network(recipe, space, images)
    data = described(images, splits, space.data.path)
    if (why := other_data(store, data)) and not _is_free(store):
        raise StudyError(why)
    _claim(store, space, design, data)
    for method in space.methods:
        for name in methods_of(method):
            MIXERS[name].prepare()
    for made in splits.values():
        store.put(f"splits/{made.split_id}.json", made.to_json().encode())
    return images


def _doubts(space: SearchSpace, design: Design | None, images: ImageSet) -> list[str]:
    """What a user should know before hours are spent."""
    import numpy as np

    from automixsearch.data.base import split
    from automixsearch.show import few_images
    from automixsearch.studies.plan import config_of, method_settings, teacher_settings
    from automixsearch.training.checks import stale_teachers

    settings = method_settings(space).values() if design is None else teacher_settings(design)
    configs = [config_of(space.data, values) for values in settings]
    held = images.train.labels[split(images, space.data.val_fraction, space.seeds.split).val]
    rarest = (int(np.bincount(labels, minlength=len(images.classes)).min()) for labels in (held, images.test.labels))
    return [*few_images(*rarest), *stale_teachers(configs, len(images.train.labels), space.rungs[0])]


def _run(
    space: SearchSpace, store: Store, address: str | None, watcher: Watcher, loading: Any, design: Design | None
) -> bool:
    """Run the missing trials on Ray; return whether the user interrupted."""
    with scratch() as folder:
        log = store.local_path("driver.log") or folder / "driver.log"
        try:
            started_here = connect(space.resources, address, log, folder)
            check_dashboard(space.resources, bool(space.branches), watcher.note)
            room = Room(space.resources, live_nodes, started_here)
            room.check(space.methods)
            images = loading.result()
            if space.resources.packing == "auto":
                from automixsearch.search.memory import probe

                room.peaks = probe(space, images.fingerprint, room.need, watcher.note)
                room.check(space.methods)
            proposer = _proposer(space, store, images.fingerprint, design, log, watcher.note)
            for note in (*images.notes, *proposer.notes, *_doubts(space, design, images)):
                watcher.note(note)
            _fit(space, store, proposer, room, watcher, folder)
            _raise_problem(space, proposer)
            return not _is_complete(store, space)
        finally:
            disconnect()
            if store.local_path("driver.log") is None and log.exists():
                store.put("driver.log", log.read_bytes())


def _proposer(
    space: SearchSpace,
    store: Store,
    fingerprint: str,
    design: Design | None,
    log: Path,
    note: Callable[[str], None],
) -> Proposer | Designed:
    """Who says what is run next: a sampler, which tells the file `log` what it does, or a list."""
    workers = space.resources.workers
    if design is not None:
        from automixsearch.search.designed import Designed

        return Designed(space, store, fingerprint, workers, design=design)
    from automixsearch.search.halving import Halving
    from automixsearch.search.proposer import Proposer

    log_to(log, "optuna")  # after its import, which makes handlers of its own
    if space.scheduler.name == "asha":
        return Halving(space, store, fingerprint, workers, note=note)
    return Proposer(space, store, fingerprint, workers)


def _raise_problem(space: SearchSpace, proposer: Proposer | Designed) -> None:
    if proposer.problem is not None:
        raise StudyError(f"study {space.name}: {proposer.problem}; see why runs failed, then use --retry-failed")


def _set_failed_free(store: Store, space: SearchSpace, force: bool) -> tuple[int, int]:
    """Take the rows of failed trials out of the ledger, so that they run again.

    Returns how many, and how many were left because they have failed `TRIES` times of one cause. With `force` there are
    none, and what they have failed of is forgotten.
    """
    from automixsearch.search.task import Task

    failed = [row for row in store.trial_rows() if row["state"] == "failed"]
    again = [row for row in failed if force or (row["attempts"] or 1) < TRIES]
    for row in again:
        task = Task.of_row(row, space.branches)
        (replace(task, failures=()) if force else task).save(store)
        store.put_document(f"retried/{row['trial_id']}-{row['ended_at']:%Y%m%dT%H%M%S}.json", row)
    store.drop([row["trial_id"] for row in again])
    return len(again), len(failed) - len(again)


def _run_here(space: SearchSpace, store: Store, watcher: Watcher, images: ImageSet, design: Design | None) -> bool:
    """Run the missing trials in this process; return whether the user interrupted."""
    from automixsearch.search.trial import limit_threads, run_trial
    from automixsearch.search.trial_rows import after, failed_row
    from automixsearch.training.run import pick_device
    from automixsearch.training.world import World

    if space.resources.workers > 1:
        raise StudyError(f"debug runs trials in this process; resources.workers = {space.resources.workers} must be 1")
    limit_threads(space.resources.cpus)
    log = store.local_path("driver.log") or Path(os.devnull)
    proposer = _proposer(space, store, images.fingerprint, design, log, watcher.note)
    for note in (*images.notes, *proposer.notes, *_doubts(space, design, images)):
        watcher.note(note)
    try:
        while (task := proposer.next()) is not None:
            watcher.heard("start", task, {})
            try:
                for metrics in run_trial(store, task, pick_device(), World(), Retention.of(space)):
                    if "note" in metrics:
                        watcher.note(metrics["note"])
                    proposer.report(task.number, metrics["epoch"], metrics.get(space.objective[0]))
                    watcher.heard("epoch", task, metrics)
            except Exception as error:  # where breakpoints are, once is enough
                if is_of_world(*cause_of(error)):
                    raise _hindered(task, error) from error
                store.write_trial(failed_row(store, after(store, task, error, Place.here())))
            row = proposer.finish(task)
            watcher.heard("end", task, row or {})
    except KeyboardInterrupt:
        return True
    _raise_problem(space, proposer)
    return False


def _hindered(task: Task, error: Exception) -> AutoMixError:
    """The error that ends a search because something else than a trial's config has failed."""
    if isinstance(error, StudyError):
        return error
    what = f"{error.filename or error}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
    more = f"; {remedy(error)}" if isinstance(error, OSError) else ""
    return ResourceError(
        f"{task.trial_id} cannot go on, which is no fault of its config: {type(error).__name__}: {what}{more}; when it "
        "is mended, the same command goes on with the trial: nothing is lost"
    )


def _fit(
    space: SearchSpace,
    store: Store,
    proposer: Proposer | Designed,
    room: Room,
    watcher: Watcher,
    scratch: Path,
) -> None:
    from ray import tune

    from automixsearch.search.executors import InlineTrial, distributed_trial, held
    from automixsearch.search.forgetting import Forgetting, Silence
    from automixsearch.search.halving import Halving
    from automixsearch.search.notes import Notes, take_notes
    from automixsearch.search.scheduler import PerMethodASHA
    from automixsearch.search.searcher import Errors, StudySearcher

    scheduler = None
    if space.branches and isinstance(proposer, Halving):
        scheduler = PerMethodASHA(space, proposer.spares)
    if scheduler is not None:
        scheduler.replay(store.epoch_rows())
    distributed = space.resources.distributed
    constants = {
        "results": store.results,
        "study": store.study,
        "token": store.token,
        "workers": space.resources.workers,
        "retention": asdict(Retention.of(space)),
        "scratch": str(store.local_path("ray") or f"{store.uri}/ray"),
    }
    trainable: Any = distributed_trial if distributed else InlineTrial
    tidying = Tidying(store)

    def heard(event: str, task: Task, values: dict[str, Any]) -> None:
        watcher.heard(event, task, values)
        if event != "start":
            tidying.count()

    searcher = StudySearcher(proposer, scheduler, room, heard, watcher.note)
    tuner = tune.Tuner(
        tune.with_resources(trainable, held),
        param_space=constants,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=Forgetting(scheduler),
            num_samples=-1,
            max_concurrent_trials=MOST_AT_ONCE,  # our searcher holds trials back until there is room
            reuse_actors=not distributed,
            trial_dirname_creator=trial_name,
            trial_name_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            callbacks=[Errors(searcher), Notes(store, watcher.note), Silence()],
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        tidying.close()
        take_notes(store)  # of trials that have ended by now
    if searcher.halt is not None:
        raise searcher.halt


def trial_name(trial: Any) -> str:
    """Name a Tune trial by our id."""
    return trial.config["trial_id"]
