"""The card says what the record says; what comes from data cannot break its YAML, its tables or its HTML."""

import copy
import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from markdown_it import MarkdownIt

from teachfair.errors import RunFolderError
from teachfair.hub_card import escaped
from teachfair.reward_models.card import EVAL_RESULTS, model_card, write_card
from teachfair.reward_models.training import train_reward_model

HOSTILE = "<script>alert(1)</script> | a\n---\nlicense: mit\n`x` **b** [l](javascript:x) {{ 7*7 }} : - # \x07 \ud800 é"


@pytest.fixture(scope="module")
def folder(llama, train_pairs, eval_pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("card") / "rm"
    mixed = [{**row, "source": ("bbq", "crows_pairs")[place % 2], "axis": "gender", "lang": "en"}
             for place, row in enumerate(eval_pairs)]  # fmt: skip
    from teachfair.data.pairs import pairs_dataset

    options = {"max_steps": 40, "learning_rate": 3e-3, "per_device_train_batch_size": 16, "disable_tqdm": True}
    return train_reward_model(llama, train_pairs, pairs_dataset(mixed), out, **options)


@pytest.fixture
def record(folder):
    return json.loads((folder / "run.json").read_text())


def shown(card):
    """The card's body as a browser would get it; raw HTML is let through, as a careless renderer would."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)


def test_the_published_folder_has_our_card_and_huggingface_hub_reads_it_back(folder, record):
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "transformers"
    found = {(row.dataset_config, row.metric_type): row for row in card.data.eval_results}
    for row in record["accuracy"]:
        entry = found[row["kind"], "accuracy"]
        assert entry.metric_value == round(row["accuracy"], 4)
        assert f"n = {row['n']}" in entry.metric_name
        assert f"{row['low']:.3f} to {row['high']:.3f}" in entry.metric_name
    assert found["all", "ece"].metric_value == round(record["calibration_report"]["after"]["ece"], 4)
    assert found["all", "brier_score"].metric_value == round(record["calibration_report"]["after"]["brier"], 4)
    assert card.data.base_model is None, "a folder of this machine is no model of the hub"
    assert "fine-tuned version of" not in card.text
    for heading in ("Intended use", "Not intended for", "Whose norm", "Calibration", "Limits", "How to load", "How it was"):
        assert f"## {heading}" in card.text
    html = shown(card)
    assert html.count("<table>") == 4
    assert "Undefined" not in html
    assert "None" not in html.replace("top_k=None", "")
    for row in record["accuracy"]:
        assert f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in html


def test_eval_results_are_in_the_hubs_format_and_do_not_pose_as_the_benchmarks_own_score(folder, record):
    entries = parse_eval_result_entries(yaml.safe_load((folder / EVAL_RESULTS).read_text()))
    assert sorted(entry.dataset_id for entry in entries) == ["heegyu/bbq", "nyu-mll/crows_pairs"]
    by_source = {row["kind"]: row for row in record["accuracy_by_source"]}
    for entry in entries:
        row = by_source["bbq" if "bbq" in entry.dataset_id else "crows_pairs"]
        assert entry.value == round(row["accuracy"], 4)
        assert entry.task_id == "teachfair_pair_accuracy"
        assert "not the benchmark's own score" in entry.notes
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.date)


def test_a_source_that_is_not_on_the_hub_has_no_eval_results(record, tmp_path):
    for row in record["accuracy_by_source"]:
        row["kind"] = "sandbox"
    write_card(tmp_path, record)
    assert not (tmp_path / ".eval_results").exists()


def test_one_licence_is_claimed_only_if_all_sources_have_it(record):
    def licence_of(*licences):
        record["data"]["train"]["sources"] = {
            f"s{place}": {"n": 1, "norm": "one", "licence": name} for place, name in enumerate(licences)
        }
        data = model_card(record, name="x").data
        return data.license, data.license_name

    assert licence_of("CC BY 4.0", "CC BY 4.0 (BBQ)") == ("cc-by-4.0", None)
    assert licence_of("CC BY 4.0", "MIT") == ("other", "CC BY 4.0; MIT")
    assert licence_of("the file's own: find out") == ("other", "the file's own: find out")


def test_text_from_data_stays_text(record, tmp_path):
    hostile = copy.deepcopy(record)
    hostile["data"]["train"]["sources"] = {HOSTILE: {"n": 3, "norm": HOSTILE, "licence": HOSTILE}}
    hostile["data_eval"]["sources"] = {HOSTILE: {"n": 3, "norm": HOSTILE, "licence": HOSTILE}}
    hostile["coverage"]["train"] = {"languages": {HOSTILE: 1, "fr": 2}, "axes": {HOSTILE: 3}}
    hostile["accuracy"][1]["kind"] = hostile["shortcuts"][0]["ruler"] = HOSTILE
    hostile["command"] = ["x.py", HOSTILE, "--hub_token", "hf_secret", "--api_key=abc", "--max_tokens", "77"]
    hostile["base"]["path"] = f"/models/{HOSTILE}"
    write_card(tmp_path, hostile, name=HOSTILE)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "other"
    assert card.data.language == ["fr"]
    assert card.data.to_dict()["model-index"][0]["name"].startswith("<script>alert(1)</script> | a --- license: mit")
    html = shown(card)
    plain = shown(model_card(record, name="rm"))
    assert "<script" not in html
    assert "<strong>" not in html
    assert "javascript" not in "".join(re.findall(r'href="[^"]*"', html))
    assert "{{ 7*7 }}" in html
    assert html.count("<table>") == plain.count("<table>")
    rows = re.findall(r"<tr>.*?</tr>", html, flags=re.S)
    assert len([row for row in rows if "alert" in row]) >= 2
    norm = next(row for row in rows if "alert" in row)
    assert norm.count("<td") == 4, "a pipe in a norm makes no further cell"
    assert "hf_secret" not in card.text
    assert "abc" not in card.text
    assert "--max_tokens 77" in card.text


def test_escaped_text_comes_back_as_it_was_in_one_line():
    for text in ("a|b", "*x*", "<b>", "a_b_c", "[x](y)", "\\", "`", "#1", "~~x~~", "x & y &amp;"):
        assert MarkdownIt("commonmark").enable(["table", "strikethrough"]).renderInline(escaped(f"z {text} z")) == (
            "z " + text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") + " z"
        )


def test_limits_name_kinds_at_chance_axes_never_seen_and_rulers_as_good(record):
    record["accuracy"] = [
        {"kind": "all", "n": 10, "accuracy": 0.6, "low": 0.4, "high": 0.8, "ties": 0, "mean_margin": 0.1},
    ]  # fmt: skip
    record["shortcuts"] = [{"ruler": "length", "kind": "all", "n": 10, "accuracy": 0.7, "low": 0.5, "high": 0.9, "ties": 0}]
    record["coverage"] = {"train": {"axes": {"gender": 5, "age": 1}}, "eval": {"axes": {"gender": 2}}}
    text = model_card(record, name="x").text
    assert "No better than chance, as far as the held-out pairs can tell, on: all (0.600, n 10)" in text
    assert "On all a ruler that does not read the question does as well: length 0.700" in text
    never = next(line for line in text.splitlines() if "never trained on" in line)
    assert "religion" in never
    assert " gender," not in never
    assert "not measured: age." in text


def test_an_uncalibrated_or_unmeasured_model_and_one_made_before_have_a_card_too(record, tmp_path):
    none = {**record, "accuracy": None, "calibration": None, "calibration_report": None, "accuracy_by_source": None}
    none["classifier"] = {"folder": None, "reason": "not calibrated"}
    for name in ("data_eval", "shortcuts"):
        del none[name]
    card = model_card(none, name="x")
    assert "Not calibrated: there were no held-out pairs" in card.text
    assert "There is no classifier face: not calibrated." in card.text
    assert "model-index" not in card.data.to_dict()
    new = ("coverage", "calibration_report", "classifier", "accuracy_by_source")
    old = {key: value for key, value in record.items() if key not in new}
    text = model_card(old, name="x").text
    assert "It was not judged apart from the pairs of the fit" in text
    assert "made before there was one" in text
    with pytest.raises(RunFolderError, match=r"no complete run\.json"):
        write_card(tmp_path)
