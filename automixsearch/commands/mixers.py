"""`mixers`, `gallery`: the mixing methods in words and in pictures."""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from automixsearch.commands.search import epoch_line
from automixsearch.commands.terminal import add_json, console, declare, dump_json, number, positive, say, whole
from automixsearch.config.knobs import whole_number
from automixsearch.errors import SpecError, unknown

if TYPE_CHECKING:
    from automixsearch.training.run import EpochMetrics

MOST_EPOCHS = 8
"""Columns of epochs in a picture of masks that can still be looked at side by side."""


def mixers_command(args: argparse.Namespace) -> int:
    from automixsearch.config.files import read_override
    from automixsearch.config.outside import KEYS, by_name
    from automixsearch.registry import installed
    from automixsearch.show import knob_content, knob_table, knob_table_markdown

    named: dict[str, list[object]] = {key: list(installed(kind)) for key, kind in KEYS.items()}
    for word in args.outside:
        key, value = read_override(word, "method=my.py:MyMix")
        if key not in KEYS:
            raise SpecError(unknown("key", key, KEYS))
        named[key].append(value)
    plugins = by_name(named).get("plugins", ())
    if args.json:
        print(dump_json(knob_content(args.all, plugins)))
    elif args.markdown:
        print(knob_table_markdown(args.all, plugins))
    else:
        console().print(knob_table(args.all, plugins), highlight=False)
    return 0


def gallery_command(args: argparse.Namespace) -> int:
    from automixsearch.config.catalogue import catalogue
    from automixsearch.config.data import Data
    from automixsearch.config.files import build, load_config, parse_knobs
    from automixsearch.config.outside import by_name
    from automixsearch.config.trial import TrialConfig
    from automixsearch.data import load
    from automixsearch.mixers import MIXERS

    epochs = _epochs(args.epochs)
    learned = [name for name, mixer in MIXERS.items() if mixer.needs & {"mask", "masks"}]
    drawn = [name for name in MIXERS if name not in ("vanilla", "trivialmix", *learned)]
    methods = args.methods.split(",") if args.methods else [*drawn, *learned] if epochs else drawn
    named = by_name({"method": methods})
    methods, plugins = named["method"], named.get("plugins", ())
    drawn += [plugin.name for plugin in plugins]
    given = parse_knobs(args.overrides, plugins)
    mixers = {}
    for method in methods:
        if method in learned:
            if not epochs:
                raise SpecError(f"--methods: {method} learns its masks while a network trains; say after which epochs "
                                "to draw them, e.g. --epochs 1,4,12")  # fmt: skip
            continue
        if method not in drawn:
            raise SpecError(f"--methods: {unknown('method', method, [*drawn, *learned])}")
        own = {name: value for name, value in given.items() if name.startswith(method + ".")}
        if catalogue(plugins).methods[method].attends:
            own["backbone"] = "deit_s"  # nothing of it is drawn
        content = {"data": Data(), "plugins": plugins, "knobs": {"method": method, **own}}
        mixers[method] = build(TrialConfig, content, "gallery").mixer
    trained = [method for method in learned if method in methods]
    if epochs and not trained:
        raise SpecError(f"--epochs {args.epochs} is for masks that are learned, and {', '.join(methods)} learns none; "
                        f"add {learned[0]} to --methods, or drop --epochs")  # fmt: skip
    of_training = {
        name: value for name, value in given.items() if name.partition(".")[0] not in ("method", *learned, *drawn)
    }
    for name in given:
        if name.partition(".")[0] not in methods and not (trained and name in of_training):
            raise SpecError(f"{name} belongs to none of the methods drawn: {', '.join(methods)}; drop it")
    if bool(args.config) != bool(args.weights):
        raise SpecError("--config and --weights go together; give both, or neither")
    lams = _lams(("0.5" if epochs else "0.25,0.5,0.75") if args.lams is None else args.lams)
    if epochs and len(lams) > 1:
        raise SpecError(f"--lams {args.lams} names {len(lams)} own shares, and with --epochs the columns are epochs; "
                        "give one share, e.g. 0.5")  # fmt: skip
    from automixsearch.gallery import data_at, load_network, make_gallery, make_masks, masks_config, picture_file

    out = picture_file(args.out)
    data = data_at(args.data)
    configs = []
    for method in trained:
        own = {name: value for name, value in given.items() if name.startswith(method + ".")}
        configs.append(masks_config(method, data, epochs, of_training | own, args.seed))
    images = load(data)
    network = load_network(load_config(args.config), args.weights, images) if args.config else None
    if epochs:

        def report(epoch: EpochMetrics) -> None:
            say(epoch_line(epoch, epochs[-1]), file=sys.stderr)

        picture = make_masks(images, mixers, configs, epochs, lams[0], args.pairs, args.seed, network, report)
    else:
        picture = make_gallery(images, mixers, lams, args.pairs, args.seed, network)
    picture.save(out)
    say(f"picture: {out}")
    return 0


