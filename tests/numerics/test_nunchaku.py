"""Codes of calibrated weights against torch: division in float32, round, or the nearest of a codebook."""

import numpy as np
import pytest
import torch

from transcode.numerics import nunchaku as kernels

CODEBOOK = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
KINDS = {torch.bfloat16: np.uint16, torch.float16: np.int16, torch.float32: np.uint32}


def run(kernel, weight: torch.Tensor, outer: torch.Tensor, inner: torch.Tensor) -> tuple[int, np.ndarray]:
    integer = torch.int32 if weight.dtype == torch.float32 else torch.int16
    rows = weight.view(integer).numpy().view(KINDS[weight.dtype]).copy()
    rows.setflags(write=False)
    codes = np.full(weight.shape, 255, np.uint8)
    return kernel(rows, outer.numpy(), inner.numpy(), codes, 0, 1), codes


def quotient(weight: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
    n, k = weight.shape
    made = weight.float()
    for scale in scales:
        groups = scale.shape[1]
        made = (made.view(n, groups, k // groups) / scale[:, :, None]).view(n, k)
    return made


@pytest.mark.parametrize("kind", list(KINDS), ids=str)
def test_int4(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256).to(kind)
    outer = torch.rand(64, 1) + 0.5
    inner = weight.float().view(64, 4, 64).abs().amax(-1) / outer / 7 * (1 + torch.rand(64, 4))
    bad, codes = run(kernels.int4, weight, outer, inner)
    assert bad == -1
    expected = quotient(weight, outer, inner).round().to(torch.int32) & 15
    assert np.array_equal(codes, expected.numpy())


def test_int4_ties_go_to_even() -> None:
    weight = torch.tensor([[-8.5, -7.5, -2.5, -0.5, 0.5, 1.5, 6.5, 7.25]]).bfloat16()
    bad, codes = run(kernels.int4, weight, torch.ones(1, 1), torch.ones(1, 1))
    assert bad == -1
    assert codes[0].tolist() == [8, 8, 14, 0, 0, 2, 6, 7]


@pytest.mark.parametrize("value", [7.5, -8.75, 1e30, float("inf"), float("nan")])
def test_int4_that_does_not_fit(value: float) -> None:
    weight = torch.zeros(5, 64).bfloat16()
    weight[3, 17] = value
    bad, _ = run(kernels.int4, weight, torch.ones(5, 1), torch.ones(5, 1))
    assert bad == 3


@pytest.mark.parametrize("kind", list(KINDS), ids=str)
def test_fp4(kind: torch.dtype) -> None:
    torch.manual_seed(1)
    weight = torch.randn(64, 256).to(kind)
    outer = torch.rand(64, 1) + 0.5
    inner = torch.rand(64, 16) + 0.1
    bad, codes = run(kernels.fp4, weight, outer, inner)
    assert bad == -1
    expected = (quotient(weight, outer, inner)[:, :, None] - CODEBOOK).abs().argmin(-1)
    assert np.array_equal(codes, expected.numpy())


def test_fp4_of_every_bf16() -> None:
    """Each BF16 that differs from its distances to the codebook, against the first nearest of it."""
    weight = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    weight = weight[weight.abs() <= 2**16].view(1, -1)
    bad, codes = run(kernels.fp4, weight, torch.ones(1, 1), torch.ones(1, 1))
    assert bad == -1
    expected = (weight.float()[:, :, None] - CODEBOOK).abs().argmin(-1)
    assert np.array_equal(codes, expected.numpy())


def test_fp4_saturates() -> None:
    weight = torch.tensor([[6.5, -7.0, 3e38, -3e38]])
    assert run(kernels.fp4, weight, torch.ones(1, 1), torch.ones(1, 1))[1][0].tolist() == [7, 15, 7, 15]


def test_fp4_at_and_next_to_every_tie() -> None:
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    near = torch.cat([ties, ties.nextafter(torch.tensor(9.0)), ties.nextafter(torch.tensor(0.0))])
    weight = torch.cat([near, -near]).view(1, -1)
    bad, codes = run(kernels.fp4, weight, torch.ones(1, 1), torch.ones(1, 1))
    assert bad == -1
    assert codes[0, :21].tolist() == [*range(7), *range(1, 8), *range(7)]
    assert codes[0, 21:].tolist() == [0, *range(9, 15), *range(9, 16), 0, *range(9, 15)]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_fp4_that_is_not_finite(value: float) -> None:
    weight = torch.zeros(5, 64).bfloat16()
    weight[4, 63] = value
    assert run(kernels.fp4, weight, torch.ones(5, 1), torch.ones(5, 4))[0] == 4


@pytest.mark.parametrize("kernel", [kernels.int4, kernels.fp4])
def test_scale_of_zero(kernel) -> None:
    """A group of zeros may have the scale 0; any other value has no code then."""
    weight = torch.zeros(2, 64).bfloat16()
    scale = torch.zeros(2, 4)
    bad, codes = run(kernel, weight, torch.ones(2, 1), scale)
    assert bad == -1
    assert not codes.any()
    weight[1, 5] = 1
    assert run(kernel, weight, torch.ones(2, 1), scale)[0] == 1


def test_with_offset() -> None:
    torch.manual_seed(2)
    weight = torch.randn(64, 256).bfloat16()
    scale = weight.float().view(64, 4, 64).abs().amax(-1) / 7
    bad, codes = run(kernels.with_offset, weight, torch.ones(64, 1), scale)
    assert bad == -1
    groups = weight.float().view(64, 4, 64)
    expected = ((groups + (7 * scale)[:, :, None]) / scale[:, :, None]).round().view(64, 256)
    assert np.array_equal(codes, expected.to(torch.uint8).numpy())


@pytest.mark.parametrize("value", [8.75, -7.75])
def test_with_offset_that_does_not_fit(value: float) -> None:
    weight = torch.zeros(3, 64).bfloat16()
    weight[1, 0] = value
    assert run(kernels.with_offset, weight, torch.ones(3, 1), torch.ones(3, 1))[0] == 1


def test_rows_can_be_written_apart() -> None:
    weight = torch.tensor([[1.0] * 8, [2.0] * 8]).bfloat16()
    rows = weight.view(torch.int16).numpy().view(np.uint16).copy()
    rows.setflags(write=False)
    codes = np.full((6, 16), 99, np.uint8)
    one = np.ones((2, 1), np.float32)
    assert kernels.int4(rows, one, one, codes, 1, 3) == -1
    assert codes[1, :8].tolist() == [1] * 8
    assert codes[4, :8].tolist() == [2] * 8
    assert (codes == 99).sum() == 6 * 16 - 16
