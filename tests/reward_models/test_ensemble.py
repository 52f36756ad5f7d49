"""Ensembles: members that differ by seed, one scale, disagreement that means something, and no judge among the teachers."""

import json
import math
import shutil

import numpy as np
import pytest

from teachfair import runs
from teachfair.errors import CheckpointError, ConfigError, RunFolderError
from teachfair.models.checkpoint import content_hash, member_folders
from teachfair.reward_models.calibrating import probability
from teachfair.reward_models.classifying import Rewards, classify, classify_rows
from teachfair.reward_models.ensemble import (
    RewardEnsemble,
    load_reward_model,
    pair_uncertainty,
    resampled,
    train_reward_ensemble,
    uncertainty_report,
)
from teachfair.reward_models.scoring import RewardModel
from teachfair.reward_models.text_files import Row

OPTIONS = {"max_steps": 40, "per_device_train_batch_size": 16, "disable_tqdm": True, "learning_rate": 3e-3, "seed": 5}
FAST = {**OPTIONS, "max_steps": 2}


@pytest.fixture(scope="module")
def folder(llama, train_pairs, eval_pairs, tmp_path_factory):
    """Three members, taught enough to be right."""
    out = tmp_path_factory.mktemp("ensemble") / "ensemble"
    return train_reward_ensemble(llama, train_pairs.select(range(300)), eval_pairs, out, num_members=3, **OPTIONS)


@pytest.fixture(scope="module")
def ensemble(folder):
    return load_reward_model(folder)


def ids_of(model, pairs):
    return [model.token_ids([*row["prompt"], *row[side]]) for row in pairs for side in ("chosen", "rejected")]


def test_each_member_is_a_whole_reward_model_of_its_own_seed(folder, eval_pairs):
    found = []
    for number in range(3):
        member = folder / f"member-{number}"
        assert (runs.read_record(member) or {})["seed"] == 5 + number
        found.append(RewardModel.load(member).score_pairs(eval_pairs)[0])
    assert abs(found[0] - found[1]).max() > 1e-2
    assert len({content_hash(one) for one in member_folders(folder)}) == 3
    record = runs.read_record(folder) or {}
    assert [one["seed"] for one in record["members"]] == [5, 6, 7]
    assert record["accuracy"][0]["kind"] == "all"
    assert record["shortcuts"]


def test_the_reward_is_the_mean_of_what_each_members_own_calibration_makes_of_it(ensemble, folder, eval_pairs):
    assert isinstance(ensemble, RewardEnsemble)
    ids = ids_of(ensemble, eval_pairs)
    log_odds = []
    for member in ensemble.members:
        rewards, scale = member.score_ids(ids), member.calibration
        z = (rewards - scale["threshold"]) / scale["temperature"]
        np.testing.assert_allclose(1 / (1 + np.exp(-z)), probability(rewards, scale), atol=1e-12)
        log_odds.append(z)
    np.testing.assert_allclose(ensemble.score_ids(ids), np.mean(log_odds, axis=0))
    np.testing.assert_allclose(ensemble.disagreement_ids(ids), np.std(log_odds, axis=0, ddof=1))
    talks = [[*row["prompt"], *row[side]] for row in eval_pairs for side in ("chosen", "rejected")]
    np.testing.assert_allclose(ensemble.score(talks), ensemble.score_ids(ids))
    chosen, rejected = ensemble.score_pairs(eval_pairs)
    np.testing.assert_allclose(np.stack([chosen, rejected], axis=1).ravel(), ensemble.score_ids(ids), atol=1e-5)
    from teachfair.reward_models.rendering import render

    texts = [render(ensemble.tokenizer, talk) for talk in talks]
    np.testing.assert_allclose(ensemble.score_texts(texts), ensemble.score(talks), atol=1e-5)
    assert ensemble.max_tokens == 128
    assert set(ensemble.calibration) >= {"threshold", "temperature"}
    fair = probability(chosen, ensemble.calibration)
    assert fair.mean() > probability(rejected, ensemble.calibration).mean() + 0.2


