"""Does a model still know? Probes on planted states, erasure as algebra, the verdict as a table, and five real models."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teachfair.errors import CheckpointError, InputError
from teachfair.evaluation.knowledge import verdict as verdicts
from teachfair.evaluation.knowledge.erasing import (
    Eraser,
    fit_correlation,
    fit_eraser,
    fit_erasers,
    fold,
    fold_sites,
    random_eraser,
    save_erased,
)
from teachfair.evaluation.knowledge.group_texts import TEMPLATES, built_in_texts, sandbox_texts
from teachfair.evaluation.knowledge.hidden_states import GroupText, changed_at, hidden_states
from teachfair.evaluation.knowledge.page import decodability_figure, knowledge_lines, write_page
from teachfair.evaluation.knowledge.probing import Decodability, decodability
from teachfair.evaluation.knowledge.verdict import verdict
from teachfair.evaluation.statistics.interval import Interval
from teachfair.models.checkpoint import load_policy

ROOT = Path(__file__).resolve().parents[2]


# --- hidden states --------------------------------------------------------------------------------------------


def people_texts() -> list[GroupText]:
    found = []
    for word, side in (("tom", "man"), ("ben", "man"), ("ann", "woman"), ("eva", "woman")):
        for number, text in enumerate((f"the cook met {word}", f"{word} left home", f"who is {word} ?")):
            start = text.index(word)
            found.append(GroupText(text, start, start + len(word), word, {"gender": side}, str(number)))
    return found


@pytest.mark.parametrize("shape", ["tiny_llama", "tiny_gpt2"])
def test_states_are_those_of_one_text_at_a_time(shape: str, request: pytest.FixtureRequest) -> None:
    import torch

    model, tokenizer = load_policy(request.getfixturevalue(shape))
    texts = people_texts()
    found = hidden_states(model, tokenizer, texts, max_tokens=20)
    for row, text in enumerate(texts):
        ids = [tokenizer.bos_token_id, *tokenizer(text.text, add_special_tokens=False)["input_ids"]]
        place = ids.index(tokenizer.convert_tokens_to_ids(text.word))
        with torch.inference_mode():
            layers = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        for site in range(len(layers) - 1):  # transformers' last one has the final norm applied
            np.testing.assert_allclose(found[row, site], layers[site][0, place].numpy(), atol=1e-5)
    last = hidden_states(model, tokenizer, texts, sites=[2])
    np.testing.assert_allclose(last[:, 0], found[:, 2], atol=1e-5)


@pytest.mark.parametrize("kind", ["lora_folder", "qlora_folder"])
def test_states_of_an_adapter_are_those_of_its_merged_model(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from teachfair.models.checkpoint import merge

    folder = request.getfixturevalue(kind)
    model, tokenizer = load_policy(folder)
    merged, _ = load_policy(merge(folder, tmp_path / "merged"))
    found = hidden_states(model, tokenizer, people_texts())
    np.testing.assert_allclose(found, hidden_states(merged, tokenizer, people_texts()), atol=1e-4)
    assert not np.allclose(found[:, 0], found[:, 2])


def test_a_word_that_no_token_covers_and_a_site_that_is_not_there_are_errors(tiny_llama: Path) -> None:
    model, tokenizer = load_policy(tiny_llama)
    with pytest.raises(InputError, match="no token covers"):
        hidden_states(model, tokenizer, [GroupText("the cook ", 8, 9, "x", {"gender": "man"})])
    with pytest.raises(InputError, match="no site"), changed_at(model, {9: lambda states: states}):
        pass


@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_words_of_several_tokens_are_found_in_real_checkpoints(shared: Path, name: str) -> None:
    model, tokenizer = load_policy(shared / "models" / name)
    texts = built_in_texts(names=2)
    found = hidden_states(model, tokenizer, texts)
    assert found.shape == (len(texts), model.config.num_hidden_layers + 1, model.config.hidden_size)
    assert np.isfinite(found).all()
    mean = hidden_states(model, tokenizer, texts, pooling="mean")
    assert not np.allclose(mean, found)


def test_built_in_texts_end_with_the_word_and_hold_no_group_word_before_it() -> None:
    texts = built_in_texts(names=20)
    assert {text.lang for text in texts} == {"en", "fr"}
    assert len({text.template for text in texts}) == sum(map(len, TEMPLATES.values()))
    for text in texts:
        assert text.end == len(text.text)
        assert text.word.endswith(text.text[text.start :].replace("My ", "my "))
        assert not {"she", "he", "her", "his", "elle", "il"} & set(text.text[: text.start].lower().split())


# --- probes ---------------------------------------------------------------------------------------------------


def planted(strength: float, *, n_words: int = 40, per_word: int = 4, width: int = 12, seed: int = 0) -> Any:
    """(states (n, 2, width), texts): at site 0 a word has its own random vector; at site 1 the group's direction too."""
    rng = np.random.default_rng(seed)
    texts = [
        GroupText("x", 0, 1, f"w{word}", {"gender": ("woman", "man")[word % 2]}, str(number))
        for word in range(n_words) for number in range(per_word)
    ]  # fmt: skip
    own = np.repeat(rng.standard_normal((n_words, width)), per_word, axis=0)
    noise = 0.1 * rng.standard_normal((len(texts), 2, width))
    states = own[:, None, :] + noise
    sign = np.array([1.0 if text.groups["gender"] == "man" else -1.0 for text in texts])
    states[:, 1, 0] += strength * sign
    return states, texts


