"""The network against its formulas, computed another way, and against timm's own parts."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepfake.errors import DataError
from deepfake.model import CBAM, DeepfakeDetector
from tests.conftest import TINY

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def numbers(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def channel_attention(cbam: CBAM, x: Array) -> Array:
    """sigmoid(W2 relu(W1 avg(x) + b1) + b2), one photo and matrix product at a time."""
    first, second = cbam.channel.reduce, cbam.channel.expand
    rows = []
    for photo in x:
        pooled = np.array([channel.sum() / channel.size for channel in photo])
        hidden = numbers(first.weight)[:, :, 0, 0] @ pooled + numbers(first.bias)
        logit = numbers(second.weight)[:, :, 0, 0] @ np.maximum(hidden, 0) + numbers(second.bias)
        rows.append(sigmoid(logit))
    return np.array(rows)[:, :, None, None]


def spatial_attention(cbam: CBAM, x: Array) -> Array:
    """sigmoid(conv7x7([max; avg])), pixel by pixel, with zeros around the map."""
    kernel, bias = numbers(cbam.spatial.conv.weight)[0], numbers(cbam.spatial.conv.bias)[0]
    n, _, height, width = x.shape
    pooled = np.zeros((n, 2, height + 6, width + 6))
    pooled[:, 0, 3:-3, 3:-3] = x.max(axis=1)
    pooled[:, 1, 3:-3, 3:-3] = x.mean(axis=1)
    answer = np.empty((n, 1, height, width))
    for i in range(height):
        for j in range(width):
            window = pooled[:, :, i : i + 7, j : j + 7]
            answer[:, 0, i, j] = sigmoid(np.einsum("nchw,chw->n", window, kernel) + bias)
    return answer


def cbam_by_hand(cbam: CBAM, x: Array) -> Array:
    attended = channel_attention(cbam, x) * x
    return spatial_attention(cbam, attended) * attended


@pytest.fixture
def cbam() -> CBAM:
    """With weights large enough that attention is far from 1/2 everywhere."""
    torch.manual_seed(0)
    module = CBAM(channels=48).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


@pytest.fixture
def maps() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 48, 9, 6, dtype=torch.float64) + 0.3


def test_channel_attention_follows_its_formula(cbam: CBAM, maps: Tensor) -> None:
    attention = numbers(cbam.channel(maps))
    np.testing.assert_allclose(attention, channel_attention(cbam, numbers(maps)), rtol=1e-9)
    assert attention.min() < 0.3
    assert attention.max() > 0.7


def test_spatial_attention_follows_its_formula(cbam: CBAM, maps: Tensor) -> None:
    attention = numbers(cbam.spatial(maps))
    np.testing.assert_allclose(attention, spatial_attention(cbam, numbers(maps)), rtol=1e-9)
    assert attention.min() < 0.3
    assert attention.max() > 0.7


def test_cbam_attends_to_channels_then_to_places(cbam: CBAM, maps: Tensor) -> None:
    x = numbers(maps)
    answer = numbers(cbam(maps))
    np.testing.assert_allclose(answer, cbam_by_hand(cbam, x), rtol=1e-9)
    places_first = spatial_attention(cbam, x) * x
    swapped = channel_attention(cbam, places_first) * places_first
    assert np.abs(answer - swapped).max() > 0.01


def test_channel_attention_narrows_by_sixteen() -> None:
    cbam = CBAM(channels=1792)
    assert cbam.channel.reduce.out_channels == 112
    assert CBAM(channels=8).channel.reduce.out_channels == 1


def test_default_network_is_b4_then_cbam_then_the_small_classifier() -> None:
    """The forward pass equals timm's untouched B4 followed by the formulas, in float64."""
    torch.manual_seed(0)
    model = DeepfakeDetector().double().eval()
    plain = timm.create_model("efficientnet_b4", num_classes=0, global_pool="").double().eval()
    plain.load_state_dict(model.backbone.state_dict())  # strict: the same layers, no more

    first, _, dropout, last = model.head
    assert [type(layer) for layer in model.head] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert (first.in_features, first.out_features) == (1792, 512)
    assert (last.in_features, last.out_features) == (512, 2)
    assert dropout.p == 0.5

    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        features = plain.forward_features(x)
        assert features.shape == (2, 1792, 7, 7)
        pooled = cbam_by_hand(model.cbam, features.numpy()).mean(axis=(2, 3))
        hidden = np.maximum(pooled @ numbers(first.weight).T + numbers(first.bias), 0)
        expected = hidden @ numbers(last.weight).T + numbers(last.bias)
        logits = model(x).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-9)


