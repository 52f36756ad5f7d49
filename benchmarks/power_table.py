"""What two checkpoints' benchmarks could detect: the minimum detectable effect at 100 items, 500 items and all of them.

    python benchmarks/power_table.py MODEL OTHER_MODEL --data_dir DIR

scores both on every benchmark whose files are under --data_dir and prints two tables in Markdown: the mean margin
(nats), one checkpoint against parity and paired against the other; and each benchmark's own headline, paired. 80 %
power, 95 % confidence, item clusters as units. Says which benchmark could not show what at which size.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

from teachfair.errors import TeachfairError

SIZES = (100, 500, None)


def main() -> None:
    from teachfair.evaluation.benchmarks import BENCHMARKS
    from teachfair.evaluation.evaluate import evaluate, load_records
    from teachfair.evaluation.readings import headline_power
    from teachfair.evaluation.statistics import power_table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, help="two checkpoint folders or hub ids")
    parser.add_argument("--data_dir", default=None)
    parser.add_argument("--benchmarks", nargs="*", default=None, help="names; all that can be scored if not given")
    parser.add_argument("--limit", type=int, default=None, help="score so many items of each only (a trial run)")
    arguments = parser.parse_args()
    margins: list[dict[str, Any]] = []
    headlines: list[dict[str, Any]] = []
    for name in arguments.benchmarks or BENCHMARKS:
        try:
            with tempfile.TemporaryDirectory() as folder:
                first, second = (
                    load_records(evaluate(model, [name], arguments.data_dir, Path(folder) / str(i), limit=arguments.limit))
                    for i, model in enumerate(arguments.models)
                )
        except TeachfairError as error:
            print(f"not scored: {name}: {error}\n", flush=True)
            continue
        card = {name: BENCHMARKS[name].CARD}
        conditions = {name: card[name].get("outcome_condition") or ""}
        if first["margin_nats"].notna().any():
            margins += power_table(first, conditions=conditions, sizes=SIZES)
            margins += power_table(first, second, conditions=conditions, sizes=SIZES)
        headlines += headline_power(first, second, card, sizes=SIZES)
    print("| benchmark | against | size | items | clusters | sd between clusters | sd within | MDE, nats | bias, nats | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in margins:
        against = "the other checkpoint" if row["paired"] else "parity"
        print(f"| {row['benchmark']} | {against} | {row['size']} | {row['n_items']} | {row['n_clusters']} | "
              f"{_text(row['sd_cluster'])} | {_text(row['sd_item'])} | {_text(row['mde'])} | {_text(row['bias'])} | "
              f"{row['verdict']} |")  # fmt: skip
    print("\n| benchmark | headline | size | clusters | MDE | bias | unit | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in headlines:
        print(f"| {row['benchmark']} | {row['metric']} | {row['size']} | {row['n_clusters']} | {_text(row['mde'])} | "
              f"{_text(row['bias'])} | {row['unit']} | {row['verdict']} |")  # fmt: skip


def _text(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "undefined"


if __name__ == "__main__":
    main()
