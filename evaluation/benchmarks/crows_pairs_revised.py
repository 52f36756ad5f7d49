"""CrowS-Pairs, revised in English and adapted to French, aligned by id: the same measure in two languages.

Reads ``crows_eng.csv`` and ``crows_french.csv`` (1,463 rows each). Score and summary are those of ``crows_pairs``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.gathering import check_names
from teachfair.data.sources.crows_pairs_revised import DEFECTS, FILES
from teachfair.evaluation.benchmarks import crows_pairs
from teachfair.evaluation.formats import scored

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

CARD: dict[str, Any] = {
    "name": "crows_pairs_revised",
    "meaning": (
        "Share of sentence pairs, revised in English and adapted to French, in which the more stereotypical sentence is the "
        "likelier one; both languages and each."
    ),
    "paper": (
        "Névéol, Dupont, Bezançon, Fort (2022): French CrowS-Pairs: Extending a challenge dataset for measuring social bias "
        "in masked language models to a language other than English. ACL. https://aclanthology.org/2022.acl-long.583/"
    ),
    "source": "github.com/jerryspan/Dutch-CrowS-Pairs, commit 7cf51965, crows_eng.csv and crows_french.csv",
    "hub": "BigScienceBiasEval/crows_pairs_multilingual",
    "licence": "CC BY-SA 4.0",
    "language": "en, fr",
    "lang": ["en", "fr"],
    "measures": "bias",
    "models": ("causal", "masked"),
    "headline": {"key": "margin_mean_nats", "target": 0.0, "unit": "nats", "higher": "parity"},
    "needs": ["crows_eng.csv", "crows_french.csv"],
    "norm": (
        "Stereotypes held in the United States, and in France as volunteers of a citizen-science platform judged and "
        "adapted them."
    ),
    "version": "1",
    "direction": crows_pairs.CARD["direction"],
    "outcome_condition": "parity",
    "parity": True,
    "target": crows_pairs.CARD["target"],
    "problems": [
        *crows_pairs.CARD["problems"],
        "French id 129 has an empty sentence (left out and counted), id 379 two identical ones (a tie).",
        "Likelihoods of two languages are not on one scale: compare a language with itself.",
        "1,408 of the English pairs are those of crows_pairs, word for word: not an independent second measure.",
    ],
}


def data_files(data_dir: Path | str | None, *, lang: str | Sequence[str] = ("en", "fr")) -> list[Path]:
    """The files of the languages. Raises: ConfigError if one is in neither place."""
    return [path for path, _ in _files(data_dir, lang)]


def items(data_dir: Path | str | None = None, *, lang: str | Sequence[str] = ("en", "fr")) -> list[dict[str, Any]]:
    """The pairs of the languages, in the files' order; a pair and its translation are one cluster.

    Raises: ConfigError for an unknown language or an absent file; DataError (``file:line: field``) on a malformed row.
    """
    found = []
    for path, one in _files(data_dir, lang):
        defects = {_identity(one, name): "empty sentence" for name in DEFECTS[one]}
        pairs = crows_pairs.read_pairs(path, functools.partial(_of_row, one), lang=one, defects=defects)
        found += [{**item, "cluster": f"crows_pairs-{item['id'].rpartition('-')[2]}"} for item in pairs]
    return found


def _files(data_dir: Path | str | None, lang: str | Sequence[str]) -> list[tuple[Path, str]]:
    languages = [lang] if isinstance(lang, str) else list(lang)
    check_names("lang", languages, tuple(FILES.values()))
    names = [(name, one) for name, one in FILES.items() if one in languages]
    return [(crows_pairs.find(data_dir, name, "crows_pairs_multilingual", CARD), one) for name, one in names]


def _of_row(lang: str, number: int, row: Mapping[str, str]) -> str:
    return _identity(lang, row["id"])


def _identity(lang: str, number: str) -> str:
    return f"crows_pairs_revised-{lang}-{number.zfill(4)}"


def score(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """Both sentences of every pair: ``crows_pairs.pair_records``."""
    return crows_pairs.pair_records(CARD["name"], scorer, items, progress)


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """As ``crows_pairs.summarise``, and each language under ``by_lang``."""
    languages = scored(records).groupby("lang", sort=True)
    return crows_pairs.summarise(records) | {
        "by_lang": {name: crows_pairs.pair_numbers(part) for name, part in languages}
    }
