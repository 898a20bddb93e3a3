"""Which samples are trained on: splits, folds, and what an epoch draws."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deepfake.errors import DataError
from training.data import (
    Sample,
    assign_splits,
    of_split,
)
from training.sampling import balanced, folds, limited, paired


def made(count: int = 60, group_size: int = 1, sources: int = 1) -> list[Sample]:
    """Alternately real and fake groups, of sources in turn."""
    return [
        Sample(
            path=Path(f"{i}.jpg"),
            name=f"{i}.jpg",
            label=i // group_size % 2,
            source=f"s{i // group_size // 2 % sources}",
            group=f"g{i // group_size}",
        )
        for i in range(count)
    ]


def splits_of(samples: Sequence[Sample]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for s in samples:
        found[s.group].add(s.split)
    return found


def test_splits_are_dealt_to_whole_groups_in_about_80_10_10() -> None:
    samples = assign_splits(made(6000, group_size=3))
    assert all(len(splits) == 1 for splits in splits_of(samples).values())
    shares = Counter(s.split for s in samples)
    assert shares["train"] / 6000 == pytest.approx(0.8, abs=0.03)
    assert shares["val"] / 6000 == pytest.approx(0.1, abs=0.03)
    assert shares["test"] / 6000 == pytest.approx(0.1, abs=0.03)


def test_splits_stay_when_data_is_added() -> None:
    few, many = assign_splits(made(50)), assign_splits(made(500)[::-1])
    assert {s.name: s.split for s in few}.items() <= {s.name: s.split for s in many}.items()


def test_another_seed_deals_other_splits() -> None:
    assert splits_of(assign_splits(made(), 0)) != splits_of(assign_splits(made(), 1))


def test_splits_that_are_given_are_kept_and_followed_by_their_group() -> None:
    given = [
        Sample(Path("a"), "a", 0, group=f"g{i}", split="test" if half else "")
        for i in range(20)
        for half in (0, 1)
    ]
    assert {s.split for s in assign_splits(given)} == {"test"}


def test_a_split_must_hold_both_classes() -> None:
    samples = [
        Sample(Path("a"), "a", 0, split="train"),
        Sample(Path("b"), "b", 1, split="train"),
        Sample(Path("c"), "c", 0, split="val"),
    ]
    assert of_split(samples, "train") == samples[:2]
    with pytest.raises(DataError, match="val split holds no fake images"):
        of_split(samples, "val")
    with pytest.raises(DataError, match="test split holds no real and no fake images"):
        of_split(samples, "test")


@pytest.mark.parametrize(("group_size", "sources"), [(1, 1), (4, 3)])
def test_folds_share_out_whole_groups_with_both_classes_in_each(
    group_size: int, sources: int
) -> None:
    samples = made(240, group_size, sources)
    found = folds(samples, 5, seed=0)
    assert len(found) == 5
    for train, val in found:
        assert not {s.group for s in train} & {s.group for s in val}
        assert sorted(s.name for s in train + val) == sorted(s.name for s in samples)
        assert {(s.label, s.source) for s in val} == {(s.label, s.source) for s in samples}
    assert Counter(s.name for _, val in found for s in val) == Counter(s.name for s in samples)


def test_folds_are_the_same_for_the_same_seed() -> None:
    assert folds(made(), 3, 0) == folds(made(), 3, 0)
    assert folds(made(), 3, 0) != folds(made(), 3, 1)


def test_folds_of_a_rare_source_are_made_without_a_warning() -> None:
    rare = [Sample(Path("r"), f"r{i}", i, "rare", group=f"r{i}") for i in (0, 1)]
    assert len(folds(made() + rare, 3, 0)) == 3


def test_too_few_groups_for_the_folds_are_refused() -> None:
    with pytest.raises(DataError, match="3 group"):
        folds(made(12, group_size=2), 4, 0)


def test_folds_that_would_hold_one_class_are_refused() -> None:
    """Two groups have a real image and two a fake one, but not so that they could be dealt."""
    groups = {"mixed": (0, 1), "real": (0,), "fake": (1,)}
    samples = [
        Sample(Path("a"), f"{group}-{label}", label, group=group)
        for group, labels in groups.items()
        for label in labels
    ]
    with pytest.raises(DataError, match="single class"):
        folds(samples, 2, seed=0)


def test_an_epoch_has_as_many_reals_as_fakes() -> None:
    samples = [Sample(Path("a"), str(i), int(i >= 10)) for i in range(50)]
    epoch = balanced(samples, seed=0)
    assert Counter(s.label for s in epoch) == {0: 10, 1: 10}
    assert len({s.name for s in epoch}) == 20  # nothing twice
    assert {s.name for s in epoch if s.label == 0} == {str(i) for i in range(10)}
    assert [s.label for s in epoch] != sorted(s.label for s in epoch)  # mixed


def test_many_small_sources_leave_the_classes_even() -> None:
    samples = [Sample(Path("a"), f"r{i}", 0, "one") for i in range(20)]
    samples += [Sample(Path("a"), f"f{i}", 1, f"s{i % 9}") for i in range(13)]
    for evenness in (0.5, 1.0):
        assert Counter(s.label for s in balanced(samples, 0, evenness)) == {0: 13, 1: 13}


def test_each_epoch_draws_anew_until_all_were_seen() -> None:
    samples = [Sample(Path("a"), str(i), int(i >= 10)) for i in range(50)]
    assert balanced(samples, seed=3) == balanced(samples, seed=3)
    assert balanced(samples, seed=3) != balanced(samples, seed=4)
    assert {s.name for seed in range(40) for s in balanced(samples, seed)} == {
        s.name for s in samples
    }


def test_an_epoch_can_give_every_source_the_same_share() -> None:
    """Of each class; a small source is repeated, and none of it is left out."""
    samples = [
        Sample(Path("a"), f"{label}-{source}-{i}", label, source)
        for label, source, count in ((0, "a", 40), (0, "b", 20), (1, "a", 6), (1, "c", 90))
        for i in range(count)
    ]
    epoch = balanced(samples, seed=0, evenness=1.0)
    assert Counter((s.label, s.source) for s in epoch) == {
        cell: 30 for cell in ((0, "a"), (0, "b"), (1, "a"), (1, "c"))
    }
    times = Counter(s.name for s in epoch)
    assert {times[f"1-a-{i}"] for i in range(6)} == {5}
    assert {times[f"0-b-{i}"] for i in range(20)} == {1, 2}
    assert max(times[f"1-c-{i}"] for i in range(90)) == 1
    assert epoch == balanced(samples, seed=0, evenness=1.0)
    assert epoch != balanced(samples, seed=1, evenness=1.0)


def test_between_by_size_and_all_alike_shares_go_with_the_root_of_the_size() -> None:
    samples = [
        Sample(Path("a"), f"{label}-{source}-{i}", label, source)
        for label in (0, 1)
        for source, count in (("large", 90), ("small", 10))
        for i in range(count)
    ]
    counts = Counter((s.label, s.source) for s in balanced(samples, seed=0, evenness=0.5))
    assert counts == {(0, "large"): 75, (0, "small"): 25, (1, "large"): 75, (1, "small"): 25}


def test_a_limit_takes_a_random_choice() -> None:
    samples = made(60)
    chosen = limited(samples, 20, seed=0)
    assert len({s.name for s in chosen}) == 20
    assert chosen == limited(samples, 20, seed=0)
    assert chosen != limited(samples, 20, seed=1)
    assert limited(samples, 0, seed=0) == limited(samples, 99, seed=0) == samples


def test_many_small_sources_can_be_folded_too() -> None:
    """None of them has as many images as there are folds."""
    for train, val in folds(made(80, sources=20), 5, seed=0):
        assert Counter(s.label for s in val) == {0: 8, 1: 8}
        assert not {s.group for s in train} & {s.group for s in val}


def test_pairs_are_a_fake_and_a_real_of_its_source_wherever_there_is_one() -> None:
    counts = ((0, "a", 4), (1, "a", 3), (0, "b", 1), (1, "b", 3), (1, "c", 2))
    samples = [
        Sample(Path("a"), f"{label}-{source}-{i}", label, source)
        for label, source, count in counts
        for i in range(count)
    ]
    mixed = [samples[i] for i in np.random.default_rng(0).permutation(len(samples))]
    found = paired(mixed)
    assert sorted(s.name for s in found) == sorted(s.name for s in samples)  # nothing is lost
    assert [s.label for s in found] == [1, 0] * 5 + [1] * 3
    pairs = list(zip(found[:10:2], found[1:10:2], strict=True))
    assert Counter(fake.source for fake, real in pairs if fake.source == real.source) == {
        "a": 3,
        "b": 1,
    }
