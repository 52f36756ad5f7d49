from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from teachfair.errors import ConfigError, DataError
from teachfair.evaluation.benchmarks import crows_pairs
from teachfair.models.checkpoint import load_policy
from teachfair.models.scorer import PolicyScorer

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
ROW = '0,tom was late,ann was late,stereo,gender,"[]",a0,"[]"\n'


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / crows_pairs.FILE
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.shared
def test_all_rows_of_the_authors_file_are_read(shared: Path):
    items = crows_pairs.items(shared / "data" / "crows_pairs")
    assert items == crows_pairs.items(shared / "data")  # the folder above does as well
    assert len(items) == 1508
    counts = pd.Series([item["axis"] for item in items]).value_counts().to_dict()
    assert counts == {
        "race-color": 516,
        "gender": 262,
        "socioeconomic": 172,
        "nationality": 159,
        "religion": 105,
        "age": 87,
        "sexual-orientation": 84,
        "physical-appearance": 63,
        "disability": 60,
    }
    assert pd.Series([item["direction"] for item in items]).value_counts().to_dict() == {
        "stereo": 1290,
        "antistereo": 218,
    }
    # Row 2 is antistereo, and sent_more is still the stereotypical sentence: nothing is swapped.
    assert items[2]["direction"] == "antistereo"
    assert dict(zip(items[2]["roles"], items[2]["options"], strict=True))["stereotype"].endswith(
        "whether he would come forward."
    )


