"""What compression did to single items of each taught arm, and what the binary rate would say of survival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.evaluation.statistics.cells import KEYS, UNTAUGHT, control_and_method, select, without_problem_items
from teachfair.evaluation.statistics.counts import benjamini_hochberg, correct_for_flips, transitions
from teachfair.evaluation.statistics.interval import NAN

if TYPE_CHECKING:
    import pandas as pd


def item_changes(
    records: pd.DataFrame, *, condition: str = "ambiguous", benchmark: str | None = None, placebo: str = "placebo"
) -> list[dict[str, Any]]:
    """One entry per taught arm, order and compression: :func:`transitions` of the first base and the lowest seed.

    Beside them ``p_adjusted`` (``p_clusters``, Benjamini-Hochberg over the entries), and the retention of the
    stereotyped *rate*: ``r_rate`` raw, ``flip_rate`` (share of items whose answer changed sides when the placebo of that
    compression was compressed, or the untaught policy where there is no placebo: ``flips_of`` says which) and
    ``r_rate_corrected`` = r_rate / (1 - 2 f), NaN with ``reason`` where that is undefined. Rates lose to noise what margins
    do not: never the primary outcome.
    """
    if "chosen_role" not in records.columns:
        return []
    rows, _ = without_problem_items(select(records, condition=condition, benchmark=benchmark))
    rows = rows[rows["base"].astype(str) == min(rows["base"].astype(str))]
    cells = {
        tuple(map(str, key[1:5])): part[part["seed"] == part["seed"].min()]
        for key, part in rows.groupby(list(KEYS[:5]), sort=True)
    }
    untaught = {key[2]: part for key, part in cells.items() if key[0] == UNTAUGHT}
    found: list[dict[str, Any]] = []
    for (teach, adapt, compress, order), then in cells.items():
        now = _reference(cells, teach, adapt, order)
        if teach == UNTAUGHT or compress == "none" or control_and_method(teach)[0] or now is None:
            continue
        if "none" not in untaught or compress not in untaught or then["seed"].min() != now["seed"].min():
            continue
        entry: dict[str, Any] = {"teach": teach, "adapt": adapt, "compress": compress, "order": order,
                                 "seed": int(then["seed"].min())}  # fmt: skip
        entry |= transitions(untaught["none"], now, then)
        before, after = (_rate(untaught[c]) - _rate(part) for c, part in (("none", now), (compress, then)))
        entry["r_rate"] = after / before if before else NAN
        entry["flip_rate"], entry["flips_of"] = _flips(cells, untaught, compress, placebo)
        corrected, reason = correct_for_flips(entry["r_rate"], entry["flip_rate"])
        entry |= {"r_rate_corrected": corrected, "reason": reason if before else "teaching did not move the rate"}
        found.append(entry)
    for entry, p in zip(found, benjamini_hochberg([e["p_clusters"] for e in found]), strict=True):
        entry["p_adjusted"] = p
    return found


def _reference(
    cells: dict[tuple[str, ...], pd.DataFrame], teach: str, adapt: str, order: str
) -> pd.DataFrame | None:
    same = {key[3]: part for key, part in cells.items() if key[:3] == (teach, adapt, "none")}
    return same.get(order, same[min(same)] if same else None)


def _rate(cell: pd.DataFrame) -> float:
    return float((cell["chosen_role"] == "stereotype").mean())


def _flips(
    cells: dict[tuple[str, ...], pd.DataFrame], untaught: dict[str, pd.DataFrame], compress: str, placebo: str
) -> tuple[float, str]:
    for (teach, adapt, kind, order), then in cells.items():
        now = _reference(cells, teach, adapt, order)
        is_placebo = control_and_method(teach, [placebo])[0] != ""
        if is_placebo and kind == compress and now is not None and then["seed"].min() == now["seed"].min():
            return _changed(now, then), f"{teach} · {adapt}"
    return _changed(untaught["none"], untaught[compress]), UNTAUGHT


def _changed(now: pd.DataFrame, then: pd.DataFrame) -> float:
    one, other = (part.set_index("item_id")["chosen_role"] == "stereotype" for part in (now, then))
    return float(np.mean(one.to_numpy() != other.reindex(one.index).to_numpy()))
