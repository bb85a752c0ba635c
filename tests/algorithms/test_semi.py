"""Semi-supervised training against the numbers of the released code: TorchSSL and, for mixed images, OpenMixup."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from automixsearch.algorithms import ALGORITHMS
from automixsearch.algorithms.across import released_loss
from automixsearch.algorithms.base import Batch, Clock, Images, Setup
from automixsearch.algorithms.mixmatch import interleaved
from automixsearch.algorithms.semi import follow
from automixsearch.algorithms.uda import annealed
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.losses import Decoupled, DecoupledBCE
from automixsearch.mixers import MixUp
from automixsearch.mixers.mixup import MixUpDraw
from automixsearch.models.base import Chain
from automixsearch.models.batch_norm import frozen_statistics
from automixsearch.models.build import build_model
from automixsearch.training import strong
from automixsearch.training.augment import VIEWS
from automixsearch.training.optimiser import learning_rate, make_optimizer
from automixsearch.training.world import World


def tensor(file, name):
    return torch.from_numpy(np.asarray(file[name]))


class Given(nn.Module):
    """A network whose logits are its input, so that the losses of the released code can be fed theirs."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(classes, classes)

    def forward(self, x):
        return x.flatten(1)

    def embedded(self, x):
        return x.flatten(1)


class Tiny(Chain):
    """The network of the golden steps."""

    def __init__(self, state, prefix, norm, slope=0.1):
        super().__init__()
        width, channels = state[f"{prefix}conv1.weight"].shape[:2]
        wide = len(state[f"{prefix}conv2.weight"])
        classes = len(state[f"{prefix}fc.weight"])
        self.widths = {"stem": width, "stage1": wide}
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1), norm(width), nn.LeakyReLU(slope))
        self.stage1 = nn.Sequential(nn.Conv2d(width, wide, 3, 2, 1), norm(wide), nn.LeakyReLU(slope))
        self.head = nn.Linear(wide, classes)
        self.named = {
            "conv1": self.stem[0],
            "bn1": self.stem[1],
            "conv2": self.stage1[0],
            "bn2": self.stage1[1],
            "fc": self.head,
        }


def put(named, file, prefix):
    """Give modules the values that the file has for them."""
    for name, module in named.items():
        module.load_state_dict({key: tensor(file, f"{prefix}{name}.{key}") for key in module.state_dict()})


def made(name, network, knobs, classes, unlabelled, normalise=lambda x: x):
    config = TrialConfig(
        data=Data(),
        knobs={
            "algorithm": name,
            "method": "vanilla",
            "epochs": 20,
            "batch_size": 4,
            "lr": 0.03,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
            "decay_norms": False,
            "schedule": "cosine_7_16",
            "steps_per_epoch": 1,
            "channels_last": False,
            "amp": "off",
            **knobs,
        },
    )
    zeros = torch.zeros(3)
    setup = Setup(config, network, torch.device("cpu"), World(), classes, 4, unlabelled, 8, normalise, zeros, zeros + 1)
    algorithm = ALGORITHMS[name].build(setup).train()
    return config.recipe, algorithm


def batch_of(x, y, views, index):
    return Batch((x,), torch.arange(len(x)), y, Images(tuple(views), index), torch.zeros(len(index), dtype=torch.long))


STEPS = {
    "pl": ("pseudo_label", {}),
    "mixmatch": ("mixmatch", {}),
    "remixmatch": ("remixmatch", {"remixmatch.ramp_up": 0.25}),
    "uda": ("uda", {}),
    "fixmatch": ("fixmatch", {}),
    "flexmatch": ("flexmatch", {}),
}


