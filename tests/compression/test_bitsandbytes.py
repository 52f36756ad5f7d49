from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import logits_of, lora_adapter, word_tokenizer

from teachfair.compression import COMPRESSIONS, get
from teachfair.compression.bitsandbytes import FourBit, Int8
from teachfair.errors import CheckpointError, ConfigError, RunFolderError
from teachfair.models.checkpoint import content_hash, inspect_checkpoint, load_policy, merge
from teachfair.runs import read_record

# In a process of its own, with transformers alone. The one line between: on CPUs with AVX512-BF16,
# bitsandbytes 0.50 computes in bf16 whatever the folder's config asks for
# (teachfair.models.checkpoint.keep_compute_dtype).
FRESH = """
import sys, numpy, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
for module in model.modules():
    if hasattr(module, "support_avx512bf16_for_cpu"): module.support_avx512bf16_for_cpu = False
AutoTokenizer.from_pretrained(sys.argv[1])
rows = model.get_input_embeddings().weight.shape[0]
ids = torch.randint(4, rows, (2, 12), generator=torch.Generator().manual_seed(0))
with torch.inference_mode(): logits = model(input_ids=ids).logits
assert not any(name.startswith("teachfair") for name in sys.modules)
numpy.save(sys.argv[2], logits.numpy())
"""


