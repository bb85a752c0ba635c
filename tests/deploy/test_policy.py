"""A policy in somebody else's loop does what it does in a search."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import automixsearch
from automixsearch.algorithms.base import Batch, Clock
from automixsearch.cli import main
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.deploy.lines import TRAINERS, lines_for
from automixsearch.deploy.policy import MixingPolicy, load_policy
from automixsearch.errors import AutoMixError
from automixsearch.losses import soft_labels
from automixsearch.mixers import MIXERS
from automixsearch.training.run import TrainingRun

FREE = [name for name, mixer in MIXERS.items() if mixer.algorithm == "supervised"]
FORMS: list[dict[str, Any]] = [
    *({"method": name} for name in FREE),
    {"method": "manifoldmix", "manifoldmix.stages": "stage1+stage3", "loss": "decoupled"},
    {"method": "mixup+cutmix", "switch": "sample", "repeats": 2, "mix_prob": 0.7, "label_smoothing": 0.1},
    {"method": "puzzlemix", "puzzlemix.clean_lam": 1.0, "loss": "softmax_bce"},
]


def begun(knobs: dict[str, Any]) -> tuple[TrainingRun, Batch]:
    base: dict[str, Any] = {"epochs": 1, "width": 4, "batch_size": 8}
    attends = any(MIXERS[name].attends for name in knobs["method"].split("+"))
    data = Data(val_fraction=0.2, size=16)
    run = TrainingRun(
        TrialConfig(data=data, knobs=base | knobs | ({"backbone": "deit_s"} if attends else {})), load(data), "cpu"
    )
    return run, next(iter(run.batches(0)))


def seeded(policy: MixingPolicy) -> MixingPolicy:
    policy.generator.manual_seed(5)
    return policy


@pytest.mark.parametrize("knobs", FORMS, ids=str)
def test_a_step_is_that_of_a_run(knobs):
    run, batch = begun(knobs)
    theirs = copy.deepcopy(run.algorithm.network)
    expected = []
    for term in run.algorithm.terms(batch, Clock(0, 10, 0, 1), torch.Generator().manual_seed(5)):
        term.loss.backward()
        expected.append(term.loss.detach())
    x, y = run.algorithm.normalise(batch.views[0]), batch.y
    known = run.algorithm.known
    stages = {stage: stage for stage in theirs.widths}
    policy = seeded(MixingPolicy(run.config, mean=known["mean"].tolist(), std=known["std"].tolist(), stages=stages))
    loss = policy.step(theirs, x, y)
    assert loss.item() == sum(expected, torch.zeros(())).item()
    loss.backward()
    for own, other in zip(run.algorithm.network.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(own.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "saliencymix", "fmix", "puzzlemix"])
def test_images_and_targets_are_the_mixer_s(name):
    run, batch = begun({"method": name})
    x, y, known = run.algorithm.normalise(batch.views[0]), batch.y, run.algorithm.known
    policy = seeded(load_policy(run.config, classes=10, mean=known["mean"].tolist(), std=known["std"].tolist()))
    images, targets = policy.mix(x, y, model=run.algorithm.network)
    mixer, generator = run.algorithm.mixer, torch.Generator().manual_seed(5)
    draw = mixer.draw(tuple(x.shape), generator)
    supply = {"pixels": batch.views[0], **known}
    if name == "puzzlemix":
        gradient = run.algorithm.gradient(x, y)
        supply |= {"gradient": gradient, "saliency": gradient.square().mean(1).sqrt()}
    mixed = mixer.apply(x, draw, **{need: supply[need] for need in mixer.needs_of(draw)})
    assert torch.equal(images, mixed.x)
    assert torch.equal(targets, soft_labels(y[mixed.sources], mixed.shares, 10).float())
    policy.mixup_enabled = False
    images, targets = policy(x, y)
    assert torch.equal(images, x)
    assert torch.equal(targets.argmax(1), y)


def test_workers_of_a_loader_draw_for_themselves_and_anew_in_every_epoch():
    data = TensorDataset(torch.arange(64.0)[:, None, None, None].expand(64, 3, 8, 8), torch.arange(64) % 10)
    policy = load_policy({"method": "mixup"}, classes=10)
    torch.manual_seed(0)
    loader = DataLoader(data, 8, num_workers=2, collate_fn=policy.collate)
    shares = [[(x[:, 0, 0, 0] - 8 * number).std().item() for number, (x, _) in enumerate(loader)] for _ in range(2)]
    assert len({*shares[0], *shares[1]}) == 16


@pytest.mark.parametrize(
    ("knobs", "given", "deed", "message"),
    [
        ({"method": "mixup"}, {}, "mix", "number of classes; pass classes="),
        ({"method": "saliencymix"}, {}, "step", r"saliencymix looks at pixels; .*load_policy\(\.\.\., mean="),
        ({"method": "manifoldmix"}, {"classes": 10}, "mix", "mixes hidden features .*use step, with stages="),
        ({"method": "manifoldmix"}, {}, "step", "after stage1, stage2; say which modules of the network"),
        ({"method": "manifoldmix"}, {"stages": {"stage1": "no", "stage2": "1"}}, "step", "'no' is no module of Sequ"),
        ({"method": "augmix"}, {"classes": 10, "mean": [0] * 3, "std": [1] * 3}, "mix", "compares views"),
        ({"method": "comixup"}, {"classes": 10}, "mix", "looks at a gradient of the images; pass model="),
        ({"method": "transmix", "backbone": "deit_s"}, {"classes": 10}, "mix", "follow what the network looks at"),
        ({"method": "transmix", "backbone": "deit_s"}, {}, "step", "no class token"),
        ({"method": "automix"}, {}, "step", r"use policy\.attach\(model, side="),
        ({"method": "mixup", "mix_until": 0.5}, {}, "step", "pass progress="),
        ({"method": "mixup"}, {"mean": [0.5]}, "step", "mean and std go together"),
        ({"method": "mixup", "alhpa": 1}, {}, "step", "unknown knob 'alhpa'"),
    ],
    ids=str,
)
def test_what_a_policy_needs_is_said(knobs, given, deed, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)

    def used() -> None:
        policy = load_policy(knobs, **given)
        for _ in range(20):
            policy.step(model, x, y) if deed == "step" else policy.mix(x, y)

    with pytest.raises(AutoMixError, match=message):
        used()


def test_a_look_at_gradients_leaves_the_modes_of_a_network_as_they_are():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    model[1].eval()  # as fine-tuning does
    policy = load_policy({"method": "puzzlemix"}, mean=[0] * 3, std=[1] * 3)
    policy.step(model, torch.rand(4, 3, 16, 16), torch.arange(4)).backward()
    assert [module.training for module in model] == [True, False, True, True, True]


def test_mixing_ends_when_the_policy_says():
    policy, x = load_policy({"method": "mixup", "mix_until": 0.5}, classes=4), torch.rand(4, 3, 8, 8)
    assert torch.equal(policy.mix(x, torch.arange(4), progress=0.5)[0], x)
    assert not torch.equal(policy.mix(x, torch.arange(4), progress=0.49)[0], x)


def test_automix_in_another_loop_takes_the_steps_of_a_run():
    knobs = {"method": "automix", "backbone": "torchvision/resnet18", "epochs": 1, "batch_size": 4}
    data = Data(val_fraction=0.2, size=32)
    run = TrainingRun(TrialConfig(data=data, knobs=knobs), load(data), "cpu")
    theirs = run.algorithm.student.backbone.whole()
    training = load_policy(run.config).attach(theirs, side=32, steps=100, channels=1)
    training.algorithm.load_state_dict(run.algorithm.state_dict())
    optimizer = torch.optim.SGD(training.groups(lr=0.1), momentum=0.9)
    batch: Batch = next(iter(run.batches(0)))
    x, y = run.algorithm.normalise(batch.views[0]), batch.y
    seeded(training.policy)
    terms = run.algorithm.terms(batch, Clock(0, 100, 0, 1), torch.Generator().manual_seed(5))
    loss = training.step(x, y)
    assert loss.item() == pytest.approx(sum(term.loss.item() for term in terms), rel=1e-6)
    loss.backward()
    before = copy.deepcopy(training.algorithm.state_dict())
    optimizer.step()
    training.after_step()
    moved = {name.partition(".")[0] for name, value in training.algorithm.state_dict().items()
             if not torch.equal(value, before[name])}  # fmt: skip
    assert moved == {"student", "teacher", "block"}
    model = training.eval().model().eval()
    assert type(model).__name__ == "ResNet"
    assert torch.allclose(model(x), training(x), atol=1e-5)


# In the trainers of others -------------------------------------------------------------------------------------


def exported(trainer: str, knobs: dict[str, Any]) -> str:
    return lines_for(trainer, TrialConfig(data=Data(), knobs=knobs))


def executed(lines: str, **names: Any) -> dict[str, Any]:
    """The names after the lines that are printed for a user were run, with warnings of other packages let be."""
    assert len([line for line in lines.splitlines() if line]) <= 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(lines, names)
    return names


def images() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(16, 3, 16, 16, generator=generator), torch.arange(16) % 5)


class Seen(nn.Module):
    """A network that keeps what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.batches = nn.Linear(3 * 256, 5), list[torch.Tensor]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(x.detach().clone())
        return self.linear(x.flatten(1))


