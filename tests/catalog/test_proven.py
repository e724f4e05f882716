"""Files of the catalog that were parsed once are not parsed again, until anything about them is another."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from transcode import catalog
from transcode.catalog import folders, proven, strict
from transcode.catalog.contents import contents
from transcode.catalog.foreign import foreign
from transcode.catalog.lora import lora_names
from transcode.catalog.lora_tables import lora_tables
from transcode.catalog.programs import program, programs
from transcode.errors import RecipeError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def forget():
    """As a new process has it: nothing in memory."""

    def forgetting():
        proven._held.cache_clear()
        proven._folder.cache_clear()

    forgetting()
    yield forgetting
    forgetting()


@pytest.fixture
def kept(tmp_path, monkeypatch, forget):
    """The folder on disk, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = proven._folder()
    assert folder is not None
    return folder


@pytest.fixture
def parsed(monkeypatch):
    """The files that are parsed."""
    paths = []
    load = strict.load
    monkeypatch.setattr(strict, "load", lambda path: paths.append(Path(path)) or load(path))
    return paths


def everything():
    """All that the catalog holds of these kinds, as texts that tell all of it."""
    known = [
        catalog.every_convention(),
        [(family, family.conversions) for family in map(catalog.family, catalog.families())],
        [program(name) for name in programs()],
        (contents(), foreign(), lora_names(), lora_tables()),
    ]
    return [re.sub(" object at 0x[0-9a-f]+", "", repr(one)) for one in known]


def test_what_is_kept_says_what_the_file_says(kept, parsed, forget):
    first = everything()
    assert len(parsed) == len(list(kept.iterdir())) > 30
    del parsed[:]
    forget()
    assert everything() == first
    assert parsed == []
    shutil.rmtree(kept)
    forget()
    assert everything() == first
    assert parsed


def test_names_are_converted_and_configurations_derived_as_by_the_file_itself(kept, forget, wan):
    shapes = {"blocks.0.self_attn.q.weight": (64, 64), "blocks.1.self_attn.q.weight": (64, 64)}
    shapes |= {"patch_embedding.weight": (64, 16, 1, 2, 2), "blocks.0.ffn.0.weight": (128, 64)}
    shapes |= {"head.head.weight": (64, 64), "text_embedding.0.weight": (64, 32)}

    def told():
        family = catalog.family("wan_dit")
        to = family.converts_to()
        names = [[family.convert(name, one) for name in shapes] for one in to]
        return names, family.config(shapes, {"num_heads": 4}), [family.is_target(name) for name in shapes]

    first = told()
    assert any(name for names in first[0] for name in names)
    assert first[1] is not None
    forget()
    assert told() == first


def flipped(raw):
    return bytes([*raw[:-1], raw[-1] ^ 1])


def sealed(body):
    return hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    "damaged",
    [lambda raw: b"", lambda raw: raw[:-1], flipped, lambda raw: sealed(b""), lambda raw: sealed(raw[32:-9])],
)
def test_what_is_damaged_is_parsed_anew(damaged, kept, parsed, forget):
    one = catalog.convention("lightx2v")
    (path,) = kept.iterdir()
    path.write_bytes(damaged(path.read_bytes()))
    del parsed[:]
    forget()
    assert catalog.convention("lightx2v") == one
    assert len(parsed) == 1
    forget()
    catalog.convention("lightx2v")
    assert len(parsed) == 1  # and kept again


def test_of_another_file_or_state_is_not_used(kept, parsed, forget, monkeypatch):
    """Names, digests and states of one length: nothing but what they say tells them apart."""
    catalog.convention("lightx2v"), catalog.convention("deepseek")
    one, two = sorted(kept.iterdir())
    two.write_bytes(one.read_bytes())  # whole, and about another file
    del parsed[:]
    forget()
    assert catalog.convention("lightx2v").name == "lightx2v"
    assert catalog.convention("deepseek").name == "deepseek"
    assert [path.stem for path in parsed] == ["lightx2v"]
    forget()
    other = proven._state()[::-1]
    monkeypatch.setattr(proven, "_state", lambda: other)
    catalog.convention("deepseek")
    assert [path.stem for path in parsed] == ["lightx2v", "deepseek"]


