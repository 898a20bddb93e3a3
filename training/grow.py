"""Start a large EfficientNet from a small one that has already learned the task.

Where no ImageNet weights of the large network can be had and there is no GPU to train it from
nothing, the small one's knowledge is carried over: channels are copied until they fill the wider
layers, and the additional blocks begin as identities, so that the large network computes what the
small one did and training goes on from there (after Chen et al., "Net2Net: Accelerating Learning
via Knowledge Transfer", ICLR 2016).

Within a family the answers stay the same: B0 grows into B4, Lite0 into Lite2. A Lite network can
become a B network too, but loses the limit of its ReLU6 and gains squeeze-and-excitation, so that
its normalisation layers no longer fit; training estimates them anew, from its first steps on. timm
pads the strided layers of its tf_ networks on another side than those of the others, so stay among
the former:

    python -m training.grow --init lite2.pth --backbone tf_efficientnet_b4 --out b4-start.pth
    python -m training.train --init b4-start.pth --backbone tf_efficientnet_b4 --out runs/b4
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepfake.checkpoint import load, save
from deepfake.errors import DataError
from deepfake.model import CBAM, DEFAULT_BACKBONE, DeepfakeDetector
from training.cli import check_numbers, parser, run

STEEPNESS = 4.0
"""SiLU(a x) / a tends to ReLU(x) for a large a: so much steeper SiLU is started."""

OPEN = 2.0  # bias of the gates of squeeze-and-excitation, which start nearly open: sigmoid(2)

Map = Tensor
"""(new channels,) int64: the old channel that each new one is a copy of."""


def grow(small: DeepfakeDetector, backbone: str, seed: int = 0) -> DeepfakeDetector:
    """A detector with a larger EfficientNet that answers nearly as the small one does.

    Args:
        small: a detector whose backbone is of timm's EfficientNet family.
        backbone: name of the larger network, with as many stages of the same kernel sizes.
        seed: of the shares in which the copies of a channel are used; unequal ones, or copies
            would stay copies for ever.

    Raises:
        DataError: one of the two is no EfficientNet, or the larger one is not larger.
    """
    with_cbam = isinstance(small.cbam, CBAM)
    large = DeepfakeDetector(backbone, small.image_size, False, small.dropout, with_cbam).eval()
    try:
        with torch.no_grad():
            _Growth(small.backbone, large.backbone, seed).all_blocks()
            _grow_head(small, large, seed)
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise DataError(
            f"{small.backbone_name} cannot be grown into {backbone}: both must be EfficientNets, "
            "the second at least as deep and wide."
        ) from error
    return large


class _Growth:
    """The backbone's weights, carried over layer by layer.

    Args:
        small, large: the two backbones, as timm builds them.
    """

    def __init__(self, small: Any, large: Any, seed: int) -> None:
        self.small, self.large = small, large
        self.rng = torch.Generator().manual_seed(seed)
        self.steep = STEEPNESS if _is_smooth(large) and not _is_smooth(small) else 1.0

    def all_blocks(self) -> None:
        small, large = self.small, self.large
        if len(small.blocks) != len(large.blocks):
            raise IndexError("not the same number of stages")
        colours = torch.arange(3)
        out = copies(small.conv_stem.out_channels, large.conv_stem.out_channels)
        self._conv(small.conv_stem, large.conv_stem, colours, out)
        shift = self._renormalise()
        self._norm(small.bn1, large.bn1, out, self.steep, 1.0, shift[out])
        for old_stage, new_stage in zip(small.blocks, large.blocks, strict=True):
            for i, new in enumerate(new_stage):
                if i < len(old_stage):
                    out = self._block(old_stage[i], new, out)
                else:
                    self._identity(new)
        last = copies(small.conv_head.out_channels, large.conv_head.out_channels)
        self._conv(small.conv_head, large.conv_head, out, last)
        self._norm(small.bn2, large.bn2, last, self.steep, 1.0)

    def _renormalise(self) -> Tensor:
        """Make the stem expect the large network's mean and deviation; what that adds, (old,).

        x_small = (x_large * std_large + mean_large - mean_small) / std_small.
        """
        old, new = (_statistics(net) for net in (self.small, self.large))
        weight = self.small.conv_stem.weight
        constant = (old[0] - new[0]) / old[1]
        self.large.conv_stem.weight.mul_((new[1] / old[1]).view(1, 3, 1, 1))
        added: Tensor = (weight.sum(dim=(2, 3)) * constant).sum(dim=1)
        return added

    def _block(self, old: Any, new: Any, given: Map) -> Map:
        """One block from channels ``given`` on; the map of the channels it puts out."""
        steep = self.steep
        if hasattr(old, "conv_pwl"):  # expand, depthwise, squeeze-and-excitation, project
            mid = copies(old.conv_pw.out_channels, new.conv_pw.out_channels)
            out = copies(old.conv_pwl.out_channels, new.conv_pwl.out_channels)
            self._conv(old.conv_pw, new.conv_pw, given, mid)
            self._norm(old.bn1, new.bn1, mid, steep, 1.0)
            new.conv_dw.weight.copy_(old.conv_dw.weight[mid])
            self._norm(old.bn2, new.bn2, mid, steep, steep)
            opening = self._squeeze(old, new, mid)
            self._conv(old.conv_pwl, new.conv_pwl, mid, out)
            self._norm(old.bn3, new.bn3, out, 1.0, steep * opening)
        else:  # depthwise, squeeze-and-excitation, pointwise
            out = copies(old.conv_pw.out_channels, new.conv_pw.out_channels)
            new.conv_dw.weight.copy_(old.conv_dw.weight[given])
            self._norm(old.bn1, new.bn1, given, steep, steep)
            opening = self._squeeze(old, new, given)
            self._conv(old.conv_pw, new.conv_pw, given, out)
            self._norm(old.bn2, new.bn2, out, 1.0, steep * opening)
        return out

    def _identity(self, block: Any) -> None:
        """A block that adds nothing to what it is given, until it has learned to."""
        if not block.has_skip:
            raise IndexError("a block without a shortcut cannot begin as an identity")
        last = block.bn3 if hasattr(block, "bn3") else block.bn2
        last.weight.zero_()
        last.bias.zero_()

    def _conv(self, old: Any, new: Any, given: Map, out: Map) -> None:
        """A convolution over copied channels: each copy contributes a share, together the whole."""
        new.weight.copy_(old.weight[out][:, given] * shares(given, len(out), self.rng))

    def _norm(
        self, old: Any, new: Any, out: Map, scale: float, given: float, shift: Tensor | float = 0.0
    ) -> None:
        """A normalisation whose input has become ``given`` times (it + ``shift``)."""
        new.weight.copy_(old.weight[out] * scale)
        new.bias.copy_(old.bias[out] * scale)
        new.running_mean.copy_((old.running_mean[out] + shift) * given)
        new.running_var.copy_((old.running_var[out] + old.eps) * given**2 - new.eps)

    def _squeeze(self, old: Any, new: Any, given: Map) -> float:
        """Squeeze-and-excitation, which begins as a constant where it is new.

        Returns:
            That constant: what the block's last convolution is given has become so much smaller.
        """
        if not isinstance(old.se, nn.Identity):
            self._gates(old.se, new.se, given)
            return 1.0
        if isinstance(new.se, nn.Identity):
            return 1.0
        new.se.conv_expand.weight.zero_()
        new.se.conv_expand.bias.fill_(OPEN)
        return 1 / (1 + math.exp(-OPEN))

    def _gates(self, old: Any, new: Any, given: Map) -> None:
        hidden = copies(old.conv_reduce.out_channels, new.conv_reduce.out_channels)
        self._conv(old.conv_reduce, new.conv_reduce, given, hidden)
        self._conv(old.conv_expand, new.conv_expand, hidden, given)
        new.conv_reduce.bias.copy_(old.conv_reduce.bias[hidden])
        new.conv_expand.bias.copy_(old.conv_expand.bias[given])


def _grow_head(small: Any, large: Any, seed: int) -> None:
    """Attention and classifier over the wider map, of one detector from another's."""
    rng = torch.Generator().manual_seed(seed + 1)
    steep = STEEPNESS if _is_smooth(large.backbone) and not _is_smooth(small.backbone) else 1.0
    channels = copies(small.channels, large.channels)
    if isinstance(small.cbam, CBAM) and isinstance(large.cbam, CBAM):
        old: Any = small.cbam.channel
        new: Any = large.cbam.channel
        hidden = copies(old.reduce.out_channels, new.reduce.out_channels)
        share = shares(channels, len(hidden), rng) / steep
        new.reduce.weight.copy_(old.reduce.weight[hidden][:, channels] * share)
        new.reduce.bias.copy_(old.reduce.bias[hidden])
        share = shares(hidden, len(channels), rng)
        new.expand.weight.copy_(old.expand.weight[channels][:, hidden] * share)
        new.expand.bias.copy_(old.expand.bias[channels])
        old, new = small.cbam.spatial.conv, large.cbam.spatial.conv
        new.weight.copy_(old.weight / steep)
        new.bias.copy_(old.bias)
    share = shares(channels, small.head[0].out_features, rng)[:, :, 0, 0] / steep
    large.head[0].weight.copy_(small.head[0].weight[:, channels] * share)
    large.head[0].bias.copy_(small.head[0].bias)
    large.head[3].load_state_dict(small.head[3].state_dict())


