"""What the demo costs: wall time and peak memory, cold and again, and the time of every --help beside TRL's.

    python benchmarks/demo_cost.py            # about ten minutes; nothing else should run

Prints a Markdown table and the machine it was measured on. Cold = empty cache, empty output folder, after
installation. Peak memory is the sum of resident memory over the process tree, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from teachfair.cli import VERBS

ROOT = Path(__file__).resolve().parent.parent


def run(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall seconds, and peak GiB of the whole process tree."""
    start = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.1):
            total = 0
            try:
                root = psutil.Process(process.pid)
                for item in [root, *root.children(recursive=True)]:
                    total += item.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.monotonic() - start
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{errors.decode()[-3000:]}")
    return seconds, peak / 2**30


def main() -> None:
    """Run everything once (help texts five times) and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="recipes/configs/demo.yaml")
    parser.add_argument("--help_only", action="store_true", help="only the --help times")
    arguments = parser.parse_args()
    with open("/proc/cpuinfo") as stream:
        cpu = next((line.split(":")[1].strip() for line in stream if line.startswith("model name")), platform.machine())
    print(f"machine: {os.cpu_count()} cores ({cpu}), Python {platform.python_version()}\n")
    print("| what | wall | peak memory |\n| --- | --- | --- |")
    if not arguments.help_only:
        with tempfile.TemporaryDirectory() as folder:
            env = os.environ | {"TEACHFAIR_CACHE": f"{folder}/cache", "HF_HUB_OFFLINE": "1"}
            demo = [sys.executable, "-m", "teachfair.cli", "survival", "--config", arguments.config,
                    "--output_dir", f"{folder}/demo"]  # fmt: skip
            for name in ("demo, cold", "demo, again"):
                seconds, peak = run(demo, env)
                print(f"| {name} | {seconds:.0f} s | {peak:.2f} GiB |", flush=True)
    doors = {f"`teachfair {verb} --help`": [sys.executable, "-m", "teachfair.cli", verb, "--help"] for verb in VERBS}
    doors |= {
        f"`python recipes/{module}.py --help`": [sys.executable, f"recipes/{module}.py", "--help"]
        for module, _ in VERBS.values()
    }
    doors["`teachfair --help`"] = [sys.executable, "-m", "teachfair.cli", "--help"]
    doors["rival: `trl dpo --help`"] = [str(Path(sys.executable).parent / "trl"), "dpo", "--help"]
    for name, command in doors.items():
        times = [run(command, dict(os.environ))[0] for _ in range(5)]
        print(f"| {name} | {statistics.median(times):.2f} s (median of 5, max {max(times):.2f}) | |", flush=True)


if __name__ == "__main__":
    main()
