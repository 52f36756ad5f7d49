"""The dial's front: bias × accuracy × utility over the strength of a lesson; a strength is picked, then verified.

A strength is picked on development items and verified on held-out ones. Beside the front stand, with no weight changed,
the untaught policy guided by the reward model and its best of n answers: what a decision at inference buys. With
``study.py`` this is a place that knows every floor: strengths come from ``alignment``, numbers from ``evaluation``.
"""

from __future__ import annotations

import csv
import inspect
import io
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair import runs
from teachfair.alignment import best_of
from teachfair.alignment.dial import Dial, at_strength, check_strength, find_sources, open_dial
from teachfair.errors import InputError, unknown_name
from teachfair.evaluation.benchmarks import get
from teachfair.evaluation.statistics import Interval
from teachfair.evaluation.statistics.front import (
    NOT_VERIFIED,
    SHARES,
    BestOf,
    Pick,
    Row,
    Target,
    cluster_mean,
    finite_or_none,
    front_row,
    pick,
    rescored,
    share_mean,
    verify,
)

if TYPE_CHECKING:
    import pandas as pd

DEV, HELD_OUT = "dev", "held-out"
SPLITS = ("own", "halves")
ALPHAS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
_REFINEMENTS = 4

Progress = Callable[[str], None]


@dataclass
class Front:
    """Everything that was measured; what ``front.json`` holds."""

    target: Target
    rows: list[Row] = field(default_factory=list)
    guided: list[Row] = field(default_factory=list)
    best_of: list[BestOf] = field(default_factory=list)
    pick: Pick | None = None
    notes: list[str] = field(default_factory=list)

    def of(self, split: str) -> list[Row]:
        return sorted((row for row in self.rows if row.split == split), key=lambda row: row.setting)


