"""What models read around a question and its answer, by the chat templates that they really have."""

import copy
import json
import pickle

import pytest
import torch
from transformers import GenerationConfig

from dro_trl import AutoregressivePolicy, PlackettLucePolicy, RAGPipeline
from dro_trl.lm import encoding, prompts
from dro_trl.lm.generation import generate_answers
from dro_trl.lm.turns import (
    Turns,
    find_turns,
    keep_turns,
    read_turns,
    saved_turns,
    set_turns,
    stop_ids,
    turns_before,
    turns_of,
)
from dro_trl.models.answers import AnswerScorer
from dro_trl.models.saving import merge_adapters, read_config
from tests.helpers.templates import template_of, with_template
from tests.helpers.tiny_models import CHAT_TEMPLATE, tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import LORA, make_trainer

TEMPLATES = {
    "qwen2_5": ("assistant\n", "<|im_end|>", None),
    "qwen3_instruct_2507": ("assistant\n", "<|im_end|>", None),
    "qwen3": ("assistant\n<think>\n\n</think>\n\n", "<|im_end|>", "</think>"),
    "qwen3_6": ("assistant\n<think>\n\n</think>\n\n", "<|im_end|>", "</think>"),
    "gptoss": ("<|start|>assistant<|channel|>final<|message|>", "<|return|>", "<|end|>"),
    "deepseek_r1_distill": ("<｜Assistant｜>", "<｜end▁of▁sentence｜>", "</think>"),
    "llama3": ("assistant<|end_header_id|>\n\n", "<|eot_id|>", None),
    "llama3_2": ("assistant<|end_header_id|>\n\n", "<|eot_id|>", None),
    "gemma3": ("<start_of_turn>model\n", "<end_of_turn>", None),
    "glm4moe": ("<|assistant|>\n<think></think>\n", "<|user|>", "</think>"),
}
"""By the name of TRL's file: what stands before an answer, what ends it, and what ends a thought."""
USER = {"role": "user", "content": "Who founded it? 12"}
ANSWER = {"role": "assistant", "content": "Ada Oslo"}


def templated(name: str):
    eos = {"deepseek_r1_distill": "<｜end▁of▁sentence｜>", "gptoss": "<|return|>"}.get(name, "</s>")
    return set_turns(with_template(template_of(name), eos), "true")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_and_its_answer_are_what_the_template_writes(name):
    """Token for token, up to the end of the answer: of [user, assistant], and of nothing but that."""
    tokenizer = templated(name)
    before, end, mark = TEMPLATES[name]
    prompt = encoding.render(tokenizer, USER["content"])
    assert prompt.endswith(before)
    assert tokenizer.decode(encoding.answer_ids(tokenizer, "Ada Oslo")) == f"Ada Oslo{end}"
    assert turns_of(tokenizer).thought_mark == mark
    whole = tokenizer.apply_chat_template([USER, ANSWER], tokenize=False)
    assert whole.startswith(f"{prompt}Ada Oslo")
    written = tokenizer(whole, add_special_tokens=False)["input_ids"]
    read = encoding.encode(tokenizer, prompt) + encoding.answer_ids(tokenizer, ANSWER["content"])
    if name == "glm4moe":  # It ends an answer with what opens the next message.
        assert read.pop() == tokenizer.convert_tokens_to_ids("<|user|>")
    assert read == written[: len(read)]
    assert len(written) - len(read) <= 1  # The new line after an end.


@pytest.mark.parametrize("name", ["qwen3", "gptoss", "deepseek_r1_distill"])
def test_every_likelihood_is_taken_where_the_template_puts_an_answer(name):
    """Rewards, query likelihood and the first words of a written ranking, with a tiny model's own numbers."""
    tokenizer, row = templated(name), tiny_questions(3)[0]
    model = tiny_model("qwen3", tokenizer)
    before = TEMPLATES[name][0]
    scorer = AnswerScorer(tokenizer)
    logps, mask = scorer.logps(model, [row], torch.tensor([[[1, 0]]]))
    text = prompts.generator_prompt(row["question"], [row["candidates"][1], row["candidates"][0]])
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": row["answers"][0]}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
    num = int(mask.sum())
    start = len(encoding.encode(tokenizer, whole.partition(row["answers"][0] + TEMPLATES[name][1])[0]))
    with torch.no_grad():
        plain = model(input_ids=ids).logits.log_softmax(-1)[0]
    expected = [float(plain[start + i - 1, ids[0, start + i]]) for i in range(num)]
    assert logps[0, 0, 0, :num].tolist() == pytest.approx(expected, abs=1e-4)
    assert AutoregressivePolicy(tokenizer, 2).prompt(row).endswith(before + prompts.DEFAULT.ranking)
    policy = PlackettLucePolicy(tokenizer, 2, item_score="query_likelihood")
    batch = policy.encode([row]).batch
    read = tokenizer.decode(batch.input_ids[0])
    assert f"Question:{turns_of(tokenizer).between}{row['question']}" in read


