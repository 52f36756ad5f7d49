"""The question benchmarks on small checkpoints: accuracies, bias scores, and how far the way of asking moves them.

    python benchmarks/questions.py --models M1,M2 --data_dir D [--limit 100] [--winogender W]

D holds bbq/ and winobias/ in their authors' formats, W the authors' Winogender files; decisions are the built-in ones.
``--limit``: so many questions of each benchmark (templates of Winogender, lines of WinoBias, decisions with all people of
one age), evenly spaced. Questions longer than a model's context are left out and
counted. Prints one Markdown row for each model and number: the mean over formats × orders, and the range over formats.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

SHOWN = {
    "bbq": ("margin_mean_nats", "margin_parity_mean_nats", "ambiguous_accuracy", "disambiguated_accuracy", "s_amb", "s_dis",
            "unknown_overuse"),
    "winobias": ("margin_mean_nats", "accuracy", "gap_points"),
    "winogender": ("margin_mean_nats", "accuracy", "gap_points", "gotcha_gap_points", "correlation_nats"),
    "decisions": ("margin_mean_nats", "yes_share"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, help="checkpoint folders, separated by commas")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with bbq/ and winobias/")
    parser.add_argument("--winogender", type=Path, help="folder with all_sentences.tsv and occupations-stats.tsv")
    parser.add_argument("--limit", type=int, default=100, help="questions of each benchmark")
    parser.add_argument("--formats", default="plain,listed,lettered", help="prompt formats")
    own = parser.parse_args()

    import pandas as pd

    from teachfair.evaluation.benchmarks import get
    from teachfair.models.chat import ensure_chat_template
    from teachfair.models.checkpoint import load_policy
    from teachfair.models.scorer import PolicyScorer

    folders = {"bbq": own.data_dir, "winobias": own.data_dir, "winogender": own.winogender, "decisions": None}
    print("| model | benchmark | number | mean | range over formats | questions | left out |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for folder in own.models.split(","):
        model, tokenizer = load_policy(folder)
        ensure_chat_template(tokenizer)
        for name, data_dir in folders.items():
            if name == "winogender" and data_dir is None:
                continue
            more = {"forms": ["questions"]} if name == "winobias" else {}
            questions = defaultdict(list)
            for item in get(name).items(data_dir, formats=own.formats.split(","), **more):
                questions[item["base_id"]].append(item)
            bases = list(questions)
            n = min(own.limit, len(bases))
            chosen = [questions[bases[k * len(bases) // n]] for k in range(n)]
            room = int(getattr(model.config, "max_position_embeddings", 10**9)) - 1
            fits = [asked for asked in chosen if all(_length(tokenizer, item) <= room for item in asked)]
            items = [item for asked in fits for item in asked]
            summary = get(name).summarise(pd.DataFrame(get(name).score(PolicyScorer(model, tokenizer), items)))
            for number in SHOWN[name]:
                way = summary["ways"][number]
                print(
                    f"| {Path(folder).name} | {name} | {number} | {way['mean']:.3f} | {way['max_minus_min_formats']:.3f} | "
                    f"{len(fits)} | {n - len(fits)} |"
                )
            print(f"| {Path(folder).name} | {name} | position bias | {summary['position_bias']['max_minus_min']:.3f} | | "
                  f"{len(fits)} | {n - len(fits)} |", flush=True)  # fmt: skip
            if name == "decisions":
                print(f"| {Path(folder).name} | {name} | largest score ({summary['largest_score_term']}) | "
                      f"{summary['largest_score_nats']:.3f} | | {len(fits)} | {n - len(fits)} |")  # fmt: skip


def _length(tokenizer: Any, item: dict[str, Any]) -> int:
    return max(len(tokenizer(item["prompt"] + answer)["input_ids"]) for answer in item["answers"])


if __name__ == "__main__":
    main()
