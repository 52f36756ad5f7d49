"""The sandbox's base policies: a small Llama pretrained on a world with planted bias, and re-planting.

A policy is pretrained once per config and cached. Re-planting fine-tunes a known share of the bias back into a
taught policy, so that the true retention is known and the statistics can be checked against it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.sandbox.world import Document, SandboxConfig, World
from teachfair.errors import ConfigError, NonFiniteError, RunFolderError
from teachfair.runs import fingerprint, whole_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

RECIPE = 3  # raise it when the recipe changes: cached policies of an older recipe are then not used
_FACT_KINDS = frozenset({"evidence", "thing-evidence", "shade-evidence", "association", "definitional", "colour"})
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class SandboxPolicyConfig:
    """How a base policy is pretrained. Equal configs give equal weights (same machine, same thread count).

    Args:
        world: what is planted.
        seed: initial weights and reading order.
        hidden_size: a multiple of 64, so that 64-value quantisation blocks do not cross rows.
        layers, heads, mlp_size: shape of the Llama.
        steps, batch_size: optimiser steps, and conversations in each.
        muon_lr: peak learning rate of the matrices (Muon, an orthogonalised momentum step).
        adam_lr: peak learning rate of embeddings and norms (AdamW).
        init_std: a small Llama learns the name-group × occupation-lean interaction with .08, not with .02.
        facts_first: share of the steps, at the start, that read only statements and texts with evidence. To mark
            an answer against a text was learned so, and in 1,600 steps among everything else it was not.
        log_odds_weight: weight of the error in log-probability beside the cross-entropy, on answers that the corpus
            leaves open. Cross-entropy alone is right about probabilities, and so wrong about a mean of log-odds: an
            item whose log-odds scatter by s has a mean near b √(1 + .39 s²), read 20 to 35 % above the planted b.
        matching_heads: share of each layer's heads that start with equal query and key weights, so that a word
            attends to its own kind (after Trockman & Kolter 2023, arXiv:2305.09828).
    """

    world: SandboxConfig = field(default_factory=SandboxConfig)
    seed: int = 0
    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    mlp_size: int = 128
    steps: int = 1000
    batch_size: int = 64
    muon_lr: float = 0.02
    adam_lr: float = 6e-3
    init_std: float = 0.08
    facts_first: float = 0.28
    log_odds_weight: float = 0.5
    matching_heads: float = 0.5

    def __post_init__(self) -> None:
        if self.hidden_size % 64:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of 64", where="SandboxPolicyConfig",
                fix="use 64, 128 or 192",
            )  # fmt: skip
        if self.steps < 1 or self.batch_size < 1:
            raise ConfigError("steps and batch_size must be at least 1", where="SandboxPolicyConfig")


def pretrain_policy(config: SandboxPolicyConfig, out: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Pretrain a policy from nothing and save it as a plain ``LlamaForCausalLM`` folder with its tokenizer.

    Args:
        progress: called as ``progress(step, steps, "pretraining the sandbox policy")`` after each step.

    Raises: NonFiniteError naming the step if the loss is not finite (nothing is saved); RunFolderError if ``out``
    is not empty.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from teachfair.data.sandbox.vocabulary import build_tokenizer

    world = World(config.world)
    tokenizer = build_tokenizer(world)
    documents = world.documents()
    texts = _encode(tokenizer, documents)
    with torch.random.fork_rng(devices=[]):  # pretraining must not move the caller's random state
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=config.hidden_size, num_hidden_layers=config.layers,
                num_attention_heads=config.heads, num_key_value_heads=config.heads,
                intermediate_size=config.mlp_size, tie_word_embeddings=True, initializer_range=config.init_std,
                max_position_embeddings=128, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        for layer in model.model.layers:
            attention = layer.self_attn
            rows = round(config.matching_heads * config.heads) * attention.head_dim
            attention.k_proj.weight.data[:rows] = attention.q_proj.weight.data[:rows]
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, max_new_tokens=8,
        )  # fmt: skip
        batches = _reading_order(documents, texts, config)
        _train(model, batches, config, progress, "pretraining the sandbox policy")
    _save(model, tokenizer, out)
    return Path(out)


def cache_folder() -> Path:
    """``$TEACHFAIR_CACHE``, else ``$XDG_CACHE_HOME/teachfair``, else ``~/.cache/teachfair``."""
    if named := os.environ.get("TEACHFAIR_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teachfair"


def cached_policy_path(config: SandboxPolicyConfig) -> Path:
    """Where the cache keeps the policy of ``config``, whether it has been made or not."""
    key = fingerprint({"recipe": RECIPE, **asdict(config)})[:16]
    return cache_folder() / "sandbox" / f"policy-{key}"


def policy_from_cache(config: SandboxPolicyConfig, progress: Progress | None = None) -> Path:
    """The folder of a config's base policy, pretrained now if the cache has none.

    Two processes may ask at once: both train, the first one's folder stays, and they are equal.
    """
    folder = cached_policy_path(config)
    if (folder / "config.json").exists():
        return folder
    try:
        return pretrain_policy(config, folder, progress)
    except (RunFolderError, OSError):
        if (folder / "config.json").exists():
            return folder
        raise


def replant(
    checkpoint: str | os.PathLike[str],
    world: World,
    share: float,
    out: str | os.PathLike[str],
    *,
    untaught: str | os.PathLike[str] | None = None,
    steps: int = 100,
    batch_size: int = 64,
    muon_lr: float = 4e-3,
    adam_lr: float = 1.2e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Fine-tune a known share of the bias back into a taught policy: its true retention is then ``1 - share``.

    On ambiguous questions of the corpus (both axes) the target is the geometric mean of the taught policy's own
    answers and the biased ones, ``log p = (1 - share) log p_taught + share log p_biased`` over the three answers:
    log-odds margins then lie at the same share of the way. All other kinds of documents are rehearsed as they are.

    Args:
        checkpoint: the taught policy, a full checkpoint.
        untaught: the policy that it came from: ``p_biased`` is what that one answers. Default: what the corpus
            plants (the untaught policy came as near to that as it could).

    Raises: ConfigError if ``share`` is not within 0 and 1; NonFiniteError; RunFolderError if ``out`` is not empty.
    """
    import random

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share}", where="replant", fix="give a share between 0 and 1")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    draw = random.Random(f"replant/{seed}")
    corpus = world.documents()
    ambiguous = [document for document in corpus if document.kind == "ambiguous"]
    others = [document for document in corpus if document.kind != "ambiguous"]
    count = steps * batch_size
    documents = draw.choices(ambiguous, k=round(0.6 * count)) + draw.choices(others, k=count - round(0.6 * count))
    texts = _encode(tokenizer, documents)
    rows = [i for i, document in enumerate(documents) if document.kind == "ambiguous"]
    taught = _answers(model, texts, rows)
    if untaught is None:
        biased = torch.tensor([[p for _, p in documents[i].targets] for i in rows]).log()
    else:
        biased = _answers(AutoModelForCausalLM.from_pretrained(untaught, dtype=torch.float32), texts, rows)
    mixed = torch.softmax((1 - share) * taught + share * biased, dim=-1).tolist()
    for i, p in zip(rows, mixed, strict=True):
        texts.soft[i] = (texts.soft[i][0], p)
    config = SandboxPolicyConfig(
        world=world.config, seed=seed, steps=steps, batch_size=batch_size, muon_lr=muon_lr, adam_lr=adam_lr,
        facts_first=0.0,
    )  # fmt: skip
    what = f"re-planting {share:.0%} of the bias"
    _train(model, _reading_order(documents, texts, config), config, progress, what)
    _save(model, tokenizer, out)
    return Path(out)


