"""Which reward head suits a sentence encoder: what a stock AutoModelForSequenceClassification holds, against mean pooling.

    python benchmarks/encoder_heads.py --encoder FOLDER --dataset_source stereoset_pairs --dataset_name DIR --out heads.json

A BERT-like sentence encoder was trained on the *mean* of its token vectors; the class that every stock tool loads reads
the first token through a pooler (tanh of a dense layer). Rows of the table, all of them trained on the same pairs and held
against the same held-out clusters, one run a seed:

- ``pooler kept``: as the checkpoint brings it;
- ``pooler redrawn``: drawn anew from the seed;
- ``pooler identity``: tanh of the first token's vector itself;
- ``mean pooling``: trained in the same way, but no stock class loads it: the price of the stock one;
- ``frozen mean + regression``: the encoder as it is, logistic regression on the difference of mean embeddings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

HEADS = ("pooler kept", "pooler redrawn", "pooler identity", "mean pooling", "frozen mean + regression")


def model_with(head: str, encoder: Path, seed: int) -> Any:
    """A BERT classifier with one output whose pooling is ``head``."""
    import torch
    from transformers import BertForSequenceClassification, set_seed

    class MeanPooled(BertForSequenceClassification):
        def forward(self, input_ids: Any = None, attention_mask: Any = None, **unused: Any) -> Any:
            from transformers.modeling_outputs import SequenceClassifierOutput

            states = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
            mask = attention_mask[:, :, None].to(states.dtype)
            return SequenceClassifierOutput(logits=self.classifier(self.dropout((states * mask).sum(1) / mask.sum(1))))

    set_seed(seed)
    kind = MeanPooled if head == "mean pooling" else BertForSequenceClassification
    model = kind.from_pretrained(encoder, num_labels=1, dtype=torch.float32, use_safetensors=True)
    dense = model.bert.pooler.dense
    with torch.no_grad():
        if head == "pooler redrawn":
            dense.weight.normal_(0, model.config.initializer_range)
            dense.bias.zero_()
        elif head == "pooler identity":
            dense.weight.copy_(torch.eye(len(dense.weight)))
            dense.bias.zero_()
    return model


def vectors(model: Any, ids: list[list[int]]) -> Any:
    """(n, hidden) mean token vectors."""
    import numpy as np
    import torch

    found = []
    for one in ids:
        with torch.inference_mode():
            found.append(model.bert(input_ids=torch.tensor([one]))[0].mean(1)[0].numpy())
    return np.array(found)


def accuracy_of(head: str, encoder: Path, train: Any, test: Any, args: argparse.Namespace, seed: int) -> float:
    """Held-out share of pairs whose chosen side has the higher reward."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoTokenizer
    from trl import RewardTrainer

    from teachfair.reward_models.rendering import framed
    from teachfair.reward_models.training import _tokenised, reward_args

    tokenizer = framed(AutoTokenizer.from_pretrained(encoder))
    train_ids, test_ids = (_tokenised(pairs, tokenizer, 256)[0] for pairs in (train, test))
    model = model_with(head, encoder, seed)
    if head == HEADS[-1]:
        gaps = [
            vectors(model.eval(), list(part["chosen_ids"])) - vectors(model, list(part["rejected_ids"]))
            for part in (train_ids, test_ids)
        ]
        import numpy as np

        fitted = LogisticRegression(fit_intercept=False, max_iter=2000).fit(
            np.concatenate([gaps[0], -gaps[0]]), np.repeat([1, 0], len(gaps[0]))
        )
        return float((gaps[1] @ fitted.coef_[0] > 0).mean())
    with tempfile.TemporaryDirectory() as scratch:
        options = reward_args(
            scratch, seed=seed, learning_rate=args.learning_rate, num_train_epochs=args.epochs, disable_tqdm=True,
            per_device_train_batch_size=16, warmup_steps=0.1, lr_scheduler_type="linear",
        )  # fmt: skip
        RewardTrainer(model=model, args=options, train_dataset=train_ids, processing_class=tokenizer).train()
    model = model.eval().cpu()
    rewards = []
    for side in ("chosen_ids", "rejected_ids"):
        with torch.inference_mode():
            rewards.append([
                model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits.item()
                for ids in test_ids[side]
            ])  # fmt: skip
    return sum(better > worse for better, worse in zip(*rewards, strict=True)) / len(test_ids)


def main() -> None:
    """Run every head with every seed; print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True, help="a BERT-like sentence-transformers folder")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--dataset_source", default="preference_file")
    parser.add_argument("--n_train", type=int, default=1200)
    parser.add_argument("--n_test", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    from teachfair.alignment.lesson import split_by_cluster
    from teachfair.data import SOURCES

    pairs = SOURCES[args.dataset_source].load(args.dataset_name)
    train, test = split_by_cluster(pairs, share=0.2, seed=0)
    assert test is not None
    train = train.shuffle(seed=0).select(range(args.n_train))
    test = test.shuffle(seed=0).select(range(args.n_test))
    table = []
    for head in HEADS:
        seeds = args.seeds[:1] if head == HEADS[-1] else args.seeds
        begun = time.perf_counter()
        found = [accuracy_of(head, args.encoder, train, test, args, seed) for seed in seeds]
        row = {
            "head": head, "accuracy": statistics.mean(found), "by_seed": found,
            "seconds": (time.perf_counter() - begun) / len(found),
        }  # fmt: skip
        table.append(row)
        print(f"{head:<26} {row['accuracy']:.3f}  {[round(one, 3) for one in found]}  {row['seconds']:.0f} s", flush=True)
        if args.out:
            settings = {key: str(value) for key, value in vars(args).items()}
            args.out.write_text(json.dumps({"settings": settings, "table": table}, indent=1))


if __name__ == "__main__":
    main()
