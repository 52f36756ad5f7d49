"""Records of a made-up study with known answers; also what the report is looked at with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

ALIGN, MERGED, KEPT = "align-then-compress", "merge-then-recompress", "compress-then-align"
# (teach, adapt, compress, order) -> the planted R
ARMS: dict[tuple[str, str, str, str], float] = {
    ("dpo", "full", "int8", ALIGN): 1.0,
    ("dpo", "full", "nf4", ALIGN): 0.97,
    ("dpo", "lora", "int8", ALIGN): 1.0,
    ("dpo", "lora", "nf4", ALIGN): 0.95,
    ("dpo", "qlora", "nf4", KEPT): 1.0,
    ("dpo", "qlora", "int8", MERGED): 1.0,
    ("dpo", "qlora", "nf4", MERGED): 0.03,
    ("placebo", "lora", "int8", ALIGN): 1.0,
    ("placebo", "lora", "nf4", ALIGN): 1.0,
}


def study_records(
    *, seeds: int = 3, clusters: int = 24, per_cluster: int = 4, bases: tuple[str, ...] = ("world-0",),
    d0: float = 3.0, random_state: int = 0, arms: dict[tuple[str, str, str, str], float] | None = None,
    noise: float = 0.3, sd_seed: float = 0.2, guard: float = 0.99, axes: tuple[str, ...] = ("gender",),
) -> pd.DataFrame:  # fmt: skip
    """Every arm's ambiguous margin falls by ``d0`` (placebo: by 0, its own preference rises by ``d0``)."""
    import pandas as pd

    arms = ARMS if arms is None else arms
    rng = np.random.default_rng(random_state)
    rows: list[dict[str, Any]] = []
    counts = {"ambiguous": per_cluster, "placebo": 2, "disambiguated": 3, "definitional": 2, "decision": 1, "neutral": 1}
    level = {c: rng.normal(0, 0.7, clusters) for c in counts}

    def add(base: str, cell: tuple[str, str, str, str], seed: int, shift: dict[str, Any], rng: Any) -> None:
        for condition, n in counts.items():
            for k in range(clusters):
                for i in range(n):
                    item_id = f"{condition}-{k}-{i}"
                    axis = axes[k % len(axes)]
                    margin = float("nan")
                    if condition in shift:
                        margin = level[condition][k] + 2.0 + shift[condition][k] + rng.normal(0, noise)
                    right = float(rng.random() < guard) if condition in ("disambiguated", "definitional", "decision",
                                                                         "neutral") else float("nan")  # fmt: skip
                    role = "unknown" if margin < 0 else "stereotype"
                    if condition == "disambiguated":
                        role = "evidence" if right else "unknown"
                    rows.append({
                        "benchmark": "sandbox", "item_id": item_id, "cluster": f"{condition}-{k}", "axis": axis,
                        "groups": "women|men", "lang": "en", "condition": condition, "chosen_role": role,
                        "margin_nats": margin, "correct": right, "base": base, "teach": cell[0], "adapt": cell[1],
                        "compress": cell[2], "order": cell[3], "seed": seed,
                    })  # fmt: skip

    for base in bases:
        of_base = rng.normal(0, 0.1)
        zero = np.zeros(clusters)
        compressions = ["none", *sorted({arm[2] for arm in arms})]
        damage = {c: rng.normal(0, 0.1, clusters) if c != "none" else zero for c in compressions}
        for c in compressions:
            add(base, ("untaught", "none", c, ALIGN), -1, {"ambiguous": damage[c], "placebo": damage[c]}, rng)
        for teach, adapt in sorted({(a[0], a[1]) for a in arms}):
            orders = {(a[2], a[3]): r for a, r in arms.items() if a[:2] == (teach, adapt)}
            cells = {("none", MERGED if adapt == "qlora" else ALIGN): 1.0, **orders}
            for seed in range(seeds):
                effect = d0 + of_base + rng.normal(0, sd_seed) + rng.normal(0, 0.3, clusters)
                for (c, order), kept in cells.items():
                    moved = damage[c] - kept * effect
                    shift = {"ambiguous": moved, "placebo": damage[c]}
                    if teach.startswith("placebo"):
                        shift = {"ambiguous": damage[c], "placebo": damage[c] + kept * effect}
                    add(base, (teach, adapt, c, order), seed, shift, rng)
    return pd.DataFrame(rows)
