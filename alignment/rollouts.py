"""What teaching online adds to any of TRL's online trainers: a resume that is exact, rewards that are numbers, positions
that are those of the answer.

TRL's trainers keep one rollout for several optimiser steps, in memory only: a run killed in between samples anew, out
of step with the data. They shuffle every epoch with a generator that starts again on resume. And they pad prompts on the
left without saying where a row begins: a model with absolute positions (GPT-2) then scores other log-probabilities than
those it sampled with. All three are mended here; the trainers themselves stay TRL's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from teachfair.errors import InputError
from teachfair.models.checkpoint import inside_adapter


class ExactResume:
    """Mixin in front of GRPOTrainer or RLOOTrainer; see the module's text."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        for model in (self.model, getattr(self, "ref_model", None)):  # type: ignore[attr-defined]
            if model is not None:
                count_positions_from_the_first_token(self.accelerator.unwrap_model(model))  # type: ignore[attr-defined]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)  # type: ignore[misc]
        if not getattr(sampler, "shuffle", False):
            return sampler
        return _EpochOrder(sampler, lambda: int((self.state.epoch or 0) + 1e-6))  # type: ignore[attr-defined]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        from safetensors.torch import save_file

        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        window = self.args.steps_per_generation * self.num_iterations  # type: ignore[attr-defined]
        tensors = {}
        if self._step % window and self._buffered_inputs is not None:
            for place, batch in enumerate(self._buffered_inputs):
                for name, tensor in batch.items():
                    if tensor is not None:
                        tensors[f"{place}/{name}"] = tensor.detach().cpu().contiguous().clone()
        save_file(tensors, folder / self._rollout_file(), metadata={"step": str(self._step)})

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        path = Path(checkpoint) / self._rollout_file() if checkpoint is not None else None
        if path is None or not path.exists():
            return
        from safetensors import safe_open

        batches: list[dict[str, Any]] = []
        with safe_open(path, framework="pt") as file:
            self._step = int(file.metadata()["step"])
            for key in file.keys():  # noqa: SIM118 (not a dict)
                place, name = key.split("/", 1)
                while len(batches) <= int(place):
                    batches.append({})
                batches[int(place)][name] = file.get_tensor(key).to(self.accelerator.device)  # type: ignore[attr-defined]
        self._buffered_inputs = batches or None

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        import torch

        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]
        names = zip(self.reward_funcs, self.reward_func_names, strict=True)  # type: ignore[attr-defined]
        for column, (reward, name) in enumerate(names):
            finite = torch.isfinite(rewards[:, column])
            if isinstance(reward, torch.nn.Module) and not bool(finite.all()):
                _refuse(name, int((~finite).nonzero()[0]), float(rewards[~finite][0, column]))
        return rewards

    def _rollout_file(self) -> str:
        return f"rollout-{self.accelerator.process_index}.safetensors"  # type: ignore[attr-defined]


def count_positions_from_the_first_token(model: Any) -> None:
    """Give a model with absolute positions the positions of left-padded rows; rotary ones see only distances.

    By a hook on the trunk; positions that a caller gives (as generation does) are left alone.
    """
    import inspect

    policy = inside_adapter(model)
    trunk = policy.base_model
    is_rotary = getattr(policy.config.get_text_config(), "rope_parameters", None)
    if is_rotary or "position_ids" not in inspect.signature(trunk.forward).parameters:
        return

    def fill(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        if mask is None or mask.dim() != 2 or kwargs.get("position_ids") is not None or bool(mask[:, 0].all()):
            return None
        return args, kwargs | {"position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}

    trunk.register_forward_pre_hook(fill, with_kwargs=True)


class _EpochOrder:
    """TRL's RepeatSampler, with an order that is a function of the seed and the epoch alone."""

    def __init__(self, sampler: Any, epoch: Callable[[], int]) -> None:
        self.sampler, self.epoch = sampler, epoch

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator.manual_seed(self.sampler.seed + self.epoch())
        yield from self.sampler

    def __len__(self) -> int:
        return len(self.sampler)


def checked(reward: Any) -> Any:
    """A reward that must return one finite number, or None for "does not apply", per completion.

    Modules come back as they are; :class:`ExactResume` looks at their numbers.
    Raises (when it is called): InputError naming the reward, and the row where there is one.
    """
    import functools
    import inspect

    import torch

    if isinstance(reward, torch.nn.Module | str):
        return reward
    name = getattr(reward, "__name__", type(reward).__name__)

    def look(values: Any, n: int) -> list[float | None]:
        try:
            values = list(values)
        except TypeError:
            raise InputError(
                f"the reward returned {type(values).__name__}, not a list", where=f"reward {name}",
                fix="return a list with one number per completion",
            ) from None  # fmt: skip
        if len(values) != n:
            raise InputError(
                f"the reward returned {len(values)} numbers for {n} completions", where=f"reward {name}",
                fix="return one number per completion, in their order; None where the reward does not apply",
            )  # fmt: skip
        numbers = []
        for row, value in enumerate(values):
            try:
                number = None if value is None else float(value)
            except (TypeError, ValueError):
                number = float("nan")
            if number is not None and not abs(number) < float("inf"):
                _refuse(name, row, value)
            numbers.append(number)
        return numbers

    if inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(getattr(reward, "__call__", None)):  # noqa: B004

        @functools.wraps(reward, updated=())
        async def later(*args: Any, **columns: Any) -> list[float | None]:
            return look(await reward(*args, **columns), len(columns["completions"]))

        later.__name__ = name
        return later

    @functools.wraps(reward, updated=())
    def now(*args: Any, **columns: Any) -> list[float | None]:
        return look(reward(*args, **columns), len(columns["completions"]))

    now.__name__ = name
    return now


def _refuse(name: str, row: int, value: Any) -> None:
    raise InputError(
        f"the reward is {value!r}, not a finite number", where=f"reward {name}, row {row} of the batch",
        fix="mend the reward; it may return None where it does not apply",
    )  # fmt: skip
