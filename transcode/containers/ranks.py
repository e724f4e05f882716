"""Files that the ranks of a parallel run saved: each holds a part of every tensor, or of some, or none.

Joining them takes the rules of the program that cut them, so they are recognised by their names and refused,
and the message names what joins them. Where the names come from: Llama's releases (``consolidated.00.pth``);
``torch.distributed.checkpoint`` (``__0_0.distcp``, and ``shard-00001-model-00001-of-00002.safetensors`` in
``_hf_utils.py``); verl (``model_world_size_2_rank_0.pt``); accelerate (``pytorch_model_fsdp_rank0.bin``);
DeepSpeed (``_get_zero_ckpt_name``, ``_get_ckpt_name`` and ``_get_layer_ckpt_name`` of ``runtime/engine.py``
and ``runtime/pipe/module.py``); Megatron (``get_checkpoint_name`` of ``training/checkpointing.py``); vLLM
(``ShardedStateLoader``); TensorRT-LLM; DeepSeek (``inference/convert.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..core.records import dataclass
from ..errors import FormatError
from ..io.folder import File, Folder

__all__ = ["ZERO_TOOL", "check_parts", "check_rank_folders", "is_optimizer", "is_part_of_run"]

ZERO_TOOL = "python zero_to_fp32.py, which DeepSpeed puts beside global_step*/, joins the ranks"
"""What joins the files of DeepSpeed's ZeRO."""

_DCP_TOOL = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE joins them"
_MEGATRON_TOOL = "join them with Megatron's tools/checkpoint/convert.py, Megatron Bridge or verl.model_merger"


@dataclass(frozen=True)
class _Kind:
    """Files of one program.

    Attributes:
        sign: what every such name has in it: so those of most files are told apart without the expression,
            which is compiled when it is first needed.
        name: what fits a whole file name; its groups ``rank`` and ``of``, where there are any, are numbers.
        what: what such files are.
        hint: what to do.
        alone: whether even a single one may be whole: rank 0 without others.
    """

    sign: str
    name: str
    what: str
    hint: str
    alone: bool = True

    def match(self, name: str) -> re.Match[str] | None:
        """Whether a file name is one of these, and its numbers."""
        return re.fullmatch(self.name, name) if self.sign in name else None


_KINDS = (
    _Kind(
        "consolidated.",
        r"consolidated\.(?P<rank>\d+)\.(pth|pt|safetensors)",
        "model-parallel shards of Llama's release, each of which holds a part of every tensor",
        "point SRC at the Hugging Face edition of the model, or join them with convert_llama_weights_to_hf.py"
        " of transformers 4",
    ),
    _Kind(
        ".distcp",
        r".*\.distcp",
        "shards of torch.distributed.checkpoint",
        f"{_DCP_TOOL}; those of accelerate: accelerate merge-weights FOLDER OUT",
        alone=False,
    ),
    _Kind(
        "shard-",
        r"shard-(?P<rank>\d+)-model-\d+-of-\d+\.safetensors",
        "shards of torch.distributed.checkpoint, each of which holds a part of every tensor",
        "torch.distributed.checkpoint._consolidate_hf_safetensors joins them",
        alone=False,
    ),
    _Kind(
        "_world_size_",
        r"(model|optim|extra_state)_world_size_(?P<of>\d+)_rank_(?P<rank>\d+)\.pt",
        "FSDP shards of verl, each of which holds a part of every tensor",
        "python -m verl.model_merger merge --backend fsdp --local_dir FOLDER --target_dir OUT joins them",
    ),
    _Kind(
        "pytorch_model_fsdp",
        r"pytorch_model_fsdp(_\d+)?_rank(?P<rank>\d+)\.bin",
        "FSDP shards, each of which holds a part of every tensor",
        "save a full state dict, or a sharded one and then accelerate merge-weights FOLDER OUT",
        alone=False,
    ),
    _Kind(
        "_model_states.pt",
        r"zero_pp_rank_(?P<rank>\d+)_mp_rank_\d+_model_states\.pt",
        "ranks of DeepSpeed's ZeRO stage 3, whose weights are empty",
        ZERO_TOOL,
        alone=False,
    ),
    _Kind(
        "_optim_states.pt",
        r"((bf16|fp16)_)?zero_pp_rank_(?P<rank>\d+)_mp_rank_\d+_optim_states\.pt",
        "the optimizer's state of DeepSpeed's ZeRO",
        ZERO_TOOL,
        alone=False,
    ),
    _Kind(
        "_model_states.pt",
        r"mp_rank_(?P<rank>\d+)_model_states\.pt",
        "model-parallel ranks of DeepSpeed, each of which holds a part of every tensor",
        f"{ZERO_TOOL} where they are of ZeRO; else {_MEGATRON_TOOL}",
    ),
    _Kind(
        "-model_states.pt",
        r"layer_(?P<rank>\d+)-model_\d+-model_states\.pt",
        "layers of a pipeline of DeepSpeed",
        _MEGATRON_TOOL,
    ),
    _Kind(
        "model-rank-",
        r"model-rank-(?P<rank>\d+)-part-\d+\.safetensors",
        "tensor-parallel shards of vLLM, each of which holds a part of every tensor",
        "point SRC at the model that they were made of",
    ),
    _Kind(
        "rank",
        r"rank(?P<rank>\d+)\.safetensors",
        "tensor-parallel ranks of TensorRT-LLM, each of which holds a part of every tensor",
        "point SRC at the model that they were made of",
    ),
    _Kind(
        "-mp",
        r"model(?P<rank>\d+)-mp(?P<of>\d+)\.safetensors",
        "model-parallel shards of DeepSeek's inference code, each of which holds a part of every tensor",
        "point SRC at the model that they were made of",
    ),
    _Kind(
        "-model_part-",
        r".*-model_part-(?P<rank>\d+)(-shard\d+)?\.pt",
        "model-parallel shards of metaseq, each of which holds a part of every tensor",
        "point SRC at the Hugging Face edition of the model",
    ),
)