def ours(knobs: dict[str, Any]) -> Iterator[torch.Tensor]:
    policy = load_policy(knobs, classes=5)
    for x, y in DataLoader(images(), 8):
        yield policy.mixed(x, y).x


KNOBS = {"method": "cutmix", "cutmix.alpha": 0.7}


def test_a_plain_loop_trains_on_our_batches():
    model = Seen()
    executed(exported("python", KNOBS | {"loss": "decoupled"}), loader=DataLoader(images(), 8), model=model,
             optimizer=torch.optim.SGD(model.parameters(), 0.1))  # fmt: skip
    assert all(map(torch.equal, model.batches, ours(KNOBS)))
    assert len(model.batches) == 2


def test_automix_trains_in_a_plain_loop():
    import itertools

    from torchvision.models import resnet18

    lines = exported("python", {"method": "automix"}).replace("side=224", "side=16")
    made = executed(lines, torch=torch, itertools=itertools, loader=DataLoader(images(), 8), epochs=2,
                    model=resnet18(num_classes=5))  # fmt: skip
    assert made["training"].number == 4
    assert made["model"](torch.rand(2, 3, 16, 16)).shape == (2, 5)


def test_timm_s_slot_takes_a_policy():
    import argparse

    import timm.loss

    made = executed(exported("timm", KNOBS), timm=timm, args=argparse.Namespace(num_classes=5))
    model = Seen()
    for x, y in DataLoader(images(), 8):
        mixed, targets = made["mixup_fn"](x, y)
        made["train_loss_fn"](model(mixed), targets).backward()
    assert all(map(torch.equal, model.batches, ours(KNOBS)))
    made["mixup_fn"].mixup_enabled = False  # what timm's trainer does after --mixup-off-epoch
    assert torch.equal(made["mixup_fn"](x, y)[0], x)