def test_chat_auto_applies_a_template_where_the_model_stops_at_its_end(caplog):
    """As Qwen's instruct models do, by eos_token or generation config. A base model with their template does not."""
    tokenizer = with_template(template_of("qwen2_5"), eos_token="<|endoftext|>")
    model = tiny_model("qwen2", tokenizer)
    assert not turns_of(set_turns(tokenizer, "auto", model=model, role="selector")).chat
    assert "selector: prompts are read without a chat template (chat='auto': the one it has ends an answer with" in (
        caplog.text
    )
    assert (
        "<|im_end|>, and the model stops at <|endoftext|>, as a base model does; if it is a chat model, set chat"
        in (caplog.text)
    )
    model.generation_config.eos_token_id = [*stop_ids(tokenizer), tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert turns_of(set_turns(tokenizer, "auto", model=model)).chat
    assert turns_of(set_turns(tokenizer, "true")).chat
    assert not turns_of(set_turns(tokenizer, "false", model=model)).chat
    tokenizer.eos_token = "<|im_end|>"
    assert turns_of(set_turns(tokenizer, "auto")).chat
    assert not turns_of(set_turns(tiny_tokenizer(), "auto")).chat


def test_chat_auto_reads_the_configs_of_a_folder(tmp_path):
    tokenizer = with_template(template_of("gemma3"))
    model = tiny_model("gemma3", tokenizer)
    model.save_pretrained(tmp_path)
    assert not turns_of(set_turns(tokenizer, "auto", model=str(tmp_path))).chat
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    GenerationConfig(eos_token_id=[1, end]).save_pretrained(tmp_path)
    assert stop_ids(tokenizer, str(tmp_path)) == {tokenizer.eos_token_id, 1, end}
    assert turns_of(set_turns(tokenizer, "auto", model=str(tmp_path))).chat


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"chat": "yes"}, "chat='yes' is unknown; use one of 'auto', 'true', 'false'"),
        ({"chat": "true"}, "chat='true', but the tokenizer .* has no chat template; give one by chat_template_path"),
        ({"template_kwargs": {"a": 1}}, r"chat_template_kwargs=\{'a': 1\}, but the tokenizer .* has no chat template"),
        ({"chat": "false", "template_kwargs": {"a": 1}}, "chat='false' .* leave chat_template_kwargs out"),
        ({"chat": "false", "template_path": "x.jinja"}, "chat='false' .* leave chat_template_path out"),
        ({"template_path": "none.jinja"}, "chat_template_path='none.jinja' cannot be read: .*No such file"),
        ({"template_path": "nowhere"}, "chat_template_path='nowhere' is neither a file that ends in .jinja nor a tok"),
    ],
)
def test_templates_that_cannot_be_applied(kwargs, message):
    with pytest.raises(ValueError, match=message):
        set_turns(copy.deepcopy(tiny_tokenizer()), **kwargs)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ raise_exception('no') }}",
            r"its chat template cannot write a question and an answer \(no\); set chat: f",
        ),
        ("{{ messages[0].content }}", "does not write a question and the answer to it, once each; set chat: false"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "does not write a question and the ans"),
    ],
)
def test_templates_that_write_no_answer(template, message):
    with pytest.raises(ValueError, match=message):
        find_turns(with_template(template), chat=True)


def test_a_template_from_a_file_or_another_tokenizer(tmp_path):
    (tmp_path / "t.jinja").write_text(template_of("qwen3"))
    other = with_template(template_of("gemma3"))
    other.save_pretrained(tmp_path / "other")
    given = with_template(CHAT_TEMPLATE)
    for path, end in ((tmp_path / "t.jinja", "<|im_end|>"), (tmp_path / "other", "<end_of_turn>")):
        assert turns_of(set_turns(given, template_path=str(path))).end == end
    assert given.chat_template == CHAT_TEMPLATE
    turns = turns_of(
        set_turns(given, template_path=str(tmp_path / "t.jinja"), template_kwargs={"enable_thinking": True})
    )
    assert turns.think == "<|im_end|>\n<|im_start|>assistant\n<think>\n"


