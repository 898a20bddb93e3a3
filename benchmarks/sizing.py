"""Which batch size, delay, number of workers and threads serve best: one setting changed at a time.

The service is started anew with each setting and loaded with the same photo, in rounds that go
through all settings: a host's pace changes within minutes, so a setting is held against what was
shipped in the same round. To see fewer cores than the machine has, run it under ``taskset``.
Writes benchmarks/SIZING.md.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.run import ROUTE, processor
from benchmarks.scenes import SCENES
from benchmarks.service import load_of, service
from deepfake.checkpoint import load
from deploy.torchserve import ROOT
from training.cli import check_numbers, parser, run

PHOTO = "256 x 256, one face"
CLIENTS = 16
HEAD = f"# Sizing\n\nWritten by `python -m benchmarks.sizing`; {PHOTO}.\n\n"
SHIPPED = "as shipped"
SETTINGS: dict[str, dict[str, Any]] = {
    SHIPPED: {},
    "batchSize 1": {"batchSize": 1},
    "batchSize 2": {"batchSize": 2},
    "batchSize 4": {"batchSize": 4},
    "batchSize 16": {"batchSize": 16},
    "maxBatchDelay 5 ms": {"maxBatchDelay": 5},
    "maxBatchDelay 20 ms": {"maxBatchDelay": 20},
    "maxBatchDelay 50 ms": {"maxBatchDelay": 50},
    "2 workers, half of the threads each": {"minWorkers": 2, "maxWorkers": 2},
}


def measured(settings: dict[str, Any], photo: Path, seconds: int) -> dict[str, Any]:
    """One client and many, on a service of its own."""
    with service(settings) as running:
        alone = load_of(running.url, ROUTE, photo, 1, seconds)
        many = load_of(running.url, ROUTE, photo, CLIENTS, seconds)
    return {
        "p50_alone": alone["p50"],
        "rate": many["requests_per_second"],
        "p95": many["p95"],
        "errors": alone["errors"] + many["errors"],
    }


def table(cores: int, found: dict[str, Any]) -> str:
    """Markdown: medians over the rounds, and the range of the rounds' ratios to as shipped."""
    rows = found["settings"]
    shipped = [row["rate"] for row in rows[SHIPPED]]
    lines = [
        f"## {cores} core{'s' if cores > 1 else ''}, {found['processor']}, {found['backbone']}",
        "",
        f"| setting | one client: p50, ms | {CLIENTS} clients: photos/s | to shipped, same round "
        "| p95, ms | errors |",
        "|---|---|---|---|---|---|",
    ]
    for name, rounds in rows.items():
        alone, rate, p95 = (
            statistics.median(row[key] for row in rounds) for key in ("p50_alone", "rate", "p95")
        )
        ratios = [row["rate"] / beside for row, beside in zip(rounds, shipped, strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        lines.append(
            f"| {name} | {alone:.0f} | {rate:.1f} | {statistics.median(ratios):.2f} ({spread}) "
            f"| {p95:.0f} | {sum(row['errors'] for row in rounds)} |"
        )
    lines += ["", f"As shipped, round by round: {', '.join(f'{rate:.1f}' for rate in shipped)}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--rounds", type=int, default=3, help="through all settings")
    args.add_argument("--seconds", type=int, default=5, help="of each load")
    args.add_argument("--only", nargs="*", choices=SETTINGS, metavar="SETTING", help="some of them")
    args.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "sizing.json")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("rounds", "seconds"))
    opt.out.parent.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    names = [SHIPPED, *(name for name in opt.only or SETTINGS if name != SHIPPED)]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(SCENES[PHOTO]())
        file.flush()
        for number in range(opt.rounds):
            first = number * len(names) // opt.rounds  # or one setting would always come first
            for name in names[first:] + names[:first]:
                row = measured(SETTINGS[name], Path(file.name), opt.seconds)
                rows[name].append(row)
                about = f"{cores} cores, round {number + 1} of {opt.rounds}"
                print(f"{about}, {name}: {row['rate']:.1f} photos/s", flush=True)
    # Kept by number of cores, so that a run under taskset adds to the file.
    kept = json.loads(opt.out.read_text(encoding="utf-8")) if opt.out.exists() else {}
    backbone = load(ROOT / "saved_model.pth").model.backbone_name
    kept[str(cores)] = {"processor": processor(), "backbone": backbone, "settings": rows}
    opt.out.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    text = "\n".join(table(int(n), found) for n, found in sorted(kept.items()))
    opt.out.with_name("SIZING.md").write_text(HEAD + text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    run(main)
