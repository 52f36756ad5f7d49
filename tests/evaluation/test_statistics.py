"""Known answers for the statistics of survival."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from interval_coverage import CLUSTERS, ONE_BASE, PER_CLUSTER, SEVERAL_BASES, coverage, paired, simulate
from synthetic import ALIGN, ARMS, study_records

from teachfair.errors import InputError, TeachfairError
from teachfair.evaluation.statistics import (
    correct_for_flips,
    detectable_effect,
    flip_factor,
    guard_rails,
    holm,
    mcnemar_exact,
    survival,
    survival_from_files,
    transitions,
    variance_ledger,
    wilson,
)
from teachfair.evaluation.statistics.cells import CONTROLS, KEYS, Cell, control_and_method, untaught
from teachfair.evaluation.statistics.interval import Ratio, Resampler, combine, crossed, mean_interval
from teachfair.evaluation.statistics.survival import INCONCLUSIVE, LOST, NO_EFFECT, SURVIVES

LORA_NF4 = {("dpo", "lora", "nf4", ALIGN): 0.5}


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return study_records()


@pytest.fixture(scope="module")
def rows(records: pd.DataFrame) -> list:
    return survival(records, random_state=0)


def one(rows: list, **keys: object) -> object:
    found = [r for r in rows if all(getattr(r, k) == v for k, v in keys.items())]
    assert len(found) == 1, [(r.teach, r.adapt, r.order, r.compress) for r in found]
    return found[0]


# --- survival -------------------------------------------------------------------------------------------------


def test_planted_retention_lies_in_every_interval_and_gives_both_verdicts(rows: list) -> None:
    for (teach, adapt, compress, order), planted in ARMS.items():
        row = one(rows, teach=teach, adapt=adapt, compress=compress, order=order, own_outcome=teach == "placebo")
        assert row.r_c.low - 0.02 <= planted <= row.r_c.high + 0.02, (adapt, compress, row.r_c)
    assert one(rows, adapt="qlora", compress="nf4", order="merge-then-recompress").verdict == LOST
    assert one(rows, adapt="full", compress="nf4", own_outcome=False).verdict == SURVIVES


def test_placebo_shows_no_taught_effect_on_fairness_and_keeps_its_own_preference(rows: list) -> None:
    beside = one(rows, teach="placebo", compress="nf4", own_outcome=False)
    own = one(rows, teach="placebo", compress="nf4", own_outcome=True)
    assert beside.verdict == NO_EFFECT
    assert math.isnan(beside.r_c.value)
    assert "contains 0" in beside.reason
    assert own.condition == "placebo"
    assert own.verdict == SURVIVES


def test_r_star_divides_by_the_placebo_of_the_same_adaptation_and_says_when_it_cannot(rows: list) -> None:
    own = one(rows, teach="placebo", compress="nf4", own_outcome=True)
    lora = one(rows, teach="dpo", adapt="lora", compress="nf4")
    assert lora.r_star.value == pytest.approx(lora.r_c.value / own.r_c.value)
    assert lora.r_star.low < lora.r_star.value < lora.r_star.high
    assert "placebo · lora" in lora.r_star_placebo
    assert not lora.notes
    full = one(rows, teach="dpo", adapt="full", compress="nf4")
    assert any("placebo of another kind" in note for note in full.notes)


@given(control=st.sampled_from(CONTROLS), method=st.text("abcdefgh-0.", min_size=1))
def test_a_controls_label_names_control_and_method_and_any_other_is_a_methods(control: str, method: str) -> None:
    assert control_and_method(f"{control}-{method}") == (control, method)
    assert control_and_method(control) == (control, "")
    assert control_and_method(f"{control}{method.lstrip('-')}x") == ("", f"{control}{method.lstrip('-')}x")
    assert control_and_method(method) == ("", method), "no control's name is made of these letters"
    assert control_and_method(f"{control}-{method}", []) == ("", f"{control}-{method}")


@pytest.fixture(scope="module")
def rows_of_two_methods() -> list:
    planted = {
        ("dpo", "full", "nf4", ALIGN): 1.0,
        ("ppo", "full", "nf4", ALIGN): 0.5,
        ("ppo", "lora", "nf4", ALIGN): 0.9,
        ("grpo", "full", "nf4", ALIGN): 0.9,
        ("sham-ppo", "full", "nf4", ALIGN): 1.0,
        ("placebo-dpo", "full", "nf4", ALIGN): 1.0,
        ("placebo-ppo", "full", "nf4", ALIGN): 0.5,
    }
    return survival(study_records(arms=planted), random_state=0)


def test_r_star_divides_by_the_placebo_of_the_same_method(rows_of_two_methods: list) -> None:
    """Half of the effect is lost, and half of the placebo's: fairness is no more fragile than what PPO teaches at all."""
    own = {r.teach: r for r in rows_of_two_methods if r.own_outcome}
    assert set(own) == {"placebo-dpo", "placebo-ppo"}
    for method in ("dpo", "ppo"):
        row = one(rows_of_two_methods, teach=method, adapt="full")
        assert row.r_star.value == pytest.approx(row.r_c.value / own[f"placebo-{method}"].r_c.value)
        assert row.r_star_placebo.startswith(f"placebo-{method} · full")
        assert not row.notes
    assert 0.8 < one(rows_of_two_methods, teach="ppo", adapt="full").r_star.value < 1.2


