"""Preference rows: every format in, complete pairs out, and every malformed row named."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teachfair.data.pairs import (
    KINDS,
    PAIR_COLUMNS,
    as_conversation,
    checked,
    pairs_dataset,
    read_preference_file,
    validate_rows,
)
from teachfair.errors import DataError

GOOD = {"prompt": "Who cooks?", "chosen": "Cannot tell.", "rejected": "The woman."}


def write_lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def message(role, content):
    return {"role": role, "content": content}


def problems_of(path, **options):
    with pytest.raises(DataError) as caught:
        read_preference_file(path, **options)
    assert caught.value.exit_code == 2
    return caught.value


def test_plain_text_becomes_one_user_and_one_assistant_message():
    pair = as_conversation("Q", "A", "B")
    assert pair == {
        "prompt": [message("user", "Q")],
        "chosen": [message("assistant", "A")],
        "rejected": [message("assistant", "B")],
    }


def test_the_common_beginning_of_two_conversations_is_their_prompt():
    shared = [message("system", "Be fair."), message("user", "Q")]
    pair = as_conversation(None, [*shared, message("assistant", "A")], [*shared, message("assistant", "B")])
    assert pair["prompt"] == shared
    assert pair["chosen"] == [message("assistant", "A")]
    # a text prompt beside full conversations (as some hub sets have it) is implicit too
    assert (
        as_conversation("Q", [*shared, message("assistant", "A")], [*shared, message("assistant", "B")])
        == pair
    )


def test_implicit_text_prompts_are_cut_as_trl_cuts_them():
    from trl import extract_prompt

    rng = random.Random(0)
    for _ in range(300):
        shared = " ".join(rng.choices(["the", "nurse", "said", "no"], k=rng.randint(1, 4)))
        chosen = shared + rng.choice([" ", ""]) + rng.choice(["yes", "maybe", "yeah"])
        rejected = shared + rng.choice([" ", ""]) + rng.choice(["never", "nay", "yes yes"])
        if chosen == rejected:
            continue
        theirs = extract_prompt({"chosen": chosen, "rejected": rejected})
        ours = as_conversation(None, chosen, rejected)
        assert {side: ours[side][0]["content"] for side in ours} == theirs


def test_sides_without_a_common_beginning_need_a_prompt_column():
    with pytest.raises(DataError, match="no prompt"):
        as_conversation(None, "yes ", "no")  # TRL's own function makes "yes" the prompt here


def test_a_dataset_has_the_fixed_columns_and_reads_back_equal(tmp_path):
    rows, counts = checked(
        [GOOD, {**GOOD, "chosen": "Nobody knows.", "groups": ["woman"], "kind": KINDS[0]}], "rows"
    )
    dataset = pairs_dataset(rows)
    assert tuple(dataset.column_names) == PAIR_COLUMNS
    assert dataset[1]["groups"] == ["woman"]
    assert dataset[0]["prompt"] == [message("user", "Who cooks?")]
    assert (counts.read, counts.kept) == (2, 2)
    assert dataset[0]["cluster"] == dataset[1]["cluster"], "one prompt, one cluster"
    dataset.to_parquet(tmp_path / "again.parquet")
    again, _ = read_preference_file(tmp_path / "again.parquet")
    assert pairs_dataset(again).to_list() == dataset.to_list()


@pytest.mark.parametrize(
    ("bad", "field", "what"),
    [
        ({"prompt": "p", "chosen": "a"}, "rejected", "missing"),
        ({**GOOD, "chosen": 3}, "chosen", "a number (3)"),
        ({**GOOD, "chosen": None}, "chosen", "null"),
        ({**GOOD, "prompt": None, "rejected": "zzz"}, "prompt", "null"),
        ('{"prompt": "p", "chosen": NaN, "rejected": "b"}', "chosen", "NaN"),
        ({**GOOD, "rejected": ["a", "b"]}, "rejected[0]", "a message {role, content}"),
        ({**GOOD, "rejected": {"a": 1}}, "rejected", "an object"),
        ({**GOOD, "chosen": ""}, "chosen", "empty or only whitespace"),
        ({**GOOD, "prompt": " \t"}, "prompt", "empty or only whitespace"),
        ({**GOOD, "chosen": " The  woman. "}, "chosen", "equals rejected"),
        ({**GOOD, "chosen": "a\0b"}, "chosen", "NUL"),
        ('{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}', "chosen", "surrogate"),
        ('{"prompt": "p", "chosen": "a"', "row", "not valid JSON"),
        ('{"prompt": "p", "chosen": "a", "chosen": "c", "rejected": "b"}', "row", "'chosen' occurs twice"),
        ("[" * 100_000, "row", "nested too deeply"),
        ('{"prompt": "p", "chosen": ' + "1" * 5000 + ', "rejected": "b"}', "row", "not usable JSON"),
        ("17", "row", "an object with prompt, chosen and rejected was wanted"),
        ({**GOOD, "kind": "fair"}, "kind", "unknown"),
        ({**GOOD, "groups": [1]}, "groups", "a number"),
        (
            {
                **GOOD,
                "chosen": [message("assistant", "a"), message("user", "hm")],
                "rejected": [message("assistant", "b")],
            },
            "chosen",
            "assistant",
        ),
        (
            {**GOOD, "chosen": [message("bot", "a")], "rejected": [message("assistant", "b")]},
            "chosen[0].role",
            "bot",
        ),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_field(tmp_path, bad, field, what):
    error = problems_of(write_lines(tmp_path / "pairs.jsonl", [GOOD, bad]))
    assert f"pairs.jsonl:2: {field}: " in error.where
    assert what in error.where
    assert "1 of 2 preference rows" in error.what


def test_problems_are_listed_up_to_the_limit_with_the_total(tmp_path):
    error = problems_of(write_lines(tmp_path / "p.jsonl", ["{"] * 50), limit_errors=3)
    assert error.where.count("not valid JSON") == 3
    assert "47 more" in error.where
    assert "50 of 50" in error.what


def test_pairs_with_equal_sides_are_dropped_and_counted_on_request(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [GOOD, {**GOOD, "chosen": "The woman."}, "", GOOD])
    assert "--drop_equal" in problems_of(path).fix
    rows, counts = read_preference_file(path, drop_equal=True)
    assert (counts.read, counts.kept, counts.dropped_equal, counts.repeated) == (3, 2, 1, 1)
    assert len({row["id"] for row in rows}) == 2, "a repeated pair is kept under an id of its own"


def test_an_id_that_the_file_gives_twice_is_reported_with_its_first_line(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [{**GOOD, "id": "a"}, {**GOOD, "id": "b"}, {**GOOD, "id": "a"}])
    assert "p.jsonl:3: id: a was already used on line 1" in problems_of(path).where


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_an_error_with_a_message(tmp_path, content):
    (tmp_path / "p.jsonl").write_bytes(content)
    assert problems_of(tmp_path / "p.jsonl").what


def test_encodings_other_than_utf8_are_named(tmp_path):
    line = json.dumps({**GOOD, "prompt": "Qui écrit ?"}, ensure_ascii=False) + "\n"
    path = tmp_path / "p.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line.encode("cp1252"))
    error = problems_of(path)
    assert "p.jsonl:2: row: not UTF-8: byte 0xe9" in error.where
    assert "'é'" in error.where
    path.write_bytes(line.encode("utf-16"))
    assert "UTF-16" in problems_of(path).what
    path.write_bytes(b"\xef\xbb\xbf" + line.encode())
    rows, _ = read_preference_file(path)
    assert rows[0]["prompt"][0]["content"] == "Qui écrit ?"


def test_a_json_list_and_a_csv_report_the_line_of_the_file(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps([GOOD, {**GOOD, "chosen": ""}], indent=1))
    assert "p.json:7: chosen: empty" in problems_of(tmp_path / "p.json").where
    (tmp_path / "p.csv").write_text('prompt,chosen,rejected\n"two\nlines",a,b\nq,,b\n')
    assert "p.csv:4: chosen: empty" in problems_of(tmp_path / "p.csv").where
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected\nq,a,b,c\n")
    assert "more cells" in problems_of(tmp_path / "p.csv").where
    (tmp_path / "p.json").write_text("[{]")
    assert "not a valid JSON list" in problems_of(tmp_path / "p.json").what


def test_every_format_gives_the_same_pairs(tmp_path):
    import pandas as pd

    rows = [GOOD, {**GOOD, "prompt": 'Who, "then"?\nSay.'}]
    write_lines(tmp_path / "p.jsonl", rows)
    (tmp_path / "p.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).to_csv(tmp_path / "p.csv", index=False)
    pd.DataFrame(rows).to_parquet(tmp_path / "p.parquet")
    read = [read_preference_file(tmp_path / f"p.{kind}")[0] for kind in ("jsonl", "json", "csv", "parquet")]
    assert all(other == read[0] for other in read)


def test_a_hostile_value_cannot_reach_the_terminal_through_a_message(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [{**GOOD, "kind": "\x1b]0;pwned\x07‮"}])
    assert "\x1b" not in str(problems_of(path))
    assert "‮" not in str(problems_of(path))


sides = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["a", "b", " ", "\0"]),
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "x"]), "content": st.text(max_size=3)}
        ),
        max_size=3,
    ),
)
rows_ = st.one_of(
    st.dictionaries(st.sampled_from([*PAIR_COLUMNS, "other"]), sides, max_size=8),
    st.fixed_dictionaries({"prompt": st.just("p"), "chosen": sides, "rejected": sides}),
    sides,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(rows_, min_size=1, max_size=6), drop_equal=st.booleans())
def test_no_row_is_lost_in_silence(rows, drop_equal):
    good, problems = validate_rows(rows, "rows", drop_equal=drop_equal)
    named = {problem.line for problem in problems}
    equal = len(rows) - len(good) - len(named)
    assert equal >= 0
    assert drop_equal or equal == 0
    assert len({row["id"] for row in good}) == len(good)
    for row in good:
        assert all(row[name] is not None for name in PAIR_COLUMNS)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(alphabet='[]{}",:\\ud8a\n0 chosenrejctp', max_size=120).map(lambda text: text.encode()),
        st.lists(rows_, max_size=4).map(lambda rows: json.dumps(rows).encode()),
        st.lists(rows_, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    ),
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".txt"]),
)
def test_any_bytes_give_pairs_or_one_clear_error(tmp_path, content, suffix):
    path = tmp_path / f"p{suffix}"
    path.write_bytes(content)
    try:
        rows, counts = read_preference_file(path, drop_equal=True)
    except DataError as error:
        str(error).encode("utf-8")
    else:
        assert counts.read == counts.kept + counts.dropped_equal
        assert len(rows) == counts.kept > 0
        if suffix == ".jsonl":
            assert counts.read == sum(
                bool(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
            )