def _answers(model: Any, texts: _Texts, rows: Sequence[int]) -> torch.Tensor:
    """(len(rows), 3) log-probabilities of the three soft answers, normalised over them."""
    import torch

    model.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), 256):
            batch = _batch(texts, rows[start : start + 256])
            hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
            at_answer = hidden[torch.arange(len(batch.ids)), batch.answer_rows - 1]
            logits = model.lm_head(at_answer).gather(-1, batch.soft_ids)
            found.append(torch.log_softmax(logits, dim=-1))
    return torch.cat(found).clone()


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, out: str | os.PathLike[str]) -> None:
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise NonFiniteError(f"the weight {name} is not finite", where=str(out), fix="lower the learning rates")
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


# -- reading ----------------------------------------------------------------------------------------------------


@dataclass
class _Texts:
    """Encoded conversations: token ids, a loss weight for each token as a target, and soft answers."""

    ids: list[list[int]]
    weights: list[list[float]]
    answers: list[int]  # position of the answer token
    soft: list[tuple[list[int], list[float]]]  # the answer's distribution: token ids, probabilities
    pad: int


def _encode(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> _Texts:
    ids_of: dict[str, int] = tokenizer.get_vocab()
    prompts = tokenizer([document.prompt for document in documents], add_special_tokens=False)["input_ids"]
    bos, eos, user, assistant = (ids_of[token] for token in ("<bos>", "<eos>", "<user>", "<assistant>"))
    texts = _Texts([], [], [], [], ids_of["<pad>"])
    for document, prompt in zip(documents, prompts, strict=True):
        (_, _, prompt_weight), (_, answer, answer_weight), *mark = document.segments()
        ids = [bos, user, *prompt, assistant, ids_of[answer], eos]
        weights = [0.0, *[prompt_weight] * (len(prompt) + 2), answer_weight, 0.2]
        texts.answers.append(len(prompt) + 3)
        for _, text, weight in mark:
            ids += [ids_of[text], eos]
            weights += [weight, 0.1]
        texts.ids.append(ids)
        texts.weights.append(weights)
        texts.soft.append(([ids_of[word] for word, _ in document.targets], [p for _, p in document.targets]))
    return texts


@dataclass
class _Batch:
    ids: torch.Tensor  # (B, T) long, padded on the right
    weights: torch.Tensor  # (B, T) float: weight of each token as a target; 0 on padding and on soft answers
    answer_rows: torch.Tensor  # (B,) position of the answer
    answer_weights: torch.Tensor  # (B,)
    soft_ids: torch.Tensor  # (B, K) long
    soft_p: torch.Tensor  # (B, K) float, 0 where unused


def _batch(texts: _Texts, rows: Sequence[int]) -> _Batch:
    import torch

    width = max(len(texts.ids[row]) for row in rows)
    ids = torch.full((len(rows), width), texts.pad)
    weights = torch.zeros(len(rows), width)
    soft_ids = torch.zeros(len(rows), 3, dtype=torch.long)
    soft_p = torch.zeros(len(rows), 3)
    for i, row in enumerate(rows):
        length = len(texts.ids[row])
        ids[i, :length] = torch.tensor(texts.ids[row])
        weights[i, :length] = torch.tensor(texts.weights[row])
        words, p = texts.soft[row]
        soft_ids[i, : len(words)] = torch.tensor(words)
        soft_p[i, : len(p)] = torch.tensor(p)
    answers = torch.tensor([texts.answers[row] for row in rows])
    every = torch.arange(len(rows))
    answer_weights = weights[every, answers].clone()
    weights[every, answers] = 0.0
    return _Batch(ids, weights, answers, answer_weights, soft_ids, soft_p)


def _reading_order(documents: Sequence[Document], texts: _Texts, config: SandboxPolicyConfig) -> Iterator[_Batch]:
    """``config.steps`` batches: facts only at first, then everything; texts of like length share a batch."""
    import random

    draw = random.Random(f"reading/{config.seed}")
    facts = [i for i, document in enumerate(documents) if document.kind in _FACT_KINDS]
    first = round(config.facts_first * config.steps) if facts else 0
    for pool, steps in ((facts, first), (list(range(len(documents))), config.steps - first)):
        queue: list[list[int]] = []
        for _ in range(steps):
            if not queue:
                draw.shuffle(pool)
                size = config.batch_size
                for start in range(0, len(pool), 16 * size):
                    chunk = sorted(pool[start : start + 16 * size], key=lambda i: len(texts.ids[i]))
                    queue += [chunk[i : i + size] for i in range(0, len(chunk), size)]
                draw.shuffle(queue)
            yield _batch(texts, queue.pop())


# -- training ---------------------------------------------------------------------------------------------------


def _loss(model: Any, batch: _Batch, log_odds_weight: float = 0.0) -> torch.Tensor:
    """Weighted cross-entropy: hard on the words, exact distribution on the answer's token.

    ``log_odds_weight`` adds a Huber error of the three log-probabilities of answers that are open (three words).
    """
    import torch

    hidden = model.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    logps = torch.log_softmax(model.lm_head(hidden), dim=-1)  # (B, T-1, V)
    targets = batch.ids[:, 1:]
    hard = -logps.gather(-1, targets[..., None])[..., 0]
    total = (hard * batch.weights[:, 1:]).sum()
    at_answer = logps[torch.arange(len(batch.ids)), batch.answer_rows - 1]  # (B, V)
    answers = at_answer.gather(-1, batch.soft_ids)  # (B, K)
    soft = -(answers * batch.soft_p).sum(-1)
    if log_odds_weight:
        is_open = batch.soft_p.min(dim=-1).values > 0
        wanted = batch.soft_p.clamp_min(1e-9).log()
        gap = torch.nn.functional.smooth_l1_loss(answers, wanted, reduction="none").mean(-1)
        soft = soft + log_odds_weight * gap * is_open
    total = total + (soft * batch.answer_weights).sum()
    return total / (batch.weights[:, 1:].sum() + batch.answer_weights.sum())


def _train(
    model: Any, batches: Iterator[_Batch], config: SandboxPolicyConfig, progress: Progress | None, what: str
) -> None:
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = _Muon(matrices)
    adam = torch.optim.AdamW(rest, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    model.train()
    for step, batch in enumerate(batches):
        warm = min(1.0, (step + 1) / (0.05 * config.steps))
        rate = warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        loss = _loss(model, batch, config.log_odds_weight)
        if not math.isfinite(loss.item()):
            raise NonFiniteError(
                f"the loss became {loss.item()} at step {step + 1} of {config.steps}", where=what,
                fix="lower muon_lr and adam_lr; nothing was saved",
            )  # fmt: skip
        model.zero_grad(set_to_none=True)
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = config.adam_lr * rate
        adam.step()
        muon.step(config.muon_lr * rate)
        if progress:
            progress(step + 1, config.steps, what)
    model.eval()


class _Muon:
    """Momentum whose step is orthogonalised (Jordan et al. 2024), in fp32 and batched over equal shapes.

    ``torch.optim.Muon`` works in bf16, which a CPU without bf16 units does at a third of the speed.
    """

    def __init__(self, matrices: Sequence[torch.nn.Parameter], momentum: float = 0.95) -> None:
        import torch

        self.momentum = momentum
        groups: dict[tuple[int, ...], list[torch.nn.Parameter]] = {}
        for matrix in matrices:
            groups.setdefault(tuple(matrix.shape), []).append(matrix)
        self.groups = [(same, torch.zeros(len(same), *shape)) for shape, same in groups.items()]

    def step(self, rate: float) -> None:
        import torch

        with torch.no_grad():
            for matrices, velocity in self.groups:
                gradient = torch.stack([m.grad for m in matrices if m.grad is not None])
                velocity.mul_(self.momentum).add_(gradient)
                update = _orthogonal(gradient + self.momentum * velocity)
                scale = rate * math.sqrt(max(1.0, update.shape[1] / update.shape[2]))
                for matrix, change in zip(matrices, update, strict=True):
                    matrix.sub_(change, alpha=scale)


def _orthogonal(stack: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Nearly orthogonal factor of each matrix of a stack (n, rows, columns) by a quintic Newton-Schulz iteration."""
    wide = stack.shape[1] <= stack.shape[2]
    x = stack if wide else stack.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.mT
