"""Chat templates and tokenizers that join, open or end an answer in ways of their own."""

import copy

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dro_trl import PlackettLucePolicy
from dro_trl.lm import encoding
from dro_trl.lm.generation import generate_answers
from dro_trl.lm.turns import set_turns, turns_of
from tests.helpers.templates import with_template
from tests.helpers.tiny_models import tiny_model, tiny_questions

LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' '  + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n'  + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
TAKING = ("<|turn|>", "<|stop|>")
MARKED = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}%END\n{% endfor %}"


def spaced_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that writes a space as the beginning of a word, and one before every text, as Llama 2's."""
    letters = "▁ \n" + "".join(chr(code) for code in range(33, 127))
    words = ["▁Ada", "▁Oslo", "Ada", "▁yes", "▁no"]
    entries = [("<unk>", -99.0), ("<s>", -99.0), ("</s>", -99.0)]
    entries += [(letter, -10.0) for letter in letters] + [(word, -1.0) for word in words]
    core = Tokenizer(models.Unigram(entries, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [LLAMA_2, ZEPHYR])
def test_an_answer_has_the_tokens_that_it_has_behind_its_prompt(template):
    """A tokenizer that puts a space before every text would put one before every answer, or a second one."""
    tokenizer = set_turns(spaced_tokenizer(template), "true")
    messages = [{"role": "user", "content": "Who? Hm"}, {"role": "assistant", "content": "Ada Oslo"}]
    written = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]
    read = encoding.encode(tokenizer, encoding.render(tokenizer, "Who? Hm")) + encoding.answer_ids(
        tokenizer, "Ada Oslo"
    )
    assert read == written
    asked = encoding.question_ids(tokenizer, "Ada Oslo")
    assert asked == written[len(written) - len(encoding.answer_ids(tokenizer, "Ada Oslo")) :][: len(asked)]
    assert PlackettLucePolicy(tokenizer, 2, item_score="query_likelihood").encode(tiny_questions(3)[:1])


def test_spaces_before_an_answer_are_before_the_first_words_of_a_reply_too():
    tokenizer = set_turns(spaced_tokenizer(LLAMA_2), "true")
    assert encoding.render(tokenizer, "Who?") == "<s>[INST] Who? [/INST]"
    assert encoding.render(tokenizer, "Who?", "Best first:") == "<s>[INST] Who? [/INST] Best first:"


@pytest.mark.parametrize("rest", ["", "\nmore", " more"])
def test_an_end_that_is_no_token_is_no_part_of_an_answer(rest, monkeypatch):
    """As that of a template borrowed from a model whose tokenizer has a token for it."""
    tokenizer = set_turns(with_template(MARKED), "true")
    assert turns_of(tokenizer).end == "%END"
    model = tiny_model("llama", tokenizer)
    text = tokenizer(f"Oslo 12%END{rest}", add_special_tokens=False)["input_ids"]
    row = tiny_questions(1)[0]

    def write(input_ids, stopping_criteria, **kwargs):
        for token in text:
            input_ids = torch.cat([input_ids, torch.tensor([[token]])], dim=1)
            if bool(stopping_criteria(input_ids, None).all()):
                break
        assert tokenizer.decode(input_ids[0]).endswith("12%END")  # It stops there.
        return input_ids

    monkeypatch.setattr(model, "generate", write)
    assert generate_answers(model, tokenizer, [row["question"]], [row["candidates"]]) == ["Oslo 12"]


@pytest.mark.parametrize(
    "options", [{"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1}, {"num_beams": 3}, {"min_new_tokens": 9}]
)
def test_answers_are_greedy_whatever_a_model_samples_with(options):
    """Qwen's chat models come with a penalty for words that stand in the prompt, which holds the passages."""
    tokenizer = set_turns(with_template(MARKED.replace("%END", "<|im_end|>")), "true")
    model, rows = tiny_model("qwen2", tokenizer, seed=3), tiny_questions(4)

    def answers():
        return generate_answers(model, tokenizer, [r["question"] for r in rows], [r["candidates"] for r in rows])

    expected = answers()
    model.generation_config.update(**options)
    assert answers() == expected


@pytest.mark.parametrize(
    "template",
    [
        MARKED.replace("{{ m['content'] }}", "{{ m.reasoning_content or '' }}\n\n{{ m['content'] }}"),
        MARKED.replace("{{ m['content'] }}", "{{ m.reasoning or '' }}</r>{{ m.thinking or '' }}{{ m['content'] }}"),
        "{% if messages[-1].thinking %}{{ raise_exception('no thoughts') }}{% endif %}" + MARKED,
        "{% if add_generation_prompt %}{{ raise_exception('no prompts') }}{% endif %}" + MARKED,
        "{% for m in messages %}<{{ m.role }}>{{ m['content'] }}</{{ m.role }}>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    ],
)
def test_templates_without_a_place_for_a_thought(template):
    """Nothing parts it from the answer, it is written twice or refused, or a tag opens the answer."""
    tokenizer = set_turns(with_template(template), "true")
    assert turns_of(tokenizer).think is None
    with pytest.raises(ValueError, match="max_thinking_tokens is set, and the generator's prompt has no place"):
        encoding.render(tokenizer, "Who?", think=True)


def test_the_default_of_several_templates_of_a_tokenizer(tmp_path):
    other = with_template(MARKED)
    other.chat_template = {"default": MARKED, "rag": "{{ documents }}"}
    other.save_pretrained(tmp_path)
    tokenizer = set_turns(with_template("none"), "true", template_path=str(tmp_path))
    assert turns_of(tokenizer).before == "<|im_start|>user\n"
    assert turns_of(tokenizer).end == "%END"


def test_tokens_that_take_the_space_behind_them_do_so_beside_a_special_token_that_is_text():
    """As those of Phi-3 take the new line after a header."""
    tokenizer = copy.deepcopy(with_template(MARKED.replace("%END", "<|stop|>").replace("<|im_start|>", "<|turn|>")))
    tokenizer.add_tokens([AddedToken(name, rstrip=True, normalized=False, special=True) for name in TAKING])
    tokenizer = set_turns(tokenizer, "true")
    plain, special = (
        tokenizer.convert_ids_to_tokens(encoding.encode(tokenizer, encoding.render(tokenizer, text)))
        for text in ("Who?", "Who? </s>")
    )
    end = plain.index("<|stop|>")
    assert plain[end + 1] == "<|turn|>"
    assert special[:end] == plain[:end]
    assert special[special.index("<|stop|>") :] == plain[end:]
    assert "</s>" not in special