@pytest.mark.parametrize("case", STEPS)
def test_three_steps_are_those_of_the_release(golden, case, monkeypatch):
    file = golden("ssl_steps")
    name, knobs = STEPS[case]
    network = Tiny({key: file[f"{case}_init.{key}"] for key in ("conv1.weight", "conv2.weight", "fc.weight")}, "",
                   lambda width: nn.BatchNorm2d(width, eps=0.001, momentum=0.001))  # fmt: skip
    ratio = len(file[f"{case}_u0_0"]) // len(file[f"{case}_x_lb_0"])
    knobs = {f"{name}.threshold": 0.6, f"{name}.ratio": ratio, **knobs}
    put(network.named, file, f"{case}_init.")
    recipe, algorithm = made(name, network, knobs, int(file["num_classes"]), 12)
    named = dict(network.named)
    if case == "remixmatch":
        named["rot_classifier"] = algorithm.rotation
        put({"rot_classifier": algorithm.rotation}, file, f"{case}_init.")
    optimizer = make_optimizer(recipe, algorithm.parts(), fused=False)
    for step in range(3):
        x, y, index = (tensor(file, f"{case}_{what}_{step}") for what in ("x_lb", "y", "index"))
        views = [tensor(file, f"{case}_u{view}_{step}") for view in range(len(algorithm.needs.unlabelled))]
        if f"{case}_lam_drawn" in file:
            lam = float(file[f"{case}_lam_drawn"][step])
            drawn = max(lam, 1 - lam), tensor(file, f"{case}_perm")[step]
            monkeypatch.setattr(algorithm, "own_draw", lambda rows, generator, drawn=drawn: drawn)
        if case == "remixmatch":
            given = tensor(file, f"{case}_u3_{step}"), tensor(file, f"{case}_rot_label_{step}")
            monkeypatch.setattr(algorithm, "turned", lambda images, generator, given=given: given)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, 1)
        optimizer.zero_grad()
        clock, total = Clock(step + int(file["first_it"]), 20, 0, 20), 0.0
        for term in algorithm.terms(batch_of(x, y, views, index), clock, torch.Generator()):
            term.loss.backward()
            total += term.loss.item()
        optimizer.step()
        algorithm.after_step(clock)
        assert total == pytest.approx(float(file[f"{case}_total"][step]), rel=1e-5)
        for place in ("step1",) if step == 0 else ("final",) if step == 2 else ():
            for part, module in named.items():
                for key, value in module.state_dict().items():
                    expected = file[f"{case}_{place}.{part}.{key}"]
                    np.testing.assert_allclose(value.numpy(), expected, atol=1e-5, err_msg=f"{place} {part}.{key}")
    average = dict(zip(network.state_dict(), algorithm.average.state_dict().values(), strict=True))
    places = {id(value): key for key, value in network.state_dict(keep_vars=True).items()}
    for part, module in network.named.items():
        for key, value in module.named_parameters():
            got = average[places[id(value)]]
            np.testing.assert_allclose(got.numpy(), file[f"{case}_ema.{part}.{key}"], atol=1e-6)


def replayed(algorithm, monkeypatch, outputs):
    """Let the network answer with `outputs`, one after the other; their gradients are what the losses give."""
    remaining = iter(outputs)
    monkeypatch.setattr(algorithm, "logits", lambda x: next(remaining))


LOSSES = [
    *(("pl", "pseudo_label", number) for number in range(4)),
    *(("uda", "uda", number) for number in range(5)),
    *(("fix", "fixmatch", number) for number in range(5)),
]


