"""Several sources as one set of pairs, by share; and a check that the mix does not teach to say "cannot tell" always.

A fair answer has two halves: do not assume where nothing is known, and use the evidence where there is some. Pairs in which
"cannot tell" is always the chosen answer teach the first half only, and a policy that learns it answers "cannot tell" to
everything: its bias reads 0 and it is of no use.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from teachfair.data.answer_traits import DECIDED
from teachfair.data.pairs import MARGIN, PAIR_COLUMNS, Counts, counts_of, pairs_dataset
from teachfair.errors import ConfigError, InputError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

DO_NOT_ASSUME = ("cant-tell-vs-stereotype", "cant-tell-vs-anti")
USE_EVIDENCE = ("evidence-vs-cant-tell", "evidence-vs-stereotype", "evidence-vs-anti")
AMBIGUOUS = ("ambiguous", "ambig")  # a prompt's condition under which its text does not decide
LEAST_SHARE = 0.1  # of evidence among both: below it the check warns. Ours: a tenth is no proof that it is enough


def check_mix(pairs: Dataset, *, force: bool = False) -> dict[str, Any]:
    """Refuse a mix that teaches "cannot tell" and never to use evidence.

    Args:
        pairs: with a column ``kind``.
        force: only warn. The report then says ``forced``.

    Returns: ``{"kinds": kind -> number, "do_not_assume": n, "use_evidence": n, "share_of_evidence": of both (None where
        there are neither), "forced": bool, "warnings": [...]}``, for a run record. Pairs of other kinds, and of kind
        "unspecified", are not judged: they may hold either half.
    Raises: ConfigError for a mix with ``cant-tell-vs-…`` pairs and no ``evidence-vs-…`` ones, unless forced; InputError if
        there is no column ``kind``.
    """
    if "kind" not in pairs.column_names:
        raise InputError("there is no column kind", where="pairs", fix="load them through a source of teachfair.data")
    kinds = Counter(pairs["kind"])
    assume, evidence = (sum(kinds[kind] for kind in half) for half in (DO_NOT_ASSUME, USE_EVIDENCE))
    where = f"kinds {', '.join(kind for kind in DO_NOT_ASSUME if kinds[kind])}"
    report = _judged(assume, evidence, f"of {len(pairs)} pairs", where, force=force)
    report["kinds"] = dict(sorted(kinds.items()))
    warnings = report["warnings"]
    if evidence and not kinds["evidence-vs-cant-tell"] and assume:
        warnings.append(
            'no pair prefers the evidence over "cannot tell" (evidence-vs-cant-tell): overuse of it is not taught against'
        )
    if kinds["evidence-vs-stereotype"] > 2 * kinds["evidence-vs-anti"]:
        warnings.append(
            f"{kinds['evidence-vs-stereotype']} pairs with evidence against the stereotype, {kinds['evidence-vs-anti']} "
            "with evidence for it: a policy can learn to choose the anti-stereotype instead of reading"
        )
    _warn(warnings)
    return report


def check_prompts(prompts: Dataset, *, force: bool = False) -> dict[str, Any]:
    """:func:`check_mix` for prompts to teach online with: a policy that is only ever asked where nothing is known learns
    "cannot tell" just as well from rewards.

    What a prompt says of itself: the ``kind`` of the pair that it came from, or its ``condition`` (ambiguous; or one of
    :data:`~teachfair.data.answer_traits.DECIDED`, under which the text decides). A kind that is judged goes first.

    Returns: as :func:`check_mix`, with ``conditions`` beside ``kinds``, and ``unknown``: the number of prompts that say
        neither. If none says anything the mix is not judged, and that is said once.
    Raises: ConfigError as :func:`check_mix`.
    """
    absent = [None] * len(prompts)
    kinds, conditions = (
        list(prompts[name]) if name in prompts.column_names else absent for name in ("kind", "condition")
    )
    halves = [_half(kind, condition) for kind, condition in zip(kinds, conditions, strict=True)]
    said = [f"kind {kind}" for kind in DO_NOT_ASSUME if kind in kinds]
    said += [f"condition {condition}" for condition in AMBIGUOUS if condition in conditions]
    report = _judged(
        halves.count("assume"), halves.count("evidence"), f"of {len(prompts)} prompts", ", ".join(said), force=force
    )
    report |= {"kinds": _counted(kinds), "conditions": _counted(conditions), "unknown": halves.count("")}
    if report["unknown"] == len(prompts):
        report["warnings"].append(
            "no prompt says by kind or condition whether its text decides the question: whether the lesson also asks to use "
            "the evidence is unknown"
        )
    _warn(report["warnings"])
    return report


def _half(kind: Any, condition: Any) -> str:
    """Which half of fairness a prompt is about: "assume", "evidence", "neither", or "" where it says nothing."""
    if kind in DO_NOT_ASSUME or (kind not in USE_EVIDENCE and condition in AMBIGUOUS):
        return "assume"
    if kind in USE_EVIDENCE or condition in DECIDED:
        return "evidence"
    return "neither" if kind not in (None, "", "unspecified") or condition not in (None, "") else ""


def _counted(values: Sequence[Any]) -> dict[str, int]:
    return dict(sorted(Counter(str(value) for value in values if value).items()))


def _judged(assume: int, evidence: int, of: str, where: str, *, force: bool) -> dict[str, Any]:
    """The report on the two halves; refuses the first without the second."""
    report: dict[str, Any] = {
        "kinds": {}, "do_not_assume": assume, "use_evidence": evidence,
        "share_of_evidence": evidence / (assume + evidence) if assume + evidence else None,
        "forced": False, "warnings": [],
    }  # fmt: skip
    if assume and not evidence:
        what = (
            f'in {assume} {of} "cannot tell" is the fair answer and in none is it the evidence: taught on '
            'them, a policy says "cannot tell" where the answer is known too'
        )
        if not force:
            raise ConfigError(
                what,
                where=where,
                fix="mix in some that use the evidence (teachfair.data.mixing.mix): bbq, both conditions, or winobias with "
                "form='questions', types=('type1',); or force it: --force_mix (in a study: force_mix: true)",
            )
        report["forced"] = True
        report["warnings"].append(what)
    elif assume and evidence / (assume + evidence) < LEAST_SHARE:
        report["warnings"].append(
            f'only {evidence} {of} use the evidence beside {assume} in which "cannot tell" is right: watch for its overuse'
        )
    return report


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        logger.warning("mix: %s", warning)


def mix(
    parts: Mapping[str, Dataset], shares: Mapping[str, float] | None = None, *, n: int | None = None, seed: int = 0
) -> Dataset:
    """Several sets of pairs as one, shuffled with ``seed``; only the columns of a pair, and its ``margin``, are kept.

    Args:
        parts: name -> pairs.
        shares: name -> share of the mix, positive; they are made to sum to 1. None: every part whole. With shares, each
            part is drawn without replacement, and none is repeated to fill its share.
        n: pairs in the mix. None: as many as the shares allow, so that the scarcest part is used whole.

    Returns: the pairs, ids made unique (``<part>:<id>`` where two parts share one); ``counts_of`` gives the sum of the
        parts' counts, with their lists of excluded ids, and under ``mix`` what was drawn of each: name, number, of how many,
        share.
    Raises: ConfigError for unknown names, shares that are not positive, or more pairs than there are.
    """
    if not parts:
        raise ConfigError("there is nothing to mix", where="parts", fix="give at least one set of pairs")
    wanted = _numbers({name: len(part) for name, part in parts.items()}, shares, n)
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    drawn = []
    owner: dict[str, str] = {}
    total = sum(wanted.values())
    counts = Counts()
    for name, part in parts.items():
        places = list(range(len(part)))
        if wanted[name] < len(part):
            places = sorted(rng.sample(places, wanted[name]))
        columns = [*PAIR_COLUMNS, *([MARGIN] if MARGIN in part.column_names else [])]
        taken = part.select_columns(columns).select(places).to_list()
        for row in taken:
            if owner.setdefault(row["id"], name) != name:
                row["id"] = f"{name}:{row['id']}"
        rows.extend(taken)
        drawn.append({"part": name, "n": len(taken), "of": len(part), "share": len(taken) / total})
        counts = counts + _counts_of(part)
    rng.shuffle(rows)
    made = pairs_dataset(rows, counts)
    made.info.description = json.dumps({**json.loads(made.info.description), "mix": drawn})
    return made


def _numbers(there: dict[str, int], shares: Mapping[str, float] | None, n: int | None) -> dict[str, int]:
    """How many pairs of each part."""
    if shares is None:
        total = sum(there.values())
        shares = {name: number / total for name, number in there.items()}
    elif set(shares) != set(there):
        odd = sorted(set(shares) ^ set(there))
        raise ConfigError(f"shares and parts differ: {', '.join(odd)}", where="shares", fix="give each part one share")
    for name, share in shares.items():
        if not (isinstance(share, int | float) and math.isfinite(share) and share > 0):
            raise ConfigError(f"a share of {share!r}", where=f"shares: {name}", fix="give a positive number")
    whole = sum(shares.values())
    shares = {name: share / whole for name, share in shares.items()}
    most = min(there[name] / share for name, share in shares.items())
    if n is None:
        n = math.floor(most + 1e-9)
    if n < 1 or n > math.floor(most + 1e-9):
        scarce = min(shares, key=lambda name: there[name] / shares[name])
        raise ConfigError(
            f"{n} pairs cannot be mixed by these shares: {scarce} has {there[scarce]} pairs",
            where="n",
            fix=f"ask for at most {math.floor(most)}, or give {scarce} a smaller share",
        )
    # largest remainders, so that the numbers sum to n
    numbers = {name: min(math.floor(n * share + 1e-9), there[name]) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: n * shares[name] - numbers[name], reverse=True)
    for name in by_remainder * 2:
        if sum(numbers.values()) < n and numbers[name] < there[name]:
            numbers[name] += 1
    return numbers


def _counts_of(part: Dataset) -> Counts:
    known = {field.name for field in fields(Counts)}
    found = {name: value for name, value in counts_of(part).items() if name in known}
    return Counts(**found) if found else Counts(read=len(part), kept=len(part))
