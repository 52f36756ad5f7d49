"""The benchmarks. To add one: a module as below, and a line in the dict; or a YAML file (``template``).

A benchmark module has

* ``CARD``: dict with name, meaning, paper, licence, language, norm, version, direction, target, problems; ``measures``
  ("bias", "guard", "both"), ``headline`` (the number to read: key in the summary, target, unit, what higher means; None for
  a guard), ``guards`` (the conditions it serves as a guard-rail), ``needs`` (its files, or "nothing"), ``lang`` (codes),
  ``outcome_condition`` (of a study's verdict; "ambiguous" if absent, None: no margin), ``parity`` (its target is 0),
  ``models``, if it takes other policies than causal ones (:func:`takes`);
* ``items(data_dir, **options) -> list[dict]``: the items, each with ``id, cluster, axis, groups, lang, condition``;
* ``score(scorer, items, progress=None) -> list[dict]`` (``teachfair.models.scorer.Scorer``): one record per item, the
  columns of ``teachfair.evaluation.evaluate.RECORD_COLUMNS`` and any others; ``progress(done, total)``;
* ``summarise(records) -> dict``: pure; NaN where a number is undefined, and why under ``reasons``;
* if its summary takes long, ``headline(records) -> float``: the number that the card's headline names, and nothing else;
* if it reads files, ``data_files(data_dir) -> list[Path]``, so that the run record can hash them;
* if more than files can be missing (a judge, a lexicon), ``missing(data_dir, **options) -> str``: what, or "";
* if it may not score every policy, ``check_policy(policy, **options) -> dict``: raises, or returns facts for the record.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from teachfair.errors import unknown_name
from teachfair.evaluation.benchmarks import (
    bbq,
    blimp_anaphor,
    crows_pairs,
    crows_pairs_revised,
    decisions,
    definitional,
    honest,
    judged,
    open_answers,
    sandbox,
    stereoset_inter,
    stereoset_intra,
    template,
    utility,
    wikitext,
    winobias,
    winobias_masked,
    winogender,
    winogender_masked,
)

BENCHMARKS: dict[str, Any] = {
    "sandbox": sandbox,
    "crows_pairs": crows_pairs,
    "judged": judged,
    "crows_pairs_revised": crows_pairs_revised,
    "stereoset_intra": stereoset_intra,
    "stereoset_inter": stereoset_inter,
    "bbq": bbq,
    "winobias": winobias,
    "winogender": winogender,
    "winobias_masked": winobias_masked,
    "winogender_masked": winogender_masked,
    "decisions": decisions,
    "honest": honest,
    "open_answers": open_answers,
    "definitional": definitional,
    "blimp_anaphor": blimp_anaphor,
    "utility": utility,
    "wikitext": wikitext,
}


# What is measured beside every bias number, whatever was asked for: they need no files.
GUARDS = ("definitional", "utility", "open_answers")


# What stands for a benchmark where the policy is a masked language model: another measure, under its own name.
MASKED_COUNTERPARTS = {"winobias": "winobias_masked", "winogender": "winogender_masked"}


def takes(benchmark: Any, kind: str) -> bool:
    """Whether a benchmark can score a policy of a ``kind``: "causal" or "masked" (its card's ``models``)."""
    return kind in benchmark.CARD.get("models", ("causal",))


def get(benchmark: Any) -> Any:
    """The benchmark called ``benchmark``, or that of a YAML file (``template``); an object is returned as it is.

    Raises: ConfigError for an unknown name, or a file that is no template benchmark.
    """
    if not isinstance(benchmark, str | Path):
        return benchmark
    if template.names_file(benchmark):
        return template.load(benchmark)
    if benchmark not in BENCHMARKS:
        raise unknown_name("benchmark", str(benchmark), BENCHMARKS)
    return BENCHMARKS[benchmark]


def listing() -> str:
    """A block of text for each benchmark: what it measures, in which language, what it needs, under which licence."""
    blocks = []
    for name, module in BENCHMARKS.items():
        card = module.CARD
        needs = card.get("needs", "nothing")
        facts = [
            {"bias": "bias", "guard": "guard-rail", "both": "bias and guard-rail"}[card.get("measures", "bias")],
            ", ".join(card.get("lang", [card["language"]])), str(card["licence"]),
            "built in" if needs == "nothing" else f"needs {'; '.join(needs) if isinstance(needs, list) else needs}",
        ]  # fmt: skip
        meaning = textwrap.wrap(str(card["meaning"]), 96, initial_indent="    ", subsequent_indent="    ")
        blocks.append("\n".join([f"{name}  ({' · '.join(facts)})", *meaning, f"    target: {card['target']}"]))
    return "\n\n".join(blocks)
