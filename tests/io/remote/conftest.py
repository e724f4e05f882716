"""No test waits, and none has what another one read."""

from __future__ import annotations

import pytest
from standins.hub import StandIn
from standins.s3 import Bucket
from standins.server import serving

from transcode.io.remote import buckets, folder, patience, places
from transcode.io.remote import bytes as remote_bytes

from .models import model


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(patience, "FIRST", 0.001)
    kept = (remote_bytes, "_HEADS"), (folder, "_OPENED"), (places, "_STORES"), (buckets, "_MEMORY")
    for module, name in kept:
        monkeypatch.setattr(module, name, {})


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub, which has the model of :mod:`.models`, and one of its shards in ``sub``."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    files = model()
    files["sub/model.safetensors"] = files["model-00001-of-00002.safetensors"]
    with serving({}) as site:
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        template = site.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        stand_in = StandIn("org/name", files, token="hf_secret")
        stand_in.on(site)
        yield stand_in


@pytest.fixture
def bucket(monkeypatch):
    """A stand-in for S3 with a bucket, to which the environment leads."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serving({}) as site:
        monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        stand_in = Bucket()
        stand_in.on(site)
        yield stand_in


@pytest.fixture
def source(tmp_path):
    """A small model in a folder here."""
    (tmp_path / "src").mkdir()
    for name, data in model().items():
        (tmp_path / "src" / name).write_bytes(data)
    return tmp_path / "src"
