"""The model card's tables come from results, of the checkpoint at hand and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepfake.checkpoint import Checkpoint, load, save
from deepfake.errors import DataError
from training.card import (
    TABLES,
    audit_table,
    beside,
    facts,
    filled,
    take_over,
    take_over_beside,
)
from training.report import HEADINGS

SHA = "ab" * 32


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Results of two checkpoints: the robustness is of another one."""
    evaluation = {"run": {"checkpoint": SHA}, "sources": {"a": {}, "b": {}}}
    put(tmp_path / "runs/evaluation/evaluation.json", evaluation)
    put(tmp_path / "runs/robustness/robustness.json", {"checkpoint": "cd" * 32})
    put(tmp_path / "runs/audit.json", {"probe": {"a": {}}})
    (tmp_path / "runs/evaluation/evaluation.png").write_bytes(b"picture")
    return tmp_path / "runs"


def test_results_of_another_checkpoint_are_not_taken_over(runs: Path, tmp_path: Path) -> None:
    found = take_over(runs, tmp_path / "kept", SHA)
    assert set(found) == {"evaluation", "audit"}
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {
        "evaluation.json",
        "evaluation.png",
        "audit.json",
    }


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("audit", {"probe": {"a": {}, "other": {}}}),
        ("studies", {"leave-one-out": {"rows": {"plain": {"other": {}}}}}),
        ("studies", {"ablation": {"rows": {"full recipe": {"sources": {"other": 0.5}}}}}),
    ],
)
def test_what_was_found_of_other_data_is_not_claimed_for_these(
    runs: Path, tmp_path: Path, name: str, result: dict[str, Any]
) -> None:
    (runs / "audit.json").unlink()
    put(tmp_path / "kept" / f"{name}.json", result)
    assert set(take_over(runs, tmp_path / "kept", SHA)) == {"evaluation"}


