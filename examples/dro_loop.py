"""One step of DRO in plain PyTorch, to be read: what `DROTrainer` computes, without what makes it fast or general.

For a question x with answer y and N retrieved passages, the selector draws M selections z of K passages each, the
generator says how likely y is given each of them, and both models are trained on all M, each selection weighing what
it has of the posterior p(z | x, y). (arXiv:2505.03075; here each model reads one prompt at a time, and prompts are
those of base models, without a chat template.)

python examples/dro_loop.py --model "$(dro-trl gemma)" --dataset quickstart/data/train.top8.jsonl
"""

import argparse
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_trl import Question, load_rag_dataset


def encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def begin(tokenizer: Any) -> str:
    """What every prompt begins with: the tokenizer's own first token, where it has one."""
    return str(tokenizer.decode(tokenizer("")["input_ids"]))


def passage_line(passage: Any) -> str:
    title, text = " ".join(passage["title"].split()), " ".join(passage["text"].split())
    return f"Passage: {text if text.startswith(title) else f'{title}: {text}'}"


# The selector is a policy: each passage has a score, and a selection is drawn by the scores, without replacement.


def item_scores(selector: Any, tokenizer: Any, row: Question) -> Tensor:
    """The logit of " yes" minus that of " no" behind the question and each passage, (N,)."""
    yes, no = (encode(tokenizer, f"Useful: {word}")[-1] for word in ("yes", "no"))
    question = f"Which passages help to answer the question?\nQuestion: {row['question'].strip()}\n"
    shared = encode(tokenizer, begin(tokenizer) + question)
    scores = []
    for passage in row["candidates"]:
        ids = shared + encode(tokenizer, f"{passage_line(passage)}\nUseful:")
        logits = selector(torch.tensor([ids], device=selector.device)).logits[0, -1].float()
        scores.append(logits[yes] - logits[no])
    return torch.stack(scores)


def draw(scores: Tensor, k: int, m: int, random: torch.Generator) -> list[list[int]]:
    """M selections of K passages: the K largest of the scores plus Gumbel noise (Kool et al., 2019)."""
    uniform = torch.rand(m, len(scores), generator=random, dtype=torch.float64)
    noisy = scores.detach().double().cpu() - torch.log(-torch.log(uniform))
    selections: list[list[int]] = noisy.topk(k).indices.tolist()
    return selections


def selection_logp(scores: Tensor, selection: list[int]) -> Tensor:
    """log p_s(z | x): each passage is chosen among those that are left (Plackett-Luce), a scalar in nats."""
    total, left = scores.new_zeros(()), torch.ones_like(scores, dtype=torch.bool)
    for i in selection:
        total = total + scores[i] - scores[left].logsumexp(0)
        left = left.clone()
        left[i] = False
    return total


# The generator is the reward: how likely is the answer behind the selected passages?


def answer_logp(generator: Any, tokenizer: Any, row: Question, selection: list[int]) -> Tensor:
    """log p_g(y | x, d_z), summed over the tokens of the first alias and the new line after it, a scalar in nats."""
    lines = [passage_line(row["candidates"][i]) for i in selection]
    prompt = "\n".join([*lines, f"Question: {row['question'].strip()}", "Answer:"])
    ids = encode(tokenizer, begin(tokenizer) + prompt)
    stem = encode(tokenizer, "Answer:")
    answer = encode(tokenizer, f"Answer: {row['answers'][0].strip()}\n")[len(stem) :]
    read = torch.tensor([ids + answer], device=generator.device)
    logps = generator(read).logits[0, len(ids) - 1 : -1].float().log_softmax(-1)
    return logps.gather(-1, read[0, len(ids) :, None]).sum()


def dro_step(
    selector: Any,
    generator: Any,
    tokenizer: Any,
    optimizer: torch.optim.Optimizer,
    rows: list[Question],
    randoms: list[torch.Generator],
    k: int,
    m: int,
) -> dict[str, Any]:
    """One estimation step and one maximization step on the same selections; returns what came of them."""
    loss, found = torch.zeros(()), []
    for row, random in zip(rows, randoms, strict=True):
        # Estimation: selections are drawn from the selector as it is, q(z | x) = p_s(z | x).
        scores = item_scores(selector, tokenizer, row)
        selections = draw(scores, k, m, random)
        selector_logps = torch.stack([selection_logp(scores, z) for z in selections])
        answer_logps = torch.stack([answer_logp(generator, tokenizer, row, z) for z in selections])
        # The posterior is p(z | x, y) = p_s(z | x) p_g(y | x, d_z) / p(y | x). Of what is drawn from p_s, the weight
        # that makes it a sample of the posterior is p_g(y | x, d_z), normalised over the M selections.
        weights = answer_logps.detach().softmax(0)
        # Maximization: both models make what the posterior prefers more likely. 1/M is a control variate: the mean
        # of the gradient of log p_s is 0, so that it takes away noise and no more.
        selector_loss = -((weights - 1 / m) * selector_logps).sum()
        generator_loss = -(weights * answer_logps).sum()
        loss = loss.to(scores.device) + (selector_loss + generator_loss) / len(rows)
        found.append({"selections": selections, "weights": weights, "rewards": answer_logps.detach()})
    optimizer.zero_grad()
    loss.backward()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return {"loss": float(loss.detach()), "questions": found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--dataset"):
        parser.add_argument(name, required=True)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    selector, generator = (AutoModelForCausalLM.from_pretrained(options.model, dtype="float32") for _ in range(2))
    optimizer = torch.optim.AdamW([*selector.parameters(), *generator.parameters()], lr=1e-5)
    rows = load_rag_dataset(options.dataset)
    random = torch.Generator().manual_seed(0)
    for step in range(options.steps):
        row = rows[step % len(rows)]
        done = dro_step(selector, generator, tokenizer, optimizer, [row], [random], k=2, m=4)
        (first,) = done["questions"]
        print(f"step {step}: loss {done['loss']:.3f}; {row['question']} {row['answers'][0]}")
        for selection, weight, reward in zip(*first.values(), strict=True):
            print(f"    passages {[i + 1 for i in selection]}: log p(answer) {reward:.2f}, weight {weight:.2f}")
