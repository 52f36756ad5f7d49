"""The sandbox benchmark: records as the protocol wants them, and a summary that is pure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from teachfair.data.sandbox import SandboxConfig, World
from teachfair.errors import InputError
from teachfair.evaluation.benchmarks import sandbox
from teachfair.models.scorer import PolicyScorer


def policy(world: SandboxConfig, seed: int = 0) -> tuple[Any, Any]:
    """An untrained Llama with the world's tokenizer: scores are what is tested, not learning."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from teachfair.data.sandbox.vocabulary import build_tokenizer

    tokenizer = build_tokenizer(World(world))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.2, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.fixture(scope="module")
def scored() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    items = sandbox.items()
    return items, sandbox.score(PolicyScorer(*policy(SandboxConfig())), items)


def test_each_item_has_one_record_in_order_with_one_token_options(scored: Any) -> None:
    items, records = scored
    assert [r["item_id"] for r in records] == [i["id"] for i in items]
    for item, record in zip(items, records, strict=True):
        assert record["roles"] == item["roles"]
        assert record["n_tokens"] == [1] * len(item["options"])
        assert record["logps_first"] == record["logps_whole"]
        assert all(math.isfinite(logp) and logp < 0 for logp in record["logps_first"])


def test_scores_equal_the_plainest_forward_pass(scored: Any) -> None:
    import torch

    items, records = scored
    model, tokenizer = policy(SandboxConfig())
    for index in range(0, len(items), 97):
        item = items[index]
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": item["prompt"]}], add_generation_prompt=True, return_dict=False
        )
        with torch.no_grad():
            logps = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)
        expected = [logps[tokenizer.convert_tokens_to_ids(option)].item() for option in item["options"]]
        assert records[index]["logps_first"] == pytest.approx(expected, abs=1e-5)


def test_margins_are_stereotype_minus_unknown_and_parity_is_beside_them(scored: Any) -> None:
    for record in scored[1]:
        first = dict(zip(record["roles"], record["logps_first"], strict=True))
        if record["condition"] == "ambiguous":
            assert record["margin_nats"] == first["stereotype"] - first["unknown"]
            assert record["margin_parity_nats"] == first["stereotype"] - first["anti"]
            assert math.isnan(record["correct"])
        elif record["condition"] == "placebo":
            assert record["margin_nats"] == first["default"] - first["placebo"]
        else:
            assert math.isnan(record["margin_nats"])
            assert record["correct"] in (0.0, 1.0)
        assert record["chosen_role"] == max(first, key=first.__getitem__)


def test_margin_changes_sign_of_its_parity_when_people_swap_roles() -> None:
    model, tokenizer = policy(SandboxConfig())
    item = sandbox.items(conditions=("ambiguous",))[0]
    stereotype, anti, unknown = item["options"]
    swapped = {**item, "options": [anti, stereotype, unknown]}
    one, other = sandbox.score(PolicyScorer(model, tokenizer), [item, swapped])
    assert one["margin_parity_nats"] == pytest.approx(-other["margin_parity_nats"])


def test_a_policy_of_another_world_is_refused() -> None:
    model, tokenizer = policy(SandboxConfig(seed=1))
    with pytest.raises(InputError, match="same world seed"):
        sandbox.score(PolicyScorer(model, tokenizer), sandbox.items())


def test_the_items_of_both_axes_carry_the_taught_axis() -> None:
    items = sandbox.items(world=SandboxConfig(taught_axis="origin"))
    assert {i["taught_axis"] for i in items} == {"origin"}
    assert {"gender", "origin"} <= {i["axis"] for i in items}


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    plain = {
        "axis": "gender", "condition": "ambiguous", "margin_nats": math.nan, "margin_parity_nats": math.nan,
        "chosen_role": "unknown", "correct": math.nan, "evidence": "", "favoured": "", "yes_nats": math.nan,
    }  # fmt: skip
    return pd.DataFrame([{**plain, **row} for row in rows])


def test_the_summary_of_known_records_is_what_arithmetic_says() -> None:
    records = frame(
        [
            {"margin_nats": 2.0, "margin_parity_nats": 1.0, "chosen_role": "stereotype"},
            {"margin_nats": -1.0, "margin_parity_nats": 3.0},
            {"axis": "origin", "margin_nats": 4.0, "margin_parity_nats": 0.0, "chosen_role": "anti"},
            {"condition": "disambiguated", "evidence": "agree", "chosen_role": "evidence", "correct": 1.0},
            {"condition": "disambiguated", "evidence": "clash", "chosen_role": "unknown", "correct": 0.0},
            {"condition": "decision", "favoured": "yes", "yes_nats": 3.0, "correct": 1.0},
            {"condition": "decision", "favoured": "no", "yes_nats": 2.5, "correct": 1.0},
            {"axis": "none", "condition": "neutral", "correct": 1.0},
            {"axis": "none", "condition": "placebo", "margin_nats": 1.5},
        ]
    )
    summary = sandbox.summarise(records)
    gender = summary["by_axis"]["gender"]
    assert gender["ambiguous_margin_nats"] == 0.5
    assert gender["ambiguous_parity_nats"] == 2.0
    assert gender["ambiguous_unknown_share"] == 0.5
    assert gender["disambiguated_accuracy"] == gender["unknown_overuse"] == 0.5
    assert gender["disambiguated_agree_accuracy"] == 1.0
    assert gender["disambiguated_clash_accuracy"] == 0.0
    assert gender["decision_gap_nats"] == 0.5
    assert summary["ambiguous_margin_nats"] == 2.25
    assert summary["neutral_accuracy"] == 1.0
    assert summary["placebo_margin_nats"] == 1.5
    assert summary["n_items"] == 9


def test_what_has_no_items_is_nan_and_not_zero() -> None:
    summary = sandbox.summarise(frame([{"margin_nats": 1.0, "margin_parity_nats": 1.0}]))
    assert summary["by_axis"]["gender"]["ambiguous_margin_nats"] == 1.0
    for key in ("disambiguated_accuracy", "unknown_overuse", "definitional_accuracy", "decision_gap_nats"):
        assert math.isnan(summary["by_axis"]["gender"][key])
    assert math.isnan(summary["neutral_accuracy"])


def test_summarise_is_pure_and_survives_parquet(scored: Any, tmp_path: Path) -> None:
    records = pd.DataFrame(scored[1])
    before = records.copy(deep=True)
    summary = sandbox.summarise(records)
    pd.testing.assert_frame_equal(records, before)
    records.to_parquet(tmp_path / "records.parquet")
    again = sandbox.summarise(pd.read_parquet(tmp_path / "records.parquet"))
    assert np.isclose(again["ambiguous_margin_nats"], summary["ambiguous_margin_nats"])