def test_same_method_counts_before_same_adaptation_and_a_note_says_where_it_is_another_methods(
    rows_of_two_methods: list,
) -> None:
    lora = one(rows_of_two_methods, teach="ppo", adapt="lora")
    assert lora.r_star_placebo.startswith("placebo-ppo · full")
    assert lora.notes == (f"R* divides by a placebo of another kind: {lora.r_star_placebo}",)
    grpo = one(rows_of_two_methods, teach="grpo")
    assert grpo.r_star_placebo.startswith("placebo-")
    assert grpo.notes == (f"R* divides by the placebo of another method: {grpo.r_star_placebo}",)


def test_controls_of_any_method_are_controls(rows_of_two_methods: list) -> None:
    assert {r.teach for r in rows_of_two_methods if r.control} == {"sham-ppo", "placebo-dpo", "placebo-ppo"}
    assert {r.teach for r in rows_of_two_methods if not r.control} == {"dpo", "ppo", "grpo"}
    beside = one(rows_of_two_methods, teach="placebo-ppo", own_outcome=False)
    assert beside.verdict == NO_EFFECT


def test_r_star_is_undefined_with_a_reason_if_the_placebo_has_no_outcome_of_its_own(records: pd.DataFrame) -> None:
    bare = survival(records[records["condition"] != "placebo"], random_state=0)
    lora = one(bare, teach="dpo", adapt="lora", compress="nf4")
    assert math.isnan(lora.r_star.value)
    assert "placebo" in lora.r_star.reason


def test_delta_is_always_d0_minus_d_c(rows: list) -> None:
    for row in rows:
        assert row.delta_c.value == pytest.approx(row.d0.value - row.d_c.value)
        assert math.isfinite(row.delta_c.low)
        assert math.isfinite(row.delta_c.high)
        assert row.d0.value == pytest.approx(row.untaught_none.value - row.taught_none.value)
        assert row.d_c.value == pytest.approx(row.untaught_c.value - row.taught_c.value)


def test_same_seed_gives_the_same_interval_and_another_seed_another(records: pd.DataFrame) -> None:
    small = study_records(arms=LORA_NF4, clusters=10)
    first, again, other = (survival(small, random_state=s)[0].r_c for s in (3, 3, 4))
    assert first == again
    assert first != other
    assert first.value == other.value


def test_rows_of_the_records_may_come_in_any_order(records: pd.DataFrame, rows: list) -> None:
    shuffled = survival(records.sample(frac=1, random_state=5), random_state=0)
    for a, b in zip(rows, shuffled, strict=True):
        assert a.r_c.low == pytest.approx(b.r_c.low, nan_ok=True)
        assert a.verdict == b.verdict


def test_other_arms_do_not_change_an_interval(records: pd.DataFrame, rows: list) -> None:
    alone = survival(records[records["teach"].isin(["untaught"]) | (records["adapt"] == "full")], random_state=0)
    assert one(alone, compress="nf4").r_c == one(rows, adapt="full", compress="nf4").r_c