@pytest.mark.parametrize(("prefix", "name", "number"), LOSSES)
def test_losses_masks_and_gradients_are_those_of_the_release(golden, prefix, name, number, monkeypatch):
    file, case = golden("ssl_losses"), f"{prefix}{number}"
    labelled, weak = (tensor(file, f"{case}_logits_{part}").requires_grad_() for part in ("lb", "w"))
    knobs = {f"{name}.threshold": float(file[f"{case}_p_cutoff"]), f"{name}.ratio": len(weak) // len(labelled)}
    if name == "uda":
        knobs |= {"uda.temperature": float(file[f"{case}_T"]), "uda.annealing": str(file[f"{case}_schedule"])}
    if name == "fixmatch":
        knobs |= {"fixmatch.temperature": float(file[f"{case}_T"]), "fixmatch.hard": bool(file[f"{case}_hard_label"])}
    _, algorithm = made(name, Given(10), knobs, 10, 64)
    y, index = tensor(file, f"{case}_y"), torch.arange(len(weak))
    if name == "pseudo_label":
        views, asked = [weak], weak
        replayed(algorithm, monkeypatch, [labelled, weak])
    else:
        asked = tensor(file, f"{case}_logits_s").requires_grad_()
        views = [weak, asked]
        replayed(algorithm, monkeypatch, [torch.cat([labelled, weak, asked])])
    steps = int(file[f"{case}_num_train_iter"]) if f"{case}_num_train_iter" in file else 10
    clock = Clock(int(file[f"{case}_it"]) if f"{case}_it" in file else 0, steps, 0, 1)
    terms = list(algorithm.terms(batch_of(labelled, y, views, index), clock, torch.Generator()))
    total = sum(term.loss for term in terms)
    total.backward()
    told = {key: value for term in terms for key, value in term.told.items()}
    assert told["labelled_loss"].item() == pytest.approx(float(file[f"{case}_sup"]), rel=1e-6)
    assert told["unlabelled_loss"].item() == pytest.approx(float(file[f"{case}_unsup"]), rel=1e-5, abs=1e-7)
    assert told["used"].item() == pytest.approx(file[f"{case}_mask"].mean())
    assert total.item() == pytest.approx(float(file[f"{case}_total"]), rel=1e-6)
    np.testing.assert_allclose(labelled.grad, file[f"{case}_grad_lb"], atol=1e-7)
    np.testing.assert_allclose(asked.grad, file[f"{case}_grad_{'w' if asked is weak else 's'}"], atol=1e-7)


def test_the_annealed_confidence_is_that_of_the_release(golden):
    file = golden("ssl_losses")
    for schedule in ("linear", "exp", "log"):
        for row, classes in enumerate(file["tsa_classes"].tolist()):
            progress = file["tsa_it"] / int(file["tsa_num_train_iter"])
            got = [annealed(schedule, one, classes) for one in progress.tolist()]
            np.testing.assert_allclose(got, file[f"tsa_{schedule}"][row], rtol=1e-12)


@pytest.mark.parametrize("case", ["flex0", "flex1"])
def test_fourteen_steps_of_thresholds_and_records_are_those_of_the_release(golden, case, monkeypatch):
    file = golden("ssl_losses")
    logits, strong_logits, labelled = (tensor(file, f"{case}_logits_{part}") for part in ("w", "s", "lb"))
    knobs = {
        "flexmatch.threshold": float(file[f"{case}_p_cutoff"]),
        "flexmatch.warm": bool(file[f"{case}_thresh_warmup"]),
        "flexmatch.ratio": 3,
    }
    _, algorithm = made("flexmatch", Given(5), knobs, 5, int(file[f"{case}_num_unlabelled"]))
    for step in range(len(logits)):
        own, asked = labelled[step].clone().requires_grad_(), strong_logits[step].clone().requires_grad_()
        replayed(algorithm, monkeypatch, [torch.cat([own, logits[step], asked])])
        index = tensor(file, f"{case}_index")[step]
        batch = batch_of(own, tensor(file, f"{case}_y")[step], [logits[step], asked], index)
        (term,) = algorithm.terms(batch, Clock(step, 14, 0, 1), torch.Generator())
        term.loss.backward()
        np.testing.assert_allclose(algorithm.beta, file[f"{case}_beta"][step], atol=1e-6)
        assert term.told["unlabelled_loss"].item() == pytest.approx(float(file[f"{case}_unsup"][step]), rel=1e-6)
        assert term.told["used"].item() == pytest.approx(float(file[f"{case}_mask_ratio"][step]))
        label = logits[step].argmax(1)
        np.testing.assert_allclose(algorithm.thresholds()[label], file[f"{case}_threshold"][step], atol=1e-6)
        assert algorithm.record.tolist() == file[f"{case}_record_after"][step].tolist()
        np.testing.assert_allclose(asked.grad, file[f"{case}_grad_s"][step], atol=1e-7)
        np.testing.assert_allclose(own.grad, file[f"{case}_grad_lb"][step], atol=1e-7)


@pytest.mark.parametrize("case", ["mix0", "mix1", "mix2"])
def test_mixmatch_guesses_mixes_and_weighs_as_the_release(golden, case, monkeypatch):
    file = golden("ssl_losses")
    x, *views = (tensor(file, f"{case}_x_{part}") for part in ("lb", "w1", "w2"))
    knobs = {
        "mixmatch.temperature": float(file[f"{case}_T"]),
        "mixmatch.own_alpha": float(file[f"{case}_alpha"]),
        "mixmatch.ramp_up": float(file[f"{case}_ramp_up"]),
        "mixmatch.unlabelled_weight": float(file[f"{case}_lambda_u"]),
    }
    _, algorithm = made("mixmatch", Given(10), knobs, 10, 64)
    drawn = float(file[f"{case}_lam_drawn"])
    monkeypatch.setattr("automixsearch.algorithms.mixmatch.draw_beta", lambda alpha, generator: drawn)
    index = tensor(file, f"{case}_index")
    assert algorithm.own_draw(12, torch.Generator())[0] == pytest.approx(float(file[f"{case}_lam"]))
    monkeypatch.setattr(algorithm, "own_draw", lambda rows, generator: (float(file[f"{case}_lam"]), index))
    own, others = (tensor(file, f"{case}_logits_{part}").requires_grad_() for part in ("x", "u"))
    rows, seen = torch.cat([own, others]), []
    answers = iter([tensor(file, f"{case}_logits_w1"), tensor(file, f"{case}_logits_w2"),
                    *(rows[places] for places in interleaved(3, 4))])  # fmt: skip
    monkeypatch.setattr(algorithm, "logits", lambda x: (seen.append(x), next(answers))[1])
    clock = Clock(int(file[f"{case}_it"]), int(file[f"{case}_num_train_iter"]), 0, 1)
    batch = batch_of(x, tensor(file, f"{case}_y"), views, torch.arange(4))
    terms = list(algorithm.terms(batch, clock, torch.Generator()))
    total = sum(term.loss for term in terms)
    total.backward()
    np.testing.assert_allclose(torch.stack(seen[2:]), file[f"{case}_interleaved"], atol=1e-6)
    assert terms[-1].told["labelled_loss"].item() == pytest.approx(float(file[f"{case}_sup"]), rel=1e-6)
    assert terms[-1].told["unlabelled_loss"].item() == pytest.approx(float(file[f"{case}_unsup"]), rel=1e-6)
    assert total.item() == pytest.approx(float(file[f"{case}_total"]), rel=1e-6)
    np.testing.assert_allclose(own.grad, file[f"{case}_grad_x"], atol=1e-7)
    np.testing.assert_allclose(others.grad, file[f"{case}_grad_u"], atol=1e-7, rtol=1e-5)


def test_rows_are_interleaved_as_in_the_release(golden):
    file = golden("ssl_losses")
    for name in "abcd":
        expected = tensor(file, f"interleave_{name}")
        chunks, size = expected.shape
        order = interleaved(chunks, size)
        tags = order % size + 1000 * (order // size)
        assert torch.equal(tags, expected - (expected.min() - tags.min()))


def test_remixmatch_aligns_guesses_as_the_release(golden):
    file = golden("ssl_losses")
    _, algorithm = made("remixmatch", Given(10), {"remixmatch.temperature": float(file["remix_T"])}, 10, 64)
    algorithm.frequency.copy_(tensor(file, "remix_p_target"))
    for step in range(4):
        q = algorithm.aligned(tensor(file, f"remix{step}_logits_w").softmax(1))
        np.testing.assert_allclose(algorithm.predictions, file[f"remix{step}_p_model"], atol=1e-6)
        np.testing.assert_allclose(q, file[f"remix{step}_q"], atol=1e-6)


def test_the_learning_rate_is_that_of_the_release(golden):
    file = golden("ssl_losses")
    steps = int(file["lr_num_train_iter"])
    recipe, _ = made("uda", Given(10), {"epochs": 1, "steps_per_epoch": steps}, 10, 64)
    got = [learning_rate(recipe, step, steps) for step in file["lr_step"].tolist()]
    np.testing.assert_allclose(got, file["lr_value"], rtol=1e-12)


@dataclass(frozen=True)
class Replay(MixUp):
    """MixUp with draws that are given."""

    name: ClassVar[str] = "replay"
    draws: ClassVar[list[MixUpDraw]] = []

    def draw(self, shape, generator):
        return self.draws.pop(0)


@pytest.mark.parametrize("case", range(4))
def test_a_step_with_mixed_images_is_that_of_the_release(golden, case):
    file, prefix = golden("ssl_dm_step"), f"dmx{case}"
    labelled, mu = int(file["num_labelled"]), int(file["mu"])
    eta, power, mode = float(file[f"{prefix}_eta"]), float(file[f"{prefix}_t"]), str(file[f"{prefix}_eta_mode"])
    network = OneLayer(file, f"{prefix}_init.encoder.")
    loss = {"loss": "decoupled", "decoupled.eta": eta, "decoupled.xi": power, "decoupled.weighting": mode}
    weight = float(file[f"{prefix}_weight_lu"])
    knobs = {
        "method": "mixup",
        "fixmatch.variant": "released",
        "fixmatch.threshold": float(file[f"{prefix}_p_cutoff"]),
        "fixmatch.ratio": mu,
        "fixmatch.side": str(file[f"{prefix}_lam_side"]),
        **(loss if eta else {"loss": "mce"}),
    }
    _, algorithm = made("fixmatch", network, knobs, int(file["num_classes"]), 64)
    algorithm.mixer = Replay()
    put(OneLayer.parts(algorithm.average), file, f"{prefix}_init.encoder_k.")
    put({"fc": algorithm.mix_head}, file, f"{prefix}_init.head_mix.")
    lams = file[f"{prefix}_lam_drawn"].tolist()
    partner = tensor(file, f"{prefix}_index_ll")
    other = MixUpDraw(torch.randperm(2 * labelled), lams[-1])
    Replay.draws[:] = [MixUpDraw(partner, lams[0]), other]
    image = tensor(file, f"{prefix}_img")
    views = [image[:, view] for view in (1, 2)]
    batch = batch_of(image[:labelled, 0], tensor(file, f"{prefix}_y"), views, torch.arange(labelled * mu))
    progress = math.acos(1 - 2 * weight) / math.pi
    total, told = 0.0, {}
    for term in algorithm.terms(batch, Clock(progress, 1, 0, 1), torch.Generator()):
        term.loss.backward()
        total, told = total + term.loss.item(), told | term.told
    assert total == pytest.approx(float(file[f"{prefix}_loss"]), rel=1e-5)
    assert told["used"].item() == pytest.approx(float(file[f"{prefix}_mask_ratio"]))
    if weight:
        assert told["across_loss"].item() == pytest.approx(float(file[f"{prefix}_loss_lu"]), rel=1e-5)
    else:
        assert other.lam == lams[0]  # the release draws nothing for a term of weight 0
    parts = {**OneLayer.parts(algorithm.network, "encoder."), "head_mix.fc": algorithm.mix_head}
    for part, module in parts.items():
        for key, value in module.named_parameters():
            np.testing.assert_allclose(value.grad, file[f"{prefix}_grad.{part}.{key}"], atol=1e-5, err_msg=key)
    if weight:
        means = algorithm.network.stem[1].running_mean, algorithm.average.stem[1].running_mean
        np.testing.assert_allclose(means[0], file[f"{prefix}_bn_mean_after"], atol=1e-5)
        np.testing.assert_allclose(means[1], file[f"{prefix}_teacher_bn_mean_after"], atol=1e-5)


class OneLayer(Chain):
    """The network of the golden step with mixed images."""

    def __init__(self, file, prefix):
        super().__init__()
        width = len(file[f"{prefix}0.conv.weight"])
        self.widths = {"stem": width}
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.1))
        self.head = nn.Linear(width, len(file[f"{prefix}1.fc.weight"]))
        put(self.parts(self), file, prefix)

    @staticmethod
    def parts(network, prefix=""):
        names = {"0.conv": network.stem[0], "0.bn": network.stem[1], "1.fc": network.head}
        return {f"{prefix}{name}": module for name, module in names.items()}


