"""Crops as the network sees them: augmented or forged in training, as they are in validation."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepfake.views import to_pixels
from training.augment import augment
from training.data import Sample, read_image
from training.forgeries import Forger
from training.sampling import balanced, paired
from training.schedule import side

Batches = DataLoader[tuple[Tensor, int, int]]


class Crops(Dataset[tuple[Tensor, int, int]]):
    """(pixels uint8 (3, size, size), label, index) of each sample, as evaluation sees it."""

    def __init__(self, samples: list[Sample], size: int) -> None:
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        sample = self.samples[index]
        pixels = to_pixels(read_image(sample.path), self.size)
        return torch.from_numpy(pixels), sample.label, index


class TrainingCrops(Crops):
    """The same, augmented, and with some of the fakes replaced by forgeries made on the spot.

    Every picture has a generator of its own (seed, process, epoch, index): it does not depend on
    the number of workers or restarts.

    Args:
        forged: share of the fakes that are replaced, by a forgery of a real face of their source.
        light: share of the pictures that are augmented only lightly.
        pairs: the samples are fake, real, fake, real ...: a fake is forged of the real face after
            it, and what augmentation draws is the same for both.
    """

    def __init__(
        self,
        samples: list[Sample],
        size: int,
        seeds: tuple[int, int],
        forger: Forger,
        forged: float,
        light: float,
        pairs: bool = False,
    ) -> None:
        super().__init__(samples, size)
        self.seeds, self.forger, self.forged = seeds, forger, forged
        self.light, self.pairs = light, pairs

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        sample = self.samples[index]
        rng = np.random.default_rng((*self.seeds, index))
        image = None
        if sample.label == 1 and rng.random() < self.forged:
            after = self.samples[index + 1 : index + 2] if self.pairs else []
            image = self.forger.make(sample.source, rng, *after)
        if self.pairs:  # both draw alike from here on
            rng = np.random.default_rng((*self.seeds, index // 2, 1))
        pixels = augment(image or read_image(sample.path), self.size, rng, self.light)
        return pixels, sample.label, index


def training_batches(
    opt: argparse.Namespace, acc: Accelerator, samples: list[Sample], forger: Forger, epoch: int
) -> Batches:
    """This process's share of an epoch; the same again after a restart."""
    drawn = _drawn(opt, samples, epoch)
    # Every process takes the same number of steps, or they would wait for ever.
    usable = len(drawn) // acc.num_processes * acc.num_processes
    share = share_of(drawn[:usable], acc)
    share = paired(share) if opt.pairs else share
    seeds = (opt.seed * 1000 + acc.process_index, epoch)
    size = side(epoch, opt.epochs, opt.first_size, opt.train_size)
    data = TrainingCrops(share, size, seeds, forger, opt.forged, opt.light, opt.pairs)
    return _batches(opt, acc, data, drop_last=len(share) >= opt.batch_size)


def validation_batches(opt: argparse.Namespace, acc: Accelerator, share: list[Sample]) -> Batches:
    """This process's share of the validation crops, in their order."""
    return _batches(opt, acc, Crops(share, opt.image_size))


def share_of(samples: list[Sample], acc: Accelerator) -> list[Sample]:
    """Every n-th sample, for each of n processes."""
    return samples[acc.process_index :: acc.num_processes]


def _drawn(opt: argparse.Namespace, samples: list[Sample], epoch: int) -> list[Sample]:
    """The pictures of an epoch in their order, every pass drawn anew."""
    first = opt.seed * 1000 + (epoch - 1) * opt.passes + 1
    passes = range(first, first + opt.passes)
    return [s for seed in passes for s in balanced(samples, seed, opt.evenness)]


def _batches(
    opt: argparse.Namespace, acc: Accelerator, data: Crops, drop_last: bool = False
) -> Batches:
    return DataLoader(
        data,
        batch_size=opt.batch_size,
        num_workers=opt.workers,
        pin_memory=acc.device.type == "cuda",
        drop_last=drop_last,
    )
