"""Tiny untrained bases of three kinds, and easily learnable pairs."""

import json
import random

import pytest

from teachfair.data.pairs import checked, pairs_dataset

NAMES = ["Anna", "Ben", "Cora", "Dan", "Eva", "Finn", "Gus", "Hana"]
JOBS = ["nurse", "doctor", "cook", "pilot", "baker", "judge", "guard", "clerk"]


def sandbox_like(n, seed=0):
    """Two people, no evidence: chosen is "cannot tell", rejected is a name; half of the time the text
    decides."""
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        first, second = rng.sample(NAMES, 2)
        job = rng.choice(JOBS)
        prompt = f"{first} met {second} at the {rng.choice(JOBS)}'s house. Who is the {job}?"
        if number % 2:
            rows.append((prompt, "Cannot tell.", f"{first} is.", "cant-tell-vs-stereotype"))
        else:
            known = f"{second} is the {job}. {prompt}"
            rows.append((known, f"{second} is.", "Cannot tell.", "evidence-vs-cant-tell"))
    keys = ("prompt", "chosen", "rejected", "kind")
    made = [{**dict(zip(keys, row, strict=True)), "id": f"{seed}-{i}"} for i, row in enumerate(rows)]
    return pairs_dataset(checked(made, "sandbox_like")[0])


@pytest.fixture(scope="session")
def train_pairs():
    return sandbox_like(600)


@pytest.fixture(scope="session")
def eval_pairs():
    return sandbox_like(100, seed=1)


def corpus():
    pairs = sandbox_like(300, seed=2)
    for row in pairs:
        yield " ".join(turn["content"] for side in ("prompt", "chosen", "rejected") for turn in row[side])
    yield "User: Assistant: user assistant"


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A Llama with a word-level tokenizer that has BOS, EOS, PAD and UNK."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    words = ["<pad>", "<unk>", "<s>", "</s>"]
    cut = pre_tokenizers.Whitespace()
    words += sorted({word for text in corpus() for word, _ in cut.pre_tokenize_str(text)})
    words += ["he", "she"]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = cut
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        initializer_range=0.08,
        tie_word_embeddings=True,
    )
    return saved(LlamaForCausalLM(config), tokenizer, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """A GPT-2: byte-level BPE, one token for BOS, EOS and (as many set it) padding; absolute positions."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(corpus(), vocab_size=400, special_tokens=["<|endoftext|>"])
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer, bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )
    set_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    return saved(GPT2LMHeadModel(config), tokenizer, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A BERT saved as a masked language model, so that pooler and head are missing from its checkpoint."""
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.processors import BertProcessing
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, set_seed

    backend = BertWordPieceTokenizer()
    backend.train_from_iterator(corpus(), vocab_size=400, min_frequency=1)
    ends = [(name, backend.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    backend._tokenizer.post_processor = BertProcessing(*ends)
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, mask_token="[MASK]", **special)
    assert tokenizer("a")["input_ids"][0] == tokenizer.cls_token_id
    set_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return saved(BertForMaskedLM(config), tokenizer, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def sentence_bert(bert, tmp_path_factory):
    """The same BERT as a sentence-transformers folder of today: transformer at the root, with its pooler; mean pooling."""
    from transformers import AutoModel, AutoTokenizer, set_seed

    set_seed(1)
    folder = saved(AutoModel.from_pretrained(bert), AutoTokenizer.from_pretrained(bert), tmp_path_factory.mktemp("sentence"))
    return as_sentence_transformer(folder)


def as_sentence_transformer(folder, transformer="", max_seq_length=64):
    """Adds what makes a folder a sentence-transformers one; ``transformer``: the subfolder that holds the weights."""
    kinds = {transformer: "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(kinds.items())
    ]
    texts = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"in_features": 32, "out_features": 16},
        f"{transformer or '.'}/sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
    }
    for name, value in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    return folder


def saved(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def seeded_reward_model(base, folder):
    """An untrained reward model on a tiny base, framed and saved as training saves one."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    from teachfair.models.chat import ensure_pad_token
    from teachfair.reward_models.rendering import framed
    from teachfair.reward_models.scoring import FRAMED

    set_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    tokenizer = framed(AutoTokenizer.from_pretrained(base), 128)
    ensure_pad_token(tokenizer, model)
    setattr(model.config, FRAMED, True)
    return saved(model, tokenizer, folder)


@pytest.fixture(scope="session")
def reward_folders(llama, gpt2, bert, tmp_path_factory):
    """Name → folder of an untrained reward model, of each of the three bases."""
    made = tmp_path_factory.mktemp("seeded")
    bases = {"llama": llama, "gpt2": gpt2, "bert": bert}
    return {name: seeded_reward_model(base, made / name) for name, base in bases.items()}