def copies(old: int, new: int) -> Map:
    """Each new channel's old one: all of them in order, then again from the first."""
    if new < old:
        raise IndexError("narrower than before")
    return torch.arange(new) % old


def shares(given: Map, rows: int, rng: torch.Generator) -> Tensor:
    """(rows, new channels, 1, 1): random shares that sum to 1 over the copies of a channel."""
    raw = torch.rand(rows, len(given), generator=rng) + 0.5
    total = torch.zeros(rows, int(given.max()) + 1).index_add_(1, given, raw)
    return (raw / total[:, given])[:, :, None, None]


def _is_smooth(backbone: Any) -> bool:
    return isinstance(backbone.bn1.act, nn.SiLU)


def _statistics(backbone: Any) -> tuple[Tensor, Tensor]:
    config = backbone.pretrained_cfg
    return torch.tensor(config["mean"]), torch.tensor(config["std"])


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--init", type=Path, required=True, help="checkpoint of the small network")
    args.add_argument(
        "--backbone",
        help=f"the large EfficientNet. Default: {DEFAULT_BACKBONE}, of a tf_ network tf_"
        f"{DEFAULT_BACKBONE}",
    )
    args.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    args.add_argument("--seed", type=int, default=0, help="of the copies' shares")
    opt = args.parse_args()
    check_numbers(opt, above_zero=(), not_negative=("seed",))
    small = load(opt.init)
    if not opt.backbone:
        tf = "tf_" if small.model.backbone_name.startswith("tf_") else ""
        opt.backbone = tf + DEFAULT_BACKBONE
    large = grow(small.model, opt.backbone, opt.seed)
    # Thresholds were of the small network; the large one needs its own, after training.
    save(opt.out, replace(small, model=large, uncertain=None, operating_points={}, metrics={}))
    print(f"{small.model.backbone_name} -> {opt.backbone}: {opt.out}")
    return 0


if __name__ == "__main__":
    run(main)
