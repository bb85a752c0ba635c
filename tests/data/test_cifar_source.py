"""CIFAR in torchvision's layout: fabricated batches whose MD5 sums replace the published ones."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from automixsearch.config.data import Data
from automixsearch.data import load
from automixsearch.errors import DataError

NAMES = {CIFAR10: [f"class {i}" for i in range(10)], CIFAR100: [f"class {i:02}" for i in range(100)]}


def batch(rows: int, classes: int, seed: int, key: str) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, 3072), dtype=np.uint8)
    return {"data": pixels, key: [i % classes for i in range(rows)]}


def dump(path: Path, content: dict[str, Any]) -> str:
    """Pickle as the official files are, numpy's old way of writing a dtype included; returns the MD5."""
    new, old = b"\x89\x88\x87", b"K\x00K\x01\x87"  # dtype("u1", False, True) and dtype("u1", 0, 1)
    written = pickle.dumps(content, protocol=2)
    assert (new in written) == ("data" in content)
    written = written.replace(new, old)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(written)
    return hashlib.md5(written).hexdigest()


def fabricate(kind: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, classes = root / kind.base_folder, len(NAMES[kind])
    key = "labels" if kind is CIFAR10 else "fine_labels"
    for listed in ("train_list", "test_list"):
        made = [
            [name, dump(folder / name, batch(classes, classes, seed, key))]
            for seed, (name, _) in enumerate(getattr(kind, listed))
        ]
        monkeypatch.setattr(kind, listed, made)
    meta = kind.meta | {"md5": dump(folder / kind.meta["filename"], {kind.meta["key"]: NAMES[kind]})}
    monkeypatch.setattr(kind, "meta", meta)


@pytest.mark.parametrize(("source", "kind"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar_comes_back_as_torchvision_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, kind: Any
) -> None:
    fabricate(kind, tmp_path / "my data", monkeypatch)
    made = load(Data(source=source, path=str(tmp_path / "my data")))
    assert made.classes == tuple(NAMES[kind])
    assert len(made.test) == len(NAMES[kind])
    assert made.train.labels[:3].tolist() == [0, 1, 2]
    planes = batch(len(NAMES[kind]), len(NAMES[kind]), 0, "x")["data"].reshape(-1, 3, 32, 32)
    assert np.array_equal(made.test.images, planes.transpose(0, 2, 3, 1))
    assert load(Data(source=source, path=str(tmp_path / "my data"))) is made


def test_cifar_can_be_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate(CIFAR10, tmp_path, monkeypatch)
    assert load(Data(source="cifar10", path=str(tmp_path), size=16)).train.images.shape == (50, 16, 16, 3)


def test_cifar_from_torchvision_and_parquet_have_one_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    from PIL import Image

    fabricate(CIFAR10, tmp_path, monkeypatch)
    made = load(Data(source="cifar10", path=str(tmp_path)))
    for name, part in (("train", made.train), ("test", made.test)):
        rows = []
        for image in part.images:
            Image.fromarray(image).save(file := io.BytesIO(), "png")
            rows.append({"bytes": file.getvalue()})
        pq.write_table(pa.table({"img": rows, "label": part.labels}), tmp_path / f"{name}.parquet")
    assert load(Data(source="parquet", path=str(tmp_path))).fingerprint == made.fingerprint


def test_missing_cifar_says_where_it_looked_and_how_to_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar-10-batches-py: no such directory.* data\.download=true"):
        load(Data(source="cifar10", path=str(tmp_path)))
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(DataError, match=r"cifar-100-python/train: no such file; .* data\.download=true"):
        load(Data(source="cifar100", path=str(tmp_path)))


def test_a_damaged_batch_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate(CIFAR10, tmp_path, monkeypatch)
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    for name in ("data_batch_3", "test_batch", "batches.meta"):
        path = tmp_path / CIFAR10.base_folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        with pytest.raises(DataError, match=rf"{name}: damaged \(not the published MD5\); delete it and let torch"):
            load(Data(source="cifar10", path=str(tmp_path)))
        path.write_bytes(whole)


def test_download_happens_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricated = tmp_path / "elsewhere"
    fabricate(CIFAR10, fabricated, monkeypatch)
    root = tmp_path / "new" / "root"

    def download(self: Any) -> None:
        root.mkdir(parents=True)
        (fabricated / CIFAR10.base_folder).rename(root / CIFAR10.base_folder)

    monkeypatch.setattr(CIFAR10, "download", download)
    with pytest.raises(DataError, match=r"no such directory"):
        load(Data(source="cifar10", path=str(root)))
    made = load(Data(source="cifar10", path=str(root), download=True))
    assert load(Data(source="cifar10", path=str(root))) is made


def test_a_failed_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(CIFAR10, "download", download)
    with pytest.raises(DataError, match=r"download from https://.*failed: no network; fetch it by hand"):
        load(Data(source="cifar10", path=str(tmp_path), download=True))
