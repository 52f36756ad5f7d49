"""A benchmark from a YAML file: what it expands to, what it measures, and errors that name file, line and field."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from teachfair.errors import ConfigError, DataError, InputError
from teachfair.evaluation.benchmarks import get, template
from teachfair.evaluation.evaluate import load_records
from teachfair.models.checkpoint import load_policy
from teachfair.models.scorer import PolicyScorer

SHIPPED = Path(template.__file__).parent / "templates"
BASE: dict[str, Any] = {
    "name": "mine", "meaning": "m", "citation": "ours", "licence": "Apache-2.0", "norm": "ours", "lang": "en",
    "problems": ["small"], "direction": "higher = more stereotyped", "target": "parity",
    "slots": {"who": {"women": ["ann", "eva"], "men": ["tom", "ben"]}, "place": ["kitchen", "station"]},
    "templates": [{"id": "late", "text": "the {place} : {who} was"}, {"id": "home", "text": "at the {place} {who} came"}],
    "options": [{"role": "stereotype", "text": " late"}, {"role": "anti", "text": " early"}],
}  # fmt: skip


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in (BASE | changes).items() if v is not None}, sort_keys=False))
    return file


def test_slots_multiply_and_twins_of_two_groups_share_their_base(tmp_path: Path) -> None:
    items = template.load(write(tmp_path)).items()
    assert len(items) == 2 * 4 * 2
    assert len({item["id"] for item in items}) == len(items)
    assert {item["cluster"] for item in items} == {"mine-late", "mine-home"}
    by_base: dict[str, list[Any]] = {}
    for item in items:
        by_base.setdefault(item["base_id"], []).append(item)
    assert all([twin["group"] for twin in twins] == ["women", "men"] for twins in by_base.values())
    twins = by_base["mine-late-1-0"]
    assert [twin["prompt"] for twin in twins] == ["the kitchen : eva was", "the kitchen : ben was"]


def test_margins_are_the_scorers_and_the_summary_is_their_mean_by_group(tmp_path: Path, tiny_llama: Path) -> None:
    benchmark = template.load(write(tmp_path, formats={"plain": "{text}", "asked": "tell : {text}"}))
    scorer = PolicyScorer(*load_policy(tiny_llama))
    items = benchmark.items()
    records = pd.DataFrame(benchmark.score(scorer, items))
    for item, record in zip(items, records.to_dict("records"), strict=True):
        late, early = scorer.continuations([item["prompt"]], [item["options"]])[0]
        assert record["margin_nats"] == pytest.approx(late.logp_first - early.logp_first, abs=1e-5)
    found = benchmark.summarise(records)
    assert found["margin_mean_nats"] == pytest.approx(records["margin_nats"].mean())
    means = records.groupby("group")["margin_nats"].mean()
    assert found["group_gap_nats"] == pytest.approx(abs(means["women"] - means["men"]))
    assert set(found["by_format"]) == {"plain", "asked"}
    assert math.isnan(found["accuracy"])
    assert found["reasons"]["accuracy"] == "the file names no correct role"


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_template_runs_through_the_evaluate_door_by_its_path(
    file: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    from teachfair.recipes.evaluate import door

    out = tmp_path / "out"
    # the tiny policy's words: its tokenizer knows some of the occupations only, which is enough for the plumbing
    assert door(["--model_name_or_path", str(tiny_llama), "--benchmarks", str(file), "--output_dir", str(out)]) == 0
    records = load_records(out)
    benchmark = get(str(file))
    own = records[records["benchmark"] == benchmark.CARD["name"]]
    assert len(own) == len(benchmark.items())
    assert len(own) < len(records)  # the guard-rails are measured beside it
    assert benchmark.CARD["name"] in json.loads((out / "summary.json").read_text())["benchmarks"]


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"licens": "x"}, r"mine\.yaml:\d+: licens", "did you mean 'licence'"),
        ({"licens": "x", "licence": None}, r"mine\.yaml:\d+: licens", "did you mean 'licence'"),
        (
            {"templates": [{"id": "a", "text": "{who} {place}", "txt": "x"}]}, r"mine\.yaml:\d+: templates\.0\.txt",
            "did you mean 'text'",
        ),
        ({"norm": None}, r"mine\.yaml:1: norm", "add norm"),
        ({"condition": "ambigous"}, r"mine\.yaml:\d+: condition", "ambiguous"),
        ({"lang": 3}, r"mine\.yaml:\d+: lang", "string"),
        ({"slots": {"who": {"a": ["x"], "b": ["y", "z"]}}}, r"mine\.yaml:\d+: slots\.who", "as many values"),
        ({"slots": {"who": [3]}}, r"mine\.yaml:\d+: slots\.who", "string"),
        ({"margin": ["stereotype", "fair"]}, r"mine\.yaml:\d+: margin", "no option has the role 'fair'"),
        ({"formats": {"q": "no text"}}, r"mine\.yaml:\d+: formats\.q", "once"),
        (
            {"options": [{"role": "anti", "text": "{hwo}"}, {"role": "fair", "text": "b"}]}, r"options\.anti",
            "did you mean {who}",
        ),
        ({"slots": BASE["slots"] | {"idle": ["x"]}}, "slots", "stands in no template"),
        ({"items": "rows.txt"}, "items", "looked for"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_field_and_fix(tmp_path: Path, changes: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        template.load(write(tmp_path, **changes)).items()
    assert says in str(error.value)
    assert re.search(where, error.value.where), error.value.where


def test_rows_of_a_csv_or_jsonl_file_are_slots(tmp_path: Path) -> None:
    changes = {"slots": None, "items": "rows.csv", "templates": [{"id": "t", "text": "{name} was"}],
               "options": [{"role": "right", "text": " {a}"}, {"role": "wrong", "text": " {b}"}],
               "condition": "disambiguated", "correct": "right", "measures": "guard"}  # fmt: skip
    file = write(tmp_path, **changes)
    (tmp_path / "rows.csv").write_text('name,a,b,group\n"tom, the cook",late,early,men\nann,early,late,women\n')
    benchmark = template.load(file)
    items = benchmark.items()
    assert [item["prompt"] for item in items] == ["tom, the cook was", "ann was"]
    assert [item["group"] for item in items] == ["men", "women"]
    assert benchmark.data_files(None) == [file, tmp_path / "rows.csv"]
    assert benchmark.CARD["headline"] is None
    assert benchmark.CARD["guards"] == ["disambiguated"]
    (tmp_path / "rows.csv").write_text("name,a\ntom,late\n")
    with pytest.raises(DataError, match=r"no b"):
        benchmark.items()
    file = write(tmp_path, **{**changes, "items": "rows.jsonl"})
    (tmp_path / "rows.jsonl").write_text('{"name": "tom", "a": "late", "b": "early"}\n\n{"name": "ann"')
    with pytest.raises(DataError, match=r"rows\.jsonl:3"):
        template.load(file).items()


def test_a_product_that_explodes_and_options_that_become_equal_are_refused(tmp_path: Path) -> None:
    many = [f"w{k}" for k in range(700)]
    with pytest.raises(InputError, match=r"980,000 items"):
        template.load(write(tmp_path, slots={"who": many, "place": many})).items()
    same = [{"role": "stereotype", "text": " {place}"}, {"role": "anti", "text": " kitchen"}]
    with pytest.raises(InputError, match="become equal"):
        template.load(write(tmp_path, options=same)).items()
    (tmp_path / "bad.yaml").write_text("name: [x\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml:2"):
        get(str(tmp_path / "bad.yaml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        get(tmp_path / "absent.yaml")
