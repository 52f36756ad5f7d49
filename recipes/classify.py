"""Use a fairness reward model by itself as a bias classifier: label, probability and raw reward for every text.

    python recipes/classify.py --model_name_or_path runs/reward_model --file texts.txt
    python recipes/classify.py --model_name_or_path runs/reward_model --file texts.txt --output scores.csv

Without arguments: the sandbox's reward model on a few sandbox texts. One text per line; '-' reads standard input.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teachfair.doors import Door, argument


@dataclass
class ClassifyArguments:
    """What to classify, and where the answers go."""

    model_name_or_path: str | None = argument("reward-model folder. Default: the sandbox's")
    file: str | None = argument("UTF-8 text file, one text per line; '-' = standard input. Default: sandbox texts")
    output: str | None = argument("output file; the ending decides: .jsonl or .csv. Default: JSONL on standard output")
    batch_size: int = argument("texts scored together; the result does not depend on it", 64)
    overwrite: bool = argument("replace an output file that is already there", False)


def run(own: ClassifyArguments) -> None:
    """Stream lines through the reward model."""
    from teachfair.alignment import lesson
    from teachfair.reward_models.classifying import classify
    from teachfair.reward_models.text_files import read_texts, write_classified

    sandbox = lesson.sandbox(seed=0, bias=2.0)
    model = Path(own.model_name_or_path) if own.model_name_or_path else lesson.sandbox_reward_model(sandbox)
    texts = read_texts(own.file) if own.file else lesson.sandbox_texts(sandbox)
    write_classified(classify(model, texts, batch_size=own.batch_size), own.output, overwrite=own.overwrite)


door = Door("classify", __doc__, ClassifyArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
