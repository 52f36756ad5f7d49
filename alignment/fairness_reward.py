"""The fairness reward: one object that GRPO, RLOO and PPO take as their reward function.

    reward = score(prompt, answer) + Σ weight · rule(answer) − λ · |score(prompt, answer) − score(prompt′, answer′)|

*score* is a fairness reward model's, read off exactly the token ids that it was trained on. *prompt′* is the prompt with
the group swapped: the row's ``counterfactual_prompt``, or the prompt with the words of the row's ``swap`` exchanged.
*answer′*, the answer of the swapped prompt, is **the sampled answer itself with the same words exchanged** (by the rules of
``data.counterfactuals`` where these exchanged the prompt); nothing is sampled anew. It is what the policy would have said
had it treated the other group alike, so the last term is 0 for a reward that does not see the group, and the policy cannot
lower it by answering the swapped prompt badly. (Counterfactual fairness: Kusner et al. 2017, arXiv:1703.06856; the pairing
inside a reward is ours.)

While it scores, it measures: per-group means, their gap, the counterfactual gap, and what the hack watch looks at. All of
it goes through TRL's ``log_metric`` under ``fairness/…``, so it stands beside ``kl`` and ``reward`` in every log.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from teachfair.data import answer_traits
from teachfair.data.swapping import swap_mapping, swapped_messages, swapped_text
from teachfair.errors import ConfigError, InputError, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Message = Mapping[str, str]
Gold = Callable[[Mapping[str, Any], str], float]


class Scorer(Protocol):
    """What gives the score: a :class:`~teachfair.reward_models.scoring.RewardModel`, or anything with its ``score``."""

    name: str

    def score(self, conversations: Sequence[Sequence[Message]], *, batch_size: int = 64) -> np.ndarray:
        """(n,) of n conversations, each ending with the answer to judge. Higher = fairer."""


@dataclass(frozen=True)
class Answer:
    """What a rule sees: the answer's text, its tokens, the group words of its row, and whether it was cut off."""

    text: str
    n_tokens: int
    group_terms: Sequence[str]
    unfinished: bool


# A rule gives a number of one answer; its weight says what that is worth (negative = a penalty). One line, one rule.
RULES: dict[str, Callable[[Answer], float]] = {
    "length": lambda answer: float(answer.n_tokens),  # per token
    "group_mention": lambda answer: float(answer_traits.mentions(answer.text, answer.group_terms)),
    "refusal": lambda answer: float(answer_traits.mentions(answer.text, answer_traits.REFUSALS)),
    "repetition": lambda answer: answer_traits.repetition(answer.text),
    # a chat template closes an unfinished answer, so a reward model cannot see that it was cut off
    "unfinished": lambda answer: float(answer.unfinished),
}


