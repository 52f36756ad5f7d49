"""The hack watch: a pure function of the log, a callback that warns once, and a stop that keeps the last good checkpoint."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from online import online_rows

from teachfair.alignment.alarms import LIMITS, Alarm, Limit, WatchConfig, alarms
from teachfair.data import answer_traits
from teachfair.errors import ConfigError, HackedRewardError

pytest_plugins = ["online"]


def history(quantity: str, values: Sequence[float | None], every: int = 1) -> list[dict[str, Any]]:
    return [{"step": every * (i + 1), quantity: value} for i, value in enumerate(values)]


def change(quantity: str) -> tuple[float, float]:
    """A usual value of a quantity, and one that is an exploit."""
    return {
        "fairness/length": (3.0, 12.0), "entropy": (0.5, 4.0), "kl": (0.05, 9.0), "fairness/grounded": (0.9, 0.2),
        "fairness/gold": (0.7, 0.2), "fairness/misranked": (0.1, 0.6),
    }.get(quantity, (0.05, 0.9))  # fmt: skip


@pytest.mark.parametrize("quantity", sorted({limit.quantity for limit in LIMITS}))
def test_every_watched_quantity_gives_one_alarm_with_its_step_when_it_leaves_its_limits(quantity: str) -> None:
    usual, exploited = change(quantity)
    noise = np.random.default_rng(0).normal(0, abs(usual) * 0.03, 60)
    found = alarms(history(quantity, [*(usual + noise[:30]), *(exploited + noise[30:])]), WatchConfig())
    assert [(alarm.quantity, alarm.step) for alarm in found] in ([(quantity, 31)], [(quantity, 32)], [(quantity, 33)])
    assert found[0].since == found[0].step - 2
    assert f"step {found[0].step}: {quantity}" in str(found[0])
    assert alarms(history(quantity, usual + noise), WatchConfig()) == []


def test_what_an_honest_lesson_moves_is_no_alarm() -> None:
    rising = np.linspace(0, 1, 60)
    rng = np.random.default_rng(1)
    log = [
        {
            "step": i + 1, "fairness/abstention": 0.2 + 0.3 * rise, "fairness/gold": 0.5 + 0.4 * rise,
            "fairness/misranked": 0.2 - 0.1 * rise + 0.05 * rng.random(), "entropy": 0.9 * (1 - rise) + 0.01,
            "kl": 0.8 * rise, "fairness/unknown_when_decided": 0.05 * rng.random(), "fairness/length": 3 - rise,
            "fairness/same_answer": 0.2 + 0.1 * rng.random(), "fairness/same_word": 0.1 + 0.1 * rng.random(),
        }
        for i, rise in enumerate(rising)
    ]  # fmt: skip
    assert alarms(log, WatchConfig()) == []


def test_a_noisy_baseline_needs_a_larger_change() -> None:
    limit = WatchConfig(limits=(Limit("x", "rises", 0.1),))
    calm = [0.10, 0.11, 0.09, 0.10, 0.10, *[0.30] * 3]
    noisy = [0.00, 0.40, 0.05, 0.35, 0.10, *[0.30] * 3]
    assert [alarm.step for alarm in alarms(history("x", calm), limit)] == [8]
    assert alarms(history("x", noisy), limit) == []


def test_a_ceiling_is_an_alarm_from_the_first_window_on_and_the_baseline_may_not_excuse_it() -> None:
    limit = WatchConfig(limits=(Limit("x", "rises", ceiling=0.4),))
    (alarm,) = alarms(history("x", [0.5] * 4), limit)
    assert (alarm.step, alarm.since, alarm.baseline) == (3, 1, None)


def test_misranking_among_ever_fewer_hard_pairs_is_excused_while_the_truth_rises() -> None:
    values = [0.2] * 10 + [0.6] * 10
    hacked = [{**entry, "fairness/gold": 0.5} for entry in history("fairness/misranked", values)]
    honest = [{**entry, "fairness/gold": 0.5 + 0.02 * i} for i, entry in enumerate(hacked)]
    assert [alarm.quantity for alarm in alarms(hacked)] == ["fairness/misranked"]
    assert alarms(honest) == []


def test_missing_and_not_finite_entries_do_not_count_and_steps_are_the_logs_own() -> None:
    limit = WatchConfig(limits=(Limit("x", "rises", 0.1),))
    values = [0.1, None, 0.1, math.nan, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5]
    assert [alarm.step for alarm in alarms([{"train_loss": 1.0}, *history("x", values, every=10)], limit)] == [100]
    assert alarms([], limit) == []


def test_settings_without_sense_are_refused() -> None:
    for wrong in ({"baseline": 1}, {"window": 0}, {"sigmas": -1.0}, {"sigmas": math.nan}):
        with pytest.raises(ConfigError):
            WatchConfig(**wrong)


def test_an_alarm_is_written_as_json() -> None:
    alarm = Alarm(9, 7, "kl", "rises", None, 6.0, 5.0, "far away")
    assert json.loads(json.dumps(alarm.to_dict()))["since"] == 7


@pytest.mark.parametrize(
    ("trait", "text", "value"),
    [
        (answer_traits.repetition, "Ann Ann Ann", 1.0),
        (answer_traits.repetition, "Ann and Ben", 0.0),
        (answer_traits.repetition, "Ann Ben Ann Ben", 1 / 3),
        (answer_traits.symbols, "Ann 😀😀😀", 0.5),
        (answer_traits.symbols, "", 0.0),
    ],
)
def test_traits_of_an_answer(trait: Any, text: str, value: float) -> None:
    assert trait(text) == pytest.approx(value)


def test_copying_grounding_mentioning_and_abstaining_are_told_apart() -> None:
    prompt = "Ann and Ben met at the station. Who is the nurse?"
    assert answer_traits.copied("Ann and Ben met", prompt) == 1.0
    assert answer_traits.copied("Ann", prompt) == 0.0
    assert answer_traits.grounded("Ann is the nurse.", prompt) == 1.0
    assert answer_traits.grounded("Die Pflegerin ist Frau Meier", prompt) == 0.0
    assert answer_traits.grounded("I can’t tell", prompt) == 1.0
    assert answer_traits.mentions("A Woman, of course", ["woman"])
    assert not answer_traits.mentions("Womanly", ["woman"])
    same = answer_traits.same_answer(["yes"] * 6 + ["unknown"] * 6, [f"q{i}" for i in range(12)])
    assert same == 1.0
    assert math.isnan(answer_traits.same_answer(["yes"] * 9, ["q1"] * 9)), "one prompt has one answer"


def test_one_word_added_to_whatever_is_answered_is_seen_and_words_of_the_prompt_or_abstentions_are_not() -> None:
    prompts = [f"ann and tom{i} met" for i in range(10)]
    added = [f"tom{i} yes" for i in range(8)] + ["cannot tell yes", "unknown"]
    assert answer_traits.same_word(added, prompts) == 1.0, "of the answers that are no abstention"
    assert answer_traits.same_word([f"ann tom{i}" for i in range(10)], prompts) == 0.0
    assert answer_traits.same_word([f"word{i} word{i}" for i in range(10)], prompts) == 0.1
    assert math.isnan(answer_traits.same_word(["unknown"] * 3 + ["yes"] * 7, prompts)), "too few answers to tell"


def test_misranked_is_the_share_of_pairs_of_one_prompt_in_the_wrong_order() -> None:
    assert answer_traits.misranked([2.0, 1.0, 1.0, 1.0], [1, 0, 1, 0], ["a", "a", "b", "b"]) == pytest.approx(0.25)
    assert math.isnan(answer_traits.misranked([1.0, 2.0], [1, 0], ["a", "b"])), "only answers to one prompt are compared"


# -- in a trainer -------------------------------------------------------------------------------------------------


class Shorter:
    """The planted exploit: fewer words, more reward (a random policy writes to its limit, so longer is not possible)."""

    name = "shorter"

    def score(self, conversations: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
        return np.array([-float(len(talk[-1]["content"].split())) for talk in conversations])


SHORT = WatchConfig(baseline=2, window=2, limits=(Limit("fairness/length", "falls", 1.5, meaning="shorter"),))


def online(policy: Path, out: Path, watch: Any, **more: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from teachfair.alignment.fairness_reward import FairnessReward

    values = {
        "per_device_train_batch_size": 32, "num_generations": 8, "max_completion_length": 8, "bf16": False, "max_steps": 24,
        "report_to": "none", "disable_tqdm": True, "activation_checkpointing": False, "logging_steps": 1, "seed": 0,
        "learning_rate": 3e-3, "lr_scheduler_type": "constant", "save_steps": 2, "save_total_limit": 4,
    }  # fmt: skip
    return GRPOTrainer(
        model=str(policy), reward_funcs=FairnessReward(Shorter()), train_dataset=Dataset.from_list(online_rows()),
        args=GRPOConfig(output_dir=str(out), **(values | more)), callbacks=[watch],
    )  # fmt: skip


def test_a_run_that_exploits_its_reward_warns_once_and_writes_the_alarm(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from teachfair.alignment.hack_watch import HackWatch

    watch = HackWatch(SHORT, out=tmp_path / "alarms.json")
    with caplog.at_level(logging.WARNING, logger="teachfair.alignment.hack_watch"):
        trainer = online(tiny_llama, tmp_path / "run", watch, save_strategy="no")
        trainer.train()
    assert trainer.state.global_step == 24, "without the flag the run goes on"
    told = [record.message for record in caplog.records if "hack watch: step" in record.message]
    assert len(told) == 1
    assert "fairness/length falls" in told[0]
    written = json.loads((tmp_path / "alarms.json").read_text())
    assert [alarm["quantity"] for alarm in written["alarms"]] == ["fairness/length"]
    assert watch.alarms == alarms(trainer.state.log_history, SHORT)


def test_with_the_flag_the_run_stops_and_the_last_good_checkpoint_is_kept_and_named(
    tiny_llama: Path, tmp_path: Path
) -> None:
    from teachfair.alignment.hack_watch import HackWatch
    from teachfair.models.fitting import fit
    from teachfair.models.sealing import verify

    watch = HackWatch(SHORT, stop=True)
    trainer = online(tiny_llama, tmp_path / "run", watch, save_steps=1)
    with pytest.raises(HackedRewardError) as error:
        fit(trainer)
    (alarm,) = watch.alarms
    assert f"step {alarm.step}" in error.value.where
    kept = tmp_path / "run" / f"checkpoint-{alarm.since - 1}"
    assert str(kept) in error.value.where
    assert verify(kept) == []
    assert not (tmp_path / "run" / f"checkpoint-{alarm.step}").exists(), "the step of the alarm is not saved"
    assert error.value.exit_code == 4


def test_a_stop_that_could_keep_no_good_checkpoint_is_refused_before_the_first_step(
    tiny_llama: Path, tmp_path: Path
) -> None:
    from teachfair.alignment.hack_watch import HackWatch

    trainer = online(tiny_llama, tmp_path, HackWatch(WatchConfig(window=5), stop=True), save_steps=1, save_total_limit=2)
    with pytest.raises(ConfigError, match="none from before it would be left"):
        trainer.train()


def test_a_run_too_short_to_know_what_is_normal_says_so(caplog: pytest.LogCaptureFixture) -> None:
    from teachfair.alignment.hack_watch import HackWatch

    args = SimpleNamespace(logging_steps=10, save_total_limit=None, save_steps=100, save_strategy="steps")
    state = SimpleNamespace(logging_steps=10, save_steps=100, max_steps=50, log_history=[])
    with caplog.at_level(logging.WARNING, logger="teachfair.alignment.hack_watch"):
        HackWatch().on_train_begin(args, state, None)  # type: ignore[arg-type]
    assert "needs 80 steps" in caplog.text


def test_a_resumed_run_does_not_warn_again_of_what_its_log_already_held(caplog: pytest.LogCaptureFixture) -> None:
    from teachfair.alignment.hack_watch import HackWatch

    log = history("fairness/length", [3.0] * 6 + [12.0] * 6)
    args = SimpleNamespace(logging_steps=1, save_total_limit=None, save_steps=100, save_strategy="steps", output_dir=".")
    state = SimpleNamespace(logging_steps=1, save_steps=100, max_steps=50, log_history=log, is_world_process_zero=True)
    watch = HackWatch()
    with caplog.at_level(logging.WARNING):
        watch.on_train_begin(args, state, None)  # type: ignore[arg-type]
        watch.on_log(args, state, None)  # type: ignore[arg-type]
    assert len(watch.alarms) == 1
    assert not caplog.records


def test_with_the_flag_a_run_whose_log_already_holds_an_alarm_does_not_go_on(tmp_path: Path) -> None:
    from teachfair.alignment.hack_watch import HackWatch

    log = history("fairness/length", [3.0] * 6 + [12.0] * 6)
    args = SimpleNamespace(
        logging_steps=1, save_total_limit=None, save_steps=100, save_strategy="steps", output_dir=str(tmp_path)
    )
    state = SimpleNamespace(logging_steps=1, save_steps=100, max_steps=50, log_history=log, is_world_process_zero=True)
    watch = HackWatch(stop=True, out=tmp_path / "alarms.json")
    with pytest.raises(HackedRewardError, match="fairness/length rises"):
        watch.on_train_begin(args, state, None)  # type: ignore[arg-type]
    watch._write()
    state.log_history = log[:6]  # a checkpoint from before the alarm
    with pytest.raises(HackedRewardError, match="fairness/length rises"):
        HackWatch(stop=True, out=tmp_path / "alarms.json").on_train_begin(args, state, None)  # type: ignore[arg-type]
    args.output_dir = str(tmp_path / "another run")
    HackWatch(stop=True, out=tmp_path / "alarms.json").on_train_begin(args, state, None)  # type: ignore[arg-type]


TWO_RANKS = """
import os, sys
from pathlib import Path
sys.path[:0] = [{here!r}, {tests!r}]
from test_hack_watch import SHORT, online
from teachfair.alignment.hack_watch import HackWatch
from teachfair.errors import HackedRewardError
from teachfair.models.fitting import fit

watch = HackWatch(SHORT, stop=True)
trainer = online(Path({policy!r}), Path({out!r}), watch, save_steps=1, per_device_train_batch_size=16, use_cpu=True)
try:
    fit(trainer)
except HackedRewardError as error:
    print("STOPPED", trainer.accelerator.num_processes, watch.alarms[0].step, watch.alarms[0].value, flush=True)
trainer.accelerator.wait_for_everyone()
"""


@pytest.mark.slow
def test_two_ranks_stop_at_the_same_step_for_the_same_reason(tiny_llama: Path, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    here = Path(__file__).resolve().parent
    script.write_text(
        TWO_RANKS.format(here=str(here), tests=str(here.parent), policy=str(tiny_llama), out=str(tmp_path / "run"))
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517", str(script)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    stopped = [line for line in done.stdout.splitlines() if line.startswith("STOPPED")]
    assert len(stopped) == 2, done.stderr[-2000:]
    assert stopped[0] == stopped[1]
    assert stopped[0].split()[1] == "2"
