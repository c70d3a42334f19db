"""Passages cut to a length, prompts that do not fit a model, and special tokens that are counted."""

import contextlib
import json
import logging
import unicodedata

import pytest
import torch
from datasets import Dataset
from tokenizers import normalizers
from transformers import (
    CTRLTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    MptConfig,
    MptForCausalLM,
)

from dro_trl import AutoregressivePolicy, PlackettLucePolicy, RAGPipeline
from dro_trl.lm import encoding, prompts
from dro_trl.lm.fitting import check_fit, cut_passages, position_limit
from dro_trl.lm.generation import generate_answers
from dro_trl.models.answers import AnswerScorer
from tests.helpers.templates import template_of, with_template
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import make_trainer


def gpt2(tokenizer, positions: int) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=positions, n_embd=16, n_layer=1, n_head=2)
    ).eval()


def mpt(tokenizer, positions: int) -> MptForCausalLM:
    """Without positions, but with a table of distances, which is made anew in each pass."""
    config = MptConfig(d_model=16, n_heads=2, n_layers=1, max_seq_len=positions, vocab_size=len(tokenizer))
    return MptForCausalLM(config).eval()


@pytest.mark.parametrize("size", [1, 63, 64, 65, 80])
def test_a_table_of_distances_ends_at_max_seq_len(size):
    model = mpt(tiny_tokenizer(), 64)
    ids = torch.randint(10, 200, (1, size), generator=torch.Generator().manual_seed(0))
    with contextlib.nullcontext() if size <= 64 else pytest.raises(RuntimeError, match="must match the size"):
        model(input_ids=ids)


def num_tokens(tokenizer, text: str) -> int:
    """Of a passage where it stands in a prompt."""
    stem, whole = encoding.encode_all(tokenizer, ["Passage:", f"Passage: {text}"])
    return len(whole) - len(stem)


def test_cutting_passages():
    """Texts of more than three tokens keep their first three; titles, other fields and the input stay as they are."""
    tokenizer, rows = tiny_tokenizer(), tiny_questions(3, 2)
    rows[0]["candidates"][1]["text"] = "Oslo"
    rows[1]["candidates"][0]["text"] = "🎈🎈🎈🎈"
    before = [dict(p) for row in rows for p in row["candidates"]]
    short, cut = cut_passages(rows, tokenizer, 3)
    assert cut == 4
    assert [p["text"] for p in short[0]["candidates"]] == ["The club of", "Oslo", "The club of"]
    assert all(num_tokens(tokenizer, p["text"]) <= 3 for p in short[0]["candidates"])
    assert [dict(p) for row in rows for p in row["candidates"]] == before
    for row, cut_row in zip(rows, short, strict=True):
        assert {**cut_row, "candidates": None} == {**row, "candidates": None}
        for p, q in zip(row["candidates"], cut_row["candidates"], strict=True):
            assert {**q, "text": None} == {**p, "text": None}
            assert p["text"].startswith(q["text"])
            assert q["text"]
    assert cut_passages(rows, tokenizer, 500) == (rows, 0)
    assert cut_passages([], tokenizer, 3) == ([], 0)


@pytest.mark.parametrize("form", ["NFC", None])
@pytest.mark.parametrize(
    "text", ["cafe\u0301 cafe\u0301", "🎈 🎈🎈", "\u1112\u1161\u11ab\u1100\u1173\u11af", "naïve 日本", "👩\u200d🚀"]
)
def test_no_letter_is_cut_in_two(form, text):
    """As many whole letters as make n tokens or fewer in a prompt, for every n; offsets may be of another form."""
    tokenizer = with_template("")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC() if form else None
    row = tiny_questions(1)[0]
    row["candidates"][0]["text"] = text
    for most in range(1, 30):
        kept = cut_passages([row], tokenizer, most)[0][0]["candidates"][0]["text"]
        assert text.startswith(kept)
        rest = text[len(kept) :]
        assert not unicodedata.combining(rest[:1] or " ")
        assert not rest.startswith("\u200d")
        normal = [unicodedata.normalize("NFC", part) for part in (kept, rest, text)]
        assert normal[0] + normal[1] == normal[2]
        assert kept
        if num_tokens(tokenizer, kept) > most:  # A first letter of more tokens is kept whole all the same.
            assert len(unicodedata.normalize("NFC", kept.replace("\u200d🚀", ""))) == 1
    assert kept == text


def test_special_tokens_are_counted(tmp_path, caplog):
    row = tiny_questions(4)[0]
    row["candidates"][1]["text"] = row["candidates"][2]["text"] = "It says </s> there."
    row["candidates"][2]["title"], row["answers"] = "Oslo", ["Ada <s>"]
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path, train_dataset=Dataset.from_list([row]))
    assert "train_dataset: 3 texts hold a special token of the tokenizer, such as '" in caplog.text
    caplog.clear()
    make_trainer(tmp_path)
    assert "special token" not in caplog.text


def test_which_models_have_an_end_to_their_positions():
    tokenizer = tiny_tokenizer()
    assert position_limit(gpt2(tokenizer, 64)) == (64, True)
    angles = GPTJConfig(vocab_size=99, n_positions=64, n_embd=32, n_layer=1, n_head=2, rotary_dim=8)
    assert position_limit(GPTJForCausalLM(angles)) == (64, True)  # It works them out once, for so many.
    assert position_limit(mpt(tokenizer, 64)) == (64, True)
    assert position_limit(tiny_model("llama", tokenizer, max_position_embeddings=64)) == (64, False)
    assert position_limit(tiny_model("gemma3", tokenizer, max_position_embeddings=64)) == (64, False)


