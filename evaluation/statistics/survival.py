"""Does the lesson survive? One row per taught or control arm x order x compression (PROTOCOL: "Retention").

D0 = m(untaught, none) - m(T, none)      D_c = m(untaught, c) - m(T, c)
R_c = D_c / D0      Delta_c = D0 - D_c      R*_c = R_c / R_c(placebo)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import ConfigError, InputError
from teachfair.evaluation.statistics.cells import (
    CONTROLS,
    UNTAUGHT,
    Cell,
    CellMeans,
    cell_means,
    control_and_method,
    untaught,
)
from teachfair.evaluation.statistics.counts import holm
from teachfair.evaluation.statistics.guards import GuardRail, guard_rails
from teachfair.evaluation.statistics.interval import (
    NAN,
    Estimate,
    Interval,
    Ratio,
    Resampler,
    combine,
    crossed,
    deviations_of_ratio,
    mean_interval,
    undefined,
)

if TYPE_CHECKING:
    import pandas as pd

SURVIVES, LOST, INCONCLUSIVE, NO_EFFECT = "survives", "lost", "inconclusive", "no taught effect"
ABOVE, BELOW = 0.80, 0.20  # PROTOCOL's equivalence margins
GATE_SE = 3.0


@dataclass(frozen=True)
class SurvivalRow:
    """One arm under one compression. Every bias number stands beside the guard-rails: there is no row without them.

    Margins, D0, D_c and Delta are in the unit of the outcome (nats for ``margin_nats``); R and R* are ratios.
    """

    teach: str
    adapt: str
    order: str
    compress: str
    outcome: str
    condition: str
    parity: bool
    control: bool
    own_outcome: bool  # a placebo judged by the preference it was taught
    confidence: float
    n_bases: int
    n_seeds: int  # per base; the fewest, if bases differ
    n_clusters: int
    n_items: int
    untaught_none: Interval
    taught_none: Interval
    untaught_c: Interval
    taught_c: Interval
    d0: Interval
    d_c: Interval
    delta_c: Interval
    r_c: Interval
    r_star: Interval
    r_star_placebo: str  # which placebo cell R* divides by
    gate: bool | None  # None: the gate cannot be judged
    p_adjusted: float  # two-sided, Holm-adjusted; NaN where no verdict was tested
    verdict: str
    reason: str
    guard_rails: tuple[GuardRail, ...]  # of the taught, compressed cell
    guard_rails_reference: tuple[GuardRail, ...]  # of the taught, uncompressed cell
    guard_rails_untaught: tuple[GuardRail, ...]  # of the compressed untaught cell
    notes: tuple[str, ...] = ()
    p_value: float = NAN  # before any correction

    @property
    def arm(self) -> str:
        return f"{self.teach} · {self.adapt}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, nested; NaN becomes None."""
        plain: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Interval):
                value = value.as_dict()
            elif isinstance(value, float) and not math.isfinite(value):
                value = None
            elif isinstance(value, tuple):
                value = [v.as_dict() if isinstance(v, GuardRail) else v for v in value]
            plain[field.name] = value
        return plain


