"""Train the fairness reward model with TRL's RewardTrainer and publish it as a folder that any stock tool
loads."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from teachfair.errors import CheckpointError, ConfigError, DataError, NonFiniteError, RunFolderError
from teachfair.runs import fingerprint, read_record, whole_folder, write_json, write_record, write_text

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import RewardConfig, RewardTrainer

    from teachfair.reward_models.scoring import RewardModel
    from teachfair.reward_models.sentence_encoders import SentenceEncoder

logger = logging.getLogger(__name__)

LABEL = "fairness_reward"
ADAPTER_FOLDER = "adapter"
# A classifier whose threshold must be 0 keeps this share of the free calibration's skill, or its labels would be cut at the
# wrong place and there is none.
KEPT_SKILL = 0.9

# What decides the result, for the record; everything else of a RewardConfig is about speed and logging.
_RECORDED = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "center_rewards_coefficient",
    "max_length",
    "disable_dropout",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
)


def reward_args(output_dir: str | os.PathLike[str], **options: Any) -> RewardConfig:
    """A ``trl.RewardConfig`` whose defaults also hold without an accelerator; ``options`` are its own fields.

    Different from TRL: bf16 only where an accelerator has it (TRL's default refuses to start on a CPU),
    rewards are centred with coefficient .01 (Eisenstein et al., 2023; a reward model that feeds reinforcement
    learning drifts otherwise), no intermediate checkpoints, no activation checkpointing, a NaN loss is shown
    as NaN.

    Raises: ConfigError if bf16 is asked for on a CPU, or TRL refuses an option.
    """
    import torch
    from trl import RewardConfig

    on_cpu = bool(options.get("use_cpu")) or not torch.cuda.is_available()
    if options.get("bf16") and on_cpu:
        raise _no_bf16()
    options.setdefault("bf16", not on_cpu and not options.get("fp16") and torch.cuda.is_bf16_supported())
    defaults = {
        "center_rewards_coefficient": 0.01,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "activation_checkpointing": False,
        "dataloader_pin_memory": not on_cpu,
        "max_length": None,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-4,
    }
    try:
        return RewardConfig(output_dir=os.fspath(output_dir), **{**defaults, **options})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the reward trainer refuses an option ({error})",
            where="RewardConfig",
            fix="see trl.RewardConfig",
        ) from error


def _no_bf16() -> ConfigError:
    return ConfigError(
        "bf16 was asked for, and this run has no accelerator",
        where="--bf16",
        fix="leave it out, or pass --bf16 false",
    )


def train_reward_model(
    model_name_or_path: str | os.PathLike[str],
    train_pairs: Dataset,
    eval_pairs: Dataset | None,
    out: str | os.PathLike[str],
    *,
    args: RewardConfig | None = None,
    peft_config: PeftConfig | None = None,
    margin_scale: float = 1.0,
    callbacks: Sequence[Any] | None = None,
    facts: dict[str, Any] | None = None,
    classifier_face: bool = True,
    **options: Any,
) -> Path:
    """Train a scalar reward model on preference pairs; ``out`` appears whole, or not at all.

    Bradley-Terry loss (trl.RewardTrainer) on the token ids of ``rendering.token_ids``, so that a stock
    ``pipeline("text-classification", model=out)`` on ``rendering.render``'s text gives the training-time
    reward. Where pairs have a ``margin`` m >= 0 (``data.pairs.MARGIN``), the loss is −log σ(r_c − r_r − scale · m)
    (Touvron et al., 2023, arXiv:2307.09288, eq. 2).

    Args:
        model_name_or_path: a causal language model, an encoder, or a sentence-transformers model (its transformer is
            taken, ``sentence_encoders``); a folder or a hub id, not an adapter.
        train_pairs, eval_pairs: conversational pairs (``teachfair.data.pairs``). The held-out ones are for
            accuracy per kind, the shortcut baselines beside it, and the calibration; None leaves these out.
        out: the folder to make. Intermediate files are beside it, in ``.<name>.training``.
        args: a RewardConfig; otherwise ``options`` are given to :func:`reward_args`.
        peft_config: LoRA. Its task type is set to SEQ_CLS. The published weights are merged; the adapter
            itself is in ``out/adapter``.
        margin_scale: multiplies the pairs' margins, >= 0; larger: severe pairs are pushed further apart; 0 leaves
            margins out.
        facts: further fields of the record.
        classifier_face: also write ``out/classifier`` (``faces``), the same weights once more as an ``unfair``/``fair``
            classifier, if the held-out pairs calibrate it. False saves the space (and can be made up for with
            ``faces.write_classifier``).

    Returns: ``out``: weights, config (label ``fairness_reward``, problem type regression, calibration),
    tokenizer, the card (``README.md``, ``.eval_results``) and ``run.json`` with the base's hash, the data's hash and
    norms, accuracies, baselines, calibration, hyperparameters and seconds.
    Raises: ConfigError, CheckpointError, DataError, RunFolderError before training; NonFiniteError naming the
    step if the loss or a weight stops being finite (nothing is saved).
    """
    from transformers import set_seed
    from trl import RewardTrainer

    from teachfair.models.fitting import check_processes
    from teachfair.reward_models.card import write_card
    from teachfair.reward_models.seen import write_seen
    from teachfair.reward_models.sentence_encoders import sentence_encoder

    check_processes()
    started = time.monotonic()
    out = Path(out)
    _refuse_used(out)
    work = out.with_name(f".{out.name}.training")
    if args is None:
        args = reward_args(work, **options)
    elif options:
        raise ConfigError("give `args` or single options, not both", where=", ".join(options), fix="drop one of them")
    args = copy.copy(args)
    args.output_dir, args.logging_nan_inf_filter = str(work), False
    args.max_length, longest = (
        None,
        args.max_length,
    )  # TRL drops longer rows without a word; counted below instead
    if args.bf16 and args.device.type == "cpu":
        raise _no_bf16()
    if not len(train_pairs):
        raise DataError("there are no pairs to train on", where="train_pairs", fix="give at least one")
    if not (math.isfinite(margin_scale) and margin_scale >= 0):
        raise ConfigError(
            f"margin_scale is {margin_scale}", where="--margin_scale", fix="give a finite number of at least 0 (0: none)"
        )  # fmt: skip

    encoder = sentence_encoder(model_name_or_path)
    base, tokenizer, new_modules = _load_base(model_name_or_path, args.seed, encoder)
    limit = min(filter(None, (longest, _context(base, tokenizer))))
    train_ids, dropped = _tokenised(train_pairs, tokenizer, limit, margin_scale)
    eval_ids = _tokenised(eval_pairs, tokenizer, limit, margin_scale)[0] if eval_pairs is not None else None
    peft_config = _for_classification(peft_config, new_modules, base)
    set_seed(args.seed)
    trainer = RewardTrainer(
        model=base,
        args=args,
        train_dataset=train_ids,
        eval_dataset=eval_ids if args.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=copy.deepcopy(peft_config),
        callbacks=list(callbacks or []),
    )
    identity, data = _identity(model_name_or_path, encoder), _data_facts(train_pairs)
    margins = _margin_facts(train_pairs, margin_scale)
    _same_run(work, [identity, data, margins], args, peft_config)
    fitted = _fit(trainer, work)
    record = {
        "step": "reward_model",
        "base": identity,
        "adapt": "full" if peft_config is None else "lora",
        "data": {"train": data, "dropped_too_long": dropped, "max_tokens": limit, "margins": margins},
        "hyperparameters": {name: getattr(args, name, None) for name in _RECORDED},
        "seed": args.seed,
        **fitted,
        **(facts or {}),
    }
    if peft_config is not None:
        record["peft"] = peft_config.to_dict()
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        with whole_folder(out) as folder:
            _publish(trainer, tokenizer, folder)
            write_seen(folder, train_pairs)
            record.update(_judge(folder, train_pairs, eval_pairs, str(args.device), classifier_face and out))
            record["seconds"] = round(time.monotonic() - started, 2)
            record = json.loads(json.dumps(record, default=_plain))
            write_card(folder, record, name=out.name)
            write_record(folder, **record)
        shutil.rmtree(work, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return out


def _refuse_used(out: Path) -> None:
    # whole_folder refuses too, but only after the training
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(
            "the output folder is already there and not empty",
            where=str(out),
            fix="choose another --output_dir, or remove it if you no longer need it",
        )


def _load_base(
    path: str | os.PathLike[str], seed: int, encoder: SentenceEncoder | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """The model (fp32), its framed tokenizer, and the modules that are new: the head, drawn from the seed."""
    import torch
    import transformers
    from safetensors import SafetensorError

    from teachfair.models.chat import ensure_pad_token
    from teachfair.reward_models.rendering import framed

    if (Path(path) / "adapter_config.json").exists():
        raise CheckpointError(
            "a reward model cannot start from an adapter",
            where=str(path),
            fix="merge it into a full checkpoint first (teachfair.models.checkpoint.merge)",
        )
    if encoder is not None and encoder.left_behind:
        logger.warning("%s: a sentence encoder; left behind: %s", path, "; ".join(encoder.left_behind))
    folder = path if encoder is None else encoder.folder
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # that the head is new is the point, not a warning
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        transformers.set_seed(seed)
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            id2label={0: LABEL},
            label2id={LABEL: 0},
            problem_type="regression",
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"the model cannot be loaded ({str(error).splitlines()[0][:200]})",
            where=str(path),
            fix="give a folder or hub id of a causal language model or an encoder, with its tokenizer",
        ) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    ensure_pad_token(tokenizer, model)
    config = model.config.get_text_config()
    longest = [_positions(model), encoder.max_seq_length if encoder else None]
    tokenizer = framed(tokenizer, min(filter(None, longest), default=None))
    config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer, sorted({key.rsplit(".", 1)[0] for key in info["missing_keys"]})


def _context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    return int(min(tokenizer.model_max_length, _positions(model) or math.inf, 2**31))


def _positions(model: PreTrainedModel) -> int | None:
    """How many tokens the model has positions for; None where it does not say."""
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    # RoBERTa and its kin (MPNet, XLM-R, CamemBERT) count from behind the padding token's number: 514 rows for 512 tokens
    before = getattr(table, "padding_idx", None)
    if not stated or stated < 0:
        return None
    return int(stated if before is None else stated - before - 1)


def _tokenised(
    pairs: Dataset, tokenizer: PreTrainedTokenizerBase, limit: int, margin_scale: float = 1.0
) -> tuple[Dataset, int]:
    """Pairs as ``chosen_ids, rejected_ids`` (TRL skips its own text handling then), and how many were too
    long; with ``margin``, scaled, where one of them is above 0."""
    from datasets import Dataset

    from teachfair.data.pairs import MARGIN, margins_of
    from teachfair.reward_models.rendering import token_ids

    rows: list[dict[str, Any]] = []
    for pair in pairs:
        rows.append({f"{side}_ids": token_ids(tokenizer, [*pair["prompt"], *pair[side]]) for side in ("chosen", "rejected")})
    fitting = [max(map(len, row.values())) <= limit for row in rows]
    margins = [margin_scale * margin for margin in margins_of(pairs)]
    if any(margins):
        rows = [{**row, MARGIN: margin} for row, margin in zip(rows, margins, strict=True)]
    kept = [row for row, fits in zip(rows, fitting, strict=True) if fits]
    dropped = len(rows) - len(kept)
    if not kept:
        raise DataError(
            f"all {len(rows)} pairs are longer than {limit} tokens",
            where="pairs",
            fix="raise --max_length if you can",
        )
    if dropped:
        logger.warning("%d of %d pairs are longer than %d tokens and were left out", dropped, len(rows), limit)
    return Dataset.from_list(kept), dropped


def _for_classification(
    peft_config: PeftConfig | None, new_modules: list[str], model: PreTrainedModel
) -> PeftConfig | None:
    if peft_config is None:
        return None
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    from peft.utils.constants import SEQ_CLS_HEAD_NAMES

    # TRL's ModelConfig says CAUSAL_LM, which fails on a classifier; SEQ_CLS also trains and saves the head
    found = copy.deepcopy(peft_config)
    found.task_type = "SEQ_CLS"
    model_type = model.config.get_text_config().model_type
    if getattr(found, "target_modules", "") is None and model_type not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        found.target_modules = "all-linear"  # PEFT knows no default for this architecture and would stop
    # Whatever the checkpoint did not bring along is random: left out of the adapter it would be drawn anew on reload. Saved
    # whole, it gets no LoRA of its own. What lies inside of a head is saved with the head: named twice, it would be wrapped
    # twice (RoBERTa's classifier.dense).
    new = [name for name in new_modules if not set(name.split(".")) & set(SEQ_CLS_HEAD_NAMES)]
    if new:
        found.modules_to_save = sorted({*(found.modules_to_save or []), *new})
    return found


def _same_run(work: Path, inputs: list[Any], args: RewardConfig, peft_config: PeftConfig | None) -> None:
    """Throw away what a killed run with another base, other pairs or other arguments left: not ours to resume."""
    options = {name: getattr(args, name, None) for name in (*_RECORDED, "save_steps", "save_strategy")}
    peft = None if peft_config is None else peft_config.to_dict()
    named = json.dumps([*inputs, options, peft], default=_plain, sort_keys=True)
    mark = work / "inputs.json"
    if mark.is_file() and mark.read_text(encoding="utf-8") == named:
        return
    if args.process_index == 0:
        shutil.rmtree(work, ignore_errors=True)
        write_text(mark, named)


def _fit(trainer: RewardTrainer, work: Path) -> dict[str, Any]:
    """Train, or go on where a killed run stopped; a gradient that is not finite stops it before the weights change."""
    import torch
    from transformers import PrinterCallback, TrainerCallback

    from teachfair.models.fitting import fit

    class StopBeforeTheStep(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for name, parameter in kwargs["model"].named_parameters():
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                    raise NonFiniteError(
                        "the gradient is not finite, so the loss was not either",
                        where=f"reward model, step {state.global_step + 1}, {name}",
                        fix=f"lower the learning rate (now {args.learning_rate:g}); nothing was saved",
                    )

    trainer.remove_callback(PrinterCallback)  # without a bar it prints a dict per log; the record has the last ones
    trainer.add_callback(StopBeforeTheStep())
    try:
        return fit(trainer, resume=trainer.args.resume_from_checkpoint)
    except NonFiniteError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _publish(trainer: RewardTrainer, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    from teachfair.reward_models.scoring import FRAMED

    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(folder / ADAPTER_FOLDER)
        # merged from memory: read again from disk, modules that the base's checkpoint lacks would be drawn
        # anew
        model.merge_and_unload().save_pretrained(folder)
    else:
        trainer.save_model(str(folder))
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle: nobody should have to load it
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.update({FRAMED: True, "problem_type": "regression", "id2label": {"0": LABEL}, "label2id": {LABEL: 0}})
    write_json(folder / "config.json", config)


def _judge(
    folder: Path, train_pairs: Dataset, eval_pairs: Dataset | None, device: str, classifier_of: Path | Literal[False]
) -> dict[str, Any]:
    """What the published folder (not the trainer's memory) does on held-out pairs; writes its calibration, and its
    classifier face unless ``classifier_of`` (where the folder will lie in the end) is False."""
    from teachfair.data.shortcuts import shortcut_baselines
    from teachfair.reward_models.calibrating import cross_fitted_report, fit_calibration
    from teachfair.reward_models.faces import needs_threshold_at_zero
    from teachfair.reward_models.rendering import templates_agree
    from teachfair.reward_models.scoring import CALIBRATION, RewardModel, accuracy_per_kind

    model = RewardModel.load(folder, device=device)
    found: dict[str, Any] = {"chat_template_gives_the_same_ids": templates_agree(model.tokenizer)}
    found["coverage"] = {"train": _coverage(train_pairs)}
    fitting = [row for row in eval_pairs or [] if _fits(row, model)]
    if eval_pairs is None or not fitting:
        found["classifier"] = _classifier(model, folder, classifier_of, [])
        return {**found, "accuracy": None, "calibration": None}
    chosen, rejected = model.score_pairs(fitting)
    at_zero = needs_threshold_at_zero(model.model)
    calibration = fit_calibration(chosen, rejected, threshold_at_zero=at_zero)
    if calibration is not None and at_zero and _skill(calibration["brier"]) < KEPT_SKILL * _skill(calibration["free_brier"]):
        logger.warning(
            "the rewards are not centred: with the threshold at 0 the Brier score is %.4f instead of %.4f, so the threshold "
            "is %.3g and there is no classifier face; train with a larger center_rewards_coefficient",
            calibration["brier"], calibration["free_brier"], calibration["free_threshold"],
        )  # fmt: skip
        at_zero, calibration = False, fit_calibration(chosen, rejected)
    if calibration is not None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.json", {**config, CALIBRATION: calibration})
        model.calibration = calibration
    found["coverage"]["eval"] = _coverage(eval_pairs)
    report = cross_fitted_report(chosen, rejected, [row["cluster"] for row in fitting], threshold_at_zero=at_zero)
    probes = [model.token_ids([*row["prompt"], *row[side]]) for row in fitting[:16] for side in ("chosen", "rejected")]
    return {
        **found,
        "data_eval": {**_data_facts(eval_pairs), "left_out_too_long": len(eval_pairs) - len(fitting)},
        "accuracy": accuracy_per_kind([row["kind"] for row in fitting], chosen, rejected),
        "accuracy_by_source": accuracy_per_kind([row["source"] for row in fitting], chosen, rejected)[1:],
        "shortcuts": shortcut_baselines(train_pairs, fitting),
        "calibration": calibration,
        "calibration_report": None if calibration is None else _without_nan(report),
        "classifier": _classifier(model, folder, classifier_of, probes),
    }


def _classifier(
    model: RewardModel, folder: Path, classifier_of: Path | Literal[False], probes: list[list[int]]
) -> dict[str, Any]:
    """The record of the classifier face, or of why there is none."""
    from teachfair.reward_models.faces import NoClassifierError, save_classifier

    if classifier_of is False:
        return {"folder": None, "reason": "not asked for (classifier_face=False)"}
    try:
        return save_classifier(model, folder, classifier_of, probes)
    except NoClassifierError as error:
        logger.warning("no classifier face: %s", error.what)
        return {"folder": None, "reason": error.what}


def _skill(brier: float) -> float:
    return 0.25 - brier  # of P = .5 for everything


def _coverage(pairs: Dataset) -> dict[str, dict[str, int]]:
    """How many pairs there are in each language and on each axis."""
    return {name: dict(sorted(Counter(pairs[column]).items())) for name, column in (("languages", "lang"), ("axes", "axis"))}


def _fits(row: dict[str, Any], model: Any) -> bool:
    return all(len(model.token_ids([*row["prompt"], *row[side]])) <= model.max_tokens for side in ("chosen", "rejected"))


def _data_facts(pairs: Dataset) -> dict[str, Any]:
    """Count, content hash, and whose norm and licence, of a set of pairs."""
    from teachfair.data import SOURCES
    from teachfair.data.pairs import counts_of, margins_of

    sources = {}
    for name, n in sorted(Counter(pairs["source"]).items()):
        card = getattr(SOURCES.get(name), "CARD", SOURCES["preference_file"].CARD)
        sources[name] = {"n": n, "norm": card["norm"], "licence": card["licence"]}
    content = [[row["prompt"], row["chosen"], row["rejected"]] for row in pairs]
    margins = margins_of(pairs)
    if any(margins):  # without any, the hash is that of the texts alone
        content = [[*texts, margin] for texts, margin in zip(content, margins, strict=True)]
    return {
        "n": len(pairs),
        "hash": fingerprint(content),
        "as_read": counts_of(pairs),
        "sources": sources,
        "kinds": dict(sorted(Counter(pairs["kind"]).items())),
    }


def described(
    path: str | os.PathLike[str],
    train_pairs: Dataset,
    eval_pairs: Dataset | None,
    args: RewardConfig,
    peft_config: PeftConfig | None,
    margin_scale: float,
) -> dict[str, Any]:
    """What decides a training, JSON-able, but for the seeds: base, data, hyperparameters, adapter."""
    from teachfair.reward_models.sentence_encoders import sentence_encoder

    found = {
        "base": _identity(path, sentence_encoder(path)),
        "adapt": "full" if peft_config is None else "lora",
        "data": {"train": _data_facts(train_pairs), "margins": _margin_facts(train_pairs, margin_scale)},
        "data_eval": None if eval_pairs is None else _data_facts(eval_pairs),
        "hyperparameters": {
            name: getattr(args, name, None) for name in _RECORDED if name not in ("seed", "data_seed")
        },
        "peft": None if peft_config is None else peft_config.to_dict(),
    }
    return dict(json.loads(json.dumps(found, default=_plain, sort_keys=True)))


def _margin_facts(pairs: Dataset, scale: float) -> dict[str, Any]:
    """Which pairs have a severity margin: share (0..1), mean and largest of those (reward units, not yet scaled), scale."""
    from teachfair.data.pairs import margins_of

    given = [margin for margin in margins_of(pairs) if margin > 0]
    return {
        "scale": scale, "share": len(given) / len(pairs), "mean": sum(given) / len(given) if given else None,
        "largest": max(given, default=None),
    }  # fmt: skip


def _identity(path: str | os.PathLike[str], encoder: SentenceEncoder | None = None) -> dict[str, Any]:
    from teachfair.models.checkpoint import content_hash

    if encoder is not None:
        return {
            "path": str(path), "hash": content_hash(encoder.folder), "step": None, "sentence_transformers": encoder.facts()
        }  # fmt: skip
    if not Path(path).is_dir():
        return {"path": str(path)}
    record = read_record(path) or {}
    return {"path": str(path), "hash": content_hash(path), "step": record.get("step")}


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset | tuple):
        return sorted(str(item) for item in value)
    return str(value)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None stands for it, and the reason beside it says why."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
