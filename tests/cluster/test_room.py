"""What trials hold, and whether there is room for them, on clusters that are lists of nodes."""

from __future__ import annotations

import math

import pytest

from automixsearch.cluster.room import MARGIN, SLIVER, TRIAL_SLOT, Peak, Room, gpu_share
from automixsearch.config.resources import Resources
from automixsearch.errors import ResourceError

GIB = 2**30


def room(nodes, own=False, peaks=None, **resources) -> Room:
    amounts = {f"n{number}": {"memory": 64 * GIB, **node} for number, node in enumerate(nodes)}
    made = Resources.model_validate(resources)
    return Room(made, lambda: amounts, own, peaks)


def test_trials_hold_what_their_method_asks_for():
    made = room(
        [{"CPU": 8, "GPU": 2}], cpus=2.0, per_method={"automix": {"gpus": 2.0, "cpus": 4.0}, "fmix": {"gpus": 0}}
    )
    assert made.need("mixup").held == {"CPU": 2, "GPU": 1}
    assert made.need("automix").held == {"CPU": 4, "GPU": 2}
    assert made.need("mixup+cutmix").held == {"CPU": 2, "GPU": 1}
    assert made.need("mixup+automix").held == {"CPU": 4, "GPU": 2}
    assert made.need("fmix").held == {"CPU": 2}


def test_unlike_trials_share_what_there_is():
    made = room([{"CPU": 4, "GPU": 2}], per_method={"automix": {"gpus": 2.0}})
    big, small = made.need("automix"), made.need("mixup")
    assert made.has_for(big, [])
    assert not made.has_for(small, [big])
    assert made.has_for(small, [small])
    assert not made.has_for(big, [small])
    assert not made.has_for(small, [small, small])


def test_concurrent_caps_and_is_refused_where_so_many_do_not_fit():
    made = room([{"CPU": 4}], concurrent=2)
    one = made.need("mixup")
    assert made.has_for(one, [one])
    assert not made.has_for(one, [one, one])
    made.check(["mixup"])
    with pytest.raises(ResourceError, match=r"concurrent = 5 trials do not fit on the cluster at once; use at most 4"):
        room([{"CPU": 4}], concurrent=5).check(["mixup"])


@pytest.mark.parametrize(
    ("nodes", "asked", "message"),
    [
        (
            [{"CPU": 2}],
            {"workers": 4},
            "one trial needs 4.001 CPU and the cluster has 2; lower resources.cpus or resources.workers",
        ),
        ([{"CPU": 2}], {"cpus": 3.0}, "needs 3 CPU and the cluster has 2; .* e.g. resources.cpus=2"),
        ([{"CPU": 2}, {"CPU": 2}], {"cpus": 3.0}, "needs 3 CPU and the cluster has 4, no node more than 2"),
        ([{"CPU": 2}], {"gpus": 1.0}, "needs 1 GPU and the cluster has 0; lower resources.gpus"),
        ([{"CPU": 2}], {"per_method": {"mixup": {"cpus": 9.0}}}, "of mixup needs 9 CPU .* lower resources.per_method"),
    ],
)
def test_what_can_never_run_is_refused(nodes, asked, message):
    with pytest.raises(ResourceError, match=message):
        room(nodes, **asked).check(["vanilla", "mixup"])


def test_workers_of_a_trial_have_a_node_each_that_holds_them():
    """In sum there would be room for two trials of two workers with 2 CPUs each."""
    made = room([{"CPU": 3}, {"CPU": 3}, {"CPU": 3}], workers=2, cpus=2.0)
    need = made.need("mixup")
    assert (need.held, need.worker, need.workers) == ({"CPU": SLIVER}, {"CPU": 2}, 2)
    assert made.at_once(need) == 1
    assert made.has_for(need, [])
    assert not made.has_for(need, [need])
    assert (
        room([{"CPU": 3, TRIAL_SLOT: 1000}], own=True, workers=2, cpus=1.5).at_once(
            room([{"CPU": 3}], own=True, workers=2, cpus=1.5).need("mixup")
        )
        == 1
    )


def test_a_cluster_that_shrinks_takes_fewer_trials_and_more_again_when_it_grows(monkeypatch):
    nodes = {"a": {"CPU": 4}, "b": {"CPU": 4}}
    made = Room(Resources(workers=2, cpus=1.5), lambda: dict(nodes))
    monkeypatch.setattr("automixsearch.cluster.room.LOOK_S", 0)
    need = made.need("mixup")
    assert made.has_for(need, [need])
    del nodes["b"]
    assert made.has_for(need, [])
    assert not made.has_for(need, [need])
    nodes["c"] = {"CPU": 8}
    assert made.has_for(need, [need])
    made.avoided.add("c")
    assert not made.has_for(need, [need])


