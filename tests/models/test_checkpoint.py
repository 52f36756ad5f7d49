from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import NF4_CONFIG, logits_of, lora_adapter, word_tokenizer

from teachfair.errors import CheckpointError, ConfigError, RunFolderError
from teachfair.models.checkpoint import (
    content_hash,
    inspect_checkpoint,
    keep_compute_dtype,
    load_policy,
    merge,
    read_manifest,
    write_manifest,
)
from teachfair.runs import read_record


def three_parts(error: pytest.ExceptionInfo[CheckpointError]) -> str:
    assert error.value.what
    assert error.value.where
    assert error.value.fix
    return str(error.value)


def test_kinds_are_told_from_json_alone(
    tiny_llama: Path, lora_folder: Path, qlora_folder: Path, tmp_path: Path
):
    assert inspect_checkpoint(tiny_llama).kind == "full"
    lora = inspect_checkpoint(lora_folder)
    assert (lora.kind, lora.base, lora.is_quantised_base) == ("adapter", tiny_llama, False)
    qlora = inspect_checkpoint(qlora_folder)
    assert (qlora.kind, qlora.base, qlora.is_quantised_base) == ("adapter", tiny_llama, True)
    assert qlora.quantization == NF4_CONFIG
    from teachfair.compression import get

    quantised = inspect_checkpoint(get("nf4").apply(tiny_llama, tmp_path / "nf4").path)
    assert quantised.kind == "quantised"
    assert quantised.quantization is not None
    assert quantised.quantization["bnb_4bit_quant_type"] == "nf4"


def test_importing_the_floor_loads_no_heavy_library():
    code = (
        "import sys, teachfair.models.chat, teachfair.models.checkpoint, teachfair.models.likelihood, "
        "teachfair.compression, teachfair.evaluation.benchmarks, teachfair.evaluation.evaluate\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'pandas', 'scipy', 'sklearn', 'matplotlib', "
        "'peft', 'bitsandbytes', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_half_precision_checkpoint_is_loaded_in_fp32(tiny_llama: Path, tmp_path: Path):
    import torch
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_llama).half().save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    model, _ = load_policy(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ConfigError, match="known ones"):
        load_policy(tmp_path, dtype="fp33")


def test_missing_and_foreign_folders_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such model") as caught:
        load_policy(tmp_path / "absent")
    assert str(tmp_path / "absent") in three_parts(caught)
    with pytest.raises(CheckpointError, match="hub") as caught:
        load_policy("nobody/no-such-model")
    assert "HF_HUB_OFFLINE" in three_parts(caught)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json") as caught:
        load_policy(tmp_path / "empty")
    three_parts(caught)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="this is a file"):
        load_policy(tmp_path / "file")


def test_unreadable_config_is_named(tiny_llama: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_llama, tmp_path / "m")
    (folder / "config.json").write_text("{not json")
    with pytest.raises(CheckpointError, match="not readable json") as caught:
        load_policy(folder)
    assert "config.json" in three_parts(caught)


def test_pickled_weights_are_refused_unread(tiny_llama: Path, tmp_path: Path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    folder = shutil.copytree(tiny_llama, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="pickle") as caught:
        load_policy(folder)
    assert "save_pretrained" in three_parts(caught)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_policy(folder)
    assert not (tmp_path / "exploded").exists()


def test_code_that_comes_with_a_checkpoint_is_refused_without_a_question(tiny_llama: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_llama, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'exploded')!r})\n")
    code = f"from teachfair.models.checkpoint import load_policy\nload_policy({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert "CheckpointError" in done.stderr
    assert "trust_remote_code" in done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not (tmp_path / "exploded").exists()