def run_dial(
    taught: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    alphas: Sequence[float] = ALPHAS,
    target: str = "margin=0",
    within: float = 0.25,
    benchmark: Any = "sandbox",
    data_dir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    split: str = "own",
    reward_model: str | Path | None = None,
    best_of_ns: Sequence[int] = (),
    betas: Sequence[float] = (),
    inference_alpha: float = 0.0,
    max_new_tokens: int = 16,
    tolerance: float = 0.02,
    merged: bool = False,
    save_anyway: bool = False,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[Path, Front]:
    """Measure the front of a taught policy, pick the strength that meets ``target``, verify it, save it.

    Args:
        taught, base: as in :func:`teachfair.alignment.dial.find_sources`.
        alphas: the grid; 0 and 1 are added. Between two strengths on either side of the target, up to four more are
            evaluated (not interpolated only).
        benchmark: a name or a benchmark object.
        split: how development and held-out items are told apart (:func:`dev_and_held_out`).
        within: half the width of the band around the target in which held-out items verify it, nats (:func:`verify`).
        reward_model: judges at inference only. None: neither guidance nor best-of-n.
        best_of_ns, betas, inference_alpha: numbers of answers, guidance strengths, and the strength of the policy that is
            guided (0: the untaught one).
        tolerance: how much a guard-rail's share may fall below the untaught policy's.
        merged: save the chosen adapter merged into a full checkpoint.
        save_anyway: save the nearest strength although none meets the target, or the held-out items do not verify it.
        limit: at most so many items of each split, evenly spaced.
        progress: called with what is done next.
    Returns: ``out`` and the front. ``out`` holds front.csv, front.json, front.svg, points/ (each point's records, so that a
        killed run goes on), policy/ (the checkpoint at the chosen strength, if one was saved) and, last, run.json.
    Raises: ConfigError, InputError, CheckpointError, DataError, RunFolderError.
    """
    from teachfair.models.checkpoint import content_hash
    from teachfair.reward_models.ensemble import load_reward_model

    start, out = time.time(), Path(out)
    wanted = Target.parse(target)
    grid = sorted({0.0, 1.0, *(check_strength(alpha) for alpha in alphas)})
    check_strength(inference_alpha)
    if not 0 < within < math.inf:
        raise InputError(f"the band is {within} nats", where="--within", fix="give a number greater than 0, such as 0.25")
    for n in best_of_ns:
        best_of.kl_bound(n)
    for beta in betas:
        best_of.guided_logps([0.0], [0.0], beta)
    module = get(benchmark)
    sources = find_sources(taught, base)
    judge = None if reward_model is None else load_reward_model(reward_model)
    splits, how = dev_and_held_out(module, data_dir, options=options, split=split, seed=seed, limit=limit)
    condition = str(module.CARD.get("outcome_condition", "ambiguous"))
    decides = {
        "sources": [sources.taught_hash, sources.untaught_hash, sources.quantization], "alphas": grid,
        "target": wanted.text, "within": within, "benchmark": [module.CARD["name"], module.CARD.get("version")],
        "split": how,
        "options": dict(options or {}), "limit": limit, "seed": seed, "tolerance": tolerance, "merged": merged,
        "save_anyway": save_anyway, "reward_model": None if reward_model is None else content_hash(reward_model),
        "best_of": sorted(best_of_ns), "betas": sorted(betas), "inference_alpha": inference_alpha,
        "max_new_tokens": max_new_tokens,
        "data": [runs.hash_file(path) for path in module.data_files(data_dir)] if hasattr(module, "data_files") else [],
    }  # fmt: skip
    with runs.claimed(out):
        is_complete = runs.begin(out, runs.fingerprint(decides))
        bench = _Bench(open_dial(taught, base=base), module, splits, out / "points", condition, wanted, tolerance, progress)
        front = Front(wanted)
        bench.rows_of(DEV, grid, front)
        bench.rows_of(HELD_OUT, grid, front)
        front.pick = _verified(bench, _picked(bench, front), front, within)
        if not 0 <= front.pick.alpha <= 1:
            front.notes.append(
                f"strength {front.pick.alpha:g} is extrapolated: "
                + (
                    "the lesson is reversed, a probe and nothing to ship"
                    if front.pick.alpha < 0
                    else "beyond the lesson taught"
                )
            )
        if judge is not None and (betas or best_of_ns):
            _at_inference(bench, front, judge, sorted(best_of_ns), sorted(betas), inference_alpha, seed, max_new_tokens)
        if is_complete:
            return out, front
        policy = out / "policy"
        saved = save_anyway or (front.pick.met and front.pick.verdict != NOT_VERIFIED)
        if saved and runs.read_record(policy) is None:
            _tell(progress, f"save strength {front.pick.alpha:g}")
            at_strength(taught, policy, alpha=front.pick.alpha, base=base, merged=merged, record={"met": front.pick.met})
        write_front(front, out)
        runs.write_record(
            out, key=runs.fingerprint(decides), what="dial", sources=sources.as_dict(), decides=runs.plain(decides),
            pick=front.pick.as_dict(), saved=str(policy) if saved else None, notes=front.notes, norm=module.CARD["norm"],
            reward_model=None if reward_model is None else str(reward_model), seconds=round(time.time() - start, 3),
            peak_memory_gib=round(runs.peak_memory_gib(), 3), device=str(bench.dial.model.device),
        )  # fmt: skip
    return out, front


# ------------------------------------------------------------------------------------------------------ the items


def dev_and_held_out(
    module: Any, data_dir: str | Path | None, *, options: Mapping[str, Any] | None = None, split: str = "own", seed: int = 0,
    limit: int | None = None,
) -> tuple[dict[str, list[dict[str, Any]]], str]:  # fmt: skip
    """Items to pick on and items to verify on, and a sentence about how they were told apart.

    Args: split: "own" = the benchmark's splits dev and test where its ``items`` takes ``split``, else as "halves" = two
        halves of its (test) items by whole clusters, drawn with ``seed`` within each axis and condition.
    Raises: ConfigError on another ``split``; InputError if there are fewer than four clusters to halve, or limit is below 1.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", where="--limit", fix="a number of items, 1 or more, or none")
    given = dict(options or {})
    if split == "own" and "split" in inspect.signature(module.items).parameters:
        found = {name: module.items(data_dir, **given, split=of) for name, of in ((DEV, "dev"), (HELD_OUT, "test"))}
        how = f"the benchmark's own splits: {DEV} = dev, {HELD_OUT} = test"
    else:
        items = module.items(data_dir, **given)
        dev = _half_of_clusters(items, seed, str(module.CARD["name"]))
        found = {
            DEV: [item for item in items if item["cluster"] in dev],
            HELD_OUT: [item for item in items if item["cluster"] not in dev],
        }
        how = f"two halves of the benchmark's item clusters, drawn with seed {seed}: {DEV} and {HELD_OUT} share no cluster"
    if limit is not None:
        found = {name: rows[:: math.ceil(len(rows) / limit)][:limit] if rows else rows for name, rows in found.items()}
    return found, how


def _half_of_clusters(items: Sequence[Mapping[str, Any]], seed: int, name: str) -> set[str]:
    """About half of the clusters of each axis and condition, so that neither half holds more of an axis."""
    strata: dict[tuple[str, str], list[str]] = {}
    seen: set[str] = set()
    for item in items:  # a cluster belongs to the first stratum that it is met in
        if item["cluster"] not in seen:
            seen.add(item["cluster"])
            strata.setdefault((item["axis"], item["condition"]), []).append(item["cluster"])
    if len(seen) < 4:
        raise InputError(
            f"{len(seen)} item clusters cannot be halved", where=name, fix="give a benchmark with at least 4 clusters"
        )
    draw = np.random.default_rng(seed)
    dev: set[str] = set()
    extra = 0
    for stratum in sorted(strata):
        clusters = sorted(strata[stratum])
        take = (len(clusters) + extra) // 2
        extra = (extra + len(clusters)) % 2  # of odd strata every other one gives its extra cluster to dev
        dev |= {clusters[place] for place in draw.permutation(len(clusters))[:take]}
    return dev


# --------------------------------------------------------------------------------------------------------- points


@dataclass
class _Bench:
    """A dial over the items of two splits: gives the records of a point, scored once and kept on disk."""

    dial: Dial
    module: Any
    items: dict[str, list[dict[str, Any]]]
    folder: Path
    condition: str
    target: Target
    tolerance: float
    progress: Progress | None

    def records(self, split: str, alpha: float) -> pd.DataFrame:
        """Per-item records of a split at a strength."""
        import pandas as pd

        from teachfair.models.chat import ensure_chat_template
        from teachfair.models.scorer import PolicyScorer

        def make() -> pd.DataFrame:
            _tell(self.progress, f"strength {alpha:g} on {split} items")
            ensure_chat_template(self.dial.tokenizer)
            scorer = PolicyScorer(self.dial.turn(alpha), self.dial.tokenizer)
            return pd.DataFrame(self.module.score(scorer, self.items[split]))

        return _kept(self.folder / f"{split}-alpha-{alpha:g}", make)

    def row(self, split: str, alpha: float) -> Row:
        return front_row(
            self.records(split, alpha), self.records(split, 0.0), kind="alpha", setting=alpha, split=split,
            condition=self.condition, target=self.target, tolerance=self.tolerance,
        )  # fmt: skip

    def rows_of(self, split: str, alphas: Sequence[float], front: Front) -> None:
        known = {row.setting for row in front.of(split)}
        front.rows += [self.row(split, alpha) for alpha in alphas if alpha not in known]


def _kept(folder: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A frame from its folder, or made now and written there whole. A changed file is an error, not a number."""
    import pyarrow
    import pyarrow.parquet

    from teachfair.evaluation.evaluate import RECORDS, load_records

    if runs.read_record(folder) is None:
        frame = make()
        with runs.whole_folder(folder) as aside:
            pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame, preserve_index=False), aside / RECORDS)
            runs.write_record(aside, what="dial point", records_hash=runs.hash_file(aside / RECORDS))
    return load_records(folder)


