"""A reward model is not judged on the pairs that it learned from."""

import json

import pytest

from teachfair.errors import DataError
from teachfair.recipes.audit_reward import door
from teachfair.reward_models.seen import digest, seen_by
from teachfair.reward_models.training import train_reward_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory, llama, train_pairs):
    out = tmp_path_factory.mktemp("seen") / "rm"
    return train_reward_model(llama, train_pairs, None, out, max_steps=2, learning_rate=1e-3)


def written(path, rows):
    path.write_text("".join(json.dumps({key: row[key] for key in ("prompt", "chosen", "rejected")}) + "\n" for row in rows))
    return path


def test_a_pair_has_the_same_digest_when_its_sides_change_places_or_gain_spaces(train_pairs):
    row = train_pairs[0]
    other = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
    spaced = {**row, "chosen": [{**turn, "content": turn["content"] + " "} for turn in row["chosen"]]}
    assert digest(row) == digest(other) == digest(spaced)
    assert digest({**row, "prompt": row["chosen"]}) != digest(row)


def test_pairs_that_the_model_learned_from_are_left_out_of_its_audit_and_counted(tmp_path, trained, train_pairs, eval_pairs):
    new = [row for row in eval_pairs if digest(row) not in seen_by(trained)]
    pairs = written(tmp_path / "pairs.jsonl", [*new, *train_pairs.select(range(30))])
    given = ["--model_name_or_path", str(trained), "--dataset_name", str(pairs)]
    ends = door([*given, "--output_dir", str(tmp_path / "audit")])
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert ends in (0, None)
    assert audit["pairs"]["n"] == len(new)
    assert audit["pairs"]["seen"] == 30
    assert "30 pairs were among those it was trained on" in (tmp_path / "audit" / "audit.html").read_text()


def test_an_audit_on_nothing_but_training_pairs_is_refused(tmp_path, trained, train_pairs):
    pairs = written(tmp_path / "pairs.jsonl", train_pairs.select(range(20)))
    with pytest.raises(DataError, match="was trained on all 20 pairs"):
        door.run(door.parse(["--model_name_or_path", str(trained), "--dataset_name", str(pairs),
                             "--output_dir", str(tmp_path / "audit")])[0])  # fmt: skip
    assert not (tmp_path / "audit").exists()


def test_a_folder_that_does_not_say_what_it_learned_from_is_said_to_be_silent(tmp_path):
    assert seen_by(tmp_path) is None
