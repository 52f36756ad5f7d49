"""How fast likelihoods are scored, beside bias-bench's way and the real lm-eval, in one run.

    python benchmarks/scoring.py --data_dir DIR                              # GPT-2's shape (124 M), 5 repeats
    python benchmarks/scoring.py --data_dir DIR --limit 20 --repeats 1       # a quick look
    python benchmarks/scoring.py --data_dir DIR --model llama-15m
    python benchmarks/scoring.py --data_dir DIR --model FOLDER --device cuda --out scoring.json

Rivals: bias-bench's scoring of autoregressive models, written anew from its definition (one sentence at a time; for
CrowS-Pairs with a pass over the start token for each sentence, for StereoSet with one in all); and lm-eval's own ``HFLM``
where lm_eval can be imported (``pip install lm-eval==0.4.13``), at the batch size that is fastest here out of a sweep. HFLM
gets the token ids that ours gets, so that both answer the same question. They take turns within a repetition; medians.
Tokenising and loading are timed for none. Threads are the same for all (set OMP_NUM_THREADS).

Before anything is timed the scores must be the same: within 1e-5 nats a token, on average over each sequence.

Work: the first ``--limit`` pairs of CrowS-Pairs, contexts of StereoSet's dev set (intrasentence, three sentences each),
questions of BBQ's Age file (three answers each) in the file's order, in which questions that share a context follow each
other.

tokens needed: nodes of the one tree of all sequences, each without its last token: no exact method can do with fewer.
tokens computed: token positions that go through the model, pads included.
limit: the seconds that the needed tokens (2 × parameters of the layers each) and the scored ones (2 × parameters of the
output layer each) take at the rate of the fastest float32 matrix product measured in this run. Attention, norms and
everything else count as time, not as work. ``share`` is limit ÷ measured; ``share, all parameters`` takes 2 × all parameters
for each needed token, as if the output layer had to run on all of them.

Models by name are random (seed 0) and as large as the real ones. There is no tokenizer to go with them offline: a byte-level
BPE is trained on WikiText and the benchmarks' own sentences, whose common words are then one token each, as in GPT-2's; the
output layer keeps GPT-2's 50,257 rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Sequences = list[list[int]]
# Sum of log-probabilities of each sequence, nats.
Scorer = Callable[[], np.ndarray]

SHAPES = ("gpt2-124m", "llama-15m")
BATCH_SIZES = {"cpu": (1, 4, 8, 16, 32), "cuda": (16, 32, 64, 128, 256)}


def crows_texts(data: Path, limit: int) -> list[str]:
    with open(data / "crows_pairs" / "crows_pairs_anonymized.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:limit]
    return [row[side] for row in rows for side in ("sent_more", "sent_less")]


def stereoset_texts(data: Path, limit: int) -> list[str]:
    records = json.loads((data / "stereoset" / "dev.json").read_text(encoding="utf-8"))
    intra = [record for record in records if "BLANK" in record["context"]][:limit]
    return [sentence["sentence"] for record in intra for sentence in record["sentences"]]


def bbq_questions(data: Path, limit: int) -> list[tuple[str, list[str]]]:
    with open(data / "bbq" / "Age.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(limit), file, strict=False)]
    return [
        (f"{row['context']}\n{row['question']}\nAnswer:", [f" {row[f'ans{k}'].strip()}" for k in range(3)]) for row in rows
    ]


def random_model(name: str, texts: Sequence[str]) -> tuple[Any, Any]:
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    vocabulary = 50_257 if name == "gpt2-124m" else 32_000
    bpe.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0}
    if name == "gpt2-124m":
        return GPT2LMHeadModel(GPT2Config(**special)).eval(), tokenizer
    shape = {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape, **special)).eval(), tokenizer


def bias_bench(model: Any, bos: int, sequences: Sequences, *, start_pass_each: bool) -> np.ndarray:
    """Each token of a sentence given those before it, its first given the start token: one sentence at a time."""
    import torch

    def start_probabilities() -> Any:
        return torch.softmax(model(torch.tensor([[bos]], device=model.device))[0], dim=-1)

    with torch.no_grad():
        first = start_probabilities()
    scores = []
    for ids in sequences:
        if start_pass_each:
            first = start_probabilities()  # outside of no_grad, as there
        with torch.no_grad():
            output = torch.softmax(model(torch.tensor([ids], device=model.device))[0], dim=-1)
        probabilities = [first[0, 0, ids[0]].item()]
        probabilities += [output[0, position - 1, ids[position]].item() for position in range(1, len(ids))]
        scores.append(sum(math.log(one) for one in probabilities))
    return np.array(scores)


def hflm(model: Any, tokenizer: Any, batch_size: int, sequences: Sequences, starts: list[int]) -> Scorer:
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every model that is loaded already
    rival = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    pairs = enumerate(zip(sequences, starts, strict=True))
    requests = [((str(k), ""), ids[:start], ids[start:]) for k, (ids, start) in pairs]

    def score() -> np.ndarray:
        return np.array([one[0] for one in rival._loglikelihood_tokens(requests, disable_tqdm=True)])

    return score


def ours(model: Any, sequences: Sequences, starts: list[int]) -> np.ndarray:
    from teachfair.models.likelihood import token_logprobs

    return np.array([values.sum() for values in token_logprobs(model, sequences, starts)])


def ours_as_bias_bench(model: Any, bos: int, sequences: Sequences) -> np.ndarray:
    """bias-bench's question to our engine: the first token after the start token, the others without it."""
    longer = [ids for ids in sequences if len(ids) > 1]
    both = ours(model, [[bos, ids[0]] for ids in sequences] + longer, [1] * (len(sequences) + len(longer)))
    rest = iter(both[len(sequences) :])
    return np.array([both[k] + (next(rest) if len(ids) > 1 else 0.0) for k, ids in enumerate(sequences)])


