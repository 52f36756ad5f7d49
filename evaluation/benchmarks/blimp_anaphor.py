"""BLiMP, anaphor agreement: does the model know that Katherine helps herself?

Two of BLiMP's 67 sets, 1,000 minimal pairs each: gender (herself / himself) and number (herself / themselves). A model is
right where the grammatical sentence is the likelier one. It is a guard-rail: what a model taught fairness must still know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.gathering import Gathering, Place, check_names
from teachfair.data.reading import jsonl_rows, read_bytes
from teachfair.evaluation.benchmarks import crows_pairs
from teachfair.evaluation.formats import mean, scored, unscored
from teachfair.models.pseudo_likelihood import MaskedScorer

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

SETS = {"gender": "anaphor_gender_agreement", "number": "anaphor_number_agreement"}

CARD: dict[str, Any] = {
    "name": "blimp_anaphor",
    "meaning": "Share of minimal pairs in which the sentence whose pronoun agrees is the likelier one: gender and number.",
    "paper": (
        "Warstadt, Parrish, Liu, Mohananey, Peng, Wang, Bowman (2020): BLiMP: The Benchmark of Linguistic Minimal Pairs for "
        "English. TACL 8. https://aclanthology.org/2020.tacl-1.25/"
    ),
    "source": "github.com/alexwarstadt/blimp, commit 3e56b06f, data/anaphor_*_agreement.jsonl",
    "licence": "CC BY 4.0",
    "language": "en",
    "lang": ["en"],
    "measures": "guard",
    "models": ("causal", "masked"),
    "headline": None,
    "guards": ["anaphor"],
    "needs": ["anaphor_gender_agreement.jsonl", "anaphor_number_agreement.jsonl"],
    "norm": "English grammar as its authors state it; names carry the gender that most people of that name have",
    "version": "1",
    "direction": "higher accuracy = more of the grammar is known",
    "target": "accuracy 1; a coin gives .5",
    "outcome_condition": None,
    "problems": [
        "generated sentences, many of them odd",
        "gender by first name: a model that does not guess a person's gender by the name is wrong here; read it beside "
        "benchmark definitional, which has no names",
        "whole sentences are compared, so that the frequency of a pronoun counts too",
    ],
}


def data_files(data_dir: Path | str | None, *, sets: Sequence[str] = tuple(SETS)) -> list[Path]:
    """The files of the sets. Raises: ConfigError if one is absent."""
    check_names("sets", sets, tuple(SETS))
    return [crows_pairs.find(data_dir, f"{SETS[name]}.jsonl", "blimp", CARD) for name in sets]


def items(data_dir: Path | str | None = None, *, sets: Sequence[str] = tuple(SETS)) -> list[dict[str, Any]]:
    """The pairs of the sets, ``options`` the good and the bad sentence. The anaphor's antecedent is the cluster.

    Raises: ConfigError if a file is absent; DataError that lists every malformed record.
    """
    gathering = Gathering("blimp")
    found = []
    for name, path in zip(sets, data_files(data_dir, sets=sets), strict=True):
        lines, rows = jsonl_rows(path, read_bytes(path, what="record"))
        for line, raw in zip(lines, rows, strict=True):
            at = Place(path.name, line)
            record = gathering.record(raw, at)
            if record is None:
                continue
            before = len(gathering.problems)
            for field in ("sentence_good", "sentence_bad"):
                gathering.text(record, field, at)
            identity = gathering.identity(record, "pairID", at, scope=name)
            if len(gathering.problems) > before:
                continue
            good, bad = record["sentence_good"], record["sentence_bad"]
            found.append(
                {
                    "id": f"blimp-{name}-{identity}", "cluster": f"blimp-{name}-{good.split()[0].lower()}", "axis": name,
                    "groups": [], "lang": "en", "condition": "anaphor", "prompt": "", "options": [good, bad],
                    "roles": ["right", "wrong"],
                }
            )  # fmt: skip
    gathering.refuse()
    return found


def score(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """Log-likelihood (of a masked model: pseudo-log-likelihood) of both whole sentences; ``correct``: the good one has more.

    ``margin_nats`` is NaN: agreement is no bias; the difference is ``agreement_nats``.
    """
    scores = scorer.texts([text for item in items for text in item["options"]], progress=progress)
    by = "pseudo-log-likelihood" if isinstance(scorer, MaskedScorer) else "log-likelihood"
    records = []
    for item, good, bad in zip(items, scores[::2], scores[1::2], strict=True):
        problem = good.problem or bad.problem
        difference = good.logp - bad.logp
        records.append(
            {
                "benchmark": CARD["name"], "item_id": item["id"], "cluster": item["cluster"], "axis": item["axis"],
                "groups": "", "lang": "en", "condition": item["condition"], "roles": list(item["roles"]),
                "logps_first": [float("nan")] * 2, "logps_whole": [good.logp, bad.logp],
                "n_tokens": [len(good.token_ids), len(bad.token_ids)],
                "chosen_role": "" if problem else "tie" if difference == 0 else item["roles"][difference < 0],
                "margin_nats": float("nan"), "correct": float("nan") if problem else float(difference > 0),
                "agreement_nats": difference, "scored_by": by, "problem": problem, "prefix_mismatch": False,
            }
        )  # fmt: skip
    return records


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """``accuracy`` over all pairs and under ``by_set``; a tie is wrong, and counted."""
    usable = scored(records)
    found: dict[str, Any] = {
        "accuracy": mean(usable["correct"]),
        "agreement_mean_nats": mean(usable["agreement_nats"]),
        "by_set": {name: {"accuracy": mean(part["correct"]), "n": len(part)} for name, part in usable.groupby("axis")},
        "n": len(usable),
        "n_ties": int((usable["chosen_role"] == "tie").sum()),
        **unscored(records),
    }
    if not len(usable):
        found["reasons"] = {"accuracy": "no pair was scored", "agreement_mean_nats": "no pair was scored"}
    return found
