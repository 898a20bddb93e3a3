"""The faster gradients of depthwise convolutions are those of PyTorch."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.model import DeepfakeDetector
from training.depthwise import FastDepthwise, input_gradient, weight_gradient

SHAPES = [  # side of the kernel, stride, padding, height, width
    (3, 1, 1, 12, 12),
    (3, 2, 0, 13, 13),
    (3, 2, 1, 12, 9),
    (5, 1, 2, 7, 11),
    (5, 2, 0, 15, 14),
    (5, 2, 2, 16, 16),
    (7, 1, 3, 9, 9),
    (7, 3, 3, 20, 17),
]


@pytest.mark.parametrize(("side", "stride", "padding", "height", "width"), SHAPES)
def test_gradients_are_those_of_the_convolution_in_double_precision(
    side: int, stride: int, padding: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, height, width).bfloat16().to(memory_format=torch.channels_last)
    weight = torch.randn(6, 1, side, side).bfloat16()
    exact = [t.double().requires_grad_() for t in (x, weight)]
    y = F.conv2d(*exact, None, stride, padding, 1, 6)
    given = torch.randn(y.shape).bfloat16()
    wanted = torch.autograd.grad(y, exact, given.double())
    options = (given, x, weight, stride, padding)
    for right, ours in zip(
        wanted, (input_gradient(*options), weight_gradient(*options)), strict=True
    ):
        assert ours.dtype == torch.bfloat16
        assert ours.shape == right.shape
        # bfloat16 keeps 8 bits; one rounding of a sum is 2^-9 of it.
        assert (ours.double() - right).abs().max() <= 2**-7 * right.abs().max()


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_a_step_of_the_detector_changes_its_weights_alike(backbone: str) -> None:
    torch.manual_seed(0)
    model = DeepfakeDetector(backbone, image_size=64, dropout=0.0).eval()  # no chance in it
    x = torch.randn(4, 3, 64, 64)

    def gradient(mode: contextlib.AbstractContextManager[object]) -> Tensor:
        model.zero_grad()
        with mode, torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(x)
        nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 0, 1])).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain, fast = gradient(contextlib.nullcontext()), gradient(FastDepthwise())
    assert fast.shape == plain.shape
    assert torch.cosine_similarity(plain, fast, dim=0) > 0.99
    assert not torch.equal(plain, fast)  # rounded otherwise: it was the other way that was taken


@pytest.mark.parametrize(
    ("dtype", "groups", "bias"),
    [(torch.float32, 6, False), (torch.bfloat16, 2, False), (torch.bfloat16, 6, True)],
)
def test_other_convolutions_are_left_as_they_are(
    dtype: torch.dtype, groups: int, bias: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 5, stride=2, groups=groups, bias=bias).to(dtype)
    x = torch.randn(2, 6, 11, 11, dtype=dtype)
    wanted = torch.autograd.grad(conv(x).sum(), list(conv.parameters()))
    with FastDepthwise():
        found = torch.autograd.grad(conv(x).sum(), list(conv.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