def test_a_declared_autoscaler_is_counted():
    made = room([{"CPU": 0.0}], gpus=1.0, cpus=3.0, most={"cpus": 32.0, "gpus": 8.0}, concurrent=8)
    made.check(["mixup"])
    need = made.need("mixup")
    assert made.has_for(need, [need] * 7)
    assert not made.has_for(need, [need] * 8)
    assert room([], most={"gpus": 8.0, "cpus": 8.0}).need("mixup").held["GPU"] == 1
    with pytest.raises(ResourceError, match="needs 1 GPU and the cluster has 0"):
        room([{"CPU": 4}], gpus=1.0).check(["mixup"])


def test_packing_by_number_gives_each_trial_its_part_of_a_gpu_or_of_memory():
    gpus = room([{"CPU": 8, "GPU": 1}], packing=3)
    assert gpus.need("mixup").held == {"CPU": 1, "GPU": 0.3333}
    assert gpus.at_once(gpus.need("mixup")) == 3
    memory = room([{"CPU": 8}], packing=3)
    assert memory.need("mixup").held == {"CPU": 1, "memory": math.floor(64 * GIB / 3)}
    assert memory.at_once(memory.need("mixup")) == 3


def test_packing_by_memory_follows_the_measured_peaks_with_a_margin():
    peaks = {"mixup": Peak(2 * GIB, 10 * GIB, 80 * GIB), "automix": Peak(6 * GIB, 40 * GIB, 80 * GIB),
             "vanilla": Peak(1 * GIB, 1 * GIB, 80 * GIB), "cutmix": Peak(1 * GIB, 79 * GIB, 80 * GIB)}  # fmt: skip
    made = room([{"CPU": 32, "GPU": 1}], peaks=peaks, packing="auto")
    assert made.need("mixup").held == {"CPU": 1, "GPU": 0.15, "memory": math.ceil(2 * GIB * MARGIN)}
    assert {method: made.at_once(made.need(method)) for method in peaks} == {
        "mixup": 6, "automix": 1, "vanilla": 8, "cutmix": 1,
    }  # fmt: skip
    assert gpu_share(Peak(1.0)) == 1
    host = room([{"CPU": 32, "memory": 16 * GIB}], peaks={"mixup": Peak(2 * GIB)}, packing="auto")
    assert host.at_once(host.need("mixup")) == 6
    with pytest.raises(ResourceError, match=r"one trial of mixup takes 24.0 GiB of memory, .* largest node has 16.0"):
        room([{"CPU": 32, "memory": 16 * GIB}], peaks={"mixup": Peak(20 * GIB)}, packing="auto").check(["mixup"])


def test_a_trial_that_lacked_memory_holds_double_until_it_is_alone():
    made = room([{"CPU": 6, "GPU": 2}], packing=4)
    held = [made.need("mixup", times).held for times in range(4)]
    assert [h["GPU"] for h in held] == [0.25, 0.5, 1, 1]
    assert [h["CPU"] for h in held] == [1, 2, 4, 6]
    assert [made.grows("mixup", times) for times in range(4)] == [True, True, True, False]
    made.tight["mixup"] = 1
    assert made.need("mixup").held["GPU"] == 0.5
    assert made.need("cutmix").held["GPU"] == 0.25
    workers = room([{"CPU": 5}], workers=2)
    assert [workers.need("mixup", times).worker for times in (0, 1, 2)] == [{"CPU": 1}, {"CPU": 2}, {"CPU": 2}]
    assert not workers.grows("mixup", 1)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"packing": 0}, "packing = 0 must be >= 1"),
        ({"packing": "auto", "workers": 2}, "packing = auto is for trials of one worker, not for workers = 2"),
        ({"packing": 2, "gpus": 0.5}, "packing = 2 decides what share of a GPU a trial has, as gpus = 0.5 does"),
    ],
)
def test_resources_that_contradict_one_another_are_refused(resources, message):
    with pytest.raises(ValueError, match=message):
        Resources.model_validate(resources)


def test_a_share_for_a_method_that_there_is_not_is_refused():
    resources = Resources.model_validate({"per_method": {"automx": {"gpus": 1}}})
    with pytest.raises(ValueError, match="per_method: unknown method 'automx'; did you mean 'automix'"):
        resources.check_methods(["mixup", "automix"])