def test_the_decoupled_term_of_guessed_labels_is_as_intended_and_as_released(golden):
    file = golden("dm_asymmetric")
    for number in range(14):
        case = f"ce{number}"
        lam, eta, power = (float(file[f"{case}_{name}"]) for name in ("lam", "eta", "t"))
        labels = torch.stack([tensor(file, f"{case}_y_labelled"), tensor(file, f"{case}_y_pseudo")], 1)
        shares = torch.tensor([lam, 1 - lam], dtype=torch.float64).expand(8, 2)
        counts, known = tensor(file, f"{case}_mask"), torch.tensor([True, False]).expand(8, 2)
        for kind, value in (("", Decoupled(eta=eta, xi=power)), ("openmixup_", Decoupled(eta, "less", power))):
            logits = tensor(file, f"{case}_logits").requires_grad_()
            if kind:
                loss = released_loss(value, logits, labels, shares, counts)
            else:
                loss = value(logits, labels, shares, labelled=known, weights=counts)
            loss.backward()
            assert loss.item() == pytest.approx(float(file[f"{case}_{kind}loss"]), rel=1e-5), (case, kind)
            np.testing.assert_allclose(logits.grad, file[f"{case}_{kind}grad"], atol=1e-6, err_msg=f"{case} {kind}")


