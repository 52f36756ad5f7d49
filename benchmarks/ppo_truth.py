"""Our PPO against answers worked out by hand: a two-state chain and a bandit, through the real trainer.

    python benchmarks/ppo_truth.py        # prints the table as Markdown; about five minutes on one core

**Chain.** An answer is two tokens. The first one leads to state A (even id) or B (odd id), the second one is paid there:
in A an even token 1, in B an odd token .6, else 0; an answer that ends after its first token gets 0. So the best first
token is even, and only the value of the state behind it says so. By backward induction, without a price on divergence,
the optimum is 1. With a price β it is, for every token a in every state s (π_ref the untaught policy),

    Q(s, a) = reward + V(s′),    V(s) = β·log Σ_a π_ref(a|s)·exp(Q(s, a)/β),    π*(a|s) = π_ref(a|s)·exp((Q(s, a) − V(s))/β)

(Ziebart et al. 2008; Levine 2018, arXiv:1805.00909, sec. 2.) **Bandit.** An answer is one token, an even one is paid 1.

**Rollouts.** After some steps of learning, so that values and divergence are not 0, each rollout of the trainer is worked
out again: log-probabilities, reference and values by plain forward passes in double precision, then for answers of one or
two tokens, written out, r₁ = −β(log π − log π_ref), r₂ likewise + score, δ₂ = r₂ − V₂, δ₁ = r₁ + γV₂ − V₁, A₂ = δ₂,
A₁ = δ₁ + γλδ₂, targets R_t = A_t + V_t, and the mean and deviation of A over all tokens of the rollout, by which the trainer
whitens. The trainer keeps log-probabilities in single precision: differences of some 1e-7 are its rounding.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import os
import tempfile
from pathlib import Path
from typing import Any

IN_B = 0.6
PRICE = 0.5
# With a price the optimum is a mixture, which takes more answers a step to find than one best answer.
# λ = 1: a value that still lags then costs variance, but does not bend where the policy ends.
MORE = {"per_device_train_batch_size": 256, "max_steps": 400, "lam": 1.0}
END = 2  # id of the end token; even, so an answer that ends at once counts as one through A
# Equally long: GPT-2 counts positions from the left, padding included, and prompts are padded there.
QUESTIONS = ("who is late ?", "who was first ?", "the nurse left .", "tom met ann .")


def chain(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """The chain's reward of each answer."""
    return [paid(ids[0], ids[1]) if len(ids) == 2 else 0.0 for ids in completion_ids]


def paid(first: int, second: int) -> float:
    return float(second % 2 == 0) if first % 2 == 0 else IN_B * (second % 2)


