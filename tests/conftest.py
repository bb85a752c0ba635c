"""What several test modules share."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden():
    """Read a golden file by name: a dict of arrays."""
    folder = Path(__file__).parent / "golden"

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / f"{name}.npz") as file:
            return {key: file[key] for key in file.files if key != "meta_json"}

    return read


@pytest.fixture(scope="session")
def s3_server():
    """The address of an S3-protocol server on this machine."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The URI of a bucket of its own on that server."""
    import boto3

    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    bucket = f"b{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=f"http://{s3_server}", region_name="us-east-1").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/results?scheme=http&endpoint_override={s3_server}&region=us-east-1"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Losses are asserted to many digits: sums must not depend on the number of cores."""
    import torch

    torch.set_num_threads(1)