_OPTIMIZER = r"(.*_)?(optim_states|distrib_optim)\.pt|(optim|extra_state)_world_size_.*\.pt"


def _megatron(name: str) -> re.Match[str] | None:
    """A folder into which Megatron saves a rank: ``mp_rank_00``, with pipelines ``mp_rank_00_000``."""
    return re.fullmatch(r"mp_rank_(?P<rank>\d+)(_\d+)*", name) if name.startswith("mp_rank_") else None


def is_part_of_run(path: File) -> bool:
    """Whether the name is that of such a file, whole or not."""
    return any(kind.match(path.name) for kind in _KINDS)


def is_optimizer(path: File) -> bool:
    """Whether it is a rank's state of the optimizer, which holds no weights as they are used."""
    return path.name.endswith(".pt") and re.fullmatch(_OPTIMIZER, path.name) is not None


def check_parts(asked: File | Folder, paths: Iterable[File], beside: Iterable[File]) -> None:
    """Refuse files that are only a part of a model.

    Args:
        asked: what was asked for: a file, or the folder.
        paths: the files that would be read.
        beside: all files of their folder.

    Raises:
        FormatError: a file is one of several ranks.
    """
    beside = [path for path in beside if not is_optimizer(path)]
    for path in paths:
        for kind in _KINDS:
            match = kind.match(path.name)
            if match is None:
                continue
            mates = [other for other in beside if kind.match(other.name)]
            if not kind.alone or _is_one_of_several(match) or len(mates) > 1:
                raise _refusal(asked, path, kind, mates or [path])
    _check_megatron(asked, paths)


def _is_one_of_several(match: re.Match[str]) -> bool:
    groups = match.groupdict()
    if groups.get("of") is not None:
        return int(groups["of"]) > 1
    return int(groups.get("rank") or 0) > 0


def _refusal(asked: File | Folder, path: File, kind: _Kind, mates: list[File]) -> FormatError:
    if asked == path:
        return FormatError(f"is one of the {kind.what}", file=asked.url, hint=kind.hint)
    shown = ", ".join(mate.name for mate in mates[:2]) + (f" and {len(mates) - 2} more" * (len(mates) > 2))
    return FormatError(f"holds {shown}: {kind.what}", file=asked.url, hint=kind.hint)


def check_rank_folders(folder: Folder, names: Iterable[str]) -> None:
    """Refuse a folder of which several inner ones are ranks of Megatron.

    Args:
        names: of its inner folders.

    Raises:
        FormatError: several are.
    """
    ranks = [name for name in names if _megatron(name.rstrip("/"))]
    if len(ranks) > 1:
        raise FormatError(
            f"holds {len(ranks)} ranks of Megatron, {ranks[0]} and others, each with a part of every tensor",
            file=folder.url,
            hint=_MEGATRON_TOOL,
        )


def _check_megatron(asked: File | Folder, paths: Iterable[File]) -> None:
    for folder in {path.folder.url: path.folder for path in paths}.values():
        match = _megatron(folder.name)
        if match is None:
            continue
        outer = folder.outer()
        beside = outer.folders() if outer is not None else []
        ranks = [other for other in beside if _megatron(other.name)]
        if len(ranks) > 1 or int(match["rank"]):
            raise FormatError(
                f"is of {folder.name}, one of the ranks of Megatron, each with a part of every tensor",
                file=asked.url,
                hint=_MEGATRON_TOOL,
            )