def survival(
    records: pd.DataFrame,
    *,
    random_state: int,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    outcome: str = "margin_nats",
    condition: str = "ambiguous",
    benchmark: str | None = None,
    guards: Sequence[str] = (),
    parity: bool = False,
    controls: Sequence[str] = CONTROLS,
    placebo: str = "placebo",
    placebo_condition: str = "placebo",
    tolerance: float = 0.02,
    one_seed: bool = False,
) -> list[SurvivalRow]:
    """Rows of R, Delta and verdicts, sorted by arm, order and compression; controls last.

    Args: records: one row per item and cell, any order, all arms together. guards: benchmarks whose records count as
        guard-rails beside ``benchmark``, in conditions that it does not have (``guards.rail_rows``). parity: the outcome
        is each model's distance from 0 (minimal pairs), see :func:`~teachfair.evaluation.statistics.cells.cell_means`.
        random_state: the same one gives the same intervals, whatever the order of the rows. one_seed: take a single
        training seed as given: intervals over item clusters alone, a claim about that seed (planted survival asks
        whether the instrument reads right, not how seeds scatter). Otherwise one seed leaves every interval of a taught
        arm undefined.
    Interval: hierarchical bootstrap over bases (if several, else training seeds) crossed with item clusters, all
        arms resampled together; its covariance, corrected for few units, with Fieller's set for the ratio and a t
        critical value (``interval.py``). Seeds are nested in bases: with several bases only the top level is
        resampled, since it already carries the seeds' variance (Davison & Hinkley 1997, section 3.8).
    Gate: R is defined only if D0's interval excludes 0 and D0 >= 3 SE (for a placebo's own outcome: |D0|).
    Verdict: one-sided tests of R <= .80 and R >= .20, whose p-values invert the interval of R; twice the smaller is
        Holm-adjusted over the compressions of all taught arms of these records (controls form a family of their
        own). "survives" or "lost" needs the adjusted p <= 1 - confidence, which implies the printed, unadjusted
        interval lies above .80 or below .20. Directional errors of such decisions: Shaffer 1980.
    A control's ``teach`` is ``<control>`` or ``<control>-<method>`` (``placebo-ppo``), see
        :func:`~teachfair.evaluation.statistics.cells.control_and_method`; ``controls`` names them.
    The full-precision reference of an arm is its ``compress="none"`` cell of the same teach and adapt.
    A placebo arm gets two sets of rows: on the fairness outcome (beside the taught arms) and, where records of
        ``placebo_condition`` exist, on its own; R* divides by the latter: by the placebo of the same compression and,
        as far as there is one, the same method, then the same adaptation and order; a note says where it is another's.
        R*'s interval is Fieller's on R and R(placebo), each linearised.
    Raises: InputError if records are malformed, or an arm's reference or compressed untaught cell is missing.
    """
    check_arguments(confidence, n_resamples)
    means = cell_means(records, outcome=outcome, condition=condition, benchmark=benchmark, parity=parity)
    rails = guard_rails(records, tolerance=tolerance, confidence=confidence, benchmark=benchmark, guards=guards)
    own: CellMeans | str = f"the records hold no condition {placebo_condition!r}"
    if placebo_condition in set(records["condition"].unique()) and outcome in records.columns:
        arms = records[[teach == UNTAUGHT or is_placebo(str(teach), placebo) for teach in records["teach"]]]
        try:
            own = cell_means(arms, outcome=outcome, condition=placebo_condition, benchmark=benchmark)
        except InputError as error:
            own = f"the placebo's own outcome is unusable: {error.what} ({error.where})"
    return survival_of(
        means, rails, own, random_state=random_state, confidence=confidence, n_resamples=n_resamples, controls=controls,
        placebo=placebo, one_seed=one_seed,
    )  # fmt: skip


def check_arguments(confidence: float, n_resamples: int) -> None:
    """Raises: ConfigError."""
    if not 0.5 < confidence < 1:
        raise ConfigError(f"confidence {confidence}", where="survival", fix="give a value between 0.5 and 1")
    if n_resamples < 200:
        raise ConfigError(f"n_resamples {n_resamples} is too few", where="survival", fix="give 200 or more")


def is_placebo(teach: str, placebo: str) -> bool:
    return control_and_method(teach, [placebo])[0] != ""


def survival_of(
    means: CellMeans, guards: Mapping[Cell, tuple[GuardRail, ...]], own: CellMeans | str, *, random_state: int,
    confidence: float = 0.95, n_resamples: int = 2000, controls: Sequence[str] = CONTROLS, placebo: str = "placebo",
    one_seed: bool = False,
) -> list[SurvivalRow]:  # fmt: skip
    """:func:`survival` from cluster means, guard-rails and the placebos' means on their own outcome (or why there are
    none)."""
    check_arguments(confidence, n_resamples)
    draws = _Estimates(means, Resampler(random_state, n_resamples))
    found = [_row(draws, cell, confidence, controls, False, guards, one_seed) for cell in _compressed(means)]
    rows_own: list[tuple[SurvivalRow, Ratio | None]] = []
    problem = own if isinstance(own, str) else ""
    if not any(is_placebo(cell.teach, placebo) for cell in means.means):
        problem = "no placebo arm"
    elif isinstance(own, CellMeans):
        theirs = _Estimates(own, draws.draws)
        try:
            rows_own = [_row(theirs, cell, confidence, controls, True, guards, one_seed) for cell in _compressed(own)]
        except InputError as error:
            problem = f"the placebo's own outcome is unusable: {error.what} ({error.where})"
    judged = _adjusted([*found, *rows_own], confidence)
    rows_own = judged[len(found) :]
    rows = [_with_r_star(row, ratio, rows_own, problem, placebo, confidence) for row, ratio in judged]
    return sorted(rows, key=lambda r: (r.control, r.own_outcome, r.teach, r.adapt, r.order, r.compress))


