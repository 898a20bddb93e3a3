"""MTCNN (Zhang et al. 2016): its three networks and the cascade between them, made fast.

The networks and their weights are facenet_pytorch's, and so are the rules by which boxes pass from
one to the next: with the same thresholds it finds the same faces in the same pixels, to a fraction
of one. What differs is how it is computed. Every patch that the networks look at is a mean over
areas of the picture; here all of them come out of one summed-area table (Crow 1984) instead of one
resize each, and the networks run in ``deepfake.runtime``.

The only file that imports facenet_pytorch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import nms_numpy
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.ops import nms

from deepfake.runtime import ArrayFunction, compiled

Floats = NDArray[np.float32]
Table = NDArray[np.int32]

WINDOW = 12  # pixels: what one position of the first network sees
STRIDE = 2  # pixels between two such positions
STEP = 0.709  # from one level of the pyramid to the next: half of the area
# Score a box needs to pass each network. 0.6 for the first one costs a quarter more time and finds
# 4 % more of the faces of benchmarks/RECALL.md, which are hard.
THRESHOLDS = (0.8, 0.7, 0.7)
CHANNELS = 4  # red, green, blue and one that says nothing: NumPy copies 16 bytes faster than 12
CHUNK = 256  # boxes that are cut out and go through a network at once; bounds the memory


class Cascade:
    """Proposal, refinement and output network, one after the other.

    Args:
        min_face: side in pixels of the smallest face that is looked for.
    """

    def __init__(self, min_face: int) -> None:
        self.min_face = min_face
        self.thresholds = THRESHOLDS
        source = MTCNN(device="cpu").eval()
        self.propose = compiled(_Patches(source.pnet), (1, -1, -1, CHANNELS), (1, 64, 48, CHANNELS))
        self.refine = compiled(_Patches(source.rnet), (-1, 24, 24, CHANNELS), (2, 24, 24, CHANNELS))
        self.conclude = compiled(
            _Patches(source.onet), (-1, 48, 48, CHANNELS), (2, 48, 48, CHANNELS)
        )

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[Floats, Floats, Floats]:
        """The faces of a picture.

        Args:
            pixels: RGB, uint8 (H, W, 3).

        Returns:
            Boxes (N, 4): left, top, right, bottom in pixels; scores (N,) in [0, 1]; landmarks
            (N, 5, 2): x, y of eyes, nose's tip and mouth's corners.
        """
        table = summed_area_table(pixels)
        size = pixels.shape[1], pixels.shape[0]
        boxes = _square(self._proposals(table))
        boxes = _square(self._refined(table, boxes, size))
        return self._concluded(table, boxes, size)

    def _proposals(self, table: Table) -> Floats:
        """Boxes (N, 4) of the first network, at all sizes."""
        height, width = table.shape[0] - 1, table.shape[1] - 1
        found = [np.zeros((0, 9), dtype=np.float32)]
        for scale in _scales(min(width, height), self.min_face):
            level = _reduced(table, int(height * scale + 1), int(width * scale + 1))
            offsets, scores = self.propose(level[None])
            rows = _windows(offsets[0], scores[0, 1], scale, self.thresholds[0])
            found.append(rows[_distinct(rows[:, :4], rows[:, 4], 0.5)])
        rows = np.concatenate(found)
        rows = rows[_distinct(rows[:, :4], rows[:, 4], 0.7)]
        extent = np.tile(rows[:, 2:4] - rows[:, :2], 2)
        moved: Floats = rows[:, :4] + rows[:, 5:] * extent
        return moved

    def _refined(self, table: Table, boxes: Floats, size: tuple[int, int]) -> Floats:
        """The boxes (N, 4) that pass the second network, moved as it says."""
        boxes, (offsets, scores) = _seen(self.refine, table, boxes, size, 24, (4, 2))
        passed = scores[:, 1] > self.thresholds[1]
        boxes, offsets, scores = boxes[passed], offsets[passed], scores[passed, 1]
        kept = _distinct(boxes, scores, 0.7)
        return _moved(boxes[kept], offsets[kept])

    def _concluded(
        self, table: Table, boxes: Floats, size: tuple[int, int]
    ) -> tuple[Floats, Floats, Floats]:
        boxes, (offsets, points, scores) = _seen(self.conclude, table, boxes, size, 48, (4, 10, 2))
        passed = scores[:, 1] > self.thresholds[2]
        boxes, offsets = boxes[passed], offsets[passed]
        points, scores = points[passed], scores[passed, 1]
        # Ten numbers, x of all five first, as fractions of the box.
        extent = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = points.reshape(-1, 2, 5).transpose(0, 2, 1) * extent[:, None]
        landmarks += boxes[:, None, :2] - 1
        boxes = _moved(boxes, offsets)
        kept = nms_numpy(boxes, scores, 0.7, "Min") if len(boxes) else slice(0)
        return boxes[kept], scores[kept], landmarks[kept]


class _Patches(nn.Module):
    """One of the networks, from pixels on: values in [0, 255], (N, H, W, ``CHANNELS``)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        first = network.get_submodule("conv1")
        weight = first.get_parameter("weight")
        first.weight = nn.Parameter(pad(weight, (0, 0, 0, 0, 0, CHANNELS - weight.shape[1])))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        scaled = (pixels.permute(0, 3, 1, 2) - 127.5) * 0.0078125
        answer: tuple[Tensor, ...] = self.network(scaled)
        return answer


