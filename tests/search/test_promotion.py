"""Which config is trained next: promotion inside each method, on known scores."""

from __future__ import annotations

import random

import pytest

from automixsearch.search.proposers.promotion import Move, Promotion


def run(made: Promotion, quality, concurrent=1, spent=0, until=None, seed=0) -> list[Move]:
    """Hand out trials until the total (or `until`); new configs are named c0, c1, ... and end in random order."""
    chance, going, moves = random.Random(seed), [], []
    while spent < (until or made.trials) or going:
        move = made.next(spent) if spent < (until or made.trials) and len(going) < concurrent else None
        if move is None:
            assert going, "nothing runs and nothing is handed out"
            name, rung = going.pop(chance.randrange(len(going)))
            made.end(name, rung, quality(name, made.candidates[name].method, rung))
            continue
        name = move.candidate or f"c{len(made.candidates)}"
        known = made.candidates.get(name)
        method = known.method if known else move.method or made.methods[len(made.candidates) % len(made.methods)]
        made.begin(name, known.number if known else spent, method, move.rung)
        going.append((name, move.rung))
        moves.append(Move(move.rung, name, method))
        spent += 1
    return moves


def noise(name: str, rung: int) -> float:
    return random.Random(f"{name}/{rung}").random()


def test_the_best_third_is_promoted_before_anything_new_begins():
    made = Promotion(("mixup",), 3, 3, 100)
    scores = {"c0": 5.0, "c1": 9.0, "c2": 7.0, "c3": 1.0, "c4": 8.0, "c5": 2.0}
    moves = [(move.candidate, move.rung) for move in run(made, lambda name, *_: scores.get(name, 0.0), until=10)]
    assert moves == [
        ("c0", 0), ("c1", 0), ("c2", 0), ("c1", 1), ("c3", 0), ("c4", 0), ("c5", 0), ("c4", 1), ("c6", 0), ("c7", 0),
    ]  # fmt: skip


def test_a_config_climbs_rung_by_rung():
    made = Promotion(("mixup",), 3, 2, 14)
    run(made, lambda name, *_: float(name[1:]))
    for one in made.candidates.values():
        assert sorted(one.scores) == list(range(one.rung + 1))
    assert any(one.rung == 2 for one in made.candidates.values())


def test_scores_of_one_method_say_nothing_about_another():
    made = Promotion(("vanilla", "cutmix"), 2, 3, 60)
    run(made, lambda name, method, rung: (90.0 if method == "vanilla" else 10.0) + noise(name, rung))
    full = [one.method for one in made.candidates.values() if one.rung == 1]
    assert abs(full.count("vanilla") - full.count("cutmix")) <= 1
    assert len(full) >= 12


@pytest.mark.parametrize("concurrent", [1, 4])
@pytest.mark.parametrize(("methods", "rungs", "trials"), [(4, 2, 16), (12, 2, 96), (3, 3, 20), (4, 1, 10)])
def test_every_method_begins_at_the_full_schedule_before_half_of_the_budget(methods, rungs, trials, concurrent):
    names = tuple(f"m{number}" for number in range(methods))
    made = Promotion(names, rungs, 3, trials, protect=0.5)
    moves = run(made, lambda name, method, rung: noise(name, rung), concurrent)
    early = {move.method for move in moves[: trials // 2] if move.rung == rungs - 1}
    assert early == set(names)
    assert len(moves) == trials


def test_a_method_that_always_fails_holds_nothing_up():
    made = Promotion(("good", "bad"), 2, 3, 20, protect=0.5)
    moves = run(made, lambda name, method, rung: None if method == "bad" else 1.0)
    assert len(moves) == 20
    assert all(move.rung == 0 for move in moves if move.method == "bad")


def test_too_small_a_budget_is_spent_all_the_same():
    moves = run(Promotion(tuple("abcdefgh"), 2, 3, 5, protect=0.5), lambda *_: 1.0)
    assert len(moves) == 5


def test_nothing_is_begun_that_could_not_reach_the_full_schedule():
    made = Promotion(("mixup",), 2, 3, 8)
    moves = run(made, lambda name, *_: float(name[1:]))
    assert moves[-1].rung == 1
    assert moves[-1].candidate in {move.candidate for move in moves[:-1]}


def test_a_failed_config_is_out():
    made = Promotion(("mixup",), 2, 2, 12)
    moves = run(made, lambda name, *_: None if name in ("c0", "c3") else 1.0)
    assert all(move.rung == 0 for move in moves if move.candidate in ("c0", "c3"))


@pytest.mark.parametrize("stop", range(0, 24, 5))
def test_decisions_are_the_same_from_whatever_is_known_in_any_order(stop):
    def quality(name, method, rung):
        return noise(name, rung)

    def fresh():
        return Promotion(("a", "b", "c"), 3, 2, 24, protect=0.5, anchors=0)

    whole = run(fresh(), quality)
    again = fresh()
    for move in whole[:stop]:
        first = next(n for n, other in enumerate(whole) if other.candidate == move.candidate)
        again.begin(move.candidate, first, move.method, move.rung)
    for move in random.Random(1).sample(whole[:stop], stop):
        again.end(move.candidate, move.rung, quality(move.candidate, move.method, move.rung))
    assert whole[stop:] == run(again, quality, spent=stop)


def test_anchors_are_trained_at_every_rung_whatever_their_rank_and_of_every_method():
    made = Promotion(("a", "b", "c"), 3, 3, 60, anchors=6)
    run(made, lambda name, *_: -float(name[1:]), until=18)
    assert [one.method for one in made.candidates.values()] == ["a", "b", "c"] * 2
    assert all(sorted(one.scores) == [0, 1, 2] for one in made.candidates.values())
    assert len(made.anchored() or ()) == 6


def test_nothing_else_is_promoted_until_the_anchors_are_judged():
    made = Promotion(("a",), 2, 2, 40, anchors=4)
    run(made, lambda name, *_: float(name[1:]), until=30)
    assert {one.name for one in made.candidates.values() if one.rung} == {"c0", "c1", "c2", "c3"}
    made.judged = True
    assert made.next(30) == Move(1, "c25")


def test_after_halving_has_stopped_all_are_trained_in_full():
    made = Promotion(("a",), 3, 2, 20)
    run(made, lambda name, *_: 1.0, until=4)
    waiting = {one.name for one in made.candidates.values() if one.rung < 2}
    made.judged, made.stopped = True, "why"
    moves = run(made, lambda name, *_: 1.0, spent=4)
    assert all(move.rung == 2 for move in moves)
    assert {move.candidate for move in moves[: len(waiting)]} == waiting