def _compressed(means: CellMeans) -> list[Cell]:
    return sorted(cell for cell in means.means if cell.teach != UNTAUGHT and cell.compress != "none")


@dataclass(frozen=True)
class _Four:
    """The four cells of one comparison, reduced to the same bases, seeds and items."""

    cells: tuple[Estimate, Estimate, Estimate, Estimate]
    n_bases: int
    n_seeds: int
    n_clusters: int
    row_name: str
    notes: tuple[str, ...]


class _Estimates:
    """Bootstrap estimates of the cells of one outcome, each computed once however many comparisons it stands in.

    The draws depend on the units' names alone, so a cell's estimate does too: pairing is kept.
    """

    def __init__(self, means: CellMeans, draws: Resampler) -> None:
        self.means, self.draws = means, draws
        self._known: dict[tuple[Any, ...], Estimate] = {}
        self._references: dict[tuple[str, str], list[Cell]] = {}
        for cell in means.means:
            if cell.compress == "none":
                self._references.setdefault((cell.teach, cell.adapt), []).append(cell)

    def reference(self, cell: Cell) -> Cell:
        """The arm's full-precision cell: same teach and adapt; of several, the one of the same order."""
        same = self._references.get((cell.teach, cell.adapt), [])
        if not same:
            raise InputError(
                "the arm has no full-precision reference", where=f"cell {cell}",
                fix=f"score {cell.teach}/{cell.adapt} at compress=none",
            )  # fmt: skip
        return next((c for c in same if c.order == cell.order), min(same))

    def of(self, cell: Cell, taught: tuple[tuple[str, int], ...], one_seed: bool) -> Estimate:
        """The estimate of a cell over the (base, seed) pairs ``taught``; one base and no seed for an untaught cell."""
        bases = sorted({b for b, _ in taught})
        fixed = len(bases) == 1 and (cell.teach == UNTAUGHT or (one_seed and len(taught) == 1))
        key = (cell, tuple(bases) if cell.teach == UNTAUGHT else taught, fixed)
        if key not in self._known:
            self._known[key] = self._estimate(cell, taught, bases, fixed)
        return self._known[key]

    def _estimate(self, cell: Cell, taught: tuple[tuple[str, int], ...], bases: list[str], fixed: bool) -> Estimate:
        means, table = self.means, self.means.means[cell]

        def of_base(base: str) -> np.ndarray:
            """(seeds of the base, K); an untaught policy has no training seed: one row, the mean of what there is."""
            if cell.teach == UNTAUGHT:
                return np.mean([m for (b, _), m in table.items() if b == base], axis=0)[None]
            return np.stack([table[pair] for pair in taught if pair[0] == base])

        if len(bases) == 1:
            base = bases[0]
            names = None if fixed else [str(s) for _, s in taught]
            return crossed(of_base(base)[None], means.sizes[base], names, means.clusters[base], self.draws)[0]
        if means.shared_items:
            values = np.stack([of_base(b).mean(axis=0) for b in bases])
            return crossed(values[None], means.sizes[bases[0]], bases, means.clusters[bases[0]], self.draws)[0]
        # Each base has items of its own: they are nested in it, and the variance of base means carries theirs.
        values = np.array([[float(of_base(b).mean(axis=0) @ (means.sizes[b] / means.sizes[b].sum()))] for b in bases])
        return crossed(values[None], np.ones(1), bases, None, self.draws)[0]