def test_no_other_objects_are_made(kept, forget):
    catalog.convention("lightx2v")
    (path,) = kept.iterdir()
    body = path.read_bytes()[32:]
    head = body[: body.index(pickle.PROTO + bytes([pickle.HIGHEST_PROTOCOL]))]
    path.write_bytes(sealed(head + pickle.dumps(os.getcwd)))
    forget()
    assert catalog.convention("lightx2v").name == "lightx2v"


def test_a_changed_file_is_parsed_anew(tmp_path, kept, parsed, forget, monkeypatch):
    own = tmp_path / "formats"
    shutil.copytree(ROOT / "formats", own)
    monkeypatch.setattr(folders, "_SHIPPED", (own,))
    path = own / "conventions" / "plain.yaml"
    before = catalog.convention("plain")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(before.title, before.title.upper()), encoding="utf-8")
    for _ in range(2):
        assert catalog.convention("plain").title == before.title.upper()
        forget()
    path.write_text(text + "nonsense: 1\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(RecipeError) as error:
            catalog.convention("plain")
        assert "unknown key 'nonsense'" in str(error.value)
        forget()


def test_a_users_own_files_leave_nothing_behind(tmp_path, kept, monkeypatch):
    own = tmp_path / "formats" / "conventions"
    own.mkdir(parents=True)
    shutil.copy(ROOT / "formats" / "conventions" / "plain.yaml", own / "plain.yaml")
    monkeypatch.setenv("TRANSCODE_FORMATS", str(own.parent))
    assert catalog.convention("plain").file == str(own / "plain.yaml")
    assert not kept.exists()


def test_where_nothing_can_be_kept_all_is_parsed(kept, parsed, forget, monkeypatch):
    monkeypatch.setattr(proven, "private_folder", lambda: None)
    forget()
    for _ in range(2):
        assert catalog.convention("plain").name == "plain"
        forget()
    assert len(parsed) == 2


def test_a_disk_that_is_full_stops_nothing(kept, monkeypatch):
    def full(path, body):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(proven, "write_sealed", full)
    assert catalog.convention("plain").name == "plain"


def test_a_second_process_does_not_import_the_parser(tmp_path):
    script = (
        "import sys; from transcode.catalog import convention as a; a('plain'); print('yaml' in sys.modules)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True
        )
        for _ in range(2)
    ]
    assert [run.stdout.strip() for run in runs] == ["True", "False"], runs[1].stderr


def test_one_object_for_one_file(kept):
    assert catalog.family("wan_dit") is catalog.family("wan_dit")
    assert catalog.convention("plain") is catalog.convention("plain")


def test_of_the_families_only_the_one_that_fits_is_loaded_again(tmp_path, kept, parsed, forget, monkeypatch):
    own = tmp_path / "formats"
    shutil.copytree(ROOT / "formats", own)
    monkeypatch.setattr(folders, "_SHIPPED", (own,))
    names = [
        name for file in (ROOT / "fixtures" / "wan_tiny").glob("*.safetensors") for name in load_file(file)
    ]
    first = catalog.detect(names)
    assert first is not None
    assert first.name == "wan_dit"
    unpickled = []
    load = proven._unpickler()
    monkeypatch.setattr(proven, "_unpickler", lambda: lambda file: unpickled.append(1) or load(file))
    del parsed[:]
    forget()
    again = catalog.detect(names)
    assert again is not None
    assert (again.name, again.spelling) == (first.name, first.spelling)
    assert (len(unpickled), parsed) == (3, [])  # components, what families are recognised by, and the family

    text = (own / "families" / "wan_dit.yaml").read_text(encoding="utf-8")
    (own / "families" / "wan_dit.yaml").unlink()
    renamed = text.replace("family: wan_dit", "family: another_dit")
    (own / "families" / "another_dit.yaml").write_text(renamed, encoding="utf-8")
    for _ in range(2):
        forget()
        again = catalog.detect(names)
        assert again is not None
        assert again.name == "another_dit"