def test_a_planted_group_is_decoded_at_its_layer_and_not_before() -> None:
    states, texts = planted(5.0)
    found = decodability(states, texts, "gender")
    assert found.layers[1].accuracy.value > 0.95
    assert found.nested.value > 0.95
    assert found.decodable
    assert found.layers[0].accuracy.low < 0.5 < found.layers[0].accuracy.high + 0.1
    assert set(found.correct) == {text.word for text in texts}


def test_a_probe_that_knows_names_by_heart_is_no_evidence() -> None:
    states, texts = planted(0.0, width=60)
    found = decodability(states, texts, "gender")
    assert found.layers[0].seen_accuracy.value > 0.9, "the names are seen: memory is enough"
    assert found.layers[0].seen_control.value > 0.9, "and the control task says so"
    assert not found.decodable


def test_the_same_seed_gives_the_same_probe_and_too_few_words_are_an_error() -> None:
    states, texts = planted(1.0, n_words=20)
    assert decodability(states, texts, "gender") == decodability(states, texts, "gender")
    with pytest.raises(InputError, match="words per group"):
        decodability(states[:24], texts[:24], "gender")


# --- erasure --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(2, 4), st.integers(3, 12), st.sampled_from([0.0, 0.1, 1.0]), st.booleans()
)  # fmt: skip
def test_after_erasure_nothing_linear_is_left(seed: int, groups: int, width: int, shrinkage: float, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    n = 30 * groups
    labels = [str(i % groups) for i in range(n)]
    x = rng.standard_normal((n, width)) @ rng.standard_normal((width, width)) + 5.0
    x += np.array([int(label) for label in labels])[:, None] * rng.standard_normal(width)
    if flat:
        x[:, -1] = x[:, 0]  # a covariance without full rank
    eraser = fit_eraser(x, labels, shrinkage=shrinkage)
    one_hot = np.array([[label == str(g) for g in range(groups)] for label in labels], dtype=float)
    erased = eraser(x)
    cross = (erased - erased.mean(axis=0)).T @ (one_hot - one_hot.mean(axis=0)) / n
    assert np.abs(cross).max() < 1e-6 * np.abs(x).max()
    assert eraser.rank <= groups - 1
    np.testing.assert_allclose(eraser(erased), erased, atol=1e-6 * np.abs(x).max())
    np.testing.assert_allclose(erased.mean(axis=0), x.mean(axis=0), atol=1e-6 * np.abs(x).max())
    np.testing.assert_allclose(eraser.matrix() @ eraser.matrix(), eraser.matrix(), atol=1e-6)


def test_the_best_linear_probe_is_at_chance_after_erasure_and_not_after_a_random_one() -> None:
    from sklearn.linear_model import LogisticRegression

    states, texts = planted(2.0)
    x, labels = states[:, 1], [text.groups["gender"] for text in texts]
    scores = {}
    for name, eraser in (("group", fit_eraser(x, labels)), ("random", random_eraser(x, 1, 3))):
        erased = eraser(x)
        scores[name] = LogisticRegression(C=1e6, max_iter=2000).fit(erased, labels).score(erased, labels)
    assert scores["group"] <= 0.5 + 1e-9, "in the sample that it was fitted on: exactly chance, whatever the penalty"
    assert scores["random"] > 0.9
    assert fit_correlation(fit_eraser(x, labels)(x), labels) < 1e-6 < fit_correlation(x, labels)


def test_erasure_moves_states_less_than_the_projection_off_the_mean_difference() -> None:
    """LEACE is the least change in expectation (Belrose et al. 2023, theorem 4.3); the orthogonal projection is another."""
    states, texts = planted(2.0)
    x = states[:, 1] @ np.random.default_rng(1).standard_normal((12, 12))
    labels = np.array([text.groups["gender"] for text in texts])
    d = x[labels == "man"].mean(axis=0) - x[labels == "woman"].mean(axis=0)
    d /= np.linalg.norm(d)
    orthogonal = x - ((x - x.mean(axis=0)) @ d)[:, None] * d
    moved = ((fit_eraser(x, labels.tolist())(x) - x) ** 2).sum()
    assert moved < ((orthogonal - x) ** 2).sum()
    full = fit_eraser(x, labels.tolist(), shrinkage=1.0)(x)
    np.testing.assert_allclose(full, orthogonal, atol=1e-8)


def test_one_group_only_is_an_error_and_equal_groups_have_nothing_to_erase() -> None:
    x = np.random.default_rng(0).standard_normal((8, 3))
    with pytest.raises(InputError, match="labels of 1 groups"):
        fit_eraser(x, ["a"] * 8)
    assert fit_eraser(np.vstack([x, x]), ["a"] * 8 + ["b"] * 8).rank == 0


def random_direction(width: int) -> Eraser:
    return random_eraser(np.random.default_rng(3).standard_normal((200, width)) + 0.5, 1, 0)


@pytest.mark.parametrize("shape", ["tiny_llama", "tiny_gpt2"])
def test_folding_leaves_only_erased_states_and_the_checkpoint_loads_plainly(
    shape: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_policy(request.getfixturevalue(shape))
    eraser = random_direction(64)
    fold(model, eraser)
    states = hidden_states(model, tokenizer, people_texts())
    np.testing.assert_allclose(eraser(states.astype(np.float64)), states, atol=1e-4)
    model.save_pretrained(tmp_path / "erased")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "erased").eval()
    np.testing.assert_allclose(hidden_states(again, tokenizer, people_texts()), states, atol=1e-6)


def test_the_erased_rival_is_a_whole_checkpoint_with_a_record_and_the_group_gone_at_its_site(
    tiny_llama: Path, lora_folder: Path, tmp_path: Path
) -> None:
    from teachfair import runs

    for policy in (tiny_llama, lora_folder):
        out = tmp_path / f"erased-{policy.name}"
        report = save_erased(policy, out, people_texts(), "gender")
        assert report["directions"] == 1
        assert report["left_over"][0] < 1e-3
        assert (runs.read_record(out) or {})["what"] == "erased"
        model, tokenizer = load_policy(out)
        states = hidden_states(model, tokenizer, people_texts(), sites=[0])[:, 0]
        labels = np.array([text.groups["gender"] for text in people_texts()])
        assert np.abs(states[labels == "man"].mean(axis=0) - states[labels == "woman"].mean(axis=0)).max() < 1e-4


def shaped(family: str) -> tuple[Any, Any]:
    """A random two-layer model of another family, and the tests' tokenizer."""
    import torch
    from tiny_models import word_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64}, "gpt_neox": {"intermediate_size": 128},
        "qwen2": {"intermediate_size": 128, "num_key_value_heads": 2},
        "gemma2": {"intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16},
    }[family]  # fmt: skip
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0, **sizes,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for weight in model.parameters():  # as initialised, biases are 0 and states nearly so
        weight.add_(0.1 * torch.randn(weight.shape))
    return model, tokenizer


