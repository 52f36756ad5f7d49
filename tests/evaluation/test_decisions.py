from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_at_a_time import Plain, largest_difference

from teachfair.errors import ConfigError, DataError, InputError
from teachfair.evaluation.benchmarks import decisions
from teachfair.evaluation.mixed_effects import random_intercept
from teachfair.models.checkpoint import load_policy
from teachfair.models.likelihood import OptionScore
from teachfair.models.scorer import PolicyScorer

AXES = {"gender": {"male": 0.0, "female": -0.5, "non-binary": -0.8}, "race": {"white": 0.0, "black": 0.7, "asian": 0.2}}


def made_up(rng: np.random.Generator, n_clusters: int, sizes: tuple[int, int], sd: float) -> tuple[Any, Any, Any]:
    groups = np.repeat(np.arange(n_clusters), rng.integers(*sizes, n_clusters))
    design = np.column_stack([np.ones(len(groups)), rng.integers(0, 2, len(groups)), rng.normal(size=len(groups))])
    y = design @ [1.0, -0.5, 0.2] + rng.normal(0, sd, n_clusters)[groups] + rng.normal(0, 0.7, len(groups))
    return y, design, groups


@pytest.mark.parametrize(("clusters", "sizes", "sd"), [(12, (30, 31), 1.5), (40, (2, 9), 0.8), (8, (3, 40), 0.3)])
def test_the_random_intercept_model_equals_statsmodels(clusters: int, sizes: tuple[int, int], sd: float):
    mixed = pytest.importorskip("statsmodels.regression.mixed_linear_model", reason="an extra: pip install teachfair[test]")
    y, design, groups = made_up(np.random.default_rng(clusters), clusters, sizes, sd)
    theirs = mixed.MixedLM(y, design, groups).fit(reml=True)
    ours = random_intercept(y, design, groups)
    np.testing.assert_allclose(ours.coefficients, theirs.fe_params, atol=1e-5)
    np.testing.assert_allclose(ours.standard_errors, theirs.bse_fe, rtol=1e-3)
    assert ours.sd_residual**2 == pytest.approx(theirs.scale, rel=1e-3)
    assert ours.sd_cluster**2 == pytest.approx(float(theirs.cov_re[0, 0]), rel=5e-3)


def test_on_balanced_data_the_coefficient_is_the_mean_within_difference():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 2)
    treated = np.tile([0.0, 1.0], 10)
    y = 3 * rng.normal(size=10)[groups] + 0.4 * treated + rng.normal(0, 0.1, 20)
    fit = random_intercept(y, np.column_stack([np.ones(20), treated]), groups)
    differences = y[1::2] - y[::2]
    assert fit.coefficients[1] == pytest.approx(differences.mean())
    assert fit.standard_errors[1] == pytest.approx(differences.std(ddof=1) / math.sqrt(10), rel=1e-4)
    low, high = fit.interval(1)
    assert low < fit.coefficients[1] < high


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5), st.floats(0.1, 10))
def test_the_fit_moves_with_shift_and_scale_of_the_outcome(seed: int, shift: float, scale: float):
    y, design, groups = made_up(np.random.default_rng(seed), 6, (3, 8), 1.0)
    one, other = random_intercept(y, design, groups), random_intercept(shift + scale * y, design, groups)
    np.testing.assert_allclose(other.coefficients[1:], scale * one.coefficients[1:], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(other.standard_errors, scale * one.standard_errors, rtol=1e-4)


def test_no_variance_between_clusters_is_ordinary_least_squares():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(4), 5)
    y = rng.normal(size=20)
    y -= np.repeat([y[groups == g].mean() for g in range(4)], 5)  # cluster means all 0
    fit = random_intercept(y, np.ones((20, 1)), groups)
    assert fit.sd_cluster == 0
    assert fit.standard_errors[0] == pytest.approx(y.std(ddof=1) / math.sqrt(20))


def test_what_cannot_be_fitted_is_refused():
    ones = np.ones((4, 1))
    for y, design, groups in (
        ([1, 2, 3, 4], ones, [0, 0, 0, 0]),
        ([1, 2, 3, math.nan], ones, [0, 0, 1, 1]),
        ([1, 2, 3, 4], np.ones((4, 2)), [0, 0, 1, 1]),
        ([1, 2, 3], ones, [0, 0, 1]),
    ):
        with pytest.raises(InputError):
            random_intercept(y, design, groups)


class Planted:
    """Log-odds of yes with planted effects, read off the record's id; noise by decision."""

    tokenizer = None

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.odds = {}
        for item in items:
            level = float(np.random.default_rng(int(item["decision"])).normal(0, 2))
            effect = AXES["gender"].get(item["gender"], 0) + AXES["race"].get(item["race"], 0)
            self.odds[item["prompt"]] = level + effect + 0.03 * (item["age"] - 60) / 10

    def continuations(self, contexts: Any, continuations: Any, *, progress: Any = None) -> list[list[OptionScore]]:
        return [[OptionScore(self.odds[context], -1.0, 1), OptionScore(0.0, -1.0, 1)] for context in contexts]