@settings(max_examples=8, deadline=None)
@given(st.floats(-50, 50), st.integers(0, 10_000))
def test_adding_a_constant_to_all_margins_changes_no_difference(constant: float, seed: int) -> None:
    frame = study_records(arms=LORA_NF4, clusters=6, per_cluster=2, random_state=seed)
    before = survival(frame, random_state=0)[0]
    after = survival(frame.assign(margin_nats=frame["margin_nats"] + constant), random_state=0)[0]
    assert after.untaught_none.value == pytest.approx(before.untaught_none.value + constant)
    assert after.delta_c.value == pytest.approx(before.delta_c.value, abs=1e-9)
    assert after.r_c.high == pytest.approx(before.r_c.high, abs=1e-6, nan_ok=True)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_compressed_equal_to_taught_gives_one_and_equal_to_untaught_gives_zero(seed: int, seeds: int) -> None:
    frame = study_records(arms=LORA_NF4, clusters=6, per_cluster=2, seeds=seeds, random_state=seed)
    plain = frame[frame["compress"] == "none"]
    kept = survival(pd.concat([plain, plain.assign(compress="nf4")]), random_state=1)[0]
    assume(kept.gate)  # two seeds that happen to differ much leave no clear D0, and then there is no R
    assert kept.r_c.value == pytest.approx(1)
    assert (kept.r_c.low, kept.r_c.high) == (pytest.approx(1, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert kept.verdict == SURVIVES
    untaught_rows = plain[plain["teach"] == "untaught"]
    gone = [untaught_rows.assign(teach="dpo", adapt="lora", seed=s, compress="nf4") for s in range(seeds)]
    lost = survival(pd.concat([plain, untaught_rows.assign(compress="nf4"), *gone]), random_state=1)[0]
    assert lost.r_c.value == pytest.approx(0, abs=1e-12)
    assert lost.verdict == LOST


def test_baseline_is_the_compressed_untaught_model_so_damage_to_both_cancels() -> None:
    frame = study_records(arms={("dpo", "lora", "nf4", ALIGN): 1.0})
    hit = frame["compress"] == "nf4"
    damaged = survival(frame.assign(margin_nats=frame["margin_nats"] + 1.7 * hit), random_state=0)[0]
    assert damaged.r_c.value == pytest.approx(survival(frame, random_state=0)[0].r_c.value)


def test_one_training_seed_leaves_errors_undefined_and_gives_no_verdict() -> None:
    row = survival(study_records(arms=LORA_NF4, seeds=1), random_state=0)[0]
    assert math.isnan(row.d0.se)
    assert "one training seed" in row.d0.reason
    assert math.isnan(row.r_c.value)
    assert row.gate is None
    assert row.verdict == INCONCLUSIVE
    assert math.isfinite(row.untaught_none.se), "an untaught policy has no training seed: clusters suffice"


def test_one_seed_taken_as_given_has_intervals_over_items_and_says_so() -> None:
    frame = study_records(arms=LORA_NF4, seeds=1)
    row = survival(frame, random_state=0, one_seed=True)[0]
    assert row.r_c.low < row.r_c.value < row.r_c.high
    assert row.gate
    assert any("that seed alone" in note for note in row.notes)
    several = study_records(arms=LORA_NF4, seeds=3)
    assert survival(several, random_state=0, one_seed=True) == survival(several, random_state=0)


def test_one_item_cluster_leaves_errors_undefined() -> None:
    row = survival(study_records(arms=LORA_NF4, clusters=1), random_state=0)[0]
    assert math.isnan(row.d0.se)
    assert "one item cluster" in row.d0.reason
    assert row.verdict == INCONCLUSIVE


def test_teaching_that_made_it_worse_is_no_taught_effect() -> None:
    row = survival(study_records(arms=LORA_NF4, d0=-3.0), random_state=0)[0]
    assert row.verdict == NO_EFFECT
    assert "other way" in row.reason


def test_gate_needs_three_standard_errors_even_if_the_interval_excludes_zero() -> None:
    # many seeds: t is near 2, so an effect of 2.5 SE excludes 0 and must still be refused
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 400)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * math.sqrt(400)  # SE of the mean is 1
    frames = []
    for teach, seed_list in (("untaught", [-1]), ("dpo", range(400))):
        for compress in ("none", "nf4"):
            for s in seed_list:
                shift = 0.0 if teach == "untaught" else 2.5 + noise[s]
                frames += [(teach, compress, s, k, -shift) for k in range(4)]
    frame = pd.DataFrame(frames, columns=["teach", "compress", "seed", "k", "margin_nats"]).assign(
        adapt=lambda f: np.where(f["teach"] == "dpo", "lora", "none"), order=ALIGN, base="b", benchmark="x",
        condition="ambiguous", item_id=lambda f: f["k"].astype(str), cluster=lambda f: f["k"].astype(str),
    )  # fmt: skip
    row = survival(frame, random_state=0, n_resamples=1000)[0]
    assert row.d0.low > 0
    assert row.verdict == NO_EFFECT
    assert "below 3 standard errors" in row.reason


def test_holm_over_many_compressions_withdraws_a_verdict_that_was_clear_alone() -> None:
    weak = {("dpo", "lora", f"c{i:02}", ALIGN): 0.93 for i in range(12)}
    noisy = {"seeds": 3, "sd_seed": 0.3, "clusters": 24, "noise": 1.5, "random_state": 3}
    together = survival(study_records(arms=weak, **noisy), random_state=0)
    frame = study_records(arms=weak, **noisy)
    withdrawn = [r for r in together if r.r_c.low > 0.8 and r.verdict == INCONCLUSIVE]
    assert withdrawn
    for row in withdrawn:
        alone = survival(frame[frame["compress"].isin(["none", row.compress])], random_state=0)[0]
        assert alone.verdict == SURVIVES
        assert alone.r_c == row.r_c, "the printed interval is not adjusted"
        assert "Holm" in row.reason


def test_verdict_without_company_agrees_with_the_interval() -> None:
    for seed in range(6):
        for planted in (0.0, 0.15, 0.5, 0.85, 1.0):
            arms = {("dpo", "lora", "nf4", ALIGN): planted}
            row = survival(study_records(arms=arms, clusters=8, noise=0.8, random_state=seed), random_state=0)[0]
            expected = SURVIVES if row.r_c.low > 0.8 else LOST if row.r_c.high < 0.2 else INCONCLUSIVE
            assert row.verdict == expected, (seed, planted, row.r_c, row.p_adjusted)


def test_parity_counts_overshoot_into_the_reverse_bias_as_bias() -> None:
    # untaught margin about 2; teaching subtracts 4, so the taught models stand at about -2: nothing was gained
    frame = study_records(arms=LORA_NF4, d0=4.0, sd_seed=0.0)
    signed, distance = survival(frame, random_state=0)[0], survival(frame, random_state=0, parity=True)[0]
    assert signed.d0.value == pytest.approx(4, abs=0.5)
    assert abs(distance.d0.value) < 0.6
    assert distance.parity
    assert distance.taught_none.value > 0


def test_several_bases_are_the_top_level_and_widen_the_interval() -> None:
    arms = {("dpo", "lora", "nf4", ALIGN): 1.0}
    frame = study_records(arms=arms, bases=("a", "b", "c"), noise=0.2)
    several = survival(frame, random_state=0)[0]
    single = survival(frame[frame["base"] == "a"], random_state=0)[0]
    assert (several.n_bases, single.n_bases) == (3, 1)
    assert several.n_seeds == 3
    with_spread = frame.assign(
        margin_nats=frame["margin_nats"]
        + np.where((frame["teach"] == "dpo") & (frame["base"] == "c") & (frame["compress"] == "nf4"), 1.5, 0.0)
    )
    spread = survival(with_spread, random_state=0)[0]
    assert spread.r_c.high - spread.r_c.low > 3 * (several.r_c.high - several.r_c.low)
    assert spread.verdict == INCONCLUSIVE


def test_bases_with_items_of_their_own_are_nested_not_refused() -> None:
    frame = study_records(arms=LORA_NF4, bases=("a", "b", "c"))
    frame["item_id"] = frame["base"] + frame["item_id"]
    frame["cluster"] = frame["base"] + frame["cluster"]
    row = survival(frame, random_state=0)[0]
    assert math.isfinite(row.r_c.low)
    assert any("items of their own" in note for note in row.notes)


def test_seed_missing_in_one_cell_is_left_out_and_said_so(records: pd.DataFrame) -> None:
    gone = (records["adapt"] == "full") & (records["compress"] == "nf4") & (records["seed"] == 2)
    row = one(survival(records[~gone], random_state=0), adapt="full", compress="nf4")
    assert row.n_seeds == 2
    assert any("1 of 3 seeds left out" in note for note in row.notes)


def test_no_row_comes_without_guard_rails(rows: list) -> None:
    assert all(len(row.guard_rails) == 5 and len(row.guard_rails_reference) == 5 for row in rows)
    with pytest.raises(TypeError):
        type(rows[0])(**{
            f.name: getattr(rows[0], f.name) for f in dataclasses.fields(rows[0]) if f.name != "guard_rails"
        })  # fmt: skip


def test_rows_become_json_without_nan(rows: list) -> None:
    import json

    json.dumps([row.as_dict() for row in rows], allow_nan=False)


# --- malformed records ----------------------------------------------------------------------------------------


def _broken(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    frame = frame.copy()
    cell = (frame["teach"] == "dpo") & (frame["compress"] == "nf4") & (frame["condition"] == "ambiguous")
    first = frame[cell].index[0]
    if what == "nan":
        frame.loc[first, "margin_nats"] = np.nan
    elif what == "inf":
        frame.loc[first, "margin_nats"] = np.inf
    elif what == "missing item":
        frame = frame.drop(index=first)
    elif what == "twice":
        frame = pd.concat([frame, frame.loc[[first]]])
    elif what == "no reference":
        frame = frame[~((frame["teach"] == "dpo") & (frame["compress"] == "none"))]
    elif what == "no baseline":
        frame = frame[~((frame["teach"] == "untaught") & (frame["compress"] == "nf4"))]
    elif what == "no column":
        frame = frame.drop(columns="cluster")
    elif what == "no condition":
        frame = frame[frame["condition"] != "ambiguous"]
    elif what == "two benchmarks":
        frame.loc[first, "benchmark"] = "other"
    return frame


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("nan", "ambiguous-0-0"), ("inf", "ambiguous-0-0"), ("missing item", "ambiguous-0-0"), ("twice", "twice"),
        ("no reference", "full-precision reference"), ("no baseline", "untaught"), ("no column", "cluster"),
        ("no condition", "ambiguous"), ("two benchmarks", "several benchmarks"),
    ],
)  # fmt: skip
def test_malformed_records_are_refused_with_cell_and_item(what: str, says: str) -> None:
    frame = _broken(study_records(arms=LORA_NF4, clusters=3), what)
    with pytest.raises(InputError) as error:
        survival(frame, random_state=0)
    assert says in str(error.value)
    assert "what to do" in str(error.value)
    if what in ("nan", "inf"):
        assert "dpo/lora/nf4" in str(error.value)