def test_a_members_scale_does_not_decide_its_weight(ensemble, eval_pairs):
    """One member shouts a hundred times louder: with its scale known, nothing changes."""

    class Louder:
        def __init__(self, member):
            self.member, self.tokenizer = member, member.tokenizer

        def score_ids(self, ids, *, batch_size=64):
            return 100 * self.member.score_ids(ids) + 7

    scales = list(zip(ensemble._centre[:, 0], ensemble._spread[:, 0], strict=True))
    loud = [(100 * scales[0][0] + 7, 100 * scales[0][1]), *scales[1:]]
    other = RewardEnsemble([Louder(ensemble.members[0]), *ensemble.members[1:]], loud)
    ids = ids_of(ensemble, eval_pairs)[:40]
    np.testing.assert_allclose(other.score_ids(ids), ensemble.score_ids(ids), atol=1e-9)
    np.testing.assert_allclose(other.disagreement_ids(ids), ensemble.disagreement_ids(ids), atol=1e-9)


def test_one_member_has_no_disagreement_and_cannot_be_conservative(ensemble, eval_pairs):
    alone = RewardEnsemble(ensemble.members[:1], [(0.0, 1.0)])
    ids = ids_of(ensemble, eval_pairs)[:4]
    assert np.isnan(alone.disagreement_ids(ids)).all()
    np.testing.assert_allclose(alone.score_ids(ids), ensemble.members[0].score_ids(ids))
    for number, conservatism in ((1, 1.0), (3, -1.0), (3, math.nan)):
        with pytest.raises(ConfigError, match="conservatism"):
            RewardEnsemble(ensemble.members[:number], [(0.0, 1.0)] * number, conservatism=conservatism)
    careful = RewardEnsemble(ensemble.members, [(0.0, 1.0)] * 3, conservatism=2.0)
    plain = RewardEnsemble(ensemble.members, [(0.0, 1.0)] * 3)
    np.testing.assert_allclose(careful.score_ids(ids), plain.score_ids(ids) - 2 * plain.disagreement_ids(ids))


def test_the_uncertainty_of_a_pair_by_hand():
    chosen = np.array([[1.0, 0.0, 2.0], [1.0, 1.0, 2.0], [4.0, -2.0, 2.0]])
    rejected = np.zeros((3, 3)) + np.array([0.0, 0.0, 2.0])
    found = pair_uncertainty(chosen, rejected)
    np.testing.assert_allclose(found["margin"], [2, -1 / 3, 0])
    np.testing.assert_allclose(found["disagreement"], [np.sqrt(3), np.std([0, 1, -2], ddof=1), 0])
    np.testing.assert_allclose(found["agreement"], [1, 0.5, 0.5])
    report = uncertainty_report(chosen, rejected)
    assert (report["n"], report["errors"]) == (3, 2)
    assert report["accuracy"] == pytest.approx(1 / 3)
    one = uncertainty_report(chosen[:1], rejected[:1])
    assert one["auroc_disagreement"] is None
    assert "one member" in one["reason"]
    assert "nothing to tell apart" in uncertainty_report(chosen[:, :1], rejected[:, :1])["reason"]


def test_the_report_finds_errors_where_members_split_and_nothing_where_they_err_together():
    """Simulated: half of the pairs are hard. Where members err each by itself, their split tells; of a shared error it is
    silent."""
    rng = np.random.default_rng(0)
    signal = np.repeat([3.0, 0.3], 500)
    own, shared = rng.normal(size=(5, 1000)), np.tile(rng.normal(size=1000), (5, 1))
    apart = uncertainty_report(signal + 2 * own, np.zeros((5, 1000)))
    assert apart["errors"] > 50
    assert apart["auroc_split"] > 0.7
    assert apart["accuracy"] > apart["mean_member_accuracy"]
    together = uncertainty_report(signal + 2 * shared + 0.01 * own, np.zeros((5, 1000)))
    assert together["errors"] > 50
    assert abs(together["auroc_disagreement"] - 0.5) < 0.1