@pytest.mark.parametrize("change", [{"split": "val"}, {"complete": False}])
def test_a_table_of_other_photos_does_not_replace_the_whole_one(
    runs: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """As --split val, --only or --per-class leave it in the same folder."""
    evaluation = {"run": {"checkpoint": SHA, "split": "test"}, "sources": {}}
    put(runs / "evaluation/evaluation.json", evaluation)
    whole = {"checkpoint": SHA, "split": "test", "complete": True}
    put(tmp_path / "kept" / "robustness.json", whole)
    put(runs / "robustness/robustness.json", whole | change)
    assert take_over(runs, tmp_path / "kept", SHA)["robustness"] == whole


def test_an_evaluation_of_some_photos_does_not_replace_that_of_all(
    runs: Path, tmp_path: Path
) -> None:
    """As `make evaluate ARGS='--limit 100'` leaves it."""
    whole = take_over(runs, tmp_path / "kept", SHA)["evaluation"]
    some = {"run": {"checkpoint": SHA, "complete": False}, "sources": {"a": {}}}
    put(runs / "evaluation/evaluation.json", some)
    assert take_over(runs, tmp_path / "kept", SHA)["evaluation"] == whole


def study(options: list[str], rows: dict[str, Any]) -> dict[str, Any]:
    steps = {name: {"mean": name} for name in rows}
    return {"options": options, "seeds": None, "rows": rows, "steps": steps}


def test_new_rows_of_a_study_join_those_that_were_kept(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe that is tried later must not take the place of all that were tried before."""
    old = {"plain": {"a": 1, "b": 1}, "+ degradation": {"a": 2, "b": 2}}
    kept = {"leave-one-out": study(["--lr", "1"], old), "ablation": study([], {})}
    put(tmp_path / "kept/studies.json", kept)
    new = {"plain": {"a": 3, "b": 3}, "+ degradation": {"a": 4}, "forgeries alone": {"a": 5}}
    put(runs / "studies/studies.json", {"leave-one-out": study(["--lr", "1"], new)})
    found = take_over(runs, tmp_path / "kept", SHA)["studies"]
    rows = old | {"plain": new["plain"], "forgeries alone": {"a": 5}}
    assert found == kept | {"leave-one-out": study(["--lr", "1"], rows)}

    del new["forgeries alone"]
    put(runs / "studies/studies.json", {"leave-one-out": study(["--lr", "2"], new)})
    assert take_over(runs, tmp_path / "kept", SHA)["studies"] == found
    assert "the old ones stay" in capsys.readouterr().out
    more = {"leave-one-out": study(["--lr", "2"], rows)}
    put(runs / "studies/studies.json", more)
    assert take_over(runs, tmp_path / "kept", SHA)["studies"] == kept | more


def test_studies_of_other_data_give_way(runs: Path, tmp_path: Path) -> None:
    """As those of this project do for those who train on photos of their own."""
    other = {"leave-one-out": study([], {"plain": {"other": 1}, "+ degradation": {"other": 2}})}
    put(tmp_path / "kept/studies.json", other)
    own = {"leave-one-out": study(["--lr", "1"], {"plain": {"a": 3, "b": 3}})}
    put(runs / "studies/studies.json", own)
    assert take_over(runs, tmp_path / "kept", SHA)["studies"] == own


def test_what_was_kept_stays_when_the_runs_are_gone(runs: Path, tmp_path: Path) -> None:
    before = take_over(runs, tmp_path / "kept", SHA)
    assert take_over(tmp_path / "nothing", tmp_path / "kept", SHA) == before
    assert (tmp_path / "kept" / "evaluation.png").read_bytes() == b"picture"


def test_a_card_needs_an_evaluation_of_its_checkpoint(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make evaluate"):
        take_over(runs, tmp_path / "kept", "cd" * 32)


def test_blocks_are_replaced_and_all_else_stays() -> None:
    card = "Words.\n<!-- begin a -->\nold\n<!-- end a -->\nMore \\1 words.\n"
    once = filled(card, {"a": "new \\1 table\n"})
    assert once == "Words.\n<!-- begin a -->\nnew \\1 table\n<!-- end a -->\nMore \\1 words.\n"
    assert filled(once, {"a": "new \\1 table"}) == once


def test_a_card_without_a_place_is_refused() -> None:
    with pytest.raises(DataError, match="begin b"):
        filled("<!-- begin a --><!-- end a -->", {"b": "text"})


def test_facts_are_those_of_the_checkpoint(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    training = {"options": {"epochs": 7, "lr": 0.25}, "epoch": 3, "train_images": 1234}
    save(
        tmp_path / "a.pth",
        replace(make_checkpoint(image_size=64), temperature=0.125, training=training),
    )
    checkpoint = load(tmp_path / "a.pth")
    text = facts(checkpoint, tmp_path / "a.pth")
    for part in (checkpoint.sha256, "`a.pth`", "64 x 64", "0.125", "1234", "3 of 7", "lr 0.25"):
        assert part in text
    assert "averaged" not in text
    history = {"before": "a" * 64, "after": "b" * 64, "share": 0.25}
    text = facts(replace(checkpoint, training={"averaged": history}), tmp_path / "a.pth")
    assert "0.75 x `aaaaaaaaaaaa` + 0.25 x `bbbbbbbbbbbb`" in text


def evaluation(roc_auc: float) -> dict[str, Any]:
    scores = {
        "real": 4,
        "fake": 3,
        "scores": dict.fromkeys(HEADINGS, roc_auc),
        "intervals": dict.fromkeys(HEADINGS, (roc_auc - 0.1, roc_auc + 0.1)),
        "ece_if_calibrated": (0.01, 0.03),
    }
    run = {"split": "test", "threshold": 0.5}
    figure = {"value": roc_auc, "interval": (roc_auc - 0.1, roc_auc + 0.1)}
    points = {"fpr5": {"threshold": roc_auc}, f"own-{roc_auc}": {"threshold": 0.5}}
    keys = [f"{point}/{key}" for point in points for key in ("false_positive_rate", "recall")]
    return {
        "run": run,
        "mean_over_sources": scores,
        "sources": {"a": scores},
        "decisions": {"validation": points, "figures": dict.fromkeys(keys, figure)},
    }


def test_two_checkpoints_stand_side_by_side(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    paths = [tmp_path / "first.pth", tmp_path / "second.pth"]
    for path in paths:
        save(path, make_checkpoint(training={"of": path.stem}))
    first, second = (load(path) for path in paths)
    measured = (evaluation(0.75), evaluation(0.5))
    text = beside(first, second, paths[0], paths[1], measured)
    assert "| checkpoint | `first.pth` | `second.pth` |" in text
    assert f"| `{first.sha256[:12]}` | `{second.sha256[:12]}` |" in text
    both = "| 0.750 (0.650-0.850) | 0.500 (0.400-0.600) |"
    assert f"| mean ROC-AUC {both}" in text
    assert f"| ROC-AUC a {both}" in text
    assert "| fpr5: threshold | 0.7500 | 0.5000 |" in text
    assert f"| fpr5: real called fake {both}" in text
    assert f"| fpr5: fakes found {both}" in text
    assert "own-" not in text  # a point that only one of them has
    assert "| mean ECE | 0.750 (chance: 0.010-0.030) |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_only_evaluations_of_the_same_photos_are_set_side_by_side(
    runs: Path, tmp_path: Path
) -> None:
    kept, first, second = tmp_path / "kept", evaluation(0.75), evaluation(0.5)
    kept.mkdir()
    second["run"] = second["run"] | {"checkpoint": SHA}
    put(runs / "evaluation-beside" / "evaluation.json", second)
    assert take_over_beside(runs, kept, "cd" * 32, first) is None
    for changed in ({"sources": {"b": first["sources"]["a"]}}, {"run": {"split": "val"}}):
        assert take_over_beside(runs, kept, SHA, first | changed) is None
    assert not list(kept.iterdir())
    assert take_over_beside(runs, kept, SHA, first) == json.loads(json.dumps(second))
    assert take_over_beside(tmp_path / "nothing", kept, SHA, first) is not None


def test_the_audits_table_names_the_best_single_trait() -> None:
    text = audit_table(
        {
            "images": 9,
            "probe": {"x": {"all": 0.75, "width": 0.5, "red": 0.625}},
            "near_duplicates": [["a", "b", 3]],
            "groups_across_splits": [],
        }
    )
    assert "| x | 0.750 | red, 0.625 |" in text
    assert "1 pairs of near-duplicates and 0 groups" in text


def test_the_committed_card_is_as_the_committed_results_make_it() -> None:
    """Nothing between the marks was typed by hand, and all of it is of this checkpoint."""
    root = Path(__file__).resolve().parents[2]
    checkpoint = load(root / "saved_model.pth")
    card = (root / "MODEL_CARD.md").read_text(encoding="utf-8")
    blocks = {name: "Not measured for this checkpoint." for name in TABLES}
    for name, table in TABLES.items():
        path = root / "docs" / "evaluation" / f"{name}.json"
        if path.is_file():
            blocks[name] = table(json.loads(path.read_text(encoding="utf-8")))
    blocks["facts"] = facts(checkpoint, root / "saved_model.pth")
    if (root / "saved_model_small.pth").is_file():
        paths = (root / "saved_model.pth", root / "saved_model_small.pth")
        results = [root / "docs/evaluation" / f"evaluation{n}.json" for n in ("", "-beside")]
        first, second = (json.loads(path.read_text(encoding="utf-8")) for path in results)
        other = load(paths[1])
        assert second["run"]["checkpoint"] == other.sha256
        blocks["beside"] = beside(checkpoint, other, *paths, (first, second))
    assert filled(card, blocks) == card
    evaluation = json.loads((root / "docs/evaluation/evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["run"]["checkpoint"] == checkpoint.sha256
