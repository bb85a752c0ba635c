"""Search spaces and trial configs: what is read, what is refused, and in which words."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from automixsearch.config.catalogue import CANONICAL, catalogue, column_of
from automixsearch.config.files import load_config, load_space, parse_space
from automixsearch.config.shipped import shipped
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import AutoMixError, SpecError
from automixsearch.seeds import derive_seed

GOOD = {
    "data": {"source": "digits"},
    "budget": {"trials": 4, "epochs": 3},
    "knobs": {
        "method": ["vanilla", "mixup", "cutmix"],
        "alpha": {"low": 0.1, "high": 4.0, "log": True},
        "loss": ["mce", "decoupled"],
        "eta": {"low": 0.01, "high": 1.0, "log": True},
        "lr": 0.1,
    },
}


def changed(**parts):
    """GOOD with knobs or sections replaced: `knobs__lr=..` reaches inside."""
    content = {key: dict(value) for key, value in GOOD.items()}
    for key, value in parts.items():
        section, _, inner = key.partition("__")
        if inner:
            content.setdefault(section, {})[inner.replace("__", ".")] = value
        else:
            content[section] = value
    return content


REFUSED = [
    (changed(knobs__alhpa=1.0), r"unknown knob 'alhpa'; did you mean 'alpha'"),
    (changed(knobs__mixup__alhpa=1.0), r"unknown knob 'mixup.alhpa'; did you mean 'mixup.alpha'"),
    (changed(knobs__alpha={"low": 0, "high": 1, "log": True}), r"alpha.low = 0 must be > 0 when log: true; use 0.01"),
    (changed(knobs__alpha={"low": 2, "high": 1}), r"alpha.low = 2.0 must be below alpha.high = 1.0; swap them"),
    (changed(knobs__alpha={"low": 1}), r"alpha.high is missing; a range needs low and high"),
    (changed(knobs__alpha={"low": 1, "high": 2, "lgo": True}), r"unknown key in alpha 'lgo'; did you mean 'log'"),
    (changed(knobs__alpha={"low": "1", "high": 2}), r"alpha.low = '1' is text and must be a number; drop the quotes"),
    (changed(knobs__alpha=-1), r"alpha = -1 must be > 0 to 100; default: 1.0"),
    (changed(knobs__alpha=float("nan")), r"alpha = nan must be a finite number"),
    (changed(knobs__method=["mixup", "cutmx"]), r"method\[1\]: unknown value 'cutmx'; did you mean 'cutmix'"),
    (changed(knobs__method=[]), r"method = \[\] must list at least one value"),
    (changed(knobs__method=["mixup", "mixup"]), r"method = .* holds a value twice"),
    (changed(knobs__resizemix__alpha=1.0), r"resizemix.alpha belongs to method resizemix, which knobs.method"),
    (changed(knobs__loss="mce"), r"eta belongs to loss decoupled, which knobs.loss = mce does not include"),
    (changed(knobs__epochs=5), r"knobs.epochs is the budget.*use budget.epochs"),
    (changed(knobs__width=8.5), r"width = 8.5 must be a whole number"),
    (changed(knobs__flip="maybe"), r"flip: unknown value 'maybe'"),
    (changed(knobs__flip={"low": 0, "high": 1}), r"flip takes no range: list its values"),
    (changed(knobs__width="auto"), r"width: auto stands for a declared search range, and width has none"),
    (changed(knobs__lr={"low": 0.1, "high": 1, "when": {"loss": "mc"}}), r"lr.when.loss: unknown value 'mc'"),
    (changed(knobs__lr={"low": 0.1, "high": 1, "when": {"metod": "mixup"}}), r"unknown knob of this space 'metod'"),
    (changed(knobs__lr={"low": 0.1, "high": 1, "when": {"eta": 0.1}}), r"eta.*"),
    (changed(budget={"trials": 0, "epochs": 1}), r"budget.trials = 0 must be greater than or equal to 1"),
    (changed(budget={"trails": 3}), r"unknown key in budget 'trails'; did you mean 'trials'"),
    (changed(data={"source": "cifar"}), r"data\.source: unknown data set 'cifar'; did you mean 'cifar10'\?"),
    (changed(data={"source": "parquet"}), r"data: path is missing; source parquet reads a local directory"),
    (changed(data={"source": "digits", "path": "x"}), r"path is not used by source digits"),
    (
        changed(data={"source": "cars", "path": "x"}),
        r"size is missing; the images of source cars differ in size; e\.g\.",
    ),
    (changed(data={"source": "digits", "resize": "squash"}), r"resize = squash has no effect without size"),
    (changed(data={"source": "digits", "trim": 20}), r"trim works for image files, and source digits has none"),
    (changed(data={"source": "digits", "labels": 1.5}), r"data.labels: 1.5 must be a share between 0 and 1, a number"),
    (changed(data={"source": "digits", "labels": 0}), r"data.labels: 0 must be a share"),
    (changed(data={"source": "digits", "labels": True}), r"data.labels: True must be a share"),
    (changed(data={"source": "digits", "labels": [3]}), r"data.labels: \[3\] must be a share"),
    (changed(data={"source": "digits", "on_bad_image": "drop"}), r"data.on_bad_image = 'drop' must be fail or skip"),
    (changed(data={"source": "digits", "val_fraction": 0.9}), r"data.val_fraction = 0.9 must be less than or equal"),
    (changed(sampler="tpee"), r"sampler.name = 'tpee' must be tpe, random, sobol, gp or nsga2"),
    (changed(scheduler="ahsa"), r"scheduler.name = 'ahsa' must be fifo or asha"),
    (changed(objective="test_top1"), r"unknown metric 'test_top1'.*test scores are read once"),
    (changed(objective=["val_top1", "wall_s"], scheduler="asha"), r"cannot stop trials early with 2 objectives"),
    (changed(objective="wall_s", scheduler="asha"), r"needs an objective that is measured every epoch"),
    (
        changed(scheduler={"name": "asha", "grace_epochs": 9}),
        r"grace_epochs stopped trials by scores in the mi",
    ),
    (
        changed(scheduler={"name": "asha", "rungs": "cooldown"}),
        r"schedule = cosine has none.*use knobs.schedule: ",
    ),
    (
        changed(scheduler={"name": "asha", "rungs": "cooldown"}, knobs__schedule=["trapezoid", "cosine"]),
        r"or rungs: schedules",
    ),
    (changed(fidelity={}), r"fidelity is asked of rungs, and there are none; use scheduler: asha"),
    (changed(scheduler="asha", fidelity={"anchors": 99}), r"99 configs take 198 trials, more than budget.trials = "),
    (changed(resources={"workers": 2, "executor": "inline"}), r"executor inline has one worker"),
    (changed(resources={"cpus": 0}), r"resources.cpus = 0.0 must be greater than 0"),
    (changed(priors=[{"method": "mixup", "mixup.alpha": 9.0}]), r"priors\[0\]: mixup.alpha = 9.0 lies outside"),
    (changed(priors=[{"method": "mixup", "lrr": 1}]), r"priors\[0\]: unknown knob of this space 'lrr'"),
    (changed(name="../x"), r"name = '../x' must be 1 to 100 letters"),
    (changed(budgets={}), r"unknown key 'budgets'; did you mean 'budget'"),
    (changed(seeds={"study": -1}), r"seeds.study = -1 must be greater than or equal to 0"),
    (changed(knobs=3), r"knobs = 3 must be a valid mapping"),
    (changed(knobs__warmup_epochs=3), r"warmup_epochs = 3 must be below budget.epochs = 3"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_bad_spaces_are_refused_with_file_key_rule_value_and_remedy(content, message):
    with pytest.raises(SpecError, match=message) as caught:
        parse_space(content, "a.yaml")
    assert all(line.startswith("a.yaml: ") for line in str(caught.value).splitlines())


TEXTS = [
    ("knobs: {method: mixup", r"a.yaml:1:22: not valid YAML"),
    ("knobs: {lr: 0.1}\nknobs: {lr: 0.2}", r"key 'knobs' stands here twice; keep one"),
    ("knobs: {1: 2}", r"key 1 must be a word; put it in quotes"),
    ("- a", r"must be a mapping of keys to values"),
    ("knobs: !!python/object:os.system {}", r"tag .*os.system is not read"),
    ("", r"must be a mapping of keys to values"),
    ("{}", r"knobs is missing; add it"),
]


@pytest.mark.parametrize(
    ("epochs", "scheduler", "rungs"),
    [
        (200, "asha", (50, 200)),
        (200, {"name": "asha", "reduction": 2}, (50, 100, 200)),
        (270, {"name": "asha", "reduction": 3, "first": 0.037}, (10, 30, 90, 270)),
        (3, "asha", (1, 3)),
        (1, "asha", (1,)),
        (200, "fifo", (200,)),
    ],
)
def test_rungs_lead_from_the_first_to_the_full_schedule_in_equal_ratios(epochs, scheduler, rungs):
    space = parse_space({"knobs": {}, "budget": {"epochs": epochs}, "scheduler": scheduler}, "a.yaml")
    assert space.rungs == rungs


@pytest.mark.parametrize(("text", "message"), TEXTS, ids=[text[:20] for text, _ in TEXTS])
def test_files_that_are_no_space_are_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SpecError, match=message):
        load_space("a.yaml")


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="cannot be read as a search space: not UTF-8"):
        load_space(tmp_path / "a.yaml")


def test_a_missing_space_names_the_nearest_one_that_comes_along():
    with pytest.raises(SpecError, match="did you mean 'quickstart'"):
        load_space("quickstrat")


@pytest.mark.parametrize("path", list(shipped("search space").values()), ids=lambda path: path.stem)
def test_every_space_that_comes_along_is_good_and_has_its_readme_line(path):
    space = load_space(path)
    assert space.name == path.stem
    assert space.about
    assert f"`{path.name}`" in (path.parent / "README.md").read_text()
    text = path.read_text()
    assert "# COMMAND" in text
    assert "# HARDWARE" in text


@pytest.mark.parametrize(
    ("override", "check"),
    [
        ("trials=9", lambda s: s.budget.trials == 9),
        ("budget.epochs=7", lambda s: s.budget.epochs == 7),
        ("sampler=random", lambda s: s.sampler.name == "random"),
        ("sampler.startup_trials=3", lambda s: s.sampler.startup_trials == 3),
        ("width=4", lambda s: next(d for d in s.dimensions if d.name == "width").choices == (4,)),
        ("knobs.lr=1e-2", lambda s: next(d for d in s.dimensions if d.name == "lr").choices == (0.01,)),
        ("mixup.alpha=0.5", lambda s: next(d for d in s.dimensions if d.name == "mixup.alpha").choices == (0.5,)),
        ("method=[mixup]", lambda s: s.dimensions[0].choices == ("mixup",)),
        ("objective=[val_top1, wall_s]", lambda s: s.directions == ("maximize", "minimize")),
    ],
)
def test_overrides_reach_sections_and_knobs(tmp_path, override, check):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(GOOD))
    assert check(load_space(tmp_path / "a.yaml", [override]))


@pytest.mark.parametrize(
    ("override", "gone"), [("method=vanilla", {"alpha"}), ("loss=mce", {"eta"}), ("method=[mixup]", set())]
)
def test_an_override_that_narrows_methods_or_losses_drops_their_knobs(tmp_path, override, gone):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(GOOD))
    space = load_space(tmp_path / "a.yaml", [override])
    assert {"alpha", "eta", "lr"} - set(space.knobs) == gone


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trials", "must read key=value"),
        ("=3", "must read key=value"),
        ("budget.trals=3", "did you mean 'trials'"),
        ("trials={", "not valid YAML"),
    ],
)
def test_bad_overrides_are_refused(tmp_path, override, message):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(GOOD))
    with pytest.raises(SpecError, match=message):
        load_space(tmp_path / "a.yaml", [override])


@settings(max_examples=300, deadline=None)
@given(
    where=st.sampled_from(
        ["data", "budget", "knobs", "sampler", "scheduler", "seeds", "resources", "objective", "priors"]
    ),
    inner=st.sampled_from(
        ["source", "trials", "epochs", "method", "alpha", "lr", "name", "study", "workers", "when", ""]
    ),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=6), inside, max_size=3),
        max_leaves=6,
    ),
)
def test_whatever_stands_in_a_space_it_is_read_or_refused_but_never_crashes(where, inner, value):
    content = {key: dict(part) for key, part in GOOD.items()}
    if inner and isinstance(content.get(where, {}), dict):
        content.setdefault(where, {})[inner] = value
    else:
        content[where] = value
    assert refusal(content) is None or refusal(content).startswith("a.yaml: ")


def refusal(content) -> str | None:
    """The message with which a space is refused; None for a good one. Any other error is a bug."""
    try:
        parse_space(content, "a.yaml")
    except AutoMixError as error:
        return str(error)
    return None


def test_the_space_id_ignores_what_may_change_while_a_study_goes_on():
    first = parse_space(GOOD, "a")
    same = parse_space(changed(budget={"trials": 99, "epochs": 3}, about="x", resources={"cpus": 2}), "b")
    other = parse_space(changed(budget={"trials": 4, "epochs": 5}), "c")
    assert first.space_id == same.space_id != other.space_id


def test_a_config_writes_every_active_default_out_and_nothing_inactive():
    config = TrialConfig(data={"source": "digits"}, knobs={"method": "mixup", "epochs": 2})
    assert config.knobs["mixup.alpha"] == 1.0
    assert config.knobs["loss"] == "mce"
    assert config.knobs["momentum"] == 0.9
    assert not any(name.startswith(("cutmix.", "decoupled.")) for name in config.knobs)
    assert config.mixer.alpha == 1.0
    assert config.recipe.epochs == 2


def test_a_config_refuses_knobs_without_effect_and_illegal_values():
    for knobs, message in [
        ({"method": "mixup", "cutmix.alpha": 1.0}, "cutmix.alpha has no effect with method mixup"),
        ({"method": "mixup", "decoupled.eta": 0.1}, "decoupled.eta has no effect with method mixup and loss mce"),
        ({"method": "vanilla", "loss": "decoupled"}, "loss decoupled has no effect with method vanilla"),
        ({"method": "mixup", "lr": -1.0}, "lr = -1.0 must be > 0"),
        ({"method": "mixup", "epochs": 5, "warmup_epochs": 5}, "warmup_epochs = 5 must be below epochs = 5"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            TrialConfig(data={"source": "digits"}, knobs=knobs)


def test_the_config_id_depends_on_content_and_not_on_where_the_data_lie():
    def make(path, labels=None, **more):
        data = {"source": "folder", "path": path, "labels": labels}
        return TrialConfig(data=data, knobs={"method": "mixup"}, data_fingerprint="f", **more)

    assert make("/a").config_id == make("/b").config_id != make("/a", seed=1).config_id
    assert make("/a", labels="/a/15.txt").config_id == make("/a", labels="/b/15.txt").config_id
    assert make("/a", labels="/a/15.txt").config_id != make("/a", labels=15).config_id


def test_a_config_survives_its_yaml(tmp_path):
    config = TrialConfig(data={"source": "digits"}, knobs={"method": "cutmix", "loss": "decoupled"}, seed=2**62)
    (tmp_path / "best.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "best.yaml") == config
    assert load_config(tmp_path / "best.yaml", ["lr=0.5", "seed=1"]).knobs["lr"] == 0.5
    (tmp_path / "best.yaml").write_text(config.to_yaml() + "sed: 1\n")
    with pytest.raises(SpecError, match=r"best.yaml: unknown key 'sed'; did you mean 'seed'"):
        load_config(tmp_path / "best.yaml")


def test_streams_of_one_seed_are_independent_and_stable():
    assert derive_seed(0, "mix", 1) == derive_seed(0, "mix", 1)
    assert len({derive_seed(s, name, e) for s in range(5) for name in ("mix", "order") for e in range(20)}) == 200
    assert derive_seed(0, "mix", 1) == 8753859335474778628


def test_knobs_of_one_short_name_share_a_column_of_one_type():
    kinds = {}
    for name, entry in catalogue().items():
        column = column_of(name)
        assert column in CANONICAL or column.startswith("knob.")
        assert kinds.setdefault(column, entry.knob.kind) is entry.knob.kind
