"""Folders as they are published and saved: what is joined, left, or refused and with which advice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from transcode.containers.source import Source, open_source
from transcode.errors import FormatError

W = torch.arange(6.0).reshape(2, 3)


def save(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: W.clone() for name in names}, path)
    else:
        torch.save({name: W.clone() for name in names}, path)
    return path


def index(path: Path, **weight_map: str) -> Path:
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def names(source: Source) -> list[str]:
    return [tensor.name for tensor in source.tensors]


def refusal(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        open_source(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


# what lies beside a model


@pytest.mark.parametrize(
    "stranger",
    [
        "adapter_model.safetensors", "adapter_model.fp16.safetensors", "pytorch_lora_weights.safetensors",
        "adapters.safetensors", "consolidated.safetensors", "consolidated-00001-of-00001.safetensors",
        "model.fp16.safetensors", "model.non_ema.safetensors", "model.bf16.safetensors",
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", ["file", "shards", "index"])
def test_adapters_other_names_and_variants_are_left_out_and_said(stranger, model, tmp_path):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    if model == "file":
        save(tmp_path / "model.safetensors", "a", "b")
    else:
        save(tmp_path / shards[0], "a")
        save(tmp_path / shards[1], "b")
    if model == "index":
        index(tmp_path / "model.safetensors.index.json", a=shards[0], b=shards[1])
    save(tmp_path / stranger, "other", "a")
    (tmp_path / "config.json").write_text("{}")
    source = open_source(tmp_path)
    assert names(source) == ["a", "b"]
    assert any(f"does not read {stranger}" in note for note in source.notes)
    assert [p.name for p in source.side_files] == ["config.json"]


@pytest.mark.parametrize(
    "alone", ["adapter_model", "pytorch_lora_weights", "consolidated", "model.fp16", "consolidated.00", "ae"]
)
def test_such_a_file_alone_is_what_is_meant(alone, tmp_path):
    save(tmp_path / f"{alone}.safetensors", "a")
    assert names(open_source(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    "files",
    [
        ["flux1-dev.safetensors", "ae.safetensors"],
        ["model.safetensors", "vae.safetensors"],
        ["model.safetensors", "mtp.safetensors"],
        ["a.safetensors", "b.safetensors", "c.safetensors"],
        ["step_100.safetensors", "step_200.safetensors"],
        ["wan_high.safetensors", "wan_low.safetensors"],
        ["model.fp16.safetensors", "model.bf16.safetensors"],
        ["x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors", "y.safetensors"],
    ],
)
def test_several_models_are_never_joined(files, tmp_path):
    for i, file in enumerate(files):
        save(tmp_path / file, f"t{i}")
    message = refusal(tmp_path)
    assert "point SRC at one of them" in message
    for file in files[:1] + files[-1:]:
        assert file in message
    for file in files[-1:]:
        assert names(open_source(tmp_path / file)) == [f"t{len(files) - 1}"]


@pytest.mark.parametrize(
    ("files", "stem"),
    [
        (["block_0", "block_1", "non_block"], "model"),
        (["block_0", "non_block"], "model"),
        (["wan_part0", "wan_part1", "wan_part2"], "wan"),
        (["transformer_blocks", "unquantized_layers"], "model"),
        (["m-00001-of-00002", "m-00002-of-00002"], "m"),
        (["m.fp16-00001-of-00002", "m.fp16-00002-of-00002"], "m.fp16"),
        (["m-00001-of-00002.fp16", "m-00002-of-00002.fp16"], "m"),
    ],
)
def test_parts_of_one_whole_are_joined(files, stem, tmp_path):
    for i, file in enumerate(files):
        save(tmp_path / f"{file}.safetensors", f"t{i}")
    source = open_source(tmp_path)
    assert names(source) == [f"t{i}" for i in range(len(files))]
    assert source.stem == stem
    assert source.notes == ()


@pytest.mark.parametrize("missing", ["block_1", "m-00002-of-00003.fp16"])
def test_a_missing_part_is_named(missing, tmp_path):
    all_of = {
        "block_1": ["block_0", "block_1", "block_2", "non_block"],
        "m-00002-of-00003.fp16": [f"m-0000{i}-of-00003.fp16" for i in (1, 2, 3)],
    }[missing]
    for file in all_of:
        if file != missing:
            save(tmp_path / f"{file}.safetensors", file)
    with pytest.raises(FormatError, match=f"{missing}.safetensors: is missing"):
        open_source(tmp_path)


def test_both_namings_of_indexes_of_variants(tmp_path):
    folder = tmp_path / "transformer"
    early = [f"diffusion_pytorch_model-0000{i}-of-00002.fp16.safetensors" for i in (1, 2)]
    late = [f"diffusion_pytorch_model.bf16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    full = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for kind, files in (("early", early), ("late", late), ("full", full)):
        for i, file in enumerate(files):
            save(folder / file, f"{kind}{i}")
    name = "diffusion_pytorch_model.safetensors"
    at_early = index(folder / f"{name}.fp16.index.json", early0=early[0], early1=early[1])
    at_late = index(folder / f"{name}.index.bf16.json", late0=late[0], late1=late[1])
    index(folder / f"{name}.index.json", full0=full[0], full1=full[1], full2=full[2])
    (folder / "config.json").write_text("{}")
    assert names(open_source(at_early)) == ["early0", "early1"]
    assert names(open_source(at_late)) == ["late0", "late1"]
    for path in (tmp_path, folder):
        source = open_source(path)
        assert names(source) == ["full0", "full1", "full2"]
        assert any(at_early.name in note and at_late.name in note for note in source.notes)
    assert [p.name for p in open_source(at_early).side_files] == ["config.json"]


def test_an_index_wins_over_the_index_of_its_authors_names(tmp_path):
    save(tmp_path / "model-00001-of-00001.safetensors", "a")
    save(tmp_path / "consolidated-00001-of-00001.safetensors", "b")
    index(tmp_path / "model.safetensors.index.json", a="model-00001-of-00001.safetensors")
    index(tmp_path / "consolidated.safetensors.index.json", b="consolidated-00001-of-00001.safetensors")
    source = open_source(tmp_path)
    assert names(source) == ["a"]
    assert "does not read consolidated.safetensors.index.json" in source.notes[0]
    assert names(open_source(tmp_path / "consolidated.safetensors.index.json")) == ["b"]


# folders below


def test_a_root_names_the_folders_that_hold_the_models(tmp_path):
    for name in ("high_noise_model", "low_noise_model"):
        save(tmp_path / name / "diffusion_pytorch_model-00001-of-00001.safetensors", "a")
    assert "holds weights in high_noise_model/, low_noise_model/; point SRC at one" in refusal(tmp_path)
    assert "high_noise_model/ is the model of high noise, low_noise_model/ that of low" in refusal(tmp_path)
    assert "`transcode run` converts both at once" in refusal(tmp_path)
    save(tmp_path / "Wan2.1_VAE.pth", "v")
    message = refusal(tmp_path)  # a VAE alone is not what a root is for
    assert "Wan2.1_VAE.pth, and weights in high_noise_model/, low_noise_model/" in message
    save(tmp_path / "models_t5_umt5-xxl-enc-bf16.pth", "t")
    assert "high_noise_model/, low_noise_model/" in refusal(tmp_path)
    assert names(open_source(tmp_path / "low_noise_model")) == ["a"]


def test_folders_below_a_model_are_noted(tmp_path):
    save(tmp_path / "model.safetensors", "a")
    save(tmp_path / "original" / "consolidated.00.pth", "b")
    (tmp_path / "assets").mkdir()
    source = open_source(tmp_path)
    assert names(source) == ["a"]
    assert source.notes == ("does not read original/ below it",)


# a file of a folder


@pytest.mark.parametrize(
    ("file", "others", "along"),
    [
        ("model.safetensors", ["adapter_model.safetensors", "pytorch_model.bin"], True),
        ("model.safetensors", ["consolidated.safetensors"], True),
        ("model.fp16.safetensors", ["model.safetensors"], True),
        ("pytorch_model.bin", ["model.safetensors"], True),
        ("diffusion_pytorch_model.non_ema.safetensors", ["diffusion_pytorch_model.safetensors"], True),
        ("flux1-dev.safetensors", [], True),
        ("flux1-dev.safetensors", ["ae.safetensors"], False),
        ("consolidated.safetensors", ["model.safetensors"], False),
        ("model-00001-of-00002.safetensors", ["model-00002-of-00002.safetensors"], False),
    ],
)
def test_a_file_brings_its_config_along_or_says_that_it_does_not(file, others, along, tmp_path):
    for name in (file, *others):
        save(tmp_path / name, name)
    (tmp_path / "config.json").write_text("{}")
    source = open_source(tmp_path / file)
    assert names(source) == [file]
    assert [p.name for p in source.side_files] == (["config.json"] if along else [])
    assert any("config.json" in note for note in source.notes) is not along


# parts of parallel runs


@pytest.mark.parametrize(
    ("files", "tool"),
    [
        (["consolidated.00.pth", "consolidated.01.pth"], "convert_llama_weights_to_hf"),
        (["consolidated.00.safetensors", "consolidated.01.safetensors"], "convert_llama_weights_to_hf"),
        (["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"], "verl.model_merger"),
        (["pytorch_model_fsdp_rank0.bin", "pytorch_model_fsdp_rank1.bin"], "accelerate merge-weights"),
        (["zero_pp_rank_0_mp_rank_00_model_states.pt"], "zero_to_fp32.py"),
        (
            ["zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt"],
            "zero_to_fp32",
        ),
        (["bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], "zero_to_fp32.py"),
        (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "zero_to_fp32.py"),
        (["layer_00-model_00-model_states.pt", "layer_01-model_00-model_states.pt"], "Megatron"),
        (
            ["model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors"],
            "the model that they were made of",
        ),
        (["rank0.safetensors", "rank1.safetensors"], "the model that they were made of"),
        (["model0-mp2.safetensors", "model1-mp2.safetensors"], "the model that they were made of"),
        (
            ["shard-00001-model-00001-of-00002.safetensors", "shard-00002-model-00001-of-00002.safetensors"],
            "_consolidate_hf_safetensors",
        ),
        (["reshard-model_part-0.pt", "reshard-model_part-1.pt"], "Hugging Face edition"),
    ],
)
def test_parts_of_parallel_runs_are_refused_with_the_tool_that_joins_them(files, tool, tmp_path):
    for i, file in enumerate(files):
        save(tmp_path / file, f"t{i}")
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, *(tmp_path / file for file in files)):
        assert tool in refusal(path)


@pytest.mark.parametrize(
    "file",
    [
        "consolidated.01.pth",
        "model_world_size_2_rank_0.pt",
        "mp_rank_03_model_states.pt",
        "rank1.safetensors",
    ],
)
def test_one_rank_of_several_is_refused_though_the_others_are_elsewhere(file, tmp_path):
    refusal(save(tmp_path / file, "a"))
    refusal(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ["consolidated.00.pth"],
        ["mp_rank_00_model_states.pt"],
        # ZeRO stages 1 and 2: the weights are whole, the optimizer's state is not
        [
            "mp_rank_00_model_states.pt",
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
        ],
        [
            "model_world_size_1_rank_0.pt",
            "optim_world_size_1_rank_0.pt",
            "extra_state_world_size_1_rank_0.pt",
        ],
        ["rank0.safetensors"],
    ],
)
def test_the_only_rank_of_a_run_is_whole(files, tmp_path):
    for file in files:
        save(tmp_path / file, "a")
    assert names(open_source(tmp_path)) == names(open_source(tmp_path / files[0])) == ["a"]


def test_a_model_beside_ranks_is_read(tmp_path):
    save(tmp_path / "model.safetensors", "a")
    for rank in (0, 1):
        save(tmp_path / f"consolidated.0{rank}.pth", "b")
    assert names(open_source(tmp_path)) == ["a"]
    (tmp_path / "model.safetensors").unlink()
    save(tmp_path / "pytorch_model.bin", "c")
    source = open_source(tmp_path)
    assert names(source) == ["c"]
    assert "does not read consolidated.00.pth, consolidated.01.pth, parts of a parallel run" in source.notes


def test_distributed_checkpoints_of_torch(tmp_path):
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "pytorch_model_fsdp_0"
    dcp.save({"model": {"a.weight": W}}, checkpoint_id=str(folder))
    assert "dcp_to_torch" in refusal(folder)
    torch.save({"iteration": 1}, folder / "common.pt")  # Megatron's
    assert "dcp_to_torch" in refusal(folder)
    assert "pytorch_model_fsdp_0/" in refusal(tmp_path)
    (shard,) = folder.glob("*.distcp")
    assert "dcp_to_torch" in refusal(shard)


def test_shards_of_dtensors(tmp_path):
    """A tensor of a class of its own, pickled as torch does: its values are elsewhere."""
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        path = tmp_path / "renamed.pt"
        torch.save({"layer.weight": distribute_tensor(W, mesh, [Shard(0)])}, path)
    finally:
        dist.destroy_process_group()
    message = refusal(path)
    assert "layer.weight: is an object of class torch.distributed.tensor.DTensor" in message
    assert "join the ranks" in message


def test_ranks_of_megatron(tmp_path):
    iteration = tmp_path / "iter_0000010"
    one = save(iteration / "mp_rank_00" / "model_optim_rng.pt", "a")
    assert names(open_source(one)) == names(open_source(one.parent)) == ["a"]
    assert "mp_rank_00/" in refusal(iteration)
    two = save(iteration / "mp_rank_01" / "model_optim_rng.pt", "a")
    for path in (iteration, one, one.parent, two, two.parent):
        assert "Megatron" in refusal(path)


def test_weights_that_are_elsewhere(tmp_path):
    """ZeRO stage 3, under names that say nothing of it."""
    import collections

    full = collections.OrderedDict({"q.weight": torch.Size([4, 4]), "q.bias": torch.Size([4])})
    path = tmp_path / "renamed.pt"
    torch.save({"module": {"q.bias": torch.zeros(0), "empty": torch.zeros(0)}, "param_shapes": [full]}, path)
    message = refusal(path)
    assert "q.bias: is empty, its parameters of shape [4] lie in the files of all ranks" in message
    assert "zero_to_fp32.py" in message
    torch.save({"module": {"q.weight": torch.zeros(0)}}, path)
    assert "q.weight: is empty" in refusal(path)
    save_file({"q.weight": torch.zeros(0)}, tmp_path / "m.safetensors")
    assert "q.weight: is empty" in refusal(tmp_path / "m.safetensors")
    save_file({"empty": torch.zeros(0), "thin.weight": torch.zeros(0, 4)}, tmp_path / "n.safetensors")
    assert len(names(open_source(tmp_path / "n.safetensors"))) == 2