class FairnessReward:
    """A reward function for TRL's online trainers (``reward_funcs=FairnessReward.load("runs/reward_model")``).

    Args:
        scorer: a reward model, or any object with ``name`` and ``score(conversations)``.
        rules: rule → weight, of :data:`RULES`.
        counterfactual_weight: λ ≥ 0. Larger: a reward that depends on the group counts for less. In the score's unit.
        measure_counterfactual: log the counterfactual gap where the rows have a swap, also with λ = 0. It doubles the
            scoring, so False leaves it out.
        group_terms: words that mention a group, beside each row's own ``groups``.
        gold: the truth of (row, answer), where it is known (the sandbox); never part of the reward, only logged.
        policy_tokenizer: the policy's; its chat template is held against the reward model's.
        eos_token_ids: the policy's end tokens; without them no answer counts as unfinished.
        name: under which trainers log it.

    Columns of the data set that it reads, all optional: ``counterfactual_prompt`` (messages), ``swap``
    (:func:`teachfair.data.swapping.swap_mapping`), ``counterfactual_rules`` (language, axis and groups by which the answer
    is exchanged instead of by ``swap``: :mod:`teachfair.data.prompt_counterfactuals`), ``group`` (the row's group, for means
    and gap), ``groups`` (group words), ``condition`` or ``evidence``; and whatever ``gold`` reads. ``remove_unused_columns``
    must be False (TRL's online trainers set that by themselves).

    Raises: CheckpointError (a reward model without exactly one output, see ``load``); ConfigError for an unknown rule or
        a weight that is not a number.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        rules: Mapping[str, float] | None = None,
        counterfactual_weight: float = 0.0,
        measure_counterfactual: bool = True,
        group_terms: Sequence[str] = (),
        gold: Gold | None = None,
        policy_tokenizer: PreTrainedTokenizerBase | None = None,
        eos_token_ids: Sequence[int] = (),
        batch_size: int = 64,
        name: str = "fairness",
    ) -> None:
        self.scorer = scorer
        self.rules = dict(rules or {})
        for rule, weight in self.rules.items():
            if rule not in RULES:
                raise unknown_name("rule", rule, RULES)
            if not np.isfinite(weight):
                raise ConfigError(f"the weight of {rule} is {weight}", where="rules", fix="give a finite number")
        if not (np.isfinite(counterfactual_weight) and counterfactual_weight >= 0):
            raise ConfigError(
                f"counterfactual_weight is {counterfactual_weight}", where="FairnessReward",
                fix="give a number of at least 0 (a negative one would reward unequal treatment)",
            )  # fmt: skip
        self.counterfactual_weight = float(counterfactual_weight)
        self.measure_counterfactual = measure_counterfactual or counterfactual_weight > 0
        self.group_terms = list(group_terms)
        self.gold = gold
        self.eos_token_ids = frozenset(eos_token_ids)
        self.batch_size = batch_size
        self.__name__ = name
        self.counts: Counter[str] = Counter()
        if policy_tokenizer is not None:
            self._compare_templates(policy_tokenizer)

    @classmethod
    def load(cls, path: str | Path, *, dtype: str = "float32", device: str | None = None, **options: Any) -> FairnessReward:
        """From the folder (or hub id) of a reward model or of an ensemble; ``options`` as for the class.

        Raises: CheckpointError if there is no such model, or it has not exactly one output.
        """
        from teachfair.reward_models.ensemble import load_reward_model

        return cls(load_reward_model(path, dtype=dtype, device=device), **options)

    def identity(self) -> dict[str, Any]:
        """What decides this reward's numbers (for the run's fingerprint): the reward model's hash, rules and weights."""
        from teachfair.models.checkpoint import content_hash

        name = str(self.scorer.name)
        return {
            "scorer": content_hash(name) if Path(name).is_dir() else name, "rules": self.rules,
            "counterfactual_weight": self.counterfactual_weight, "group_terms": self.group_terms,
        }  # fmt: skip

    def report(self) -> dict[str, Any]:
        """JSON-able: what this reward was made of, and what was counted (for the run record)."""
        return {
            "scorer": self.scorer.name, "rules": self.rules, "counterfactual_weight": self.counterfactual_weight,
            "counts": dict(sorted(self.counts.items())),
        }  # fmt: skip

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of one batch, in its order.

        Args:
            prompts: conversations that end with the user's turn. Plain text is refused: TRL and the reward model would
                not see the same tokens.
            completions: conversations of the assistant's one message.
            completion_ids: token ids of each answer, for its length and whether it was cut off.
            columns: of the data set, one value per answer.

        Raises: InputError naming the batch's row and step: prompts that are not conversations, lists of other lengths,
            a score that is not finite or not one per answer, a conversation longer than the reward model's context, or
            λ > 0 on a data set with neither of the columns ``swap`` and ``counterfactual_prompt``.
        """
        step = getattr(trainer_state, "global_step", None)
        asked, answers = self._checked(prompts, completions, completion_ids, columns, step)
        n = len(answers)
        swapped = self._swapped(asked, answers, columns, step) if self.measure_counterfactual else [None] * n
        with_swap = [place for place in range(n) if swapped[place] is not None]
        talks = [[*turns, {"role": "assistant", "content": text}] for turns, text in zip(asked, answers, strict=True)]
        scores = self._scores([*talks, *[talk for talk in swapped if talk is not None]], step)
        own, other = scores[:n], np.full(n, np.nan)
        other[with_swap] = scores[n:]
        unequal = np.where(np.isnan(other), 0.0, np.abs(own - other))

        lengths = [len(ids) for ids in completion_ids] if completion_ids is not None else [len(a.split()) for a in answers]
        values = self._rule_values(answers, lengths, completion_ids, columns)
        rewards = own - self.counterfactual_weight * unequal
        for rule, weight in self.rules.items():
            rewards = rewards + weight * values[rule]

        self.counts["batches"] += 1
        self.counts["answers"] += n
        self.counts["without counterfactual"] += n - len(with_swap) if self.measure_counterfactual else 0
        if log_metric is not None:
            found = self._metrics(asked, answers, own, rewards, unequal[with_swap], lengths, values, columns)
            for name, value in sorted(found.items()):
                log_metric(f"fairness/{name}", value)
        if log_extra is not None:
            log_extra("fairness_score", own.tolist())
            if with_swap:
                log_extra("swapped_score", [None if np.isnan(value) else float(value) for value in other])
        return [float(reward) for reward in rewards]

    # -- the parts --------------------------------------------------------------------------------------------

    def _checked(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None,
        columns: Mapping[str, Any],
        step: int | None,
    ) -> tuple[list[list[Message]], list[str]]:
        sizes = {"prompts": len(prompts), "completions": len(completions)}
        if completion_ids is not None:
            sizes["completion_ids"] = len(completion_ids)
        sizes |= {name: len(values) for name, values in columns.items() if isinstance(values, list | tuple)}
        if len(set(sizes.values())) > 1:
            raise InputError(
                "the lists of a batch have different lengths: " + ", ".join(f"{name} {n}" for name, n in sizes.items()),
                where=_at(step), fix="give one value per answer",
            )  # fmt: skip
        asked: list[list[Message]] = []
        answers: list[str] = []
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if isinstance(prompt, str) or isinstance(completion, str):
                raise InputError(
                    "plain text: TRL and the reward model would see different tokens of it", where=_at(step, row),
                    fix='make the prompt column conversational: [{"role": "user", "content": …}]',
                )  # fmt: skip
            if not prompt or not completion or not isinstance(completion[-1].get("content"), str):
                raise InputError(
                    "a prompt without a message, or a completion without text", where=_at(step, row),
                    fix="give conversations: the user's turns, and one turn of the assistant",
                )  # fmt: skip
            asked.append([dict(turn) for turn in prompt])
            answers.append(completion[-1]["content"])
        return asked, answers

    def _swapped(
        self, asked: list[list[Message]], answers: list[str], columns: Mapping[str, Any], step: int | None
    ) -> list[list[Message] | None]:
        """(prompt′, answer′) of each row, None where the row has no swap."""
        swaps, prompts, rules = (columns.get(name) for name in ("swap", "counterfactual_prompt", "counterfactual_rules"))
        made: list[list[Message] | None] = []
        for row, (turns, answer) in enumerate(zip(asked, answers, strict=True)):
            swap = swap_mapping(swaps[row], _at(step, row)) if swaps is not None else {}
            given = prompts[row] if prompts is not None else None
            if isinstance(given, str) and given:
                given = [{"role": "user", "content": given}]
            if not given and not swap:
                made.append(None)
                continue
            # without a swap the answer names no one that the swapped prompt does not: it is the same answer
            other = [dict(turn) for turn in given] if given else swapped_messages(turns, swap)
            by_rules = tuple(rules[row] or ()) if rules is not None else ()
            if len(by_rules) == 1:
                raise InputError(
                    f"counterfactual_rules {list(by_rules)} names no axis", where=_at(step, row),
                    fix='give [language, axis], or [language, axis, group, group]; ["en", "gender"]',
                )  # fmt: skip
            said = _swapped_by_rules(answer, by_rules) if by_rules else swapped_text(answer, swap)
            if said is None:
                self.counts["answers that hold of one group only"] += 1
            made.append(None if said is None else [*other, {"role": "assistant", "content": said}])
        if self.counterfactual_weight > 0 and swaps is None and prompts is None:
            raise InputError(
                "counterfactual_weight is set, but no row has a counterfactual", where=_at(step),
                fix="add the columns counterfactual_prompt and swap to the data set, or set the weight to 0",
            )  # fmt: skip
        return made

    def _scores(self, talks: list[list[Message]], step: int | None) -> np.ndarray:
        scores = np.asarray(self.scorer.score(talks, batch_size=self.batch_size), dtype=np.float64)
        if scores.shape != (len(talks),):
            raise InputError(
                f"{len(talks)} conversations, but scores of shape {scores.shape}", where=f"{self.scorer.name}, {_at(step)}",
                fix="a reward model gives one number per conversation",
            )  # fmt: skip
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise InputError(
                f"the score is {scores[row]}", where=f"{self.scorer.name}, {_at(step, row)}",
                fix="the reward model is broken: classify a few texts with it, and train it again",
            )  # fmt: skip
        return scores

    def _rule_values(
        self,
        answers: list[str],
        lengths: list[int],
        completion_ids: Sequence[Sequence[int]] | None,
        columns: Mapping[str, Any],
    ) -> dict[str, np.ndarray]:
        if not self.rules:
            return {}
        groups = columns.get("groups") or [()] * len(answers)
        seen = []
        for row, text in enumerate(answers):
            ids = completion_ids[row] if completion_ids is not None else ()
            unfinished = bool(self.eos_token_ids) and (not len(ids) or int(ids[-1]) not in self.eos_token_ids)
            terms = [*self.group_terms, *answer_traits.terms_of(groups[row])]
            seen.append(Answer(text, lengths[row], terms, unfinished and completion_ids is not None))
        return {rule: np.array([RULES[rule](answer) for answer in seen]) for rule in self.rules}

    def _metrics(
        self,
        asked: list[list[Message]],
        answers: list[str],
        scores: np.ndarray,
        rewards: np.ndarray,
        unequal: np.ndarray,
        lengths: list[int],
        values: Mapping[str, np.ndarray],
        columns: Mapping[str, Any],
    ) -> dict[str, float]:
        """Only finite values: a batch without a group, a counterfactual or a decided question logs none of it."""
        texts = ["\n".join(turn["content"] for turn in turns) for turns in asked]
        found = {"score": float(scores.mean())}
        if len(unequal):
            found["counterfactual_gap"] = float(unequal.mean())
        found |= {f"rule/{rule}": float(value.mean()) for rule, value in values.items()}
        found |= group_means(scores, columns.get("group") or [])
        found |= answer_traits.watched(texts, answers, lengths, columns, group_terms=self.group_terms)
        if self.gold is not None:
            names = [name for name, value in columns.items() if isinstance(value, list | tuple)]
            rows = [{name: columns[name][row] for name in names} for row in range(len(answers))]
            gold = [
                float(self.gold({**row, "prompt": turns}, answer))
                for row, turns, answer in zip(rows, asked, answers, strict=True)
            ]
            found["gold"] = float(np.mean(gold))
            wrong = answer_traits.misranked(rewards.tolist(), gold, texts)
            if np.isfinite(wrong):
                found["misranked"] = wrong
        return found

    def _compare_templates(self, policy_tokenizer: PreTrainedTokenizerBase) -> None:
        own = getattr(self.scorer, "tokenizer", None)
        if own is None or not policy_tokenizer.chat_template:
            return
        if rendered_plainly(own) != rendered_plainly(policy_tokenizer):
            self.counts["another chat template"] += 1
            logger.warning(
                "the reward model %s was trained with another chat template than the policy's: it reads the same words, "
                "framed in the way it learned; check its accuracy on answers of this policy", self.scorer.name,
            )  # fmt: skip


def rendered_plainly(tokenizer: PreTrainedTokenizerBase) -> str:
    """A probe conversation by a tokenizer's chat template, without start, end and padding tokens and white space."""
    from teachfair.models.chat import render

    turns = [{"role": "user", "content": "Who was late?"}, {"role": "assistant", "content": "Cannot tell."}]
    text = render(tokenizer, turns)
    for token in {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.cls_token, tokenizer.sep_token}:
        text = text.replace(token or "", "")
    return "".join(text.split())


