"""From names to a lesson: resolve the policy, the pairs and the reward model that a door or a study asks for.

A door without arguments runs on the sandbox; this module knows what that means. Everything made for the sandbox once
(its policy, its reward model) is kept in the user's cache folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import doors, runs
from teachfair.alignment.arguments import TeachArguments
from teachfair.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

    from teachfair.alignment.sandbox_policy import SandboxPolicyConfig
    from teachfair.data.sandbox.world import World


def teach_types() -> tuple[type, ...]:
    """TRL's dataclasses of the DPO door."""
    from trl import DPOConfig, ModelConfig

    return (DPOConfig, ModelConfig)


def reward_types() -> tuple[type, ...]:
    """TRL's dataclasses of the reward-model door."""
    from trl import ModelConfig, RewardConfig

    return (RewardConfig, ModelConfig)


# ------------------------------------------------------------------------------------------------- the sandbox


def sandbox(*, seed: int, bias: float) -> SandboxPolicyConfig:
    """The sandbox's policy config for one world."""
    from teachfair.alignment.sandbox_policy import SandboxPolicyConfig
    from teachfair.data.sandbox.world import SandboxConfig

    return SandboxPolicyConfig(world=SandboxConfig(seed=seed, bias=bias))


def world(config: SandboxPolicyConfig) -> World:
    """The world of a sandbox policy config."""
    from teachfair.data.sandbox.world import World

    return World(config.world)


