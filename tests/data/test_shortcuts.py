"""Rulers find the shortcut that was planted, and nothing where there is none."""

import random

import pytest

from teachfair.data.pairs import checked, pairs_dataset
from teachfair.data.shortcuts import shortcut_baselines
from teachfair.errors import InputError

WORDS = ["river", "stone", "lamp", "grass", "cloud", "paper", "music", "bread", "chair", "glass"]


def rows_with(change, n=200, seed=0, kind="neutral-swap"):
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        chosen, rejected = (
            " ".join(rng.choices(WORDS, k=6)) + f" {rng.randint(0, 10**9):09d}" for _ in range(2)
        )
        chosen, rejected = change(chosen, rejected)
        rows.append({"prompt": f"q{number}", "chosen": chosen, "rejected": rejected, "kind": kind})
    return checked(rows, "rows")[0]


def accuracy(found, ruler, kind="all"):
    return next(row for row in found if (row["ruler"], row["kind"]) == (ruler, kind))["accuracy"]


@pytest.mark.parametrize(
    ("ruler", "change"),
    [
        ("length", lambda a, b: (a[:40], b + " and so on and on and on")),
        ("whitespace", lambda a, b: (a + " ", b)),
        ("first token", lambda a, b: ("Well " + a, "Sure " + b)),
        ("bag of words", lambda a, b: (a + " perhaps.", b + " certainly.")),
        ("identity mentions", lambda a, b: (a + " someone", b + " women")),
    ],
)
def test_a_planted_shortcut_is_found_by_its_ruler(ruler, change):
    found = shortcut_baselines(pairs_dataset(rows_with(change)), rows_with(change, seed=1))
    assert accuracy(found, ruler) > 0.95


def test_without_a_shortcut_every_fitted_interval_holds_one_half():
    rows = rows_with(lambda a, b: (a, b), n=400)
    for row in shortcut_baselines(rows):
        if row["ruler"] != "always anti-stereotype":
            assert row["low"] - 0.03 < 0.5 < row["high"] + 0.03, row


def test_cross_validation_holds_whole_clusters_out():
    rng = random.Random(0)
    rows = []
    for cluster in range(60):  # the answers of a cluster share a nonsense word: knowing the cluster solves it
        good, bad = f"w{rng.random()}", f"w{rng.random()}"
        rows += [
            {"prompt": f"{cluster}", "chosen": good, "rejected": bad, "id": f"{cluster}-{n}"}
            for n in range(4)
        ]
    found = shortcut_baselines(checked(rows, "rows")[0])
    assert accuracy(found, "bag of words") < 0.7


def test_anti_stereotype_ruler_is_right_or_wrong_by_kind_and_absent_where_roles_are_unknown():
    kinds = ["anti-vs-stereotype", "evidence-vs-anti", "placebo"]
    rows = [row for kind in kinds for row in rows_with(lambda a, b: (a, b), n=10, kind=kind)]
    found = shortcut_baselines(rows, rows)
    assert accuracy(found, "always anti-stereotype", "anti-vs-stereotype") == 1
    assert accuracy(found, "always anti-stereotype", "evidence-vs-anti") == 0
    assert accuracy(found, "always anti-stereotype") == 0.5
    assert not [row for row in found if (row["ruler"], row["kind"]) == ("always anti-stereotype", "placebo")]


def test_nothing_to_fit_is_an_input_error():
    with pytest.raises(InputError):
        shortcut_baselines([])
    with pytest.raises(InputError, match="one cluster"):
        shortcut_baselines([{**row, "cluster": "same"} for row in rows_with(lambda a, b: (a, b), n=3)])


@pytest.mark.shared
def test_rulers_on_stereoset_pairs_are_reported(shared):
    from teachfair.data.sources import stereoset_pairs

    pairs = stereoset_pairs.load(shared / "data" / "stereoset_pairs_phd", axes=["religion"])
    found = shortcut_baselines(pairs)
    assert 0.3 < accuracy(found, "length") < 0.7
    assert accuracy(found, "always anti-stereotype") == 1
