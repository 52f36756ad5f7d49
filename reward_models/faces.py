"""The second face of a reward model: an ``unfair``/``fair`` classifier that any stock tool loads.

The folder's root is the scalar face, which TRL's trainers load (one output, the reward r). ``classifier/`` holds the same
weights under a last layer of two rows, ∓w / 2T with biases ±(t − b) / 2T, where w, b are the scalar head's and T, t the
calibration's: the softmax of a stock ``pipeline("text-classification")`` is then P(fair) = 1 / (1 + exp(−(r − t) / T)),
as ``calibrating.probability`` gives it.

Stock decoder classes (``LlamaForSequenceClassification`` and its kin) have no bias in that layer, so that t must be 0
there: ``calibrating.fit_calibration`` with ``threshold_at_zero``.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import CheckpointError
from teachfair.runs import read_record, whole_folder, write_json, write_record

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    from teachfair.reward_models.scoring import RewardModel

logger = logging.getLogger(__name__)

FOLDER = "classifier"
STEP = "classifier_face"  # in its run.json
TOLERANCE = 1e-5  # of the stock softmax against P(fair)
_CHECKED = 32


class NoClassifierError(CheckpointError):
    """The reward model can have no classifier face; ``what`` is the reason, for record and card."""


def head_of(model: PreTrainedModel) -> tuple[str, torch.nn.Linear] | None:
    """(name, module) of the layer that gives the reward: the one linear layer with one output; None if there is not
    exactly one."""
    import torch

    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == 1
    ]
    return found[0] if len(found) == 1 else None


def needs_threshold_at_zero(model: PreTrainedModel) -> bool:
    """Whether the model's last layer has no bias that could hold the calibration's threshold."""
    head = head_of(model)
    return head is not None and head[1].bias is None


def is_classifier(folder: str | Path) -> bool:
    """Whether a folder is the classifier face of one of our reward models (by its record)."""
    return (read_record(folder) or {}).get("step") == STEP


def write_classifier(folder: str | Path, *, pairs: Dataset | None = None) -> Path:
    """Write the classifier face of a reward-model folder that was made before, or with ``classifier_face=False``.

    Args:
        folder: made by ``train_reward_model``; its calibration is used.
        pairs: held-out pairs to fit the calibration on anew, for a folder whose threshold its last layer cannot hold. This
            changes the root's ``config.json``, and with it the content hash by which studies know the reward model.

    Returns: the folder ``classifier``, whole or not there.
    Raises: NoClassifierError if the model can have no such face; RunFolderError if it already has one.
    """
    from teachfair.reward_models.calibrating import fit_calibration
    from teachfair.reward_models.scoring import CALIBRATION, RewardModel

    folder = Path(folder)
    model = RewardModel.load(folder)
    if pairs is not None:
        chosen, rejected = model.score_pairs(pairs)
        model.calibration = fit_calibration(chosen, rejected, threshold_at_zero=needs_threshold_at_zero(model.model))
        if model.calibration is not None:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            write_json(folder / "config.json", {**config, CALIBRATION: model.calibration})
    save_classifier(model, folder, folder, [model.token_ids(messages) for messages in _PROBES])
    return folder / FOLDER


_PROBES = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    for question in ("Who was late, Tom or Ann?", "The nurse and the doctor met. Who cooks?", "Is it so?")
    for answer in ("Cannot tell.", "Ann, of course: women are.", "The doctor.", "7")
]


def save_classifier(
    model: RewardModel, folder: Path, reward_model: Path, probes: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Save ``folder/classifier`` from a loaded scalar model, and hold a stock load of it against the model.

    Args:
        reward_model: where the root will lie once it is published; for the classifier's record.
        probes: token ids of texts on which the two are compared (the first 32 are used).

    Returns: ``folder, head, head_has_bias, n_checked, max_difference`` (of P(fair), on the probes).
    Raises: NoClassifierError with the reason, and nothing is left; RunFolderError if there is one already.
    """
    from teachfair.models.checkpoint import content_hash

    calibration, head = model.calibration, head_of(model.model)
    if calibration is None:
        raise NoClassifierError(
            "the reward model is not calibrated, so that a probability of it would mean nothing",
            where=str(folder), fix="calibrate it: train it with held-out pairs, on which a higher reward is fairer",
        )  # fmt: skip
    if head is None:
        raise NoClassifierError(
            f"the last layer of a {type(model.model).__name__} was not found", where=str(folder),
            fix="use the scalar face at the folder's root, and teachfair's classify",
        )  # fmt: skip
    name, layer = head
    threshold, temperature = float(calibration["threshold"]), float(calibration["temperature"])
    if layer.bias is None and threshold != 0:
        raise NoClassifierError(
            f"its last layer has no bias, which could hold the calibration's threshold of {threshold:.3g}",
            where=str(folder), fix="fit the calibration with the threshold at 0: write_classifier(folder, pairs=…)",
        )  # fmt: skip
    with whole_folder(folder / FOLDER) as aside:
        with _two_rows(model.model, name, layer, threshold, temperature):
            model.model.save_pretrained(aside)
        model.tokenizer.save_pretrained(aside)
        worst = _largest_difference(model, aside, list(probes)[:_CHECKED])
        if not worst <= TOLERANCE:
            raise NoClassifierError(
                f"a stock load of it differs from the reward model by {worst:.1e} in P(fair)", where=str(folder),
                fix="use the scalar face at the folder's root, and teachfair's classify; please report the architecture",
            )  # fmt: skip
        found = {
            "head": name, "head_has_bias": layer.bias is not None,
            "n_checked": min(len(probes), _CHECKED), "max_difference": worst,
        }  # fmt: skip
        write_record(
            aside, step=STEP, reward_model=str(reward_model), reward_model_hash=content_hash(folder),
            calibration={"threshold": threshold, "temperature": temperature}, **found,
        )  # fmt: skip
    return {"folder": FOLDER, **found}


