"""Signals that end a command: SIGTERM and SIGHUP do what Ctrl-C does, so what is under way ends in order.

An interrupt reaches the main thread wherever it is, and code of others may swallow it there: what such code does for
long is done `in_background`, and the main thread waits.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
END_S = 12.0
"""What is under way has so long to end after an interrupt; a pod is killed 30 seconds after its SIGTERM."""
_last: list[int] = []
_left: list[Future[Any]] = []


@contextmanager
def as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt what runs inside, as SIGINT does, unless somebody handles or ignores them.

    An interrupt that would be swallowed comes a moment later. In a thread, which handles no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    plain = (signal.SIG_DFL, signal.default_int_handler)
    taken = {number: old for number in (*SIGNALS, signal.SIGINT) if (old := signal.getsignal(number)) in plain}
    terminals = [file for file in (0, 1, 2) if _is_terminal(file)]

    if taken:
        _last.clear()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _swallows(frame):
            again = threading.Timer(0.02, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        _last[:] = [number]
        if number == signal.SIGHUP:  # the terminal is gone, and whatever is printed there would fail
            nowhere = os.open(os.devnull, os.O_RDWR)
            for file in terminals:
                os.dup2(nowhere, file)
            os.close(nowhere)
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and handler is not interrupt:
            handler(signal.SIGINT, frame)
        else:  # ours, or SIGINT is ignored, as in the background of a shell script
            raise KeyboardInterrupt

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)


def _swallows(frame: FrameType | None) -> bool:
    """Whether an error that is raised in this frame is printed and forgotten, as in what the garbage collector calls:
    __del__, and the import system's callbacks, which then never let go of its lock."""
    if frame is not None and frame.f_code.co_filename == "<frozen importlib._bootstrap>":
        return True
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


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


def has_ended(work: Future[Any], seconds: float = END_S) -> bool:
    """Wait a while for work in the background; False where it goes on, and is left to end with the process."""
    if wait([work], seconds).done:
        return True
    _left.append(work)
    return False


def holds_up() -> bool:
    """Whether work that was left goes on, for which the interpreter would wait at its exit, or which would end the
    process in a way of its own: Ray does, a minute after its cluster is gone."""
    return not all(work.done() for work in _left)


def _is_terminal(file: int) -> bool:
    try:
        return os.isatty(file)
    except OSError:
        return False
