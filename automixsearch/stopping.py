"""Signals that end a command: SIGTERM and SIGHUP do what Ctrl-C does, so what is under way ends in order.

An interrupt reaches the main thread wherever it is, and code of others may swallow it there: what such code does for
long is done `in_background`, and the main thread waits.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_last: list[int] = []


@contextmanager
def as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt what runs inside, as SIGINT does, unless somebody handles or ignores them.

    In a thread, which can handle no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    terminals = [file for file in (0, 1, 2) if _is_terminal(file)]

    if taken:
        _last.clear()

    def interrupt(number: int, frame: FrameType | None) -> None:
        _last[:] = [number]
        if number == signal.SIGHUP:  # the terminal is gone, and whatever is printed there would fail
            nowhere = os.open(os.devnull, os.O_RDWR)
            for file in terminals:
                os.dup2(nowhere, file)
            os.close(nowhere)
        handler = signal.getsignal(signal.SIGINT)  # Tune has one of its own while it runs
        if callable(handler):
            handler(signal.SIGINT, frame)
        else:  # SIGINT is ignored, as in the background of a shell script
            raise KeyboardInterrupt

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def last_signal() -> int:
    """The signal that has interrupted this process last: SIGTERM, SIGHUP, or else SIGINT."""
    return _last[0] if _last else signal.SIGINT


@contextmanager
def kept() -> Iterator[None]:
    """Keep our handlers where a library inside, as Ray does, sets its own and ends the process by SystemExit.

    Processes that are started inside ignore SIGHUP, which a terminal sends to all when it closes: they have to live
    until their driver has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    except SystemExit:
        _last[:] = [signal.SIGTERM]
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_background(work: Callable[..., T], *arguments: Any, **named: Any) -> Future[T]:
    """Let a thread work, for which an interrupted command need not wait; the wait for its result can be interrupted."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work(*arguments, **named))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


def _is_terminal(file: int) -> bool:
    try:
        return os.isatty(file)
    except OSError:
        return False