def sandbox_policy(config: SandboxPolicyConfig, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """The pretrained sandbox policy, from the cache or made now (about a minute on one core)."""
    from teachfair.alignment.sandbox_policy import policy_from_cache

    return policy_from_cache(config, None if progress is None else lambda done, total, _: progress(done, total))


def resolve_policy(name: str | None, *, world_seed: int, bias: float) -> tuple[str | Path, SandboxPolicyConfig | None]:
    """The policy or backbone a door names; without a name the sandbox's, together with its config.

    Raises: ConfigError where processes were launched that would not train together, before anything is read or made.
    """
    from teachfair.models.fitting import check_processes

    check_processes()
    if name is not None:
        from teachfair.models.checkpoint import inspect_checkpoint

        inspect_checkpoint(name)  # a wrong name is told before anything else is read or made
        return name, None
    config = sandbox(seed=world_seed, bias=bias)
    with one_rank_first():
        return sandbox_policy(config, progress=terminal_progress("pretrain the sandbox policy (once)")), config


def is_cached(config: SandboxPolicyConfig) -> bool:
    """Whether :func:`sandbox_policy` would come from the cache."""
    from teachfair.alignment.sandbox_policy import cached_policy_path

    return (cached_policy_path(config) / "config.json").exists()


def sandbox_reward_model(config: SandboxPolicyConfig, *, control: str = "none") -> Path:
    """The sandbox's reward model, trained by the shipped config, from the cache or made now.

    Args: control: "placebo": trained by the same config on pairs that have nothing to do with people.
    """
    from teachfair.alignment.sandbox_policy import cached_policy_path
    from teachfair.models.checkpoint import content_hash

    policy = sandbox_policy(config)
    recipe = doors.shipped_config("sandbox/reward_model.yaml")
    decides = {"policy": content_hash(policy), "recipe": recipe.read_text(), "versions": runs.versions()}
    name = "reward-model"
    if control != "none":
        decides["control"], name = control, f"{control}-{name}"
    folder = cached_policy_path(config).parent / f"{name}-{runs.fingerprint(decides)[:16]}"
    if runs.read_record(folder) is not None:
        return folder
    return train_reward_model_from_config(recipe, policy, folder, sandbox=config, control=control)


# ---------------------------------------------------------------------------------------------------- the pairs


def pairs_from(
    arguments: TeachArguments, *, sandbox: SandboxPolicyConfig | None, split: str | None = None, seed: int = 0
) -> Dataset:
    """The preference pairs a door asks for.

    ``data.pairs.counts_of`` says how they were read, and by which list pairs were left out.
    Raises: ConfigError for an unknown source, DataError (``file:line: field``) for malformed rows.
    """
    from teachfair.data import SOURCES
    from teachfair.data.pairs import pairs_dataset

    split = split or arguments.dataset_train_split
    if arguments.dataset_name is None:
        if sandbox is None:
            raise ConfigError(
                "a policy of your own needs pairs to learn from", where="--dataset_name",
                fix="give a .jsonl or .parquet file in TRL's preference format, or a hub id",
            )  # fmt: skip
        if arguments.exclude_ids is not None:
            raise nothing_contested()
        return pairs_dataset(world(sandbox).pairs(arguments.num_sandbox_pairs, split=split, seed=seed))
    if arguments.dataset_source not in SOURCES:
        raise unknown_name("dataset_source", arguments.dataset_source, SOURCES)
    options: dict[str, Any] = {"drop_equal": True} if arguments.drop_equal else {}
    if arguments.exclude_ids is not None:
        options["exclude_ids"] = arguments.exclude_ids
    pairs = SOURCES[arguments.dataset_source].load(arguments.dataset_name, split=split, **options)
    return drawn(pairs, arguments.max_pairs, seed=seed)


def drawn(rows: Dataset, most: int, *, seed: int) -> Dataset:
    """At most ``most`` of the rows, drawn with ``seed``; 0: all of them, as they are."""
    return rows.shuffle(seed=seed).select(range(most)) if most and len(rows) > most else rows


def nothing_contested() -> ConfigError:
    """The error of a list of contested ids where the sandbox is what is taught."""
    return ConfigError(
        "the sandbox's pairs are made by rule: none is contested", where="--exclude_ids",
        fix="name pairs of your own (--dataset_name), or leave the list out",
    )  # fmt: skip


def uncontested(pairs: Dataset, exclude_ids: str | None, *, where: str) -> Dataset:
    """Pairs of which only the prompts are asked, without the prompts that a list of ids contests, and that in their counts.

    Raises: as ``data.prompts.without_contested``.
    """
    from teachfair.data.pairs import counts_of
    from teachfair.data.prompts import without_contested

    if exclude_ids is None:
        return pairs
    before = counts_of(pairs)
    kept, counts = without_contested(pairs, exclude_ids, where=where)
    kept.info.description = json.dumps({**before, **{name: counts[name] for name in ("kept", "excluded", "exclusions")}})
    return kept


def placebo_pairs(
    *, sandbox: SandboxPolicyConfig | None, dataset_name: str | None, n: int, seed: int = 0, split: str = "train"
) -> Dataset | None:
    """Fairness-neutral pairs for the placebo control, or None where none were given."""
    from teachfair.data import SOURCES
    from teachfair.data.pairs import pairs_dataset

    if dataset_name is not None:
        return SOURCES["preference_file"].load(dataset_name)
    return pairs_dataset(world(sandbox).placebo_pairs(n, seed=seed, split=split)) if sandbox is not None else None


def study_pairs(
    *,
    sandbox: SandboxPolicyConfig | None,
    dataset_name: str | None,
    dataset_source: str,
    num_pairs: int,
    exclude_ids: str | None = None,
) -> Dataset:
    """The pairs that a study teaches, as they are read, before a reward model ranks them. Raises: as :func:`pairs_from`."""
    arguments = TeachArguments(
        dataset_name=dataset_name, dataset_source=dataset_source, num_sandbox_pairs=num_pairs, exclude_ids=exclude_ids
    )
    return pairs_from(arguments, sandbox=sandbox)


def ranked_pairs(
    pairs: Dataset, *, reward_model: Path | None, on_disagreement: str
) -> tuple[Dataset, dict[str, Any]]:  # fmt: skip
    """Pairs in the order the reward model gives them, and the count of its disagreements with the labels."""
    if reward_model is None:
        return pairs, {"ranked_by": None, "n_pairs": len(pairs)}
    return rank(pairs, reward_model, on_disagreement=on_disagreement)


def mix_and_counts(pairs: Dataset, *, force: bool) -> dict[str, Any]:
    """What a run record says of the pairs of a lesson: ``mix``, which halves of fairness they teach, and ``as_read``.

    Raises: ConfigError for a lesson of "cannot tell" only, unless ``force`` (``data.mixing.check_mix``).
    """
    from teachfair.data.mixing import check_mix
    from teachfair.data.pairs import counts_of

    return {"mix": check_mix(pairs, force=force), "as_read": counts_of(pairs)}


def rank(pairs: Dataset, reward_model: Path, *, on_disagreement: Any) -> tuple[Dataset, dict[str, Any]]:
    """See :func:`teachfair.reward_models.ranking.rank_pairs`; the report names the reward model by hash."""
    from teachfair.models.provenance import named_by_hash
    from teachfair.reward_models.ensemble import load_reward_model
    from teachfair.reward_models.ranking import rank_pairs

    ranked, report = rank_pairs(pairs, load_reward_model(reward_model), on_disagreement=on_disagreement)
    report |= {"ranked_by": str(reward_model), **named_by_hash(reward_model)}
    if len(ranked) == 0:
        raise ConfigError(
            "no pair is left after dropping the reward model's disagreements", where="--on_disagreement drop",
            fix="use flip or keep, or train a better reward model",
        )  # fmt: skip
    return ranked, report


def held_apart(rows: Any, evaluation: Mapping[str, Any] | None, *, allow: bool) -> dict[str, Any] | None:
    """What is about to be taught, held against what will be measured (:mod:`teachfair.data.wall`), for the run record.

    Args: evaluation: benchmark name -> its items; without any, nothing is compared and None returned.
    Raises: DataError naming rows and items that match, unless ``allow``.
    """
    from teachfair.data.wall import wall

    if not evaluation:
        return None
    report = wall(rows, evaluation)
    report.raise_if_leaky(allow=allow)
    return report.as_dict()


def untaught_axis_accuracy(config: SandboxPolicyConfig, reward_model: Path, *, n: int = 600) -> list[dict[str, Any]]:
    """The reward model on held-out pairs of the axis that no pair was about: reported as it is, whichever way it goes."""
    from teachfair.data.pairs import pairs_dataset
    from teachfair.reward_models.ensemble import load_reward_model
    from teachfair.reward_models.scoring import accuracy_per_kind

    place = world(config)
    pairs = pairs_dataset(place.pairs(n, split="test", seed=1, axis=place.untaught_axis))
    chosen, rejected = load_reward_model(reward_model).score_pairs(pairs)
    return accuracy_per_kind(list(pairs["kind"]), chosen, rejected)


def rank_sampled(
    policy: str | Path,
    pairs: Dataset,
    reward_model: Path,
    *,
    num_candidates: int,
    seed: int,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    min_margin: float = 0.0,
) -> tuple[Dataset, dict[str, Any]]:
    """Pairs of the best and the worst of the answers that the policy itself gives to the pairs' prompts.

    Pairs whose rewards differ by less than ``min_margin`` (logits) are left out and counted as ``below_margin``. The
    report says which policy answered and which reward model judged, by hash, and how the answers were sampled.
    """
    from teachfair.alignment.sampling import sample_answers
    from teachfair.models.chat import ensure_chat_template
    from teachfair.models.checkpoint import content_hash, load_policy
    from teachfair.models.provenance import named_by_hash
    from teachfair.reward_models.ensemble import load_reward_model
    from teachfair.reward_models.ranking import rank_candidates

    judge = load_reward_model(reward_model)  # first: a wrong folder is then known before anything is sampled
    model, tokenizer = load_policy(policy)
    ensure_chat_template(tokenizer)
    rows = pairs.to_list()
    prompts = [row["prompt"] for row in rows]
    answers = sample_answers(
        model, tokenizer, prompts, n=num_candidates, seed=seed, temperature=temperature, max_new_tokens=max_new_tokens
    )
    ranked, report = rank_candidates(prompts, answers, judge, rows=rows, source="policy")
    margins = [high - low for high, low in zip(ranked["reward_chosen"], ranked["reward_rejected"], strict=True)]
    kept = [place for place, margin in enumerate(margins) if margin >= min_margin]
    if not kept:
        raise ConfigError(
            f"no pair has a margin of {min_margin}; the largest is {max(margins):.3g}", where="--min_margin",
            fix="lower it, sample more answers, or train a reward model that tells them apart",
        )  # fmt: skip
    ranked = ranked.select(kept)
    report |= {"n_pairs": len(kept), "below_margin": len(margins) - len(kept), "min_margin": min_margin}
    return ranked, report | {
        "ranked_by": str(reward_model), **named_by_hash(reward_model), "policy": str(policy),
        "policy_hash": content_hash(policy), "seed": seed, "temperature": temperature, "num_candidates": num_candidates,
        "max_new_tokens": max_new_tokens,
    }  # fmt: skip


def study_prompts(pairs_folder: Path, *, sandbox: SandboxPolicyConfig | None, control: str = "none") -> Dataset:
    """The prompts that a study's online arms are taught with: those of its pairs.

    Of the sandbox, with all that a reward can read (``data.sandbox.gold``). Of one's own: each prompt once, with the
    pair's other columns.
    Args: control: "placebo" takes the prompts of the neutral pairs.
    Raises: ConfigError if there are no neutral pairs.
    """
    from datasets import Dataset

    from teachfair.data.prompts import prompts_of_pairs
    from teachfair.data.sandbox.gold import placebo_prompt_rows, prompt_rows

    pairs = Dataset.from_parquet(str(pairs_folder / "pairs.parquet"))
    if sandbox is not None:
        rows_of = placebo_prompt_rows if control == "placebo" else prompt_rows
        return Dataset.from_list(rows_of(world(sandbox), len(pairs)))
    if control == "placebo":
        neutral = pairs_folder / "placebo.parquet"
        if not neutral.exists():
            raise ConfigError(
                "there are no fairness-neutral pairs whose prompts a placebo could be taught with", where="placebo arm",
                fix="give a fairness-neutral preference set as placebo_dataset_name",
            )  # fmt: skip
        pairs = Dataset.from_parquet(str(neutral))
    return prompts_of_pairs(pairs)


# ------------------------------------------------------------------------------------------------- the teaching


def teach_from_config(
    config: Path,
    policy: Path,
    pairs_folder: Path,
    out: Path,
    *,
    method: str,
    seed: int,
    control: str = "none",
    max_steps: int | None = None,
    reward_model: str | None = None,
) -> Path:
    """Teach one arm of a study from pairs: ``method`` of ``METHODS``, ``control`` "none" or one of ``CONTROLS``.

    Args: config: a YAML of the teaching door.
    """
    from datasets import Dataset

    from teachfair.alignment import CONTROLS, METHODS
    from teachfair.models.provenance import named_by_hash

    argv = ["--config", str(config), "--seed", str(seed)]
    if max_steps is not None:
        argv += ["--max_steps", str(max_steps)]
    _, args, model_args = door_parser().parse(argv)
    pairs = Dataset.from_parquet(str(pairs_folder / "pairs.parquet"))
    record: dict[str, Any] = {"control": control, "pairs_step": pairs_folder.name, "reward_model": reward_model}
    if control == "placebo":  # nobody ranked its pairs
        record = {"control": control, "placebo_of": pairs_folder.name, "reward_model": None}
    elif reward_model is not None:
        record |= named_by_hash(reward_model)
    if control != "none":
        neutral = pairs_folder / "placebo.parquet"
        pairs = CONTROLS[control](
            pairs, seed=seed, neutral_pairs=Dataset.from_parquet(str(neutral)) if neutral.exists() else None
        )
    args.disable_tqdm, args.report_to = True, []
    return METHODS[method].teach(policy, pairs, out, args=args, record=record, **adaptation(model_args))


def door_parser() -> doors.Door:
    """The teaching door's parser alone, for config files read by a study."""
    return doors.Door("dpo", "", TeachArguments, lambda *parsed: None, trl=teach_types)


def adaptation(model_args: Any) -> dict[str, Any]:
    """``peft_config`` and ``quantization_config`` of TRL's ``ModelConfig``."""
    from trl import get_peft_config, get_quantization_config

    return {"peft_config": get_peft_config(model_args), "quantization_config": get_quantization_config(model_args)}


def replant_into(
    taught: Path, out: Path, *, untaught: Path, share: float, world_seed: int, bias: float, seed: int
) -> None:
    """Fine-tune a known share of the planted bias back into a taught policy, into ``out/checkpoint``."""
    from teachfair.alignment.sandbox_policy import replant

    replant(taught, world(sandbox(seed=world_seed, bias=bias)), share, out / "checkpoint", untaught=untaught, seed=seed)


@dataclass(frozen=True)
class RewardLesson:
    """What a study's reward model is trained with: what its config file says, its pairs, and the facts of its record."""

    own: Any
    args: Any
    model_args: Any
    train: Dataset
    test: Dataset | None
    facts: dict[str, Any]


def reward_lesson(
    config: Path,
    *,
    sandbox: SandboxPolicyConfig | None,
    dataset_name: str | None = None,
    dataset_source: str = "preference_file",
    control: str = "none",
    exclude_ids: str | None = None,
    force_mix: bool = False,
) -> RewardLesson:
    """Read a YAML of the reward-model door and the pairs it asks for; nothing is trained.

    Args: control: "placebo" takes the sandbox's fairness-neutral pairs; of one's own data, name their file.
    Raises: as :func:`reward_pairs` and ``data.mixing.check_mix``.
    """
    from teachfair.data.mixing import check_mix
    from teachfair.reward_models.arguments import RewardArguments

    door = doors.Door("reward-model", "", RewardArguments, lambda *parsed: None, trl=reward_types)
    own, args, model_args = door.parse(["--config", str(config)])
    args.disable_tqdm, args.report_to = True, []
    own.dataset_name, own.dataset_source = dataset_name or own.dataset_name, dataset_source
    own.exclude_ids = exclude_ids or own.exclude_ids
    facts: dict[str, Any] = {"config": config.name}
    if control == "placebo":
        facts["control"], own.dataset_name = control, dataset_name  # the config's own pairs are the lesson's
    if control == "placebo" and dataset_name is None:
        train = placebo_pairs(sandbox=sandbox, dataset_name=None, n=own.num_sandbox_pairs, seed=args.seed + 1)
        test = placebo_pairs(sandbox=sandbox, dataset_name=None, n=own.num_test_pairs, seed=args.seed + 1, split="test")
        assert train is not None, "the sandbox has fairness-neutral pairs"
    else:
        train, test = reward_pairs(own, sandbox=sandbox, seed=args.seed)
    if control != "placebo":
        facts["mix"] = check_mix(train, force=force_mix or own.force_mix)
    return RewardLesson(own, args, model_args, train, test, facts)


def train_reward_model_from_config(
    config: Path,
    policy: Path,
    out: Path,
    *,
    sandbox: SandboxPolicyConfig | None,
    facts: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Train a reward model of a study by a YAML of the reward-model door.

    Args: options: of :func:`reward_lesson`; facts: further fields of its record.
    """
    return fit_reward_model(policy, reward_lesson(config, sandbox=sandbox, **options), out, facts=facts)


def fit_reward_model(
    backbone: str | Path, asked: RewardLesson, out: str | Path, *, facts: dict[str, Any] | None = None
) -> Path:
    """One reward model, or the ensemble that the arguments ask for.

    Raises: ConfigError if a single model is given an option of an ensemble; otherwise as ``train_reward_model``.
    """
    from teachfair.reward_models.ensemble import train_reward_ensemble
    from teachfair.reward_models.training import train_reward_model

    own = asked.own
    options: dict[str, Any] = {
        "args": asked.args, "peft_config": reward_adapter(asked.model_args), "margin_scale": own.margin_scale,
        "classifier_face": own.classifier_face, "facts": asked.facts | (facts or {}),
    }  # fmt: skip
    if own.num_members != 1:
        return train_reward_ensemble(
            backbone, asked.train, asked.test, out, num_members=own.num_members, bootstrap=own.bootstrap,
            conservatism=own.conservatism, **options,
        )  # fmt: skip
    if own.bootstrap or own.conservatism:
        raise ConfigError(
            "bootstrap and conservatism are an ensemble's", where="num_members 1", fix="ask for 2 members or more"
        )
    return train_reward_model(backbone, asked.train, asked.test, out, **options)


def reward_pairs(own: Any, *, sandbox: SandboxPolicyConfig | None, seed: int) -> tuple[Dataset, Dataset | None]:
    """Training and held-out pairs of a reward model: the sandbox's two splits, or a seeded share of the user's file."""
    arguments = TeachArguments(
        dataset_name=own.dataset_name, dataset_source=own.dataset_source, max_pairs=own.max_pairs,
        num_sandbox_pairs=own.num_sandbox_pairs, drop_equal=own.drop_equal, exclude_ids=own.exclude_ids,
    )  # fmt: skip
    train = pairs_from(arguments, sandbox=sandbox, split="train", seed=seed + 1)
    if own.dataset_name is None:
        arguments.num_sandbox_pairs = own.num_test_pairs
        return train, pairs_from(arguments, sandbox=sandbox, split="test", seed=seed + 1)
    return split_by_cluster(train, share=own.test_share, seed=seed)


def split_by_cluster(pairs: Dataset, *, share: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Hold out about ``share`` of the pairs by whole clusters, so that no template or prompt is on both sides."""
    import numpy as np

    if share <= 0:
        return pairs, None
    clusters = np.array(pairs["cluster"])
    names = np.random.default_rng(seed).permutation(np.unique(clusters))
    held = set(names[: max(1, round(share * len(names)))].tolist())
    mask = np.array([cluster in held for cluster in clusters])
    if mask.all() or not mask.any():
        return pairs, None
    return pairs.select(np.flatnonzero(~mask).tolist()), pairs.select(np.flatnonzero(mask).tolist())


# --------------------------------------------------------------------------------------------- what doors share


def reward_model_for(own: TeachArguments, sandbox: SandboxPolicyConfig | None) -> Path | None:
    """The reward model a teaching door asks for: the one named, the sandbox's own on the sandbox, or none."""
    name = own.reward_model_name_or_path
    if name is not None:
        return None if name.lower() == "none" else Path(name)
    if sandbox is None or own.dataset_name is not None or own.control != "none":
        return None
    with one_rank_first():
        return sandbox_reward_model(sandbox)


def reward_adapter(model_args: Any) -> Any:
    """LoRA for a reward model: TRL's ``ModelConfig`` says CAUSAL_LM by default, which a reward head cannot use."""
    from trl import get_peft_config

    model_args.lora_task_type = "SEQ_CLS"
    return get_peft_config(model_args)


def ranking_line(report: dict[str, Any]) -> str:
    """One line for the terminal about what the reward model thought of the labels."""
    if "n_prompts" in report:
        return f"{report['n_pairs']} pairs of sampled answers from {report['n_prompts']} prompts, ranked by the reward model"
    everything = next(row for row in report["per_kind"] if row["kind"] == "all")
    return (
        f"the reward model agrees with {everything['agree']} of {everything['n']} labels, disagrees with "
        f"{everything['disagree']} ({report['on_disagreement']}), ties {everything['ties']}; {report['n_out']} pairs taught"
    )


def sandbox_texts(config: SandboxPolicyConfig, *, n: int = 12) -> list[str]:
    """A few held-out sandbox conversations as plain text, for the classifier's default run."""
    from teachfair.models.checkpoint import load_tokenizer
    from teachfair.reward_models.rendering import render

    tokenizer = load_tokenizer(sandbox_reward_model(config))
    rows = world(config).pairs(n // 2, split="test", seed=7)
    return [render(tokenizer, row["prompt"] + row[side]) for row in rows for side in ("chosen", "rejected")]


def terminal_progress(label: str) -> Callable[[int, int], None]:
    """A progress bar on standard error for a long step of a door."""
    from tqdm.auto import tqdm

    bar: Any = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=label)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return report


def one_rank_first() -> Any:
    """The first process makes what is missing from the cache, the others wait and find it there."""
    from accelerate import PartialState

    return PartialState().main_process_first()
