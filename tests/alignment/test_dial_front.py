"""The dial's front: what is picked on development items is verified on others, and a killed run goes on."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from teachfair import dial, runs
from teachfair.errors import ConfigError, InputError, RunFolderError
from teachfair.evaluation.benchmarks import crows_pairs, sandbox
from teachfair.evaluation.statistics import Interval, front
from teachfair.models.checkpoint import content_hash, load_policy
from teachfair.models.scorer import PolicyScorer

pytest_plugins = ["online"]
MARGIN = front.Target.parse("margin=0")


# --------------------------------------------------------------------------------------- pure: rows, pick, verify


def row(alpha: float, margin: float, half: float = 0.2, violated: tuple[str, ...] = (), split: str = "dev") -> front.Row:
    rails = tuple(SimpleNamespace(name=name, status="violated") for name in violated)
    return front.Row(
        "alpha",
        alpha,
        split,
        Interval(margin, margin - half, margin + half, half / 2),
        {},
        rails,
        {},
        0.0,
        0.0,
        10,
        5,  # type: ignore[arg-type]
    )


def test_the_strength_nearest_to_the_target_is_picked_among_those_that_meet_it() -> None:
    rows = [row(0, 1.2), row(0.4, 0.15), row(0.5, -0.05), row(0.6, -0.18), row(1, -1.0)]
    picked = front.pick(rows, MARGIN)
    assert (picked.alpha, picked.met) == (0.5, True)
    assert front.pick(rows, front.Target.parse("margin=-1")).alpha == 1


def test_a_strength_that_violates_a_guard_rail_is_passed_over() -> None:
    rows = [row(0, 1.2), row(0.4, 0.15), row(0.5, -0.05, violated=("neutral accuracy",))]
    assert front.pick(rows, MARGIN).alpha == 0.4
    picked = front.pick([rows[0], rows[2]], MARGIN)
    assert (picked.alpha, picked.met) == (0, False)
    assert "neutral accuracy" in picked.why


def test_a_target_out_of_reach_is_said_with_the_range_that_was_reached() -> None:
    picked = front.pick([row(0, 1.2), row(2, 0.5)], MARGIN)
    assert (picked.alpha, picked.met) == (2, False)
    assert "from 0.500 to 1.200" in picked.why


@pytest.mark.parametrize(
    ("margin", "half", "violated", "verdict"),
    [
        (0.0, 0.2, (), "verified"),  # inside ± 0.25
        (0.1, 0.2, (), "verified"),  # contains the target, no wider than the band
        (0.15, 0.05, (), "verified"),  # does not contain it, but lies inside the band: many items
        (0.0, 2.0, (), "inconclusive"),  # contains it by being wide
        (0.3, 0.1, (), "inconclusive"),  # reaches into the band
        (0.5, 0.1, (), "not verified"),
        (-0.5, 0.1, (), "not verified"),
        (0.0, 0.1, ("disambiguated accuracy",), "not verified"),
        (0.0, math.nan, (), "inconclusive"),
    ],
)
def test_held_out_items_verify_by_equivalence(margin: float, half: float, violated: tuple[str, ...], verdict: str) -> None:
    found, why = front.verify(row(0.5, margin, half, violated, "held-out"), MARGIN, within=0.25)
    assert found == verdict
    assert why


@pytest.mark.parametrize("text", ["margin", "margin=", "margin=nan", "bias=0", "=0", "margin=much"])
def test_a_target_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="target"):
        front.Target.parse(text)


def test_the_interval_of_a_mean_is_over_clusters_not_items() -> None:
    clusters = [f"c{i}" for i in range(12) for _ in range(50)]
    values = np.repeat(np.random.default_rng(0).normal(size=12), 50)
    interval = front.cluster_mean(values, clusters)
    expected = values.std() / math.sqrt(11)  # of 12 independent numbers, not 600
    assert interval.value == pytest.approx(values.mean())
    assert interval.se == pytest.approx(expected, rel=0.06)
    assert not math.isfinite(front.cluster_mean([1.0, 2.0], ["a", "a"]).low), "one cluster has no variance"
    certain = front.share_mean([1.0] * 40, [f"c{i % 20}" for i in range(40)])
    assert (certain.value, certain.high) == (1.0, 1.0)
    assert certain.low < 0.9, "twenty agreeing clusters are no certainty"


def test_guided_records_are_the_tilted_policy_over_each_items_options() -> None:
    records = pd.DataFrame(
        {
            "item_id": ["a", "b"], "cluster": ["x", "y"], "condition": ["ambiguous", "disambiguated"],
            "roles": [["stereotype", "anti", "unknown"], ["evidence", "other", "unknown"]],
            "logps_first": [[-0.2, -2.0, -3.0], [-2.0, -0.3, -4.0]], "logps_whole": [[-0.2, -2.0, -3.0], [-2.0, -0.3, -4.0]],
            "chosen_role": ["stereotype", "other"], "margin_nats": [2.8, math.nan], "correct": [math.nan, 0.0],
        }
    )  # fmt: skip
    rewards = [[-2.0, -2.0, 3.0], [4.0, 0.0, 0.0]]
    same = dial.guided(records, rewards, math.inf)
    assert same["margin_nats"][0] == 2.8
    assert list(same["chosen_role"]) == ["stereotype", "other"]
    tilted = dial.guided(records, rewards, 1.0)
    assert tilted["margin_nats"][0] == pytest.approx(2.8 - 5.0)
    assert list(tilted["chosen_role"]) == ["unknown", "evidence"]
    assert math.isnan(tilted["correct"][0])
    assert tilted["correct"][1] == 1.0
    margins = [dial.guided(records, rewards, beta)["margin_nats"][0] for beta in (1, 2, 4, 1e9)]
    assert margins == sorted(margins)
    assert margins[-1] == pytest.approx(2.8)


# -------------------------------------------------------------------------------------------- a toy, end to end

PEOPLE = [("ann", "tom"), ("eva", "ben"), ("tom", "eva"), ("ben", "ann")]


def toy_items(data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Who is the nurse? Eight occupations are clusters; the answer is 'perhaps' where nothing is known."""
    items = []
    for job in ("nurse", "pilot", "cook", "baker", "doctor", "woman", "man", "station"):
        for first, second in PEOPLE:
            for known in (False, True):
                said = f"{second} is the {job} . " if known else ""
                roles = ["other", "evidence", "unknown"] if known else ["stereotype", "anti", "unknown"]
                items.append(
                    {
                        "id": f"toy-{len(items)}", "cluster": job, "axis": "gender", "groups": ["woman", "man"],
                        "lang": "en",
                        "condition": "disambiguated" if known else "ambiguous",
                        "prompt": f"{first} and {second} met . {said}who is the {job} ?",
                        "options": [first, second, "perhaps"],
                        "roles": roles, "evidence": "", "format": "", "grade": "", "favoured": "", "planted_nats": math.nan,
                        "exposure": "",
                    }
                )  # fmt: skip
    return items