def _lams(text: str) -> list[float]:

    try:
        lams = [number(part) for part in text.split(",")]
    except (ValueError, argparse.ArgumentTypeError):
        lams = []
    if not lams or not all(0 <= lam <= 1 for lam in lams):
        raise SpecError(f"--lams {text!r} must be shares from 0 to 1, e.g. 0.25,0.5,0.75") from None
    return lams


def _epochs(text: str | None) -> list[int]:
    """The epochs after which masks are drawn; none where the option is not given."""

    if text is None:
        return []
    parts = text.split(",")
    epochs = [epoch for part in parts if (epoch := whole_number(part)) is not None]
    if len(epochs) < len(parts) or any(after <= before for before, after in pairwise([0, *epochs])):
        raise SpecError(f"--epochs {text!r} must be whole numbers from 1 on, each above the one before, e.g. 1,4,12; "
                        "the start is always drawn")  # fmt: skip
    if len(epochs) > MOST_EPOCHS:
        raise SpecError(f"--epochs names {len(epochs)} epochs, and a picture has room for {MOST_EPOCHS}; name fewer")
    return epochs


def add(commands: Any) -> None:
    """Declare the commands."""
    sub = declare(commands, mixers_command, "Print the mixing methods, losses and their knobs.")
    sub.add_argument("outside", nargs="*", metavar="key=value", help="from outside, e.g. method=my.py:MyMix loss=...")
    sub.add_argument("--all", action="store_true", help="the training knobs too")
    sub.add_argument("--markdown", action="store_true", help="as Markdown")
    add_json(sub, "the knobs")
    sub = declare(commands, gallery_command, "Draw what the mixing methods do with your images.")
    sub.add_argument("data", metavar="DATA", help="digits, or a directory: class folders, Parquet, CIFAR")
    sub.add_argument(
        "overrides", nargs="*", metavar="knob=value", help="e.g. fmix.decay=2; with --epochs also width=16 lr=0.05"
    )
    sub.add_argument("--methods", metavar="A,B", help="which methods (all that mix images)")
    sub.add_argument("--lams", metavar="L,L", help="own shares to show (0.25,0.5,0.75; with --epochs one, 0.5)")
    sub.add_argument(
        "--epochs",
        metavar="E,E",
        help="train automix for a while and draw its masks at the start and after these epochs, e.g. 1,4,12",
    )
    sub.add_argument("--pairs", type=positive, default=2, help="pairs of images, 1 to 4 (2)")
    sub.add_argument("--seed", type=whole(0), default=0, metavar="S", help="which images and draws (0)")
    sub.add_argument("--config", metavar="CONFIG", help="config of a trained network, for its saliency")
    sub.add_argument("--weights", metavar="FILE", help="its weights, as train --out saves them")
    sub.add_argument("--out", required=True, metavar="FILE", help="the picture, e.g. mixes.png")
