"""The network: a timm backbone, CBAM attention, and a small classifier.

Input is a normalised face crop, output two logits (index 0 real, 1 fake). With the default
EfficientNet-B4 at 224 x 224: (N, 3, 224, 224) -> (N, 1792, 7, 7) -> CBAM -> mean -> 512 -> 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from deepfake.errors import DataError

DEFAULT_BACKBONE = "efficientnet_b4"
HIDDEN = 512
REDUCTION = 16  # of the channel attention's bottleneck, as in the CBAM paper


class ChannelAttention(nn.Module):
    """M_c(x) = sigmoid(Conv1x1(ReLU(Conv1x1(AvgPool(x))))), one weight per channel.

    After Woo et al., "CBAM", ECCV 2018, eq. 2, without its max-pooled branch (timm's CBAM has
    both, so it is not this one).
    """

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.reduce = nn.Conv2d(channels, hidden, kernel_size=1)
        self.expand = nn.Conv2d(hidden, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> attention (N, C, 1, 1) in (0, 1)."""
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.expand(torch.relu(self.reduce(pooled))))


class SpatialAttention(nn.Module):
    """M_s(x) = sigmoid(Conv7x7([MaxPool(x); AvgPool(x)])), pooled over channels (eq. 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> attention (N, 1, H, W) in (0, 1)."""
        pooled = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv(pooled))


class CBAM(nn.Module):
    """x' = M_c(x) * x, then M_s(x') * x' (Woo et al. 2018, eq. 1)."""

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction)
        self.spatial = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = self.channel(x) * x
        return cast(Tensor, self.spatial(x) * x)


class DeepfakeDetector(nn.Module):
    """timm backbone -> CBAM -> global average pool -> Linear 512 -> ReLU -> Dropout -> Linear 2.

    Args:
        backbone: name of any timm image model. Of convolutional networks the last feature map
            is used; the tokens of transformers are laid back into a map.
        image_size: side of the square input, pixels.
        pretrained: let timm fetch ImageNet weights from its hub.
        dropout: before the last layer.
        cbam: False leaves the attention out, to see what it is worth.
        drop_path: share of the last block's residuals that training leaves out, less in earlier
            ones (stochastic depth, Huang et al. 2016); 0 is right for everything but training.

    Attributes:
        mean, std: what the backbone's weights expect its input to be normalised with (ImageNet's
            for EfficientNet-B4), shape (1, 3, 1, 1), for pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        image_size: int = 224,
        pretrained: bool = False,
        dropout: float = 0.5,
        cbam: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone_name = backbone
        self.image_size = image_size
        self.dropout = dropout
        self.backbone = _create_backbone(backbone, image_size, pretrained, drop_path)
        self.channels = int(cast(int, self.backbone.num_features))
        self.cbam = CBAM(self.channels) if cbam else nn.Identity()
        self.head = nn.Sequential(
            nn.Linear(self.channels, HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, 2),
        )
        config = cast(dict[str, tuple[float, float, float]], self.backbone.pretrained_cfg)
        for name in ("mean", "std"):
            values = torch.tensor(config[name]).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W), uint8 in [0, 255] or float in [0, 1] -> normalised float."""
        x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        return (x - self.mean) / self.std

    def features(self, x: Tensor) -> Tensor:
        """Normalised input (N, 3, S, S) -> the backbone's last map (N, C, h, w), before CBAM."""
        forward = cast(Callable[[Tensor], Tensor], self.backbone.forward_features)
        return _as_map(forward(x), self.backbone)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised input (N, 3, S, S) -> logits (N, 2), index 0 real, 1 fake."""
        attended = self.cbam(self.features(x))
        return cast(Tensor, self.head(attended.mean(dim=(2, 3))))


def _create_backbone(name: str, image_size: int, pretrained: bool, drop_path: float) -> nn.Module:
    if not timm.is_model(name):
        raise DataError(f"timm knows no backbone {name!r}; see timm.list_models().")
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size  # transformers build their position table for one size
    return timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="", **options)


def _as_map(features: Tensor, backbone: nn.Module) -> Tensor:
    """timm's three kinds of last feature as (N, C, h, w): NCHW, NHWC, or tokens (N, T, C)."""
    if features.ndim == 3:
        prefix = int(getattr(backbone, "num_prefix_tokens", 0))  # class and register tokens
        tokens = features[:, prefix:]
        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise DataError(f"The backbone's {tokens.shape[1]} tokens do not form a square map.")
        return tokens.transpose(1, 2).reshape(features.shape[0], -1, side, side)
    if str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC"):
        return features.permute(0, 3, 1, 2)
    return features
