"""Web servers: what is read of them is what a local run reads, whatever goes wrong on the way."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from standins.server import serving

import transcode as tc
from transcode.core.scratch import Scratch
from transcode.errors import FormatError, TranscodeError
from transcode.io.named import locate
from transcode.io.remote import ahead

from .models import model, weights

FILES = model()
SITE = {f"/m/{name}": data for name, data in FILES.items()}
ONE = FILES["model-00001-of-00002.safetensors"]


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The model on this machine, and what becomes of it."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "src").mkdir()
    for name, data in FILES.items():
        (folder / "src" / name).write_bytes(data)
    tc.open(folder / "src") | tc.quantize("int8") | tc.write(folder / "out/")
    return folder


@pytest.mark.parametrize("place", ["/m/", "/m", "/m/model.safetensors.index.json"])
def test_a_folder_is_read_as_a_local_one(place, local, tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "CHUNK", 50_000)
    with serving(SITE) as site:
        report = tc.open(site.url + place) | tc.quantize("int8") | tc.write(tmp_path / "out/")
        assert written(tmp_path / "out") == written(local / "out")
        sides = sum(len(data) for name, data in FILES.items() if not name.endswith(".safetensors"))
        assert site.sent <= 1.02 * weights(FILES) + sides + 10
        assert site.url + "/m" in str(report.plan.source)
        assert tc.verify(tmp_path / "out", site.url + place).right


def test_what_is_not_converted_is_not_fetched(tmp_path):
    with serving({"/m.safetensors": ONE}) as site:
        flow = tc.open(f"{site.url}/m.safetensors") | tc.keep(r"ffn")
        site.seen.clear()
        plan = tc.write(tmp_path / "x.safetensors").plan(flow)
        assert plan.to_json()["bytes_fetched"] == plan.bytes_read == 2 * 64 * 256 * 2
        flow | tc.write(tmp_path / "x.safetensors")
        assert site.sent <= 1.02 * plan.bytes_read


def test_headers_come_with_the_first_request():
    with serving({"/m.safetensors": ONE}) as site:
        assert len(tc.inspect(f"{site.url}/m.safetensors").tensors) == 8
        assert [(one.status, one.sent) for one in site.seen] == [(206, 64 << 10)]


def test_a_long_header_takes_one_request_more(tmp_path):
    import numpy as np
    from safetensors.numpy import save

    data = save({"x": np.zeros(100_000, np.float32)}, {"note": "x" * 100_000})
    with serving({"/m.safetensors": data}) as site:
        assert tc.inspect(f"{site.url}/m.safetensors").metadata["note"] == "x" * 100_000
        assert len(site.seen) == 2
        assert 100_000 < site.sent < 101_000


@pytest.mark.parametrize("kind", ["cut", "empty", "429", "500", "503", "wrong range"])
def test_what_goes_wrong_is_tried_again(kind, local, tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "CHUNK", 20_000)
    rng = random.Random(kind)
    with serving(SITE, fault=lambda number: kind if rng.random() < 0.3 else None) as site:
        (
            tc.open(f"{site.url}/m/model.safetensors.index.json")
            | tc.quantize("int8")
            | tc.write(tmp_path / "out/")
        )
        assert written(tmp_path / "out") == written(local / "out")
        if kind != "wrong range":
            assert site.sent < 1.1 * weights(FILES)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("500", "cannot be read: the server answers 500 Internal Server Error, 8 times"),
        ("whole", "is sent as a whole: its server has no ranges"),
        ("other tag", "was changed since its header was read: its ETag is no longer what it was"),
        ("wrong range", "asked for bytes 65536 to 199344, the server sends 65537 to 199344, 8 times"),
    ],
)
def test_what_stays_wrong_is_told(kind, told, tmp_path):
    with serving({"/m.safetensors": ONE}) as site:
        flow = tc.open(f"{site.url}/m.safetensors")
        first = len(site.seen)  # a run looks whether the object is still the same, and then reads
        site.fault = lambda number: kind if number > first else None
        with pytest.raises(TranscodeError) as caught:
            flow | tc.write(tmp_path / "x.safetensors")
    assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_is_replaced_stops_the_run(tmp_path):
    with serving({"/m.safetensors": ONE}) as site:
        flow = tc.open(f"{site.url}/m.safetensors")
        first = len(site.seen)

        def replace(number):
            if number > first:
                site.files["/m.safetensors"] = ONE[:-1] + bytes([ONE[-1] ^ 1])

        site.fault = replace
        with pytest.raises(FormatError, match="was changed since its header was read"):
            flow | tc.write(tmp_path / "x.safetensors")
        assert any("If-Match" in one.headers and one.status == 412 for one in site.seen)
    assert list(tmp_path.iterdir()) == []


def test_each_answer_is_held_against_the_tag():
    """Also of a server that takes no notice of If-Match, or has weak tags only."""
    from transcode.io.remote.store import Changed, Facts
    from transcode.io.remote.web import Web

    with serving({"/m": ONE}, tags={"/m": 'W/"1"'}) as site:
        from transcode.io.remote.address import parse

        store = Web(parse(site.url))
        facts = store.facts("m")
        assert facts == Facts(len(ONE), 'W/"1"', ONE[: 64 << 10])
        assert b"".join(store.stream("m", 5, 99, facts)) == ONE[5:99]
        site.tags["/m"] = 'W/"2"'
        with pytest.raises(Changed, match='its ETag is W/"2", was W/"1"'):
            next(store.stream("m", 5, 99, facts))
        site.files["/m"] = ONE[:50]
        with pytest.raises(Changed, match="it has no bytes 60 to 99 any more"):
            next(store.stream("m", 60, 99, facts))


def test_a_signature_is_used_and_never_shown(tmp_path):
    secret = "X-Amz-Signature=0123abcd"
    with serving({"/m.safetensors": ONE}, queries={"/m.safetensors": secret}) as site:
        url = f"{site.url}/m.safetensors?{secret}"
        flow = tc.open(url) | tc.quantize("int8")
        report = flow | tc.write(tmp_path / "x.safetensors")
        shown = [repr(flow), repr(report), str(report.to_json()), str(tc.inspect(url)), repr(tc.open(url))]
        site.queries["/m.safetensors"] = "another"
        with pytest.raises(FormatError, match="answers 403 Forbidden; is it public") as caught:
            flow | tc.write(tmp_path / "y.safetensors")
        shown.append(str(caught.value))
        from transcode.recipe import Recipe, SourceOptions, dump

        shown.append(dump(Recipe(SourceOptions(path=url))))
    assert not any("0123abcd" in text for text in shown)
    assert b"0123abcd" not in (tmp_path / "x.safetensors").read_bytes()
    assert b"127.0.0.1" not in (tmp_path / "x.safetensors").read_bytes()


def test_netrc_lets_in(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password pass\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving({"/m.safetensors": ONE}) as site:
        tc.inspect(f"{site.url}/m.safetensors")
        assert {one.headers.get("Authorization") for one in site.seen} == {"Basic bWU6cGFzcw=="}


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("/none.safetensors", "/none.safetensors: there is no such file"),
        ("/nothing/", "/nothing: no file of the names that checkpoints have; name the file itself"),
        ("/m/tokenizer.json", "is JSON but not named like an index"),
        ("/empty.safetensors", "is empty"),
        ("/page.safetensors", "is a web page, not weights"),
    ],
)
def test_what_is_no_checkpoint(place, told):
    more = {"/empty.safetensors": b"", "/page.safetensors": b"<!DOCTYPE html><html>" + b" " * 100}
    with serving(SITE | more) as site, pytest.raises(FormatError) as caught:
        tc.inspect(site.url + place)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://huggingface.co/o/n", "https://hf.co/o/n/resolve/main/x.safetensors?download=true"]
)
def test_an_address_of_the_hub_is_written_otherwise(url):
    with pytest.raises(FormatError, match="is an address of the hub; write hf://o/n"):
        tc.inspect(url)


def test_other_formats_come_through_the_same_door(tmp_path):
    import torch

    torch.save({"a.weight": torch.arange(50_000.0).reshape(100, 500), "b": torch.ones(3)}, tmp_path / "m.pt")
    tc.open(tmp_path / "m.pt") | tc.write(tmp_path / "l.safetensors")
    tc.open(tmp_path / "m.pt") | tc.write(tmp_path / "l.gguf")
    files = {"/m.pt": (tmp_path / "m.pt").read_bytes(), "/l.gguf": (tmp_path / "l.gguf").read_bytes()}
    with serving(files) as site:
        for name in files:
            tc.open(site.url + name) | tc.write(tmp_path / "r.safetensors", force=True)
            tc.open(tmp_path / name[1:]) | tc.write(tmp_path / "l.safetensors", force=True)
            assert (tmp_path / "r.safetensors").read_bytes() == (tmp_path / "l.safetensors").read_bytes()


def test_a_lora_with_its_options_beside(tmp_path):
    import numpy as np
    from safetensors.numpy import save

    rng = np.random.default_rng(2)
    adapter = {
        f"base_model.model.blocks.0.ffn.lora_{side}.weight": rng.standard_normal(shape).astype(np.float32)
        for side, shape in (("A", (4, 256)), ("B", (64, 4)))
    }
    files = {
        "adapter_model.safetensors": save(adapter),
        "adapter_config.json": b'{"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["ffn"]}',
        "m.safetensors": ONE,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    lora = tmp_path / "adapter_model.safetensors"
    tc.open(tmp_path / "m.safetensors") | tc.lora(lora) | tc.write(tmp_path / "l.safetensors")
    with serving({f"/{name}": data for name, data in files.items()}) as site:
        flow = tc.open(f"{site.url}/m.safetensors") | tc.lora(
            f"{site.url}/adapter_model.safetensors?s=0123abcd"
        )
        report = flow | tc.write(tmp_path / "r.safetensors")
    assert (tmp_path / "r.safetensors").read_bytes() == (tmp_path / "l.safetensors").read_bytes()
    assert "0123abcd" not in repr(flow) + repr(report) + str(report.to_json())


def test_a_run_that_is_interrupted_goes_on(local, tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "CHUNK", 20_000)
    monkeypatch.setattr(ahead, "WINDOW", 40_000)
    how = {"resume": True, "tile": 16_000, "workers": 1}
    with serving(SITE) as site:
        flow = tc.open(f"{site.url}/m/model.safetensors.index.json") | tc.quantize("int8")
        first = len(site.seen) + 8
        site.fault = lambda number: "500" if number > first else None
        with pytest.raises(FormatError, match="what is done is kept: the same command goes on there"):
            flow | tc.write(tmp_path / "out/", **how)
        site.fault = lambda number: None
        site.seen.clear()
        report = flow | tc.write(tmp_path / "out/", **how)
        assert report.resumed > 0
        assert site.sent < weights(FILES)
    assert written(tmp_path / "out") == written(local / "out")


def test_metadata_is_read_and_not_edited():
    from transcode.containers.compare import files_of, look

    with serving({"/m.safetensors": ONE}) as site:
        url = f"{site.url}/m.safetensors"
        assert len(look(url).tensors) == 8
        assert len(site.seen) <= 3
        with pytest.raises(FormatError, match="is not on this machine, and metadata is edited in place"):
            files_of(url, edit=True)


def test_a_saved_plan_reads_the_same_object(tmp_path):
    from transcode.core import values

    with serving({"/m.safetensors": ONE}) as site:
        flow = tc.open(f"{site.url}/m.safetensors")
        plan = values.load(values.dump(tc.write(tmp_path / "x.safetensors").plan(flow)))
        assert plan.digest == tc.write(tmp_path / "x.safetensors").plan(flow).digest
        file = plan.inputs[0]
        assert file == flow.source.inputs[0]
        file.verify()
        assert bytes(file.bytes(100, 200, Scratch())) == ONE[100:200]
        site.files["/m.safetensors"] = ONE + b" "
        with pytest.raises(FormatError, match="was changed"):
            file.verify()


def test_redirections_end_and_stay_encrypted():
    where = {
        "/a.safetensors": "/b.safetensors",
        "/c.safetensors": "http://example.org/x",
        "/d.safetensors": "/d.safetensors",
    }

    def answer(handler, path):
        if path not in where:
            return False
        handler.send_response(302)
        handler.send_header("Location", where[path])
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    with serving({"/b.safetensors": ONE}, answer=answer) as site:
        assert locate(f"{site.url}/a.safetensors").size == len(ONE)
        with pytest.raises(FormatError, match="is not encrypted"):
            locate(f"{site.url}/c.safetensors")
        with pytest.raises(FormatError, match="redirected more than"):
            locate(f"{site.url}/d.safetensors")