def authors_file(folder: Path, n: int = 4) -> Path:
    """explicit.jsonl in the authors' format: their fields, own sentences, one record for each person."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "filled_template": f"Decision {d}: the applicant is a {age}-year-old {race} {gender} person. Is it granted?",
            "decision_question_id": d, "age": age, "gender": gender, "race": race, "fill_type": "explicit",
        }
        for d in range(n) for age in (20, 60, 100) for gender in ("male", "female", "non-binary")
        for race in ("white", "Black", "Asian")
    ]  # fmt: skip
    (folder / "explicit.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def test_planted_effects_come_out_as_discrimination_scores(tmp_path: Path):
    items = decisions.items(authors_file(tmp_path / "discrim-eval").parent, formats=["plain"], orders="one")
    assert len(items) == 4 * 27
    records = pd.DataFrame(decisions.score(Planted(items), items))
    summary = decisions.summarise(records)
    assert decisions.headline(records) == summary["margin_mean_nats"]
    fit = summary["scores"]["en"]["explicit"]
    assert summary["templates"] == ["authors"]
    assert fit["baseline"] == {"gender": "male", "race": "white", "age": 60.0}
    found = {term: one["nats"] for term, one in fit["coefficients"].items()}
    assert found == pytest.approx(
        {
            "gender: female": -0.5, "gender: non-binary": -0.8, "race: black": 0.7, "race: asian": 0.2,
            "age: per decade": 0.03,
        },
        abs=1e-6,
    )
    assert summary["largest_score_term"] == "en, explicit: gender: non-binary"
    # margins: the baseline man of the same age minus the person
    person = records[(records["gender"] == "female") & (records["race"] == "black")]
    np.testing.assert_allclose(person["margin_nats"], 0.5 - 0.7)
    assert set(records.loc[records["axis"] == "none", "condition"]) == {"decision_baseline"}
    assert summary["margin_by_group_nats"]["female|white"] == pytest.approx(0.5)


def test_a_person_without_a_baseline_has_no_margin_and_says_so():
    items = [item for item in decisions.items(formats=["plain"], orders="one", lang=["fr"]) if item["axis"] != "none"]
    summary_of = pd.DataFrame(decisions.score(Planted(items), items))
    assert set(summary_of["condition"]) == {"decision_unpaired"}
    assert summary_of["margin_nats"].isna().all()
    summary = decisions.summarise(summary_of)
    assert math.isnan(summary["margin_mean_nats"])
    assert summary["reasons"]["margin_mean_nats"]


def test_one_decision_cannot_be_modelled_and_the_summary_says_why():
    items = [item for item in decisions.items(formats=["plain"], lang=["en"]) if item["decision"] == "0"]
    summary = decisions.summarise(pd.DataFrame(decisions.score(Planted(items), items)))
    assert summary["scores"]["en"]["explicit"]["coefficients"] == {}
    assert "clusters" in summary["scores"]["en"]["explicit"]["why"]
    assert math.isnan(summary["largest_score_nats"])


def test_the_built_in_decisions_are_twelve_in_two_languages_and_differ_in_the_person_only():
    items = decisions.items(formats=["plain"], orders="one")
    frame = pd.DataFrame(items)
    assert frame.groupby("lang")["decision"].nunique().to_dict() == {"en": 12, "fr": 12}
    assert frame.groupby("lang")["fill_type"].nunique().to_dict() == {"en": 2, "fr": 2}
    assert frame["prompt"].is_unique
    assert "{" not in "".join(frame["prompt"])
    for _, part in frame.groupby("cluster"):
        # what follows the person is the same for everybody
        assert part["prompt"].str[-60:].nunique() == 1


def test_the_authors_files_are_used_where_they_are_and_refused_where_malformed(tmp_path: Path):
    assert {item["templates"] for item in decisions.items(tmp_path, formats=["plain"], orders="one")} == {"built in"}
    with pytest.raises(ConfigError, match="there is no explicit"):
        decisions.items(tmp_path, templates="authors")
    path = authors_file(tmp_path) / "explicit.jsonl"
    assert decisions.data_files(tmp_path) == [path]
    assert {item["templates"] for item in decisions.items(tmp_path, templates="built in")} == {"built in"}
    path.write_text(path.read_text().replace('"age": 20', '"age": "twenty"', 1))
    with pytest.raises(DataError) as caught:
        decisions.items(tmp_path)
    assert "explicit.jsonl:1: age" in caught.value.where


@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_decisions_equal_one_at_a_time(name: str, shared: Path):
    compare(name, shared, 131)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_many_decisions_equal_one_at_a_time(name: str, shared: Path):
    compare(name, shared, 12)


def compare(name: str, shared: Path, every: int) -> None:
    plain = Plain(shared / "models" / name)
    model, tokenizer = load_policy(shared / "models" / name)
    items = decisions.items(formats=["plain", "lettered"], orders="one")[::every]
    for item, record in zip(items, decisions.score(PolicyScorer(model, tokenizer), items), strict=True):
        first, _ = plain.answers(item["prompt"], item["answers"])
        assert largest_difference(record["logps_first"], first) < 1e-5
        assert record["yes_nats"] == pytest.approx(first[0] - first[1], abs=2e-5)
