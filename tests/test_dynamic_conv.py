"""The convolution of DFlash 2, against its formula written out in loops."""

from __future__ import annotations

import pytest
import torch

from drafters.block_diffusion.dynamic_conv import ConvShape, DynamicConv

WIDTH, BLOCK = 12, 5
SHAPES = [(2, 4), (1, 3), (3, 12), (2, 1), (7, 6)]
"""Taps and group sizes; seven taps reach over the whole block."""


def random_conv(taps: int, group_size: int, seed: int = 0) -> DynamicConv:
    shape = ConvShape(kernel_size=taps, group_size=group_size)
    conv = DynamicConv(WIDTH, shape).double().requires_grad_(False)
    draw = torch.Generator().manual_seed(seed)
    for parameter in conv.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return conv


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal(
    conv: DynamicConv, side: int, taps: int, group_size: int, x: torch.Tensor, read: torch.Tensor
) -> torch.Tensor:
    """y[t, c] = Σ_p (base[side, p, c] + correction[t, side, p, c's group]) · x[t − p, c].

    The corrections of a position are one row, sides outermost and groups innermost.
    """
    groups = WIDTH // group_size
    weight = conv.kernel_projection.weight
    y = torch.zeros_like(x)
    for t in range(len(x)):
        corrections = weight @ read[t]
        for c in range(WIDTH):
            for p in range(min(taps, t + 1)):
                place = (side * taps + p) * groups + c // group_size
                y[t, c] += (conv.base_kernel[side, p, c] + corrections[place]) * x[t - p, c]
    return y


@pytest.mark.parametrize(("taps", "group_size"), SHAPES)
def test_both_sides_equal_the_formula(taps: int, group_size: int) -> None:
    conv = random_conv(taps, group_size)
    x, made = rows(1, BLOCK, WIDTH), rows(2, BLOCK, WIDTH)
    entered, correction = conv.before(x)
    torch.testing.assert_close(entered, literal(conv, 0, taps, group_size, x, x))
    left = conv.after(made, correction)
    torch.testing.assert_close(left, literal(conv, 1, taps, group_size, made, x))


def test_nothing_crosses_a_block() -> None:
    conv = random_conv(2, 4)
    x = rows(1, 3, BLOCK, WIDTH)
    together, corrections = conv.before(x)
    for block in range(3):
        alone, correction = conv.before(x[block])
        torch.testing.assert_close(together[block], alone)
        made = conv.after(x, corrections)[block]
        torch.testing.assert_close(made, conv.after(x[block], correction))


def test_a_position_reaches_itself_and_as_many_behind_it_as_there_are_taps() -> None:
    conv = random_conv(3, 4)
    x = rows(1, 8, WIDTH)
    moved = x.clone()
    moved[2] += 1
    changed = (conv.before(x)[0] != conv.before(moved)[0]).any(-1)
    assert changed.tolist() == [False, False, True, True, True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_it_changes_no_bit(dtype: torch.dtype) -> None:
    conv = DynamicConv(WIDTH, ConvShape(kernel_size=2, group_size=4)).to(dtype)
    x, made = rows(1, BLOCK, WIDTH).to(dtype), rows(2, BLOCK, WIDTH).to(dtype)
    with torch.no_grad():
        entered, correction = conv.before(x)
        assert torch.equal(entered, x)
        assert torch.equal(conv.after(made, correction), made)


@pytest.mark.parametrize("numbers", [(0, 4), (2, 0), (-1, 4)])
def test_shapes_that_cannot_be(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        ConvShape(kernel_size=numbers[0], group_size=numbers[1])