TOY = SimpleNamespace(
    CARD={"name": "toy", "version": 1, "norm": "ours"}, items=toy_items, score=sandbox.score, summarise=sandbox.summarise
)


def run_toy(taught: Path, out: Path, judge: Path | None = None, **options: Any) -> tuple[Path, dial.Front]:
    given: dict[str, Any] = {
        "alphas": [-1, 0.5, 2],
        "benchmark": TOY,
        "target": "margin=0.3",
        "within": 5.0,
        "tolerance": 0.9,
    }
    if judge is not None:
        given |= {"reward_model": judge, "best_of_ns": [1, 4], "betas": [0.5, 1e9], "max_new_tokens": 3}
    return dial.run_dial(taught, out, **(given | options))


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_a_run_writes_the_front_the_picture_the_record_and_the_policy(
    kind: str, request: pytest.FixtureRequest, reward_model_folder: Path, tmp_path: Path
) -> None:
    taught: Path = request.getfixturevalue(f"{kind}_folder")
    out, found = run_toy(taught, tmp_path / "dial", reward_model_folder, save_anyway=True)
    written = json.loads((out / "front.json").read_text())
    assert {row["setting"] for row in written["front"]} >= {-1, 0, 0.5, 1, 2}
    held_out = found.of("held-out")
    untaught = next(row for row in held_out if row.setting == 0)
    assert untaught.kl_outcome_nats == 0
    assert all(row.kl_outcome_nats > 0 for row in held_out if row.setting != 0)
    rows = list(csv.DictReader((out / "front.csv").open()))
    assert {row["kind"] for row in rows} == {"alpha", "guided", "best-of-n"}
    assert "<svg" in (out / "front.svg").read_text()
    record = runs.read_record(out)
    assert record is not None
    assert record["sources"]["taught_hash"] == content_hash(taught)
    # a guidance without force is the untaught policy, by the same code that scores it
    faint = next(row for row in found.guided if row.setting == 1e9)
    assert faint.margin.value == pytest.approx(untaught.margin.value, abs=1e-6)
    assert [best.n for best in found.best_of] == [1, 4]
    assert found.best_of[1].reward.value >= found.best_of[0].reward.value
    # the saved policy is the one that was measured
    assert found.pick is not None
    model, tokenizer = load_policy(out / "policy")
    splits, _ = dial.dev_and_held_out(TOY, None)
    again = pd.DataFrame(sandbox.score(PolicyScorer(model, tokenizer), splits["held-out"]))
    margin = again.loc[again["condition"] == "ambiguous", "margin_nats"].mean()
    assert found.pick.held_out is not None
    assert margin == pytest.approx(found.pick.held_out.margin.value, abs=1e-5)


