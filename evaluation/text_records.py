"""Records and numbers of running text: bits per byte, and the perplexities that others report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from teachfair.evaluation.formats import scored, unscored

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.likelihood import TextScore


def text_records(benchmark: str, items: Sequence[Mapping[str, Any]], scores: Sequence[TextScore]) -> list[dict[str, Any]]:
    """One record a text. ``bits_per_byte`` = −log2 P(text) ÷ ``n_bytes`` of the text that the tokens keep."""
    records = []
    for item, one in zip(items, scores, strict=True):
        problem = one.problem or ("" if one.n_bytes else "no tokens")
        bits = math.nan if problem else -one.logp / math.log(2) / one.n_bytes
        records.append(
            {
                "benchmark": benchmark, "item_id": item["id"], "cluster": item["cluster"], "axis": item["axis"],
                "groups": "", "lang": item["lang"], "condition": item["condition"], "roles": [], "logps_first": [],
                "logps_whole": [one.logp], "n_tokens": [len(one.token_ids)], "chosen_role": "", "margin_nats": math.nan,
                "correct": math.nan, "bits_per_byte": bits, "n_bytes": one.n_bytes, "n_words": len(item["text"].split()),
                "dropped_characters": one.dropped, "problem": problem, "prefix_mismatch": False,
            }
        )  # fmt: skip
    return records


def text_summary(records: pd.DataFrame) -> dict[str, Any]:
    """Over all texts together: ``bits_per_byte`` = Σ bits ÷ Σ bytes, ``byte_perplexity`` = 2 to that, ``word_perplexity`` =
    exp(−Σ log P ÷ Σ words), words as white space parts them (lm-eval's definitions); ``by_lang``; ``dropped_characters``."""
    usable = scored(records)
    found = _numbers(usable)
    found["by_lang"] = {str(name): _numbers(part) for name, part in usable.groupby("lang", sort=True)}
    found["dropped_characters"] = int(records["dropped_characters"].sum())
    return found | unscored(records)


def _numbers(records: pd.DataFrame) -> dict[str, Any]:
    n_bytes, n_words = int(records["n_bytes"].sum()), int(records["n_words"].sum())
    logp = math.fsum(whole[0] for whole in records["logps_whole"])
    found: dict[str, Any] = {"n": len(records), "n_bytes": n_bytes, "n_words": n_words}
    if not n_bytes:
        names = ("bits_per_byte", "byte_perplexity", "word_perplexity")
        return found | dict.fromkeys(names, math.nan) | {"reasons": dict.fromkeys(names, "no text was scored")}
    bits = -logp / math.log(2) / n_bytes
    nats_a_word = -logp / n_words
    words = math.exp(nats_a_word) if nats_a_word < 700 else math.inf  # a broken model: beyond what a float holds
    return {"bits_per_byte": bits, "byte_perplexity": 2**bits, "word_perplexity": words} | found
