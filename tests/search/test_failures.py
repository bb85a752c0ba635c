"""What follows when trials fail: decided from what is known of the attempts alone."""

from __future__ import annotations

import errno
import urllib.error

import pytest
import torch
from ray.exceptions import ActorDiedError, LocalRayletDiedError, RayTaskError
from ray.train import ControllerError, WorkerGroupError

from automixsearch.errors import (
    DataError,
    NonFiniteLoss,
    ResourceError,
    SpecError,
    StorageError,
    StudyError,
    StudyTaken,
    TrainingError,
)
from automixsearch.results.store import Store
from automixsearch.search.failures import (
    DIED,
    MEMORY,
    NO_ROOM,
    NODE,
    SIGNALS,
    Attempt,
    Failure,
    Nodes,
    Place,
    cause_of,
    doublings,
    is_of_world,
    same,
    stuck,
)


def failures(*causes_and_epochs, **more):
    return [Failure(cause, epoch=epoch, **more) for cause, epoch in causes_and_epochs]


def test_a_trial_is_set_aside_at_the_third_failure_of_one_cause_without_progress():
    assert not stuck([])
    assert not stuck(failures(("KeyError", 0), ("KeyError", 0)))
    assert stuck(failures(("KeyError", 0), ("KeyError", 0), ("KeyError", 0)))
    assert not stuck(failures((DIED, 0), (DIED, 1), (DIED, 2), (DIED, 2)))
    assert stuck(failures((DIED, 0), (DIED, 2), (DIED, 2), (DIED, 2)))
    alternating = failures(("A", 0), ("B", 0), ("A", 0), ("B", 0), ("A", 0))
    assert not stuck(alternating[:-1])
    assert stuck(alternating)
    assert same(alternating) == 3


def test_waiting_for_room_and_getting_more_room_are_no_tries():
    assert not stuck(failures(*[(NO_ROOM, 0)] * 9, counts=False))
    assert not stuck(failures(*[(MEMORY, 0)] * 4, counts=False))
    assert stuck(failures(*[(MEMORY, 0)] * 4, counts=False) + failures(*[(MEMORY, 0)] * 3))


def test_room_doubles_with_each_lack_of_memory_and_each_unexplained_death_after_the_first():
    assert doublings([]) == 0
    assert doublings(failures((DIED, 3))) == 0
    assert doublings(failures((DIED, 3), (DIED, 3))) == 1
    assert doublings(failures((DIED, 3), (DIED, 5))) == 0
    assert doublings(failures((MEMORY, 0), (MEMORY, 2), ("KeyError", 2))) == 2


