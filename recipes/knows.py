"""Does a model still know who is who? Taught, forgotten, hidden or broken, against the untaught model.

    python recipes/knows.py --model_name_or_path taught --untaught base --benchmarks definitional,utility,bbq --data_dir D
    python recipes/knows.py --model_name_or_path runs/dpo_fair --sandbox true       # a sandbox policy, against its own
    python recipes/knows.py --erase true --untaught base --output_dir runs/erased   # make the rival "erased", measure it

Writes knowledge.json and knowledge.html: the verdict with reasons, what changed, how well a linear probe reads the group
at each layer (control task, unseen names), and whether answers change when the group is erased (amnesic check).
--erase also leaves the erased checkpoint in the folder "checkpoint".
Without arguments: the sandbox policy, its group erased.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teachfair.doors import Door, argument, comma_list
from teachfair.errors import ConfigError


@dataclass
class KnowsArguments:
    """Which model, against which, asked what."""

    model_name_or_path: str | None = argument("the model in question. Default: the sandbox policy, its group erased")
    untaught: str | None = argument("what it was before it was taught. Default: the sandbox policy")
    sandbox: bool = argument("the model is a sandbox policy: its world's names and items are asked", False)
    erase: bool = argument(
        "in place of --model_name_or_path: project the group out of the untaught model's weights, save that, measure it",
        False,
    )
    axis: str = argument("the groups asked about; of the sandbox: gender or origin", "gender")
    benchmarks: list[str] = argument(
        "benchmarks, separated by commas; bias needs one with ambiguous items or pairs, such as bbq. Default: sandbox, or "
        "definitional,utility where the model is none of its policies",
        [],
    )
    data_dir: str | None = argument("folder with the benchmarks' files, as --data_dir of evaluate")
    output_dir: str | None = argument("folder to make. Default: runs/<name of the checkpoint>-knowledge")
    world_seed: int = argument("sandbox: seed of the world", 0)
    bias: float = argument("sandbox: planted association of the world, log-odds", 2.0)
    seed: int = argument("of folds, control labels and random directions", 0)
    tolerance: float = argument("how far evidence use and utility may fall before the model counts as broken, a share", 0.05)


def run(own: KnowsArguments) -> None:
    """Resolve both models; measure; write and print."""
    from teachfair.alignment import lesson
    from teachfair.data.sandbox.world import World
    from teachfair.evaluation.knowledge.erasing import save_erased
    from teachfair.evaluation.knowledge.group_texts import built_in_texts, sandbox_texts
    from teachfair.evaluation.knowledge.knowing import knowledge
    from teachfair.evaluation.knowledge.page import knowledge_lines, write_page
    from teachfair.models.checkpoint import content_hash, inspect_checkpoint, load_tokenizer
    from teachfair.runs import whole_folder, write_json, write_record

    on_sandbox = own.sandbox or own.untaught is None
    if own.model_name_or_path is not None and own.untaught is None and not own.sandbox:
        raise ConfigError(
            "a model of your own needs the one it was before", where="--untaught",
            fix="give the untaught checkpoint, or --sandbox true for a sandbox policy",
        )  # fmt: skip
    if own.erase and own.model_name_or_path is not None:
        raise ConfigError(
            "--erase makes the model that is measured", where="--model_name_or_path", fix="leave one of the two out"
        )
    config = lesson.sandbox(seed=own.world_seed, bias=own.bias) if on_sandbox else None
    untaught: str | Path = own.untaught or lesson.sandbox_policy(lesson.sandbox(seed=own.world_seed, bias=own.bias))
    erase = own.erase or own.model_name_or_path is None
    named = own.model_name_or_path or ("sandbox" if own.untaught is None else own.untaught)
    out = Path(own.output_dir or f"runs/{Path(named).name}-{'erased-' if erase else ''}knowledge")
    for path in (untaught, *(() if own.model_name_or_path is None else (own.model_name_or_path,))):
        inspect_checkpoint(path)  # a wrong name is told before anything is made
    with whole_folder(out) as aside:
        policy: str | Path = own.model_name_or_path or aside / "checkpoint"
        if erase:
            if config is None:
                texts = built_in_texts(("en",))
            else:
                texts = sandbox_texts(World(config.world), load_tokenizer(untaught))
            save_erased(untaught, policy, texts, own.axis)
        found = knowledge(
            policy, untaught, axis=own.axis, benchmarks=comma_list(own.benchmarks) or None, data_dir=own.data_dir,
            world=None if config is None else config.world, seed=own.seed, tolerance=own.tolerance,
        )  # fmt: skip
        found["policy"]["name"] = str(out / "checkpoint") if erase else str(policy)
        write_json(aside / "knowledge.json", found)
        write_page(found, aside / "knowledge.html")
        write_record(
            aside, what="knows", policy_hash=content_hash(policy), untaught_hash=content_hash(untaught),
            verdict=found["verdict"], axis=own.axis, seed=own.seed,
        )  # fmt: skip
    print("\n".join(knowledge_lines(found)))
    print(f"knowledge: {out / 'knowledge.html'}")


door = Door("knows", __doc__, KnowsArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