def bandit(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """The bandit's reward of each answer."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def tiny_policy(out: Path, seed: int = 0) -> Path:
    """A random GPT-2 of some 25 tokens, width 64, one token per word: small enough to enumerate all of its answers.

    GPT-2, because it stays in double precision where it is put there (Llama's norms do not).
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = sorted({word for question in QUESTIONS for word in question.split()} | {"yes", "no", "he", "she", "it", "him"})
    names = ["<pad>", "<s>", "</s>", "<unk>", *words]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(names), n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    model.save_pretrained(out)
    fast.save_pretrained(out)
    return out


def teach(policy: Path, out: Path, reward: Any, *, rollouts: list[dict[str, Any]] | None = None, **more: Any) -> Path:
    """One PPO run; ``rollouts`` gets every rollout's tensors, and the weights that made it."""
    from datasets import Dataset

    from teachfair.alignment import online
    from teachfair.alignment.ppo_trainer import PPOConfig, PPOTrainer

    class Recording(PPOTrainer):
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named)
            if rollouts is not None:  # what is compared is the arithmetic, not the rounding of two forward passes
                for model in (self.model, self.ref_model):
                    model.double()
                self._policy().v_head.float()

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
            if rollouts is not None:
                kl = self._metrics["train"]["objective/kl"][-1]
                rollouts.append({"batch": batch, "model": copy.deepcopy(self._policy()).double(), "kl": kl})
            return batch

    values: dict[str, Any] = {
        "learning_rate": 1e-3, "max_steps": 200, "per_device_train_batch_size": 64, "num_ppo_epochs": 2, "kl_coef": 0.0,
        "max_completion_length": 2, "report_to": "none", "bf16": False, "activation_checkpointing": False,
        "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "seed": 0, "lr_scheduler_type": "linear",
    }  # fmt: skip
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": q}]} for q in QUESTIONS * 64])
    return online.teach_online(
        "ppo", lambda: Recording, policy, prompts, out, args=PPOConfig(output_dir=str(out), **(values | more)), reward=reward
    )


# -- what a policy does, by enumeration ---------------------------------------------------------------------------------


def answers_of(folder: Path) -> list[tuple[Any, Any]]:
    """Per question: log P(first token) (V,), and log P(second token | first) (V, V), in double precision."""
    import torch

    from teachfair.models.chat import render, tokenize
    from teachfair.models.checkpoint import load_policy

    model, tokenizer = load_policy(folder)
    model = model.double()
    found = []
    for question in QUESTIONS:
        talk = [{"role": "user", "content": question}]
        ids = torch.tensor(tokenize(tokenizer, render(tokenizer, talk, generation_prompt=True)))
        size = model.config.vocab_size
        two = torch.cat([ids.expand(size, -1), torch.arange(size).unsqueeze(1)], dim=1)
        with torch.inference_mode():
            logits = model(input_ids=two).logits.log_softmax(-1)
        found.append((logits[0, -2], logits[:, -1]))
    return found


def chain_table(size: int, end: int) -> Any:
    """Reward of (first, second) (V, V); a first token that ends the answer is paid 0 whatever would follow."""
    import torch

    table = torch.tensor([[paid(a, b) for b in range(size)] for a in range(size)], dtype=torch.float64)
    table[end] = 0.0
    return table


def expected_in_chain(folder: Path, untaught: Path, price: float) -> dict[str, float]:
    """Exact, mean over questions: reward, share of answers to state A, and objective E[reward] − price · KL."""
    own, reference = answers_of(folder), answers_of(untaught)
    return _mean([_chain_facts(*policy, *ref, price) for policy, ref in zip(own, reference, strict=True)])


def best_in_chain(untaught: Path, price: float) -> dict[str, float]:
    """The same for the optimal policy, by backward induction; without a price the optimum is 1, through A."""
    import torch

    if not price:
        return {"reward": 1.0, "to A": 1.0, "objective": 1.0}
    found = []
    for first, second in answers_of(untaught):
        table = chain_table(len(first), end=END)
        behind = price * torch.logsumexp(second + table / price, dim=1)  # V of the state behind each first token
        behind[END] = 0.0  # there is none behind the end
        start = price * torch.logsumexp(first + behind / price, dim=0)
        best = first + (behind - start) / price, second + (table - behind.unsqueeze(1)) / price
        facts = _chain_facts(*best, first, second, price)
        assert abs(facts["objective"] - float(start)) < 1e-9  # V of the start is what its policy is worth
        found.append(facts)
    return _mean(found)


def _chain_facts(first: Any, second: Any, first_ref: Any, second_ref: Any, price: float) -> dict[str, float]:
    import torch

    places = torch.arange(len(first))
    goes_on = (places != END).double()
    reward = float((first.exp().unsqueeze(1) * second.exp() * chain_table(len(first), end=END)).sum())
    behind = (second.exp() * (second - second_ref)).sum(dim=1) * goes_on
    kl = float((first.exp() * (first - first_ref + behind)).sum())
    return {"reward": reward, "to A": float(first.exp()[places % 2 == 0].sum()), "objective": reward - price * kl}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


# -- one rollout by hand ------------------------------------------------------------------------------------------------


def largest_differences(
    rollout: dict[str, Any], untaught: Path, reward: Any, *, price: float, gamma: float, lam: float
) -> dict[str, float]:
    """Largest |trainer − by hand| over a rollout's tokens, and of its mean KL; in brackets what the hand found."""
    import torch

    from teachfair.models.checkpoint import load_policy

    reference = load_policy(untaught)[0].double()
    model, batch = rollout["model"], rollout["batch"]
    old = batch["old_per_token_logps"].double()
    logps, by_hand, targets, advantages = [], [], [], []
    kl_cost = 0.0
    for row in range(len(old)):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist()
        answer = batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()
        ids = torch.tensor([prompt + answer])
        with torch.inference_mode():
            trunk = model.base_model(input_ids=ids).last_hidden_state[0]
            own, ref = model.lm_head(trunk).log_softmax(-1), reference(input_ids=ids).logits[0].log_softmax(-1)
            value = [float(x) for x in (trunk @ model.v_head.weight[0] + model.v_head.bias)[len(prompt) - 1 : -1]]
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        cost = [
            -price * float(own[p, token] - ref[p, token]) for p, token in zip(places, answer, strict=True)
        ]  # fmt: skip
        score = reward(completion_ids=[answer])[0]
        if len(answer) == 2:
            delta2 = cost[1] + score - value[1]
            delta1 = cost[0] + gamma * value[1] - value[0]
            gained = [delta1 + gamma * lam * delta2, delta2]
        else:
            gained = [cost[0] + score - value[0]]
        logps.append([float(own[p, token]) for p, token in zip(places, answer, strict=True)])
        kl_cost -= sum(cost) / price / len(old)
        by_hand.append(value)
        advantages.append(gained)
        targets.append([a + v for a, v in zip(gained, value, strict=True)])
    flat = [a for row_ in advantages for a in row_]
    mean = sum(flat) / len(flat)
    scale = math.sqrt(sum((a - mean) ** 2 for a in flat) / (len(flat) - 1) + 1e-8)
    # The trainer's are whitened: undo it with the mean and deviation found by hand, so that all rows are in reward's unit.
    own_advantages = batch["advantages"].double() * scale + mean

    def off(tensor: Any, rows: list[list[float]]) -> float:
        return max(
            abs(float(tensor[i][j]) - value) for i, row_ in enumerate(rows) for j, value in enumerate(row_)
        )  # fmt: skip

    return {
        "log-probabilities": off(old, logps), "values": off(batch["old_values"], by_hand),
        "value targets": off(batch["returns"], targets), "advantages": off(own_advantages, advantages),
        "KL an answer": abs(rollout["kl"] - kl_cost), "(KL an answer by hand)": kl_cost,
        "(mean absolute value by hand)": sum(abs(v) for row_ in by_hand for v in row_) / len(flat),
    }  # fmt: skip


# -- the table ----------------------------------------------------------------------------------------------------------


def rollout_rows(policy: Path, folder: Path, *, seeds: int = 3) -> list[dict[str, float]]:
    """Differences in the last of six rollouts, for some seeds; γ and λ below 1 so that both of them count.

    The policy is in double precision (the value head stays in single), so that what is compared is the arithmetic and not
    the rounding of two forward passes of different shapes.
    """
    found = []
    for seed in range(seeds):
        rollouts: list[dict[str, Any]] = []
        teach(
            policy, folder / f"rollouts-{seed}", chain, rollouts=rollouts, max_steps=12, learning_rate=3e-3, kl_coef=0.3,
            gamma=0.9, lam=0.8, seed=seed,
        )  # fmt: skip
        found.append(largest_differences(rollouts[-1], policy, chain, price=0.3, gamma=0.9, lam=0.8))
    return found


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        policy = tiny_policy(folder / "untaught")
        print("| task | kl_coef | untaught | PPO (seeds) | optimum by hand |\n|---|---|---|---|---|")
        for price in (0.0, PRICE):
            best, start = best_in_chain(policy, price), expected_in_chain(policy, policy, price)
            taught = []
            for seed in range(options.seeds):
                out = folder / f"chain-{price}-{seed}"
                out = teach(policy, out, chain, kl_coef=price, seed=seed, **(MORE if price else {}))
                taught.append(expected_in_chain(out, policy, price))
            for key, name in (("objective", "reward − kl_coef · KL"), ("reward", "reward"), ("to A", "share through A")):
                values = ", ".join(f"{one[key]:.3f}" for one in taught)
                print(f"| chain: {name} | {price:g} | {start[key]:.3f} | {values} | {best[key]:.3f} |", flush=True)
        shares = []
        for seed in range(options.seeds):
            out = teach(policy, folder / f"bandit-{seed}", bandit, seed=seed, max_completion_length=1)
            shares.append(sum(float(f.exp()[::2].sum()) for f, _ in answers_of(out)) / len(QUESTIONS))
        before = sum(float(f.exp()[::2].sum()) for f, _ in answers_of(policy)) / len(QUESTIONS)
        print(f"| bandit: reward | 0 | {before:.3f} | {', '.join(f'{x:.3f}' for x in shares)} | 1.000 |")
        print("\n| largest difference from the hand-computed (6th rollout) | seeds |\n|---|---|")
        rows = rollout_rows(policy, folder, seeds=options.seeds)
        for name in rows[0]:
            digits = ".2f" if name.startswith("(") else ".1e"
            print(f"| {name} | {', '.join(format(row[name], digits) for row in rows)} |")


if __name__ == "__main__":
    main()