def test_without_held_out_pairs_every_member_is_standardised_over_training_pairs(llama, train_pairs, tmp_path):
    out = train_reward_ensemble(llama, train_pairs.select(range(64)), None, tmp_path / "e", num_members=2, **FAST)
    record = runs.read_record(out) or {}
    assert record["unit"] == "standard deviations over training pairs"
    assert record["calibration"] is record["accuracy"] is record["uncertainty"] is None
    model = RewardEnsemble.load(out)
    chosen, rejected = model.member_rewards_of_pairs(train_pairs.select(range(64)))
    both = np.concatenate([chosen, rejected], axis=1)
    np.testing.assert_allclose(both.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(both.std(axis=1), 1, atol=1e-5)


def test_a_killed_ensemble_keeps_its_whole_members_and_ends_with_the_same_weights(llama, train_pairs, tmp_path, monkeypatch):
    from teachfair.reward_models import training

    pairs, trained, train = train_pairs.select(range(64)), [], training.train_reward_model

    def counting(*args, **options):
        if len(trained) == kill_at:
            raise KeyboardInterrupt
        trained.append(args[3].name)
        return train(*args, **options)

    monkeypatch.setattr(training, "train_reward_model", counting)
    kill_at = 99
    whole = train_reward_ensemble(llama, pairs, None, tmp_path / "whole", num_members=2, **FAST)
    trained.clear()
    kill_at = 1
    with pytest.raises(KeyboardInterrupt):
        train_reward_ensemble(llama, pairs, None, tmp_path / "killed", num_members=2, **FAST)
    assert runs.read_record(tmp_path / "killed") is None
    with pytest.raises(CheckpointError, match="no finished ensemble"):
        load_reward_model(tmp_path / "killed")
    trained.clear()
    kill_at = 99
    out = train_reward_ensemble(llama, pairs, None, tmp_path / "killed", num_members=2, **FAST)
    assert trained == ["member-1"]
    assert content_hash(out) == content_hash(whole)
    trained.clear()
    assert train_reward_ensemble(llama, pairs, None, tmp_path / "killed", num_members=2, **FAST) == out
    assert not trained, "a finished one is not made again"
    with pytest.raises(RunFolderError, match="another run"):
        train_reward_ensemble(llama, pairs, None, tmp_path / "killed", num_members=3, **FAST)


def test_bootstrap_draws_whole_clusters(train_pairs):
    drawn = resampled(train_pairs, seed=0)
    sizes, times = {}, {}
    for cluster in train_pairs["cluster"]:
        sizes[cluster] = sizes.get(cluster, 0) + 1
    for cluster in drawn["cluster"]:
        times[cluster] = times.get(cluster, 0) + 1
    assert all(times[cluster] % sizes[cluster] == 0 for cluster in times)
    assert sum(times[cluster] // sizes[cluster] for cluster in times) == len(sizes)
    assert len(times) < len(sizes)
    assert drawn["id"][:] == resampled(train_pairs, seed=0)["id"][:] != resampled(train_pairs, seed=1)["id"][:]


def test_a_damaged_ensemble_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "e")
    described = json.loads((tmp_path / "e" / "ensemble.json").read_text())
    for broken in ("no json", "{}", json.dumps({"members": []}), json.dumps({"members": [{"folder": "../member-0"}]}),
                   json.dumps({**described, "members": [{"folder": "member-0"}]}),
                   json.dumps({**described, "members": [{"folder": "member-0", "centre": 0, "spread": 0}]})):  # fmt: skip
        (tmp_path / "e" / "ensemble.json").write_text(broken)
        with pytest.raises(CheckpointError):
            load_reward_model(tmp_path / "e")
    (tmp_path / "e" / "ensemble.json").write_text(json.dumps(described))
    shutil.rmtree(tmp_path / "e" / "member-1")
    with pytest.raises(CheckpointError):
        load_reward_model(tmp_path / "e")


def test_a_single_model_loads_as_one(folder):
    assert isinstance(load_reward_model(folder / "member-0"), RewardModel)
    with pytest.raises(CheckpointError):
        load_reward_model(folder.parent / "nothing here")


def test_the_online_doors_and_the_ranking_take_an_ensemble(folder, ensemble, eval_pairs):
    from teachfair.alignment import lesson
    from teachfair.alignment.fairness_reward import FairnessReward
    from teachfair.alignment.online import _for_trl, identity

    some = eval_pairs.select(range(10))
    reward = FairnessReward.load(folder)
    prompts, answers = [row["prompt"] for row in some], [row["chosen"] for row in some]
    np.testing.assert_allclose(reward(prompts, answers), ensemble.score_pairs(some)[0], atol=1e-5)
    assert reward.identity()["scorer"] == content_hash(folder)
    (taken,), _ = _for_trl([str(folder)])
    np.testing.assert_allclose(taken(prompts=prompts, completions=answers), ensemble.score_pairs(some)[0], atol=1e-5)
    assert identity(str(folder))["model"] == content_hash(folder)
    ranked, report = lesson.rank(some, folder, on_disagreement="keep")
    np.testing.assert_allclose(ranked["reward_chosen"][:], ensemble.score_pairs(some)[0], atol=1e-5)
    assert report["reward_model_members"] == [content_hash(one) for one in member_folders(folder)]


def test_the_classifier_says_how_far_the_members_are_apart_also_after_a_kill(folder, ensemble, eval_pairs, tmp_path):
    texts = ["Cannot tell.", "Anna is.", "Cannot tell. " * 90]
    rows = list(classify(folder, texts))
    apart = ensemble.disagreement_ids([list(ensemble.tokenizer(text)["input_ids"]) for text in texts[:2]])
    assert [row["disagreement"] for row in rows[:2]] == pytest.approx(apart, abs=1e-5)
    assert rows[2]["windows"] > 1
    first, second = Rewards(ensemble), Rewards(ensemble)
    known = first.of(texts)
    second.restore(first.saved())
    assert second.of(texts) == known
    assert second.n_computed == 0
    sides = {side: list(eval_pairs[0][side]) for side in ("prompt", "chosen", "rejected")}
    pair = Row(line=1, end=0, columns={}, pair=sides)
    (judged,) = classify_rows(ensemble, first, [pair])
    members = ensemble.member_rewards_of_pairs(eval_pairs.select([0]))
    assert judged["disagreement"] == pytest.approx(pair_uncertainty(*members)["disagreement"][0], abs=1e-5)


@pytest.fixture
def taught(folder, tmp_path):
    """folder of a policy whose record says who taught it; the reward model itself is not where the record says any more."""
    from teachfair.models.provenance import named_by_hash

    def by(reward_model):
        shutil.rmtree(tmp_path / "taught", ignore_errors=True)
        runs.write_record(tmp_path / "taught", reward_model="gone/reward_model", **named_by_hash(reward_model))
        return tmp_path / "taught"

    return by


def test_no_judge_shares_a_model_with_the_teacher(folder, taught, tmp_path):
    from teachfair.evaluation.benchmarks import judged
    from teachfair.steps import _refuse_as_judge

    member = tmp_path / "copy of a member"
    shutil.copytree(folder / "member-1", member)
    other = tmp_path / "another ensemble"
    shutil.copytree(folder, other)
    described = json.loads((other / "ensemble.json").read_text())
    shutil.rmtree(other / "member-0")
    (other / "ensemble.json").write_text(json.dumps({**described, "members": described["members"][1:]}))
    for teacher, judge in ((folder, member), (member, folder), (folder, folder), (folder, other), (other, folder)):
        with pytest.raises(ConfigError, match="the judge is the teacher"):
            judged.check_policy(taught(teacher), judge=judge)
    assert judged.check_policy(taught(folder / "member-0"), judge=other)["judge_hash"] == content_hash(other)
    # a record of before, with the folder's name alone
    runs.write_record(tmp_path / "old", reward_model=str(folder))
    with pytest.raises(ConfigError, match="the judge is the teacher"):
        judged.check_policy(tmp_path / "old", judge=member)

    class Arm:
        label, adapt = "dpo", "full"

    with pytest.raises(ConfigError, match="the judge is the teacher"):
        _refuse_as_judge(member, folder, [Arm()])
    _refuse_as_judge(other, folder / "member-0", [Arm()])
