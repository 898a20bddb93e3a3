"""Gradients of depthwise convolutions in bfloat16, where the CPU's own are ten times too slow.

oneDNN, which PyTorch computes convolutions with on a CPU, has no fast bfloat16 kernel for two of
them: with respect to the input where the stride is 2, and with respect to a kernel larger than
3 x 3. EfficientNet has one or the other in most of its blocks, and together they can take two
thirds of a training step. Both can be put as convolutions that are fast, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

TILE = 3  # the largest kernel whose gradient is fast


class FastDepthwise(TorchFunctionMode):
    """Within it, ``conv2d`` of a depthwise kernel in bfloat16 on a CPU has the faster gradients.

    Everything else is left as it is: other convolutions, dtypes and devices. Kernels are square,
    strides and paddings the same in both directions, or the convolution is left as it is too.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.conv2d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            if groups > 1 and _is_slow(x, weight, bias, stride, padding, dilation, groups):
                return _Depthwise.apply(
                    x.to(torch.bfloat16), weight.to(torch.bfloat16), stride[0], padding[0]
                )
        return func(*args, **(kwargs or {}))


def _is_slow(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, n: int
) -> bool:
    low = x.dtype if not torch.is_autocast_enabled("cpu") else torch.get_autocast_dtype("cpu")
    same = all(isinstance(v, tuple) and v[0] == v[1] for v in (stride, padding, dilation))
    return (
        x.device.type == "cpu"
        and low == torch.bfloat16
        and same
        and bias is None
        and dilation[0] == 1
        and weight.shape[:2] == (n, 1)
        and weight.shape[2] == weight.shape[3]
        and padding[0] < weight.shape[2]
        and (stride[0] > 1 or weight.shape[2] > TILE)
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        given = (grad.contiguous(memory_format=torch.channels_last), x, weight)
        of_x, of_weight, *_ = ctx.needs_input_grad
        dx = input_gradient(*given, ctx.stride, ctx.padding) if of_x else None
        dw = weight_gradient(*given, ctx.stride, ctx.padding) if of_weight else None
        return dx, dw, None, None


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Of a depthwise convolution with respect to its input, as a convolution of stride 1.

    The gradient of a stride is zeros between the values (Dumoulin & Visin, "A guide to
    convolution arithmetic for deep learning", 2016, section 4.4).

    Args:
        grad: gradient of the output, (N, C, h, w).
        x: input, (N, C, H, W); only its size counts.
        weight: (C, 1, k, k).

    Returns:
        (N, C, H, W)
    """
    side, channels = weight.shape[2], len(weight)
    if stride > 1:
        height, width = (n + 2 * padding - side + 1 for n in x.shape[2:])
        spread = grad.new_zeros((len(grad), height, width, channels)).permute(0, 3, 1, 2)
        spread[:, :, ::stride, ::stride] = grad
        grad = spread
    return F.conv2d(grad, weight.flip(2, 3), None, 1, side - 1 - padding, 1, channels)


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Of a depthwise convolution with respect to its kernel, in tiles of 3 x 3.

    A value of the gradient depends on its own place in the kernel only, so each tile is the
    gradient of a small kernel over the input from that tile's place on. Tiles overlap where the
    side is no multiple of three.

    Args:
        as for ``input_gradient``.

    Returns:
        (C, 1, k, k)
    """
    side = weight.shape[2]
    if side <= TILE:
        return _kernel_gradient(grad, x, weight, stride, padding)
    padded = F.pad(x, (padding,) * 4)
    reach = [stride * (n - 1) + TILE for n in grad.shape[2:]]
    starts = sorted({min(s, side - TILE) for s in range(0, side, TILE)})
    small = weight[:, :, :TILE, :TILE].contiguous()
    dw = torch.empty_like(weight)
    for top in starts:
        for left in starts:
            part = padded[:, :, top : top + reach[0], left : left + reach[1]]
            part = part.contiguous(memory_format=torch.channels_last)
            tile = _kernel_gradient(grad, part, small, stride, 0)
            dw[:, :, top : top + TILE, left : left + TILE] = tile
    return dw


def _kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    dw: Tensor
    _, dw, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        [stride] * 2,
        [padding] * 2,
        [1, 1],
        False,
        [0, 0],
        len(weight),
        [False, True, False],
    )
    return dw
