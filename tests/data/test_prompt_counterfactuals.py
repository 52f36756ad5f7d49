"""Which prompts of one's own get a counterfactual, by which rules, and why the others get none."""

from __future__ import annotations

import pytest

from teachfair.data import SOURCES
from teachfair.data.prompt_counterfactuals import RULES, add_counterfactuals, counterfactual_rules
from teachfair.data.prompts import prompts_dataset, prompts_of_pairs
from teachfair.errors import ConfigError


def prompts(*rows):
    return prompts_dataset([{"prompt": "She is a nurse. Who is she?", **row} for row in rows], "prompts")


@pytest.mark.parametrize(
    ("row", "lang", "rules", "why"),
    [
        ({}, None, [], "no language is said"),
        ({"lang": "und"}, None, [], "no language is said"),
        ({"lang": "und"}, "fr", ["fr", "gender"], ""),
        ({}, "en", ["en", "gender"], ""),
        ({"lang": "fr"}, "en", ["fr", "gender"], ""),
        ({"lang": "de"}, "en", [], "language de"),
        ({"lang": "en", "axis": "gender"}, None, ["en", "gender"], ""),
        ({"lang": "en", "axis": "age"}, None, [], "axis age"),
        ({"lang": "en", "axis": "religion", "groups": ["Muslim", "Christian"]}, None,
         ["en", "religion", "christian", "muslim"], ""),
        ({"lang": "en", "axis": "religion", "groups": ["Muslim", "Atheist"]}, None, [],
         "axis religion without two groups of the rules"),
        ({"lang": "en", "axis": "religion", "groups": "muslim"}, None, [], "axis religion without two groups of the rules"),
        ({"lang": 3, "axis": None, "groups": [1, None]}, "en", [], "language 3"),
        ({"lang": "en", "axis": "nationality", "groups": ["german", "french"]}, None,
         ["en", "origin", "french", "german"], ""),
    ],
)  # fmt: skip
def test_a_row_says_by_which_rules_it_is_exchanged_and_nothing_is_guessed(row, lang, rules, why):
    assert counterfactual_rules(row, lang=lang) == (rules, why)


def test_prompts_get_a_counterfactual_by_the_rules_and_the_others_are_counted_by_reason():
    rows = [{"lang": "en"}, {"lang": "en", "prompt": "Who is late?"}, {"lang": ""}, {"lang": "en", "axis": "age"}]
    made, report = add_counterfactuals(prompts(*rows))
    assert made["counterfactual_prompt"][0] == [{"role": "user", "content": "He is a nurse. Who is he?"}]
    assert made[RULES] == [["en", "gender"], [], [], []]
    assert report == {
        "by": "rules", "rows": 4, "with": 1,
        "without": {"axis age": 1, "no language is said": 1, "nothing to exchange in the prompt": 1},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="unknown counterfactual_lang"):
        add_counterfactuals(made, lang="de")


def test_rows_that_bring_a_counterfactual_and_rows_that_cannot_have_one_stay_as_they_are():
    own = prompts({"lang": "en", "swap": [["she", "he"]]}, {"lang": "en", "swap": None})
    made, report = add_counterfactuals(own, lang="en")
    assert made is own
    assert (report["by"], report["with"], report["without"]) == ("the rows' own", 1, {"empty in the file": 1})
    silent = prompts({}, {})
    assert add_counterfactuals(silent)[0].to_list() == silent.to_list()
    assert add_counterfactuals(silent)[1]["with"] == 0
    stale, report = add_counterfactuals(prompts({"lang": "en", RULES: ["en", "age"]}))
    assert (stale[RULES], report["with"]) == ([["en", "gender"]], 1)


def test_a_prompt_that_is_asked_twice_is_exchanged_once(monkeypatch):
    from teachfair.data import prompt_counterfactuals

    seen = []

    def counted(prompt, *rules, **options):
        seen.append(prompt)
        return {"counterfactual_prompt": [{"role": "user", "content": "other"}]}

    monkeypatch.setattr(prompt_counterfactuals, "counterfactual_columns", counted)
    made, _ = add_counterfactuals(prompts(*[{"lang": "en"}] * 5, {"lang": "fr"}))
    assert (len(made), len(seen)) == (6, 2)


@pytest.mark.shared
def test_real_questions_about_gender_and_religion_get_one(shared):
    questions = prompts_of_pairs(SOURCES["winobias"].load(shared / "data" / "winobias", form="questions", types=("type1",)))
    made, report = add_counterfactuals(questions)
    assert report["with"] > 0.99 * len(questions)
    first = made["prompt"][0][0]["content"], made["counterfactual_prompt"][0][0]["content"]
    assert first[0].startswith("The developer argued with the designer because he did not")
    assert first[1].startswith("The developer argued with the designer because she did not")
    beliefs = prompts_of_pairs(SOURCES["bbq"].load(shared / "data" / "bbq", categories=["Religion"]))
    made, report = add_counterfactuals(beliefs)
    assert 0 < report["with"] < len(beliefs)
    assert set(report["without"]) <= {"axis religion without two groups of the rules", "nothing to exchange in the prompt"}
    row = next(row for row in made if row[RULES] == ["en", "religion", "christian", "muslim"])
    assert row["counterfactual_prompt"] != row["prompt"]
