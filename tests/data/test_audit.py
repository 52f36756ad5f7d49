"""The pair audit names every planted leak, and nothing where there is none."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from teachfair import cli
from teachfair.data.audit import MIN_CLUSTERS, RULERS, audit_lines, audit_page, audit_pairs
from teachfair.errors import InputError

WORDS = ["".join(parts) for parts in itertools.product(("ba", "de", "ki", "lo", "mu"), ("na", "ro", "ti", "su"), "lnrst")]
OPENINGS = ["well", "perhaps", "it is so that", "as we know", "honestly", "to me"]
GROUPS = ["woman", "man", "muslim", "christian", "black", "asian", "old", "young"]

Row = dict[str, Any]


def answer(rng: random.Random) -> str:
    """No two alike: opening, length, marks and mentions are all drawn, the same way for either side."""
    words = rng.choice(OPENINGS).split() + rng.choices(WORDS, k=rng.randint(4, 16))
    for _ in range(rng.randint(0, 3)):
        words.insert(rng.randint(1, len(words)), rng.choice(GROUPS))
    for at in range(len(words) - 1):
        if rng.random() < 0.15:
            words[at] += rng.choice([",", ";", " –"])
    text = " ".join(words) + rng.choice([".", "!", "?", ""])
    return text.replace(" ", "  ", 1) if rng.random() < 0.1 else text


def clean(seed: int, n: int = 240) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        chosen, rejected = answer(rng), answer(rng)
        offered = [chosen, rejected]
        rng.shuffle(offered)
        prompt = f"{' '.join(rng.choices(WORDS, k=10))}? A) {offered[0]} B) {offered[1]}"
        row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        rows.append({**row, "id": f"r{number}", "cluster": f"c{number // 2}"})
    return rows


def equal_sides(row: Row, rng: random.Random) -> None:
    row["rejected"] = row["chosen"].upper() + " ."


def white_space(row: Row, rng: random.Random) -> None:
    row["chosen"] += " "


def stock_opening(row: Row, rng: random.Random) -> None:
    row["chosen"] = f"{rng.choice(['the fair thing', 'the right thing'])} {row['chosen']}"
    row["rejected"] = f"{rng.choice(['the sure thing', 'the real thing'])} {row['rejected']}"


def length(row: Row, rng: random.Random) -> None:
    row["chosen"] = f"{row['chosen']} {' '.join(rng.choices(WORDS, k=8))}"


def punctuation(row: Row, rng: random.Random) -> None:
    row["chosen"] = row["chosen"].rstrip(".!?") + "."
    row["rejected"] = row["rejected"].rstrip(".!?")


def mention_count(row: Row, rng: random.Random) -> None:
    row["rejected"] = f"{row['rejected']} {rng.choice(GROUPS)} {rng.choice(GROUPS)} {rng.choice(GROUPS)}"


def order(row: Row, rng: random.Random) -> None:
    row["prompt"] = f"{row['prompt'].split('?')[0]}? A) {row['chosen']} B) {row['rejected']}"


def near_duplicates(row: Row, rng: random.Random) -> None:
    raise NotImplementedError  # planted between rows, below


LEAKS: dict[str, tuple[Callable[[Row, random.Random], None], float]] = {
    "equal sides": (equal_sides, 0.02),
    "near-duplicates": (near_duplicates, 0.05),
    "white space": (white_space, 0.5),
    "stock opening": (stock_opening, 0.6),
    "length": (length, 0.6),
    "punctuation": (punctuation, 0.6),
    "mention count": (mention_count, 0.6),
    "order in the prompt": (order, 0.6),
}  # what is planted, and in what share of the rows


def planted(leak: str, seed: int) -> list[Row]:
    rows, rng = clean(seed), random.Random(seed)
    change, share = LEAKS[leak]
    for number in rng.sample(range(len(rows)), round(share * len(rows))):
        if leak == "near-duplicates":
            other = rng.randrange(len(rows))
            copied = {side: rows[number][side] for side in ("prompt", "chosen", "rejected")}
            rows[other] |= {**copied, "chosen": f"{copied['chosen']} {rng.choice(WORDS)}", "cluster": f"copy-{number}"}
        else:
            change(rows[number], rng)
    return rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("leak", LEAKS)
def test_planted_leak_is_found(leak: str, seed: int) -> None:
    found = audit_pairs(planted(leak, seed))
    assert leak in found["found"], audit_lines(found)
    check = next(check for check in found["checks"] if check["name"] == leak)
    assert check["examples"]
    assert set(check["examples"]) <= {f"r{number}" for number in range(240)}


@pytest.mark.parametrize("seed", range(100, 110))
def test_nothing_is_found_in_clean_pairs(seed: int) -> None:
    found = audit_pairs(clean(seed))
    assert found["found"] == [], audit_lines(found)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("first token", lambda row: row.update(chosen=f"Surely {row['chosen']}", rejected=f"Never {row['rejected']}")),
        ("identity terms", lambda row: row.update(chosen=f"{row['chosen']} jewish", rejected=f"{row['rejected']} hindu")),
        ("bag of words", lambda row: row.update(chosen=f"{row['chosen']} quux", rejected=f"{row['rejected']} quuz")),
    ],
)
def test_rulers_by_words_find_theirs(name: str, change: Callable[[Row], None]) -> None:
    rows = clean(3)
    for row in rows:
        change(row)
    assert name in audit_pairs(rows)["found"]


def test_a_ruler_that_only_knows_a_cluster_is_not_found() -> None:
    rng = random.Random(0)
    rows = []
    for cluster in range(60):  # the sides of a cluster are told apart by words that no other cluster has
        good, bad = ("".join(rng.choices("abcdefghij", k=9)) for _ in range(2))
        for _ in range(4):
            filler = " ".join(rng.choices(WORDS, k=12))
            sides = {"chosen": f"{filler} {good}", "rejected": f"{filler} {bad}"}
            rows.append({"prompt": filler, **sides, "cluster": f"{cluster}"})
    assert audit_pairs(rows)["found"] == []


def test_few_clusters_are_not_judged_and_undefined_is_not_zero() -> None:
    found = audit_pairs([{**row, "cluster": f"{number % 5}"} for number, row in enumerate(clean(1))])
    ruled = [check for check in found["checks"] if check["name"] in RULERS]
    assert all(check["value"] is None and not check["found"] for check in ruled)
    assert all(f"at least {MIN_CLUSTERS}" in check["told"] for check in ruled)
    with pytest.raises(InputError, match="no pairs"):
        audit_pairs([])


def test_rows_equal_within_their_cluster_are_no_near_duplicates() -> None:
    rows = clean(2, n=100)
    rows += [{**row, "id": f"{row['id']}-again"} for row in rows[:40]]
    assert "near-duplicates" not in audit_pairs(rows)["found"]
    assert "near-duplicates" in audit_pairs([{**row, "cluster": row["id"]} for row in rows])["found"]


def test_audit_is_json_and_the_same_for_the_same_seed() -> None:
    rows = clean(4)
    assert json.dumps(audit_pairs(rows), allow_nan=False) == json.dumps(audit_pairs(rows), allow_nan=False)


def test_page_escapes_what_the_data_says_and_asks_for_nothing() -> None:
    rows = [{**row, "source": "<script>alert(1)</script>", "id": "<b>\x00\ud800"} for row in planted("length", 0)]
    page = audit_page(audit_pairs(rows), "a <title> & more")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "a &lt;title&gt; &amp; more" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=", page)
    page.encode("utf-8")


def test_verb_without_arguments_audits_the_sandbox(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["audit-pairs"]) == 0
    folder = tmp_path / "runs" / "audit-pairs"
    assert {path.name for path in folder.iterdir()} == {"audit.html", "audit.json", "run.json"}
    audit = json.loads((folder / "audit.json").read_text())
    assert audit["sources"] == {"sandbox": audit["n"]}
    assert "4000 pairs" in capsys.readouterr().out


def test_file_with_equal_pairs_is_audited_and_says_so(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = clean(5, n=60)
    rows[3]["rejected"] = rows[3]["chosen"] + " "
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert cli.main(["audit-pairs", "--dataset_name", str(path), "--output_dir", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["found"] == ["equal sides"]
    assert cli.main(["audit-pairs", "--dataset_source", "sandbx"]) == 2
    assert cli.main(["audit-pairs", "--folds", "1"]) == 2