@pytest.mark.parametrize("kind", ["pointwise", "passage_end", "autoregressive"])
def test_prompts_that_do_not_fit(kind, caplog):
    """The row, its tokens, the limit and what to set; by one token too many, and not by one less."""
    tokenizer, rows = tiny_tokenizer(), tiny_questions(3, 5, 3)
    rows[1]["candidates"][3]["text"] = "The club of Oslo. " * 30
    policy = AutoregressivePolicy(tokenizer, 2) if kind == "autoregressive" else PlackettLucePolicy(tokenizer, 2, kind)
    scorer = AnswerScorer(tokenizer, all_aliases=True)
    size = policy.encode(rows[1:2]).longest
    fits, less = (gpt2(tokenizer, positions) for positions in (size, size - 1))
    check_fit(rows, "rows", fits, None, policy, scorer)
    ways = "set max_passage_tokens$" if kind == "pointwise" else "set max_passage_tokens, or lower num_candidates"
    message = (
        f"rows, row 2: the selector's prompt has {size} tokens, and max_position_embeddings of gpt2 is {size - 1}"
    )
    with pytest.raises(ValueError, match=f"{message}; {ways}"):
        check_fit(rows, "rows", less, None, policy, scorer)
    warned = tiny_model("llama", tokenizer, max_position_embeddings=size - 1)
    check_fit(rows, "rows", warned, None, policy, scorer)
    assert message.replace("gpt2", "llama") in caplog.text
    assert r"not trained on prompts of that length (1 such rows)" in caplog.text
    longest = max(len(scorer.prompt_ids(rows[1], [3, i])) for i in range(5) if i != 3)
    longest += max(map(len, scorer.alias_ids(rows[1])))
    check_fit(rows, "rows", None, gpt2(tokenizer, longest), policy, scorer)
    with pytest.raises(ValueError, match=f"row 2: the generator's prompt has {longest} tokens.* lower num_selected"):
        check_fit(rows, "rows", None, gpt2(tokenizer, longest - 1), policy, scorer)
    with pytest.raises(ValueError, match=f"row 2: .* {longest} tokens, and max_seq_len of mpt is {longest - 1}; set"):
        check_fit(rows, "rows", None, mpt(tokenizer, longest - 1), policy, scorer)


def test_the_trainer_and_the_pipeline_check_what_they_read(tmp_path):
    tokenizer, rows = tiny_tokenizer(), tiny_questions(3, 5)
    rows[1]["candidates"][3]["text"] = "The club of Oslo. " * 80
    with pytest.raises(ValueError, match="train_dataset, row 2: the selector's prompt has .* of gpt2 is 256; set "):
        make_trainer(tmp_path, model=gpt2(tokenizer, 256), train_dataset=Dataset.from_list(rows))
    trainer = make_trainer(
        tmp_path, model=gpt2(tokenizer, 256), train_dataset=Dataset.from_list(rows), max_passage_tokens=20
    )
    trainer.train()
    trainer.save_model()
    pipeline = RAGPipeline.from_pretrained(tmp_path)
    assert len(pipeline.predict(rows, max_new_tokens=2)) == 2
    pipeline.ranker.max_passage_tokens = None
    with pytest.raises(ValueError, match="questions, row 2: the selector's prompt has .* of gpt2 is 256"):
        pipeline.predict(rows)


@pytest.mark.parametrize("policy_class", [AutoregressivePolicy, PlackettLucePolicy])
def test_a_window_has_to_fit_as_well(policy_class):
    tokenizer, rows = tiny_tokenizer(), tiny_questions(3, 6)
    for passage in rows[1]["candidates"]:
        passage["text"] = "The club of Oslo. " * 40
    policy, generator = policy_class(tokenizer, 2), tiny_model("llama", tokenizer)
    pipeline = RAGPipeline(gpt2(tokenizer, 128), generator, policy, tokenizer, window_size=4)
    message = "the selector's prompt of a window has .* tokens, and .* of gpt2 is 128; lower window_size, or set max_p"
    with pytest.raises(ValueError, match=message):
        pipeline.predict(rows, max_new_tokens=2)


def test_an_answer_has_to_fit_as_well():
    tokenizer, row = tiny_tokenizer(), tiny_questions(2)[0]
    length = len(
        encoding.encode(
            tokenizer, encoding.render(tokenizer, prompts.generator_prompt(row["question"], row["candidates"]))
        )
    )
    ask = [row["question"]], [row["candidates"]], 6
    assert generate_answers(gpt2(tokenizer, length + 6), tokenizer, *ask)
    with pytest.raises(
        ValueError, match=rf"question '{row['question'][:8]}.*: its prompt has {length} tokens, with max_new_to"
    ):
        generate_answers(gpt2(tokenizer, length + 5), tokenizer, *ask)


def test_a_template_counts_as_well():
    tokenizer = with_template(template_of("qwen2_5"), "<|im_end|>")
    policy, row = PlackettLucePolicy(tokenizer, 1), tiny_questions(2)[0]
    assert policy.encode([row]).longest > PlackettLucePolicy(tiny_tokenizer(), 1).encode([row]).longest


def test_a_tokenizer_without_offsets_cannot_cut(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<unk>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    slow = CTRLTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")
    with pytest.raises(
        ValueError, match="max_passage_tokens=2 needs a tokenizer of the library `tokenizers`.*CTRLTok"
    ):
        cut_passages(tiny_questions(2), slow, 2)