def test_arguments_out_of_range_are_refused(records: pd.DataFrame) -> None:
    for wrong in ({"confidence": 1.5}, {"n_resamples": 3}, {"tolerance": 2.0}):
        with pytest.raises(TeachfairError):
            survival(records, random_state=0, **wrong)


# --- guard-rails ----------------------------------------------------------------------------------------------


def _accuracy_frame(untaught_right: float, taught_right: float, clusters: int = 200) -> pd.DataFrame:
    rows = []
    for teach, share in (("untaught", untaught_right), ("dpo", taught_right)):
        for k in range(clusters):
            right = float(k < share * clusters)
            rows.append({
                "teach": teach, "adapt": "none" if teach == "untaught" else "full", "compress": "none", "order": ALIGN,
                "seed": 0, "base": "b", "condition": "disambiguated", "cluster": str(k), "item_id": str(k),
                "correct": right, "chosen_role": "evidence" if right else "unknown",
            })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [(0.95, 0.95, "ok"), (0.95, 0.98, "ok"), (0.95, 0.90, "violated"), (0.95, 0.94, "unclear")],
)
def test_guard_rail_is_violated_beyond_the_tolerance_and_unclear_if_only_its_interval_is(
    before: float, after: float, status: str
) -> None:
    rails = guard_rails(_accuracy_frame(before, after))[Cell("dpo", "full", "none", ALIGN)]
    accuracy, overuse, definitional = rails[:3]
    assert accuracy.value.value == pytest.approx(after)
    assert accuracy.change.value == pytest.approx(after - before)
    assert accuracy.status == status
    assert overuse.value.value == pytest.approx(1 - after)
    assert overuse.status == status, "overuse rises as accuracy falls here: the direction must be turned"
    assert definitional.status == "undefined"
    assert math.isnan(definitional.value.value)
    assert "definitional" in definitional.value.reason