def test_absent_tensors_are_an_error_not_random_numbers(tiny_llama: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_llama, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight") as caught:
        load_policy(folder)
    three_parts(caught)


def test_truncated_weights_are_an_error(tiny_llama: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_llama, tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_policy(folder)


def test_adapter_whose_base_is_gone_names_both_and_says_what_to_edit(lora_folder: Path, tmp_path: Path):
    folder = shutil.copytree(lora_folder, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="base of the adapter is gone") as caught:
        load_policy(folder)
    message = three_parts(caught)
    assert str(folder) in message
    assert str(tmp_path / "gone") in message
    assert "base_model_name_or_path" in message


def test_adapter_finds_a_base_beside_it(tiny_llama: Path, lora_folder: Path, tmp_path: Path):
    folder = shutil.copytree(lora_folder, tmp_path / "adapter")
    shutil.copytree(tiny_llama, tmp_path / "adapter" / "base")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "base"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert (logits_of(load_policy(folder)[0]) == logits_of(load_policy(lora_folder)[0])).all()


def test_adapter_on_another_architecture_is_an_error(tiny_gpt2: Path, lora_folder: Path, tmp_path: Path):
    folder = shutil.copytree(lora_folder, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tiny_gpt2)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit its base"):
        load_policy(folder)


def test_adapter_with_absent_tensors_is_an_error(lora_folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(lora_folder, tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="tensors of the adapter are not in its files"):
        load_policy(folder)


def test_merged_lora_gives_the_adapters_logits(lora_folder: Path, tiny_llama: Path, tmp_path: Path):
    adapted, _ = load_policy(lora_folder)
    merged, _ = load_policy(merge(lora_folder, tmp_path / "merged"))
    assert np.abs(logits_of(adapted) - logits_of(merged)).max() < 1e-4
    assert np.abs(logits_of(adapted) - logits_of(load_policy(tiny_llama)[0])).max() > 0.1
    assert read_record(tmp_path / "merged") is not None


@pytest.mark.parametrize("double_quant", [True, False])
def test_merged_qlora_gives_the_logits_of_the_adapter_on_its_4_bit_base(
    double_quant, tiny_llama: Path, tmp_path: Path
):
    folder = lora_adapter(
        tiny_llama, tmp_path / "qlora", {**NF4_CONFIG, "bnb_4bit_use_double_quant": double_quant}
    )
    trained = logits_of(load_policy(folder)[0])
    merged, _ = load_policy(merge(folder, tmp_path / "merged"))
    assert np.abs(trained - logits_of(merged)).max() < 1e-4
    assert inspect_checkpoint(tmp_path / "merged").kind == "full"
    assert read_manifest(tmp_path / "merged")["merged_from"]["route"] == "dequantise"  # type: ignore[index]


def test_manifest_takes_the_config_object_that_training_used(tiny_llama: Path, tmp_path: Path):
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_use_double_quant=True,
    )
    folder = lora_adapter(tiny_llama, tmp_path / "a", NF4_CONFIG)
    before = logits_of(load_policy(folder)[0])
    write_manifest(folder, base=tiny_llama, quantization=config.to_dict())
    assert inspect_checkpoint(folder).is_quantised_base
    assert (logits_of(load_policy(folder)[0]) == before).all()


def test_merging_qlora_on_the_full_precision_base_gives_another_model(qlora_folder: Path, tmp_path: Path):
    without_manifest = shutil.copytree(qlora_folder, tmp_path / "plain")
    (without_manifest / "teachfair.json").unlink()
    naive, _ = load_policy(merge(without_manifest, tmp_path / "naive"))
    right, _ = load_policy(merge(qlora_folder, tmp_path / "right"))
    trained = logits_of(load_policy(qlora_folder)[0])
    assert np.abs(logits_of(right) - trained).max() < 1e-4
    assert np.abs(logits_of(naive) - trained).max() > 0.1


def test_adapter_on_a_quantised_folder_needs_no_manifest(tiny_llama: Path, tmp_path: Path):
    from teachfair.compression import get

    base = get("nf4").apply(tiny_llama, tmp_path / "nf4").path
    folder = lora_adapter(base, tmp_path / "adapter")
    (folder / "teachfair.json").unlink()
    assert inspect_checkpoint(folder).is_quantised_base
    merged, _ = load_policy(merge(folder, tmp_path / "merged"))
    assert np.abs(logits_of(merged) - logits_of(load_policy(folder)[0])).max() < 1e-4


def test_merged_folder_loads_with_transformers_alone(qlora_folder: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = merge(qlora_folder, tmp_path / "merged")
    assert (
        logits_of(AutoModelForCausalLM.from_pretrained(folder)) == logits_of(load_policy(folder)[0])
    ).all()
    assert AutoTokenizer.from_pretrained(folder).chat_template == word_tokenizer().chat_template


def test_only_adapters_are_merged_and_only_into_new_folders(
    tiny_llama: Path, lora_folder: Path, tmp_path: Path
):
    with pytest.raises(CheckpointError, match="nothing to merge"):
        merge(tiny_llama, tmp_path / "merged")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("x")
    with pytest.raises(RunFolderError):
        merge(lora_folder, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_four_bit_layers_compute_in_the_precision_they_were_asked_for(tiny_llama: Path, tmp_path: Path):
    import bitsandbytes
    import torch

    from teachfair.compression import get

    folder = get("nf4").apply(tiny_llama, tmp_path / "nf4").path
    model, _ = load_policy(folder)
    before = {
        name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)
    }
    layer = model.model.layers[0].mlp.up_proj
    inputs = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    with torch.inference_mode():
        outputs = layer(inputs)
    assert torch.equal(outputs, inputs @ weight.T)
    logits_of(model)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())  # nothing was repacked
    assert keep_compute_dtype(model) == 0


def test_content_hash_follows_the_content_not_the_place(tiny_llama: Path, lora_folder: Path, tmp_path: Path):
    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    assert content_hash(copy) == content_hash(tiny_llama)
    adapter = shutil.copytree(lora_folder, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(copy)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert content_hash(adapter) == content_hash(lora_folder)

    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert content_hash(copy) != content_hash(tiny_llama)
    assert content_hash(adapter) != content_hash(lora_folder)  # its base is another one now


def test_content_hash_tells_an_adapter_on_a_4_bit_base_from_one_on_the_full_base(
    lora_folder: Path, tiny_llama: Path, tmp_path: Path
):
    adapter = shutil.copytree(lora_folder, tmp_path / "adapter")
    write_manifest(adapter, base=tiny_llama, quantization=NF4_CONFIG)
    assert content_hash(adapter) != content_hash(lora_folder)


def test_cached_hub_model_loads_offline(tiny_llama: Path, tmp_path: Path):
    # The layout of the hub's cache: what a machine without network finds after an earlier download.
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_llama, repository / "snapshots" / ("0" * 40))
    code = (
        "from teachfair.models.checkpoint import load_policy\n"
        "print(load_policy('someone/tiny')[0].num_parameters())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == str(load_policy(tiny_llama)[0].num_parameters()), done.stderr
