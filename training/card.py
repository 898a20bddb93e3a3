"""Fill the tables of MODEL_CARD.md from what the measuring commands wrote.

Between `<!-- begin NAME -->` and `<!-- end NAME -->` the card holds what was measured, and
nothing there is typed by hand: facts (of the checkpoint), evaluation, beside (a second checkpoint
next to it), robustness, failures, studies, audit.
The figures are kept in docs/evaluation/ as JSON: new ones are taken over from runs/ when they are
of the checkpoint at hand and of all photos, and older ones stay only when they are too. Studies are
made piece by piece: new rows join the kept ones.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepfake.checkpoint import Checkpoint, load
from deepfake.errors import DataError
from training import failures, report, robustness, study_tables
from training.audit import ONE_CLASS
from training.cli import parser, run
from training.tables import figure_cells

RESULTS = {
    "evaluation": Path("evaluation/evaluation.json"),
    "robustness": Path("robustness/robustness.json"),
    "failures": Path("failures/failures.json"),
    "studies": Path("studies/studies.json"),
    "audit": Path("audit.json"),
}
BESIDE = "evaluation-beside"  # the name of the second checkpoint's evaluation in either folder


def take_over(runs: Path, kept: Path, sha256: str) -> dict[str, Any]:
    """Copy new results of this checkpoint from ``runs`` into ``kept``; all results there are.

    Raises:
        DataError: the evaluation is missing, or of another checkpoint.
    """
    kept.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, place in RESULTS.items():
        # Audit and studies are of the data and of other checkpoints than this one.
        newest = _newest(
            (runs / place, kept / f"{name}.json"), (None, sha256), found.get("evaluation")
        )
        if newest is None:
            continue
        path, found[name] = newest
        old = kept / f"{name}.json"
        if name == "studies" and path != old and old.is_file():
            before = json.loads(old.read_text(encoding="utf-8"))
            if _belongs(before, found.get("evaluation")):
                found[name] = joined(found[name], before)
        (kept / f"{name}.json").write_text(json.dumps(found[name], indent=1), encoding="utf-8")
        picture = path.with_suffix(".png")
        if picture.is_file() and picture.parent != kept:
            shutil.copy(picture, kept)
    if "evaluation" not in found:
        raise DataError(f"{runs} has no evaluation of {sha256[:12]}; run `make evaluate` first.")
    return found


def take_over_beside(
    runs: Path, kept: Path, sha256: str, first: dict[str, Any]
) -> dict[str, Any] | None:
    """The same for the evaluation of a second checkpoint, to be compared with the ``first``.

    Returns:
        None where there is none, or one of other photos than the first.
    """
    places = (runs / BESIDE / "evaluation.json", kept / f"{BESIDE}.json")
    newest = _newest(places, (sha256,))
    if newest is None or _photos(newest[1]) != _photos(first):
        return None
    places[1].write_text(json.dumps(newest[1], indent=1), encoding="utf-8")
    return newest[1]


def _newest(
    places: Sequence[Path],
    accepted: Sequence[str | None],
    evaluation: dict[str, Any] | None = None,
) -> tuple[Path, dict[str, Any]] | None:
    """The first result there is of an accepted checkpoint that belongs to the evaluation."""
    for path in places:
        if path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
            if checkpoint_of(result) in accepted and _belongs(result, evaluation):
                return path, result
    return None


def joined(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Studies with the rows of both, the new ones where both have all of a row.

    A study whose runs had other options can't stand in one table with the old one; it replaces it
    only where it has every recipe that was kept.
    """
    result = dict(old)
    for study, found in new.items():
        kept: dict[str, Any] = old.get(study, {"rows": {}})
        if all(kept.get(key) == found.get(key) for key in ("options", "seeds")):
            result[study] = {**kept, **found, **_joined_rows(found, kept)}
        elif set(kept["rows"]) <= set(found["rows"]):
            result[study] = found
        else:
            print(f"{study}: the new runs have other options and fewer recipes; the old ones stay")
    return result


