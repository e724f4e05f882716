"""One thread at work on one device: its stream, its staging buffers, its share of the device's memory.

A call's rows go through in bands: copied into one of two pinned buffers, up to the device, through the
kernel, and down into the caller's arrays, which are pinned too. All of that but the first step is queued on
the thread's own stream, so while one band is on its way the next is copied, and the threads of a device
overlap each other.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import DataError
from ...voice import called

__all__ = ["Compute", "Worker"]

Array = NDArray[Any]
Compute = Callable[[torch.Tensor], tuple[torch.Tensor | None, Sequence[torch.Tensor]]]
"""From values ``[r, K]`` in the source's dtype to: whether all are finite, 0-D (None: not looked), and the
outputs' rows.
"""

_STAGE = 8 << 20
"""Bytes of source values in a band: enough to keep the bus busy, few enough for several to be under way."""

_queueing: defaultdict[int | None, threading.Lock] = defaultdict(threading.Lock)
"""For each device, held while a band's operations are queued. Each of them lets go of the interpreter's lock
and takes it back; several threads at that at once would spend most of their time waiting for each other.
"""

_VALUES = {np.dtype(np.uint16): torch.bfloat16, np.dtype(np.int16): torch.float16,
           np.dtype(np.uint32): torch.float32}  # fmt: skip
"""What the bits that kernels are given stand for, see :mod:`..lanes`."""


class Worker:
    """A thread's access to a device, to be entered in that thread.

    Args:
        device: torch's name of it; ``"cpu"`` works as well, for tests.
        memory: bytes of its memory that bands may take.
    """

    def __init__(self, device: str, memory: int) -> None:
        self.device = torch.device(device)
        self._memory = memory
        self._gpu = self.device.type == "cuda"
        self._context = ExitStack()
        self._slots = [_Slot(), _Slot()]
        self._constants: dict[object, torch.Tensor] = {}

    def __enter__(self) -> Self:
        self._context.enter_context(torch.inference_mode())
        if self._gpu:
            self._context.enter_context(torch.cuda.device(self.device))
            self._context.enter_context(torch.cuda.stream(torch.cuda.Stream(self.device)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._slots.clear()
            self._constants.clear()
            self._context.close()

    def number(self, value: float) -> torch.Tensor:
        """A float32 on the device, 0-D: what to divide by, see the package."""
        return torch.full((), float(value), dtype=torch.float32, device=self.device)

    def constant(self, key: object, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A tensor that is moved to the device once for each worker: other streams would not wait for it."""
        if key not in self._constants:
            self._constants[key] = make().to(self.device)
        return self._constants[key]

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Host memory that the device reads and writes by itself; ordinary memory where there is none."""
        if self._gpu:
            try:
                block: NDArray[np.uint8] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
                return block
            except RuntimeError:  # locked memory is limited: copies are slower without it, and as right
                pass
        return np.empty(nbytes, np.uint8)

    def stream(self, rows: Array, height: int, outputs: Sequence[Array], cost: int, compute: Compute) -> bool:
        """Put rows through a kernel, a band at a time, as many as fit; fewer where memory runs out.

        Args:
            rows: bits ``[R, K]``.
            height: rows that must stay together.
            outputs: C-contiguous, each with R rows, or one row for each ``height`` of them.
            cost: bytes of device memory that the kernel takes for each value.
            compute: the kernel.

        Returns:
            Whether all values were finite.

        Raises:
            DataError: the device has no room for ``height`` rows.
        """
        count, columns = rows.shape
        grain = columns * height
        bands = min(_STAGE // (grain * rows.itemsize), self._memory // (grain * cost))
        step = max(bands, 1) * height
        flags: list[torch.Tensor] = []
        start = 0
        turn = 0
        while start < count:
            stop = min(start + step, count)
            try:
                finite = self._band(self._slots[turn % 2], rows[start:stop], start, height, outputs, compute)
            except torch.cuda.OutOfMemoryError:
                full = True
            else:
                full = False
            # Not in the handler: the error holds on to the frames, and they to their tensors.
            if full:
                step = self._smaller(stop - start, height, columns * height)
                continue
            if finite is not None:
                flags.append(finite)
            start = stop
            turn += 1
        self._wait()
        return not flags or bool(torch.stack(flags).all().item())

    def _band(
        self, slot: _Slot, rows: Array, start: int, height: int, outputs: Sequence[Array], compute: Compute
    ) -> torch.Tensor | None:
        if slot.busy is not None:
            slot.busy.synchronize()
        if slot.block.nbytes < rows.nbytes:
            slot.block = self.pinned(rows.nbytes)
        staged = slot.block[: rows.nbytes]
        np.copyto(staged.view(rows.dtype).reshape(rows.shape), rows)
        with _queueing[self.device.index]:
            values = torch.from_numpy(staged).to(self.device, non_blocking=True)
            if self._gpu:
                slot.busy = torch.cuda.Event(blocking=True)
                slot.busy.record()
            else:
                values = values.clone()
            finite, results = compute(values.view(_VALUES[rows.dtype]).view(rows.shape))
            for out, tensor in zip(outputs, results, strict=True):
                first = start if len(tensor) == len(rows) else start // height
                # By bytes: torch knows few of numpy's unsigned types, and float8 only by name.
                target = torch.from_numpy(out[first : first + len(tensor)].reshape(-1).view(np.uint8))
                target.copy_(tensor.contiguous().view(-1).view(torch.uint8), non_blocking=True)
        return finite

    def _smaller(self, step: int, height: int, values: int) -> int:
        self._wait()
        if self._gpu:
            torch.cuda.empty_cache()
        if step <= height:
            raise DataError(
                f"{self.device}: not enough free memory for a block of {values} values",
                hint=f"free some, use another device, or {called('device', 'cpu')}",
            )
        return step // height // 2 * height or height

    def _wait(self) -> None:
        """Until all that was queued is done, without keeping a processor busy."""
        if self._gpu:
            event = torch.cuda.Event(blocking=True)
            event.record()
            event.synchronize()


class _Slot:
    """A staging buffer, and the event after which it may be filled again."""

    def __init__(self) -> None:
        self.block: NDArray[np.uint8] = np.empty(0, np.uint8)
        self.busy: Any = None