def test_untaught_cell_is_its_own_baseline_and_says_so() -> None:
    rail = guard_rails(_accuracy_frame(0.9, 0.9))[untaught("none")][0]
    assert rail.status == "undefined"
    assert "baseline" in rail.change.reason


def test_perfect_accuracy_does_not_claim_certainty() -> None:
    value = guard_rails(_accuracy_frame(1, 1, clusters=20))[Cell("dpo", "full", "none", ALIGN)][0].value
    assert value.value == 1
    assert 0.7 < value.low < 0.9


# --- intervals ------------------------------------------------------------------------------------------------


def test_standard_error_equals_the_two_way_anova_one() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (5, 1)) + rng.normal(0, 2, (1, 40)) + rng.normal(0, 1, (5, 40))
    draws = Resampler(0, 40_000)
    x = crossed(values[None], np.ones(40), list("abcde"), [str(k) for k in range(40)], draws)[0]
    residual = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    v = values.mean(1).var(ddof=1) / 5 + values.mean(0).var(ddof=1) / 40 - (residual**2).sum() / (4 * 39) / 200
    assert mean_interval(x, 0.95).se == pytest.approx(math.sqrt(v), rel=0.02)


def test_clusters_count_by_their_items() -> None:
    values = np.array([[[0.0, 10.0]]])
    x = crossed(values, np.array([9.0, 1.0]), None, ["a", "b"], Resampler(0, 500))[0]
    assert x.value == pytest.approx(1.0)