@pytest.mark.parametrize("family", ["opt", "gpt_neox", "qwen2"])
def test_folding_is_exact_for_other_families(family: str) -> None:
    model, tokenizer = shaped(family)
    report = fold_sites(model, tokenizer, people_texts(), "gender")
    assert report["left_over"][0] < 1e-3


def test_folding_refuses_a_family_that_normalises_what_its_blocks_add() -> None:
    with pytest.raises(CheckpointError, match="still changes states"):
        fold_sites(*shaped("gemma2"), people_texts(), "gender")


def test_a_decoder_whose_writers_are_not_known_is_refused(tiny_llama: Path) -> None:
    import torch

    model, _ = load_policy(tiny_llama)
    for block in model.model.layers:
        block.mlp.out = block.mlp.down_proj
        del block.mlp.down_proj
        block.mlp.forward = torch.nn.Identity()
    with pytest.raises(CheckpointError, match="not two a block"):
        fold(model, random_direction(64))


def test_erasers_of_later_layers_are_fitted_behind_those_of_earlier_ones(tiny_llama: Path) -> None:
    model, tokenizer = load_policy(tiny_llama)
    texts = people_texts()
    erasers = fit_erasers(model, tokenizer, texts, "gender")
    with changed_at(model, {site: eraser.on_tensors() for site, eraser in erasers.items()}):
        # hooks capture in the order they were put: these see what the erasers have left
        states = hidden_states(model, tokenizer, texts)
    labels = np.array([text.groups["gender"] for text in texts])
    for site in erasers:
        difference = states[labels == "man", site].mean(axis=0) - states[labels == "woman", site].mean(axis=0)
        assert np.abs(difference).max() < 1e-4