def test_torchvision_s_references_take_a_collate_function():
    made = executed(exported("torchvision", KNOBS), torch=torch, dataset=images(), batch_size=8, sampler=None,
                    num_classes=5)  # fmt: skip
    model = Seen()
    for x, targets in made["loader"]:
        nn.CrossEntropyLoss(label_smoothing=0.1)(model(x), targets).backward()
    assert all(map(torch.equal, model.batches, ours(KNOBS)))


def test_lightning_takes_a_callback(tmp_path):
    import lightning

    made = executed(exported("lightning", KNOBS), lightning=lightning, num_classes=5)
    network = Seen()

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                                    enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
                                    callbacks=[made["Mixing"]()])  # fmt: skip
        trainer.fit(Module(), DataLoader(images(), 8))
    assert all(map(torch.equal, network.batches, ours(KNOBS)))
    assert len(network.batches) == 2


def test_transformers_takes_a_trainer(tmp_path):
    import transformers

    made = executed(exported("transformers", KNOBS | {"loss": "decoupled"}), transformers=transformers)
    config = transformers.ViTConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=1, intermediate_size=12,
                                    image_size=16, patch_size=8, num_labels=5)  # fmt: skip
    model, seen = transformers.ViTForImageClassification(config), []
    model.vit.register_forward_pre_hook(
        lambda _, args, given: seen.append((*args, *given.values())[0]), with_kwargs=True
    )
    rows = [{"pixel_values": x, "labels": int(y)} for x, y in images()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = transformers.TrainingArguments(
            str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8, report_to=[], use_cpu=True,
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        taken = []
        trainer = made["MixingTrainer"](model=model, args=args, train_dataset=rows, eval_dataset=rows[:4],
                                        data_collator=lambda samples: taken.append(samples)
                                        or transformers.default_data_collator(samples))  # fmt: skip
        trainer.train()
        assert len(seen) == 2
        order = taken[0]
        assert trainer.evaluate()["eval_loss"] > 0
        assert torch.equal(seen[2], torch.stack([row["pixel_values"] for row in rows[:4]]))  # as they are
    x, y = torch.stack([row["pixel_values"] for row in order]), torch.tensor([row["labels"] for row in order])
    assert torch.equal(seen[0], load_policy(KNOBS).mixed(x, y).x)


@pytest.mark.parametrize("trainer", ["timm", "torchvision", "lightning"])
@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"method": "manifoldmix"}, "it mixes hidden features; use --policy python"),
        ({"method": "puzzlemix"}, "it needs a gradient of the images"),
        ({"method": "mixup", "loss": "decoupled"}, "its loss is decoupled"),
        ({"method": "transmix", "backbone": "deit_s"}, "its labels follow"),
        ({"method": "samix"}, "samix trains a Mix Block beside the network; use --policy python"),
    ],
    ids=str,
)
def test_what_soft_targets_cannot_say_is_refused(trainer, knobs, reason):
    with pytest.raises(AutoMixError, match=reason):
        exported(trainer, knobs)