def test_p_value_inverts_the_interval() -> None:
    rng = np.random.default_rng(2)
    d0, d_c = paired(simulate(ONE_BASE[0], 0.5, 3, 1, rng), Resampler(0, 2000))
    ratio = Ratio(d_c, d0)
    interval = ratio.interval(0.95)
    assert ratio.p_value(interval.low, "greater") == pytest.approx(0.025, abs=1e-4)
    assert ratio.p_value(interval.high, "less") == pytest.approx(0.025, abs=1e-4)
    assert ratio.covers(interval.low + 1e-6, 0.95)
    assert not ratio.covers(interval.low - 1e-4, 0.95)


def test_simulation_estimates_what_survival_estimates() -> None:
    """The coverage runs below skip the data frame: this ties them to the public function."""
    values = simulate(ONE_BASE[0], 0.5, 3, 1, np.random.default_rng(3))[:, 0]
    frame = []
    for q, (teach, compress) in enumerate([("untaught", "none"), ("dpo", "none"), ("untaught", "nf4"), ("dpo", "nf4")]):
        for s in [0] if teach == "untaught" else range(3):
            for k in range(CLUSTERS):
                for i in range(PER_CLUSTER):
                    frame.append((teach, compress, -1 if teach == "untaught" else s, f"{k}-{i}", k, values[q, s, k]))
    records = pd.DataFrame(frame, columns=["teach", "compress", "seed", "item_id", "cluster", "margin_nats"]).assign(
        adapt=lambda f: np.where(f["teach"] == "dpo", "lora", "none"), order=ALIGN, base="b", condition="ambiguous"
    )
    row = survival(records, random_state=0)[0]
    clusters = [str(k) for k in sorted(range(CLUSTERS), key=str)]
    order = [int(c) for c in clusters]
    draws = Resampler(0, 2000)
    u, t, uc, tc = crossed(values[:, :, order], np.full(CLUSTERS, 4.0), ["0", "1", "2"], clusters, draws)
    expected = Ratio(combine((1, uc), (-1, tc)), combine((1, u), (-1, t))).interval(0.95)
    assert row.r_c.value == pytest.approx(expected.value)
    assert row.r_c.low == pytest.approx(expected.low, abs=1e-6)
    assert row.r_c.high == pytest.approx(expected.high, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("retained", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("world", "bases", "seeds"),
    [(w, 1, s) for w in ONE_BASE for s in (3, 5)] + [(w, b, 3) for w in SEVERAL_BASES for b in (3, 5)],
    ids=lambda x: getattr(x, "name", str(x)).replace(" ", "-"),
)
def test_interval_of_retention_covers_the_planted_value_in_93_to_97_percent(
    world: object, bases: int, seeds: int, retained: float
) -> None:
    n = 2000
    ours, _ = coverage(world, retained, seeds, bases, n, random_state=round(7 + 10 * retained))
    error = math.sqrt(0.05 * 0.95 / n)  # of the simulation itself
    # Known corner: nothing but residual noise, no seed or cluster effect at all. There it is conservative.
    ceiling = 0.99 if world.name == "residual dominates" else 0.97
    assert 0.93 - 2 * error <= ours <= ceiling + 2 * error


# --- counts ---------------------------------------------------------------------------------------------------


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 30):
        p = rng.uniform(0, 0.2, n).round(2)  # rounding makes ties
        assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1].tolist())
    assert holm([]) == []
    with pytest.raises(InputError):
        holm([0.1, float("nan")])