def _joined_rows(found: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """Rows and steps of both; a new one where it has all that the old one had."""
    whole = [n for n, row in found["rows"].items() if set(kept["rows"].get(n, ())) <= set(row)]
    return {
        part: kept.get(part, {}) | {n: v for n, v in found.get(part, {}).items() if n in whole}
        for part in ("rows", "steps")
        if part in kept or part in found
    }


def _belongs(result: dict[str, Any], evaluation: dict[str, Any] | None) -> bool:
    """Whether a result is of all photos, and of what was evaluated: its sources or, of the same
    checkpoint, its split."""
    if not result.get("run", result).get("complete", True):
        return False
    if evaluation is None:
        return True
    if checkpoint_of(result) is not None:
        split = evaluation["run"].get("split")
        return bool(result.get("split", split) == split)
    rows = result.get("leave-one-out", {}).get("rows", {})
    named = [result.get("probe", {}), *rows.values()]
    named += [row["sources"] for row in result.get("ablation", {}).get("rows", {}).values()]
    return set().union(*named) - {ONE_CLASS} <= set(evaluation["sources"])


def _photos(evaluation: dict[str, Any]) -> Any:
    """What tells the photos of one evaluation from those of another: split, sources, counts."""
    sources = {s: (t["real"], t["fake"]) for s, t in evaluation["sources"].items()}
    return evaluation["run"]["split"], sources


def checkpoint_of(result: dict[str, Any]) -> str | None:
    """SHA-256 of the checkpoint that a result is of, None if it is of none."""
    found: str | None = result.get("checkpoint") or result.get("run", {}).get("checkpoint")
    return found


def facts(checkpoint: Checkpoint, path: Path) -> str:
    """What the checkpoint is, and the options that it was trained with."""
    model, options = checkpoint.model, checkpoint.training.get("options", {})
    rows = {
        "file": f"`{path.name}`, {_megabytes(path)}",
        "SHA-256": f"`{checkpoint.sha256}`",
        "backbone": f"`{model.backbone_name}`, {_parameters(checkpoint)} parameters with the head",
        "input": f"{model.image_size} x {model.image_size}, crop margin {checkpoint.crop_margin}",
        "temperature": f"{checkpoint.temperature:.3f}",
        "trained on": f"{checkpoint.training.get('train_images', '?')} crops, best epoch "
        f"{checkpoint.training.get('epoch', '?')} of {options.get('epochs', '?')}",
        "options": ", ".join(
            f"{name} {value}"
            for name, value in sorted(options.items())
            if name not in ("data", "init", "folds", "limit", "crop_margin")
        ),
    }
    if averaged := checkpoint.training.get("averaged"):
        share = averaged["share"]
        parts = ((1 - share, averaged["before"]), (share, averaged["after"]))
        rows["averaged from"] = " + ".join(f"{part:g} x `{of[:12]}`" for part, of in parts)
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]) + "\n"