# --- the verdict ----------------------------------------------------------------------------------------------


def probe(accuracy: float, width: float = 0.05) -> Decodability:
    value = Interval(accuracy, accuracy - width, accuracy + width, width / 2)
    gain = Interval(accuracy - 0.5, accuracy - 0.5 - width, accuracy - 0.5 + width, width / 2)
    return Decodability("gender", 0.5, 20, 100, (), value, gain, {f"w{i}": accuracy for i in range(20)})


def rows(margin: float, awareness: float, evidence: float = 1.0, utility: float = 1.0, *, seed: int = 0) -> pd.DataFrame:
    """Records of a model: margins with noise, a share of right answers, spread evenly over 20 clusters."""
    rng = np.random.default_rng(seed)
    found = []
    levels = {"ambiguous": 0.0, "definitional": awareness, "disambiguated": evidence, "neutral": utility}
    for condition, level in levels.items():
        for i in range(60):
            found.append({
                "benchmark": "b", "item_id": f"{condition}-{i}", "cluster": f"c{i % 20}", "condition": condition,
                "roles": ["right", "wrong"], "problem": "",
                "margin_nats": margin + 0.3 * rng.standard_normal() if condition == "ambiguous" else float("nan"),
                "correct": float("nan") if condition == "ambiguous" else float(i * 0.618034 % 1 < level),
            })  # fmt: skip
    return pd.DataFrame(found)


BEFORE = rows(2.0, 1.0)


@pytest.mark.parametrize(
    ("records", "decoded", "expected"),
    [
        (rows(-0.5, 1.0), 1.0, "taught"),
        (rows(-0.5, 0.5), 0.5, "forgotten"),
        (rows(2.0, 0.5), 0.2, "forgotten"),
        (rows(-0.5, 0.5), 0.95, "hidden"),
        (rows(-0.5, 1.0, evidence=0.5), 1.0, "broken"),
        (rows(-0.5, 0.5, utility=0.5), 0.5, "broken"),
        (BEFORE, 1.0, "unchanged"),
        (rows(3.5, 1.0), 1.0, "worse"),
        (rows(-0.5, 0.85), 1.0, "inconclusive"),
        (rows(1.65, 1.0, seed=1), 1.0, "inconclusive"),
    ],
)
def test_what_each_pattern_of_changes_is_called(records: pd.DataFrame, decoded: float, expected: str) -> None:
    found = verdict(records, BEFORE, probe(decoded), probe(1.0))
    assert found.verdict == expected, found.reasons
    json.dumps(found.as_dict(), allow_nan=False)


def test_no_verdict_without_guard_rails_without_awareness_or_from_a_model_that_never_knew() -> None:
    only = BEFORE["condition"].isin(["ambiguous", "definitional"])
    assert verdict(rows(-1, 1)[only], BEFORE[only], probe(1.0), probe(1.0)).verdict == "inconclusive"
    aware = BEFORE["condition"] != "definitional"
    assert verdict(rows(-1, 1)[aware], BEFORE[aware], probe(1.0), probe(1.0)).verdict == "inconclusive"
    never = rows(2.0, 0.5)
    found = verdict(rows(-1, 0.5), never, probe(0.5), probe(0.5))
    assert found.verdict == "inconclusive"
    assert "nothing to keep" in found.reasons[0]
    found = verdict(rows(-1, 0.4), BEFORE, probe(0.5), probe(0.5))
    assert found.verdict == "inconclusive", "forgotten or hidden is open where the probe found nothing before"


def test_less_of_either_sides_preference_is_less_bias_in_minimal_pairs() -> None:
    for side in (2.0, -2.0):
        before, after = (
            frame.replace({"condition": {"ambiguous": "parity"}}) for frame in (rows(side, 1.0), rows(side / 4, 1.0))
        )
        assert verdict(after, before, probe(1.0), probe(1.0)).verdict == "taught"
        assert verdict(before, after, probe(1.0), probe(1.0)).verdict == "worse"