# ----------------------------------------------------------------------------------------------- picking, verifying


def _picked(bench: _Bench, front: Front) -> Pick:
    """Refine between strengths on either side of the target, then pick from all that were evaluated on dev items."""
    grid = front.of(DEV)
    for low, high in itertools.pairwise(grid):
        if (low.margin.value - front.target.value) * (high.margin.value - front.target.value) < 0:
            _refine(bench, front, low, high)
    return pick(front.of(DEV), front.target)


def _refine(bench: _Bench, front: Front, low: Row, high: Row) -> None:
    """Regula falsi: evaluate where the straight line between two strengths meets the target, up to four times."""
    for _ in range(_REFINEMENTS):
        gaps = [row.margin.value - front.target.value for row in (low, high)]
        alpha = round(low.setting - gaps[0] * (high.setting - low.setting) / (gaps[1] - gaps[0]), 3)
        if not low.setting < alpha < high.setting:
            return
        bench.rows_of(DEV, [alpha], front)
        row = next(row for row in front.of(DEV) if row.setting == alpha)
        gap = row.margin.value - front.target.value
        if abs(gap) < 0.02 or (math.isfinite(row.margin.se) and abs(gap) < row.margin.se / 4):
            return
        low, high = (row, high) if gap * gaps[0] > 0 else (low, row)


