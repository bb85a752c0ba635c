"""Threads for compiled code: torch's own where they can be had, else others."""

from __future__ import annotations

import sys
import threading

import pytest

from automixsearch import native


@pytest.fixture(params=["own", "torch"])
def threads(request, monkeypatch):
    if request.param == "own":
        monkeypatch.setattr(native, "_torch_team", lambda: None)
    elif native._torch_team() is None:
        pytest.skip("this torch is not built with GNU OpenMP")
    return native.in_threads


def test_every_turn_is_taken_once(threads):
    for count in (1, 2, 3, 8):
        taken = []
        threads(count, taken.append)
        assert sorted(taken) == list(range(count))


def test_turns_are_taken_side_by_side(threads):
    both = threading.Barrier(2, timeout=30)
    threads(2, lambda _: both.wait())


def test_an_error_in_a_thread_is_raised(threads):
    def fail(turn):
        if turn == 1:
            raise ValueError("turn 1")

    with pytest.raises(ValueError, match="turn 1"):
        threads(2, fail)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is what torch has on Linux")
def test_on_linux_they_are_torchs_own():
    assert native._torch_team() is not None