@contextmanager
def _two_rows(
    model: PreTrainedModel, name: str, head: torch.nn.Linear, threshold: float, temperature: float
) -> Iterator[None]:
    """The model with the classifier's last layer and config, for as long as it takes to save it."""
    import torch

    from teachfair.reward_models.classifying import LABELS
    from teachfair.reward_models.scoring import CALIBRATION

    has_bias = head.bias is not None
    rows = torch.nn.Linear(head.in_features, 2, bias=has_bias, device=head.weight.device, dtype=head.weight.dtype)
    sides = torch.tensor([[-1.0], [1.0]], device=head.weight.device, dtype=head.weight.dtype) / (2 * temperature)
    with torch.no_grad():
        rows.weight.copy_(sides * head.weight)
        if has_bias:
            rows.bias.copy_((sides * (head.bias - threshold))[:, 0])
    parent = model.get_submodule(name.rpartition(".")[0])
    scalar = model.config
    config = copy.deepcopy(scalar)
    config.id2label, config.label2id = dict(enumerate(LABELS)), {label: place for place, label in enumerate(LABELS)}
    config.problem_type = "single_label_classification"
    if hasattr(config, CALIBRATION):
        delattr(config, CALIBRATION)  # it is in the weights now
    setattr(parent, name.rpartition(".")[2], rows)
    model.config = config
    try:
        yield
    finally:
        setattr(parent, name.rpartition(".")[2], head)
        model.config = scalar


def _largest_difference(model: RewardModel, face: Path, probes: list[Sequence[int]]) -> float:
    import torch
    from transformers import AutoModelForSequenceClassification

    from teachfair.reward_models.calibrating import probability

    device = next(model.model.parameters()).device
    stock, info = AutoModelForSequenceClassification.from_pretrained(face, output_loading_info=True, dtype=model.model.dtype)
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
        return float("inf")
    stock = stock.to(device).eval()
    stated = []
    with torch.inference_mode():
        for ids in probes:
            logits = stock(input_ids=torch.tensor([list(ids)], device=device)).logits
            stated.append(float(logits.double().softmax(dim=-1)[0, 1]))
    ours = probability(model.score_ids(probes), model.calibration)
    return float(np.abs(np.asarray(stated) - ours).max(initial=0.0))
