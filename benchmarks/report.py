"""What was measured, as RESULTS.md and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import training
from benchmarks.inference import BATCH

SMALL = "256 x 256, one face"
STAGES = {"decode": "#4c78a8", "detect": "#f58518", "classify": "#54a24b", "other": "#9d9da1"}


def markdown(result: dict[str, Any]) -> str:
    """The results as tables of ratios and times."""
    machine = result["machine"]
    head = f"""# How fast it is

Written by `make bench` on {machine["date"]}: {machine["processor"]}, {machine["cores"]} cores,
Python {machine["python"]}, torch {machine["torch"]}, OpenVINO {machine["openvino"]},
{machine["backbone"]} at {machine["image_size"]} px as {machine["runtime"]}. Medians of
{machine["rounds"]} rounds that take the contestants in turn, each after a run that does not count;
loads of {machine["seconds"]} s.
Absolute times are of that machine; the ratios are what is claimed. Beside this: SIZING.md (batch
size, delay, workers), RECALL.md (faces still found on the reduced copy), agreement.json (the
runtime beside eager PyTorch).
"""
    parts = [
        _aims(result),
        _photos(result["photos"]),
        _picture(),
        _classifiers(result["classifiers"], machine["runtime"]),
        _loads(result),
        _service(result["service"]),
        training.as_rows(result["training"]),
    ]
    return head + "\n" + "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _aims(result: dict[str, Any]) -> list[str]:
    """What was aimed at, and whether this run got there."""
    photos, found, loads = result["photos"], result["classifiers"], result["service"]["loads"]
    times, small = found["milliseconds"], photos[SMALL]
    gains = {name: row["reference"] / row["library"] for name, row in photos.items()}
    network = times["torch f32, eager, a view at a time"] / times[result["machine"]["runtime"]]
    share = loads["16"]["requests_per_second"] * small["batch"] / (1000 * BATCH)
    slack = loads["1"]["p50"] - 1.15 * small["library"]
    lost = sum(row["errors"] for row in loads.values())
    memory, ready = result["service"]["worker_mb_after"], result["service"]["seconds_to_ready"]
    rows = [
        (
            "(a) / (b), 12 MP",
            "15 or more",
            f"{gains['12 MP, one face']:.1f}",
            gains["12 MP, one face"] >= 15,
        ),
        (
            "(a) / (b), 1200 x 630",
            "4 or more",
            f"{gains['1200 x 630, six faces']:.1f}",
            gains["1200 x 630, six faces"] >= 4,
        ),
        (
            "the network, a view at a time in eager f32 / ours",
            "2.5 or more",
            f"{network:.2f}",
            network >= 2.5,
        ),
        (
            "service at 16 clients / library in batches",
            "85 % or more",
            f"{share:.0%}",
            share >= 0.85,
        ),
        (
            "median of one client, less 1.15 times the library's",
            "10 ms or less",
            f"{slack:.0f} ms",
            slack <= 10,
        ),
        ("requests lost, up to 64 clients", "0", f"{lost}", lost == 0),
        ("start to READY", "20 s or less", f"{ready:.1f} s", ready <= 20),
        ("the worker's memory", "1500 MB or less", f"{memory:.0f} MB", memory <= 1500),
    ]
    lines = ["| aim | | reached | |", "|---|---|---|---|"]
    return lines + [f"| {a} | {b} | {c} | {'yes' if met else '**no**'} |" for a, b, c, met in rows]


def _photos(rows: dict[str, Any]) -> list[str]:
    lines = [
        "## One photo",
        "",
        "The reference (a): MTCNN on all pixels, three eager passes for each face. The library (b)",
        f"alone, and per photo in batches of {BATCH}.",
        "",
        "| photo | faces (a), (b) | (a), ms | (b), ms | (a) / (b) | (b) in batches, ms "
        "| stages of (b) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        parts = ", ".join(f"{stage} {row['stages'].get(stage, 0):.0f}" for stage in STAGES)
        lines.append(
            f"| {name} | {row['reference_faces']}, {row['faces']} | {row['reference']:.0f} "
            f"| {row['library']:.0f} | **{row['reference'] / row['library']:.1f}** "
            f"| {row['batch'] / BATCH:.0f} | {parts} |"
        )
    return lines


def _picture() -> list[str]:
    return ["![Where the time of one photo goes](request.png)"]


def _classifiers(found: dict[str, Any], runtime: str) -> list[str]:
    times = found["milliseconds"]
    lines = [
        "## The network",
        "",
        "| three views of one face | ms | ratio to ours |",
        "|---|---|---|",
    ]
    for name, ms in times.items():
        if not name.startswith("matrix"):
            lines.append(f"| {name} | {ms:.1f} | {ms / times[runtime]:.2f} |")
    reached = found["network_gflop"] / times[runtime] * 1000
    peaks = ", ".join(f"{v:.0f} in {k}" for k, v in found["matrix_gflops"].items())
    return [
        *lines,
        "",
        f"Three views cost {found['network_gflop']:.1f} GFLOP: {reached:.0f} GFLOP/s are reached; "
        f"PyTorch's product of two 2048 x 2048 matrices reaches {peaks}. What is left of a photo "
        "is mostly MTCNN, whose first network sees the photo in a dozen sizes, and whose patches "
        "NumPy cuts on one core.",
    ]


def _loads(result: dict[str, Any]) -> list[str]:
    small = result["photos"][SMALL]
    alone, batched = 1000 / small["library"], 1000 * BATCH / small["batch"]
    lines = [
        "## The service",
        "",
        f"The {SMALL} photo, sent again and again by so many clients (locust, on the same cores).",
        f"The library alone judges {alone:.1f} of it per second one by one, {batched:.1f} in",
        f"batches of {BATCH}.",
        "",
        "| service | clients | photos/s | share of the library's, one by one | in batches "
        "| p50, ms | p95 | p99 | errors |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    services = (
        ("TorchServe (c)", result["service"]["loads"]),
        ("LitServe, reference (e)", result["peer"]),
    )
    for name, rows in services:
        for clients, row in rows.items():
            rate = row["requests_per_second"]
            lines.append(
                f"| {name} | {clients} | {rate:.1f} | {rate / alone:.0%} | {rate / batched:.0%} "
                f"| {row['p50']:.0f} | {row['p95']:.0f} | {row['p99']:.0f} "
                f"| {row['errors']} of {row['requests']} |"
            )
    waits, takes = result["service"]["loads"]["1"]["p50"], small["library"]
    lines += [
        "",
        f"One client waits {waits:.0f} ms at the median, the library takes {takes:.0f} ms: "
        f"{waits - takes:+.0f} ms for HTTP, queue and batching.",
    ]
    return lines


def _service(found: dict[str, Any]) -> list[str]:
    idle, after = found["worker_mb_idle"], found["worker_mb_after"]
    return [
        f"Start to READY: {found['seconds_to_ready']:.1f} s. The worker's memory: {idle:.0f} MB",
        f"then, {after:.0f} MB after all of these loads and 16 photos of 12 megapixels at once.",
    ]


def picture(rows: dict[str, Any], path: Path) -> None:
    """A stacked bar for each photo: where the library's time goes, in shares and milliseconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
    for y, row in enumerate(rows.values()):
        left = 0.0
        for stage, colour in STAGES.items():
            width = row["stages"].get(stage, 0.0)
            axes.barh(y, width, left=left, color=colour, label=stage if y == 0 else None)
            if width > 8:
                axes.text(
                    left + width / 2, y, f"{width:.0f}", ha="center", va="center", color="white"
                )
            left += width
        axes.text(left + 2, y, f"{left:.0f} ms, {row['faces']} face(s)", va="center")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(sum(row["stages"].values()) for row in rows.values()))
    axes.set_xlabel("milliseconds")
    axes.legend(ncols=4, loc="lower right", fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
