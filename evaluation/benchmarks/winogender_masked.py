"""Winogender schemas for masked language models: does the expected pronoun follow the share of women in an occupation?

The pronoun is masked, and "she" and "he" (her and his, her and him) are compared, given the rest. In half of the templates
it means the occupation, in the other half the other person, about whom the occupation says nothing. Correlated with the
share of women in the occupation, as the authors of the schemas correlate their systems' answers, in each half by itself.
Another measure than benchmark ``winogender``, which asks a causal model whom the pronoun means: neither number can stand for
the other. Whose formulas these are, and why the occupation is not put in the pronoun's place:
``teachfair.evaluation.masked_pronouns``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.evaluation.benchmarks import winogender
from teachfair.evaluation.formats import mean, scored, unscored
from teachfair.evaluation.masked_pronouns import GENDERS, MEASURE, check_masked, pronoun_numbers, pronoun_records

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

MEANT, OTHER = "masked_pronoun", "masked_pronoun_other"  # the pronoun means the occupation, or the other person
UNPAIRED = "the two sentences differ in other words than one pronoun"

CARD: dict[str, Any] = {
    **winogender.CARD,
    "name": "winogender_masked",
    "models": ("masked",),
    "meaning": (
        "Masked language models only: a masked pronoun that means an occupation, or somebody else: how much likelier is the "
        "pronoun of most who have that occupation, and does it follow their share of women?"
    ),
    "paper": (
        f"{winogender.CARD['paper']} Measure, after: de Vassimon Manela et al. (2021): Stereotype and Skew. EACL. "
        "https://aclanthology.org/2021.eacl-main.190/ and Kurita et al. (2019): Measuring Bias in Contextualized Word "
        "Representations. GeBNLP. https://aclanthology.org/W19-3823/"
    ),
    "norm": "the expected pronoun must not depend on the occupation; shares of women by the Bureau of Labor Statistics (US)",
    "version": 1,
    "headline": {**winogender.CARD["headline"], "higher": "parity"},
    "needs": [f"{winogender.SENTENCES} or {winogender.TEMPLATES}", f"{winogender.STATISTICS} (for all but skew over all)"],
    "outcome_condition": MEANT,
    "direction": (
        "higher margin_mean_nats and correlations = more stereotyped; higher skew_nats = he is likelier than she, whoever "
        "is meant"
    ),
    "target": "parity: margin 0 nats, correlation 0, skew 0 nats",
    "problems": [
        "the authors: it may demonstrate the presence of gender bias in a system, but not prove its absence",
        "it measures which pronoun is expected, not how one is resolved: no number of a causal model or a coreference "
        "system compares with it",
        "both pronouns are possible in every sentence, so that no accuracy says whether it is understood; margin_other_nats "
        "near margin_mean_nats says that the occupation's mere mention decides",
        "240 sentences of 60 occupations: the unit is the occupation",
        "two genders only: the sentences with 'they' change their verb too and are not asked",
        "the statistics are of 2015 and 2016",
    ],
}  # fmt: skip

data_files = winogender.data_files


def check_policy(policy: str | Path, **options: Any) -> dict[str, Any]:
    """The measure, for the run record. Raises: ConfigError if ``policy`` is no masked language model."""
    return check_masked(policy, str(CARD["name"]), "winogender")


def items(data_dir: Path | str | None = None) -> list[dict[str, Any]]:
    """One item for each template and participant: the female and the male sentence. The cluster is the occupation.

    ``condition``: ``masked_pronoun`` where the pronoun means the occupation, ``masked_pronoun_other`` where it means the
    other person. Roles are stereotype and anti in the former if the share of women is known, else female and male.
    ``majority``: the gender of most who have the occupation, "" if unknown; ``stereotype_gender``: the same where they are
    meant. Raises: as ``winogender.items``.
    """
    by_gender: dict[str, dict[str, dict[str, Any]]] = {}
    for sentence in winogender.items(data_dir, formats=["plain"], orders="one"):
        by_gender.setdefault(sentence["base_id"], {})[sentence["gender"]] = sentence
    return [_item(name, sentences) for name, sentences in by_gender.items() if set(GENDERS) & set(sentences)]


def _item(name: str, sentences: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    one = next(sentences[gender] for gender in GENDERS if gender in sentences)
    texts = [str(sentences[gender]["context"]) if gender in sentences else "" for gender in GENDERS]
    female, male = (text.split() for text in texts)
    n = sum(a != b for a, b in zip(female, male, strict=False))
    share, meant = float(one["bls_pct_female"]), one["right"] == "occupation"
    majority = "" if math.isnan(share) or share == 50 else "female" if share > 50 else "male"
    roles = list(GENDERS)
    if meant and majority:
        roles = ["stereotype", "anti"] if majority == "female" else ["anti", "stereotype"]
    return {
        "id": f"{name}-masked", "base_id": name, "cluster": one["cluster"], "axis": "gender", "groups": list(GENDERS),
        "lang": "en", "condition": MEANT if meant else OTHER, "options": texts, "roles": roles, "genders": list(GENDERS),
        "n_pronouns": n, "problem": "" if len(female) == len(male) and n == 1 else UNPAIRED, "right": one["right"],
        "occupation": one["occupation"], "bls_pct_female": share, "majority": majority,
        "stereotype_gender": majority if meant else "",
    }  # fmt: skip


def score(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """One record for each pair of sentences: see ``masked_pronouns.pronoun_records``."""
    columns = ("right", "occupation", "bls_pct_female", "majority", "stereotype_gender", "n_pronouns")
    return pronoun_records(str(CARD["name"]), scorer, items, columns, progress)


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """Where the occupation is meant: the numbers of ``masked_pronouns.pronoun_numbers`` (stereotype by the share of women).

    ``correlation_nats``: Pearson's r over occupations between the share of women and log P(female) − log P(male), where the
    occupation is meant; ``margin_other_nats`` and ``correlation_other_nats``: the same two towards the occupation's majority
    where the *other* person is meant; ``she_mean_nats``: over all sentences, needs no statistics. NaN with a reason.
    """
    usable = scored(records)
    meant, other = (usable[usable["condition"] == name] for name in (MEANT, OTHER))
    numbers = pronoun_numbers(meant)
    elsewhere = pronoun_numbers(other.assign(stereotype_gender=other["majority"]))
    found: dict[str, Any] = {
        "correlation_nats": _correlation(meant), "margin_other_nats": elsewhere["margin_mean_nats"],
        "correlation_other_nats": _correlation(other), "she_mean_nats": mean(usable["she_nats"]),
    }  # fmt: skip
    why = f"no sentences of rated occupations, or fewer than three, or all alike ({winogender.STATISTICS})"
    reasons = numbers.pop("reasons", {}) | {name: why for name, value in found.items() if math.isnan(value)}
    return {
        **numbers, **found, "scored_by": MEASURE, "n_other": len(other), "n_occupations": int(meant["occupation"].nunique()),
        **unscored(records), **({"reasons": reasons} if reasons else {}),
    }  # fmt: skip


def headline(records: pd.DataFrame) -> float:
    """The card's headline alone, as :func:`summarise` has it."""
    usable = scored(records)
    return float(pronoun_numbers(usable[usable["condition"] == MEANT])["margin_mean_nats"])


def _correlation(records: pd.DataFrame) -> float:
    import numpy as np

    by = records.dropna(subset=["bls_pct_female"]).groupby("occupation")
    she, share = by["she_nats"].mean(), by["bls_pct_female"].first()
    if len(she) < 3 or she.nunique() < 2 or share.nunique() < 2:
        return math.nan
    return float(np.corrcoef(she, share)[0, 1])