def summed_area_table(pixels: NDArray[np.uint8]) -> Table:
    """uint8 (H, W, 3) -> int32 (H + 1, W + 1, ``CHANNELS``): the sums of all pixels above and left.

    Beyond 8 million pixels the sums wrap round. Their differences are right all the same, as long
    as each is the sum of fewer pixels than that.
    """
    height, width, colours = pixels.shape
    table = np.zeros((height + 1, width + 1, CHANNELS), dtype=np.int32)
    np.cumsum(pixels, axis=1, dtype=np.int32, out=table[1:, 1:, :colours])
    for y in range(1, height):  # a row at a time: several times faster than along axis 0
        table[y + 1] += table[y]
    return table


def _scales(side: int, min_face: int) -> Iterator[float]:
    """By how much to reduce the picture so that faces of each size fill the window."""
    scale = WINDOW / min_face
    while side * scale >= WINDOW:
        yield scale
        scale *= STEP


def _bins(length: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Begin and end (N, count) of the bins into which lengths (N,) are divided.

    As in adaptive average pooling, which is what facenet_pytorch resizes with: neighbouring bins
    share a pixel where the length cannot be divided.
    """
    index = np.arange(count)
    begin = index * length[:, None] // count
    end = -(-(index + 1) * length[:, None] // count)
    return begin, end


def _reduced(table: Table, height: int, width: int) -> Floats:
    """The whole picture, reduced to float32 (height, width, ``CHANNELS``)."""
    top, bottom = (b[0] for b in _bins(np.array([table.shape[0] - 1]), height))
    left, right = (b[0] for b in _bins(np.array([table.shape[1] - 1]), width))
    rows = table.take(bottom, axis=0)
    rows -= table.take(top, axis=0)
    sums = rows.take(right, axis=1)
    sums -= rows.take(left, axis=1)
    return _means(sums, (bottom - top)[:, None] * (right - left))


def _patches(
    table: Table, boxes: Floats, size: tuple[int, int], side: int
) -> tuple[Floats, Floats]:
    """The boxes that hold at least a pixel, and each one's inside, (N, side, side, CHANNELS)."""
    width, height = size
    whole = np.trunc(boxes).astype(np.int64)
    left, top = np.maximum(whole[:, 0], 1) - 1, np.maximum(whole[:, 1], 1) - 1
    right, bottom = np.minimum(whole[:, 2], width), np.minimum(whole[:, 3], height)
    inside = (right > left) & (bottom > top)
    left, top, right, bottom = (v[inside] for v in (left, top, right, bottom))
    y0, y1 = (b + top[:, None] for b in _bins(bottom - top, side))
    x0, x1 = (b + left[:, None] for b in _bins(right - left, side))
    flat, line = table.reshape(-1, CHANNELS), table.shape[1]

    def corner(y: NDArray[np.int64], x: NDArray[np.int64]) -> Table:
        found: Table = flat.take(y[:, :, None] * line + x[:, None, :], axis=0)
        return found

    sums = corner(y1, x1)
    sums -= corner(y0, x1)
    sums -= corner(y1, x0)
    sums += corner(y0, x0)
    return boxes[inside], _means(sums, (y1 - y0)[:, :, None] * (x1 - x0)[:, None, :])


def _means(sums: Table, area: NDArray[np.int64]) -> Floats:
    """Sums (..., ``CHANNELS``) over areas (...), in float32."""
    means = sums.astype(np.float32)
    # Spelled out: a last axis as short as this one makes broadcasting slow.
    means /= np.repeat(area.astype(np.float32), CHANNELS, axis=-1).reshape(means.shape)
    return means


def _seen(
    network: ArrayFunction,
    table: Table,
    boxes: Floats,
    size: tuple[int, int],
    side: int,
    widths: tuple[int, ...],
) -> tuple[Floats, list[Floats]]:
    """The boxes that hold at least a pixel, and what the network answers to each one's inside.

    Args:
        side: of its input, pixels.
        widths: of its outputs, for when there is no box.
    """
    kept, answers = [], []
    for start in range(0, len(boxes), CHUNK):
        inside, patches = _patches(table, boxes[start : start + CHUNK], size, side)
        if len(inside):
            kept.append(inside)
            answers.append(network(patches))
    if not answers:
        return boxes[:0], [np.zeros((0, width), dtype=np.float32) for width in widths]
    return np.concatenate(kept), [np.concatenate(parts) for parts in zip(*answers, strict=True)]


def _windows(offsets: Floats, scores: Floats, scale: float, threshold: float) -> Floats:
    """Rows (N, 9) of box, score and offsets: where the first network sees a face.

    Args:
        offsets: (4, h, w), as fractions of the box.
        scores: (h, w).
        threshold: least score.
    """
    y, x = np.nonzero(scores >= threshold)
    corner = np.stack([x, y], axis=1).astype(np.float32) * STRIDE
    # In single precision, as there: many of these quotients are whole, and rounding decides.
    first, last = (np.floor((corner + k) / np.float32(scale)) for k in (1, WINDOW))
    rows = np.column_stack([first, last, scores[y, x], offsets[:, y, x].T])
    return rows.astype(np.float32)


def _distinct(boxes: Floats, scores: Floats, overlap: float) -> NDArray[np.int64]:
    """Indices of the boxes that overlap with no better one by more than this, best first."""
    kept: NDArray[np.int64] = nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), overlap
    ).numpy()
    return kept


def _moved(boxes: Floats, offsets: Floats) -> Floats:
    extent = np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)
    return boxes + offsets * extent


def _square(boxes: Floats) -> Floats:
    """Squares about the boxes' centres, as wide as the longer side."""
    extent = boxes[:, 2:] - boxes[:, :2]
    side = extent.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + extent * 0.5 - side * 0.5
    return np.concatenate([corner, corner + side], axis=1)
