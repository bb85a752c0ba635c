"""From dimensions to values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from automixsearch.config.catalogue import catalogue
from automixsearch.config.files import load_space, parse_space
from automixsearch.config.points import check_point, published_points, suggest
from automixsearch.errors import SpecError
from automixsearch.search.proposers.samplers import active_part, sobol_point

CONTENT = {
    "knobs": {
        "method": ["vanilla", "mixup", "cutmix", "resizemix"],
        "alpha": {"low": 0.1, "high": 4.0, "log": True},
        "cutmix.alpha": [0.5, 1.0],
        "loss": ["mce", "decoupled"],
        "eta": {"low": 0.01, "high": 1.0, "log": True},
        "batch_size": {"low": 50, "high": 400, "log": True},
        "lr": {"low": 0.01, "high": 0.1, "when": {"method": ["mixup"]}},
    },
    "budget": {"epochs": 4},
    "priors": "published",
}
SPACE = parse_space(CONTENT, "test")


class Scripted:
    """Answers from a list of choices where it can, else the low end; remembers what was asked."""

    def __init__(self, *wanted):
        self.wanted, self.asked = wanted, []

    def suggest_float(self, name, low, high, *, log):
        self.asked.append(name)
        return low

    def suggest_int(self, name, low, high, *, log):
        self.asked.append(name)
        return low

    def suggest_categorical(self, name, choices):
        self.asked.append(name)
        return next((choice for choice in choices if choice in self.wanted), choices[0])


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        (("vanilla",), ["method", "batch_size"]),
        (("mixup", "mce"), ["method", "loss", "mixup.alpha", "batch_size", "lr"]),
        (("cutmix", "decoupled"), ["method", "loss", "cutmix.alpha", "decoupled.eta", "batch_size"]),
    ],
)
def test_only_active_knobs_are_asked_for(wanted, asked):
    trial = Scripted(*wanted)
    values = suggest(SPACE, trial)
    assert trial.asked == asked
    catalogue().complete(values, "test")


def test_a_method_that_does_not_mix_has_the_plain_loss():
    assert suggest(SPACE, Scripted("vanilla", "decoupled"))["loss"] == "mce"


def test_full_names_win_over_short_ones():
    by_name = {d.name: d for d in SPACE.dimensions}
    assert by_name["cutmix.alpha"].choices == (0.5, 1.0)
    assert by_name["mixup.alpha"].low == 0.1


def test_published_settings_are_the_searched_part_and_say_what_does_not_fit():
    points = list(published_points(SPACE))
    methods = ["vanilla", "mixup", "cutmix", "resizemix"]
    assert [point["method"] for point, _ in points] == [*methods, "mixup", "cutmix", "resizemix"]
    assert [point.get("loss") for point, _ in points] == [None, *["mce"] * 3, *["decoupled"] * 3]
    assert points[1][0] == {"method": "mixup", "loss": "mce", "mixup.alpha": 1.0}
    assert "cutmix.alpha" not in points[2][0]
    assert "published cutmix.alpha = 0.2 lies outside 0.5, 1.0" in points[2][1]
    for point, _ in points:
        check_point(SPACE, point, "published")


def test_a_short_name_that_changes_nothing_beside_full_ones_is_refused():
    knobs = {"method": ["mixup", "cutmix"], "alpha": 0.5, "mixup.alpha": 1.0, "cutmix.alpha": 1.0}
    with pytest.raises(SpecError, match=r"alpha changes nothing beside mixup\.alpha, cutmix\.alpha, which are"):
        parse_space(CONTENT | {"knobs": knobs}, "test")


def test_what_was_published_for_a_backbone_wins_over_what_was_for_its_data():
    def points(backbone):
        knobs = {"method": ["automix", "mixup"], "backbone": backbone, "ema_hold": [0.1, 0.25], "loss": "decoupled",
                 "weighting": ["both", "less", "more"], "automix.layer": ["l2", "l3"]}  # fmt: skip
        return [point for point, _ in published_points(parse_space(CONTENT | {"knobs": knobs}, "test"))]

    small, wide, deit, large = (points(name) for name in ("resnet18", "wrn28_8", "deit_s", "resnext50"))
    assert [found[0]["automix.layer"] for found in (small, wide, deit)] == ["l3", "l2", "l3"]
    assert "automix.ema_hold" not in small[0]
    assert deit[0]["automix.ema_hold"] == 0.25
    assert [found[2]["decoupled.weighting"] for found in (small, large)] == ["more", "both"]
    assert points(["resnet18", "wrn28_8"])[0]["automix.layer"] == "l3"


def test_a_point_with_an_inactive_knob_is_refused():
    with pytest.raises(SpecError, match=r"cutmix\.alpha has no effect with method mixup"):
        check_point(SPACE, {"method": "mixup", "cutmix.alpha": 0.5}, "priors[0]")


def test_sobol_points_lie_in_the_space_are_the_same_every_time_and_spread_evenly():
    points = [sobol_point(SPACE, index) for index in range(64)]
    assert points[5] == sobol_point(SPACE, 5)
    methods = [point["method"] for point in points]
    assert {methods.count(name) for name in set(methods)} == {16}
    alphas = np.log([point["mixup.alpha"] for point in points])
    assert np.histogram(alphas, 4, (np.log(0.1), np.log(4)))[0].tolist() == [16] * 4
    by_name = {d.name: d for d in SPACE.dimensions}
    for point in points:
        assert all(by_name[name].holds(value) for name, value in point.items())
        active = active_part(SPACE, point)
        check_point(SPACE, active, "sobol")
        assert ("mixup.alpha" in active) == (point["method"] == "mixup")
        assert ("lr" in active) == (point["method"] == "mixup")


def test_the_document_of_a_study_is_a_space_file(tmp_path):
    knobs = {"method": ["mixup", "cutmix"], "alpha": "auto", "lr": 0.05}
    space = parse_space({"knobs": knobs, "budget": {"trials": 9, "epochs": 3}, "priors": "published"}, "test")
    document = {"name": "mine", "space_id": space.space_id, "space": space.model_dump(mode="json")}
    (tmp_path / "study.json").write_text(json.dumps(document))
    words = ["sampler=sobol", "scheduler=fifo", "priors=none", "trials=32"]
    again = load_space(tmp_path / "study.json", words)
    assert again.dimensions == space.dimensions
    assert (again.sampler.name, again.priors, again.budget.trials, again.budget.epochs) == ("sobol", "none", 32, 3)