def test_turns_go_where_the_tokenizer_goes_and_stay_apart():
    """Into workers and copies; a tokenizer that another pair reads otherwise is copied."""
    tokenizer = templated("qwen3")
    for same in (copy.deepcopy(tokenizer), copy.copy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert turns_of(same) == turns_of(tokenizer)
    plain = set_turns(tokenizer, "false")
    assert turns_of(tokenizer).chat
    assert not turns_of(plain).chat
    saved = json.loads(json.dumps(saved_turns({"selector": tokenizer})))
    assert read_turns(saved["selector"], "f") == turns_of(tokenizer)
    for broken in (None, {}, {**saved["selector"], "end": 3}, {**saved["selector"], "chat": "yes"}):
        with pytest.raises(ValueError, match="f: "):
            read_turns(broken, "f")


def test_pairs_that_were_saved_before_turns_were():
    """They read up to the generation prompt, and their answers end with eos_token: as they were trained."""
    turns = turns_before(with_template(template_of("qwen3"), "<|im_end|>"))
    assert turns.between.endswith("<|im_start|>assistant\n")
    assert turns.end == "<|im_end|>"
    assert turns_before(tiny_tokenizer()) == Turns("<s>", "", "\n", False)


def test_a_first_token_only_where_the_tokenizer_adds_one():
    tokenizer = copy.deepcopy(tiny_tokenizer())
    assert find_turns(tokenizer, False).before == "<s>"
    tokenizer.backend_tokenizer.post_processor = None
    assert tokenizer.bos_token == "<s>"
    assert find_turns(tokenizer, False).before == ""


# Text is text


@pytest.mark.parametrize("chat", [True, False])
def test_special_tokens_in_a_text_are_its_letters(chat):
    """In passages, questions and answers: as many special tokens as without, and the text comes back whole."""
    tokenizer = set_turns(with_template(template_of("qwen3"), "<|im_end|>"), "true" if chat else "false")
    special = set(tokenizer.all_special_ids)
    harmless = "Passage: ab <x> cd\nQuestion: Who?\nAnswer:"
    for token in ("</s>", "<s>", "<|im_end|>", "<|im_start|>", "<pad>"):
        text = harmless.replace("<x>", token)
        rendered = encoding.render(tokenizer, text)
        assert len(rendered) == len(encoding.render(tokenizer, text.replace(token, "x" * len(token))))
        ids = encoding.encode(tokenizer, rendered)
        assert text in tokenizer.decode(ids)
        expected = encoding.encode(tokenizer, encoding.render(tokenizer, harmless))
        assert [i for i in ids if i in special] == [i for i in expected if i in special]
        answer = encoding.answer_ids(tokenizer, f"a {token} b")
        assert [i for i in answer if i in special] == ([tokenizer.eos_token_id] if chat else [])
        assert f"a {token} b" in tokenizer.decode(answer)
        asked = encoding.question_ids(tokenizer, f"a {token}?")
        assert not special & set(asked)
    scored = PlackettLucePolicy(tokenizer, 1)
    rows = [tiny_questions(2)[0], tiny_questions(2)[0]]
    rows[1]["candidates"][1]["text"] = "It is </s> Oslo."
    batch = scored.encode(rows).batch
    ends = [(batch.input_ids[row] == tokenizer.convert_tokens_to_ids("</s>")).sum() for row in (0, 1)]
    assert ends == [0, 0]


@pytest.mark.parametrize("name", ["qwen3", "llama3_2", "gemma3"])
def test_texts_without_special_tokens_are_tokenized_as_ever(name):
    tokenizer = templated(name)
    for text in ("Passage: naïve 日本 🎈\nQuestion: <b>Who</b>?\nAnswer:", "a < b | c > d", "\U000f0001 private"):
        rendered = encoding.render(tokenizer, text)
        assert text in rendered
        assert encoding.encode(tokenizer, rendered) == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_questions_and_answers_are_stripped():
    tokenizer, passage = tiny_tokenizer(), tiny_questions(1)[0]["candidates"][0]
    for text, other in (("Who?", " Who?\n"), ("Ada", "\tAda ")):
        assert encoding.answer_ids(tokenizer, text) == encoding.answer_ids(tokenizer, other)
        assert encoding.question_ids(tokenizer, text) == encoding.question_ids(tokenizer, other)
        assert prompts.generator_prompt(text, [passage]) == prompts.generator_prompt(other, [passage])
        assert prompts.scoring_prompt(text, [passage]) == prompts.scoring_prompt(other, [passage])
        assert prompts.ranking_prompt(text, [passage], "1") == prompts.ranking_prompt(other, [passage], "1")


# Where answers stop


def writing(tokenizer, after: str, text: str):
    """A model that writes a text, token by token, behind prompts that end in `after`, and "#" behind all else."""
    script = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = {tokenizer.decode(script[:i]): token for i, token in enumerate(script)}
    other = tokenizer.convert_tokens_to_ids("#")
    model = tiny_model("llama", tokenizer)
    seen: list[int] = []

    def write(module, args, kwargs, output):
        ids = kwargs["input_ids"][0].tolist()
        seen[:] = [*seen, *ids] if len(ids) == 1 else ids
        _, found, written = tokenizer.decode(seen).rpartition(after)
        output.logits = torch.zeros_like(output.logits)
        output.logits[0, -1, starts.get(written, other) if found else other] = 1.0
        return output

    model.register_forward_hook(write, with_kwargs=True)
    return model


@pytest.mark.parametrize(
    "text", ["Paris<|im_end|> and more", "Paris</s> and more", "Paris<|endoftext|> and more", "Paris\nand"]
)
def test_an_answer_ends_at_any_end(text):
    """At the template's end, the tokenizer's, and what the generation config names, where they differ as well."""
    tokenizer = templated("qwen3")
    model = writing(tokenizer, "</think>\n\n", text)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    row = tiny_questions(2)[0]
    assert generate_answers(model, tokenizer, [row["question"]], [row["candidates"]], 40, 1) == ["Paris"]


def test_a_thought_is_written_and_is_no_part_of_the_answer():
    """It is closed where it ends, or where it is cut, and the answer is written behind what closes it."""
    row = tiny_questions(2)[0]
    for name, opening in (("qwen3", "<think>\n"), ("gptoss", "<|channel|>analysis<|message|>")):
        tokenizer = templated(name)
        mark = turns_of(tokenizer).thought_mark
        model = writing(tokenizer, opening, f"Oslo is it.{mark} x")
        read = []
        model.register_forward_pre_hook(
            lambda m, a, k, read=read: read.append(k["input_ids"][0].tolist()), with_kwargs=True
        )
        ask = [row["question"]], [row["candidates"]]
        answers = generate_answers(model, tokenizer, *ask, 2, 1, max_thinking_tokens=60)
        assert "Oslo is it." not in answers[0]
        prompts_read = [tokenizer.decode(ids) for ids in read if len(ids) > 1]
        assert len(prompts_read) == 2
        assert prompts_read[0].endswith(opening)
        assert prompts_read[1].endswith(f"{opening}Oslo is it.{turns_of(tokenizer).thought_end}")
        read.clear()
        generate_answers(model, tokenizer, *ask, 2, 1, max_thinking_tokens=3)
        cut = [tokenizer.decode(ids) for ids in read if len(ids) > 1][1]
        assert cut.endswith(turns_of(tokenizer).thought_end)
        assert "Oslo is it." not in cut
    with pytest.raises(
        ValueError, match="max_thinking_tokens is set, and the generator's prompt has no place for a th"
    ):
        generate_answers(model, templated("gemma3"), *ask, max_thinking_tokens=3)


def test_a_generator_without_a_place_for_a_thought_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="max_thinking_tokens is set, and the generator's prompt has no place"):
        make_trainer(tmp_path, max_thinking_tokens=3)


