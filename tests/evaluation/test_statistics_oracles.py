"""The newer statistics against scipy and statsmodels, and what must not change them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from coverage_settings import SETTINGS, Setting, coverage, equal_utility, others
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import ALIGN, study_records

from teachfair.errors import InputError
from teachfair.evaluation.statistics import (
    Interval,
    benjamini_hochberg,
    cell_means_from_files,
    equivalence,
    guard_rails,
    intersections,
    minimum_detectable,
    power_table,
    ratio_equivalence,
    survival,
    survival_from_files,
    transitions,
    variance_ledger,
    worst_group,
)
from teachfair.evaluation.statistics.cells import cell_means
from teachfair.evaluation.statistics.interval import Ratio, Resampler, crossed, mean_interval
from teachfair.evaluation.statistics.jackknife import cluster_groups, jackknife

NF4 = {("dpo", "lora", "nf4", ALIGN): 0.9, ("placebo", "lora", "nf4", ALIGN): 1.0}


# --- oracles --------------------------------------------------------------------------------------------------


def test_benjamini_hochberg_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 30):
        p = rng.uniform(0, 0.2, n).round(2)
        assert benjamini_hochberg(p) == pytest.approx(multitest.multipletests(p, method="fdr_bh")[1].tolist())
    assert benjamini_hochberg([]) == []
    with pytest.raises(InputError):
        benjamini_hochberg([0.1, float("nan")])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.5, 0.5), st.floats(0.05, 1.0))
def test_tost_equals_statsmodels(seed: int, shift: float, bound: float) -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    rng = np.random.default_rng(seed)
    first, second = rng.normal(shift, 1, 40), rng.normal(0, 1, 40)
    p, low, high = weightstats.ttost_paired(first, second, -bound, bound)
    gaps = first - second
    found = equivalence(Interval(gaps.mean(), se=gaps.std(ddof=1) / math.sqrt(40)), -bound, bound, df=39)
    assert (found.p, found.p_low, found.p_high) == pytest.approx((p, low[1], high[1]), abs=1e-10)


def test_the_verdict_survives_is_the_lower_of_two_one_sided_tests() -> None:
    frame = study_records(arms={("dpo", "lora", "nf4", ALIGN): 0.95}, clusters=40)
    row = survival(frame, random_state=0)[0]
    means = cell_means(frame, outcome="margin_nats", condition="ambiguous")
    assert row.verdict == "survives"
    assert row.p_adjusted <= 0.05
    assert len(means.clusters["world-0"]) == 40
    rng = np.random.default_rng(0)
    values = np.stack([0.95 + rng.normal(0, 0.1, (5, 40)), 1 + rng.normal(0, 0.1, (5, 40))])
    top, bottom = crossed(values, np.ones(40), list("abcde"), [str(i) for i in range(40)], Resampler(0, 1000))
    ratio = Ratio(top, bottom)
    found, interval = ratio_equivalence(ratio), ratio.interval(0.95)
    assert found.equivalent == (interval.low > 0.80 and interval.high < 1.25)
    assert found.equivalent
    assert found.p_low == ratio.p_value(0.80, "greater")
    assert not ratio_equivalence(ratio, 0.94, 0.96).equivalent


def test_equivalence_is_never_shown_by_an_undefined_error() -> None:
    found = equivalence(Interval(0.0, reason="one item cluster"), -1, 1, df=3)
    assert not found.equivalent
    assert found.reason == "one item cluster"
    with pytest.raises(InputError):
        equivalence(Interval(0.0, se=1.0), 1, -1, df=3)


def test_minimum_detectable_effect_equals_statsmodels() -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    for n in (5, 20, 100, 400):
        expected = power.TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
        assert minimum_detectable(1 / math.sqrt(n), n - 1) == pytest.approx(float(np.abs(expected)), rel=1e-4)
    assert math.isnan(minimum_detectable(float("nan"), 9))


def test_jackknife_of_a_mean_is_the_standard_error_of_cluster_means() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"cluster": [str(i) for i in range(50)], "x": rng.normal(0, 1, 50)})
    found = jackknife(frame, lambda rows: float(rows["x"].mean())).interval()
    import scipy.stats

    expected = scipy.stats.ttest_1samp(frame["x"], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    groups = cluster_groups([str(i) for i in range(100)])
    assert len(set(groups.values())) == 30
    assert groups == cluster_groups([str(i) for i in range(99, -1, -1)])
    assert math.isnan(jackknife(frame.iloc[:1], lambda rows: float(rows["x"].mean())).interval().low)


def test_mixed_model_finds_the_same_components_as_the_power_table() -> None:
    mixed = pytest.importorskip("statsmodels.formula.api")
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 7, 60)
    cluster = np.repeat(np.arange(60), sizes)
    frame = pd.DataFrame({"cluster": cluster.astype(str), "margin_nats": 1 + rng.normal(0, 1, 60)[cluster]
                          + rng.normal(0, 0.5, len(cluster))})  # fmt: skip
    frame = frame.assign(benchmark="b", condition="ambiguous", item_id=[str(i) for i in range(len(frame))])
    fit = mixed.mixedlm("margin_nats ~ 1", frame, groups=frame["cluster"]).fit()
    whole = power_table(frame, sizes=(None,))[0]
    assert whole["sd_cluster"] == pytest.approx(math.sqrt(float(fit.cov_re.iloc[0, 0])), rel=0.1)
    assert whole["sd_item"] == pytest.approx(math.sqrt(fit.scale), rel=0.1)
    assert whole["se"] == pytest.approx(float(fit.bse["Intercept"]), rel=0.1)


# --- what must not matter, and what must ----------------------------------------------------------------------


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000), st.floats(-20, 20))
def test_worst_group_ignores_row_order_and_moves_with_a_constant_and_turns_with_the_sign(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"groups": rng.choice(["a", "b", "a|c"], 240), "cluster": [str(i // 2) for i in range(240)],
                          "x": rng.normal(0, 1, 240)})  # fmt: skip
    found = worst_group(frame, outcome="x", n_resamples=300)
    shuffled = worst_group(frame.sample(frac=1, random_state=seed), outcome="x", n_resamples=300)
    assert shuffled.name == found.name
    assert shuffled.value.low == pytest.approx(found.value.low)
    moved = worst_group(frame.assign(x=frame["x"] + shift), outcome="x", n_resamples=300)
    assert moved.value.high == pytest.approx(found.value.high + shift, abs=1e-9)
    turned = worst_group(frame.assign(x=-frame["x"]), outcome="x", higher_is_worse=False, n_resamples=300)
    assert turned.name == found.name
    assert (turned.value.low, turned.value.high) == pytest.approx((-found.value.high, -found.value.low))
    wide = worst_group(frame, outcome="x", confidence=0.99, n_resamples=300)
    assert wide.value.low < found.value.low
    assert wide.value.high > found.value.high


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 12))
def test_mean_interval_turns_with_the_sign_and_widens_with_confidence(seed: int, seeds: int, clusters: int) -> None:
    values = np.random.default_rng(seed).normal(1, 1, (1, seeds, clusters))
    names = [str(i) for i in range(seeds)], [str(i) for i in range(clusters)]
    (x,), (turned,) = (crossed(v, np.ones(clusters), *names, Resampler(0, 400)) for v in (values, -values))
    narrow, wide, other = mean_interval(x, 0.8), mean_interval(x, 0.95), mean_interval(turned, 0.95)
    assert wide.low <= narrow.low <= narrow.high <= wide.high
    assert (other.low, other.high) == pytest.approx((-wide.high, -wide.low))


def test_the_worst_of_equal_groups_is_not_called_bad_by_its_own_interval_alone() -> None:
    rng = np.random.default_rng(8)
    frame = pd.DataFrame({"groups": np.repeat([f"g{i}" for i in range(8)], 20), "cluster": [str(i) for i in range(160)],
                          "x": rng.normal(0, 1, 160)})  # fmt: skip
    found = worst_group(frame, outcome="x")
    worst = found.groups[0].mean
    assert found.value.value == worst.value > 0
    assert worst.high - worst.low > 2 * 2.1 * worst.se, "wider than the group's own interval"
    assert found.value.low <= 0 <= found.value.high


def test_small_groups_and_crossings_are_not_estimable_never_zero() -> None:
    rows = [("Race_x_gender", f"{r}|{g}", f"{r}{g}{i}") for r in ("black", "white") for g in ("man", "woman")
            for i in range(3 if (r, g) == ("white", "man") else 20)]  # fmt: skip
    rows += [("gender", "man|woman", f"s{i}") for i in range(20)] + [("race", "black|white", f"r{i}") for i in range(20)]
    frame = pd.DataFrame(rows, columns=["axis", "groups", "cluster"]).assign(x=1.0)
    frame["x"] += np.random.default_rng(0).normal(0, 0.1, len(frame))
    cells = {g.name: g for g in intersections(frame, outcome="x")["gender × race"]}
    assert set(cells) == {"man × black", "man × white", "woman × black", "woman × white"}
    small = cells["man × white"]
    assert math.isnan(small.mean.value)
    assert "not estimable: 3 of" in small.mean.reason
    assert cells["woman × black"].mean.low < 1 < cells["woman × black"].mean.high
    bare = frame[frame["groups"] != "white|man"]
    none = {g.name: g for g in intersections(bare, outcome="x")["gender × race"]}["man × white"]
    assert none.n_items == 0
    assert "no items" in none.mean.reason
    nothing = worst_group(frame.iloc[:2], outcome="x")
    assert math.isnan(nothing.value.value)
    assert "not estimable" in nothing.value.reason


def test_transitions_test_clusters_so_that_twins_do_not_count_twice() -> None:
    def cell(roles: str) -> pd.DataFrame:
        role = ["stereotype" if r == "s" else "unknown" for r in roles]
        twins = [i // 6 for i in range(len(roles))]
        return pd.DataFrame({"item_id": range(len(roles)), "cluster": twins, "chosen_role": role})

    found = transitions(cell("s" * 12), cell("u" * 12), cell("s" * 12))
    assert found["lost_fairness"] == 12
    assert found["p_compressed"] == pytest.approx(2 * 0.5**12)
    assert (found["clusters"], found["clusters_worse"], found["p_clusters"]) == (2, 2, pytest.approx(0.5))


# --- problem items --------------------------------------------------------------------------------------------


def test_items_a_tokenizer_could_not_take_are_left_out_of_every_cell_and_counted() -> None:
    frame = study_records(arms=NF4, clusters=8).assign(problem="")
    bad = (frame["compress"] == "nf4") & (frame["teach"] == "dpo") & (frame["item_id"] == "ambiguous-3-1")
    hurt = frame.copy()
    hurt.loc[bad, ["problem", "margin_nats"]] = ["too long", math.nan]
    row = survival(hurt, random_state=0)[0]
    assert row.n_items == 31
    assert any("1 too long" in note for note in row.notes)
    without = survival(frame[frame["item_id"] != "ambiguous-3-1"], random_state=0)[0]
    assert row.r_c == without.r_c
    hurt.loc[bad, "problem"] = "not finite"
    with pytest.raises(InputError, match="not finite"):
        survival(hurt, random_state=0)
    guard = (frame["teach"] == "dpo") & (frame["item_id"] == "definitional-3-1") & (frame["seed"] == 0)
    hurt = frame.copy()
    hurt.loc[guard, ["problem", "correct"]] = ["no tokens", math.nan]
    rails = {rail.name: rail for rail in next(iter(guard_rails(hurt).values()))}
    full = {rail.name: rail for rail in next(iter(guard_rails(frame).values()))}
    assert rails["definitional accuracy"].n_records == full["definitional accuracy"].n_records * 15 // 16


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["one cell a file", "all in one", "with a problem"])
def test_survival_from_files_equals_survival_of_the_frame(how: str, tmp_path: Path) -> None:
    frame = study_records(arms=NF4, clusters=8).assign(problem="")
    if how == "with a problem":
        frame.loc[5, ["problem", "margin_nats"]] = ["too long", math.nan]
    keys = ["base", "teach", "adapt", "compress", "order", "seed"]
    parts = [frame] if how == "all in one" else [part.sample(frac=1, random_state=i)
                                                 for i, (_, part) in enumerate(frame.groupby(keys))]  # fmt: skip
    paths = []
    for i, part in enumerate(parts):
        paths.append(tmp_path / f"{i}.parquet")
        part.to_parquet(paths[-1])
    for a, b in zip(survival(frame, random_state=0), survival_from_files(paths, random_state=0), strict=True):
        assert (a.arm, a.verdict, a.notes, a.n_items, a.own_outcome) == (b.arm, b.verdict, b.notes, b.n_items, b.own_outcome)
        for name in ("d0", "d_c", "r_c", "r_star", "untaught_c"):
            one, other = getattr(a, name), getattr(b, name)
            for end in ("value", "low", "high"):
                assert getattr(one, end) == pytest.approx(getattr(other, end), rel=1e-9, nan_ok=True)
        for mine, theirs in zip(a.guard_rails, b.guard_rails, strict=True):
            assert (mine.status, mine.n_records) == (theirs.status, theirs.n_records)
            assert mine.change.low == pytest.approx(theirs.change.low, nan_ok=True, abs=1e-12)
    means = cell_means_from_files(paths, outcome="margin_nats", condition="ambiguous")
    reference = cell_means(frame, outcome="margin_nats", condition="ambiguous")
    assert means.left_out == reference.left_out
    for cell, table in reference.means.items():
        for which, values in table.items():
            assert means.means[cell][which] == pytest.approx(values)


def test_a_cell_that_stands_in_two_files_or_holds_other_items_is_refused(tmp_path: Path) -> None:
    frame = study_records(arms=NF4, clusters=3)
    taught = frame[(frame["teach"] == "dpo") & (frame["seed"] == 0)]
    frame.to_parquet(tmp_path / "a.parquet")
    taught.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="several files"):
        survival_from_files([tmp_path / "a.parquet", tmp_path / "b.parquet"], random_state=0)
    other = taught.assign(seed=7, item_id=taught["item_id"] + "x")
    other.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="different items"):
        survival_from_files([tmp_path / "a.parquet", tmp_path / "b.parquet"], random_state=0)
    frame.drop(columns="cluster").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"cluster.*\n.*b\.parquet"):
        survival_from_files([tmp_path / "b.parquet"], random_state=0)


# --- planning -------------------------------------------------------------------------------------------------


def test_power_table_says_what_is_too_small() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"benchmark": "pairs", "condition": "parity", "item_id": [str(i) for i in range(1500)],
                          "cluster": [str(i) for i in range(1500)], "margin_nats": rng.normal(1.0, 5.0, 1500)})  # fmt: skip
    table = {row["size"]: row for row in power_table(frame)}
    assert [row["verdict"] for row in table.values()] == [
        "too small to see the bias vanish", "too small to see it halved", "large enough to see it halved",
    ]  # fmt: skip
    assert table[100]["mde"] == pytest.approx(2.8 * 5 / 10, rel=0.05)
    paired = {row["size"]: row for row in power_table(frame, frame.assign(margin_nats=frame["margin_nats"] + 0.1))}
    assert paired["all"]["mde"] < 1e-9, "the pairing takes out what items differ by"
    alone = power_table(frame.iloc[:1])[0]
    assert math.isnan(alone["mde"])
    assert "one item cluster" in alone["verdict"]


def test_ledger_names_format_and_calibration_and_says_what_one_value_cannot_tell() -> None:
    rng = np.random.default_rng(2)
    rows: list[dict[str, Any]] = []
    of_format = {"a": -0.5, "b": 0.0, "c": 0.5}
    for teach, seeds in (("untaught", [-1]), ("dpo", [0, 1, 2])):
        for seed in seeds:
            for k in range(30):
                for name, shift in of_format.items():
                    effect = 0.0 if teach == "untaught" else 2 + shift + rng.normal(0, 0.2)
                    rows.append({
                        "teach": teach, "adapt": "none" if teach == "untaught" else "lora", "seed": seed, "cluster": str(k),
                        "item_id": f"{k}{name}", "format": name, "margin_nats": -effect,
                    })  # fmt: skip
    frame = pd.DataFrame(rows).assign(compress="none", order=ALIGN, base="b", condition="ambiguous")
    entry = variance_ledger(frame)[0]
    assert entry["format"] == pytest.approx(0.25, rel=0.2)
    assert math.isnan(entry["calibration"])
    assert entry["not_estimable"] == {"calibration": "not estimable: one calibration seed"}
    twice = pd.concat([frame.assign(calibration_seed=c, margin_nats=frame["margin_nats"] + (frame["teach"] == "dpo") * c)
                       for c in (0, 1)])  # fmt: skip
    assert variance_ledger(twice)[0]["calibration"] == pytest.approx(0.5, rel=0.1)


# --- coverage -------------------------------------------------------------------------------------------------


def test_a_few_simulated_studies_are_covered() -> None:
    assert 0.88 <= coverage(Setting(20, 3, 1.0), 300) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_95_percent_intervals_cover_93_to_97_percent(setting: Setting) -> None:
    """2,000 studies: a coverage of .95 is measured with a standard error of .0049, so it fails once in 40,000 runs."""
    assert 0.93 <= coverage(setting, 2000) <= 0.97


@pytest.mark.slow
def test_guard_rails_the_worst_group_and_headlines_are_covered_too() -> None:
    for name, share in others(1000).items():
        assert 0.93 <= share <= 0.98, name


@pytest.mark.slow
def test_the_interval_at_equal_utility_covers_the_true_difference() -> None:
    share = equal_utility(200)
    assert 0.91 <= share <= 0.985, share  # two standard errors of a share of .95 in 200 studies are .03
