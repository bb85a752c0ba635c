"""Fine-tuning against the numbers of the released code: BSS, Co-Tuning, Self-Tuning, and OpenMixup of mixed images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from automixsearch.algorithms import ALGORITHMS
from automixsearch.algorithms.base import Batch, Clock, Images, Setup
from automixsearch.algorithms.bss import smallest_squares
from automixsearch.algorithms.co_tuning import STRENGTHS, full_relation, relation_of, simple_relation
from automixsearch.algorithms.fine_tuning import TuningKnobs, tuned_parts
from automixsearch.algorithms.self_tuning import group_contrast
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.mixers import MixUp
from automixsearch.mixers.mixup import MixUpDraw
from automixsearch.models.base import Chain
from automixsearch.models.build import build_model
from automixsearch.testing.algorithms import begun, configured, digits, pretrained
from automixsearch.training import strong
from automixsearch.training.optimiser import make_optimizer, set_lr
from automixsearch.training.run import TrainingRun
from automixsearch.training.world import World


def tensor(file, name):
    return torch.from_numpy(np.asarray(file[name]))


@pytest.mark.parametrize("case", range(4))
def test_the_smallest_singular_values_and_their_gradient_are_those_of_the_release(golden, case):
    file, prefix = golden("finetune_losses"), f"bss{case}"
    features = tensor(file, f"{prefix}_feature").requires_grad_()
    value = smallest_squares(features, int(file[f"{prefix}_k"]))
    value.backward()
    assert value.item() == pytest.approx(float(file[f"{prefix}_value"]), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(features.grad, file[f"{prefix}_grad"], atol=1e-5)


@pytest.mark.parametrize("case", ["cot0", "cot1"])
def test_classes_are_related_as_in_the_release(golden, case):
    file = golden("finetune_losses")
    train, val = (tensor(file, f"{case}_{part}_logits") for part in ("train", "val"))
    labels, val_labels = (file[f"{case}_{part}_labels"] for part in ("train", "val"))
    both = 0.8840456604957581 * torch.cat([train, val]), torch.from_numpy(np.concatenate([labels, val_labels]))
    direct = simple_relation(*both, len(file[f"{case}_relationship"]))
    np.testing.assert_allclose(direct, file[f"{case}_relationship_direct"], atol=1e-5)
    np.testing.assert_allclose(STRENGTHS, file[f"{case}_C_grid"])
    marginal = both[0].softmax(1).double().mean(0).numpy()
    given = relation_of(file[f"{case}_coef"].astype(float), float(file[f"{case}_scale"]), marginal)
    np.testing.assert_allclose(given, file[f"{case}_relationship"], atol=1e-5)
    fitted = full_relation(train, labels, val, val_labels)
    np.testing.assert_allclose(fitted, file[f"{case}_relationship"], atol=1e-3)


@pytest.mark.parametrize("case", ["cot0", "cot1"])
def test_the_loss_of_co_tuning_is_that_of_the_release(golden, case):
    file = golden("finetune_losses")
    source, target = (tensor(file, f"{case}_logits_{part}").requires_grad_() for part in ("source", "target"))
    run = begun(ALGORITHMS["co_tuning"])
    algorithm, y = run.algorithm, tensor(file, f"{case}_y")
    algorithm.relation = tensor(file, f"{case}_relationship")
    algorithm.source = nn.Identity()
    total = nn.functional.cross_entropy(target, y) + algorithm.extra_term(source, y)
    total.backward()
    assert run.config.knobs["co_tuning.source_weight"] == float(file[f"{case}_trade_off"])
    assert total.item() == pytest.approx(float(file[f"{case}_total"]), rel=1e-5)
    np.testing.assert_allclose(source.grad, file[f"{case}_grad_source"], atol=1e-5)
    np.testing.assert_allclose(target.grad, file[f"{case}_grad_target"], atol=1e-5)


class Dense(Chain):
    """The network of the golden calls."""

    def __init__(self, file, prefix, classes):
        super().__init__()
        weight = file[f"{prefix}body.weight"]
        self.widths = {"stem": len(weight)}
        self.stem = nn.Sequential(nn.Linear(weight.shape[1], len(weight)), nn.BatchNorm1d(len(weight)), nn.ReLU())
        self.head = nn.Linear(len(weight), classes)

    def pooled(self, state):
        return state


def put(module, file, prefix):
    module.load_state_dict({key: tensor(file, f"{prefix}.{key}") for key in module.state_dict()})


def self_tuning(network, classes, **knobs):
    knobs = {f"self_tuning.{name}": value for name, value in knobs.items() if not name.startswith("_")} | knobs.get(
        "_more", {}
    )
    config = TrialConfig(data=Data(), knobs={"algorithm": "self_tuning", "method": "vanilla", "lr": 0.001,
                                             "nesterov": True, "weight_decay": 1e-4, "amp": "off",
                                             "channels_last": False, **knobs})  # fmt: skip
    zeros = torch.zeros(3)
    setup = Setup(config, network, torch.device("cpu"), World(), classes, 4, 64, 8, lambda x: x, zeros, zeros + 1)
    return config.recipe, ALGORITHMS["self_tuning"].build(setup).train()


def given(algorithm, file, prefix):
    """Give networks, projectors, queue and pointers of an algorithm the values of the file."""
    for network, projector, name in (
        (algorithm.network, algorithm.projector, "encoder_q"),
        (algorithm.key_network, algorithm.key_projector, "encoder_k"),
    ):
        put(network.stem[0], file, f"{prefix}{name}.body")
        put(network.stem[1], file, f"{prefix}{name}.bn")
        put(projector, file, f"{prefix}{name}.fc")
    algorithm.queue.copy_(tensor(file, f"{prefix}queue_list"))
    algorithm.next_key.copy_(tensor(file, f"{prefix}queue_ptr"))


@pytest.mark.parametrize("case", ["st0", "st1"])
def test_two_calls_of_the_group_contrast_are_those_of_the_release(golden, case):
    file = golden("finetune_losses")
    classes = int(file[f"{case}_class_num"])
    network = Dense(file, f"{case}_init.encoder_q.", classes)
    _, algorithm = self_tuning(
        network,
        classes,
        keys=int(file[f"{case}_queue_size"]),
        projection=int(file[f"{case}_projector_dim"]),
        key_decay=float(file[f"{case}_momentum"]),
    )
    given(algorithm, file, f"{case}_init.")
    for call in (0, 1):
        query, other, y = (tensor(file, f"{case}_s{call}_{name}") for name in ("xq", "xk", "y"))
        algorithm.zero_grad()
        features = algorithm.embedded(query)
        loss = algorithm.contrast(features, other, y)
        loss.backward()
        assert loss.item() == pytest.approx(float(file[f"{case}_s{call}_kl"]), rel=1e-5)
        np.testing.assert_allclose(features.detach(), file[f"{case}_s{call}_feat"], atol=1e-5)
        np.testing.assert_allclose(algorithm.queue, file[f"{case}_s{call}_queue_after"], atol=1e-6)
        assert algorithm.next_key.tolist() == file[f"{case}_s{call}_ptr_after"].tolist()
        np.testing.assert_allclose(algorithm.projector.weight.grad, file[f"{case}_s{call}_grad_fc"], atol=1e-5)
        np.testing.assert_allclose(network.stem[0].weight.grad, file[f"{case}_s{call}_grad_body"], atol=1e-5)
        np.testing.assert_allclose(algorithm.key_projector.weight, file[f"{case}_s{call}_key_fc_after"], atol=1e-6)
    for name, part in (("key", algorithm.key_network), ("query", network)):
        np.testing.assert_allclose(part.stem[1].running_mean, file[f"{case}_{name}_bn_mean_after"], atol=1e-5)


def test_four_steps_of_self_tuning_are_those_of_the_release(golden):
    file = golden("finetune_losses")
    classes = int(file["stloop_class_num"])
    network = Dense(file, "stloop_init.encoder_q.", classes)
    recipe, algorithm = self_tuning(network, classes, keys=int(file["stloop_queue_size"]), projection=5)
    given(algorithm, file, "stloop_init.")
    put(network.head, file, "stloop_init.classifier")
    optimizer = make_optimizer(recipe, algorithm.parts(), fused=False)
    for step in range(int(file["stloop_n_steps"])):
        set_lr(optimizer, recipe, 0, 1000)
        for group in optimizer.param_groups:
            group["lr"] *= 1 if step < 2 else 0.1
        views = [tensor(file, f"stloop_{name}_{step}") for name in ("lq", "lk", "uq", "uk")]
        batch = Batch(tuple(views[:2]), torch.arange(6), tensor(file, f"stloop_y_{step}"),
                      Images(tuple(views[2:]), torch.arange(6)))  # fmt: skip
        optimizer.zero_grad()
        total, told = 0.0, {}
        for term in algorithm.terms(batch, Clock(step, 4, 0, 1), torch.Generator()):
            term.loss.backward()
            total, told = total + term.loss.item(), told | term.told
        optimizer.step()
        assert told["labelled_loss"].item() == pytest.approx(float(file["stloop_classifier_loss"][step]), rel=1e-5)
        assert told["contrast_loss"].item() == pytest.approx(float(file["stloop_pgc_loss_labeled"][step]), rel=1e-5)
        assert told["unlabelled_loss"].item() == pytest.approx(float(file["stloop_pgc_loss_unlabeled"][step]), rel=1e-5)
        assert total == pytest.approx(float(file["stloop_total_loss"][step]), rel=1e-5)
    np.testing.assert_allclose(algorithm.queue, file["stloop_final.queue_list"], atol=1e-5)
    parts = {
        "encoder_q.body": network.stem[0],
        "encoder_q.bn": network.stem[1],
        "encoder_q.fc": algorithm.projector,
        "encoder_k.body": algorithm.key_network.stem[0],
        "encoder_k.bn": algorithm.key_network.stem[1],
        "encoder_k.fc": algorithm.key_projector,
        "classifier": network.head,
    }
    for name, module in parts.items():
        for key, value in module.state_dict().items():
            np.testing.assert_allclose(value, file[f"stloop_final.{name}.{key}"], atol=1e-5, err_msg=f"{name}.{key}")


@dataclass(frozen=True)
class Replay(MixUp):
    """MixUp with draws that are given."""

    name: ClassVar[str] = "replay_tuning"
    draws: ClassVar[list[MixUpDraw]] = []

    def draw(self, shape, generator):
        return self.draws.pop(0)


class OneLayer(Chain):
    """The network of the golden step with mixed images."""

    def __init__(self, file, prefix):
        super().__init__()
        width = len(file[f"{prefix}encoder_q.conv.weight"])
        self.widths = {"stem": width}
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.1))
        self.head = nn.Linear(width, len(file[f"{prefix}head_one.fc.weight"]))


@pytest.mark.parametrize("case", [0, 2])
def test_a_step_with_mixed_images_is_that_of_the_release(golden, case):
    """Case 1 has the last pass in evaluation mode, an option that is not taken over."""
    file, prefix = golden("finetune_dm_step"), f"dmx{case}_init."
    of = f"dmx{case}_"
    network, classes = OneLayer(file, prefix), int(file["num_classes"])
    eta = float(file[f"{of}eta"])
    more = {"method": "mixup", "loss": "mce"}
    if eta:
        more |= {"loss": "decoupled", "decoupled.eta": eta, "decoupled.xi": float(file[f"{of}t"]),
                 "decoupled.weighting": str(file[f"{of}eta_mode"])}  # fmt: skip
    _, algorithm = self_tuning(
        network, classes, keys=int(file["queue_size"]), projection=int(file["projector_dim"]),
        key_decay=float(file["momentum"]), temperature=float(file["temp"]), variant="released",
        side=str(file[f"{of}lam_side"]), _more=more,
    )  # fmt: skip
    algorithm.mixer = Replay()
    for part, name in ((network, "encoder_q"), (algorithm.key_network, "encoder_k")):
        put(part.stem[0], file, f"{prefix}{name}.conv")
        put(part.stem[1], file, f"{prefix}{name}.bn")
    for module, name in ((network.head, "head_one"), (algorithm.mix_head, "head_mix"),
                         (algorithm.projector, "projector_q"), (algorithm.key_projector, "projector_k")):  # fmt: skip
        put(module, file, f"{prefix}{name}.fc")
    algorithm.queue.copy_(tensor(file, f"{prefix}queue_list"))
    algorithm.next_key.copy_(tensor(file, f"{prefix}queue_ptr"))
    lams = file[f"{of}lam_drawn"].tolist()
    Replay.draws[:] = [MixUpDraw(tensor(file, f"{of}index_ll"), lams[0]), MixUpDraw(torch.randperm(12), lams[1])]
    image, y = tensor(file, f"{of}img"), tensor(file, f"{of}y")
    batch = Batch((image[:, 0], image[:, 1]), torch.arange(6), y, Images((image[:, 2], image[:, 3]), torch.arange(6)))
    progress = math.acos(1 - 2 * float(file[f"{of}weight_lu"])) / math.pi
    total, told = 0.0, {}
    for term in algorithm.terms(batch, Clock(progress, 1, 0, 1), torch.Generator()):
        term.loss.backward()
        total, told = total + term.loss.item(), told | term.told
    assert total == pytest.approx(float(file[f"{of}loss"]), rel=1e-5)
    assert told["across_loss"].item() == pytest.approx(float(file[f"{of}loss_lu"]), rel=1e-5)
    assert told["contrast_loss"].item() == pytest.approx(float(file[f"{of}kl_labelled"]), rel=1e-5)
    parts = {"encoder_q.conv": network.stem[0], "encoder_q.bn": network.stem[1], "head_one.fc": network.head,
             "head_mix.fc": algorithm.mix_head, "projector_q.fc": algorithm.projector}  # fmt: skip
    for name, module in parts.items():
        for key, value in module.named_parameters():
            np.testing.assert_allclose(value.grad, file[f"{of}grad.{name}.{key}"], atol=1e-5, err_msg=f"{name}.{key}")
    np.testing.assert_allclose(network.stem[1].running_mean, file[f"{of}bn_mean_after"], atol=1e-5)
    np.testing.assert_allclose(algorithm.key_network.stem[1].running_mean, file[f"{of}key_bn_mean_after"], atol=1e-5)
    np.testing.assert_allclose(algorithm.queue, file[f"{of}queue_after"], atol=1e-6)


def test_a_key_that_is_like_its_class_costs_nothing_and_one_like_another_much():
    queue = torch.eye(4)[:, [0, 0, 1, 1]]
    query = torch.eye(4)[:1]
    near, far = (group_contrast(query, query, queue, torch.tensor([c]), 2, 0.1).item() for c in (0, 1))
    assert near == pytest.approx(0, abs=1e-3)
    assert far > 5


def test_levels_of_operations_are_those_of_the_release_to_the_last_bit(golden):
    file = golden("ssl_augment")
    images, names = tensor(file, "image_u8").permute(0, 3, 1, 2), list(strong.OPERATIONS)
    for number in range(len(file["st_op_id"])):
        name = names[file["st_op_id"][number]]
        operation, x = strong.OPERATIONS[name][0], images[file["st_op_image"][number]][None].contiguous()
        sign = torch.tensor([-1.0 if file["st_sign_draw"][number] < 0.5 else 1.0])
        value = strong.of_level(name, tensor(file, "st_level")[number : number + 1], sign, 32, 32)
        got = x if operation is None else operation(x, value)
        assert torch.equal(got[0].permute(1, 2, 0), tensor(file, "st_op_output")[number]), (name, number)
    centres = tensor(file, "st_cutout_centre")
    side = torch.full((len(centres),), 0.5, dtype=torch.float64)
    boxed = strong.boxed(images[torch.arange(len(centres)) % 3], side, centres, (127, 127, 127))
    assert torch.equal(boxed.permute(0, 2, 3, 1), tensor(file, "st_cutout_output"))


def tuned(**knobs):
    name = knobs.pop("algorithm", "fine_tuning")
    return begun(ALGORITHMS[name], {f"{name}.{key}" if "." not in key else key: v for key, v in knobs.items()})


def test_learning_rates_follow_head_and_depth_and_what_is_frozen_stays():
    run = tuned(head_lr=4.0, layer_decay=0.5, frozen="stage1")
    scales = sorted({group["scale"] for group in run.optimizer.param_groups})
    assert scales == [0.25, 0.5, 1.0, 4.0]
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    *_, last = run.epochs()
    assert last.epoch == 2
    moved = {name for name, value in run.network.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("stem.", "stage1.")) for name in moved)  # weights and statistics
    assert any(name.startswith("stage2.") and "running_mean" in name for name in moved)
    probe = tuned(frozen="all")
    for _ in probe.epochs():
        pass
    assert {name for name, parameter in probe.network.named_parameters() if parameter.requires_grad} == {
        "head.weight",
        "head.bias",
    }


def test_co_tuning_relates_classes_once_and_keeps_that_in_its_checkpoint():
    for relation in ("simple", "full"):
        run = tuned(algorithm="co_tuning", relation=relation)
        first = run.algorithm.relation.clone()
        next(run.epochs())
        assert run.algorithm.relation.shape == (10, 12)
        assert not torch.equal(run.algorithm.relation, first)
        assert torch.allclose(run.algorithm.relation.sum(1), torch.ones(10), atol=1e-5)
        again = tuned(algorithm="co_tuning", relation=relation)
        again.load(run.state())
        assert torch.equal(again.algorithm.relation, run.algorithm.relation)


def test_bad_settings_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="algorithm co_tuning starts from pretrained weights; give weights: FILE"):
        configured(ALGORITHMS["co_tuning"], {"weights": ""})
    state = torch.load(pretrained())
    torch.save({name: value for name, value in state.items() if not name.startswith("head.")}, tmp_path / "none.pt")
    config = configured(ALGORITHMS["co_tuning"], {"weights": str(tmp_path / "none.pt")})
    with pytest.raises(SpecError, match=r"none\.pt.*(needs a head for 64 features|head\.)"):
        TrainingRun(config, digits(), "cpu")
    wide = build_model(configured(ALGORITHMS["supervised"], {"backbone": "wrn28_2"}).recipe, 1, 10, 0, 8)
    with pytest.raises(SpecError, match="has no stage4 to freeze, but stem, stage1, stage2, stage3"):
        tuned_parts(wide, TuningKnobs(frozen="stage4"))
