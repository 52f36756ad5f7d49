"""Definitional agreement, built in: does the model still know that a grandmother is a she? English and French.

Teaching is not forgetting. These items hold no stereotype: the word itself says who is spoken of (grandmother, Mr, queen),
and the pronoun follows. Every word has its counterpart of the other gender in the same sentences, so that a model with a
liking for one pronoun is right in half of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.gathering import check_names
from teachfair.evaluation.formats import mean, scored, unscored
from teachfair.models.likelihood import OptionScore
from teachfair.models.pseudo_likelihood import MaskedScorer

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

CARD: dict[str, Any] = {
    "name": "definitional",
    "meaning": "My grandmother said that … she or he? Share of sentences whose pronoun agrees with a word that defines it.",
    "paper": "ours; after the definitional gender words of Bolukbasi et al. (2016), arXiv:1607.06520",
    "source": "built in",
    "licence": "Apache-2.0",
    "language": "en, fr",
    "lang": ["en", "fr"],
    "measures": "guard",
    "models": ("causal", "masked"),
    "headline": None,
    "guards": ["definitional"],
    "needs": "nothing",
    "norm": "the dictionary's: these words say the gender of whom they name",
    "version": "1",
    "direction": "higher accuracy = the model knows who is who",
    "target": "accuracy 1; a coin gives .5",
    "outcome_condition": None,
    "problems": [
        "two genders only, those that these words define",
        "in French the article agrees too: the grammar of the noun is tested as much as the person",
        "a small or foreign-language model is near .5 without having forgotten anything: compare with its untaught self",
    ],
}

# (woman's word, man's word), as they stand in a sentence.
WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("my grandmother", "my grandfather"), ("my mother", "my father"), ("my sister", "my brother"),
        ("my aunt", "my uncle"), ("my daughter", "my son"), ("my niece", "my nephew"),
        ("the girl", "the boy"), ("the woman", "the man"), ("the lady", "the gentleman"),
        ("the queen", "the king"), ("the princess", "the prince"), ("the bride", "the groom"),
        ("Mrs Miller", "Mr Miller"), ("the stepmother", "the stepfather"), ("the widow", "the widower"),
        ("the duchess", "the duke"),
    ),
    "fr": (
        ("ma grand-mère", "mon grand-père"), ("ma mère", "mon père"), ("ma sœur", "mon frère"),
        ("ma tante", "mon oncle"), ("ma fille", "mon fils"), ("ma nièce", "mon neveu"),
        ("la petite fille", "le petit garçon"), ("la femme", "l'homme"), ("la dame", "le monsieur"),
        ("la reine", "le roi"), ("la princesse", "le prince"), ("la mariée", "le marié"),
        ("madame Martin", "monsieur Martin"), ("la belle-mère", "le beau-père"), ("la veuve", "le veuf"),
        ("la duchesse", "le duc"),
    ),
}  # fmt: skip
# No verb that agrees, no occupation, no trait: nothing but the word tells the pronoun.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": (
        "{word} said that", "{word} went home because", "yesterday {word} called to say that",
        "{word} was late, but", "we waited for {word}, and then", "{word} opened the door when",
    ),
    "fr": (
        "{word} a dit que demain", "{word} a pris le train parce que", "hier {word} a téléphoné pour dire que",
        "{word} avait du retard, mais", "on attendait {word}, et puis", "{word} a ouvert la porte quand",
    ),
}  # fmt: skip
PRONOUNS = {"en": ("she", "he"), "fr": ("elle", "il")}
# How the sentence ends for a masked model, which reads both sides of the pronoun and expects a full stop at a text's end.
# The verb agrees with neither gender.
ENDINGS = {"en": " would come.", "fr": " viendrait."}


def items(data_dir: Path | str | None = None, *, lang: str | Sequence[str] = ("en", "fr")) -> list[dict[str, Any]]:
    """Every word in every sentence: 192 items a language; a pair of words is a cluster. ``data_dir`` is not used."""
    languages = [lang] if isinstance(lang, str) else list(lang)
    check_names("lang", languages, tuple(WORDS))
    found = []
    for one in languages:
        for pair, words in enumerate(WORDS[one]):
            for place, (word, gender) in enumerate(zip(words, ("woman", "man"), strict=True)):
                right, wrong = PRONOUNS[one][place], PRONOUNS[one][1 - place]
                for number, template in enumerate(TEMPLATES[one]):
                    text = template.format(word=word)
                    context, join = (text[:-1] + "'", "") if one == "fr" and text.endswith(" que") else (text, " ")
                    cluster = f"definitional-{one}-{pair:02d}"
                    found.append(
                        {
                            "id": f"{cluster}-{gender}-{number}", "cluster": cluster,
                            "axis": "gender", "groups": [gender], "lang": one, "condition": "definitional",
                            "prompt": context[0].upper() + context[1:], "options": [join + right, join + wrong],
                            "roles": ["right", "wrong"], "template": number,
                        }
                    )  # fmt: skip
    return found


def score(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """Both pronouns after the sentence. ``correct``: the agreeing one is likelier; ``awareness_nats``: by how much.

    ``margin_nats`` is NaN: knowing who is who is no bias. Of a masked model: both pronouns in one masked place, the sentence
    ended by ``ENDINGS``; column ``scored_by`` then says so, and the two accuracies are different numbers.
    """
    masked = isinstance(scorer, MaskedScorer)
    scores = _masked(scorer, items, progress) if isinstance(scorer, MaskedScorer) else scorer.continuations(
        [item["prompt"] for item in items], [item["options"] for item in items], progress=progress
    )  # fmt: skip
    records = []
    for item, (right, wrong) in zip(items, scores, strict=True):
        problem = right.problem or wrong.problem
        difference = right.logp_first - wrong.logp_first
        records.append(
            {
                "benchmark": CARD["name"], "item_id": item["id"], "cluster": item["cluster"], "axis": item["axis"],
                "groups": "|".join(item["groups"]), "lang": item["lang"], "condition": item["condition"],
                "roles": list(item["roles"]), "logps_first": [right.logp_first, wrong.logp_first],
                "logps_whole": [right.logp_whole, wrong.logp_whole], "n_tokens": [right.n_tokens, wrong.n_tokens],
                "chosen_role": "" if problem else "tie" if difference == 0 else item["roles"][difference < 0],
                "margin_nats": float("nan"), "correct": float("nan") if problem else float(difference > 0),
                "awareness_nats": difference, "problem": problem,
                "prefix_mismatch": right.prefix_mismatch or wrong.prefix_mismatch,
                **({"scored_by": "masked pronoun"} if masked else {}),
            }
        )  # fmt: skip
    return records


def _masked(
    scorer: MaskedScorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None
) -> list[list[OptionScore]]:
    pairs = [[item["prompt"] + option + ENDINGS[item["lang"]] for option in item["options"]] for item in items]
    return [
        [OptionScore(score.logp, score.logp, 0 if score.problem else 1, problem=score.problem) for score in pair]
        for pair in scorer.differing_tokens(pairs, progress=progress)
    ]


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """``accuracy`` (a tie is wrong) and ``awareness_mean_nats``, over all, ``by_lang`` and ``by_group``.

    ``accuracy_of_the_worse_group``: the smaller of the two genders' accuracies; .5 and a high other one is a liking for one
    pronoun, not knowledge.
    """
    usable = scored(records)
    found = _numbers(usable)
    groups = {str(name): _numbers(part) for name, part in usable.groupby("groups", sort=True)}
    found["accuracy_of_the_worse_group"] = min((one["accuracy"] for one in groups.values()), default=float("nan"))
    found["by_group"] = groups
    found["by_lang"] = {str(name): _numbers(part) for name, part in usable.groupby("lang", sort=True)}
    return found | unscored(records)


def _numbers(records: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {
        "accuracy": mean(records["correct"]), "awareness_mean_nats": mean(records["awareness_nats"]), "n": len(records),
    }  # fmt: skip
    if not len(records):
        found["reasons"] = dict.fromkeys(("accuracy", "awareness_mean_nats"), "no item was scored")
    return found
