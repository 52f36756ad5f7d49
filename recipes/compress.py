"""Compress a checkpoint folder: in a full model, a LoRA adapter or a QLoRA adapter; out a loadable checkpoint folder.

    python recipes/compress.py --model_name_or_path runs/dpo_fair --compression nf4 --output_dir runs/dpo_fair-nf4

A LoRA adapter is merged first; a QLoRA adapter is merged onto its *dequantised* base, the one it was trained on.
`--compression none` only merges. Bytes and bits per parameter are in the folder's run.json. Without arguments: the
sandbox policy, to nf4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teachfair.doors import Door, argument


@dataclass
class CompressArguments:
    """What to compress, how, and where to."""

    model_name_or_path: str | None = argument("checkpoint folder or hub id. Default: the sandbox policy")
    compression: str = argument("int8, nf4, fp4 (bitsandbytes), or none = merge an adapter into a full checkpoint", "nf4")
    output_dir: str | None = argument("folder to make. Default: runs/<name of the checkpoint>-<compression>")


def run(own: CompressArguments) -> None:
    """Resolve the checkpoint; compress or merge."""
    from teachfair import compression
    from teachfair.alignment import lesson
    from teachfair.models.checkpoint import merge

    how = None if own.compression == "none" else compression.get(own.compression)
    if own.model_name_or_path is None:
        source, name = lesson.sandbox_policy(lesson.sandbox(seed=0, bias=2.0)), "sandbox"
    else:
        source, name = Path(own.model_name_or_path), Path(own.model_name_or_path).name
    out = Path(own.output_dir or f"runs/{name}-{own.compression}")
    if how is None:
        print(f"merged checkpoint: {merge(source, out)}")
        return
    made = how.apply(source, out)
    print(
        f"compressed checkpoint: {made.path} ({made.bytes_on_disk / 1e6:.2f} MB, "
        f"{made.bits_per_parameter:.2f} bits per parameter, {made.n_quantised_layers} layers quantised)"
    )


door = Door("compress", __doc__, CompressArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