@pytest.mark.parametrize(("side", "rule"), [("min", "rule_min"), ("max", "rule_max")])
@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_the_side_chooses_the_share_of_the_labelled_image(golden, side, rule, method):
    file = golden("dm_asymmetric")
    _, algorithm = made("fixmatch", Given(10), {"method": method, "fixmatch.side": side}, 10, 64)
    seen = []
    algorithm.mixed_logits = lambda x: torch.zeros(len(x), 10)
    algorithm.across_mean = lambda logits, labels, shares, known, counts: seen.append((shares, known))
    x, weak = torch.zeros(4, 3, 8, 8), torch.ones(4, 3, 8, 8)
    guess = type("Guess", (), {"label": torch.arange(4), "counts": torch.ones(4)})
    for drawn, expected in zip(file["rule_lam_drawn"], file[rule], strict=True):
        Replay.draws[:] = [MixUpDraw(torch.arange(8), float(drawn))]
        mixer = Replay() if method == "mixup" else algorithm.mixer
        algorithm.mixed_logits = lambda x: (seen.append(x), torch.zeros(len(x), 10))[1]
        algorithm.across_loss(x, torch.arange(4), weak, guess, mixer, torch.Generator().manual_seed(1), x)
        pictures, (shares, known) = seen[-2:]
        np.testing.assert_allclose(1 - pictures.mean((1, 2, 3)), shares[:, 0], atol=1e-6)  # weak images are 1
        assert known.tolist() == [[True, False]] * 4
        if method == "mixup":
            np.testing.assert_allclose(shares[:, 0], expected)
        else:
            assert (shares[:, 0] <= 0.5).all() if side == "min" else (shares[:, 0] >= 0.5).all()