def test_scores_that_are_not_finite_are_broken_and_other_items_an_error() -> None:
    spoiled = rows(-0.5, 1.0)
    spoiled.loc[3, "problem"] = "not finite"
    assert verdict(spoiled, BEFORE, probe(1.0), probe(1.0)).verdict == "broken"
    with pytest.raises(InputError, match="one model only"):
        verdict(BEFORE.iloc[1:], BEFORE, probe(1.0), probe(1.0))
    with pytest.raises(InputError, match="other words"):
        verdict(BEFORE, BEFORE, replace(probe(1.0), correct={"x": 1.0}), probe(1.0))
    with pytest.raises(InputError, match="tolerance"):
        verdict(BEFORE, BEFORE, probe(1.0), probe(1.0), tolerance=0.0)


@settings(max_examples=30, deadline=None)
@given(st.floats(-4, 4), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_every_pattern_has_one_of_the_known_verdicts_with_a_reason(
    margin: float, awareness: float, evidence: float, utility: float, decoded: float
) -> None:
    found = verdict(rows(margin, awareness, evidence, utility), BEFORE, probe(decoded), probe(1.0))
    assert found.verdict in verdicts.VERDICTS
    assert all(found.reasons)
    if found.verdict == "taught":
        assert evidence > 0.85
        assert awareness > 0.85
        assert margin < 2.0


# --- page and real models -------------------------------------------------------------------------------------


def found_of(records: pd.DataFrame, states: Any, texts: Any) -> dict[str, Any]:
    decoded = decodability(states, texts, "gender")
    side = {"name": "<b>base</b>", "decodability": decoded.as_dict(), "amnesic": {"directions": 0}}
    found = verdict(records, BEFORE, decoded, decoded).as_dict()
    return found | {"axis": "gender", "seed": 0, "benchmarks": {"b": 240}, "policy": side, "untaught": side}


def test_the_page_is_one_file_that_escapes_and_the_figure_has_the_same_bytes_twice(tmp_path: Path) -> None:
    found = found_of(rows(-0.5, 1.0), *planted(5.0))
    html = write_page(found, tmp_path / "knowledge.html").read_text()
    assert "&lt;b&gt;base" in html
    assert "<b>base" not in html
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert "no records of condition text" in html
    assert decodability_figure(found) == decodability_figure(found)
    assert knowledge_lines(found)[0] == "verdict: taught"


def demonstration() -> Any:
    spec = importlib.util.spec_from_file_location("knowledge_benchmark", ROOT / "benchmarks" / "knowledge.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model_name_or_path", "{model}"], "--untaught"),
        (["--model_name_or_path", "{model}", "--untaught", "{model}", "--erase", "true"], "--erase makes the model"),
        (["--model_name_or_path", "{model}", "--untaught", "nowhere"], "nowhere"),
        (["--model_name_or_path", "{model}", "--untaught", "{model}", "--axis", "age"], "axes: gender"),
    ],
)
def test_the_door_refuses_what_it_cannot_measure_and_leaves_no_folder(
    words: list[str], says: str, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from teachfair.recipes.knows import door

    out = tmp_path / "out"
    assert door([*(word.format(model=tiny_llama) for word in words), "--output_dir", str(out)]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_taught_forgotten_hidden_broken_and_unchanged_models_are_called_so(tmp_path: Path) -> None:
    from teachfair.alignment import lesson

    bench, config = demonstration(), lesson.sandbox(seed=0, bias=2.0)
    untaught = lesson.sandbox_policy(config)
    found = {
        name: bench.knowledge(bench.made(name, config, tmp_path), untaught, world=config.world) for name in bench.EXPECTED
    }
    assert {name: one["verdict"] for name, one in found.items()} == bench.EXPECTED
    assert found["dpo"]["policy"]["amnesic"]["awareness"]["effect"]["high"] < 0, "its answers are made with the group"
    assert found["dpo"]["changes"]["bias"]["change"]["high"] < -1
    assert found["erased"]["changes"]["evidence"]["here"] > 0.95
    for one in found.values():
        json.dumps(one, allow_nan=False)


def test_sandbox_texts_hold_no_label_before_the_name() -> None:
    from teachfair.data.sandbox.vocabulary import build_tokenizer
    from teachfair.data.sandbox.world import AXES, World

    world = World()
    texts = sandbox_texts(world, build_tokenizer(world))
    assert len({text.word for text in texts}) == 80
    for text in texts:
        assert text.text[text.start : text.end] == text.word
        assert not {word for sides in AXES.values() for word in sides} & set(text.text[: text.start].split())
