"""Halving on top of a sampler: configs are trained on short complete schedules first, and the best again, longer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from automixsearch.config.points import suggest, whole
from automixsearch.config.space import SearchSpace
from automixsearch.results.documents import stored_config
from automixsearch.results.exports import Recorder
from automixsearch.search.proposers.optuna_trials import OptunaTrials, Row, at_rung, with_knobs
from automixsearch.search.proposers.promotion import Candidate, Move, Promotion
from automixsearch.search.proposers.samplers import active_part, sobol_point
from automixsearch.search.proposers.sampling import priors
from automixsearch.search.task import Task, trial_id_of

if TYPE_CHECKING:
    from automixsearch.config.knobs import Scalar
    from automixsearch.results.store import Store

log = logging.getLogger("ray.automixsearch")  # goes where Ray's messages go, into the log of the study


class Halving:
    """Hands out the trials of a search with `scheduler: asha`: new configs and promotions, as `Promotion` says.

    Each training of a config is a trial of its own. With `rungs: cooldown` every trial is a config of its own, which
    `PerMethodASHA` may stop; here it is its turn that counts.

    Optuna hears of a trial what it had at the end of its schedule or after a cool-down, never what it had on the way.
    """

    problem = None
    """Nothing can end it early."""

    def __init__(
        self, space: SearchSpace, store: Store, fingerprint: str, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.space, self.store, self.note = space, store, note
        self.metric = space.objective[0]
        self.sign = space.sign
        self.trials = OptunaTrials(space, store, fingerprint, self._values)
        self.priors, problems = priors(space)
        methods, rungs = space.methods, 1 if space.branches else len(space.rungs)
        self.promotion = Promotion(
            methods,
            rungs,
            space.scheduler.reduction,
            space.budget.trials,
            space.scheduler.protect,
            0 if space.fidelity is None else space.fidelity.anchors,
        )
        self._replay()
        if len(methods) * rungs > self.promotion.protected:
            problems.append(
                f"{len(methods)} methods at {rungs} rungs take {len(methods) * rungs} trials, more "
                f"than the {self.promotion.protected} in which each should reach the full schedule; raise the trials"
            )
        self.notes = self.trials.notes + ([] if self.trials.handed_out else problems)

    def _replay(self) -> None:
        """Let `promotion` know what earlier drivers did."""
        columns = ["number", "trial_id", "state", "method", "rung", "candidate", self.metric]
        past: dict[int, Row] = {row["number"]: row for row in self.store.trial_rows(columns)}
        for number in self.trials.unfinished:
            task = Task.load(self.store, trial_id_of(number))
            if task is not None:
                past[number] = task.row("running")
        for _, row in sorted(past.items()):
            self._begun(row)
            if row["state"] != "running":
                self._ended(row)
        self._judge()

    def _begun(self, row: Row) -> None:
        candidate, rung = row["candidate"] or row["trial_id"], row["rung"] or 0
        self.promotion.begin(candidate, row["number"], row["method"], rung)

    def _ended(self, row: Row) -> None:
        value = row[self.metric] if row["state"] != "failed" else None
        score = None if value is None else self.sign * value
        self.promotion.end(row["candidate"] or row["trial_id"], row["rung"] or 0, score)

    # Proposing -------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether trials will follow that cannot be named before others have ended."""
        return self.trials.handed_out < self.space.budget.trials

    def next(self) -> Task | None:
        """The next trial to run; None where there is none, or (see `waiting`) none yet."""
        if not self.trials.unfinished and self.waiting and self.promotion.next(self.trials.handed_out) is None:
            return None
        return self.trials.next(self._ask)

    def again(self, task: Task) -> None:
        """Hand out a trial once more, before any other."""
        self.trials.unfinished.insert(0, task.number)

    def _ask(self, number: int) -> Task:
        move = self.promotion.next(number) or Move(0)
        if move.candidate is None:
            trial, values = self.trials.propose(number, self._point(move.method))
            full = self.trials.task(number, values)
        else:
            row = self.store.trial_row(move.candidate)
            assert row is not None  # what waits has ended
            config = stored_config(row["config"], f"study {self.store.study}, trial {row['trial_id']}")
            values = whole(self.space, config.knobs)
            recorder = Recorder(values)
            suggest(self.space, recorder)
            trial, _ = self.trials.propose(number, recorder.params)
            full = replace(self.trials.task(number, values), config=with_knobs(config, values))
        task = at_rung(self.space, full, move.rung, move.candidate or full.trial_id)
        for name, value in (("config_id", task.config.config_id), ("rung", task.rung), ("candidate", task.candidate)):
            trial.set_user_attr(name, value)
        task.save(self.store)
        self._begun(task.row("running"))
        return task

    def _point(self, turn: str | None) -> dict[str, Scalar] | None:
        """What is given of a new config: a prior that is not tried yet, the method whose turn it is, or nothing."""
        first = self.promotion.methods[0]
        tried = dict.fromkeys(self.promotion.methods, 0)
        for point in self.priors:
            method = str(point.get("method", first))
            tried[method] += 1
            if method == (turn or method) and tried[method] > self.promotion.count(method):
                return point if len(tried) == 1 else {**point, "method": method}
        given: dict[str, Scalar] = {} if turn is None or len(tried) == 1 else {"method": turn}
        if self.space.sampler.name == "sobol":
            return active_part(self.space, sobol_point(self.space, len(self.promotion.candidates)) | given)
        return given or None

    # Telling ---------------------------------------------------------------------------------------------------

    def report(self, number: int, epoch: int, value: float | None) -> None:
        """Nothing: what a trial has on its way is not compared."""

    def _values(self, rows: Sequence[Row]) -> dict[str, dict[int, float]]:
        """What may be compared of ended trials: after their cool-downs, or at the end of their schedules."""
        values = {}
        for row in rows:
            cooled = self._cooled(row["trial_id"], "epoch") if self.space.branches else {}
            last = row[self.metric] if row["state"] != "failed" and row["epochs_run"] else None
            counts = last is not None and (row["state"] == "complete" or not self.space.branches)
            values[row["trial_id"]] = cooled | ({row["epochs_run"]: last} if counts else {})
        return values

    def _cooled(self, trial_id: str, by: str) -> dict[int, float]:
        """The scores of the cool-downs of a trial, by `epoch` or `rung`."""
        name = f"{self.metric}.cooled"
        rows = self.store.epoch_rows(trial_id)
        return {row[by]: row[name] for row in rows if row["rung"] is not None and row[name] is not None}

    def finish(self, task: Task) -> dict[str, Any] | None:
        """Tell Optuna the end of a trial as its ledger row has it; None where there is no row."""
        row = self.trials.end(task)
        if row is not None:
            self._ended(row)
            self._judge()
        return row

    # Whether the rungs tell anything ---------------------------------------------------------------------------

    def spares(self, trial_id: str) -> bool:
        """Whether a trial must not be stopped, whatever its rank."""
        return bool(self.promotion.stopped) or not self.promotion.judged

    def _judge(self) -> None:
        """When all anchors have ended: whether halving goes on. The same anchors give the same answer always."""
        demand = self.space.fidelity
        anchors = None if self.promotion.judged or demand is None else self.promotion.anchored()
        if anchors is None or demand is None:
            return
        import numpy as np

        from automixsearch.analysis.fidelity import rank_correlation

        rungs, full = [], self.space.budget.epochs
        for rung, epochs in enumerate(self.space.rungs[:-1]):
            pairs = [pair for one in anchors if (pair := self._pair(one, rung)) is not None]
            rho = rank_correlation(*np.array(pairs).T) if pairs else None
            low, high = (rho.low, rho.high) if rho else (float("nan"), float("nan"))
            what = f"rank correlation of {epochs} with {full} epochs over {len(pairs)} configs: "
            what += f"{rho.value:.2f} ({low:.2f} to {high:.2f})" if rho and low == low else "it cannot be told"
            rungs.append((low, what))
        self.promotion.judged = True
        poor = [what for low, what in rungs if not low >= demand.min_lower_bound]
        if poor:
            self.promotion.stopped = (
                f"{poor[0]}; the lower end is not {demand.min_lower_bound:g} or more: halving stops, and every further "
                "config is trained in full"
            )
        verdict = self.promotion.stopped or f"{'; '.join(what for _, what in rungs)}: halving goes on"
        self.note(verdict)
        log.info(verdict)
        content = self.store.info()
        content["halving"] = {"stopped": bool(poor), "why": verdict}
        self.store.put_document("study.json", content)

    def _pair(self, one: Candidate, rung: int) -> tuple[float, float] | None:
        """The scores of an anchor at a rung and in full."""
        scores, last = one.scores, one.scores[self.promotion.top]
        if self.space.branches:
            scores = {r: self.sign * value for r, value in self._cooled(one.name, "rung").items()}
        return (scores[rung], last) if rung in scores else None