def test_a_killed_run_goes_on_where_it_stopped_and_a_finished_one_scores_nothing(lora_folder: Path, tmp_path: Path) -> None:
    done: list[str] = []

    def killed(what: str) -> None:
        done.append(what)
        if what.startswith("strength 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_toy(lora_folder, tmp_path / "dial", progress=killed)
    assert runs.read_record(tmp_path / "dial") is None
    first = [what for what in done if not what.startswith("strength 2")]
    done.clear()
    _, found = run_toy(lora_folder, tmp_path / "dial", progress=done.append)
    assert not set(first) & set(done), "what was scored is not scored again"
    assert done
    done.clear()
    _, again = run_toy(lora_folder, tmp_path / "dial", progress=done.append)
    assert not [what for what in done if what.startswith("strength")]
    _, unbroken = run_toy(lora_folder, tmp_path / "unbroken")
    for one in (again, unbroken):
        assert [row.as_dict() for row in one.of("dev")] == [row.as_dict() for row in found.of("dev")]
    with pytest.raises(RunFolderError, match="another run"):
        run_toy(lora_folder, tmp_path / "dial", target="margin=0")


def test_no_policy_is_saved_where_the_target_is_out_of_reach(lora_folder: Path, tmp_path: Path) -> None:
    out, found = run_toy(lora_folder, tmp_path / "dial", target="margin=50", within=0.1)
    assert found.pick is not None
    assert not found.pick.met
    assert not (out / "policy").exists()
    assert json.loads((out / "front.json").read_text())["pick"]["met"] is False
    saved, _ = run_toy(lora_folder, tmp_path / "anyway", target="margin=50", within=0.1, save_anyway=True)
    assert (saved / "policy" / "adapter_config.json").exists()


def test_minimal_pairs_are_dialled_towards_parity_on_two_halves_of_their_clusters(lora_folder: Path, tmp_path: Path) -> None:
    lines = [",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators"]
    for number, (job, first, second, when) in enumerate(
        (job, first, second, when)
        for job in ("nurse", "pilot", "cook", "baker") for first, second in PEOPLE for when in ("late", "early", "sad")
    ):  # fmt: skip
        lines.append(
            f'{number},the {job} met {first} was {when},the {job} met {second} was {when},stereo,gender,"[]",a0,"[]"'
        )
    (tmp_path / crows_pairs.FILE).write_text("\n".join(lines) + "\n")
    splits, how = dial.dev_and_held_out(crows_pairs, tmp_path, seed=1)
    assert not {item["cluster"] for item in splits["dev"]} & {item["cluster"] for item in splits["held-out"]}
    assert len(splits["dev"]) + len(splits["held-out"]) == 48
    assert "seed 1" in how
    again, _ = dial.dev_and_held_out(crows_pairs, tmp_path, seed=1)
    assert again == splits
    assert dial.dev_and_held_out(crows_pairs, tmp_path, seed=2)[0] != splits
    out, found = dial.run_dial(
        lora_folder, tmp_path / "dial", benchmark="crows_pairs", data_dir=tmp_path, alphas=[-1, 2], betas=[1.0], seed=1
    )
    model, tokenizer = load_policy(lora_folder)
    scored = crows_pairs.score(PolicyScorer(model, tokenizer), splits["held-out"])
    taught = next(row for row in found.of("held-out") if row.setting == 1)
    assert taught.margin.value == pytest.approx(np.mean([record["margin_nats"] for record in scored]), abs=1e-6)
    assert not found.guided
    assert found.pick is not None
    assert not found.pick.met or "no guard-rail could be measured" in found.pick.why
    rails = json.loads((out / "front.json").read_text())["front"][0]["guard_rails"]
    assert {rail["status"] for rail in rails} == {"undefined"}, "a condition that is not there is undefined, never fine"


def test_halves_share_no_cluster_and_hold_each_axis_and_condition_alike() -> None:
    splits, _ = dial.dev_and_held_out(sandbox, None, split="halves")
    for condition, clusters in (("ambiguous", 8), ("disambiguated", 8)):
        for axis in ("gender", "origin"):
            counts = {
                len({item["cluster"] for item in rows if (item["axis"], item["condition"]) == (axis, condition)})
                for rows in splits.values()
            }
            assert counts == {clusters}
    assert not {item["cluster"] for item in splits["dev"]} & {item["cluster"] for item in splits["held-out"]}
    with pytest.raises(ConfigError, match="split"):
        dial.dev_and_held_out(sandbox, None, split="thirds")


def test_too_few_clusters_and_an_impossible_limit_are_refused() -> None:
    few = SimpleNamespace(CARD=TOY.CARD, items=lambda data_dir: [item for item in toy_items() if item["cluster"] == "nurse"])
    with pytest.raises(InputError, match="clusters"):
        dial.dev_and_held_out(few, None)
    with pytest.raises(InputError, match="limit"):
        dial.dev_and_held_out(TOY, None, limit=0)
    assert len(dial.dev_and_held_out(TOY, None, limit=5)[0]["dev"]) == 5


@pytest.mark.parametrize(
    "words",
    [
        ["--alphas", "0", "3"], ["--alphas", "half"], ["--target", "bias=0"], ["--best_of", "0"], ["--guidance_betas", "0"],
        ["--within", "0"], ["--benchmark", "crows_pears"], ["--limit", "0"], ["--base_model_name_or_path", "/nowhere"],
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_used_end_with_code_2_and_leave_nothing(
    lora_folder: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from teachfair.recipes.dial import door

    out = tmp_path / "dial"
    assert door(["--model_name_or_path", str(lora_folder), "--output_dir", str(out), *words]) == 2
    assert "what to do" in capsys.readouterr().err
    assert not out.exists()


# ------------------------------------------------------------------------------------- the sandbox's known answer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
def test_in_the_sandbox_the_margin_falls_with_the_strength_and_a_picked_strength_is_verified(
    kind: str, tmp_path: Path
) -> None:
    from teachfair.alignment import lesson
    from teachfair.doors import shipped_config
    from teachfair.recipes.dpo_fair import door as teach

    taught = tmp_path / "taught"
    config = str(shipped_config(f"sandbox/dpo_{kind}.yaml"))
    teach.run(*teach.parse(["--config", config, "--output_dir", str(taught), "--seed", "0", "--disable_tqdm", "true"]))
    alphas = [-1, -0.5, 0, 0.5, 1, 1.5, 2]
    out, found = dial.run_dial(taught, tmp_path / "dial", alphas=alphas, split="halves")
    for split in ("dev", "held-out"):
        margins = [row.margin.value for row in found.of(split)]
        assert margins == sorted(margins, reverse=True), f"{split}: not monotone"
    # strength 0 and 1 are the untaught and the taught policy as evaluation scores them
    splits, _ = dial.dev_and_held_out(sandbox, None, split="halves")
    ends = {1.0: load_policy(taught)}
    if kind != "qlora":  # there the untaught policy is the base in 4 bit: test_dial.py
        ends[0.0] = load_policy(lesson.sandbox_policy(lesson.sandbox(seed=0, bias=2.0)))
    for alpha, (model, tokenizer) in ends.items():
        records = pd.DataFrame(sandbox.score(PolicyScorer(model, tokenizer), splits["dev"]))
        expected = records.loc[records["condition"] == "ambiguous", "margin_nats"].mean()
        assert next(row for row in found.of("dev") if row.setting == alpha).margin.value == pytest.approx(expected, abs=1e-5)
    assert found.pick is not None
    assert found.pick.met
    assert 0 < found.pick.alpha < 1.2
    assert found.pick.verdict == "verified", found.pick.verdict_why
    assert not found.pick.dev.violated
    assert runs.read_record(out / "policy") is not None


@pytest.mark.parametrize("words", [["--alphas", "-1", "-0.5", "2"], ["--alphas=-1,-0.5,2"]])
def test_negative_strengths_can_be_typed(words: list[str]) -> None:
    from teachfair.doors import comma_list
    from teachfair.recipes.dial import door

    (own,) = door.parse(words)
    assert comma_list(own.alphas) == ["-1", "-0.5", "2"]