# Trained pairs

CLOCK = CHAT_TEMPLATE.replace("{% for", "{{ strftime_now('%H:%M:%S.%f') }}{% for", 1)
"""A template that never writes the same twice, where others write the day's date."""


def with_clock():
    tokenizer = copy.deepcopy(tiny_tokenizer(chat=True))
    tokenizer.chat_template = CLOCK
    return tokenizer


def test_the_same_prompt_in_training_resuming_evaluating_and_as_start(tmp_path):
    tokenizer = tiny_tokenizer(chat=True)
    start = str(tmp_path / "start")
    tiny_model("llama", tokenizer).save_pretrained(start)
    tokenizer = with_clock()
    kwargs = {"model": start, "processing_class": tokenizer, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(tmp_path / "out", **kwargs, max_steps=1)
    turns = turns_of(trainer.tokenizers["generator"])
    assert turns.chat
    trainer.train()
    trainer.save_model()
    assert read_config(tmp_path / "out")["turns"]["generator"]["before"] == turns.before
    resumed = make_trainer(tmp_path / "out", **{**kwargs, "processing_class": with_clock()}, max_steps=2)
    assert turns_of(resumed.tokenizers["selector"]) != turns
    resumed.train(resume_from_checkpoint=True)
    assert turns_of(resumed.tokenizers["selector"]) == turns
    assert resumed.model.policy.tokenizer is resumed.tokenizers["selector"]
    for load in (RAGPipeline.from_pretrained, RAGPipeline.from_start):
        pipeline = load(tmp_path / "out")
        assert turns_of(pipeline.tokenizer) == turns_of(pipeline.policy.tokenizer) == turns


def test_a_run_that_would_read_otherwise_is_another_run(tmp_path):
    tokenizer = tiny_tokenizer(chat=True)
    kwargs = {"processing_class": tokenizer, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    make_trainer(tmp_path, model=tiny_model("llama", tokenizer), **kwargs).train()
    other = make_trainer(tmp_path, model=tiny_model("llama", tokenizer), **kwargs, chat="false")
    with pytest.raises(ValueError, match="chat was 'auto' and is now 'false'"):
        other.train(resume_from_checkpoint=True)


def test_saved_generators_stop_where_their_answers_end(tmp_path):
    """By generation_config.json, so that what serves the folder stops there as well."""
    tokenizer = with_template(template_of("qwen3"))
    model = tiny_model("llama", tokenizer)
    trainer = make_trainer(tmp_path, model=model, processing_class=tokenizer, chat=True, max_thinking_tokens=7)
    trainer.save_model()
    ends = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "</s>")}
    for name in ("selector", "generator"):
        assert set(GenerationConfig.from_pretrained(tmp_path / name).eos_token_id) == ends
    config = read_config(tmp_path)
    assert (config["chat"], config["max_thinking_tokens"]) == ("true", 7)
    assert RAGPipeline.from_pretrained(tmp_path).max_thinking_tokens == 7


