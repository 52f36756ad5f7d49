"""Calibration: fitted with and without a threshold, and judged where it was not fitted."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from teachfair.reward_models.calibrating import calibration_report, cross_fitted_report, fit_calibration, probability

# few different values, so that ties happen
PROBABILITIES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5001, 0.9, 1.0])
STATED = st.lists(st.tuples(PROBABILITIES, st.booleans()), min_size=1, max_size=80)


def planted(n=400, threshold=0.0, temperature=1.0, seed=0):
    """Rewards of pairs whose fair sides are likelier to have the higher one, and a cluster per two pairs."""
    rng = np.random.default_rng(seed)
    rewards = rng.normal(threshold, 3, 8 * n)
    fair = rng.random(8 * n) < expit((rewards - threshold) / temperature)
    return rewards[fair][:n], rewards[~fair][:n], [str(place // 2) for place in range(n)]


def test_the_report_is_scikit_learns():
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss, log_loss

    rng = np.random.default_rng(3)
    p = expit(rng.normal(0, 2, 700))
    fair = rng.random(700) < p**2
    found = calibration_report(p, fair, [str(place) for place in range(700)], bins=10)
    observed, stated = calibration_curve(fair, p, n_bins=10, strategy="quantile")
    np.testing.assert_allclose([row["observed"] for row in found["reliability"]], observed)
    np.testing.assert_allclose([row["mean_probability"] for row in found["reliability"]], stated)
    assert [row["n"] for row in found["reliability"]] == [70] * 10
    assert found["brier"] == pytest.approx(brier_score_loss(fair, p))
    assert found["log_loss"] == pytest.approx(log_loss(fair, p))
    assert found["ece"] == pytest.approx(np.mean(np.abs(observed - stated)))
    assert found["ece_low"] > found["ece_of_calibrated"] / 2 > 0
    assert found["reason"] is None


@settings(max_examples=60, deadline=None)
@given(STATED, st.randoms(use_true_random=False))
def test_neither_order_nor_ties_move_the_report_and_every_text_is_in_one_bin(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, second = (
        calibration_report(np.array([p for p, _ in some]), np.array([y for _, y in some]), ["a"] * len(some), bins=5)
        for some in (rows, shuffled)
    )
    assert {**first, "reliability": 0} == pytest.approx({**second, "reliability": 0}, nan_ok=True)
    assert sum(row["n"] for row in first["reliability"]) in (0, len(rows))
    for row, other in zip(first["reliability"], second["reliability"], strict=True):
        assert row == pytest.approx(other)
        assert row["low"] <= row["mean_probability"] + 1e-12 <= row["high"] + 2e-12
        assert row["observed_low"] <= row["observed"] <= row["observed_high"]
    assert math.isnan(first["ece"]) or 0 <= first["ece"] <= 1
    assert math.isnan(first["ece_low"])
    assert first["reason"]


def test_a_calibrated_models_interval_reaches_zero_and_an_overconfident_ones_does_not():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 1000)
    fair = rng.random(1000) < expit(logits)
    clusters = [str(place // 2) for place in range(1000)]
    calibrated, sure = (calibration_report(expit(logits * by), fair, clusters) for by in (1, 4))
    assert calibrated["ece_low"] == 0 < calibrated["ece"] <= calibrated["ece_high"]
    assert 0.05 < sure["ece_low"] <= sure["ece"] <= sure["ece_high"] < 0.25
    assert calibrated["rms_debiased"] < sure["rms_debiased"]
    assert calibrated == calibration_report(expit(logits), fair, clusters), "the same seed, the same interval"
    twins = [str(place // 50) for place in range(1000)]
    assert calibration_report(expit(logits * 4), fair, twins)["ece_low"] != sure["ece_low"], "clusters are resampled"


def test_too_few_texts_or_clusters_are_nan_with_the_reason():
    few = calibration_report(np.full(9, 0.5), np.arange(9) % 2, [str(n) for n in range(9)])
    assert math.isnan(few["ece"])
    assert "9 texts" in few["reason"]
    assert few["brier"] == 0.25
    alike = calibration_report(np.full(40, 0.5), np.arange(40) % 2, ["one"] * 40)
    assert alike["ece"] == 0
    assert math.isnan(alike["ece_low"])
    assert "1 clusters" in alike["reason"]
    nothing = calibration_report(np.zeros(0), np.zeros(0), [])
    assert math.isnan(nothing["brier"])
    with pytest.raises(ValueError, match="a probability is not in"):
        calibration_report(np.array([1.2]), np.array([1]), ["a"])
    with pytest.raises(ValueError, match="2 probabilities, 1 labels"):
        calibration_report(np.zeros(2), np.zeros(1), ["a", "b"])


def test_without_a_threshold_the_temperature_is_fitted_and_the_price_is_said():
    chosen, rejected, _ = planted(threshold=1.0, temperature=1.5)
    free = fit_calibration(chosen, rejected)
    found = fit_calibration(chosen, rejected, threshold_at_zero=True)
    assert found["threshold"] == 0.0
    assert found["free_threshold"] == free["threshold"] == pytest.approx(1.0, abs=0.3)
    assert found["free_brier"] == free["brier"] < found["brier"]
    chosen, rejected, _ = planted(temperature=1.5)
    found = fit_calibration(chosen, rejected, threshold_at_zero=True)
    assert found["temperature"] == pytest.approx(1.5, rel=0.2)
    assert found["brier"] - found["free_brier"] < 0.002
    assert probability(np.zeros(1), found)[0] == 0.5
    assert fit_calibration(rejected, chosen, threshold_at_zero=True) is None


@pytest.mark.parametrize("at_zero", [False, True])
def test_calibration_is_judged_on_clusters_it_was_not_fitted_on(at_zero):
    chosen, rejected, clusters = planted(n=300, temperature=0.3)
    found = cross_fitted_report(chosen, rejected, clusters, threshold_at_zero=at_zero)
    assert (found["folds"], found["folds_without_fit"]) == (5, 0)
    assert found["after"]["n"] == found["before"]["n"] == 600
    assert found["after"]["n_clusters"] == 150
    assert found["after"]["brier"] < found["before"]["brier"]
    assert found["after"]["ece"] < found["before"]["ece"]
    # a wrong reward in one cluster alone cannot have taught its own calibration
    fitted = fit_calibration(chosen, rejected, threshold_at_zero=at_zero)
    assert found["after"]["brier"] >= fitted["brier"] - 1e-4


def test_one_cluster_or_rewards_that_know_nothing_are_said_to_be_so():
    chosen, rejected, clusters = planted(n=60)
    one = cross_fitted_report(chosen, rejected, ["same"] * 60)
    assert one["folds"] == 0
    assert math.isnan(one["after"]["ece"])
    assert "1 clusters" in one["after"]["reason"]
    backwards = cross_fitted_report(rejected, chosen, clusters)
    assert backwards["folds_without_fit"] == 5
    assert backwards["after"]["brier"] == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 1200])
@pytest.mark.parametrize("overconfident", [1.0, 1.4, 2.5])
def test_the_interval_of_the_ece_covers_the_truth_in_most_runs(n, overconfident):
    """The truth is known: logits are normal, labels are drawn from them, and stated is the logit times a factor."""
    logits = np.random.default_rng(1).normal(0, 2, 400_000)
    truth = np.mean(np.abs(expit(logits * overconfident) - expit(logits)))
    covered = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 2, n)
        fair = rng.random(n) < expit(logits)
        found = calibration_report(expit(logits * overconfident), fair, [str(place // 2) for place in range(n)])
        covered.append(found["ece_low"] <= truth <= found["ece_high"])
    print(f"n {n}, logits times {overconfident}: true ECE {truth:.3f}, covered in {np.mean(covered):.2f} of 150 runs")
    assert np.mean(covered) >= 0.8
