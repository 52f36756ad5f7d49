"""Measure any policy: bias with its guard-rails, item by item.

    teachfair evaluate --model runs/dpo_fair --benchmarks crows_pairs,bbq --data_dir D
    teachfair evaluate --model hub/id --benchmarks all --limit 100 --data_dir D
    teachfair evaluate --model runs/fair --baseline runs/untaught-evaluation --benchmarks bbq --data_dir D
    teachfair evaluate --model runs/fair --baseline runs/untaught-evaluation --front runs/noise-*-evaluation
    teachfair evaluate --model P --benchmarks mine.yaml                  # a benchmark of yours, without Python
    teachfair evaluate --list_benchmarks                                 # what there is, one line each

The policy may be any checkpoint folder (full, quantised, an adapter, an adapter on a 4-bit base, a masked language model)
or a hub id; --lm_eval_model takes any backend of lm-eval instead. Whenever a benchmark measures bias, the built-in
guard-rails are measured too (definitional, utility, open_answers): a bias number never stands alone. Writes
records.parquet (one row per item), summary.json, evaluation.html, lm-eval's results_*.json, .eval_results and run.json. A
killed run goes on when the same command is given again. --data_dir holds the authors' files, in folders named after the
benchmark. Without arguments: the sandbox policy on the sandbox's items.

With --baseline each bias number gets a verdict (also in verdicts.json). A broken model answers at random and looks fair, so
--front holds the model against others at equal utility. Its points are evaluations of one series on the baseline's items,
the baseline being the first: copies of the baseline with growing damage (noise, pruning: --front_is damage), or checkpoints
of another method at growing strengths (several betas of DPO, a dial: --front_is method). Between points the bias is
interpolated over the utility. A gain of which damage of the same utility gives four fifths or more is called "fairer because
broken"; another method changes no verdict: it is said which of the two is less biased where both are as useful.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teachfair.doors import Door, argument, comma_list
from teachfair.errors import ConfigError, InputError, TeachfairError


@dataclass
class EvaluateArguments:
    """What to measure, on what, and where the records go."""

    model: str | None = argument("the same as --model_name_or_path")
    model_name_or_path: str | None = argument("checkpoint folder or hub id. Default: the sandbox policy")
    benchmarks: list[str] = argument(
        'names separated by commas, YAML files of template benchmarks, or "all" whose files are there', ["sandbox"]
    )
    list_benchmarks: bool = argument("list the benchmarks with one line each, and stop", False)
    data_dir: str | None = argument("folder with the benchmarks' files, in their authors' formats")
    output_dir: str | None = argument("folder to make. Default: runs/<name of the checkpoint>-evaluation")
    limit: int | None = argument("at most N questions of each benchmark, evenly spaced (a trial run; the record says so)")
    baseline: str | None = argument(
        "a finished evaluation of the untaught policy on the same items: each bias number gets a verdict against it"
    )
    front: list[str] = argument(
        "with --baseline: folders of finished evaluations, the points of a front in order of growing damage or strength; "
        "same benchmarks, files and --limit as the baseline, which is the first point and not named again",
        [],
    )
    front_is: str = argument(
        'what the points of --front are: "damage" (of the baseline) or "method" (another one, at growing strengths)',
        "damage", choices=["damage", "method"],
    )  # fmt: skip
    utility: str | None = argument(
        'guard-rail at whose equal value the model and the front are compared, such as "bits per byte". Default: '
        "disambiguated accuracy, else neutral accuracy, else bits per byte, whichever is measured"
    )
    model_card: str | None = argument("a README.md to which the results are added as model-index (hub)")
    lang: list[str] = argument("only these languages, en and fr, where a benchmark has several", [])
    formats: list[str] = argument("prompt formats of question benchmarks: plain, listed, lettered, chat. Default: all", [])
    judge: str | None = argument(
        "benchmark judged: the reward-model folder that scores the policy's answers; refused where the policy's records "
        "say that it taught the policy"
    )
    reward_model: str | None = argument("open_answers: a reward model that scores the answers; refused like a judge")
    lexicon: str | None = argument("honest: HurtLex's TSV file, or a folder with hurtlex_EN.tsv and hurtlex_FR.tsv")
    score_cache: str | None = argument("folder in which scores are kept for good, for all runs that name it")
    dtype: str = argument("dtype of the weights that are not quantised", "float32")
    device: str | None = argument("default: the first GPU, else the CPU")
    lm_eval_model: str | None = argument('in place of a checkpoint: a backend of lm-eval ("hf", "vllm", "gguf" …)')
    lm_eval_args: str = argument("its arguments, as lm-eval's --model_args", "")
    world_seed: int = argument("sandbox: seed of the world whose items are asked", 0)
    bias: float = argument("sandbox: planted association of the world, log-odds", 2.0)


def run(own: EvaluateArguments) -> None:
    """Resolve policy and benchmarks; evaluate; compare with the baseline; print the summary."""
    from teachfair.evaluation.benchmarks import listing

    if own.list_benchmarks:
        print(listing())
        return
    from teachfair.data.sandbox.world import SandboxConfig
    from teachfair.evaluation.benchmarks import BENCHMARKS
    from teachfair.evaluation.evaluate import evaluate, load_records
    from teachfair.evaluation.exporting import write_exports, write_model_card
    from teachfair.evaluation.page import FrontFolders, check_front, verdicts_against, write_page, write_verdicts
    from teachfair.evaluation.progress import progress_bar
    from teachfair.evaluation.summary import summary_lines, verdict_lines
    from teachfair.models.scorer import is_masked_lm

    front = FrontFolders(tuple(map(Path, own.front)), own.front_is, own.utility) if own.front else None
    if front is None and own.utility:
        raise ConfigError("a utility without a front", where="--utility", fix="it says at which --front is read: give both")
    if front is not None and not own.baseline:
        raise ConfigError(
            "a front without its first point", where="--front",
            fix="give the evaluation of the untaught, undamaged policy as --baseline",
        )  # fmt: skip
    if own.baseline:
        load_records(own.baseline)  # an unfinished or edited baseline shows before hours of scoring, not after
    if own.baseline and front is not None:
        check_front(front, own.baseline)

    named = own.model or own.model_name_or_path
    if own.model and own.model_name_or_path and own.model != own.model_name_or_path:
        raise ConfigError("two policies are named", where="--model and --model_name_or_path", fix="name one")
    data_dir = Path(own.data_dir) if own.data_dir else None
    world = SandboxConfig(seed=own.world_seed, bias=own.bias)
    masked = named is not None and is_masked_lm(named)
    modules, options, left_out = _benchmarks(
        own, data_dir, world, sandbox=named is None and own.lm_eval_model is None, masked=masked
    )
    for line in left_out:
        print(line)
    scorer: Any = None
    identity, policy, name = None, named or "", Path(named or "sandbox").name
    if own.lm_eval_model is not None:
        if named is not None:
            raise ConfigError("a checkpoint and a backend are named", where="--model and --lm_eval_model", fix="name one")
        from teachfair.evaluation.lm_eval_adapter import load_lm_eval

        scorer = load_lm_eval(own.lm_eval_model, own.lm_eval_args)
        policy = identity = f"lm-eval {own.lm_eval_model}: {own.lm_eval_args}"
        name = own.lm_eval_model
    elif named is None:
        from teachfair.alignment import lesson

        policy = str(lesson.sandbox_policy(lesson.sandbox(seed=own.world_seed, bias=own.bias)))
    with progress_bar() as progress:
        out = evaluate(
            policy, modules, data_dir, Path(own.output_dir or f"runs/{name}-evaluation"), limit=own.limit, options=options,
            dtype=own.dtype, device=own.device, progress=progress, score_cache=own.score_cache, scorer=scorer,
            identity=identity,
        )  # fmt: skip
    print("\n".join(summary_lines(out)))
    own_files = {one.CARD["name"]: one for one in modules if BENCHMARKS.get(one.CARD["name"]) is not one}
    verdicts = None
    if own.baseline:
        verdicts = verdicts_against(out, own.baseline, modules=own_files, front=front)
        print("\n".join(["", f"against {own.baseline}:", *verdict_lines(verdicts)]))
        write_verdicts(out, verdicts, own.baseline, front)
    page = write_page(out, baseline=own.baseline, modules=own_files, verdicts=verdicts)
    try:
        for what, why in write_exports(out, modules=own_files).left_out.items():
            print(f"not exported: {what}: {why}")
        if own.model_card:
            write_model_card(out, own.model_card, modules=own_files)
    except InputError as error:  # guard-rails alone, or only benchmarks without a headline
        if own.model_card:
            raise
        print(f"nothing exported: {error.what}. {error.fix}")
    print(f"evaluation: {out}\npage: {page}")


def _benchmarks(
    own: EvaluateArguments, data_dir: Path | None, world: Any, *, sandbox: bool, masked: bool
) -> tuple[list[Any], dict[str, dict[str, Any]], list[str]]:
    """The benchmarks to score, the guard-rails among them; their options; and a line for each that is left out or replaced.

    ``masked``: the policy is a masked language model: some benchmarks have a counterpart for it, some guard-rails none.
    """
    from teachfair.evaluation.benchmarks import BENCHMARKS, GUARDS, MASKED_COUNTERPARTS, get

    given = {
        "world": world, "judge": own.judge, "reward_model": own.reward_model, "lexicon": own.lexicon,
        "lang": comma_list(own.lang) or None, "formats": comma_list(own.formats) or None,
    }  # fmt: skip
    asked = comma_list(own.benchmarks)
    modules: list[Any] = []
    left_out: list[str] = []
    for word in asked:
        for one in BENCHMARKS.values() if word == "all" else [get(word)]:
            name = one.CARD["name"]
            if word == "all":
                why = _unfit(one, masked) or _missing(one, data_dir, _options(one, given), own, sandbox)
                if why:
                    left_out.append(f"left out: {name}: {why}")
                    continue
            if masked and name in MASKED_COUNTERPARTS:
                one = BENCHMARKS[MASKED_COUNTERPARTS[name]]
                left_out.append(
                    f"{name}: a masked language model is scored by {one.CARD['name']}, which is another measure: no number "
                    "of a causal model compares with it"
                )
                name = one.CARD["name"]
            if name not in [other.CARD["name"] for other in modules]:
                modules.append(one)
    if any(one.CARD.get("measures", "bias") != "guard" and not one.CARD.get("own_guards") for one in modules):
        there = [one.CARD["name"] for one in modules]
        guards = [BENCHMARKS[name] for name in GUARDS if name not in there]
        left_out += [f"guard-rail not measured: {one.CARD['name']}: {why}" for one in guards if (why := _unfit(one, masked))]
        modules += [one for one in guards if not _unfit(one, masked)]
    return modules, {one.CARD["name"]: _options(one, given) for one in modules}, left_out


def _unfit(module: Any, masked: bool) -> str:
    """Why a benchmark cannot score this kind of policy; "" if it can."""
    from teachfair.evaluation.benchmarks import takes

    if takes(module, "masked" if masked else "causal"):
        return ""
    return "a masked language model gives no answers" if masked else "it is for masked language models"


def _options(module: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What of the given options a benchmark's ``items`` takes; of languages, those that it has."""
    takes = inspect.signature(module.items).parameters
    options = {name: value for name, value in given.items() if name in takes and value is not None}
    if "lang" in options:
        options["lang"] = [code for code in options["lang"] if code in module.CARD["lang"]] or list(module.CARD["lang"])
    return options


def _missing(module: Any, data_dir: Path | None, options: dict[str, Any], own: EvaluateArguments, sandbox: bool) -> str:
    """Why a benchmark cannot be part of "all"; "" if it can."""
    card = module.CARD
    if card.get("own_world") and not sandbox:
        return "its items are in the words of the sandbox's own policy"
    if own.lang and not set(comma_list(own.lang)) & set(card["lang"]):
        return f"it is not in {', '.join(comma_list(own.lang))}"
    try:
        if hasattr(module, "missing") and (why := module.missing(data_dir, **options)):
            return str(why)
        if card["needs"] != "nothing" and hasattr(module, "data_files"):
            module.data_files(data_dir)
    except TeachfairError as error:
        return f"{error.what}. {error.fix}"
    return ""


door = Door("evaluate", __doc__, EvaluateArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