def _four(draws: _Estimates, cell: Cell, one_seed: bool) -> _Four:
    means = draws.means
    plain, damaged, reference = untaught("none"), untaught(cell.compress), draws.reference(cell)
    for needed in (plain, damaged):
        if needed not in means.means:
            raise InputError(
                f"the untaught policy was not scored at compress={needed.compress}", where=f"needed by cell {cell}",
                fix="the baseline under compression is the compressed untaught policy: add that cell",
            )  # fmt: skip
    has = {b for b, _ in means.means[plain]} & {b for b, _ in means.means[damaged]}
    taught = tuple(pair for pair in sorted(set(means.means[cell]) & set(means.means[reference])) if pair[0] in has)
    everything = set(means.means[cell]) | set(means.means[reference])
    if not taught:
        raise InputError(
            "an arm and its reference share no seed and base", where=f"cells {cell} and {reference}",
            fix="finish the cells of at least one seed",
        )  # fmt: skip
    notes = []
    if len(taught) < len(everything):
        notes.append(f"{len(everything) - len(taught)} of {len(everything)} seeds left out: not in all four cells")
    bases = sorted({b for b, _ in taught})
    notes += [
        f"items left out of every cell of {base}, which not every cell could score: "
        + ", ".join(f"{n} {what}" for what, n in sorted(means.left_out[base].items()))
        for base in bases
        if means.left_out.get(base)
    ]
    if len(bases) == 1 and one_seed and len(taught) == 1:
        notes.append(f"one training seed ({taught[0][1]}): intervals are over items, about that seed alone")
    if len(bases) > 1 and not means.shared_items:
        notes.append("bases were scored on items of their own")
    estimates = tuple(draws.of(which, taught, one_seed) for which in (plain, reference, damaged, cell))
    return _Four(
        estimates, len(bases), min(sum(b == base for b, _ in taught) for base in bases),  # type: ignore[arg-type]
        min(len(means.clusters[b]) for b in bases), "training seed" if len(bases) == 1 else "base", tuple(notes),
    )  # fmt: skip


def _row(
    draws: _Estimates, cell: Cell, confidence: float, controls: Sequence[str], own: bool,
    guards: Mapping[Cell, tuple[GuardRail, ...]], one_seed: bool,
) -> tuple[SurvivalRow, Ratio | None]:  # fmt: skip
    """The row before Holm and R*, and its ratio where the gate let it through."""
    means, four = draws.means, _four(draws, cell, one_seed)
    untaught_none, taught_none, untaught_c, taught_c = four.cells
    d0, d_c = combine((1, untaught_none), (-1, taught_none)), combine((1, untaught_c), (-1, taught_c))
    d0_interval = mean_interval(d0, confidence, four.row_name)
    reason = undefined(d0, d_c, row_name=four.row_name)
    gate: bool | None = None
    ratio: Ratio | None = None
    if reason:
        verdict, r_c = INCONCLUSIVE, Interval(NAN, reason=reason)
        reason = f"the gate cannot be judged: {reason}"
    else:
        size = abs(d0.value) if own else d0.value
        clear = d0_interval.low > 0 or (own and d0_interval.high < 0)
        gate = bool(clear and size >= GATE_SE * d0_interval.se and size > 0)
        if gate:
            ratio = Ratio(d_c, d0)
            verdict, r_c = INCONCLUSIVE, ratio.interval(confidence, four.row_name)
        else:
            verdict = NO_EFFECT
            if d0_interval.high < 0:
                reason = "teaching moved the outcome the other way"
            elif not clear:
                reason = f"the {confidence * 100:g} % interval of D₀ contains 0"
            else:
                reason = f"D₀ is below {GATE_SE:.0f} standard errors"
            r_c = Interval(NAN, reason=f"no taught effect to retain: {reason}")
    reference = draws.reference(cell)
    row = SurvivalRow(
        teach=cell.teach, adapt=cell.adapt, order=cell.order, compress=cell.compress, outcome=means.outcome,
        condition=means.condition, parity=means.parity, control=control_and_method(cell.teach, controls)[0] != "",
        own_outcome=own, confidence=confidence, n_bases=four.n_bases, n_seeds=four.n_seeds, n_clusters=four.n_clusters,
        n_items=means.n_items,
        untaught_none=mean_interval(untaught_none, confidence, four.row_name),
        taught_none=mean_interval(taught_none, confidence, four.row_name),
        untaught_c=mean_interval(untaught_c, confidence, four.row_name),
        taught_c=mean_interval(taught_c, confidence, four.row_name),
        d0=d0_interval, d_c=mean_interval(d_c, confidence, four.row_name),
        delta_c=mean_interval(combine((1, d0), (-1, d_c)), confidence, four.row_name),
        r_c=r_c, r_star=Interval(NAN), r_star_placebo="", gate=gate, p_adjusted=NAN, verdict=verdict, reason=reason,
        guard_rails=guards.get(cell, ()), guard_rails_reference=guards.get(reference, ()),
        guard_rails_untaught=guards.get(untaught(cell.compress), ()), notes=four.notes,
    )  # fmt: skip
    return row, ratio


