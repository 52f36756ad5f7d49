"""Several reward models of one lesson: their mean as the reward, their disagreement as its uncertainty.

Members differ by seed: the head's (and an adapter's) first weights, dropout, and the order of the data; with ``bootstrap``
also by the data, whole clusters drawn with replacement (Lakshminarayanan et al., 2017, arXiv:1612.01474, found seeds alone
to do as well or better). The pretrained weights below the head are the same for all: what those get wrong together, no
disagreement shows.

Rewards of different members have different scales, so each is standardised before anything is averaged: z = (r − t) / T
with the threshold and temperature of the member's *own held-out calibration*, its log-odds that an answer is fair. Where a
member has none (no held-out pairs, or higher was not fairer there), **all** members are standardised by mean and standard
deviation of their own rewards over training pairs, so that the unit is one and the same; ``ensemble.json`` says which.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair import runs
from teachfair.errors import CheckpointError, ConfigError
from teachfair.models.checkpoint import ENSEMBLE, member_folders

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase
    from trl import RewardConfig

    from teachfair.reward_models.scoring import Message, RewardModel

logger = logging.getLogger(__name__)

_PAIRS_FOR_SCALE = 500  # training pairs that standardise members without a calibration


class RewardEnsemble:
    """Reward models of one lesson, read as one; the surface of :class:`~teachfair.reward_models.scoring.RewardModel`.

    The reward is the mean over members of the standardised reward z, minus ``conservatism`` times their disagreement. Unit:
    log-odds of "fair" (or standard deviations, see the module). ``disagreement`` is the standard deviation of z across
    members (ddof = 1), NaN with one member.

    Args:
        members: with one and the same tokenizer.
        scales: (centre, spread) of each member, reward units: z = (r − centre) / spread.
        calibration: of the ensemble's reward, as a single model's.
        conservatism: κ >= 0. Larger: an answer on which members disagree gets less. After Coste et al. (2023,
            arXiv:2310.02743), who subtract the variance; the standard deviation keeps the reward's unit.

    Raises: CheckpointError for no members, members that tokenise differently or scales that are not positive; ConfigError
        for a conservatism that is negative, or above 0 with one member.
    """

    def __init__(
        self,
        members: Sequence[RewardModel],
        scales: Sequence[tuple[float, float]],
        *,
        name: str = "",
        calibration: dict[str, Any] | None = None,
        conservatism: float = 0.0,
    ) -> None:
        self.members, self.name = list(members), name
        self.calibration, self.conservatism = calibration, float(conservatism)
        self._centre, self._spread = (np.array([scale[at] for scale in scales], dtype=float)[:, None] for at in (0, 1))
        if not members or len(scales) != len(members):
            raise CheckpointError(
                f"{len(members)} members and {len(scales)} scales", where=name, fix="train the ensemble again"
            )
        if not (np.isfinite(self._centre).all() and np.isfinite(self._spread).all() and (self._spread > 0).all()):
            raise CheckpointError("a member's scale is not a positive number", where=name, fix="train the ensemble again")
        if len({_as_text(member.tokenizer) for member in members}) > 1:
            raise CheckpointError(
                "its members read texts by different tokenizers", where=name, fix="keep members of one training together"
            )
        _check_conservatism(conservatism, len(members), name or "RewardEnsemble")

    @classmethod
    def load(cls, path: str | Path, *, dtype: str = "float32", device: str | None = None) -> RewardEnsemble:
        """Load a folder that :func:`train_reward_ensemble` made. All members are in memory together.

        Raises: CheckpointError if it is no such folder, or a member is missing or broken.
        """
        from teachfair.reward_models.scoring import RewardModel

        folders = member_folders(path)
        if not folders:
            raise CheckpointError(
                f"this folder holds no {ENSEMBLE}, so it is no finished ensemble", where=str(path),
                fix="start its training again (whole members are kept), or give one member's folder",
            )  # fmt: skip
        try:
            found = json.loads((Path(path) / ENSEMBLE).read_text(encoding="utf-8"))
            scales = [(float(member["centre"]), float(member["spread"])) for member in found["members"]]
            conservatism = float(found["conservatism"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"its description cannot be read ({error!r})", where=str(Path(path) / ENSEMBLE), fix="copy the folder again"
            ) from error
        members = [RewardModel.load(folder, dtype=dtype, device=device) for folder in folders]
        return cls(
            members, scales, name=str(path), calibration=found.get("calibration"), conservatism=conservatism
        )  # fmt: skip

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The one that all members share."""
        return self.members[0].tokenizer

    @property
    def is_framed(self) -> bool:
        """Whether the members' tokenizer was framed by ``rendering``."""
        return self.members[0].is_framed

    @property
    def max_tokens(self) -> int:
        """The longest conversation that every member can read, in tokens."""
        return min(member.max_tokens for member in self.members)

    def token_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids that the members see of a conversation."""
        return self.members[0].token_ids(messages)

    def member_rewards_ids(self, ids: Sequence[Sequence[int]], *, batch_size: int = 64) -> np.ndarray:
        """Standardised rewards (k, n) float64 of each member.

        Raises: InputError as a single model's ``score_ids``.
        """
        raw = np.stack([member.score_ids(ids, batch_size=batch_size) for member in self.members])
        return (raw - self._centre) / self._spread

    def score_ids(self, ids: Sequence[Sequence[int]], *, batch_size: int = 64) -> np.ndarray:
        """Rewards (n,) float64 of token ids."""
        return self.reward_of(self.member_rewards_ids(ids, batch_size=batch_size))

    def disagreement_ids(self, ids: Sequence[Sequence[int]], *, batch_size: int = 64) -> np.ndarray:
        """(n,) >= 0: standard deviation (ddof = 1) of the members' standardised rewards; NaN with one member."""
        return spread_of(self.member_rewards_ids(ids, batch_size=batch_size))

    def score(self, conversations: Sequence[Sequence[Message]], *, batch_size: int = 64) -> np.ndarray:
        """Rewards (n,) float64 of whole conversations, each ending with the answer to judge. Higher = fairer.

        Raises: InputError naming the row, as a single model's.
        """
        return self.score_ids([self.token_ids(messages) for messages in conversations], batch_size=batch_size)

    def score_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Rewards (n,) float64 of texts as they are."""
        ids = [list(self.tokenizer(text, verbose=False)["input_ids"]) for text in texts]
        return self.score_ids(ids, batch_size=batch_size)

    def score_pairs(self, pairs: Dataset, *, batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Rewards of the chosen and of the rejected conversation of each preference pair, (n,) float64
        each."""
        chosen, rejected = self.member_rewards_of_pairs(pairs, batch_size=batch_size)
        return self.reward_of(chosen), self.reward_of(rejected)

    def member_rewards_of_pairs(self, pairs: Dataset, *, batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Standardised rewards of the chosen and the rejected side by member, (k, n) each: for :func:`pair_uncertainty`."""
        rows = list(pairs)
        both = [self.token_ids([*row["prompt"], *row[side]]) for side in ("chosen", "rejected") for row in rows]
        rewards = self.member_rewards_ids(both, batch_size=batch_size)
        return rewards[:, : len(rows)], rewards[:, len(rows) :]

    def reward_of(self, members: np.ndarray) -> np.ndarray:
        """The ensemble's reward (n,) of its members' standardised ones (k, n)."""
        mean = members.mean(axis=0)
        return mean - self.conservatism * spread_of(members) if self.conservatism else mean


def load_reward_model(
    path: str | Path, *, dtype: str = "float32", device: str | None = None
) -> RewardModel | RewardEnsemble:
    """A reward model, or an ensemble of them: whatever the folder (or hub id) is.

    Raises: CheckpointError as either's ``load``; for an ensemble whose training was not finished.
    """
    from teachfair.reward_models.scoring import RewardModel

    if member_folders(path) or (Path(path) / "member-0").is_dir():
        return RewardEnsemble.load(path, dtype=dtype, device=device)
    return RewardModel.load(path, dtype=dtype, device=device)


def spread_of(members: np.ndarray) -> np.ndarray:
    """Standard deviation (n,) across members (k, n), ddof = 1; NaN with one member."""
    if len(members) < 2:
        return np.full(members.shape[1], np.nan)
    return np.asarray(members.std(axis=0, ddof=1))


def pair_uncertainty(chosen: np.ndarray, rejected: np.ndarray) -> dict[str, np.ndarray]:
    """How sure the members are of the order of each pair.

    Args: chosen, rejected: (k, n) standardised rewards of k members, as ``member_rewards_of_pairs`` gives them.
    Returns: (n,) each: ``margin``, mean difference chosen − rejected; ``disagreement``, standard deviation of that
        difference across members (ddof = 1; what a member adds to both sides cancels; NaN with one member);
        ``agreement``, share of members, 0..1, that order the pair as the mean does (a tie counts one half; 1/2 where the
        mean is 0).
    """
    gaps = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    mean = gaps.mean(axis=0)
    sides = np.sign(gaps) * np.sign(mean)
    agreement = ((sides > 0) + 0.5 * (sides == 0)).mean(axis=0)
    return {"margin": mean, "disagreement": spread_of(gaps), "agreement": agreement}


def uncertainty_report(chosen: np.ndarray, rejected: np.ndarray) -> dict[str, Any]:
    """Whether the ensemble errs where its members disagree, over labelled pairs.

    Args: as :func:`pair_uncertainty`. An error is a pair whose rejected side has the higher mean (a tie is one too).
    Returns: ``n``, ``errors``, ``accuracy`` of the mean, ``mean_member_accuracy``, ``mean_disagreement``,
        ``mean_disagreement_of_errors``; and the area under the ROC curve (0..1, .5 = says nothing, higher = errors are where
        it is high) of three signs of an error: ``auroc_disagreement``, ``auroc_split`` (1 − agreement) and, for comparison,
        ``auroc_small_margin`` (−|margin|, which one model has too). None with ``reason`` where there are no errors, only
        errors, or one member.
    """
    from sklearn.metrics import roc_auc_score

    found = pair_uncertainty(chosen, rejected)
    wrong = found["margin"] <= 0
    gaps = np.asarray(chosen) - np.asarray(rejected)
    report: dict[str, Any] = {
        "n": int(wrong.size), "errors": int(wrong.sum()), "accuracy": float(1 - wrong.mean()),
        "mean_member_accuracy": float((gaps > 0).mean()), "mean_disagreement": None, "mean_disagreement_of_errors": None,
        "auroc_disagreement": None, "auroc_split": None, "auroc_small_margin": None,
    }  # fmt: skip
    if len(gaps) < 2:
        return report | {"reason": "one member disagrees with nobody"}
    report["mean_disagreement"] = float(found["disagreement"].mean())
    if not wrong.any() or wrong.all():
        return report | {"reason": f"{int(wrong.sum())} of {wrong.size} pairs are errors: there is nothing to tell apart"}
    signs = {
        "auroc_disagreement": found["disagreement"], "auroc_split": 1 - found["agreement"],
        "auroc_small_margin": -np.abs(found["margin"]),
    }  # fmt: skip
    report["mean_disagreement_of_errors"] = float(found["disagreement"][wrong].mean())
    return report | {name: float(roc_auc_score(wrong, sign)) for name, sign in signs.items()}


def _check_conservatism(conservatism: float, num_members: int, where: str) -> None:
    if not (math.isfinite(conservatism) and conservatism >= 0) or (conservatism and num_members == 1):
        raise ConfigError(
            f"a conservatism of {conservatism} with {num_members} members", where=where,
            fix="give a number of at least 0, and above 0 only with two members or more",
        )  # fmt: skip


def _as_text(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.backend_tokenizer.to_str()) + str(tokenizer.chat_template)


# ------------------------------------------------------------------------------------------------- the training


def train_reward_ensemble(
    model_name_or_path: str | os.PathLike[str],
    train_pairs: Dataset,
    eval_pairs: Dataset | None,
    out: str | os.PathLike[str],
    *,
    num_members: int,
    bootstrap: bool = False,
    conservatism: float = 0.0,
    args: RewardConfig | None = None,
    peft_config: PeftConfig | None = None,
    margin_scale: float = 1.0,
    facts: dict[str, Any] | None = None,
    classifier_face: bool = True,
    **options: Any,
) -> Path:
    """Train ``num_members`` reward models, seeds seed … seed + k − 1, into ``out/member-0`` …; each is a whole reward model.

    A run that was killed goes on when it is called again with the same arguments: whole members are kept, the one that was
    in the making resumes as a single model does.

    Args:
        bootstrap: each member learns from clusters drawn with replacement by its seed (as many as there are).
        conservatism: see :class:`RewardEnsemble`; kept in the folder, so that every door uses it.
        others: as :func:`~teachfair.reward_models.training.train_reward_model`. A ``data_seed`` counts up like the seed.
    Returns: ``out``: the members, ``ensemble.json`` (scales, calibration) and, last, ``run.json``: accuracy per kind of the
        ensemble and of each member on the held-out pairs, and :func:`uncertainty_report`.
    Raises: ConfigError for fewer than one member; RunFolderError if ``out`` holds something else; otherwise as there.
    """
    from accelerate import PartialState

    from teachfair.reward_models import training

    if num_members < 1:
        raise ConfigError(f"an ensemble of {num_members} members", where="--num_members", fix="give 1 or more")
    _check_conservatism(conservatism, num_members, "--conservatism")
    out, started = Path(out), time.monotonic()
    if args is None:
        args = training.reward_args(out, **options)
    elif options:
        raise ConfigError("give `args` or single options, not both", where=", ".join(options), fix="drop one of them")
    if isinstance(args.resume_from_checkpoint, str) and args.resume_from_checkpoint.lower() not in ("true", "false"):
        raise ConfigError(
            "a named checkpoint belongs to one member", where="--resume_from_checkpoint",
            fix="leave it out: each member goes on from its own newest checkpoint",
        )  # fmt: skip
    seeds = [args.seed + number for number in range(num_members)]
    described = training.described(model_name_or_path, train_pairs, eval_pairs, args, peft_config, margin_scale)
    decides = {**described, "seeds": seeds, "bootstrap": bootstrap, "conservatism": conservatism}
    state = PartialState()
    with runs.claimed(out) if state.is_main_process else nullcontext():
        if state.is_main_process:
            runs.begin(out, runs.fingerprint(decides))
        state.wait_for_everyone()
        if runs.read_record(out) is not None:
            return out
        for number, seed in enumerate(seeds):
            if runs.read_record(out / f"member-{number}") is not None:
                continue
            own = copy.copy(args)
            own.seed, own.data_seed = seed, None if args.data_seed is None else args.data_seed + number
            train_pairs_of_member = resampled(train_pairs, seed=seed) if bootstrap else train_pairs
            training.train_reward_model(
                model_name_or_path, train_pairs_of_member, eval_pairs, out / f"member-{number}", args=own,
                peft_config=peft_config, margin_scale=margin_scale, classifier_face=classifier_face,
                facts={**(facts or {}), "member": number, "of_members": num_members, "bootstrap": bootstrap},
            )  # fmt: skip
        if state.is_main_process:
            record = _judge(out, num_members, train_pairs, eval_pairs, conservatism, str(args.device))
            runs.write_record(
                out, step="reward_ensemble", key=runs.fingerprint(decides), **decides, **record, **(facts or {}),
                seconds=round(time.monotonic() - started, 2),
            )  # fmt: skip
        state.wait_for_everyone()
    return out


def resampled(pairs: Dataset, *, seed: int) -> Dataset:
    """As many clusters as there are, drawn with replacement: twins of one template come and go together."""
    clusters: dict[str, list[int]] = {}
    for place, cluster in enumerate(pairs["cluster"]):
        clusters.setdefault(cluster, []).append(place)
    rows = list(clusters.values())
    drawn = np.random.default_rng(seed).integers(len(rows), size=len(rows))
    return pairs.select([place for one in drawn for place in rows[one]])


def _judge(
    out: Path, num_members: int, train_pairs: Dataset, eval_pairs: Dataset | None, conservatism: float, device: str
) -> dict[str, Any]:
    """Write ``ensemble.json``; what the ensemble does on the held-out pairs."""
    from teachfair.models.checkpoint import content_hash
    from teachfair.reward_models.calibrating import fit_calibration
    from teachfair.reward_models.scoring import RewardModel, accuracy_per_kind
    from teachfair.reward_models.training import _fits

    folders = [out / f"member-{number}" for number in range(num_members)]
    members = [RewardModel.load(folder, device=device) for folder in folders]
    if all(member.calibration for member in members):
        unit, scales = "log-odds by held-out calibration", [_calibrated(member) for member in members]
    else:
        unit = "standard deviations over training pairs"
        logger.warning("%s: not every member is calibrated on held-out pairs; all are standardised over training pairs", out)
        some = [row for row in train_pairs.select(range(min(_PAIRS_FOR_SCALE, len(train_pairs)))) if _fits(row, members[0])]
        scales = [_mean_and_spread(member, some, train_pairs) for member in members]
    ensemble = RewardEnsemble(members, scales, name=str(out), conservatism=conservatism)
    found: dict[str, Any] = {"accuracy": None, "calibration": None, "uncertainty": None}
    held_out = [row for row in eval_pairs if _fits(row, ensemble)] if eval_pairs is not None else []
    if held_out:
        chosen, rejected = ensemble.member_rewards_of_pairs(held_out)
        kinds = [row["kind"] for row in held_out]
        rewards = ensemble.reward_of(chosen), ensemble.reward_of(rejected)
        found = {
            "accuracy": accuracy_per_kind(kinds, *rewards),
            "calibration": fit_calibration(*rewards),
            "uncertainty": uncertainty_report(chosen, rejected),
        }
    records = [runs.read_record(folder) or {} for folder in folders]
    runs.write_json(
        out / ENSEMBLE,
        {
            "members": [
                {"folder": folder.name, "centre": centre, "spread": spread}
                for folder, (centre, spread) in zip(folders, scales, strict=True)
            ],
            "unit": unit, "calibration": found["calibration"], "conservatism": conservatism,
        },
    )  # fmt: skip
    return found | {
        "unit": unit, "shortcuts": records[0].get("shortcuts"),
        "members": [
            {"folder": folder.name, "hash": content_hash(folder), "seed": record.get("seed"), "accuracy": _overall(record)}
            for folder, record in zip(folders, records, strict=True)
        ],
    }  # fmt: skip


def _calibrated(member: RewardModel) -> tuple[float, float]:
    assert member.calibration is not None
    return float(member.calibration["threshold"]), float(member.calibration["temperature"])


def _mean_and_spread(member: RewardModel, rows: list[dict[str, Any]], pairs: Dataset) -> tuple[float, float]:
    rewards = np.concatenate(member.score_pairs(rows or pairs))
    spread = float(rewards.std())
    return float(rewards.mean()), spread if spread > 0 else 1.0


def _overall(record: dict[str, Any]) -> float | None:
    return next((row["accuracy"] for row in record.get("accuracy") or [] if row["kind"] == "all"), None)