@pytest.mark.parametrize("name", sorted(COMPRESSIONS))
@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2"])
def test_compression_changes_the_logits_and_counts_its_layers(name, kind, request, tmp_path: Path):
    source = request.getfixturevalue(kind)
    result = get(name).apply(source, tmp_path / "c")
    model, _ = load_policy(result.path)
    full, _ = load_policy(source)
    difference = np.abs(logits_of(model) - logits_of(full)).max()
    assert difference > 1e-3
    assert result.n_quantised_layers == {"tiny_llama": 14, "tiny_gpt2": 8}[kind]
    assert result.n_parameters == full.num_parameters()
    assert result.bytes_on_disk == (result.path / "model.safetensors").stat().st_size
    assert result.bits_per_parameter == pytest.approx(8 * result.bytes_on_disk / result.n_parameters)
    assert result.bytes_on_disk < (source / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_compressed_folder_loads_in_a_fresh_process_with_identical_logits(
    name, tiny_llama: Path, tmp_path: Path
):
    folder = get(name).apply(tiny_llama, tmp_path / "c").path
    subprocess.run([sys.executable, "-c", FRESH, folder, tmp_path / "logits.npy"], check=True, timeout=120)
    ours = logits_of(load_policy(folder)[0]).numpy()
    assert (np.load(tmp_path / "logits.npy") == ours).all()


@pytest.mark.parametrize("name", ["int8", "nf4", "fp4"])
def test_saved_weights_are_those_that_quantising_in_memory_gives(name, tiny_llama: Path, tmp_path: Path):
    from teachfair.models.checkpoint import load_base

    compression = get(name)
    in_memory = load_base(tiny_llama, quantization=compression.quantization()).eval()  # type: ignore[attr-defined]
    saved, _ = load_policy(compression.apply(tiny_llama, tmp_path / "c").path)
    assert (logits_of(in_memory) == logits_of(saved)).all()


def test_compression_is_deterministic(tiny_llama: Path, tmp_path: Path):
    first, second = (get("nf4").apply(tiny_llama, tmp_path / name).path for name in "ab")
    assert content_hash(first) == content_hash(second)


def test_record_says_what_was_done(tiny_llama: Path, qlora_folder: Path, tmp_path: Path):
    folder = get("nf4").apply(tiny_llama, tmp_path / "full").path
    record = read_record(folder)
    assert record is not None
    assert record["source_hash"] == content_hash(tiny_llama)
    assert record["merge_route"] == "none"
    assert record["n_quantised_layers"] == 14
    assert record["left_unquantised"] == ["model.embed_tokens", "lm_head"]
    assert record["settings"]["bnb_4bit_quant_type"] == "nf4"
    record = read_record(get("int8").apply(qlora_folder, tmp_path / "qlora").path)
    assert record is not None
    assert (record["merge_route"], record["merge_dtype"]) == ("dequantise", "float32")
    # Merged beforehand: the record still knows by which route.
    merged = merge(qlora_folder, tmp_path / "merged")
    record = read_record(get("int8").apply(merged, tmp_path / "two-steps").path)
    assert record is not None
    assert (record["merge_route"], record["merge_dtype"]) == ("dequantise", "float32")


@pytest.mark.parametrize("kind", ["lora_folder", "qlora_folder"])
def test_adapter_is_merged_before_it_is_compressed(kind, request, tmp_path: Path):
    adapter = request.getfixturevalue(kind)
    direct, _ = load_policy(get("nf4").apply(adapter, tmp_path / "direct").path)
    merged, _ = load_policy(
        get("nf4").apply(merge(adapter, tmp_path / "merged"), tmp_path / "in-two-steps").path
    )
    assert (logits_of(direct) == logits_of(merged)).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct", "in-two-steps", "merged"]


def test_requantising_a_merged_qlora_base_rounds_the_lesson_away(tiny_llama: Path, tmp_path: Path):
    # A lesson smaller than the grid's step goes back onto the grid that its base came from. Another grid
    # keeps it.
    import torch
    from peft import PeftModel

    from teachfair.models.checkpoint import load_base

    def weights(folder: Path, quantization=None) -> torch.Tensor:
        model = load_base(folder, quantization=quantization)
        if inspect_checkpoint(folder).kind == "quantised" or quantization:
            model = model.dequantize(dtype=torch.float32)
        names = [name for name, _ in model.named_parameters() if "_proj" in name]
        return torch.cat([model.get_parameter(name).detach().flatten() for name in sorted(names)])

    settings = get("nf4").quantization()  # type: ignore[attr-defined]
    folder = lora_adapter(tiny_llama, tmp_path / "qlora", settings)
    model = PeftModel.from_pretrained(load_base(tiny_llama, quantization=settings), folder)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 0.3
    model.save_pretrained(folder)
    merged = merge(folder, tmp_path / "merged")
    base = weights(tiny_llama, settings)
    lesson = weights(merged) - base
    kept = {
        name: float(
            (weights(get(name).apply(merged, tmp_path / name).path) - base) @ lesson / (lesson @ lesson)
        )
        for name in ("nf4", "int8")
    }
    assert abs(kept["nf4"]) < 0.3
    assert 0.9 < kept["int8"] < 1.1


def test_quantised_checkpoints_are_not_quantised_again(tiny_llama: Path, tmp_path: Path):
    folder = get("nf4").apply(tiny_llama, tmp_path / "nf4").path
    with pytest.raises(CheckpointError, match="already quantised"):
        get("int8").apply(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_model_without_layers_to_quantise_is_refused_and_leaves_nothing(tmp_path: Path):
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer()
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=0,
            num_attention_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match="quantised no layer"):
        get("nf4").apply(tmp_path / "m", tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_unknown_names_and_types_list_the_known_ones(tiny_llama: Path):
    with pytest.raises(ConfigError, match="did you mean 'int8'") as caught:
        get("int9")
    assert "fp4, int8, nf4" in str(caught.value)
    with pytest.raises(ConfigError, match="nf4"):
        FourBit(quant_type="nf5")  # type: ignore[arg-type]
    assert get(Int8(threshold=0.0)) == Int8(threshold=0.0)


def test_a_taken_output_folder_is_left_alone(tiny_llama: Path, tmp_path: Path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(RunFolderError):
        get("nf4").apply(tiny_llama, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_tokenizer_and_generation_config_travel_along(tiny_llama: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    folder = get("int8").apply(tiny_llama, tmp_path / "c").path
    assert AutoTokenizer.from_pretrained(folder).chat_template == word_tokenizer().chat_template
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert inspect_checkpoint(folder).kind == "quantised"


def test_double_quantisation_is_smaller_and_named(tiny_llama: Path, tmp_path: Path):
    plain = FourBit().apply(tiny_llama, tmp_path / "plain")
    double = FourBit(double_quant=True).apply(tiny_llama, tmp_path / "double")
    assert FourBit(double_quant=True).name == "nf4-double"
    assert (logits_of(load_policy(double.path)[0]) != logits_of(load_policy(plain.path)[0])).any()


@pytest.mark.shared
@pytest.mark.parametrize("model", ["stories260K", "tinystories-656k"])
@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_real_checkpoints_compress_and_reload(model, name, shared: Path, tmp_path: Path):
    result = get(name).apply(shared / "models" / model, tmp_path / "c")
    compressed, _ = load_policy(result.path)
    full, _ = load_policy(shared / "models" / model)
    assert result.n_quantised_layers == {"stories260K": 35, "tinystories-656k": 14}[model]
    assert result.n_parameters == full.num_parameters()
    assert 1e-3 < np.abs(logits_of(compressed) - logits_of(full)).max() < 20