@pytest.mark.parametrize("knobs", FORMS, ids=str)
def test_lines_hold_the_whole_policy(knobs):
    config = TrialConfig(data=Data(), knobs=knobs | ({"backbone": "deit_s"} if "transmix" in knobs["method"] else {}))
    names: dict[str, Any] = {"loader": [], "mean": [0.5], "std": [0.5]}
    policy = executed(lines_for("python", config), **names)["policy"]
    assert (policy.mixer, policy.loss, policy.config.policy) == (config.mixer, config.loss, config.policy)
    assert policy.smoothing == config.recipe.label_smoothing
    assert set(policy.hidden) <= set(policy.stages)


def test_the_command_prints_the_lines_of_the_best(capsys):
    from automixsearch.commands.report import EXAMPLE

    for trainer in TRAINERS:
        assert main(["export", str(EXAMPLE), "--policy", trainer, "--trial", "t00017"]) in (0, 2)
    capsys.readouterr()
    assert main(["export", str(EXAMPLE), "--policy", "python"]) == 0
    assert "policy = automixsearch.load_policy({'method': " in capsys.readouterr().out
    assert main(["export", str(EXAMPLE), "--policy", "tim"]) == 2
    assert "unknown trainer 'tim'; did you mean 'timm'?" in capsys.readouterr().err
    assert main(["export", str(EXAMPLE), "--trial", "t00001", "--csv", "x.csv"]) == 2
    assert "--trial says whose policy" in capsys.readouterr().err


def test_a_file_of_best_is_a_policy(tmp_path):
    file = tmp_path / "best.yaml"
    file.write_text(TrialConfig(data=Data(), knobs=KNOBS).to_yaml())
    policy = automixsearch.load_policy(file, classes=10)
    assert policy.mixer == MIXERS["cutmix"](alpha=0.7)
