"""How a command ends: a status, and one sentence for what was to be expected."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from deepfake.errors import CheckpointError, DataError
from training.cli import AGAIN, check_numbers, run


def ended(
    main: Callable[[], int | None], capsys: pytest.CaptureFixture[str], stopped: str = ""
) -> tuple[int, str]:
    """Exit status and what stood on standard error."""
    with pytest.raises(SystemExit) as caught:
        run(main, stopped)
    return int(caught.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(("answer", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_status_is_what_the_command_says(
    capsys: pytest.CaptureFixture[str], answer: int | None, status: int
) -> None:
    assert ended(lambda: answer, capsys) == (status, "")


@pytest.mark.parametrize("error", [DataError, CheckpointError])
def test_an_expected_failure_is_one_sentence(
    capsys: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    def main() -> int:
        raise error("The data is not there.")

    assert ended(main, capsys) == (1, "error: The data is not there.\n")


def test_a_file_that_cannot_be_used_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def main() -> None:
        (tmp_path / "none" / "file").write_text("")

    status, said = ended(main, capsys)
    assert (status, said) == (
        1,
        f"error: No such file or directory: {tmp_path / 'none' / 'file'}\n",
    )


@pytest.mark.parametrize(
    ("how", "said"), [("", "stopped"), (AGAIN, "stopped; run the same command again to go on")]
)
def test_ctrl_c_says_how_to_go_on_where_that_can_be_done(
    capsys: pytest.CaptureFixture[str], how: str, said: str
) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    assert ended(main, capsys, how) == (130, f"\n{said}\n")


class Broken(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise DataError("photo.jpg cannot be read.")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_in_a_data_loading_process_is_one_sentence_too(
    capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    def main() -> None:
        list(DataLoader(Broken(), num_workers=workers))

    assert ended(main, capsys) == (1, "error: photo.jpg cannot be read.\n")


def test_our_own_mistakes_keep_their_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)


@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), 0])
def test_numbers_out_of_range_are_refused_by_name(value: float) -> None:
    opt = argparse.Namespace(max_side=value)
    with pytest.raises(DataError, match=r"--max-side is .* above 0\."):
        check_numbers(opt, above_zero=["max_side"])
    if value == 0:
        check_numbers(opt, above_zero=[], not_negative=["max_side"])
    else:
        with pytest.raises(DataError, match=r"--max-side is .* 0 or more\."):
            check_numbers(opt, above_zero=[], not_negative=["max_side"])
