"""`report`, `demo`, `dashboard`, `export`: what others look at, and what other tools read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automixsearch.commands.terminal import add_study, console, declare, open_named, print_frame, program, say, whole
from automixsearch.errors import AutoMixError, StudyError
from automixsearch.stopping import in_background

if TYPE_CHECKING:
    from automixsearch.report.parts import Report
    from automixsearch.results.study import Study

PORT = 8080


def report_command(args: argparse.Namespace) -> int:
    from automixsearch.report.page import write_report
    from automixsearch.report.sections import make_report

    study = open_named(args)
    report = make_report(study)
    page = write_report(report, study, args.out or _place(study))
    _say(report)
    say(f"report: {page}")
    say(f"also:   {page.with_suffix('.md')}, {page.parent / 'csv'}/, {page.parent / 'figures'}/")
    if args.open:
        _show(page)
    return 0


def _say(report: Report) -> None:
    """The question and the verdicts."""
    from rich.padding import Padding
    from rich.table import Table

    out = console()
    out.print(report.question, style="bold", highlight=False)
    table = Table.grid(padding=(0, 2))
    for verdict in report.verdicts:
        table.add_row(verdict.kind, verdict.sentence)
    out.print(Padding(table, (0, 0, 1, 0)), highlight=False)


def _place(study: Study) -> Path:
    """Where a report lies unless told: in the study's own folder, or here where the study is on remote storage."""
    inside = study.store.local_path("report")
    return inside if inside is not None else Path(f"{study.name}-report")


def _show(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        say("no browser was found here; open the file in yours")


EXAMPLE = Path(__file__).parents[1] / "example"
"""The study that comes along: study.json, trials/, epochs/, and README.md on how it was made."""
ASKED = "SELECT method, count(*) AS trials, round(avg(val_top1), 2) AS mean FROM trials GROUP BY 1 ORDER BY 3 DESC"


def demo_command(args: argparse.Namespace) -> int:
    from automixsearch.report.page import write_report
    from automixsearch.report.sections import make_report
    from automixsearch.results.study import open_study

    if not (EXAMPLE / "study.json").exists():
        raise StudyError(f"{EXAMPLE}: the example study is not there; install AutoMixSearch again")
    args.study_opened = study = open_study(EXAMPLE)
    report = make_report(study)
    page = write_report(report, study, args.out)
    out = console()
    out.print(
        f"An example that came along: small images and narrow networks, enough to see what is asked and answered, no "
        f"result about the methods. How it was made: {EXAMPLE / 'README.md'}\n",
        highlight=False,
    )
    _say(report)
    out.print(f'{program()} query {EXAMPLE} "{ASKED}"', style="dim", highlight=False)
    print_frame(out, study.query(ASKED))
    out.print(f"report: {page}\nNext:", highlight=False)
    for command, what in (
        ("best {} -n 3", "the best trials"),
        ("show {} 0", "one trial"),
        ("export {} --csv DIR", "its rows for other tools"),
        ("report STUDY", "such a report of a study of yours"),
    ):
        out.print(f"  {program()} {command.format(EXAMPLE)}    {what}", highlight=False)
    if args.open:
        _show(page)
    return 0


def dashboard_command(args: argparse.Namespace) -> int:
    study = open_named(args)
    try:
        import optuna_dashboard
    except ImportError:
        raise AutoMixError("optuna-dashboard is not installed; pip install 'automixsearch[dashboard]'") from None
    storage, source = dashboard_storage(study)
    say(f"{study.name}: {source}")
    say(f"dashboard: http://127.0.0.1:{args.port}/ (for this machine only; Ctrl-C ends it)", flush=True)
    # Its server takes an interrupt that comes while it answers for a failed answer.
    in_background(optuna_dashboard.run_server, storage, host="127.0.0.1", port=args.port).result()
    return 0


def dashboard_storage(study: Study) -> tuple[Any, str]:
    """Optuna's storage of a study, and in words where it comes from: the search's own journal, which grows while the
    search runs, else a study made of the ledger, in memory."""
    from automixsearch.results.exports import optuna_study

    study.check_comparable()
    journal = study.store.local_path("optuna.journal")
    if journal is not None and journal.exists():
        import optuna
        from optuna.storages.journal import JournalFileBackend

        return optuna.storages.JournalStorage(JournalFileBackend(str(journal))), f"the search's own journal, {journal}"
    made = optuna_study(study)
    return made._storage, f"{len(made.trials)} trials of the ledger, as they are now"


def export_command(args: argparse.Namespace) -> int:
    from automixsearch.analysis.best import best
    from automixsearch.results.exports import optuna_study, write_csv

    if not args.csv and not args.optuna and not args.policy:
        raise StudyError("nothing to export: give --csv FILE_OR_DIR, --optuna FILE, --policy TRAINER, or several")
    study = open_named(args)
    if args.policy:
        from automixsearch.deploy.lines import lines_for

        trial = args.trial
        if trial is None:
            winner = best(study, 1).winner
            if winner is None:
                raise StudyError(f"study {study.name} has no complete trial to export yet")
            trial = winner.trial_id
        print(lines_for(args.policy, study.config(trial)), end="")
    elif args.trial is not None:
        raise StudyError("--trial says whose policy --policy prints; give both, or neither")
    if args.csv:
        for file in write_csv(study, args.csv):
            say(f"csv: {file}")
    if args.optuna:
        made = optuna_study(study, args.optuna)
        say(f"optuna: {args.optuna}, study {made.study_name} with {len(made.trials)} trials")
        say(f"  optuna-dashboard {args.optuna}    to look at it")
    return 0


def add(commands: Any) -> None:
    """Declare the commands."""
    sub = declare(commands, report_command, "Write the report of a study: one HTML page, Markdown, CSV.")
    add_study(sub)
    sub.add_argument("--out", metavar="DIR", help="where it goes (report/ in the study's own folder)")
    sub.add_argument("--open", action="store_true", help="open it in a browser")

    sub = declare(
        commands, demo_command, "Report the example study that comes along, and answer some questions from it."
    )
    sub.add_argument("--out", default="demo-report", metavar="DIR", help="where the report goes (demo-report)")
    sub.add_argument("--open", action="store_true", help="open it in a browser")

    sub = declare(commands, dashboard_command, "Open Optuna's dashboard on a study.")
    add_study(sub)
    sub.add_argument("--port", type=whole(0), default=PORT, help=f"on this machine ({PORT})")

    sub = declare(commands, export_command, "Write a study for other tools.")
    add_study(sub)
    sub.add_argument("--csv", metavar="FILE_OR_DIR", help="the trials as FILE.csv, or trials.csv and epochs.csv in DIR")
    sub.add_argument("--optuna", metavar="FILE", help="an Optuna study: a journal, or SQLite for FILE.db")
    sub.add_argument(
        "--policy",
        metavar="TRAINER",
        help="print the lines that train with its policy in your own loop (python), or in "
        "that of timm, torchvision, lightning or transformers",
    )
    sub.add_argument("--trial", metavar="TRIAL", help="whose policy (the best one's)")
