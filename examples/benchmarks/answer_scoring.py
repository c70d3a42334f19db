"""Time and peak memory of scoring answers, against one forward pass with all logits for each selection.

    python examples/benchmarks/answer_scoring.py

A Qwen2 of 25M random weights in float32, or of another size, one question of N = 20 passages of 100 tokens, M = 16
selections of K = 5. The plain way is a Hugging Face model as it comes: for each selection a forward pass, its logits
at every position, their log-softmax and the answer's tokens in it. `--backward` adds the gradient of the mean, as in
training. Figures are of the second step in a fresh process: the tokens read, the increase of resident memory, and the
processor's time (on a GPU its memory, and the time of the clock); medians over `--rounds`, in which the ways take
turns. Of the M selections `--num_distinct` differ; they are drawn by a selector to which all passages are alike or,
with `--preference` G, two stand out by G + 2 and G nats among scores of standard deviation 1. The product scores equal
ones once and reads common beginnings once: without a budget, and with one of `--scoring_token_budget` tokens a pass.
"""

import argparse
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from small_models import PeakMemory, add_model_options, in_fresh_process, questions, sized_model, word_tokenizer
from small_runs import work_clock
from transformers import PreTrainedModel

from dro_trl import AnswerScorer, Question, Selection, gumbel_top_k
from dro_trl.files.writing import write_json
from dro_trl.lm import encoding, prompts

N, K, M = 20, 5, 16
WAYS = ("plain", "dro-trl", "budget")


def plain_logps(model: PreTrainedModel, row: Question, selections: list[Selection]) -> torch.Tensor:
    """Return log p(y|x, d_z) of each selection, one forward pass each, from the logits at all positions."""
    tokenizer, found = word_tokenizer(), []
    answer = encoding.answer_ids(tokenizer, row["answers"][0])
    for selection in selections:
        text = prompts.generator_prompt(row["question"], [row["candidates"][i] for i in selection])
        ids = torch.tensor(
            [encoding.encode(tokenizer, encoding.render(tokenizer, text)) + answer], device=model.device
        )
        logps = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)[0, :-1]
        found.append(logps.gather(-1, ids[0, 1:, None])[-len(answer) :].sum())
    return torch.stack(found)


def draw(num_distinct: int, preference: float | None) -> list[Selection]:
    """Return M selections, so many of them distinct."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.zeros(1, N)
    if preference is not None:
        scores = torch.randn(1, N, generator=generator)
        scores[0, :2] += torch.tensor([preference + 2, preference])
    drawn = gumbel_top_k(scores, K, 1000, [generator])[0].tolist()
    distinct = list(dict.fromkeys(map(tuple, drawn)))[:num_distinct]
    assert len(distinct) == num_distinct
    return [list(distinct[i % num_distinct]) for i in range(M)]


def measure(way: str, num_distinct: int, options: argparse.Namespace) -> dict[str, float | list[float]]:
    """Score twice, and return what the second time took, and found."""
    torch.set_num_threads(1)
    row = questions(1, N, options.passage_tokens)[0]
    selections = draw(num_distinct, options.preference)
    model = sized_model(options.size, options.dtype).train()
    scorer = AnswerScorer(word_tokenizer(), token_budget=options.scoring_token_budget if way == "budget" else None)
    read = []
    model.register_forward_pre_hook(lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True)
    torch.set_grad_enabled(options.backward)
    for _ in range(2):
        model.zero_grad()
        read.clear()
        memory, start = PeakMemory(), work_clock()
        if way == "plain":
            logps = plain_logps(model, row, selections)
        else:
            tokens, mask = scorer.logps(model, [row], torch.tensor([selections], device=model.device))
            logps = (tokens * mask).sum(-1)[0, :, 0]
        if options.backward:
            logps.mean().backward()
        seconds, peak = work_clock() - start, memory.mib()
    return {"tokens": sum(read), "seconds": seconds, "peak_mib": peak, "logps": logps.tolist()}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_distinct", type=int, nargs="+", default=[16, 8])
    parser.add_argument("--preference", type=float)
    parser.add_argument("--passage_tokens", type=int, default=100)
    parser.add_argument("--scoring_token_budget", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backward", action="store_true")
    add_model_options(parser)
    parser.add_argument("--output", type=Path, default=Path("answer_scoring.json"))
    options = parser.parse_args()
    table = Table(
        "distinct selections", "", *WAYS, "plain over each", title=f"M = {M}, median of {options.rounds} (range)"
    )
    rows, tolerance = [], 1e-3 if options.dtype == "float32" else 0.3
    for num in options.num_distinct:
        runs: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                runs[way].append(in_fresh_process(measure, way, num, options))
        for way in WAYS[1:]:
            both = (torch.tensor(runs[name][0]["logps"]) for name in ("plain", way))
            torch.testing.assert_close(*both, atol=tolerance, rtol=tolerance / 10)
        for name, label, digits in (("tokens", "tokens", 0), ("seconds", "seconds", 2), ("peak_mib", "peak (MiB)", 0)):
            found = {way: [run[name] for run in runs[way]] for way in WAYS}
            medians = {way: statistics.median(values) for way, values in found.items()}
            shown = [
                f"{medians[way]:.{digits}f} ({min(found[way]):.{digits}f}–{max(found[way]):.{digits}f})"
                for way in WAYS
            ]
            ratios = {way: medians["plain"] / medians[way] for way in WAYS[1:]}
            table.add_row(str(num), label, *shown, ", ".join(f"{ratio:.2f}" for ratio in ratios.values()))
            rows.append({"num_distinct": num, "measure": name, **found, "ratios": ratios})
    Console().print(table)
    write_json(options.output, {**vars(options), "output": str(options.output), "num_selections": M, "rows": rows})
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