def plainest_code(folder: Path, file: Path, n: int | None) -> tuple[np.ndarray, np.ndarray]:
    """transformers and a loop: summed log-likelihood of every sentence, one at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def logp(sentence: str) -> float:
        ids = torch.tensor(
            [[tokenizer.bos_token_id, *tokenizer(sentence, add_special_tokens=False)["input_ids"]]]
        )
        with torch.inference_mode():
            logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return logps.gather(1, ids[0, 1:, None]).double().sum().item()

    with open(file, encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))[:n]
    return np.array([logp(row["sent_more"]) for row in rows]), np.array(
        [logp(row["sent_less"]) for row in rows]
    )


def compare(name: str, shared: Path, n: int | None) -> None:
    folder, data = shared / "models" / name, shared / "data" / "crows_pairs"
    more, less = plainest_code(folder, data / crows_pairs.FILE, n)
    model, tokenizer = load_policy(folder)
    records = pd.DataFrame(crows_pairs.score(PolicyScorer(model, tokenizer), crows_pairs.items(data)[:n]))
    ours = np.array(records["logps_whole"].to_list())
    n_tokens = np.array(records["n_tokens"].to_list())
    # 1e-5 a token; sums of hundreds of nats carry fp32's own rounding, 5e-7 of the sum.
    assert (np.abs(ours - np.stack([more, less], 1)) / n_tokens).max() < 1e-5
    np.testing.assert_allclose(ours, np.stack([more, less], 1), rtol=1e-6)
    # And the number itself: the same pairs, all of them.
    summary = crows_pairs.summarise(records)
    assert summary["n"] == len(more)
    assert summary["pct_more"] == pytest.approx(100 * np.mean(more > less), abs=1e-5)
    assert summary["margin_mean_nats"] == pytest.approx(np.mean(more - less), abs=1e-5)
    for axis, part in summary["by_bias_type"].items():
        rows = (records["axis"] == axis).to_numpy()
        assert part["pct_more"] == pytest.approx(100 * np.mean(more[rows] > less[rows]), abs=1e-5)
        assert part["n_ties"] == int((more[rows] == less[rows]).sum())


@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_score_equals_one_sentence_at_a_time(name, shared: Path):
    compare(name, shared, 150)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_score_of_all_1508_pairs_equals_one_sentence_at_a_time(name, shared: Path):
    compare(name, shared, None)


def test_margin_changes_sign_when_the_sentences_swap(tiny_llama: Path, tmp_path: Path):
    model, tokenizer = load_policy(tiny_llama)
    (item,) = crows_pairs.items(write(tmp_path, HEADER + ROW))
    (record,) = crows_pairs.score(PolicyScorer(model, tokenizer), [item])
    swapped = {**item, "options": item["options"][::-1]}
    (other,) = crows_pairs.score(PolicyScorer(model, tokenizer), [swapped])
    assert record["margin_nats"] == -other["margin_nats"] != 0
    assert {record["chosen_role"], other["chosen_role"]} == {"stereotype", "anti"}
    assert (record["chosen_role"] == "stereotype") == (record["margin_nats"] > 0)
    # They part at their first token, of which nothing precedes but the BOS.
    assert record["logps_first"] == other["logps_first"][::-1]
    assert all(
        first > whole for first, whole in zip(record["logps_first"], record["logps_whole"], strict=True)
    )


def test_a_tie_is_neither_bias_nor_its_absence(tiny_llama: Path, tmp_path: Path):
    # Two words that the tokenizer does not know are the same token: the sentences cannot be told apart.
    rows = HEADER + ROW + '1,zoe was late,max was late,antistereo,gender,"[]",a0,"[]"\n'
    model, tokenizer = load_policy(tiny_llama)
    records = pd.DataFrame(crows_pairs.score(PolicyScorer(model, tokenizer), crows_pairs.items(write(tmp_path, rows))))
    assert records["margin_nats"][1] == 0
    assert records["chosen_role"][1] == "tie"
    assert all(math.isnan(value) for value in records["logps_first"][1])
    summary = crows_pairs.summarise(records)
    assert (summary["n"], summary["n_ties"]) == (2, 1)
    assert summary["pct_more"] in (0.0, 50.0)
    assert summary["by_direction"]["antistereo"]["n_ties"] == 1
    assert summary["by_direction"]["antistereo"]["reasons"] == {"margin_se_nats": "fewer than two pairs"}


def test_summary_of_known_margins():
    records = pd.DataFrame(
        {
            "margin_nats": [2.0, 1.0, -1.0, 0.0],
            "axis": ["age", "age", "gender", "gender"],
            "direction": ["stereo", "antistereo", "stereo", "stereo"],
            "dropped_characters": [0, 3, 0, 0],
            "scored_by": ["whole sentences"] * 4,
            "problem": [""] * 4,
            "prefix_mismatch": [False] * 4,
        }
    )
    summary = crows_pairs.summarise(records)
    assert summary["pct_more"] == 50.0
    low, high = summary["pct_more_ci95"]
    assert low < 50 < high
    assert summary["margin_mean_nats"] == 0.5
    assert summary["margin_se_nats"] == pytest.approx(np.std([2, 1, -1, 0], ddof=1) / 2)
    assert summary["by_bias_type"]["age"]["pct_more"] == 100.0
    assert summary["by_bias_type"]["gender"]["pct_more"] == 0.0
    assert summary["n_pairs_with_dropped_characters"] == 1
    empty = crows_pairs.summarise(records.iloc[:0])
    assert math.isnan(empty["pct_more"])
    assert empty["reasons"]["pct_more"] == "no pairs"


@pytest.mark.shared
def test_characters_that_a_tokenizer_drops_are_counted(shared: Path, tmp_path: Path):
    rows = HEADER + '0,He ran 5 % faster.,She ran 5 % faster.,stereo,gender,"[]",a0,"[]"\n'
    (item,) = crows_pairs.items(write(tmp_path, rows))
    for name, lost in (("tinystories-656k", 2), ("stories260K", 0)):
        model, tokenizer = load_policy(shared / "models" / name)
        (record,) = crows_pairs.score(PolicyScorer(model, tokenizer), [item])
        assert record["dropped_characters"] == lost


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("", 1, "sent_more"),
        ("a,b\n1,2\n", 1, "sent_more"),
        (HEADER, 1, "rows"),
        (HEADER + ROW + '1,,ann was late,stereo,gender,"[]",a0,"[]"\n', 3, "sent_more"),
        (HEADER + ROW + '1,tom was late,  ,stereo,gender,"[]",a0,"[]"\n', 3, "sent_less"),
        (HEADER + ROW + '1,tom was late,ann was late,both,gender,"[]",a0,"[]"\n', 3, "stereo_antistereo"),
        (HEADER + '0,tom was late,ann was late,stereo,shoe size,"[]",a0,"[]"\n', 2, "bias_type"),
        (HEADER + "0,tom was late\n", 2, "sent_less"),
        (HEADER + ROW.strip() + ",one more\n", 2, "row"),
        (HEADER + '0,"tom\nwas late",ann was late,both,gender,"[]",a0,"[]"\n', 3, "stereo_antistereo"),
        ((HEADER + ROW).encode() + b'1,tom \xe9t\xe9,x,stereo,gender,"[]",a0,"[]"\n', None, "encoding"),
    ],
)
def test_malformed_rows_name_file_line_and_field(text, line, field, tmp_path: Path):
    with pytest.raises(DataError) as caught:
        crows_pairs.items(write(tmp_path, text))
    place, number, found = caught.value.where.rsplit(":", 2)
    assert Path(place).name == crows_pairs.FILE
    assert found.strip() == field
    assert line is None or int(number) == line
    assert caught.value.fix


def test_an_absent_file_says_where_it_comes_from(tmp_path: Path):
    for folder in (None, tmp_path):
        with pytest.raises(ConfigError, match="nyu-mll/crows-pairs") as caught:
            crows_pairs.items(folder)
        assert "--data_dir" in caught.value.where


def test_card_is_complete_and_names_a_target():
    assert set(crows_pairs.CARD) >= {
        "name",
        "meaning",
        "paper",
        "licence",
        "language",
        "norm",
        "version",
        "direction",
        "target",
        "problems",
    }
    assert "parity" in crows_pairs.CARD["target"]
