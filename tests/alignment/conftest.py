"""A tiny reward model trained on the tiny policy, and prompts with a swap for the online tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from online import online_rows


def online_pairs() -> Any:
    from teachfair.data.pairs import checked, pairs_dataset

    made = [
        {
            "prompt": row["prompt"][0]["content"], "chosen": row["answer"],
            "rejected": row["swap"][0][1] if row["condition"] == "disambiguated" else row["swap"][0][0],
            "kind": "unspecified", "groups": row["groups"],
        }
        for row in online_rows()
    ]  # fmt: skip
    return pairs_dataset(checked(made, "online")[0])


@pytest.fixture(scope="session")
def reward_model_run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], list[float]]:
    """(folder, conversations, the rewards that the trainer itself gave them on its own token ids at the end)."""
    import torch
    from transformers import TrainerCallback

    from teachfair.reward_models.training import train_reward_model

    pairs = online_pairs()
    seen: list[float] = []
    ids = []

    class Look(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            rows, model = kwargs["train_dataloader"].dataset, kwargs["model"].eval()
            with torch.no_grad():
                for row in rows:
                    ids.append(row["chosen_ids"])
                    seen.append(model(input_ids=torch.tensor(row["chosen_ids"])[None]).logits.item())

    out = train_reward_model(
        tiny_llama, pairs, None, tmp_path_factory.mktemp("rm") / "rm", max_steps=20, per_device_train_batch_size=8,
        learning_rate=1e-3, disable_tqdm=True, callbacks=[Look()],
    )  # fmt: skip
    return out, [(row["prompt"], row["chosen"], row["groups"]) for row in pairs], seen


@pytest.fixture(scope="session")
def reward_model_folder(reward_model_run: tuple[Path, list[Any], list[float]]) -> Path:
    return reward_model_run[0]
