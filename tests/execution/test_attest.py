"""The in-toto Statement beside an output: what it holds, and that model-signing signs and verifies it."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
from transcode.errors import FormatError
from transcode.execution import attest


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"blocks.0.ffn.0.weight": torch.ones(64, 64)}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def out(source, tmp_path):
    (
        tc.open(source)
        | tc.quantize("int8", include=["*"])
        | tc.write(tmp_path / "o", attest=True, checksums=True)
    )
    return tmp_path / "o"


def test_what_it_holds(out, source, cli):
    table = json.loads((out / "transcode.intoto.json").read_text())
    assert table["_type"] == "https://in-toto.io/Statement/v1"
    digests = {
        one["name"]: one["digest"] for one in table["predicate"]["resources"] if one["algorithm"] == "sha256"
    }
    own = {"transcode.intoto.json", "SHA256SUMS"}
    assert digests == {
        one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in out.iterdir() if one.name not in own
    }
    made = table["predicate"]["transcode"]
    assert made["version"] == tc.__version__
    assert made["recipe"]["steps"] == [{"quantize": {"scheme": "int8", "include": ["*"]}}]
    weights = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert {"name": "model.safetensors", "digest": {"sha256": weights}} in made["sources"]
    assert str(source) not in json.dumps(table["predicate"])  # where it lay is nobody's business
    assert cli("meta", "statement", out).json == table


def test_of_a_file(source, tmp_path):
    tc.open(source) | tc.cast("f16") | tc.write(tmp_path / "o.safetensors", attest=True)
    table = attest.find(tmp_path / "o.safetensors")
    assert [one["name"] for one in table["predicate"]["resources"]] == ["o.safetensors"]
    assert not (tmp_path / "o.safetensors.sha256").exists()


def test_where_there_is_none(source, tmp_path, refused):
    assert "has no statement beside it" in refused("meta", "statement", source)
    (source / "transcode.intoto.json").write_text("{}")
    with pytest.raises(FormatError, match="is no https"):
        attest.find(source)


def test_model_signing_signs_and_verifies_it(out, tmp_path):
    """With its own code: the statement as it is, in a bundle that a key signs; the folder against that."""
    pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from model_signing import hashing, verifying
    from model_signing._signing import sign_ec_key, signing

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    public.write_bytes(key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ))  # fmt: skip
    text = (out / "transcode.intoto.json").read_text()
    manifest = signing.dsse_payload_to_manifest(json.loads(text))
    names = {str(one.identifier) for one in manifest.resource_descriptors()}
    assert names == {one.name for one in out.iterdir()} - {"transcode.intoto.json", "SHA256SUMS"}

    class Ours:
        class statement:  # as its Payload holds it
            pb = json_format.Parse(text, statement_pb2.Statement())

    bundle = tmp_path / "model.sig"
    sign_ec_key.Signer(private).sign(Ours()).write(bundle)
    ignored = [out / "transcode.intoto.json", out / "SHA256SUMS"]
    how = hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=True)
    verifying.Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(how).verify(
        out, bundle
    )
    weights = next(out.glob("*.safetensors"))
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(ValueError, match=r"(?i)mismatch|match"):
        verifying.Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(how).verify(
            out, bundle
        )