def seconds(work: Callable[[], Any], device: str) -> float:
    import torch

    begin = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def matrix_rate(hidden: int, device: str) -> float:
    """The fastest float32 product of a layer's shape, FLOP/s: BLAS or oneDNN, median of 9 each."""
    import torch
    from torch.nn import functional

    rows = 1024 if device == "cpu" else 16384
    states, weight = torch.randn(rows, hidden, device=device), torch.randn(4 * hidden, hidden, device=device)
    ways = [lambda: functional.linear(states, weight)]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        ways.append(lambda: functional.linear(states.to_mkldnn(), weight).to_dense())
    with torch.inference_mode():
        best = min(statistics.median([seconds(way, device) for _ in range(10)][1:]) for way in ways)
    return 2 * rows * hidden * 4 * hidden / best


def parameters(model: Any) -> tuple[int, int]:
    """Of the layers' matrices, and of the output layer."""
    head = model.get_output_embeddings().weight.numel()
    tables = {id(table.weight) for table in model.modules() if type(table).__name__.endswith("Embedding")}
    tables.add(id(model.get_output_embeddings().weight))
    return sum(one.numel() for one in model.parameters() if one.dim() == 2 and id(one) not in tables), head


def count_computed(model: Any, work: Callable[[], Any]) -> int:
    counted = []

    def hook(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        counted.append(int((inputs[0] if inputs else named["input_ids"]).numel()))

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        work()
    finally:
        handle.remove()
    return sum(counted)


def entrants(model: Any, tokenizer: Any, work: dict[str, Any], device: str) -> dict[str, Scorer]:
    """Who takes part, in pairs that answer the same question: "ours ..." and its rival."""
    bos = int(tokenizer.bos_token_id)
    found: dict[str, Scorer] = {}
    bare, each = work.get("bare"), work.get("start_pass_each", False)
    if bare:
        found["bias-bench"] = lambda: bias_bench(model, bos, bare, start_pass_each=each)
        found["ours (bias-bench's question)"] = lambda: ours_as_bias_bench(model, bos, bare)
    sequences, starts = work["sequences"], work["starts"]
    found["ours"] = lambda: ours(model, sequences, starts)
    try:
        import lm_eval
    except ImportError:
        print("lm_eval cannot be imported: its rows are left out (pip install lm-eval==0.4.13)")
        return found
    if not work["lm_eval"]:
        return found
    part = slice(0, max(24, len(sequences) // 3))
    sweep = {
        size: seconds(hflm(model, tokenizer, size, sequences[part], starts[part]), device)
        for size in BATCH_SIZES["cuda" if device == "cuda" else "cpu"]
    }
    best = min(sweep, key=sweep.__getitem__)
    print("lm-eval, s by batch size:", ", ".join(f"{size}: {taken:.2f}" for size, taken in sweep.items()))
    found[f"lm-eval {getattr(lm_eval, '__version__', '')} HFLM, batch size {best}"] = hflm(
        model, tokenizer, best, sequences, starts
    )
    return found


def measure(name: str, model: Any, tokenizer: Any, work: dict[str, Any], repeats: int, device: str) -> dict[str, Any]:
    import torch

    from teachfair.models.packing import needed_tokens
    from teachfair.models.scoring_path import scoring_path

    print(f"\n{name}: {len(work['sequences'])} sequences")
    taking_part = entrants(model, tokenizer, work, device)
    counted, scores = {}, {}
    for who, score in taking_part.items():
        counted[who] = count_computed(model, lambda who=who, score=score: scores.update({who: score()}))  # type: ignore[misc]
    differences = {}
    for who, values in scores.items():
        twin = "ours (bias-bench's question)" if who == "bias-bench" else "ours"
        if who.startswith("ours"):
            continue
        asked = work["bare"] if who == "bias-bench" else work["sequences"]
        tokens = np.array([len(ids) for ids in asked]) - (0 if who == "bias-bench" else np.array(work["starts"]))
        differences[who] = float((np.abs(values - scores[twin]) / tokens).max())
        if not differences[who] <= 1e-5:
            raise SystemExit(f"{name}: {who} and {twin} differ by {differences[who]:.2e} nats a token: nothing is timed")
    times: dict[str, list[float]] = {who: [] for who in taking_part}
    rates = []
    for _ in range(repeats):
        rates.append(matrix_rate(model.get_input_embeddings().weight.shape[1], device))
        for who, score in taking_part.items():
            times[who].append(seconds(score, device))
    medians = {who: statistics.median(taken) for who, taken in times.items()}

    layers, head = parameters(model)
    rate = statistics.median(rates)
    needed = needed_tokens(work["sequences"])
    scored = len({tuple(ids[:k]) for ids, start in zip(work["sequences"], work["starts"], strict=True)
                  for k in range(start, len(ids))})  # fmt: skip
    limit = 2 * (needed * layers + scored * head) / rate
    result = {
        "work": name,
        "sequences": len(work["sequences"]),
        "path": scoring_path(model, max(map(len, work["sequences"]))),
        "tokens_needed": needed,
        "tokens_scored": scored,
        "matrix_product_gflop_per_s": rate / 1e9,
        "limit_s": limit,
        "share": limit / medians["ours"],
        "share_all_parameters": 2 * needed * (layers + head) / rate / medians["ours"],
        "largest_difference_nats_a_token": differences,
        "entrants": {
            who: {"median_s": medians[who], "all_s": times[who], "tokens_computed": counted[who]} for who in taking_part
        },
    }
    for who in taking_part:
        twin = "ours (bias-bench's question)" if who == "bias-bench" else "ours"
        ratio = "" if who.startswith("ours") else f"  ours is {medians[who] / medians[twin]:.2f} x as fast"
        print(f"  {who:42s} {medians[who]:8.2f} s  tokens computed {counted[who]:7d}{ratio}")
    print(
        f"  path {result['path']}; tokens needed {needed}, scored {scored}; matrix product {rate / 1e9:.0f} GFLOP/s; "
        f"limit {limit:.2f} s, share {result['share']:.2f} (all parameters: {result['share_all_parameters']:.2f}); "
        f"torch threads {torch.get_num_threads()}"
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="holds crows_pairs/, stereoset/, bbq/, wikitext2/")
    parser.add_argument("--model", default="gpt2-124m", help=f"a checkpoint folder, or a shape: {', '.join(SHAPES)}")
    parser.add_argument("--limit", type=int, default=60, help="pairs, contexts and questions of each benchmark")
    parser.add_argument("--repeats", type=int, default=5, help="medians are over so many turns of all rivals")
    parser.add_argument("--work", nargs="+", choices=["crows", "stereoset", "bbq"], default=["crows", "stereoset", "bbq"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    from teachfair.models.chat import tokenize
    from teachfair.models.checkpoint import load_policy

    data = arguments.data_dir
    crows, stereo = crows_texts(data, arguments.limit), stereoset_texts(data, arguments.limit)
    questions = bbq_questions(data, arguments.limit)
    if arguments.model in SHAPES:
        text = (data / "wikitext2" / "valid.txt").read_text(encoding="utf-8")
        own = [*crows_texts(data, 2000), *stereoset_texts(data, 1000)]
        own += [context + " ".join(answers) for context, answers in bbq_questions(data, 4000)]
        model, tokenizer = random_model(arguments.model, [*text.splitlines(), *own])
    else:
        model, tokenizer = load_policy(arguments.model)
    model = model.to(arguments.device)
    bos = [int(tokenizer.bos_token_id)]

    def of_texts(texts: list[str], **rest: Any) -> dict[str, Any]:
        bare = [tokenize(tokenizer, text) for text in texts]
        return {"bare": bare, "sequences": [bos + ids for ids in bare], "starts": [1] * len(bare), **rest}

    asked = [(context, context + answer) for context, answers in questions for answer in answers]
    contexts = {context: bos + tokenize(tokenizer, context) for context, _ in questions}
    sequences = [bos + tokenize(tokenizer, whole) for _, whole in asked]
    starts = []
    for (context, _), ids in zip(asked, sequences, strict=True):
        start = len(contexts[context])
        if ids[:start] != contexts[context]:
            raise SystemExit(f"this tokenizer merges context and answer: {context[-40:]!r}")
        starts.append(start)
    works = {
        "crows": ("CrowS-Pairs", of_texts(crows, start_pass_each=True, lm_eval=True)),
        "stereoset": ("StereoSet intrasentence", of_texts(stereo, start_pass_each=False, lm_eval=False)),
        "bbq": ("BBQ, three answers", {"sequences": sequences, "starts": starts, "lm_eval": True}),
    }
    total = sum(one.numel() for one in model.parameters())
    print(f"{arguments.model}: {total / 1e6:.1f} M parameters, {model.dtype}, {arguments.device}, torch {torch.__version__}")
    results = []
    for key in arguments.work:
        name, work = works[key]
        results.append(measure(name, model, tokenizer, work, arguments.repeats, arguments.device))
    if arguments.out:
        machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
                   "torch": torch.__version__, "device": arguments.device, "model": arguments.model}  # fmt: skip
        arguments.out.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