def test_averaged_weights_and_copied_statistics_are_those_of_the_release(golden):
    file = golden("ssl_ema_bn")
    for case in ("ema0", "ema1"):
        names = [name.removeprefix(f"{case}_param.") for name in file if name.startswith(f"{case}_param.")]
        student, average = (_Named({name: file[f"{case}_param.{name}"][0] for name in names}) for _ in range(2))
        for step in range(5):
            student.take({name: file[f"{case}_param.{name}"][step + 1] for name in names})
            follow(average, student, float(file[f"{case}_decay"]))
            for name in names:
                got = average.values[name.replace(".", "_")].detach()
                np.testing.assert_allclose(got, file[f"{case}_shadow.{name}"][step], atol=1e-6)
            assert average.statistics.tolist() == student.statistics.tolist() == [step + 1.0] * 2


class _Named(nn.Module):
    """Parameters by name, and a buffer that grows by one with each update."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.ParameterDict({k.replace(".", "_"): torch.from_numpy(v.copy()) for k, v in values.items()})
        self.register_buffer("statistics", torch.zeros(2))

    def take(self, values):
        for name, value in values.items():
            self.values[name.replace(".", "_")].data = torch.from_numpy(value.copy())
        self.statistics += 1


def test_frozen_statistics_are_those_of_the_release(golden):
    file = golden("ssl_ema_bn")
    first, last = nn.BatchNorm2d(3), nn.BatchNorm2d(2)
    conv = nn.Conv2d(3, 2, 1)
    conv.load_state_dict({"weight": tensor(file, "bnc_conv_weight"), "bias": tensor(file, "bnc_conv_bias")})
    network = nn.Sequential(first, conv, last)

    def state():
        counted = first.num_batches_tracked.item()
        parts = [first.running_mean, first.running_var, last.running_mean, last.running_var]
        return [*torch.cat(parts).tolist(), counted]

    x, outputs, states = tensor(file, "bnc_x"), tensor(file, "bnc_output"), tensor(file, "bnc_state")
    np.testing.assert_allclose(state(), states[0], atol=1e-6)
    with torch.no_grad():
        for number in range(len(x)):
            with frozen_statistics(network if number in (1, 2) else nn.Identity()):
                np.testing.assert_allclose(network(x[number]), outputs[number], atol=1e-5)
            if number in (1, 2):
                np.testing.assert_allclose(state(), states[1], atol=1e-6)
    np.testing.assert_allclose(state(), states[4], atol=1e-5)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_the_released_wide_resnet_computes_what_it_does(golden, case):
    file = golden("ssl_ema_bn")
    factor, classes = int(file[f"{case}_widen_factor"]), int(file[f"{case}_num_classes"])
    recipe, _ = made("uda", Given(10), {"backbone": f"wrn28_{factor}_released"}, 10, 64)
    network = build_model(recipe, 3, classes, 0, 12)
    places = [k for k, norm in enumerate(file[f"{case}_grad_norm"].tolist()) if not math.isnan(norm)]
    unread = 2 * (16 * factor + 32 * factor)  # of two BatchNorms whose output nobody reads
    assert sum(p.numel() for p in network.parameters()) == int(file[f"{case}_num_params"]) - unread
    a, b = file[f"{case}_rule_ab"].tolist()
    parameters = list(network.named_parameters())
    deviations = [parameter.detach().std().item() for _, parameter in parameters]
    for k, (name, parameter) in zip(places, parameters, strict=True):
        wave = np.sin(a * np.arange(parameter.numel()) + b * (k + 1))
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        value = wave * np.sqrt(2 / fan) if parameter.ndim > 1 else 0.1 * wave if "bias" in name else 1 + 0.2 * wave
        assert ("bias" in name) == ("bias" in str(file[f"{case}_param_names"][k]))
        parameter.data = torch.from_numpy(value.astype(np.float32)).view_as(parameter)
    read = [k for k in range(25) if k not in (8, 16)]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for k, norm in zip(read, norms, strict=True):
        place = a * np.arange(norm.num_features)
        norm.running_mean.copy_(torch.from_numpy(0.05 * np.sin(place + b * (k + 1))))
        norm.running_var.copy_(torch.from_numpy(1 + 0.5 * np.sin(place + 2 * b * (k + 1))))
    x, wide = tensor(file, f"{case}_x"), factor == 8
    with torch.no_grad():
        np.testing.assert_allclose(network.eval()(x), file[f"{case}_logits_eval"], rtol=1e-4, atol=1e-5)
    logits = network.train()(x)
    # Of the wide one, whose maps have 8 values here, rounding alone moves the logits by 0.01.
    np.testing.assert_allclose(logits.detach(), file[f"{case}_logits_train"], atol=2e-2 if wide else 1e-4)
    (logits * torch.sin(torch.arange(logits.numel())).view_as(logits)).sum().backward()
    for k, (name, parameter) in zip(places, parameters, strict=True):
        if not wide:
            expected = float(file[f"{case}_grad_norm"][k])
            assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-3, abs=1e-5), name
    for k, norm in zip(read, norms, strict=True):
        assert norm.running_var.sum().item() == pytest.approx(float(file[f"{case}_bn_var_sum_after"][k]), rel=1e-4)
    if case == "c0":
        for k, (name, parameter), got in zip(places, parameters, deviations, strict=True):
            expected = float(file["init_std"][k])
            if parameter.ndim > 1 and expected:
                assert got == pytest.approx(expected, rel=0.15 if name.startswith("head") else 0.05), name


def test_strong_views_are_those_of_the_release_to_the_last_bit(golden):
    file = golden("ssl_augment")
    images = tensor(file, "image_u8").permute(0, 3, 1, 2)
    operations = list(strong.OPERATIONS.values())
    assert [[low, high] for _, low, high in operations] == file["op_range"].tolist()
    for number, (which, image) in enumerate(zip(file["op_id"], file["op_image"], strict=True)):
        (operation, *_), x = operations[which], images[image][None].contiguous()
        value = tensor(file, "op_value")[number : number + 1]
        got = x if operation is None else operation(x, value)
        assert torch.equal(got[0].permute(1, 2, 0), tensor(file, "op_output")[number]), (number, which)
    boxed = strong.boxed(images[tensor(file, "cutout_image")], tensor(file, "cutout_value"),
                         tensor(file, "cutout_centre").nan_to_num())  # fmt: skip
    assert torch.equal(boxed.permute(0, 2, 3, 1), tensor(file, "cutout_output"))
    ids, values = (tensor(file, name).T.contiguous() for name in ("ra_op_id", "ra_value"))
    draws = strong.Draws(ids, values, tensor(file, "ra_cutout_value"), tensor(file, "ra_cutout_centre"))
    changed = strong.changed(images[tensor(file, "ra_image")], draws)
    assert torch.equal(changed.permute(0, 2, 3, 1), tensor(file, "ra_output"))
    turns = torch.stack([torch.rot90(tensor(file, "rot_input"), count, (1, 2)) for count in range(4)])
    assert torch.equal(turns, tensor(file, "rot_output"))


def test_strong_views_are_drawn_in_their_ranges_and_end_as_weak_ones():
    draws = strong.draw(4000, 8, torch.Generator().manual_seed(0))
    assert set(draws.which.unique().tolist()) == set(range(14))
    rotations = draws.value[draws.which == 7]
    assert -30 <= rotations.min() < -29
    assert 29 < rotations.max() <= 30
    assert draws.side.max() <= 0.5
    assert draws.centre.min() >= 1
    assert draws.centre.max() <= 8
    recipe, _ = made("uda", Given(10), {"crop_pad": 0, "flip": False}, 10, 64)
    images = torch.randint(256, (50, 8, 8, 1), dtype=torch.uint8)
    views = VIEWS["strong"](images, torch.arange(50), recipe, torch.Generator().manual_seed(0))
    assert views.shape == images.shape
    assert 0.5 < (views != images).any((1, 2, 3)).float().mean() <= 1


def test_bad_settings_are_refused_by_name():
    refusals = {
        "method comixup does not go with algorithm fixmatch": {"method": "comixup"},
        "switch = sample does not go with algorithm fixmatch; use switch=batch": {
            "method": "mixup",
            "switch": "sample",
        },
        "repeats = 2 does not go with algorithm fixmatch": {"method": "mixup", "repeats": 2},
        "trivialmix.pool = all does not go with": {"method": "trivialmix", "trivialmix.pool": "all"},
    }
    for text, knobs in refusals.items():
        with pytest.raises(ValueError, match=text):
            made("fixmatch", Given(10), knobs, 10, 64)
    _, algorithm = made("remixmatch", Given(10), {}, 10, 64)
    with pytest.raises(SpecError, match=r"must be square and are 4 x 6; use data.size=4"):
        algorithm.turned(torch.zeros(2, 3, 4, 6), torch.Generator())


def test_the_binary_loss_of_guessed_labels_is_that_of_the_release(golden):
    file = golden("dm_asymmetric")
    for number in range(5):
        case = f"bce{number}"
        labels = torch.stack([tensor(file, f"{case}_y_labelled"), tensor(file, f"{case}_y_pseudo")], 1)
        lam = float(file[f"{case}_lam"])
        shares = torch.tensor([lam, 1 - lam], dtype=torch.float64).expand(8, 2)
        loss = DecoupledBCE(t=float(file[f"{case}_thr"]), xi=float(file[f"{case}_t"]))
        for suffix, known in (("", [True, False]), ("_both", [True, True])):
            logits = tensor(file, f"{case}_logits").requires_grad_()
            differ = labels[:, 0] != labels[:, 1]
            value = loss(logits, labels, shares, labelled=torch.tensor(known).expand(8, 2),
                         weights=tensor(file, f"{case}_mask"))  # fmt: skip
            value.backward()
            np.testing.assert_allclose(logits.grad[differ], file[f"{case}_grad{suffix}"][differ.numpy()], atol=1e-6)
            if differ.all():
                assert value.item() == pytest.approx(float(file[f"{case}_loss{suffix}"]), rel=1e-5)
