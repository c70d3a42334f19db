"""Our rows and rewards for TRL's trainers, and TRL's rewards for ours."""

import math

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import think_format_reward

from dro_trl import AnswerLogLikelihood, AutoregressivePolicy, evidence_recall_reward, exact_match_reward
from dro_trl.lm import encoding, prompts
from dro_trl.lm.generation import generate_answers
from dro_trl.lm.turns import turns_of
from dro_trl.rewards.calls import call_reward, reward_columns
from dro_trl.trainer.dro_config import DROConfig
from dro_trl.trainer.trl_adapter import SelectionReward, conversational, trl_dataset
from tests.helpers.templates import template_of, with_template
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import logged, make_trainer, options, questions

ROWS = tiny_questions(4, 5)
COMPLETIONS = [
    " [3] > [1]",
    " [1] > [3]\n[2] nonsense",
    "[3] > [1]",
    "none",
    " [5] > [2]",
    "[6] > [1]",
    "[2]",
    "[1][2]",
]
"""Four for each question; the fourth, the sixth and the seventh are malformed."""
SELECTIONS = [[[2, 0], [0, 2], [2, 0]], [[4, 1], [0, 1]]]
MALFORMED = (3, 5, 6)


def columns(completions, rows=ROWS):
    """As TRL gives them: as many completions for each question, one question after the other."""
    repeated = [row for row in rows for _ in range(len(completions) // len(rows))]
    names = ("question", "answers", "candidates", "gold_ids")
    return {"completions": completions, **{name: [row[name] for row in repeated] for name in names}}


def tokenizer_that(begins_texts, chat):
    """As those of Llama and Gemma, it puts a token of its own before every text; or as Qwen's, it does not."""
    plain = tiny_tokenizer(chat=chat)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = type(plain)(tokenizer_object=plain.backend_tokenizer, chat_template=plain.chat_template, **special)
    start = [("<s>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A" if begins_texts else "$A", special_tokens=start
    )
    assert (tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id) is begins_texts
    return tokenizer


# The dataset


@pytest.mark.parametrize(
    "tokenizer",
    [tiny_tokenizer(), tiny_tokenizer(chat=True), tokenizer_that(begins_texts=False, chat=False)],
    ids=["with a token of its own", "chat", "plain"],
)
def test_trl_reads_what_the_autoregressive_policy_reads(tmp_path, tokenizer):
    """Token for token, and in the rows and the candidates' order that DROTrainer trains on."""
    ours = make_trainer(tmp_path, processing_class=tiny_tokenizer()).train_dataset
    found = trl_dataset(questions(), options(tmp_path), tokenizer)
    assert found.remove_columns("prompt").to_list() == ours.to_list()
    expected = AutoregressivePolicy(tokenizer, 2).encode(ours.to_list()).prompt_ids
    assert tokenizer(list(found["prompt"]))["input_ids"] == expected


def test_what_cannot_be_given_to_trl(tmp_path):
    """A chat template without the token that the tokenizer begins texts with; and too few candidates."""
    with pytest.raises(ValueError, match="adds special tokens of its own to a prompt.* in place of .*add_bos_token=F"):
        trl_dataset(questions(), options(tmp_path), tokenizer_that(begins_texts=True, chat=True))
    with pytest.raises(ValueError, match="dataset, row 1: .* found 4 passages, fewer than num_selected=5"):
        trl_dataset(questions(), options(tmp_path, num_selected=5), tiny_tokenizer())


# The reward


def test_well_formed_completions_are_rewarded_and_the_others_counted():
    """Gold is 0-0 and 1-1: found by the first three, and by both selections of the second question."""
    metrics = []
    reward = SelectionReward(evidence_recall_reward, num_selected=2, malformed_reward=-1)
    given = {**columns(COMPLETIONS), "log_metric": lambda *metric: metrics.append(metric), "log_extra": None}
    expected = [1.0, 1.0, 1.0, -1, 1.0, -1, -1, 1.0]
    assert reward(**given) == expected
    assert reward(**{**given, "completions": [[{"role": "assistant", "content": t}] for t in COMPLETIONS]}) == expected
    assert metrics == [("malformed/evidence_recall_reward", 3 / 8)] * 2
    assert (reward.num_malformed, reward.num_completions) == (6, 16)
    assert reward(**columns(["none", "[1]"])) == [-1, -1]


def test_what_a_reward_is_given():
    """What it is given in DROTrainer, for the completions that are selections, and TRL's state and token ids."""
    seen = {}

    def reward(prompts, **kwargs):
        seen.update(kwargs, prompts=prompts)
        return [None if prompt == prompts[0] else 2.0 for prompt in prompts]

    trl_reward = SelectionReward(reward, num_selected=2, malformed_reward=-1)
    given = {**columns(COMPLETIONS), "completion_ids": [[i] for i in range(8)], "trainer_state": "state"}
    assert trl_reward(**given) == [None, None, None, -1, 2.0, -1, -1, 2.0]
    assert seen.pop("completion_ids") == [[i] for i in range(8) if i not in MALFORMED]
    assert seen.pop("trainer_state") == "state"
    seen.pop("log_metric")("a", 1.0)
    ours = [reward_columns([row], [drawn]) for row, drawn in zip(ROWS, SELECTIONS, strict=True)]
    assert seen == {name: ours[0][name] + ours[1][name] for name in ours[0]}


@pytest.mark.parametrize("aliases", ["first", "marginal"])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_likelihood_is_that_of_dro_trainer(tmp_path, aliases, batch_size):
    """Answers of different numbers of aliases and tokens, whatever the batch; each distinct selection scored once."""
    rows = tiny_questions(4, 5)
    rows[1]["answers"] = ["Ada"]
    reward = AnswerLogLikelihood(aliases=aliases)
    trainer = make_trainer(tmp_path, reward_funcs=reward)
    generator = trainer.model.generator
    adapter = SelectionReward(
        reward,
        num_selected=2,
        malformed_reward=-500,
        generator=generator,
        generator_tokenizer=tiny_tokenizer(),
        batch_size=batch_size,
    )
    found = adapter(**columns(COMPLETIONS, rows))
    expected = []
    for row, drawn in zip(rows, SELECTIONS, strict=True):
        output = trainer.model([row], torch.tensor([drawn]))
        expected += trainer.rewards([row], output)[0].tolist()
    assert [found[i] for i in range(8) if i not in MALFORMED] == pytest.approx(expected, abs=1e-4)
    assert [found[i] for i in MALFORMED] == [-500] * 3
    assert len(set(expected)) == 4
    assert not any(parameter.grad is not None for parameter in generator.parameters())


def test_generated_answers(tmp_path):
    """A reward of 1 for the answer that the generator gives from the first selection."""
    generator, tokenizer = tiny_model("llama", tiny_tokenizer()), tiny_tokenizer()
    answers = []

    def note(generated_answers, **kwargs):
        answers.extend(generated_answers)
        return [0.0] * len(generated_answers)

    common = {"num_selected": 2, "malformed_reward": -1, "generator": generator, "generator_tokenizer": tokenizer}
    SelectionReward(note, **common)(**columns(COMPLETIONS))
    assert len(answers) == 5
    assert answers[0] == answers[2]
    rows = [{**ROWS[0], "answers": [answers[0]]}, {**ROWS[1], "answers": [answers[3]]}]
    found = SelectionReward(exact_match_reward, **common)(**columns(COMPLETIONS, rows))
    assert (found[0], found[2], found[4]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("chat", ["true", "false"])
def test_the_generator_reads_what_the_options_say(tmp_path, chat):
    """As in DROTrainer: in its chat template or without, and with a thought where one is asked for."""
    tokenizer = with_template(template_of("qwen3"))
    generator = tiny_model("llama", tokenizer)
    args = DROConfig(str(tmp_path), use_cpu=True, chat=chat, max_thinking_tokens=3 if chat == "true" else 0)
    answers, read = [], []

    def note(generated_answers, **kwargs):
        answers.extend(generated_answers)
        return [0.0] * len(generated_answers)

    common = {"num_selected": 2, "malformed_reward": -1, "generator": generator, "generator_tokenizer": tokenizer}
    reward = SelectionReward(note, **common, args=args)
    hook = generator.register_forward_pre_hook(lambda m, a, k: read.append(k["input_ids"]), with_kwargs=True)
    reward(**columns(COMPLETIONS))
    hook.remove()
    assert turns_of(reward.tokenizer).chat == (chat == "true")
    assert tokenizer.decode(read[0][0]).endswith("<think>\n" if chat == "true" else "Answer:")
    passages = [ROWS[0]["candidates"][i] for i in prompts.parse_selection(COMPLETIONS[0], 9)]
    expected = generate_answers(
        generator, reward.tokenizer, [ROWS[0]["question"]], [passages], max_thinking_tokens=args.max_thinking_tokens
    )
    assert answers[:1] == expected


@pytest.mark.parametrize(
    ("reward", "name"), [(AnswerLogLikelihood(), "answer_logps"), (exact_match_reward, "generated_answers")]
)
def test_a_reward_that_needs_a_generator(reward, name):
    with pytest.raises(ValueError, match=f"{name}; give SelectionReward the generator and generator_tokenizer"):
        SelectionReward(reward, num_selected=2, malformed_reward=-1, generator_tokenizer=tiny_tokenizer())


# Both ways


def taught(rows, tokenizer):
    """A model that has learnt by heart to answer each prompt with some selections."""
    model = tiny_model("llama", tokenizer).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    texts = [[f"{row['prompt']} [{i}] > [{j}]</s>" for i, j in ((1, 2), (2, 4), (3, 1))] for row in rows]
    starts = [len(encoding.encode(tokenizer, row["prompt"])) for row in rows for _ in range(3)]
    batch = tokenizer([text for row in texts for text in row], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for label, start in zip(labels, starts, strict=True):
        label[:start] = -100
    for _ in range(100):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_trls_grpo_trains_a_selector_that_writes_selections(tmp_path):
    tokenizer = tiny_tokenizer()
    rows = trl_dataset(questions().select(range(2)), options(tmp_path), tokenizer)
    reward = SelectionReward(
        AnswerLogLikelihood(),
        num_selected=2,
        malformed_reward=-100,
        generator=tiny_model("llama", tokenizer, seed=1),
        generator_tokenizer=tokenizer,
    )
    trainer = GRPOTrainer(
        model=taught(rows.to_list(), tokenizer),
        reward_funcs=[reward, SelectionReward(evidence_recall_reward, num_selected=2, malformed_reward=0)],
        args=GRPOConfig(
            str(tmp_path),
            num_generations=8,
            per_device_train_batch_size=16,
            max_completion_length=16,
            max_steps=2,
            logging_steps=1,
            report_to="none",
            bf16=False,
            use_cpu=True,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    assert reward.num_completions == 32
    assert max(logged(trainer, "malformed/answer_log_likelihood")) < 0.5
    assert min(logged(trainer, "rewards/evidence_recall_reward/mean")) > 0
    assert all(-100 < value < 0 for value in logged(trainer, "rewards/answer_log_likelihood/mean"))
    assert all(map(math.isfinite, logged(trainer, "loss")))
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


def test_rewards_that_expect_messages():
    given = reward_columns(ROWS, [[[2, 0]], [[1, 0]]])
    with pytest.raises(TypeError, match="string indices"):
        call_reward(think_format_reward, given)
    assert call_reward(conversational(think_format_reward), given).tolist() == [0.0, 0.0]

    async def second(prompts, completions, answer_logps=None, **kwargs):
        assert [prompt[-1]["role"] for prompt in prompts] == ["user", "user"]
        return [float(completion[0]["content"].startswith("[2]")) for completion in completions]

    assert call_reward(conversational(second), given).tolist() == [0.0, 1.0]
