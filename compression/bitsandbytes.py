"""LLM.int8(), NF4 and FP4 by bitsandbytes: no calibration data, deterministic, loads with transformers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from teachfair.compression import CompressedCheckpoint
from teachfair.errors import CheckpointError, ConfigError
from teachfair.models.checkpoint import as_full, content_hash, has_tokenizer, load_base, load_tokenizer
from teachfair.runs import whole_folder, write_record

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Int8:
    """LLM.int8(): weights in 8 bit by row, activations in 8 bit by token, outlier columns in full precision.

    ``threshold``: from which absolute activation a column counts as an outlier; the paper's value is 6. The
    choice of columns depends on the whole batch (``teachfair.models.likelihood`` scores one at a time where
    that matters); 0 turns the decomposition off.

    Source: Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339.
    """

    threshold: float = 6.0

    @property
    def name(self) -> str:
        return "int8"

    def quantization(self) -> dict[str, Any]:
        """The arguments of ``BitsAndBytesConfig``."""
        return {"load_in_8bit": True, "llm_int8_threshold": self.threshold}

    def apply(self, checkpoint: Path, out: Path) -> CompressedCheckpoint:
        """Compress ``checkpoint`` into the new folder ``out``; see :func:`compress`."""
        return compress(self, checkpoint, out)


@dataclass(frozen=True)
class FourBit:
    """4-bit weights in blocks of 64 with one fp32 scale each (the block size is the library's).

    ``quant_type``: ``nf4``, whose 16 levels are quantiles of a normal distribution, or ``fp4``.
    ``double_quant``: the scales are quantised to 8 bit as well (4.13 instead of 4.50 bits a weight).

    Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314.
    """

    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = False

    def __post_init__(self) -> None:
        if self.quant_type not in ("nf4", "fp4"):
            raise ConfigError(
                f"unknown 4-bit type {self.quant_type!r}", where="quant_type", fix="known ones: fp4, nf4"
            )

    @property
    def name(self) -> str:
        return f"{self.quant_type}-double" if self.double_quant else self.quant_type

    def quantization(self) -> dict[str, Any]:
        """The arguments of ``BitsAndBytesConfig``; compute stays fp32, bf16 is slow on most CPUs."""
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.quant_type,
            "bnb_4bit_use_double_quant": self.double_quant,
            "bnb_4bit_compute_dtype": "float32",
        }

    def apply(self, checkpoint: Path, out: Path) -> CompressedCheckpoint:
        """Compress ``checkpoint`` into the new folder ``out``; see :func:`compress`."""
        return compress(self, checkpoint, out)


def compress(config: Int8 | FourBit, checkpoint: Path, out: Path) -> CompressedCheckpoint:
    """Write the compressed model, tokenizer, generation config and ``run.json``; ``out`` is whole or absent.

    A full folder is compressed as it is. An adapter is merged first, in fp32: onto its base, or, if it was
    trained on a 4/8-bit base, onto that base dequantised. Embeddings and the output head (tied or not) stay
    unquantised.

    Returns: the folder and its accounting.
    Raises: CheckpointError if the checkpoint is quantised already or has no layer that bitsandbytes can
        quantise; RunFolderError if ``out`` is taken.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    with whole_folder(out) as aside:
        source_hash = content_hash(checkpoint)
        with as_full(checkpoint, out.parent) as (folder, merge):
            model = load_base(folder, quantization=config.quantization())
            layers, kept = _layers(model)
            if not layers:
                raise CheckpointError(
                    f"{config.name} quantised no layer of the model",
                    where=str(checkpoint),
                    fix="bitsandbytes quantises Linear and Conv1D layers but the head; this model has none",
                )
            model.save_pretrained(aside)
            if has_tokenizer(folder):
                load_tokenizer(folder).save_pretrained(aside)
        n_parameters = _count_parameters(model, layers)
        bytes_on_disk = sum(file.stat().st_size for file in aside.glob("*.safetensors"))
        result = CompressedCheckpoint(
            out, bytes_on_disk, n_parameters, 8 * bytes_on_disk / n_parameters, len(layers)
        )
        write_record(
            aside,
            what="compress",
            compression=config.name,
            settings={**dataclasses.asdict(config), **config.quantization()},
            source=str(checkpoint),
            source_hash=source_hash,
            content_hash=content_hash(aside),
            merge_route=merge["route"],
            merge_dtype=merge["dtype"],
            dtype="float32",
            device=str(model.device),
            bytes_on_disk=bytes_on_disk,
            n_parameters=n_parameters,
            bits_per_parameter=result.bits_per_parameter,
            n_quantised_layers=len(layers),
            n_quantised_parameters=sum(rows * columns for rows, columns in layers.values()),
            left_unquantised=kept,
        )
    return result


def _layers(model: torch.nn.Module) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """(quantised layers: name -> (out, in) size, names of weight matrices that stay as they were)."""
    quantised, kept = {}, []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and type(weight).__name__ in ("Int8Params", "Params4bit"):
            # By what the weight *is*: a layer of the right class may still hold full-precision numbers.
            if not weight.is_floating_point():
                quantised[name] = (int(module.out_features), int(module.in_features))
        elif weight is not None and weight.dim() >= 2:
            kept.append(name)
    return quantised, kept


def _count_parameters(model: torch.nn.Module, layers: dict[str, tuple[int, int]]) -> int:
    """Parameters of the model before compression; a packed 4-bit element holds two."""
    packed = {f"{name}.weight" for name in layers}
    others = sum(
        parameter.numel() for name, parameter in model.named_parameters() if name not in packed
    )  # named_parameters lists tied weights once
    return others + sum(rows * columns for rows, columns in layers.values())