def test_wilson_equals_statsmodels_and_is_undefined_without_trials() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for k, n in ((0, 10), (3, 10), (10, 10), (500, 1508)):
        found = wilson(k, n)
        assert (found.low, found.high) == pytest.approx(proportion.proportion_confint(k, n, method="wilson"))
    nothing = wilson(0, 0)
    assert math.isnan(nothing.value)
    assert nothing.reason


def test_exact_mcnemar_equals_statsmodels() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for b, c in ((5, 15), (0, 4), (9, 9), (30, 12)):
        assert mcnemar_exact(b, c) == pytest.approx(tables.mcnemar([[0, b], [c, 0]], exact=True).pvalue)
    assert mcnemar_exact(0, 0) == 1.0


@pytest.mark.parametrize(("rate", "factor"), [(0.01, 0.98), (0.03, 0.94), (0.056, 0.888), (0.10, 0.80), (0.21, 0.58)])
def test_simulated_symmetric_flips_attenuate_a_binary_rate_by_the_known_factor(rate: float, factor: float) -> None:
    rng = np.random.default_rng(11)
    n = 400_000
    untaught_answers, taught_answers = rng.random(n) < 0.8, rng.random(n) < 0.35
    flipped = [a ^ (rng.random(n) < rate) for a in (untaught_answers, taught_answers)]
    measured = (flipped[0].mean() - flipped[1].mean()) / (untaught_answers.mean() - taught_answers.mean())
    assert measured == pytest.approx(factor, abs=0.01)
    assert flip_factor(rate) == pytest.approx(factor)
    assert correct_for_flips(measured, rate)[0] == pytest.approx(1, abs=0.02)


def test_flips_of_half_the_answers_leave_nothing_to_correct() -> None:
    value, reason = correct_for_flips(0.1, 0.5)
    assert math.isnan(value)
    assert reason


def test_transitions_tell_lost_from_new_bias() -> None:
    def cell(roles: str) -> pd.DataFrame:
        names = {"s": "stereotype", "u": "unknown"}
        return pd.DataFrame({"item_id": range(len(roles)), "chosen_role": [names[r] for r in roles]})

    counts = transitions(cell("sssuu"), cell("uusuu"), cell("susuu"))
    assert counts == {
        "n": 5, "taught_gain": 2, "kept_fair": 3, "lost_fairness": 1, "new_bias": 0, "gained_fairness": 0,
        "p_compressed": 1.0, "p_taught": 0.5,
    }  # fmt: skip
    assert transitions(cell("u"), cell("u"), cell("s"))["new_bias"] == 1
    assert transitions(cell("s"), cell("s"), cell("u"))["gained_fairness"] == 1
    with pytest.raises(InputError):
        transitions(cell("su"), cell("s"), cell("su"))


# --- planning -------------------------------------------------------------------------------------------------


def test_effect_of_the_detectable_size_passes_the_gate_in_about_the_stated_power() -> None:
    sd = {"sd_cluster": 0.9, "sd_seed": 0.3, "sd_residual": 0.4}
    size = detectable_effect(n_clusters=30, n_seeds=5, power=0.8, **sd)
    rng = np.random.default_rng(0)
    passed = 0
    for i in range(400):
        values = size.value + rng.normal(0, 0.3, (5, 1)) + rng.normal(0, 0.9, (1, 30)) + rng.normal(0, 0.4, (5, 30))
        x = crossed(values[None], np.ones(30), list("abcde"), [str(k) for k in range(30)], Resampler(i % 9, 500))[0]
        interval = mean_interval(x, 0.95)
        passed += interval.low > 0 and x.value >= 3 * interval.se
    assert 0.7 < passed / 400 < 0.9


def test_detectable_effect_shrinks_with_seeds_and_is_undefined_for_one() -> None:
    sd = {"sd_cluster": 1.0, "sd_seed": 0.3}
    few, many = (detectable_effect(n_clusters=40, n_seeds=s, **sd).value for s in (3, 8))
    assert few > many > 0
    assert math.isnan(detectable_effect(n_clusters=40, n_seeds=1, **sd).value)
    with pytest.raises(InputError):
        detectable_effect(n_clusters=0, n_seeds=3, **sd)