def _verified(bench: _Bench, picked: Pick, front: Front, within: float) -> Pick:
    _tell(bench.progress, f"verify strength {picked.alpha:g} on {HELD_OUT} items")
    bench.rows_of(HELD_OUT, [picked.alpha], front)
    held_out = next(row for row in front.of(HELD_OUT) if row.setting == picked.alpha)
    verdict, why = verify(held_out, front.target, within=within)
    return Pick(picked.alpha, picked.met, picked.why, picked.dev, held_out, verdict, why)


# ---------------------------------------------------------------------------------------------------- at inference


def _at_inference(
    bench: _Bench, front: Front, judge: Any, ns: Sequence[int], betas: Sequence[float], alpha: float, seed: int,
    max_new_tokens: int,
) -> None:  # fmt: skip
    """Guidance and best-of-n of the policy at strength ``alpha``, on held-out items; adds to ``front``."""
    items = [item for item in bench.items[HELD_OUT] if item.get("prompt")]
    if len(items) < len(bench.items[HELD_OUT]):
        front.notes.append("no decision at inference: the benchmark's items are sentences, not questions with answers")
        return
    records = bench.records(HELD_OUT, alpha)
    if betas:
        rewards = _option_rewards(bench, items, judge)
        whole = guided(records, rewards, math.inf)
        outcome = (records["condition"] == bench.condition).to_numpy()
        if bench.target.column != "margin_nats" or not np.allclose(
            whole["margin_nats"][outcome], records["margin_nats"][outcome]
        ):
            front.notes.append("no guided front: the target is not the difference of two options' log-probabilities")
        else:
            for beta in betas:
                front.guided.append(front_row(
                    guided(records, rewards, beta), bench.records(HELD_OUT, 0.0), kind="guided", setting=beta,
                    split=HELD_OUT, condition=bench.condition, target=bench.target, tolerance=bench.tolerance,
                ))  # fmt: skip
    if ns:
        front.best_of += _best_of(bench, items, judge, ns, alpha, seed, max_new_tokens)


def _option_rewards(bench: _Bench, items: Sequence[Mapping[str, Any]], judge: Any) -> list[list[float]]:
    import pandas as pd

    def make() -> pd.DataFrame:
        _tell(bench.progress, "reward of every option")
        prompts = [[{"role": "user", "content": item["prompt"]}] for item in items]
        # items may differ in their number of options: one call each number, rows back in order
        rewards: list[list[float]] = [[] for _ in items]
        for count in sorted({len(item["options"]) for item in items}):
            rows = [row for row, item in enumerate(items) if len(item["options"]) == count]
            found = best_of.rewards_of(judge, [prompts[row] for row in rows], [items[row]["options"] for row in rows])
            for row, values in zip(rows, found.tolist(), strict=True):
                rewards[row] = values
        return pd.DataFrame({"item_id": [item["id"] for item in items], "rewards": rewards})

    return [list(values) for values in _kept(bench.folder / "option-rewards", make)["rewards"]]


def guided(records: pd.DataFrame, rewards: Sequence[Sequence[float]], beta: float) -> pd.DataFrame:
    """The records of the policy π·exp(r/β)/Z over each item's options: exact. β = inf gives the policy itself."""
    first, whole = (
        [best_of.guided_logps(logps, values, beta) for logps, values in zip(records[column], rewards, strict=True)]
        for column in ("logps_first", "logps_whole")
    )
    return rescored(records, first, whole)