def _adjusted(
    everything: list[tuple[SurvivalRow, Ratio | None]], confidence: float
) -> list[tuple[SurvivalRow, Ratio | None]]:
    """Verdicts with Holm over each family: taught arms, controls on the fairness outcome, placebos on their own."""
    everything = list(everything)
    families: dict[tuple[bool, bool], list[int]] = {}
    for i, (row, ratio) in enumerate(everything):
        if ratio is not None:
            families.setdefault((row.control, row.own_outcome), []).append(i)
    for members in families.values():
        above = [everything[i][1].p_value(ABOVE, "greater") for i in members]  # type: ignore[union-attr]
        below = [everything[i][1].p_value(BELOW, "less") for i in members]  # type: ignore[union-attr]
        alone = [min(1.0, 2 * min(a, b)) for a, b in zip(above, below, strict=True)]
        for i, p_value, p, a, b in zip(members, alone, holm(alone), above, below, strict=True):
            row, ratio = everything[i]
            decided = p <= 1 - confidence
            verdict, reason = INCONCLUSIVE, ""
            if decided and a < b and row.r_c.low > ABOVE:
                verdict = SURVIVES
            elif decided and b < a and row.r_c.high < BELOW:
                verdict = LOST
                if row.r_c.high < 0:
                    reason = "R is below 0: the effect is reversed"
            elif row.r_c.low > ABOVE or row.r_c.high < BELOW:
                reason = f"clear alone, not after Holm over {len(members)} compressed arms (adjusted p = {p:.3f})"
            else:
                reason = f"the interval of R reaches into {BELOW:.2f} to {ABOVE:.2f}"
            everything[i] = (replace(row, p_value=p_value, p_adjusted=p, verdict=verdict, reason=reason), ratio)
    return everything


def _with_r_star(
    row: SurvivalRow, ratio: Ratio | None, own: list[tuple[SurvivalRow, Ratio | None]], problem: str, placebo: str,
    confidence: float,
) -> SurvivalRow:  # fmt: skip
    if control_and_method(row.teach, [placebo])[0]:
        return replace(row, r_star=Interval(NAN, reason="a placebo is what others are divided by"))
    if ratio is None:
        return replace(row, r_star=Interval(NAN, reason="R is not defined"))
    if not own:
        return replace(row, r_star=Interval(NAN, reason=problem))
    mine = control_and_method(row.teach)[1]

    def is_other(placebo_row: SurvivalRow) -> bool:
        """Of another method; a placebo that does not tell its method is not."""
        return control_and_method(placebo_row.teach, [placebo])[1] not in ("", mine)

    placebo_row, placebo_ratio = min(
        own,
        key=lambda o: (
            o[0].compress != row.compress, is_other(o[0]), o[0].teach != f"{placebo}-{mine}", o[0].adapt != row.adapt,
            o[0].order != row.order, o[0].adapt, o[0].order, o[0].teach,
        ),
    )  # fmt: skip
    which = f"{placebo_row.teach} · {placebo_row.adapt} · {placebo_row.order} · {placebo_row.compress}"
    if placebo_row.compress != row.compress:
        return replace(row, r_star=Interval(NAN, reason=f"no placebo arm was compressed to {row.compress}"))
    if placebo_ratio is None:
        return replace(row, r_star=Interval(NAN, reason=f"{which} shows no effect of its own: {placebo_row.reason}"))
    top, bottom = deviations_of_ratio(ratio), deviations_of_ratio(placebo_ratio)
    interval = Ratio(top, bottom).interval(confidence)
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        interval = Interval(interval.value, se=interval.se, reason="R of the placebo is not clearly different from 0")
    notes = row.notes
    if is_other(placebo_row):
        notes = (*notes, f"R* divides by the placebo of another method: {which}")
    elif (placebo_row.adapt, placebo_row.order) != (row.adapt, row.order):
        notes = (*notes, f"R* divides by a placebo of another kind: {which}")
    return replace(row, r_star=interval, r_star_placebo=which, notes=notes)