def test_dropout_works_in_training_only() -> None:
    torch.manual_seed(0)
    model = DeepfakeDetector(TINY, 64)
    head, pooled = model.head, torch.rand(1, model.channels)
    assert not torch.equal(head(pooled), head(pooled))
    head.eval()
    assert torch.equal(head(pooled), head(pooled))


def test_residuals_are_left_out_in_training_only() -> None:
    torch.manual_seed(0)
    model = DeepfakeDetector("efficientnet_b0", 64, drop_path=0.5).eval()
    plain = DeepfakeDetector("efficientnet_b0", 64).eval()
    plain.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))
        for module in model.modules():  # as in training, but for dropout and normalisation
            module.training = type(module).__name__ == "DropPath"
        assert not torch.equal(model(x), model(x))


BACKBONES = [
    # name, input side, channels, side of the map, cells by which convolutions may shift it
    ("tf_efficientnet_lite0", 160, 1280, 5, 1),
    ("convnext_atto", 160, 320, 5, 1),
    ("vit_tiny_patch16_224", 96, 192, 6, 0),
    ("test_vit3", 160, 96, 10, 0),
    ("swin_tiny_patch4_window7_224", 224, 768, 7, 0),
]


@pytest.mark.parametrize(("name", "size", "channels", "side", "slack"), BACKBONES)
def test_any_backbone_gives_a_map_that_lies_as_the_photo_does(
    name: str, size: int, channels: int, side: int, slack: int
) -> None:
    """A change in one place of the photo shows most at the same place of the map.

    This is what tells a map from tokens in another order, with a class token in front, or with
    rows and columns exchanged.
    """
    torch.manual_seed(0)
    model = DeepfakeDetector(name, size).eval()
    step, row, column = size // side, 1, side - 2
    here = (..., slice(row * step, (row + 1) * step), slice(column * step, (column + 1) * step))
    photo = torch.randn(1, 3, size, size)
    changed = photo.clone()
    changed[here] += torch.randn(3, step, step) * 2
    with torch.inference_mode():
        features = model.features(torch.cat([photo, changed]))
        assert model(photo.expand(3, -1, -1, -1)).shape == (3, 2)
    assert features.shape == (2, channels, side, side)
    difference = (features[0] - features[1]).norm(dim=0)
    found = divmod(int(difference.argmax()), side)
    assert abs(found[0] - row) <= slack
    assert abs(found[1] - column) <= slack


def test_unknown_backbone_is_refused_in_one_sentence() -> None:
    with pytest.raises(DataError, match="'efficientnet_b44'"):
        DeepfakeDetector("efficientnet_b44")


def test_tokens_that_form_no_square_are_refused() -> None:
    """VOLO puts a class token in front that timm does not count."""
    model = DeepfakeDetector("volo_d1_224").eval()
    with pytest.raises(DataError, match="square"), torch.inference_mode():
        model.features(torch.zeros(1, 3, 224, 224))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("efficientnet_b4", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_pixels_are_normalised_as_the_weights_expect(
    name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    model = DeepfakeDetector(name, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    shape = (1, 3, 1, 1)
    expected = (pixels / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
    from_bytes = model.preprocess(torch.from_numpy(pixels))
    from_floats = model.preprocess(torch.from_numpy(pixels).float() / 255)
    np.testing.assert_allclose(from_bytes.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(from_floats.numpy(), expected, atol=1e-5)