def _best_of(
    bench: _Bench, items: Sequence[Mapping[str, Any]], judge: Any, ns: Sequence[int], alpha: float, seed: int,
    max_new_tokens: int,
) -> list[BestOf]:  # fmt: skip
    import pandas as pd

    asked = [item for item in items if item["condition"] in (bench.condition, "disambiguated")]

    def make() -> pd.DataFrame:
        _tell(bench.progress, f"{max(ns)} answers to each of {len(asked)} prompts, judged by the reward model")
        prompts = [[{"role": "user", "content": item["prompt"]}] for item in asked]
        candidates = best_of.sample_candidates(
            bench.dial.turn(alpha), bench.dial.tokenizer, prompts, judge, n=max(ns), seed=seed, max_new_tokens=max_new_tokens
        )
        return pd.DataFrame(
            {
                "item_id": [item["id"] for item in asked],
                "answers": candidates.answers,
                "rewards": candidates.rewards.tolist(),
            }
        )

    frame = _kept(bench.folder / f"answers-alpha-{alpha:g}", make)
    candidates = best_of.Candidates(
        [list(row) for row in frame["answers"]], np.array([list(row) for row in frame["rewards"]])
    )
    clusters = [item["cluster"] for item in asked]
    found = []
    for n in ns:
        places = candidates.best(n)
        roles = [_role(item, text) for item, text in zip(asked, candidates.texts(places), strict=True)]
        shares = {}
        for role, where in SHARES.items():
            rows = [row for row, item in enumerate(asked) if item["condition"] == (where or bench.condition)]
            shares[role] = share_mean([float(roles[row] == role) for row in rows], [clusters[row] for row in rows])
        chosen = [candidates.rewards[row, place] for row, place in enumerate(places)]
        found.append(BestOf(
            n, alpha, cluster_mean(chosen, clusters), shares, share_mean([float(role == "") for role in roles], clusters),
            best_of.kl_bound(n), len(asked),
        ))  # fmt: skip
    return found


def _role(item: Mapping[str, Any], answer: str) -> str:
    """The role of the option that an answer gives, '' if it gives none: equal but for case, blanks and a last full stop."""
    plain = [text.strip().rstrip(".").casefold() for text in item["options"]]
    said = answer.strip().rstrip(".").strip().casefold()
    return str(item["roles"][plain.index(said)]) if said in plain else ""


# --------------------------------------------------------------------------------------------------------- writing


def write_front(front: Front, out: Path) -> None:
    """front.json, front.csv and front.svg. A number without a value is null (empty in the csv), with its reason beside."""
    from teachfair.evaluation.dial_figure import dial_figure
    from teachfair.evaluation.evaluate import without_nan

    pick = front.pick
    body, _ = without_nan(
        {
            "target": front.target.text, "front": [row.as_dict() for row in front.rows],
            "guided": [row.as_dict() for row in front.guided], "best_of_n": [row.as_dict() for row in front.best_of],
            "pick": None if pick is None else pick.as_dict(), "notes": front.notes,
        }
    )  # fmt: skip
    runs.write_json(out / "front.json", body)
    table = io.StringIO()
    rows = flat_rows(front)
    writer = csv.DictWriter(table, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    runs.write_text(out / "front.csv", table.getvalue())
    runs.write_text(out / "front.svg", dial_figure(body))


def flat_rows(front: Front) -> list[dict[str, Any]]:
    """The front as rows of plain numbers: one a strength and split, one a guidance, one a best-of-n."""
    rows: list[dict[str, Any]] = []
    for row in [*front.of(DEV), *front.of(HELD_OUT), *front.guided]:
        flat: dict[str, Any] = {"kind": row.kind, "setting": row.setting, "split": row.split}
        flat |= _flat("margin_nats", row.margin)
        flat |= {f"margin_nats_{axis}": finite_or_none(value) for axis, value in row.by_axis.items()}
        for rail in row.rails:
            name = rail.name.replace(" ", "_").replace("-", "_")
            flat |= _flat(name, rail.value) | {f"{name}_status": rail.status}
        for role, share in row.shares.items():
            flat |= _flat(f"{role}_share", share)
        flat |= {
            "kl_outcome_nats": finite_or_none(row.kl_outcome_nats),
            "kl_elsewhere_nats": finite_or_none(row.kl_elsewhere_nats),
        }
        flat |= {"n_items": row.n_items, "n_clusters": row.n_clusters}
        rows.append(flat)
    for best in front.best_of:
        flat = {"kind": "best-of-n", "setting": best.n, "split": HELD_OUT, "kl_bound_nats": best.kl_bound_nats}
        for role, share in best.shares.items():
            flat |= _flat(f"{role}_share", share)
        rows.append(flat | _flat("reward", best.reward) | _flat("off_option_share", best.off_option))
    return rows


def _flat(name: str, value: Interval) -> dict[str, Any]:
    return {
        name: finite_or_none(value.value),
        f"{name}_low": finite_or_none(value.low),
        f"{name}_high": finite_or_none(value.high),
    }


def _tell(progress: Progress | None, what: str) -> None:
    if progress is not None:
        progress(what)