@pytest.mark.parametrize("shared", [False, True])
def test_adapters_and_what_they_are_merged_into_stop_there_too(tmp_path, shared):
    """PEFT writes no generation config, and a base's need not name the end of an answer; with a line in the card."""
    tokenizer = with_template(template_of("qwen3"))
    model = tiny_model("llama", tokenizer)
    model.save_pretrained(tmp_path / "base")
    kwargs = {"peft_config": LORA, "processing_class": tokenizer, "chat": True, "shared_base": shared}
    make_trainer(tmp_path / "pair", model=str(tmp_path / "base"), **kwargs).save_model()
    merge_adapters(tmp_path / "pair", tmp_path / "merged")
    ends = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "</s>")}
    for folder in ("pair", "merged"):
        for name in ("selector", "generator"):
            assert set(GenerationConfig.from_pretrained(tmp_path / folder / name).eos_token_id) == ends
    card = (tmp_path / "pair" / "README.md").read_text()
    assert "The generator reads prompts in its chat template; an answer ends with `<|im_end|>`." in card


def test_a_second_round_reads_what_the_first_read(tmp_path):
    """The pair's own turns, a clock's time and all, unless this run says otherwise."""
    tokenizer = tiny_tokenizer(chat=True)
    start = str(tmp_path / "start")
    tiny_model("llama", tokenizer).save_pretrained(start)
    first = make_trainer(tmp_path / "first", model=start, processing_class=with_clock(), chat="true")
    first.save_model()
    again = {"model": str(tmp_path / "first"), "processing_class": None}
    second = make_trainer(tmp_path / "second", **again)
    for role in ("selector", "generator"):
        assert turns_of(second.tokenizers[role]) == turns_of(first.tokenizers[role])
    other = make_trainer(tmp_path / "third", **again, chat="false")
    assert not turns_of(other.tokenizers["selector"]).chat


def test_a_template_of_tokens_that_the_model_has_not(tmp_path):
    """Named before training, in place of an index out of range."""
    tokenizer = with_template(template_of("qwen3"), "<|im_end|>")
    model = tiny_model("llama", tiny_tokenizer())
    rows = model.get_input_embeddings().num_embeddings
    with pytest.raises(ValueError, match=f"selector: .* of number .*, and the model has {rows} of them; resize its"):
        make_trainer(tmp_path, model=model, processing_class=tokenizer)


def test_keeping_turns_copies_a_tokenizer_in_use():
    tokenizer = copy.deepcopy(tiny_tokenizer())
    first, second = Turns("<s>", "", "\n", False), Turns("", "", "\n", False)
    assert keep_turns(tokenizer, first) is tokenizer
    assert keep_turns(tokenizer, first) is tokenizer
    other = keep_turns(tokenizer, second)
    assert other is not tokenizer
    assert turns_of(tokenizer) == first