def _parameters(checkpoint: Checkpoint) -> str:
    return f"{sum(p.numel() for p in checkpoint.model.parameters()) / 1e6:.1f} million"


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def beside(
    first: Checkpoint,
    second: Checkpoint,
    first_path: Path,
    second_path: Path,
    measured: tuple[dict[str, Any], dict[str, Any]],
) -> str:
    """Two checkpoints, a column each: what they are and how they did on the same photos.

    Args:
        measured: the evaluations of both, in order.
    """
    pairs = ((first, first_path), (second, second_path))
    rows: dict[str, list[str]] = {
        "checkpoint": [f"`{path.name}`" for _, path in pairs],
        "SHA-256": [f"`{checkpoint.sha256[:12]}`" for checkpoint, _ in pairs],
        "backbone": [f"`{checkpoint.model.backbone_name}`" for checkpoint, _ in pairs],
        "parameters": [_parameters(checkpoint) for checkpoint, _ in pairs],
        "file": [_megabytes(path) for _, path in pairs],
    }
    for key, heading in report.HEADINGS.items():
        rows[f"mean {heading}"] = [report.score_cell(m["mean_over_sources"], key) for m in measured]
    for source in measured[0]["sources"]:
        tables = [m["sources"][source] for m in measured]
        rows[f"ROC-AUC {source}"] = [report.score_cell(table, "roc_auc") for table in tables]
    decisions = [m["decisions"] for m in measured]
    for point in decisions[0]["validation"]:
        if any(point not in d["validation"] for d in decisions):
            continue  # one of them has not been calibrated for it
        thresholds = [d["validation"][point]["threshold"] for d in decisions]
        rows[f"{point}: threshold"] = [f"{threshold:.4f}" for threshold in thresholds]
        keys = (f"{point}/false_positive_rate", f"{point}/recall")
        columns = [figure_cells(d["figures"], keys) for d in decisions]
        called, found = (list(cells) for cells in zip(*columns, strict=True))
        rows |= {f"{point}: real called fake": called, f"{point}: fakes found": found}
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    lines.insert(1, "|---|---|---|")
    run = measured[0]["run"]
    title = f"Split `{run['split']}`, threshold {run['threshold']} where no other point is named."
    return "\n".join([title, "", *lines]) + "\n"


def audit_table(result: dict[str, Any]) -> str:
    """The probe's AUC per source, and what the audit found."""
    lines = ["| source | probe, all traits | best trait alone |", "|---|---|---|"]
    for source, scores in result["probe"].items():
        alone = {k: v for k, v in scores.items() if k != "all"}
        best = max(alone, key=lambda k: alone[k])
        lines.append(f"| {source} | {scores['all']:.3f} | {best}, {alone[best]:.3f} |")
    lines += [
        "",
        f"{result['images']} images; {len(result['near_duplicates'])} pairs of near-duplicates and "
        f"{len(result['groups_across_splits'])} groups across splits.",
    ]
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "evaluation": report.markdown,
    "robustness": robustness.markdown,
    "failures": failures.markdown,
    "studies": study_tables.markdown,
    "audit": audit_table,
}


def filled(card: str, blocks: dict[str, str]) -> str:
    """The card with every block replaced; DataError where it has no place for one."""
    for name, text in blocks.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(card):
            raise DataError(f"The card has no block {begin} ... {end}.")
        replacement = f"{begin}\n{text.strip()}\n{end}"
        card = pattern.sub(lambda _, new=replacement: new, card)  # type: ignore[misc]
    return card


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument("--beside", type=Path, help="a second checkpoint to set beside it")
    args.add_argument("--runs", type=Path, default=Path("runs"), help="where results are made")
    args.add_argument("--kept", type=Path, default=Path("docs/evaluation"), help="where they stay")
    args.add_argument("--card", type=Path, default=Path("MODEL_CARD.md"))
    opt = args.parse_args()
    checkpoint = load(opt.checkpoint)
    found = take_over(opt.runs, opt.kept, checkpoint.sha256)
    blocks = {name: "Not measured for this checkpoint." for name in TABLES}
    blocks |= {name: TABLES[name](result) for name, result in found.items()}
    blocks["facts"] = facts(checkpoint, opt.checkpoint)
    blocks["beside"] = "Not measured on these photos."
    if opt.beside:
        first, second = found["evaluation"], load(opt.beside)
        if other := take_over_beside(opt.runs, opt.kept, second.sha256, first):
            pair = (opt.checkpoint, opt.beside)
            blocks["beside"] = beside(checkpoint, second, *pair, (first, other))
    opt.card.write_text(filled(opt.card.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    print(f"{opt.card}: {', '.join(blocks)}")
    return 0


if __name__ == "__main__":
    run(main)
