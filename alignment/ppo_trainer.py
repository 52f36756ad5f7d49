"""PPO for language models as a small subclass of TRL's ``GRPOTrainer``.

TRL removed its own PPO in 1.13. Generation, rewards, reference, clipped policy loss and logging are GRPOTrainer's. What
makes it PPO is here: a value head on the policy's trunk, the KL to the reference as a price on each token, generalised
advantage estimation, and a clipped value loss. With θ the weights, A the whitened advantages and R the value targets:

    L = E_t[ −min(ρ_t·A_t, clip(ρ_t, 1−ε, 1+ε)·A_t) ] + vf_coef · E_t[ ½·max((V−R)², (V_clipped−R)²) ]
    ρ_t = π_θ(y_t | x, y_<t) / π_old(y_t | x, y_<t)

(Schulman et al. 2017, arXiv:1707.06347, eq. 7; for language models Ziegler et al. 2019, arXiv:1909.08593.) E_t is the
mean over all tokens of one optimiser step. This module subclasses TRL's classes: import it where a trainer is built.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig, GRPOTrainer

from teachfair.alignment.advantages import clipped_value_loss, gae, token_rewards, whiten
from teachfair.alignment.rollouts import ExactResume
from teachfair.models.checkpoint import inside_adapter

VALUE_HEAD = "value_head.safetensors"


@dataclass
class PPOConfig(GRPOConfig):
    """GRPOConfig's arguments, and PPO's under the names that TRL's own PPO had.

    ``num_ppo_epochs``, ``cliprange`` and ``kl_coef`` are GRPOConfig's ``num_iterations``, ``epsilon`` and ``beta``: give
    either name. One optimiser step sees ``per_device_train_batch_size × gradient_accumulation_steps`` completions per
    device; ``steps_per_generation`` (in micro-batches) makes a rollout larger than that: its mini-batches.
    Raises: ValueError where two names of one thing differ, or for settings that are not PPO.
    """

    num_ppo_epochs: int | None = field(
        default=None, metadata={"help": "passes over each rollout (default 4; also num_iterations)"}
    )
    gamma: float = field(default=1.0, metadata={"help": "discount per token"})
    lam: float = field(default=0.95, metadata={"help": "λ of generalised advantage estimation"})
    cliprange: float | None = field(
        default=None, metadata={"help": "how far the probability ratio may move a step (default 0.2; also epsilon)"}
    )
    cliprange_value: float | None = field(
        default=None,
        metadata={
            "help": "how far the value may move from the rollout's, in the reward's unit (default: unclipped; TRL's "
            "0.2 suits a value model that begins at the reward's scale, a head from zero would lag behind for many rollouts)"
        },
    )
    vf_coef: float = field(default=0.1, metadata={"help": "weight of the value loss"})
    value_learning_rate: float | None = field(
        default=None, metadata={"help": "of the value head, which starts from zero (default 30 × learning_rate)"}
    )
    value_gradient_to_trunk: bool = field(
        default=False,
        metadata={"help": "let the value loss move the policy's trunk as well; without, it moves the value head alone"},
    )
    kl_coef: float | None = field(
        default=None, metadata={"help": "price of a nat of KL to the reference (default 0.05; also beta). 0: no reference"}
    )
    whiten_rewards: bool = field(default=False, metadata={"help": "scale the token rewards to unit variance"})
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "taken off the score of a completion that did not end by itself"}
    )
    num_generations: int | None = field(
        default=1, metadata={"help": "completions per prompt of a rollout. PPO needs no groups: 1"}
    )
    num_generations_eval: int | None = field(
        default=None, metadata={"help": "completions per prompt in evaluation (default: num_generations)"}
    )
    num_iterations: int | None = field(default=None, metadata={"help": "also num_ppo_epochs"})
    epsilon: float | None = field(default=None, metadata={"help": "also cliprange"})
    beta: float | None = field(default=None, metadata={"help": "also kl_coef"})
    disable_dropout: bool = field(default=True, metadata={"help": "dropout would make the ratio differ from 1 at the start"})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "every parameter is used"})

    def __post_init__(self) -> None:
        for ours, theirs, default in (
            ("num_ppo_epochs", "num_iterations", 4), ("cliprange", "epsilon", 0.2), ("kl_coef", "beta", 0.05),
        ):  # fmt: skip
            given = [value for value in (getattr(self, ours), getattr(self, theirs)) if value is not None]
            if len(set(given)) > 1:
                raise ValueError(f"{ours} and {theirs} are two names of one thing, but are {given[0]} and {given[1]}")
            for name in (ours, theirs):
                setattr(self, name, given[0] if given else default)
        if self.loss_type != "dapo" or self.importance_sampling_level != "token":
            raise ValueError("PPO's loss is the mean over tokens: loss_type must be dapo, importance_sampling_level token")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if self.value_learning_rate is not None and not self.value_learning_rate >= 0:
            raise ValueError(f"value_learning_rate may not be negative, is {self.value_learning_rate}")
        for name in ("cliprange", "cliprange_value"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be larger than 0, not {getattr(self, name)}")
        for name in ("kl_coef", "vf_coef"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} may not be negative, is {getattr(self, name)}")
        wanted = self.num_generations
        if wanted == 1:
            # GRPO's check wants groups of at least 2 that fill the generation batch; its trainer works with 1.
            self.num_generations_eval = self.num_generations_eval or 1
            divisors = (self.per_device_train_batch_size, self.generation_batch_size, self.steps_per_generation)
            self.num_generations = next(
                (n for n in (*divisors, self.gradient_accumulation_steps) if n is not None and n > 1), None
            )
            if self.num_generations is None:
                raise ValueError("a rollout of one completion has no advantage: raise per_device_train_batch_size")
        super().__post_init__()
        self.num_generations = wanted


class PPOTrainer(ExactResume, GRPOTrainer):
    """Proximal policy optimisation with a value head on the shared trunk. Arguments: GRPOTrainer's, args a PPOConfig.

    The head is one linear layer (hidden size → 1) in fp32, zero at the start, called ``v_head`` while training. It is
    never part of the saved policy: :data:`VALUE_HEAD` keeps it beside it, and a resumed run reads it from there.
    """

    _tag_names = ["trl", "ppo"]  # noqa: RUF012 (as TRL declares them)
    _name = "PPO"
    _paper = {  # noqa: RUF012
        "title": "Proximal Policy Optimization Algorithms",
        "id": "1707.06347",
        "citation": textwrap.dedent("""\
            @article{schulman2017proximal,
                title  = {{Proximal Policy Optimization Algorithms}},
                author = {John Schulman and Filip Wolski and Prafulla Dhariwal and Alec Radford and Oleg Klimov},
                year   = 2017,
                eprint = {arXiv:1707.06347},
            }"""),
    }

    args: PPOConfig
    beta: float

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self._captured: list[torch.Tensor] | None = None
        self._values_seen: list[torch.Tensor] = []
        self._scores: tuple[torch.Tensor, torch.Tensor] | None = None
        policy = self._policy()
        size = policy.config.get_text_config().hidden_size
        head = torch.nn.Linear(size, 1, device=self.accelerator.device, dtype=torch.float32)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        # A submodule of the policy: so the optimiser, gradient clipping and DDP's averaging all see it.
        policy.v_head = head
        # On the trunk and not on the model: the hook runs inside the model's own (wrapped) forward.
        policy.base_model.register_forward_hook(self._capture)

    def _policy(self) -> Any:
        """The causal language model inside a possible adapter."""
        return inside_adapter(self.accelerator.unwrap_model(self.model))

    def create_optimizer(self, *positional: Any, **named: Any) -> Any:
        """The trainer's, with the value head in a group of its own, without weight decay.

        The trunk is pretrained, the head starts from zero: at the trunk's rate it lags behind the rewards it has to
        explain (benchmarks/ppo.py). The schedule scales both rates alike.
        """
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*positional, **named)
        head = list(self._policy().v_head.parameters())
        mine = {id(parameter) for parameter in head}
        found = sum(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"])
        if given or found != len(head):  # an optimiser of the caller's own, or one whose parameters are wrapped
            return optimizer
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in mine]
        rate = self.args.value_learning_rate
        rate = 30 * self.args.learning_rate if rate is None else rate
        optimizer.add_param_group({"params": head, "lr": rate, "weight_decay": 0.0})
        return optimizer

    # ------------------------------------------------------------------------------------------- values

    def _capture(self, module: Any, inputs: Any, output: Any) -> None:
        if self._captured is None:
            return
        hidden = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
        head = self._policy().v_head
        if not self.args.value_gradient_to_trunk:
            # the two losses pull at one trunk: so the policy moves as far for less divergence (benchmarks/ppo.py)
            hidden = hidden.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            self._captured.append(head(hidden.float()).squeeze(-1))  # (B, P+T)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *more: Any, **named: Any
    ) -> Any:
        """GRPOTrainer's; on the way the values (B, T) of the states before each completion token are kept."""
        if self.ref_model is not None and model is self.ref_model:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *more, **named
            )
        self._captured = []
        try:
            result = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *more, **named
            )
            self._values_seen.append(torch.cat(self._captured)[:, -(logits_to_keep + 1) : -1])
        finally:
            self._captured = None
        return result

    # ------------------------------------------------------------------------------------------ rollouts

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        """GRPOTrainer's (all ranks' completions, rewards); this rank's scores (B,) are kept for the token rewards."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        first = self.accelerator.process_index * len(prompts)
        mine = rewards[first : first + len(prompts)]
        scores = (mine * self.reward_weights.to(mine.device)).nansum(dim=1)
        if self.args.missing_eos_penalty is not None:
            cut = torch.tensor([ids[-1] not in self.eos_token_ids for ids in completion_ids_list], device=scores.device)
            scores = scores - self.args.missing_eos_penalty * cut.to(scores.dtype)
        self._scores = (scores, ~torch.isnan(mine).all(dim=1))
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """GRPOTrainer's rollout with PPO's ``advantages``, ``returns`` and ``old_values``, (B, T) each."""
        self._values_seen = []
        batch = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        mask = batch["completion_mask"]
        if "old_per_token_logps" not in batch:
            # GRPO leaves them out where the first step sees the whole rollout; the values are needed all the same.
            self._values_seen = []
            with torch.no_grad():
                batch["old_per_token_logps"], _, _ = self._get_per_token_logps_and_entropies(
                    self.model,
                    torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                    torch.cat([batch["prompt_mask"], mask], dim=1),
                    batch["completion_ids"].size(1),
                    batch_size=self.args.per_device_train_batch_size,
                )
        # The first pass is the policy's own; a second one, with the adapter switched off, is the reference's.
        values = self._values_seen[0].detach() * mask
        self._values_seen = []
        assert self._scores is not None
        (scores, scorable), self._scores = self._scores, None
        logps, ref_logps = batch["old_per_token_logps"], batch.pop("ref_per_token_logps", None)
        rewards = token_rewards(scores, logps, ref_logps, mask, self.beta)
        # A completion that no reward applies to teaches nothing.
        taught = mask * scorable.unsqueeze(1)
        if self.args.whiten_rewards:
            rewards = whiten(rewards, taught, shift_mean=False, total=self._sum)
        advantages, returns = gae(rewards, values, taught, self.args.gamma, self.args.lam)
        batch |= {
            "advantages": whiten(advantages, taught, total=self._sum),
            "old_values": values,
            "returns": returns,
            "value_mask": taught,
        }
        self._log_rollout(mode, scores, scorable, logps, ref_logps, mask, values, returns, taught)
        return batch

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, reduction="sum")

    def _log_rollout(
        self, mode: str, scores: torch.Tensor, scorable: torch.Tensor, logps: torch.Tensor,
        ref_logps: torch.Tensor | None, mask: torch.Tensor, values: torch.Tensor, returns: torch.Tensor,
        taught: torch.Tensor,
    ) -> None:  # fmt: skip
        """``kl`` is per token, ``objective/…`` per completion (TRL's PPO's names), both k1 in nats."""
        metrics = self._metrics[mode]
        metrics.pop("frac_reward_zero_std", None)  # of GRPO's groups, which PPO has none of
        kl = torch.zeros_like(logps) if ref_logps is None else (logps - ref_logps) * mask
        error = (returns - values) * taught
        sums = torch.stack([
            kl.sum(), mask.sum().float(), torch.tensor(float(len(scores)), device=kl.device),
            (scores * scorable).sum(), scorable.sum().float(), taught.sum().float(),
            error.sum(), (error**2).sum(), (returns * taught).sum(), (returns**2 * taught).sum(),
        ])  # fmt: skip
        kl_sum, tokens, rows, score, scored, n, error1, error2, return1, return2 = self._sum(sums).tolist()
        n = max(n, 1.0)
        spread = return2 / n - (return1 / n) ** 2
        if ref_logps is not None:
            metrics["kl"].append(kl_sum / max(tokens, 1.0))
            metrics["objective/kl"].append(kl_sum / rows)
        metrics["objective/non_score_reward"].append(-self.beta * kl_sum / rows)
        metrics["objective/scores"].append(score / max(scored, 1.0))
        metrics["objective/rlhf_reward"].append(score / max(scored, 1.0) - self.beta * kl_sum / rows)
        if spread > 1e-8:
            metrics["value/explained_variance"].append(1 - (error2 / n - (error1 / n) ** 2) / spread)

    # --------------------------------------------------------------------------------------------- loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Policy loss (GRPOTrainer's, on advantages (B, T)) + vf_coef · value loss; see the module's text."""
        self._values_seen = []
        beta, self.beta = self.beta, 0.0  # the KL is in the reward, not in the loss
        try:
            policy_loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        values = self._values_seen.pop()
        mode = "train" if self.model.training else "eval"
        mask = inputs["value_mask"]
        # GRPOTrainer's own denominator: the tokens of one optimiser step on one rank (DDP takes the ranks' mean).
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if mode == "train":
            tokens = tokens * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        reach = float("inf") if self.args.cliprange_value is None else self.args.cliprange_value
        per_token = clipped_value_loss(values, inputs["old_values"], inputs["returns"], reach)
        value_loss = (per_token * mask).sum() / tokens
        moved = ((values - inputs["old_values"]).abs() > reach).float()
        sums = self._sum(torch.stack([(per_token * mask).sum().detach(), (moved * mask).sum(), mask.sum().float()]))
        total, clipped, count = sums.tolist()
        self._metrics[mode]["loss/value_avg"].append(total / max(count, 1.0))
        self._metrics[mode]["val/clipfrac_avg"].append(clipped / max(count, 1.0))
        return policy_loss + self.args.vf_coef * value_loss

    # ----------------------------------------------------------------------------------- plain checkpoints

    @contextlib.contextmanager
    def _without_value_head(self) -> Iterator[torch.nn.Module]:
        policy = self._policy()
        head = policy.v_head
        del policy.v_head
        try:
            yield head
        finally:
            policy.v_head = head

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        from safetensors.torch import save_file

        if state_dict is not None:
            state_dict = {name: tensor for name, tensor in state_dict.items() if "v_head." not in name}
        with self._without_value_head() as head:
            super()._save(output_dir, state_dict)
            if self.args.should_save:
                tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
                save_file(tensors, Path(output_dir or self.args.output_dir) / VALUE_HEAD)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        with self._without_value_head() as head:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            path = Path(resume_from_checkpoint) / VALUE_HEAD
            if path.exists():
                head.load_state_dict(load_file(path))
