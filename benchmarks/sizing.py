"""Which batch size, delay, number of workers and threads serve best: one setting changed at a time.

The service is started anew with each setting and loaded with the same photo; to see fewer cores
than the machine has, run it under ``taskset``. Writes benchmarks/SIZING.md.
"""

from __future__ import annotations

import json
import os
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
SETTINGS: dict[str, dict[str, Any]] = {
    "as shipped": {},
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
    """Markdown, with rates beside that of the settings as shipped."""
    rows = found["settings"]
    shipped = rows["as shipped"]["rate"]
    lines = [
        f"## {cores} core{'s' if cores > 1 else ''}, {found['processor']}, {found['backbone']}",
        "",
        f"| setting | one client: p50, ms | {CLIENTS} clients: photos/s | to shipped | p95, ms "
        "| errors |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['p50_alone']:.0f} | {row['rate']:.1f} | {row['rate'] / shipped:.2f} "
            f"| {row['p95']:.0f} | {row['errors']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--seconds", type=int, default=10, help="of each load")
    args.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "sizing.json")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("seconds",))
    cores = len(os.sched_getaffinity(0))
    rows = {}
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(SCENES[PHOTO]())
        file.flush()
        for name, settings in SETTINGS.items():
            print(f"{cores} cores, {name} ...", flush=True)
            rows[name] = measured(settings, Path(file.name), opt.seconds)
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