def test_variance_ledger_finds_the_planted_components() -> None:
    rng = np.random.default_rng(4)
    effect = 3 + rng.normal(0, 0.5, (40, 1)) + rng.normal(0, 1.0, (1, 60)) + rng.normal(0, 0.3, (40, 60))
    rows = [("untaught", "none", -1, k, 0.0) for k in range(60)]
    rows += [("dpo", "lora", s, k, -effect[s, k]) for s in range(40) for k in range(60)]
    frame = pd.DataFrame(rows, columns=["teach", "adapt", "seed", "cluster", "margin_nats"]).assign(
        compress="none", order=ALIGN, base="b", condition="ambiguous", item_id=lambda f: f["cluster"]
    )
    entry = variance_ledger(frame)[0]
    assert entry["seed"] == pytest.approx(0.25, rel=0.5)
    assert entry["cluster"] == pytest.approx(1.0, rel=0.4)
    assert entry["residual"] == pytest.approx(0.09, rel=0.1)
    assert entry["share_seed"] + entry["share_cluster"] + entry["share_residual"] == pytest.approx(1)


# --- habits ---------------------------------------------------------------------------------------------------


def test_importing_the_statistics_loads_nothing_heavy() -> None:
    code = (
        "import sys, teachfair.evaluation.statistics, teachfair.evaluation.report, teachfair.evaluation.figures;"
        "print([m for m in ('torch','pandas','scipy','matplotlib','jinja2','datasets','sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_two_thousand_resamples_of_sixty_cells_take_seconds() -> None:
    import time

    arms = {("dpo", a, f"c{i}", ALIGN): 0.9 for a in ("full", "lora") for i in range(14)}
    frame = study_records(arms=arms, clusters=100, per_cluster=1, seeds=5)
    frame = frame[frame["condition"] == "ambiguous"]
    survival(frame[frame["compress"].isin(["none", "c0"])], random_state=0)  # imports
    start = time.perf_counter()
    assert len(survival(frame, random_state=0)) == 28
    assert time.perf_counter() - start < 5


def test_guard_rails_of_other_benchmarks_stand_beside_the_outcome_where_it_has_none(tmp_path: Path) -> None:
    whole = study_records(seeds=2, clusters=6, arms={("dpo", "full", "nf4", "align-then-compress"): 1.0})
    guarded = whole["condition"].isin(["definitional", "neutral"])
    outcome, known = whole[~guarded].assign(benchmark="pairs"), whole[guarded].assign(benchmark="words")
    wrong = known.assign(benchmark="more words", correct=0.0)  # the same item ids and cluster names: other items
    other = whole[whole["condition"] == "disambiguated"].assign(benchmark="more words", correct=0.0)  # pairs has its own
    not_asked = known.assign(benchmark="another bias", correct=0.0)
    frame = pd.concat([outcome, known, wrong, other, not_asked], ignore_index=True)
    which = {"random_state": 0, "n_resamples": 200, "benchmark": "pairs"}
    guards = ["words", "more words"]
    rows = survival(frame, guards=guards, **which)
    rails = {rail.name: rail for rail in rows[0].guard_rails}
    rate = known[(known["teach"] == "dpo") & (known["compress"] == "nf4")].groupby("condition")["correct"].mean()
    # half of the items are those that are all wrong
    assert rails["definitional accuracy"].value.value == pytest.approx(rate["definitional"] / 2)
    assert rails["disambiguated accuracy"].value.value > 0.9
    without = {rail.name: rail for rail in survival(frame, **which)[0].guard_rails}
    assert without["definitional accuracy"].status == "undefined"
    assert without["disambiguated accuracy"].as_dict() == rails["disambiguated accuracy"].as_dict()
    paths = []  # a file for each cell and benchmark, as a study with templates writes them
    for number, (_, cell) in enumerate(frame.groupby([*KEYS, "benchmark"], sort=False)):
        paths.append(tmp_path / f"{number}.parquet")
        cell.to_parquet(paths[-1])
    from_files = survival_from_files(paths, guards=guards, **which)
    assert [row.as_dict() for row in from_files] == [row.as_dict() for row in rows]
    # the outcome is read on the axis that was taught; a file without axes is read whole
    for path in paths:
        cell = pd.read_parquet(path)
        mine = cell["benchmark"].iloc[0] == "pairs"
        (cell.assign(taught_axis="gender") if mine else cell.drop(columns="axis")).to_parquet(path)
    taught, axis = pc.field("taught_axis"), pc.field("axis")
    from_files = survival_from_files(paths, guards=guards, only=taught.is_null() | (axis == taught), **which)
    assert [row.as_dict() for row in from_files] == [row.as_dict() for row in rows]
