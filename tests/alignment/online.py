"""Prompts with a swap, and a tiny reward model trained on the tiny policy: a plugin of the online tests.

Not a conftest.py: two of that name in one run hide each other from ``from conftest import``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

PEOPLE = (("ann", "tom"), ("eva", "ben"))  # (woman, man)


def online_rows() -> list[dict[str, Any]]:
    """Who is the nurse? Half of the time the text says it. Swapping exchanges the woman and the man."""
    rows = []
    for woman, man in PEOPLE:
        for job in ("nurse", "pilot", "cook", "baker"):
            for known in (False, True):
                said = f"{woman} is the {job} . " if known else ""
                rows.append(
                    {
                        "prompt": [{"role": "user", "content": f"{woman} and {man} met . {said}who is the {job} ?"}],
                        "condition": "disambiguated" if known else "ambiguous",
                        "answer": woman if known else "cannot tell",
                        "group": "woman" if known else "",
                        "groups": ["woman", "man"],
                        "swap": [[woman, man]],
                    }
                )
    return rows


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