OUTSIDE = [
    StorageError("s3://b: cannot be read"),
    StudyTaken("study s is held by another"),
    DataError("/data: no such file"),
    ResourceError("Ray is gone"),
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "Permission denied"),
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    urllib.error.URLError("no route to host"),
    type("OfALibrary", (OSError,), {})("the disk is away"),
    RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0: No space left on device"),
    RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
    RayTaskError("train", "", OSError(errno.EIO, "Input/output error")),
    LocalRayletDiedError(),
]
OF_THE_TRIAL = [
    NonFiniteLoss("the loss is NaN"),
    SpecError("normalisation = imagenet has 3 channels"),
    TrainingError("x"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    ValueError("shapes do not fit"),
    KeyError("x"),
    ActorDiedError(),
]


@pytest.mark.parametrize("error", OUTSIDE, ids=lambda error: type(error).__name__)
def test_failures_of_the_world_are_never_the_configs(error):
    assert is_of_world(*cause_of(error))
    cause, message = cause_of(error)
    assert Failure(cause, message).of_world


@pytest.mark.parametrize("error", OF_THE_TRIAL, ids=lambda error: type(error).__name__)
def test_failures_of_a_trial_stay_its_own(error):
    assert not is_of_world(*cause_of(error))


def test_a_node_that_dies_is_no_process_that_died_of_its_trial():
    told = (
        "The actor died unexpectedly before finishing this task. The actor died because its node has died. Node Id: 1"
    )
    error = ActorDiedError()
    error.base_error_msg = error.error_msg = told
    assert cause_of(error)[0] == NODE
    assert cause_of(ActorDiedError())[0] == DIED
    assert doublings(failures((NODE, 0), (NODE, 0), (NODE, 0))) == 0


A, B = Place("a", "host-a"), Place("b", "host-b")


def test_three_trials_that_fail_quickly_of_one_cause_make_a_node_bad():
    nodes = Nodes()
    assert not nodes.failed("t0", Failure("DataError", place=A))
    assert not nodes.failed("t1", Failure("DataError", place=B))
    assert not nodes.failed("t1", Failure("DataError", place=A))
    assert nodes.failed("t2", Failure("DataError", "no /mnt/data", place=A))
    assert list(nodes.bad) == ["a"]
    assert nodes.bad["a"].message == "no /mnt/data"
    assert not nodes.failed("t3", Failure("DataError", place=A))


@pytest.mark.parametrize(
    ("trials", "causes", "quick", "place"),
    [
        (["t0", "t0", "t0", "t0"], ["X"] * 4, True, A),
        (["t0", "t1", "t2", "t3"], ["X", "Y", "X", "Y"], True, A),
        (["t0", "t1", "t2", "t3"], ["X"] * 4, False, A),
        (["t0", "t1", "t2", "t3"], [MEMORY] * 4, True, A),
        (["t0", "t1", "t2", "t3"], [NO_ROOM] * 4, True, A),
        (["t0", "t1", "t2", "t3"], ["X"] * 4, True, Place()),
    ],
    ids=["one trial", "several causes", "slowly", "memory", "room", "nobody knows where"],
)
def test_a_node_is_not_blamed_for(trials, causes, quick, place):
    nodes = Nodes()
    for trial, cause in zip(trials, causes, strict=True):
        assert not nodes.failed(trial, Failure(cause, quick=quick, place=place))


def test_an_epoch_clears_its_place_but_not_a_broken_accelerator_beside_it():
    nodes, good, broken = Nodes(), Place("a", "h", "0"), Place("a", "h", "7")
    for trial in ("t0", "t1"):
        nodes.failed(trial, Failure("X", place=good))
        nodes.failed(trial, Failure("X", place=broken))
    nodes.passed(good)
    assert not nodes.failed("t2", Failure("X", place=good))
    assert nodes.failed("t2", Failure("X", place=broken))


def dead() -> ActorDiedError:
    return ActorDiedError()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (KeyError("k"), "KeyError"),
        (MemoryError(), MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), MEMORY),
        (RuntimeError("could not create a primitive"), MEMORY),
        (RuntimeError("shapes do not fit"), "RuntimeError"),
        (dead(), DIED),
        (RayTaskError("step", "trace", StudyError("gone")), "StudyError"),
        (RayTaskError("step", "trace", StudyError("gone")).as_instanceof_cause(), "StudyError"),
        (RayTaskError("fit", "trace", WorkerGroupError("x", {1: MemoryError()})), MEMORY),
        (WorkerGroupError("x", {1: dead()}), DIED),
        (WorkerGroupError("x", {0: RuntimeError("connection closed by peer"), 1: dead()}), DIED),
        (ControllerError(dead()), DIED),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_causes_are_found_inside_what_ray_makes_of_them(error, cause):
    assert cause_of(error)[0] == cause


def test_what_an_attempt_leaves_is_read_back(tmp_path):
    store = Store(tmp_path, "s")
    assert Attempt.load(store, "t0") is None
    left = Attempt(A, "OSError", "no route")
    left.save(store, "t0")
    assert Attempt.load(store, "t0") == left
    Attempt.close(store, "t0")
    assert Attempt.load(store, "t0") is None


def test_a_fault_of_compiled_code_is_not_blamed_on_a_node():
    for cause in SIGNALS:
        nodes = Nodes()
        assert not [number for number in range(5) if nodes.failed(f"t{number}", Failure(cause, place=A))]


def test_faults_of_compiled_code_want_no_more_room_and_kills_do():
    assert doublings(failures(("SIGSEGV", 0), ("SIGSEGV", 0), ("SIGSEGV", 0))) == 0
    assert doublings(failures(("SIGKILL", 0), (DIED, 0), ("SIGKILL", 0))) == 2
