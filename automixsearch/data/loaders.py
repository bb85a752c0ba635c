"""Processes that decode images beside a training.

They are programs of their own, asked over pipes, and no forks: so they can be started from anywhere (a Ray actor, a
daemonic process, a script without a main guard, a process that has CUDA and many threads), need no torch, begin in a
third of a second, and end when the process that asks them does, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BufferedReader
from typing import Any, cast

import numpy as np

from automixsearch.data.decode import opened
from automixsearch.data.rows import told
from automixsearch.errors import DataError

PIPE_BYTES = 2**20


@dataclass(frozen=True)
class Form:
    """What all images of a set become: pixels [H, W, C] = `shape`, fitted as the rest says."""

    shape: tuple[int, int, int]
    size: int | None
    resize: str
    trim: int
    orientation: str


def read(paths: Sequence[str], form: Form) -> np.ndarray:
    """Decode some image files, or rows of Parquet files (`rows`): uint8 [n, H, W, C].

    Raises:
        DataError: one is missing, corrupt, or of another size than it was.
    """
    images = np.empty((len(paths), *form.shape), np.uint8)
    height, width, channels = form.shape
    for place, path in enumerate(paths):
        image = opened(path, form, told(path)).image
        if image.size != (width, height):
            raise DataError(
                f"{told(path)}: is {image.width}x{image.height} pixels now and was {width}x{height}; restore it"
            )
        images[place] = np.asarray(image)[..., :channels]
    return images


class Coming:
    """Images that processes are decoding."""

    def __init__(self, loaders: Loaders, images: np.ndarray, parts: list[tuple[Any, int, int]]) -> None:
        self.loaders, self.images, self.parts = loaders, images, parts
        self.done, self.error = False, None

    done: bool
    error: Exception | None

    def result(self) -> np.ndarray:
        """Wait for them: uint8 [n, H, W, C].

        Raises:
            DataError: an image cannot be read any more. RuntimeError: a process has died.
        """
        self.loaders.wait_for(self)
        if self.error is not None:
            raise self.error
        return self.images


class Loaders:
    """The processes that decode the images of one set; they start when they are first asked, and may be asked for
    several batches at once: each decodes its share of every batch."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._processes: list[subprocess.Popen[bytes]] = []
        self._coming: deque[Coming] = deque()
        self._asking, self._hearing = threading.Lock(), threading.Lock()
        weakref.finalize(self, _end, self._processes)

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of the processes that have been started."""
        return tuple(process.pid for process in self._processes)

    def begin(self, paths: Sequence[str], count: int) -> Coming:
        """Let `count` processes decode some files."""
        with self._asking:
            while len(self._processes) < count:
                self._processes.append(_start(self.form))
            bounds = np.linspace(0, len(paths), count + 1).astype(int).tolist()
            parts = [*zip(self._processes, bounds, bounds[1:], strict=False)]
            coming = Coming(self, np.empty((len(paths), *self.form.shape), np.uint8), parts)
            for process, start, stop in parts:
                with suppress(BrokenPipeError):  # it has died, which is found out when it is heard
                    process.stdin.write(json.dumps(paths[start:stop]).encode() + b"\n")  # type: ignore[union-attr]
                    process.stdin.flush()  # type: ignore[union-attr]
            self._coming.append(coming)
        return coming

    def wait_for(self, wanted: Coming) -> None:
        """Hear what comes, in the order in which it was asked for, until the `wanted` has come."""
        with self._hearing:
            while not wanted.done:
                coming = self._coming[0]
                for process, start, stop in coming.parts:
                    coming.error = _hear(process, coming.images[start:stop]) or coming.error
                coming.done = True
                self._coming.popleft()
                if isinstance(coming.error, RuntimeError):
                    self._give_up(coming.error)

    def _give_up(self, error: RuntimeError) -> None:
        """One process has died: end all, so that the next batch is asked of new ones."""
        with self._asking:
            while self._coming:
                late = self._coming.popleft()
                late.done, late.error = True, error
            _end(self._processes)


def _start(form: Form) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,  # an interrupt is for the process that asks, which ends this one
    )
    assert process.stdin is not None
    with suppress(OSError):  # a larger pipe saves waiting, and a user may have only so many
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[arg-type]
    process.stdin.write(json.dumps(asdict(form)).encode() + b"\n")
    return process


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    while processes:
        process = processes.pop()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):  # what it was still to be asked
                pipe.close()  # type: ignore[union-attr]


def _hear(process: subprocess.Popen[bytes], images: np.ndarray) -> Exception | None:
    """Read what one process has made of its share of a batch, or why it has not."""
    pipe = cast(BufferedReader, process.stdout)
    head = pipe.read(8)
    length = int.from_bytes(head, "little", signed=True)
    if len(head) == 8 and length < 0:
        return DataError(pipe.read(-length).decode(errors="surrogateescape"))
    if len(head) < 8 or pipe.readinto(images.reshape(-1).data) < images.nbytes:
        status = process.wait()
        return RuntimeError(f"a process that decodes images has died (status {status}); perhaps memory ran out")
    return None


def main() -> None:
    """Decode what is asked for on the standard input, a list of files in each line, until it is closed."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed must not come between
    content = json.loads(sys.stdin.buffer.readline())
    form = Form(**{**content, "shape": tuple(content["shape"])})
    asked: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            asked.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            images = read(asked.get(), form)
            length, data = images.nbytes, images.reshape(-1).data
        except DataError as error:
            data = str(error).encode(errors="surrogateescape")
            length = -len(data)
        answers.write(length.to_bytes(8, "little", signed=True))
        answers.write(data)
        answers.flush()
