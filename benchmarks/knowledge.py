"""Taught, forgotten, hidden or broken: models made so on the sandbox, and the verdict that each gets.

    python benchmarks/knowledge.py                                          # about 4 minutes on one core
    python benchmarks/knowledge.py --seeds 0 1 2 --out runs/knowledge       # other worlds too; finished models are kept

Of one sandbox policy (``untaught``): ``dpo`` is taught by the demo's recipe; ``erased`` has the group projected out of its
weights (LEACE at the words' site, evaluation/knowledge/erasing.py), ``erased_deep`` at every layer's; ``unlearned`` is
trained to answer questions about a name's group at random, all else as before, the usual way of unlearning; ``noised`` has
Gaussian noise on every matrix, one standard deviation of it. The exit code is 1 if a verdict is not the expected one.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.alignment import dpo, lesson
from teachfair.data.sandbox.world import AXES, UNKNOWN, World
from teachfair.doors import shipped_config
from teachfair.evaluation.knowledge.erasing import save_erased
from teachfair.evaluation.knowledge.group_texts import sandbox_texts
from teachfair.evaluation.knowledge.knowing import knowledge
from teachfair.models.chat import render
from teachfair.models.checkpoint import load_policy
from teachfair.runs import read_record, whole_folder, write_json, write_record

if TYPE_CHECKING:
    from teachfair.alignment.sandbox_policy import SandboxPolicyConfig

EXPECTED = {
    "untaught": "unchanged", "dpo": "taught", "erased": "forgotten", "erased_deep": "broken", "unlearned": "hidden",
    "noised": "broken",
}  # fmt: skip
COLUMNS = ("bias", "awareness", "decodability", "evidence", "utility")
STEPS, BATCH = 400, 16


def taught(config: SandboxPolicyConfig, out: Path) -> None:
    """The demo's lesson: 1,000 sandbox pairs, DPO, all weights."""
    own, args, model_args = lesson.door_parser().parse(["--config", str(shipped_config("sandbox/dpo_full.yaml"))])
    args.disable_tqdm, args.report_to = True, []
    dpo.teach(
        lesson.sandbox_policy(config), lesson.pairs_from(own, sandbox=config), out, args=args,
        **lesson.adaptation(model_args),
    )  # fmt: skip


def erased(config: SandboxPolicyConfig, out: Path) -> None:
    policy = lesson.sandbox_policy(config)
    _, tokenizer = load_policy(policy)
    save_erased(policy, out, sandbox_texts(World(config.world), tokenizer), config.world.taught_axis)


def erased_deep(config: SandboxPolicyConfig, out: Path) -> None:
    policy = lesson.sandbox_policy(config)
    model, tokenizer = load_policy(policy)
    sites = range(model.config.num_hidden_layers + 1)
    save_erased(policy, out, sandbox_texts(World(config.world), tokenizer), config.world.taught_axis, sites=sites)


def unlearned(config: SandboxPolicyConfig, out: Path) -> None:
    """Loss: to the two group words alike where a name's group is asked; to the untaught policy's own answers elsewhere."""
    import torch

    policy = lesson.sandbox_policy(config)
    (model, tokenizer), (before, _) = load_policy(policy), load_policy(policy)
    world = World(config.world)
    group_words = {*AXES[config.world.taught_axis], "she", "he"}
    rows = [item for split in ("train", "test") for item in world.items(split=split)]
    prompts = [
        (
            tokenizer(render(tokenizer, [{"role": "user", "content": row["prompt"]}], generation_prompt=True),
                      add_special_tokens=False)["input_ids"],
            tokenizer.convert_tokens_to_ids(row["options"]) if group_words >= set(row["options"]) else None,
        )
        for row in rows if UNKNOWN not in row["options"] or row["condition"] == "disambiguated"
    ]  # fmt: skip
    forget = [row for row in prompts if row[1] is not None]
    keep = [row for row in prompts if row[1] is None]
    generator = torch.Generator().manual_seed(config.world.seed)
    model.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=STEPS)
    for _ in range(STEPS):
        batch = [part[int(i)] for part in (forget, keep) for i in torch.randint(len(part), (BATCH,), generator=generator)]
        longest = max(len(ids) for ids, _ in batch)
        # padded on the left: the answer's place is the last one of each row
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(ids)) + ids for ids, _ in batch])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in batch])
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logps = model(input_ids=ids, attention_mask=mask, position_ids=places).logits[:, -1].log_softmax(dim=-1)
        with torch.no_grad():
            wanted = before(input_ids=ids, attention_mask=mask, position_ids=places).logits[:, -1].softmax(dim=-1)
            for place, (_, answers) in enumerate(batch):
                if answers is not None:
                    wanted[place] = 0.0
                    wanted[place, answers] = 1 / len(answers)
        loss = torch.nn.functional.kl_div(logps, wanted, reduction="batchmean")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    _save(model.eval().requires_grad_(False), tokenizer, out, what="unlearned", steps=STEPS)


def noised(config: SandboxPolicyConfig, out: Path) -> None:
    import torch

    model, tokenizer = load_policy(lesson.sandbox_policy(config))
    generator = torch.Generator().manual_seed(config.world.seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.add_(weight.std() * torch.randn(weight.shape, generator=generator))
    _save(model, tokenizer, out, what="noised")


def _save(model: Any, tokenizer: Any, out: Path, **record: Any) -> None:
    with whole_folder(out) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        write_record(aside, **record)


MODELS = {"dpo": taught, "erased": erased, "erased_deep": erased_deep, "unlearned": unlearned, "noised": noised}


def made(name: str, config: SandboxPolicyConfig, folder: Path) -> Path:
    """The model called ``name``, made unless ``folder`` holds it."""
    if name == "untaught":
        return lesson.sandbox_policy(config)
    if read_record(folder / name) is None:
        MODELS[name](config, folder / name)
    return folder / name


def table_row(seed: int, name: str, found: dict[str, Any]) -> str:
    def shown(quantity: str) -> str:
        change = found["changes"][quantity]
        interval = change["change"]
        return f"{change['here']:.2f} ({interval['value']:+.2f} [{interval['low']:+.2f}, {interval['high']:+.2f}])"

    effect = found["policy"]["amnesic"]["awareness"]["effect"]
    cells = [
        str(seed), name, f"**{found['verdict']}**", *map(shown, COLUMNS),
        f"{effect['value']:+.2f} [{effect['low']:+.2f}, {effect['high']:+.2f}]",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |".replace("-", "−")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/knowledge"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="worlds; one that is new is pretrained, a minute")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    heads = ("world", "model", "verdict", *COLUMNS, "amnesic check: awareness")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    started, wrong = time.time(), 0
    for seed in given.seeds:
        config = lesson.sandbox(seed=seed, bias=2.0)
        for name, expected in EXPECTED.items():
            policy = made(name, config, given.out / f"world-{seed}")
            found = knowledge(policy, lesson.sandbox_policy(config), world=config.world)
            write_json(given.out / f"world-{seed}" / f"{name}.json", found)
            print(table_row(seed, name, found), flush=True)
            wrong += found["verdict"] != expected
    n = len(given.seeds) * len(EXPECTED)
    print(f"\n{wrong} of {n} verdicts are not the expected ones; {time.time() - started:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