@lru_cache(maxsize=1 << 14)
def _swapped_by_rules(answer: str, rules: tuple[str, ...]) -> str | None:
    """An answer about the other group; None where it has no counterfactual: it says what holds of one group only, or the
    rules are in doubt."""
    from teachfair.data.counterfactuals import swap

    lang, axis, *groups = rules
    other = swap(answer, lang, axis, groups=groups or None)
    return None if other.undecided or any(left.reason == "definitional" for left in other.left) else other.text


def group_means(scores: np.ndarray, groups: Sequence[Any]) -> dict[str, float]:
    """Mean score of each group of a batch as ``mean/<group>``, and their largest difference as ``gap``.

    Rows without a group ("" or None) belong to none. With fewer than two groups in the batch there is no gap (a gap of
    0.0 would read as "fair").
    """
    means = {}
    for group in sorted({str(name) for name in groups if name}):
        mine = [place for place, name in enumerate(groups) if name and str(name) == group]
        means[f"mean/{group}"] = float(scores[mine].mean())
    if len(means) > 1:
        means["gap"] = max(means.values()) - min(means.values())
    return means


def _at(step: int | None, row: int | None = None) -> str:
    place = "a batch" if step is None else f"the batch of step {step}"
    return place if row is None else f"row {row} of {place}"
