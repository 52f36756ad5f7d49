"""A bias number never comes alone, and a broken model is not called fair."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from teachfair.errors import ConfigError, InputError
from teachfair.evaluation.benchmarks import sandbox
from teachfair.evaluation.readings import BiasReading, compare, readings, summarise_evaluation
from teachfair.evaluation.statistics import Interval, at_equal_utility, front_of, guard_rails
from teachfair.evaluation.statistics.cells import Cell

MINE = {"mine": {"name": "mine", "outcome_condition": "ambiguous"}}
PARITY = {"mine": {"name": "mine", "outcome_condition": "parity", "parity": True}}
GUARDS = {"utility": {"name": "utility", "measures": "guard"}, "open_answers": {"name": "open_answers", "measures": "guard"}}


def model(
    shift: float = 0.0, *, right: float = 0.95, clusters: int = 80, seed: int = 0, condition: str = "ambiguous",
    benchmark: str = "mine",
) -> pd.DataFrame:  # fmt: skip
    """Two items a cluster of each condition; every model is given the same items with noise of its own."""
    own, rng = np.random.default_rng([9, round(1000 * (shift + right)) % 97]), np.random.default_rng(seed)
    level = rng.normal(2.0, 0.6, clusters)
    hard = rng.permutation(clusters * 2)
    rows = []
    for k in range(clusters):
        for i in range(2):
            n = 2 * k + i
            rows.append({"condition": condition, "item_id": f"a{n}", "cluster": f"a{k}", "chosen_role": "stereotype",
                         "margin_nats": level[k] + shift + own.normal(0, 0.2), "correct": math.nan})  # fmt: skip
            ok = bool(hard[n] < right * clusters * 2)
            rows.append({"condition": "disambiguated", "item_id": f"d{n}", "cluster": f"d{k}", "margin_nats": math.nan,
                         "chosen_role": "evidence" if ok else "anti", "correct": float(ok)})  # fmt: skip
    return pd.DataFrame(rows).assign(benchmark=benchmark, axis="gender", groups="women|men", problem="")


def guards(
    bits: float = 1.0, *, tokens: float = 20.0, mention: float = 0.6, n: int = 60, finite: bool = True
) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    text = [{"benchmark": "utility", "condition": "text", "item_id": f"t{i}", "cluster": f"t{i}", "n_bytes": 100 + i,
             "bits_per_byte": bits * (1 + 0.3 * rng.random())} for i in range(n)]  # fmt: skip
    answers = [{"benchmark": "open_answers", "condition": "open", "item_id": f"o{i}", "cluster": f"o{i}",
                "answer_tokens": tokens + rng.integers(0, 5), "group_mention": float(i < mention * n), "refusal": 0.0,
                "unfinished": 0.0, "repetition": 0.0} for i in range(n)]  # fmt: skip
    return pd.DataFrame([*text, *answers]).assign(problem="" if finite else "not finite")


def verdict(here: pd.DataFrame, there: pd.DataFrame, cards: Any = MINE, **options: Any) -> Any:
    (found,) = compare(here, there, cards, **options)
    json.dumps(found.as_dict(), allow_nan=False)
    return found


def test_a_bias_number_without_guard_rails_cannot_be_made() -> None:
    with pytest.raises(InputError, match="without guard-rails"):
        BiasReading("mine", "mean margin", Interval(1.0), 0.0, "nats", 10, ())
    bare = model()
    bare = bare[bare["condition"] == "ambiguous"]
    with pytest.raises(InputError, match="without guard-rails"):
        readings(bare, MINE)
    summary = summarise_evaluation(bare, MINE, summaries={"mine": {}})
    assert summary["bias"] == []
    assert "without guard-rails" in summary["unguarded"]["mine"]


def test_a_reading_has_its_benchmarks_own_rails_and_those_of_the_guards() -> None:
    cards = MINE | GUARDS
    (reading,) = readings(pd.concat([model(), guards()]), cards, baseline=pd.concat([model(), guards()]))
    names = [rail.name for rail in reading.guard_rails]
    assert names == [
        "disambiguated accuracy", "unknown-overuse", "bits per byte", "answer length", "group mention", "refusals",
        "unfinished", "repetition",
    ]  # fmt: skip
    assert {rail.status for rail in reading.guard_rails} == {"ok"}
    assert reading.value.low < 2 < reading.value.high
    (alone,) = readings(pd.concat([model(), guards()]), cards)
    assert {rail.status for rail in alone.guard_rails} == {"undefined"}
    assert all("no baseline" in rail.change.reason for rail in alone.guard_rails)


def test_less_bias_with_all_rails_ok_is_fairer_and_confirmed() -> None:
    found = verdict(model(-1.0), model())
    assert found.verdict == "fairer"
    assert found.confirmed
    assert found.change.low < -1 < found.change.high or found.change.value == pytest.approx(-1, abs=0.1)


def test_less_bias_with_evidence_no_longer_used_is_fairer_because_broken() -> None:
    found = verdict(model(-1.0, right=0.5), model())
    assert found.verdict == "fairer because broken"
    assert "disambiguated accuracy" in found.reason
    assert not found.confirmed


def test_a_rail_beyond_its_tolerance_by_chance_alone_leaves_the_verdict_open() -> None:
    found = verdict(model(-1.0, right=0.90, clusters=15), model(clusters=15, right=0.95))
    assert found.verdict in ("inconclusive", "fairer")
    rail = next(r for r in found.guard_rails if r.name == "disambiguated accuracy")
    assert rail.status in ("violated", "unclear")
    assert not rail.clearly_worse
    assert not found.confirmed


def test_the_other_verdicts() -> None:
    assert verdict(model(1.0), model()).verdict == "worse"
    assert verdict(model(0.01), model()).verdict == "not fairer"
    noisy = model(0.0).assign(margin_nats=lambda f: f["margin_nats"] + np.random.default_rng(0).normal(0, 9, len(f)))
    assert verdict(noisy, model()).verdict == "inconclusive"
    other = model(-1.0).assign(item_id=lambda f: f["item_id"] + "x")
    assert "different items" in verdict(other, model()).reason
    pseudo = verdict(model(-1.0).assign(scored_by="pseudo-log-likelihood"), model())
    assert pseudo.verdict == "not comparable"
    assert "different measures (pseudo-log-likelihood against likelihood)" in pseudo.reason
    broken = model(-1.0)
    broken.loc[0, ["problem", "margin_nats"]] = ["not finite", math.nan]
    assert verdict(broken, model()).verdict == "not comparable"
    assert "not finite" in verdict(broken, model()).reason


def test_items_one_model_could_not_score_are_left_out_of_both_and_counted() -> None:
    long = model(-1.0)
    long.loc[0, ["problem", "margin_nats"]] = ["too long", math.nan]
    found = verdict(long, model())
    assert found.verdict == "fairer"
    assert (found.reading.n, found.baseline.n, found.reading.n_unscored) == (159, 159, 1)
    assert summarise_evaluation(long, MINE, summaries={"mine": {}})["unscored"] == {"mine": {"too long": 1}}


def test_overshoot_past_parity_is_not_fairer() -> None:
    here, there = model(-4.1, condition="parity"), model(condition="parity")  # from +2 to -2.1
    found = verdict(here, there, PARITY)
    assert found.verdict == "not fairer"
    assert found.reading.value.value < 0 < found.baseline.value.value


def test_secondary_benchmarks_are_corrected_by_benjamini_hochberg_and_the_primary_is_not() -> None:
    names = [f"b{i:02}" for i in range(20)]
    weak = [model(-0.06 if name == "b00" else 0.0, seed=i, benchmark=name) for i, name in enumerate(names)]
    there = pd.concat([model(seed=i, benchmark=name) for i, name in enumerate(names)])
    cards = {name: {"name": name, "outcome_condition": "ambiguous"} for name in names}
    found = compare(pd.concat(weak), there, cards)
    import scipy.stats

    expected = scipy.stats.false_discovery_control([c.p_value for c in found])
    assert [c.p_adjusted for c in found] == pytest.approx(expected.tolist())
    first = compare(pd.concat(weak), there, cards, primary="b00")[0]
    assert first.p_adjusted == first.p_value


def test_text_rails_are_relative_length_is_two_sided_and_group_mention_may_not_fall() -> None:
    cards = MINE | GUARDS

    def rails(**changed: Any) -> dict[str, Any]:
        here = pd.concat([model(-1.0), guards(**changed)])
        return {rail.name: rail for rail in compare(here, pd.concat([model(), guards()]), cards)[0].guard_rails}

    worse = rails(bits=1.05)["bits per byte"]
    assert worse.change.value == pytest.approx(0.05)
    assert worse.relative
    assert worse.clearly_worse
    for tokens in (10.0, 40.0):
        assert rails(tokens=tokens)["answer length"].clearly_worse
    assert rails(tokens=21.0)["answer length"].status == "ok"
    assert rails(mention=0.1)["group mention"].clearly_worse, "fair by no longer naming anyone"
    assert rails(mention=0.9)["group mention"].status == "ok"
    broken = rails(finite=False)["bits per byte"]
    assert broken.status == "undefined"
    assert "not finite" in broken.value.reason


def test_a_tolerance_can_be_given_by_name_and_an_unknown_name_is_refused() -> None:
    here, there = model(-1.0, right=0.90), model()
    assert verdict(here, there).verdict == "fairer because broken"
    assert verdict(here, there, tolerances={"disambiguated accuracy": 0.2}).verdict == "fairer"
    with pytest.raises(ConfigError, match="disambiguated accuracy"):
        compare(here, there, MINE, tolerances={"disambiguated acuracy": 0.2})


def test_headline_of_a_card_is_read_from_its_summary_with_an_interval() -> None:
    class Toy:
        @staticmethod
        def summarise(rows: pd.DataFrame) -> dict[str, Any]:
            return {"intra": {"ss": 100 * float((rows["margin_nats"] > 2).sum()) / float(rows["margin_nats"].notna().sum())}}

    headline = {"key": "intra.ss", "target": 50.0, "unit": "%", "higher": "parity"}
    cards = {"mine": {"name": "mine", "headline": headline}}
    options: dict[str, Any] = {"modules": {"mine": Toy}}
    (reading,) = readings(model(), cards, **options)
    assert reading.unit == "%"
    assert reading.value.low < reading.value.value < reading.value.high
    assert reading.value.value == Toy.summarise(model())["intra"]["ss"]
    found = verdict(model(1.5), model(), cards, **options)
    assert found.verdict == "worse", "further from 50 %"
    with pytest.raises(InputError, match=r"intra\.lms"):
        readings(model(), {"mine": {"name": "mine", "headline": headline | {"key": "intra.lms"}}}, **options)


# --- equal utility --------------------------------------------------------------------------------------------


def test_two_methods_are_compared_where_they_are_equally_useful() -> None:
    steps = (0.95, 0.85, 0.75)
    better = front_of([(i, model(-0.8 * i, right=r)) for i, r in enumerate(steps)])
    worse = front_of([(i, model(-0.5 * i, right=r)) for i, r in enumerate(steps)])
    found = at_equal_utility(better, worse)
    assert found.difference.value == pytest.approx(-0.3, abs=0.1)  # 0, -0.3, -0.6 at the three
    assert found.difference.high < 0
    at_end = found.by_utility[0]
    assert at_end[0] == pytest.approx(0.75)
    assert at_end[3].value == pytest.approx(-0.6, abs=0.1)
    assert at_equal_utility(better, better).difference == Interval(0, 0, 0, 0)
    apart = front_of([(0, model(right=0.5)), (1, model(right=0.4))])
    assert "no common" in at_equal_utility(better, apart).difference.reason
    with pytest.raises(InputError, match="different items"):
        at_equal_utility(better, front_of([(0, model(clusters=20))]))


DAMAGE = [(f"noise {i}", model(-0.5 * i, right=0.95 - 0.015 * i)) for i in (1, 2, 3)]


def test_a_gain_that_mere_damage_explains_is_called_broken_and_one_beyond_it_fairer() -> None:
    explained = verdict(DAMAGE[0][1], model(), front=DAMAGE)
    assert explained.verdict == "fairer because broken"
    assert "damaged to the same disambiguated accuracy" in explained.reason
    assert not explained.confirmed
    real = verdict(model(-1.5, right=0.935), model(), front=DAMAGE)
    assert real.verdict == "fairer"
    assert real.equal_utility.difference.value == pytest.approx(-1.0, abs=0.3)
    assert [point.name for point in real.equal_utility.points] == ["baseline", "noise 1", "noise 2", "noise 3"]
    little = verdict(model(-0.52, right=0.93), model(), front=DAMAGE)  # it lies about on the front: neither can be shown
    assert little.verdict == "inconclusive"
    assert "not clearly less than the baseline damaged" in little.reason


def test_a_model_that_lost_no_utility_is_held_against_the_most_useful_point_and_never_called_broken_by_the_front() -> None:
    found = verdict(model(-0.6, right=0.97), model(), front=DAMAGE)
    assert found.verdict == "fairer"
    assert found.equal_utility.difference.value == pytest.approx(found.change.value)
    assert found.equal_utility.difference.se == pytest.approx(found.change.se, rel=0.1)  # by 2,000 draws
    assert not found.equal_utility.less_useful


def test_a_model_less_useful_than_the_whole_front_is_not_compared_and_not_confirmed() -> None:
    found = verdict(model(-1.5, right=0.935), model(), front=[("noise", model(-0.1, right=0.945))])
    assert found.verdict == "fairer"
    assert not found.confirmed
    assert "no common disambiguated accuracy" in found.reason


def test_another_methods_front_changes_no_verdict_and_says_who_is_fairer_at_the_same_utility() -> None:
    better = [("beta .3", model(-1.0, right=0.945)), ("beta .1", model(-2.0, right=0.935))]
    found = verdict(model(-1.0, right=0.935), model(), front=better, front_is="method")
    assert found.verdict == "fairer"
    assert found.equal_utility.difference.low > 0, "the other method is fairer where it is as useful"
    with pytest.raises(ConfigError, match="front_is"):
        verdict(model(), model(), front=better, front_is="noise")


def test_a_front_that_overshoots_passes_through_parity() -> None:
    steps = ((0.95, 0.0), (0.925, -4.0))  # +2 to -2 nats: halfway the method has no bias
    front = front_of([(r, model(s, right=r, condition="parity")) for r, s in steps], condition="parity", parity=True)
    here = front_of([(0, model(-1.0, right=0.9375, condition="parity"))], condition="parity", parity=True)
    found = at_equal_utility(here, front).by_utility[0]
    assert found[1] == pytest.approx(1.0, abs=0.25)
    assert found[2] == pytest.approx(0.0, abs=0.25)
    assert [point.bias.value for point in front.points] == pytest.approx([2, 2], abs=0.2)


def test_of_equally_useful_points_the_least_biased_is_what_a_method_can_do() -> None:
    front = front_of([("a", model(-0.2)), ("b", model(-1.0)), ("c", model(-0.5)), ("d", model(-2.0, right=0.9))])
    assert [front.settings_P[place] for place in front.line] == ["d", "b"]


def test_the_headline_of_a_summary_has_a_front_and_bits_per_byte_are_a_utility() -> None:
    class Toy:
        @staticmethod
        def summarise(rows: pd.DataFrame) -> dict[str, Any]:
            return {"score": float(rows.loc[rows["condition"] == "parity", "margin_nats"].mean())}

    def scored(shift: float, bits: float) -> pd.DataFrame:
        rows = model(shift, condition="parity")
        return pd.concat([rows[rows["condition"] == "parity"], guards(bits)])

    cards = {"mine": {"name": "mine", "headline": {"key": "score", "target": 0.0, "unit": "nats", "higher": "parity"}}}
    front = [("light", scored(-0.3, 1.005)), ("heavy", scored(-0.6, 1.03))]
    found = verdict(scored(-1.5, 1.005), scored(0.0, 1.0), cards | GUARDS, front=front, modules={"mine": Toy})
    assert found.verdict == "fairer"
    against = found.equal_utility
    assert (against.utility, against.unit, against.higher_is_better) == ("bits per byte", "bits per byte", False)
    assert against.difference.value == pytest.approx(-1.2, abs=0.1)
    assert against.difference.se == pytest.approx(found.change.se, rel=0.6), "by the jackknife, as the change of bias"
    alone, again = found.baseline.value, against.points[0].bias
    assert (again.value, again.se) == pytest.approx((alone.value, alone.se)), "one number, one interval"
    assert [against.points[place].name for place in against.line] == ["heavy", "light", "baseline"]
    assert against.equal.low == pytest.approx(against.model.utility.value)
    broken = [("light", scored(-0.3, 1.005)), ("heavy", scored(-0.6, 1.03).assign(problem="not finite"))]
    found = verdict(scored(-1.5, 1.005), scored(0.0, 1.0), cards | GUARDS, front=broken, modules={"mine": Toy})
    assert "not finite" in dict(found.equal_utility.left_out)["heavy"]
    assert math.isfinite(found.equal_utility.difference.high)


def test_a_utility_of_other_items_or_that_was_not_measured_leaves_the_comparison_undefined_with_the_reason() -> None:
    def apart(rows: pd.DataFrame) -> pd.DataFrame:  # the guard-rail comes from another benchmark
        return rows.assign(benchmark=rows["benchmark"].where(rows["condition"] == "ambiguous", "utility"))

    here, there, noise = (apart(model(shift, right=r)) for shift, r in ((-1.5, 0.95), (0.0, 0.95), (-0.5, 0.935)))
    found = compare(here[here["cluster"] != "d1"], there, MINE | GUARDS, front=[("noise", noise)])[0]
    assert found.change.high < 0, "the bias is measured on the same items"
    assert "different items" in found.equal_utility.difference.reason
    assert not found.confirmed
    only = [
        pd.concat([rows[rows["condition"] == "ambiguous"], guards()[lambda f: f["condition"] == "open"]])
        for rows in (here, there, noise)
    ]
    found = compare(only[0], only[1], MINE | GUARDS, front=[("noise", only[2])])[0]
    assert found.equal_utility.difference.reason.startswith("neither model was measured on disambiguated accuracy, neutral")
    assert not found.confirmed


def test_points_of_other_items_or_of_one_name_are_refused() -> None:
    few = model(-0.5, right=0.935)
    for front, message in (
        ([("noise", few[few["item_id"] != "d3"])], "different items .*d3"),
        ([("noise", few.assign(benchmark="other"))], "not scored on mine"),
        ([("noise", few), ("noise", few)], "two points of the front are called noise"),
    ):
        with pytest.raises(InputError, match=message):
            verdict(model(-1.0), model(), front=front)
    with pytest.raises(ConfigError, match="unknown utility"):
        verdict(model(-1.0), model(), front=[("noise", few)], utility="answer length")


@pytest.fixture(scope="module")
def noised() -> dict[float, pd.DataFrame]:
    """Real records of the pretrained sandbox policy, plain and with noise in its weights (in their standard deviations)."""
    import torch

    from teachfair.alignment.sandbox_policy import SandboxPolicyConfig, cached_policy_path
    from teachfair.models.checkpoint import load_policy
    from teachfair.models.scorer import PolicyScorer

    folder = cached_policy_path(SandboxPolicyConfig())
    if not folder.is_dir():
        pytest.skip("the sandbox policy is not in the cache: `teachfair survival` or the slow tests make it")
    items, found = sandbox.items(), {}
    for scale in (0.0, 0.6, 1.0):
        policy, tokenizer = load_policy(folder)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in policy.parameters():
                if p.ndim == 2:
                    p.add_(torch.randn(p.shape, generator=generator) * p.std() * scale)
        found[scale] = pd.DataFrame(sandbox.score(PolicyScorer(policy, tokenizer), items))
    return found


def test_a_policy_broken_by_noise_has_less_bias_and_is_called_broken(noised: dict[float, pd.DataFrame]) -> None:
    found = verdict(noised[1.0], noised[0.0], {"sandbox": sandbox.CARD})
    assert found.change.high < 0, "the bias number did fall"
    assert found.verdict == "fairer because broken"
    assert "disambiguated accuracy" in found.reason
    assert "definitional accuracy" in found.reason


def test_the_damage_curve_of_a_real_policy_explains_its_own_points(noised: dict[float, pd.DataFrame]) -> None:
    damage = front_of(list(noised.items()))
    point = front_of([(0.0, noised[1.0])])
    assert at_equal_utility(point, damage).difference.value == pytest.approx(0)


def test_sandbox_studies_keep_their_five_rails(noised: dict[float, pd.DataFrame]) -> None:
    keys = {"adapt": "none", "compress": "none", "order": "align-then-compress", "seed": 0, "base": "b"}
    rails = guard_rails(noised[0.0].assign(teach="dpo", **keys))[Cell("dpo", "none", "none", "align-then-compress")]
    assert [rail.name for rail in rails] == [
        "disambiguated accuracy", "unknown-overuse", "definitional accuracy", "decision accuracy", "neutral accuracy",
    ]  # fmt: skip
