"""Our numbers beside those of the real lm-eval package, on the same files and checkpoint, in fp32.

    pip install lm-eval==0.4.13        # an environment of its own will do; it must see teachfair
    python benchmarks/lm_eval_agreement.py --model ../shared/models/stories260K --data_dir ../shared/data --limit 200

lm-eval's tasks are written here from its own YAMLs (crows_pairs_english, blimp, wikitext), with local files in place of hub
ids. Its wikitext rewrites the page before it scores it (detokenizer); here both sides score the page as it stands, and
lm-eval's windows are set to context − 1 tokens, as ours are (teachfair/models/rolling.py).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from teachfair.evaluation.benchmarks import blimp_anaphor, crows_pairs, wikitext
from teachfair.models.checkpoint import load_policy
from teachfair.models.scorer import PolicyScorer


def of_lm_eval(lm: Any, rows: list[dict[str, Any]], folder: Path, name: str, **config: Any) -> dict[str, Any]:
    """Results of one task over ``rows``, through ``lm_eval.simple_evaluate``."""
    import lm_eval

    file = folder / f"{name}.json"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test", "doc_to_text": "", "num_fewshot": 0, **config,
    }  # fmt: skip
    found = lm_eval.simple_evaluate(model=lm, tasks=[task], bootstrap_iters=0, verbosity="ERROR")
    return {key.split(",")[0]: value for key, value in found["results"][name].items()}


def higher_first(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    first, second = (logp for logp, _ in results)
    return {"pct_stereotype": float(first > second), "likelihood_diff": first - second}


def page_results(doc: dict[str, Any], results: Sequence[float]) -> dict[str, Any]:
    (logp,) = results
    size = len(doc["page"].encode())
    words = len(re.split(r"\s+", doc["page"]))
    return {"word_perplexity": (logp, words), "byte_perplexity": (logp, size), "bits_per_byte": (logp, size)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--data_dir", required=True, type=Path, help="folder with crows_pairs, blimp and wikitext2")
    parser.add_argument("--limit", type=int, default=200, help="pairs of each set, evenly spaced; articles: a tenth of it")
    given = parser.parse_args()
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = load_policy(given.model)
    scorer = PolicyScorer(model, tokenizer)
    context = int(model.config.max_position_embeddings)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, max_length=context, add_bos_token=True)
    # Rolling requests begin with the BOS in any case; add_bos_token would put a second one there and score it.
    narrow = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=context - 1, add_bos_token=False)
    lines: list[tuple[str, float, float]] = []

    def chosen(items: list[Any], n: int) -> list[Any]:
        return items[:: max(1, len(items) // n)][:n]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = chosen(crows_pairs.items(given.data_dir), given.limit)
        ours = crows_pairs.summarise(pd.DataFrame(crows_pairs.score(scorer, items)))
        theirs = of_lm_eval(
            lm, [dict(zip(("sent_more", "sent_less"), item["options"], strict=True)) for item in items], folder,
            "crows_pairs_english", output_type="multiple_choice", doc_to_target=0, target_delimiter="",
            doc_to_choice="{{[sent_more, sent_less]}}", process_results=higher_first,
            metric_list=[{"metric": key, "aggregation": "mean", "higher_is_better": False}
                         for key in ("pct_stereotype", "likelihood_diff")],
        )  # fmt: skip
        lines.append(("crows_pairs pct_more", ours["pct_more"], 100 * theirs["pct_stereotype"]))
        lines.append(("crows_pairs mean margin, nats", ours["margin_mean_nats"], theirs["likelihood_diff"]))

        items = chosen(blimp_anaphor.items(given.data_dir), given.limit)
        ours = blimp_anaphor.summarise(pd.DataFrame(blimp_anaphor.score(scorer, items)))
        theirs = of_lm_eval(
            lm, [dict(zip(("sentence_good", "sentence_bad"), item["options"], strict=True)) for item in items], folder,
            "blimp", output_type="multiple_choice", doc_to_target=0, target_delimiter="",
            doc_to_choice="{{[sentence_good, sentence_bad]}}",
            metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        )  # fmt: skip
        lines.append(("blimp_anaphor accuracy", ours["accuracy"], theirs["acc"]))

        items = chosen(wikitext.items(given.data_dir), max(1, given.limit // 10))
        ours = wikitext.summarise(pd.DataFrame(wikitext.score(scorer, items)))
        all_bytes = sum(len(item["text"].encode()) for item in items)  # lm-eval counts dropped characters too
        ours["bits_per_byte"] *= ours["n_bytes"] / all_bytes
        theirs = of_lm_eval(
            narrow, [{"page": item["text"]} for item in items], folder, "wikitext", output_type="loglikelihood_rolling",
            doc_to_target="{{page}}", process_results=page_results,
            metric_list=[{"metric": key} for key in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
        )  # fmt: skip
        lines.append(("wikitext bits per byte (all bytes)", ours["bits_per_byte"], theirs["bits_per_byte"]))
        lines.append(("wikitext ln word perplexity", math.log(ours["word_perplexity"]), math.log(theirs["word_perplexity"])))

    contexts = ["Tom and Lily went to the park. Who was late?"] * 3
    options = [" Tom was late.", " Lily was late.", " It is not known."]
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, pair, 0) for pair in zip(contexts, options, strict=True)]
    their_logps = [logp for logp, _ in lm.loglikelihood(requests)]
    our_scores = scorer.continuations(contexts[:1], [options])[0]
    apart = "*" if our_scores[0].prefix_mismatch else ""
    for option, one, other in zip(options, our_scores, their_logps, strict=True):
        lines.append((f"question, option{option!r}{apart}", one.logp_whole, other))
    print(f"{given.model}, limit {given.limit}, fp32\n{'':45}{'ours':>16}{'lm-eval':>16}{'difference':>14}")
    for label, one, other in lines:
        print(f"{label:45}{one:16.6f}{other:16.6f}{np.abs(one - other):14.2e}")


if __name__ == "__main__":
    main()
