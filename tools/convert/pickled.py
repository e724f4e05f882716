"""From a safetensors file to a PyTorch file, for loaders that read nothing else."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transcode.containers.safetensors import header
from transcode.core.dtypes import DType
from transcode.errors import TranscodeError
from transcode.plan.plan import Plan

__all__ = ["check", "save"]


def check(plan: Plan, target: Path, inputs: Iterable[Path]) -> None:
    """Refuse what :func:`save` could not do, before there is anything to be saved.

    Args:
        inputs: the files that are read; the target may be none of them.

    Raises:
        TranscodeError: PyTorch is not installed, or has not the dtype of a tensor; there is a folder of the
            target's name; or the disk has no room for both files.
    """
    torch = _torch(target)
    for file in plan.files:
        for place in file.places:
            _kind(torch, place.spec.dtype, place.name, target)
    if target.exists() and any(target.samefile(path) for path in inputs):
        raise TranscodeError(
            "is read by this run, and never overwritten", file=target, hint="choose another --output_name"
        )
    if target.is_dir():
        raise TranscodeError("is a folder", file=target, hint="choose another --output_name")
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < plan.file_bytes + plan.bytes_out:
        raise TranscodeError(
            f"needs {plan.file_bytes + plan.bytes_out} bytes, with the safetensors file that it is made from,"
            f" {free} are left",
            file=target, hint="free some space, or use --output_ext .safetensors",
        )  # fmt: skip


def _torch(target: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise TranscodeError(
            "PyTorch is needed to write it",
            file=target,
            hint="install torch, or use --output_ext .safetensors",
        ) from None
    return torch


def _kind(torch: Any, dtype: DType, name: str, target: Path) -> Any:
    """The dtype of torch. Raises TranscodeError where it has none."""
    kind = getattr(torch, _torch_name(dtype), None)
    if kind is None or dtype.packed:
        raise TranscodeError(
            f"{dtype} cannot be saved with torch", file=target, tensor=name,
            hint="use --output_ext .safetensors",
        )  # fmt: skip
    return kind


def save(folder: Path, target: Path) -> None:
    """Save the tensors of the one safetensors file in a folder as a dict, with :func:`torch.save`.

    Each tensor gets a storage of its own over the mapped file: there is no copy in memory, only the file's
    pages, which the system can take back. What else lies in the folder is moved beside the target, which
    appears complete, by rename.

    Raises:
        TranscodeError: PyTorch is not installed, or has not the dtype of a tensor; or the disk is full.
    """
    torch = _torch(target)
    (source,) = folder.glob("*.safetensors")
    found = header.read(source)
    free = shutil.disk_usage(folder).free
    if free < found.data_size:
        raise TranscodeError(
            f"needs {found.data_size} bytes beside the safetensors file it is made from, {free} are left",
            file=target, hint="free some space, or use --output_ext .safetensors",
        )  # fmt: skip
    with open(source, "rb") as file:
        # Writable, because PyTorch has no read-only tensors; pages are copied only if somebody writes.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors = {}
    for entry in found.entries:
        kind = _kind(torch, entry.spec.dtype, entry.name, target)
        if entry.spec.numel:
            at = found.data_start + entry.begin
            flat = torch.frombuffer(mapped, dtype=kind, count=entry.spec.numel, offset=at)
        else:
            flat = torch.empty(0, dtype=kind)
        tensors[entry.name] = flat.reshape(entry.spec.shape)
    part = folder / "torch.part"
    try:
        torch.save(tensors, part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        for side in folder.iterdir():
            if side not in (source, part):
                shutil.move(side, target.with_name(side.name))
        os.replace(part, target)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by the latter
        raise TranscodeError(f"cannot be written: {error}", file=target) from error


def _torch_name(dtype: DType) -> str:
    if dtype.kind == "bool":
        return "bool"
    return dtype.ml_dtype or dtype.carrier
