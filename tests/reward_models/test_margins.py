"""Severity margins: read, refused where they are wrong, carried along, and in TRL's loss as the formula has them."""

import json
import logging

import numpy as np
import pytest
from datasets import concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from teachfair.data.mixing import mix
from teachfair.data.pairs import PAIR_COLUMNS, checked, margins_of, pairs_dataset, read_preference_file, validate_rows
from teachfair.data.sources import preference_file
from teachfair.errors import ConfigError, DataError
from teachfair.reward_models.scoring import RewardModel
from teachfair.reward_models.training import _load_base, train_reward_model


def row(number, **more):
    return {"prompt": f"Who is late, {number}?", "chosen": "Cannot tell.", "rejected": "Ann.", "id": str(number), **more}


def written(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def with_margins(pairs, margins):
    return pairs.add_column("margin", [float(margin) for margin in margins])


def test_a_margin_is_read_from_every_format_and_absent_means_none(tmp_path):
    import pandas as pd

    rows = [row(1, margin=0.5), row(2), row(3, margin=2), row(4, margin=None)]
    written(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    table = pd.DataFrame([{**one, "margin": one.get("margin")} for one in rows])
    table.astype({"margin": object}).where(table.notna(), None).to_csv(tmp_path / "a.csv", index=False)
    from datasets import Dataset

    Dataset.from_list([{**one, "margin": one.get("margin")} for one in [row(1, margin=0.5), row(2), row(3, margin=2.0)]]
                      + [row(4, margin=None)]).to_parquet(tmp_path / "a.parquet")  # fmt: skip
    for suffix in ("jsonl", "json", "csv", "parquet"):
        pairs = preference_file.load(tmp_path / f"a.{suffix}")
        assert margins_of(pairs) == [0.5, 0.0, 2.0, 0.0], suffix
        assert "margin" not in read_preference_file(tmp_path / f"a.{suffix}")[1].ignored_columns
    plain = pairs_dataset(checked([row(1), row(2)], "x")[0])
    assert tuple(plain.column_names) == PAIR_COLUMNS, "sets without margins are what they were"
    assert margins_of(plain) == [0.0, 0.0]


def test_wrong_margins_are_all_named_by_file_line_and_field(tmp_path):
    lines = [json.dumps(row(1, margin=1.0))]
    bad = ["NaN", "-0.5", '"high"', "Infinity", "true", "[1]", "1" + "0" * 400]
    lines += [json.dumps(row(number + 2)).replace("}", f', "margin": {text}}}') for number, text in enumerate(bad)]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        preference_file.load(tmp_path / "bad.jsonl")
    for line in range(2, 2 + len(bad)):
        assert f"bad.jsonl:{line}: margin" in str(error.value) or f"bad.jsonl:{line}: " in str(error.value), line
    assert "bad.jsonl:1:" not in str(error.value)
    (tmp_path / "bad.csv").write_text("prompt,chosen,rejected,margin\nWho?,a,b,much\nWhich?,a,b,1.5\n")
    with pytest.raises(DataError, match=r"bad\.csv:\d+.*margin"):
        preference_file.load(tmp_path / "bad.csv")


@given(st.one_of(st.none(), st.floats(), st.integers(), st.text(max_size=4), st.booleans(), st.lists(st.integers())))
def test_every_margin_is_either_a_finite_number_of_at_least_0_or_a_problem(margin):
    good, problems = validate_rows([row(1, margin=margin)], "x")
    assert len(good) + len(problems) == 1
    if good:
        assert margin is None or good[0]["margin"] == float(margin) >= 0
        assert margins_of(pairs_dataset(good)) == [float(margin or 0)]
    else:
        assert problems[0].field == "margin"


def test_margins_survive_mixing_shuffling_limits_exclusion_splits_and_concatenation(tmp_path):
    from teachfair.alignment.lesson import split_by_cluster

    rows = [row(number, margin=number / 4) for number in range(40)]
    (tmp_path / "ids").write_text("3\n7\n")
    pairs = preference_file.load(written(tmp_path / "a.jsonl", rows), exclude_ids=tmp_path / "ids")

    def kept(found):
        return {one["id"].split(":")[-1]: one["margin"] for one in found if one["margin"]}

    want = {str(number): number / 4 for number in range(1, 40) if number not in (3, 7)}
    assert kept(pairs) == want
    assert kept(pairs.shuffle(seed=1).select(range(20))).items() <= want.items()
    train, test = split_by_cluster(pairs, share=0.3, seed=0)
    assert kept(train) | kept(test) == want
    plain = pairs_dataset(checked([row(f"p{number}") for number in range(5)], "x")[0])
    assert kept(mix({"a": pairs, "b": plain})) == want
    for both in ([pairs, plain], [plain, pairs]):
        joined = concatenate_datasets(both)
        assert len(joined) == 43
        assert sum(margins_of(joined)) == pytest.approx(sum(want.values()))


def test_a_pair_whose_sides_the_ranking_exchanges_loses_its_margin():
    from teachfair.reward_models.ranking import rank_pairs

    class Backwards:
        name = "backwards"

        def score_pairs(self, pairs, *, batch_size=64):
            return np.array([0.0, 1.0]), np.array([1.0, 0.0])

    pairs = with_margins(pairs_dataset(checked([row(1), row(2)], "x")[0]), [0.5, 0.7])
    ranked, _ = rank_pairs(pairs, Backwards(), on_disagreement="flip")
    assert ranked["margin"][:] == [0.0, 0.7]


@pytest.mark.parametrize("scale", [1.0, 2.5, 0.0])
def test_the_loss_of_the_first_step_is_the_formula_with_our_margins(llama, train_pairs, tmp_path, scale):
    """−log σ(r_c − r_r − scale · m) + .01 · (r_c + r_r)², mean over all pairs in one batch, worked out by hand."""
    import torch

    margins = [0.0, 0.5, 1.5, 3.0] * 4
    pairs = with_margins(train_pairs.select(range(16)), margins)
    out = train_reward_model(
        llama, pairs, None, tmp_path / "rm", margin_scale=scale, max_steps=1, per_device_train_batch_size=16,
        disable_tqdm=True, seed=3,
    )  # fmt: skip
    record = json.loads((out / "run.json").read_text())
    model, tokenizer, _ = _load_base(llama, 3)
    model.config.teachfair_framed = True
    chosen, rejected = (torch.tensor(rewards) for rewards in RewardModel(model, tokenizer).score_pairs(pairs))
    wanted = -torch.nn.functional.logsigmoid(chosen - rejected - scale * torch.tensor(margins))
    wanted += 0.01 * (chosen + rejected) ** 2
    assert record["train_loss"] == pytest.approx(wanted.mean().item(), abs=1e-5)
    assert record["data"]["margins"] == {"scale": scale, "share": 0.75, "mean": pytest.approx(5 / 3), "largest": 3.0}


def test_larger_margins_widen_the_learnt_gap_of_those_pairs(llama, train_pairs, tmp_path):
    """One of the two kinds is severe. What both share widens the other one's gap as well: docs/reward-models.md."""
    severe = [kind == "cant-tell-vs-stereotype" for kind in train_pairs["kind"]]

    def gap(name, margin):
        pairs = with_margins(train_pairs, [margin if one else 0.0 for one in severe])
        out = train_reward_model(
            llama, pairs, None, tmp_path / name, max_steps=40, learning_rate=3e-3, per_device_train_batch_size=16,
            disable_tqdm=True, lr_scheduler_type="constant",
        )  # fmt: skip
        chosen, rejected = RewardModel.load(out).score_pairs(train_pairs.select(range(200)))
        return (chosen - rejected)[np.array(severe[:200])].mean()

    found = [gap(f"margin-{margin:g}", margin) for margin in (0.0, 2.0, 4.0)]
    assert found[1] > found[0] + 0.5, found
    assert found[2] > found[1] + 0.5, found


def test_a_scale_that_is_no_scale_is_refused_and_another_margin_is_another_run(llama, train_pairs, tmp_path):
    from transformers import TrainerCallback

    for scale in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="margin_scale"):
            train_reward_model(llama, train_pairs, None, tmp_path / "rm", margin_scale=scale, max_steps=1)

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "disable_tqdm": True}
    one = with_margins(train_pairs.select(range(64)), [1.0] * 64)
    with pytest.raises(KeyboardInterrupt):
        train_reward_model(llama, one, None, tmp_path / "rm", callbacks=[Kill()], **options)
    out = train_reward_model(llama, one, None, tmp_path / "rm", margin_scale=2.0, **options)
    assert json.loads((out / "run.json").read_text())["resumed_from"] is None


def test_dpo_says_that_it_does_not_read_margins(tiny_llama, tmp_path, caplog):
    from teachfair.alignment import dpo
    from teachfair.errors import TeachfairError

    pairs = with_margins(pairs_dataset(checked([row(1)], "x")[0]), [1.0])
    with caplog.at_level(logging.WARNING), pytest.raises(TeachfairError):
        dpo.teach(tmp_path / "no such policy", pairs, tmp_path / "out", args=None)
    assert "DPO does not read them" in caplog.text
