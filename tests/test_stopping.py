"""SIGTERM and SIGHUP end commands as Ctrl-C does: in order, with what there is, and a status of their own."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from automixsearch.results.store import Store
from automixsearch.search.tune_interruption import Interruption
from automixsearch.stopping import as_interrupt, holds_up, kept, last_signal

SPACE = {
    "name": "s",
    "data": {"source": "digits", "val_fraction": 0.2},
    "knobs": {"method": "vanilla", "width": 2},
    "budget": {"trials": 900, "epochs": 1},
    "sampler": "random",
}
LATE = """
import sys
import automixsearch.commands.search as search
report = search.report_search
def reported(*words):
    before = set(sys.modules)
    status = report(*words)
    late = sorted(name for name in set(sys.modules) - before if name.startswith("automixsearch"))
    print("imported late:", late)
    return status
search.report_search = reported
from automixsearch.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory that may go."""
    (tmp_path / "here").mkdir()
    (tmp_path / "s.yaml").write_text(json.dumps(SPACE))
    return tmp_path / "here"


def start(folder: Path, *words: str, code: str = "", **more) -> subprocess.Popen[str]:
    command = [sys.executable, *(["-c", code] if code else ["-m", "automixsearch"]), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, cwd=folder, text=True, env=environment, **pipes)


def search(folder: Path, **more) -> subprocess.Popen[str]:
    results = str(folder.parent / "r")
    return start(folder, "search", str(folder.parent / "s.yaml"), "--results", results, "--debug", **more)


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def rows(folder: Path) -> int:
    return len(list((folder.parent / "r" / "s" / "trials").glob("t*.parquet")))


def test_a_search_ends_with_its_table_even_when_its_folder_is_gone(folder: Path) -> None:
    process = search(folder, code=LATE)
    wait_for(lambda: rows(folder) >= 1)
    shutil.rmtree(folder)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "Best of s by val_top1" in out
    assert "Stopped early; nothing is lost. To go on: automixsearch search" in out
    assert "imported late: []" in out, "where the package lies in that folder, it cannot be imported any more"
    assert "Traceback" not in errors
    assert not (folder.parent / "r" / "s" / ".lock.json").exists()
    assert len(Store(folder.parent / "r", "s").finished()) >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def test_signals_interrupt_also_where_sigint_is_ignored_and_each_time(number: signal.Signals, handler) -> None:
    """As it is in what a shell script puts into the background."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        with as_interrupt():
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    os.kill(os.getpid(), number)
            assert last_signal() == number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_what_the_garbage_collector_calls_is_not_lost(number: signal.Signals) -> None:
    """An error that is raised there is printed and forgotten; in the import system it also leaves a lock behind."""

    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0)

    def work() -> None:
        Dying()
        time.sleep(10)

    with as_interrupt():
        with pytest.raises(KeyboardInterrupt):
            work()
        assert last_signal() == number


def test_whoever_handles_sigint_hears_of_sigterm_and_nohup_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with as_interrupt(), as_interrupt():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def taken_by_a_library() -> None:
    with kept():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_library_that_takes_signals_gives_them_back() -> None:
    """Ray sets a handler that raises SystemExit, and its children get the SIGHUP of a terminal that closes."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with as_interrupt():
            ours = signal.getsignal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                taken_by_a_library()
            assert last_signal() == signal.SIGTERM
            assert signal.getsignal(signal.SIGTERM) is ours
            code = "import signal; print(signal.getsignal(signal.SIGHUP).name)"
            with kept():
                assert subprocess.check_output([sys.executable, "-c", code], text=True) == "SIG_IGN\n"
            assert signal.getsignal(signal.SIGHUP) not in (signal.SIG_IGN, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGTERM, before)


HELD_UP = """
import sys, threading, time
from automixsearch import cli
from automixsearch.stopping import has_ended, in_background
def run(args):
    has_ended(in_background(time.sleep, 60), 0.01)
    threading.Thread(target=time.sleep, args=(60,)).start()  # the interpreter would wait for it
    print("the closing table")
    return 130
cli._run = run
sys.exit(cli.main(["ls"]))
"""


def test_a_command_does_not_wait_for_what_does_not_end(folder: Path) -> None:
    started = time.monotonic()
    process = start(folder, code=HELD_UP)
    assert process.communicate(timeout=50)[0] == "the closing table\n"
    assert process.returncode == 130
    assert time.monotonic() - started < 50


def test_an_interrupt_ends_tune_before_its_next_step_and_waits_for_it() -> None:
    interruption = Interruption()
    steps: list[int] = []

    def fit() -> None:
        for step in range(1000):
            interruption.on_step_begin(step, [])
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            steps.append(step)
            time.sleep(0.02)

    with as_interrupt():
        interruption.run(fit)
    assert 0 < len(steps) < 1000
    assert not holds_up()
    with pytest.raises(ZeroDivisionError):
        Interruption().run(lambda: 1 / 0)


def test_a_search_whose_terminal_closes_lets_go_of_its_study(folder: Path) -> None:
    """Nothing can be printed any more; that is no reason to end otherwise."""
    master, slave = pty.openpty()
    process = search(folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    wait_for(lambda: rows(folder) >= 1)
    process.send_signal(signal.SIGHUP)
    os.close(master)
    assert process.wait(60) == 129
    assert not (folder.parent / "r" / "s" / ".lock.json").exists()


def test_training_ends_in_order(folder: Path) -> None:
    config = {"data": SPACE["data"], "knobs": {"width": 2, "epochs": 10_000}}
    (folder / "c.yaml").write_text(json.dumps(config))
    process = start(folder, "train", "c.yaml")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("epoch 1/")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "automixsearch: interrupted; everything reported so far is kept\n")


def test_a_working_directory_that_is_gone_is_named(folder: Path) -> None:
    code = "import os, sys; os.rmdir(os.getcwd()); from automixsearch.cli import main; sys.exit(main(sys.argv[1:]))"
    process = start(folder, "search", str(folder.parent / "s.yaml"), code=code)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (2, "automixsearch: the working directory is gone: cd to one that exists\n")
