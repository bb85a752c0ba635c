"""By which signal a process died: real ones, on a small cluster of Ray's."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest
import ray
from ray.exceptions import ActorDiedError

from automixsearch.search.deaths import death_of, read
from automixsearch.search.failures import cause_of

CORRUPT = "free(): invalid pointer"


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def victim(cluster):
    """An actor that ends as it is told."""

    class Victim:  # here, since Ray's processes cannot import a test
        def die(self, how: str) -> None:
            if how == "corrupt":
                os.write(2, f"{CORRUPT}\n".encode())  # as glibc does
                os.abort()
            if how == "read":
                ctypes.string_at(0)
            os.kill(os.getpid(), getattr(signal, how))
            signal.pause()

    return ray.remote(num_cpus=0)(Victim).remote()


@pytest.mark.parametrize(
    ("how", "name", "why"),
    [
        ("corrupt", "SIGABRT", CORRUPT),
        ("read", "SIGSEGV", "Segmentation fault"),
        ("SIGBUS", "SIGBUS", "Bus error"),
        ("SIGKILL", "SIGKILL", "left no word"),
        ("SIGTERM", "SIGTERM", "Ray saw"),
    ],
)
def test_a_process_that_died_by_a_signal_is_reported_with_it(victim, how, name, why):
    with pytest.raises(ActorDiedError) as raised:
        ray.get(victim.die.remote(how))
    known = death_of(cause_of(raised.value)[1])
    assert known is not None
    assert known[0] == name
    assert why in known[1]


def test_without_a_place_nothing_is_known():
    assert death_of("The actor died unexpectedly before finishing this task.") is None


def test_the_last_words_count():
    text = "Fatal Python error: Aborted\n...\nmunmap_chunk(): invalid pointer\nFatal Python error: Segmentation fault\n"
    assert read(text) == ("SIGSEGV", "munmap_chunk(): invalid pointer")
