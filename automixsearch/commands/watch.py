"""The live view of a search: one block that is redrawn in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from automixsearch.commands.terminal import say
from automixsearch.config.space import SearchSpace
from automixsearch.search.watcher import Watcher
from automixsearch.secrecy import redact
from automixsearch.show import costs, duration, failures, policy_of, score, spent
from automixsearch.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from automixsearch.search.task import Task


SHOWN = ("state", "epochs_run", "device_s", "energy_j", "error_class", "error_message")


class Watch(Watcher):
    """Keeps the state of a search and draws it: progress, best so far, running trials, failures by cause.

    On a console that is no terminal it stays silent; with `lines` it prints a line for each trial that ends, instead.
    """

    def __init__(self, console: Console, lines: bool = False) -> None:
        self.console, self.lines = console, lines
        self.arms: Mapping[int, str] = {}
        """The arms of a study by the number of the run: what a policy does not say."""
        self.rows: list[dict[str, Any]] = []
        self.top: dict[str, Any] | None = None
        self.running: dict[str, tuple[Task, dict[str, Any]]] = {}
        self.earlier, self.live = 0, None
        self.started = self.training_since = time.monotonic()
        self.notes: list[str] = []
        self.space = SearchSpace(knobs={})
        self.last = "reading the data and starting Ray"

    def begin(self, space: SearchSpace, done: list[dict[str, Any]]) -> None:
        self.space, self.earlier = space, len(done)
        for row in done:
            self._keep(row)
        if self.lines:
            say(
                f"study {space.name}: {len(done)} of {space.budget.trials} trials are done", file=sys.stderr, flush=True
            )
        elif self.console.is_terminal and len(done) < space.budget.trials:
            from rich.live import Live

            self.live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def note(self, text: str) -> None:
        text = redact(text)
        self.notes.append(text)
        if self.lines:
            say(f"note: {text}", file=sys.stderr, flush=True)
        elif self.console.is_terminal:
            self.console.print(f"note: {text}", style="dim", highlight=False)

    def heard(self, event: str, task: Task, values: dict[str, Any]) -> None:
        if event == "end":
            self.running.pop(task.trial_id, None)
            self._keep(values)
            metric = self.space.objective[0]
            detail = values.get("error_class") or f"{metric} {score(metric, values.get(metric))}"
            self.last = f"{task.trial_id} {values['state']}: {detail}"
            if self.lines:
                policy, done = self._policy(task, values), f"{len(self.rows)} of {self.space.budget.trials}"
                say(f"{done}: {self.last}  {policy}", file=sys.stderr, flush=True)
        else:
            if event == "start" and not self.running and len(self.rows) == self.earlier:
                self.last = "starting the trials' processes"
                self.training_since = time.monotonic()
            self.running[task.trial_id] = (task, values)

    def _keep(self, row: dict[str, Any]) -> None:
        """Keep of a row what is shown; whole rows of ten thousand trials would fill the driver's memory."""
        self.rows.append({name: row.get(name) for name in SHOWN if row.get(name) is not None})
        metric = self.space.objective[0]
        if row["state"] == "complete" and row.get(metric) is not None:
            sign = self.space.sign
            if self.top is None or sign * row[metric] > sign * self.top[metric]:
                self.top = row

    def end(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def counts(self) -> dict[str, int]:
        """Trials by state."""
        found = dict.fromkeys(("complete", "pruned", "failed"), 0)
        for row in self.rows:
            found[row["state"]] += 1
        return found | {"running": len(self.running)}

    def remaining_s(self) -> float | None:
        """Seconds to the end at the pace so far, in epochs; None before the first epoch."""
        per_trial = self.space.budget.epochs
        new = sum(row.get("epochs_run") or 0 for row in self.rows[self.earlier :])
        under_way = sum(values.get("epoch", 0) for _, values in self.running.values())
        trained = new + under_way
        if not trained:
            return None
        ended = self.rows[self.earlier :]
        expected = new / len(ended) if ended else per_trial
        left = (self.space.budget.trials - len(self.rows)) * expected - under_way
        return max(left, 0) * (time.monotonic() - self.training_since) / trained

    def _policy(self, task: Task, row: Mapping[str, Any]) -> str:
        policy = policy_of(row)
        new = [part for part in self.arms.get(task.number, "").split() if "=" not in part or part not in policy.split()]
        return policy + (f" ({' '.join(new)})" if new else "")

    def costs(self) -> tuple[float, float | None]:
        """Device-seconds of all trials so far, of earlier drivers too, and joules where the devices tell."""
        return costs(self._spent())

    def _spent(self) -> list[dict[str, Any]]:
        return [*self.rows, *(values for _, values in self.running.values())]

    def best(self) -> dict[str, Any] | None:
        """The best complete trial so far, by the first objective."""
        return self.top

    def render(self) -> RenderableType:
        """The block: six lines, one for each running trial, one for each cause of failure."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        counts, total = self.counts(), self.space.budget.trials
        left = self.remaining_s()
        head = Table.grid(padding=(0, 1))
        head.add_row(
            _text(self.space.name, style="bold"),
            ProgressBar(total=total, completed=min(len(self.rows), total), width=24),
            _text(f"{len(self.rows)}/{total} trials"),
            _text(f"{counts['complete']} complete", style="green"),
            _text(f"{counts['running']} running", style="cyan"),
            _text(f"{counts['pruned']} pruned", style="yellow"),
            _text(f"{counts['failed']} failed", style="red" if counts["failed"] else "dim"),
            _text(f"{duration(time.monotonic() - self.started)}, "
                 + (f"about {duration(left)} left" if left is not None else "time left: ?"), style="dim"),
        )  # fmt: skip
        lines: list[RenderableType] = [head, self._best_line()]
        metric = self.space.objective[0]
        for trial_id, (task, values) in sorted(self.running.items())[:8]:
            policy = self._policy(task, task.row("running"))
            epoch = values.get("epoch", 0)
            now = f" {metric} {score(metric, values.get(metric))}" if metric in values else ""
            lines.append(
                _text(f"  {trial_id} {policy}: epoch {epoch}/{task.config.knobs['epochs']}{now}", style="cyan")
            )
        lines.append(_text(f"  last: {self.last}", style="dim"))
        lines.append(_text(f"  spent: {spent(self._spent())}", style="dim"))
        for count, name, first, hint in failures(self.rows):
            lines.append(_text(f"  {count} x {name}: {first}" + (f" -> {hint}" if hint else ""), style="red"))
        return Group(*lines)

    def _best_line(self) -> RenderableType:
        row, metric = self.best(), self.space.objective[0]
        if row is None:
            return _text("  best so far: none yet", style="dim")
        return _text(f"  best so far: {metric} {score(metric, row[metric])}  {row['trial_id']} {policy_of(row)}")


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(visible(text), style=style)
