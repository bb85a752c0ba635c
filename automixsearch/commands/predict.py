"""`predict`: what a trained network says of image files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from automixsearch.commands.terminal import add_json, console, declare, dump_json, print_frame
from automixsearch.errors import DataError

AT_ONCE = 64
"""Images of a batch."""


def predict_command(args: argparse.Namespace) -> int:
    import pandas as pd
    import torch

    from automixsearch.data.files import Left, images_in
    from automixsearch.deploy.model import load_model

    model = load_model(args.file)
    files: list[Path] = []
    for word in map(Path, args.images):
        found = [Path(file) for file in images_in(word, Left())] if word.is_dir() else [word]
        if not found:
            raise DataError(f"{word}: holds no images; give image files, or folders of them")
        files += found
    rows = []
    for start in range(0, len(files), AT_ONCE):
        some = files[start : start + AT_ONCE]
        with torch.no_grad():
            sure, answer = model(model.read(some)).softmax(1).max(1)
        for file, share, label in zip(some, sure.tolist(), answer.tolist(), strict=True):
            rows.append({"image": str(file), "class": model.classes[label], "confidence": share})
    if args.json:
        print(dump_json({"predictions": rows}))
    else:
        print_frame(console(), pd.DataFrame(rows))
    return 0


def add(commands: Any) -> None:
    """Declare the command."""
    sub = declare(commands, predict_command, "Ask a trained network for the classes of images.")
    sub.add_argument("file", metavar="FILE", help="as train --out FILE.safetensors writes it")
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    add_json(sub, "the answers")
