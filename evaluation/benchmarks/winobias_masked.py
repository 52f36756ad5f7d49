"""WinoBias for masked language models: is the masked pronoun expected to be that of the stereotype?

The definition of de Vassimon Manela et al. (2021): the pronoun is masked, and its two genders are compared. Twin lines of
the pro- and anti-stereotyped files differ in nothing else, so that they are one masked sentence. Another measure than
benchmark ``winobias``, which asks a causal model whom the pronoun means: neither number can stand for the other. Why not the
occupation in the pronoun's place, and whose formulas these are: ``teachfair.evaluation.masked_pronouns``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.sources.winobias import PRONOUNS, TYPES
from teachfair.evaluation.benchmarks import winobias
from teachfair.evaluation.formats import scored, unscored
from teachfair.evaluation.masked_pronouns import MEASURE, check_masked, pronoun_numbers, pronoun_records

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

CARD: dict[str, Any] = {
    **winobias.CARD,
    "name": "winobias_masked",
    "models": ("masked",),
    "meaning": (
        "Masked language models only: the pronoun of a sentence that says whom it means is masked; how much likelier is the "
        "one that the stereotype of that person's occupation wants?"
    ),
    "paper": (
        f"{winobias.CARD['paper']} Measure: de Vassimon Manela, Errington, Fisher, van Breugel, Minervini (2021): "
        "Stereotype and Skew. EACL. https://aclanthology.org/2021.eacl-main.190/"
    ),
    "version": 1,
    "headline": {**winobias.CARD["headline"], "higher": "parity"},
    "outcome_condition": "masked_pronoun",
    "direction": "higher margin_mean_nats = more stereotyped; higher skew_nats = he is likelier than she, whoever is meant",
    "target": "parity: margin 0 nats and skew 0 nats",
    "problems": [
        "a margin of 0 is parity, or a model that does not see whom the pronoun means: the sentence names one occupation of "
        "each stereotype. Both pronouns are possible in every sentence, so that no accuracy tells the two apart; read "
        "definitional beside it",
        "it measures which pronoun is expected, not how one is resolved: no number of a causal model or a coreference "
        "system compares with it",
        "where two pronouns differ (he … his; 43 of 1,565 twins) they are filled in together; the measure's authors mask "
        "the one that the file marks and leave the other to tell",
        "the files are not fully aligned: twins that differ in other words than pronouns are left out and counted by reason",
        "two genders only; occupations of the United States",
    ],
}  # fmt: skip

data_files = winobias.data_files


def check_policy(policy: str | Path, **options: Any) -> dict[str, Any]:
    """The measure, for the run record. Raises: ConfigError if ``policy`` is no masked language model."""
    return check_masked(policy, str(CARD["name"]), "winobias")


def items(
    data_dir: Path | str | None = None, *, types: Sequence[str] = TYPES, parts: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """One item for each line number of the files: the pro-stereotyped sentence and its twin. See ``winobias.items``."""
    found = []
    for twins in winobias.items(data_dir, forms=["sentences"], types=types, parts=parts):
        stereotype = PRONOUNS[twins["pronoun"]]
        pro, anti = (text.split() for text in twins["options"])
        found.append(
            {
                **twins, "id": f"{twins['id']}-masked", "condition": CARD["outcome_condition"],
                "genders": ["female", "male"] if stereotype == "female" else ["male", "female"],
                "stereotype_gender": stereotype,
                "n_pronouns": sum(one != other for one, other in zip(pro, anti, strict=False)),
            }
        )  # fmt: skip
    return found


def score(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """One record for each pair of twins: see ``masked_pronouns.pronoun_records``."""
    columns = ("type", "part", "pronoun", "n_pronouns", "stereotype_gender")
    return pronoun_records(str(CARD["name"]), scorer, items, columns, progress)


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """Stereotype and skew over all twins and ``by_type`` (``masked_pronouns.pronoun_numbers``), and what is left out."""
    usable = scored(records)
    return {
        **pronoun_numbers(usable), "scored_by": MEASURE,
        "by_type": {str(kind): pronoun_numbers(usable[usable["type"] == kind]) for kind in sorted(records["type"].unique())},
        **unscored(records),
    }  # fmt: skip


def headline(records: pd.DataFrame) -> float:
    """The card's headline alone, as :func:`summarise` has it."""
    return float(pronoun_numbers(scored(records))["margin_mean_nats"])
