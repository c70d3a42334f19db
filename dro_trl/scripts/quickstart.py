"""`dro-trl quickstart`: the whole method on an invented encyclopedia, from raw passages to answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

    from dro_trl.dro_trainer import DROTrainer

NUM_CANDIDATES = 8
NUM_SELECTED = 2


def main(
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where everything is written.")] = Path(
        "quickstart"
    ),
    seed: Annotated[int, typer.Option("--seed", help="Of the encyclopedia, the training and the bootstrap.")] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="A few questions only, to see every step work.")] = False,
) -> None:
    """Train a selector and a generator on a fictional encyclopedia, and compare them with where they started."""
    from rich.console import Console
    from transformers.utils import logging

    from dro_trl.data.attach import attach_candidates
    from dro_trl.data.encyclopedia import FictionalEncyclopedia
    from dro_trl.data.load import load_rag_dataset
    from dro_trl.pipeline import RAGPipeline, print_output
    from dro_trl.recipe import train_and_save
    from dro_trl.retrieval.pyserini import PyseriniRetriever
    from dro_trl.starter_model import gemma_3_270m

    logging.disable_progress_bar()
    console = Console(highlight=False)
    num_train, num_eval = (16, 16) if fast else (200, 200)
    stage = _Stages(console)

    stage("Inventing an encyclopedia")
    data = output_dir / "data"
    world = FictionalEncyclopedia.generate(seed, num_train, num_eval)
    world.write(data)
    console.print(f"{len(world.corpus)} passages, {num_train} training and {num_eval} held-out questions in {data}")

    stage("Indexing it with Lucene, retrieving candidates")
    retriever = PyseriniRetriever.build(data / "corpus.jsonl", output_dir / "index", overwrite=True)
    with retriever:
        train, held_out = (
            attach_candidates(
                load_rag_dataset(data / f"{part}.jsonl", require_candidates=False), retriever, NUM_CANDIDATES
            )
            for part in ("train", "eval")
        )
        stage("Loading Gemma 3 270M twice: selector and generator")
        trainer = make_trainer(str(gemma_3_270m()), train, output_dir / "model", seed)

        stage("Training both")
        train_and_save(trainer)
        del trainer

        stage("Evaluating on held-out questions about new entities")
        evaluate(output_dir, held_out, seed, stage.elapsed, console)

        stage("Asking a held-out question")
        pipeline = RAGPipeline.from_pretrained(output_dir / "model", retriever=retriever)
        question = held_out[0]["question"]
        console.print(
            f"dro-trl ask {question!r} --model {output_dir / 'model'} --index_dir {output_dir / 'index'}", style="dim"
        )
        print_output(pipeline(question), console)
        console.print(f"The encyclopedia says: {held_out[0]['answers'][0]}")
    stage.done()


class _Stages:
    """Announces each stage and how long the one before it took."""

    def __init__(self, console: "Console") -> None:
        import time

        self._clock = time.monotonic
        self._console = console
        self._start = self._last = self._clock()
        self.elapsed: dict[str, float] = {}
        self._name = ""

    def __call__(self, name: str) -> None:
        self.done()
        self._name = name
        self._console.rule(f"[bold]{name}", align="left")

    def done(self) -> None:
        """Note the time of the stage under way."""
        now = self._clock()
        if self._name:
            self.elapsed[self._name] = round(now - self._last, 1)
            self._console.print(f"{now - self._last:.0f} s, {now - self._start:.0f} s in all", style="dim")
        self._last, self._name = now, ""


def make_trainer(model: str, train: "Dataset", output_dir: Path, seed: int) -> "DROTrainer":
    """Return the trainer: the same class, and options that any recipe can set."""
    from peft import LoraConfig

    from dro_trl.dro_config import DROConfig
    from dro_trl.dro_trainer import DROTrainer

    args = DROConfig(
        str(output_dir),
        num_candidates=NUM_CANDIDATES,
        num_selected=NUM_SELECTED,
        num_selections=8,
        learning_rate=3e-4,
        generator_learning_rate=2e-4,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4,
        num_train_epochs=1,
        weight_decay=0.0,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        seed=seed,
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return DROTrainer(model=model, args=args, train_dataset=train, peft_config=lora)


def evaluate(output_dir: Path, held_out: "Dataset", seed: int, elapsed: dict[str, float], console: "Console") -> None:
    """Compare the trained pair with its start and with BM25's order, and write `results.json` and `comparison.png`."""
    from dro_trl.evaluation.comparison import compare
    from dro_trl.evaluation.evaluator import predict
    from dro_trl.evaluation.plots import plot_comparison
    from dro_trl.evaluation.report import print_report, write_results
    from dro_trl.pipeline import RAGPipeline

    rows = held_out.to_list()
    trained = RAGPipeline.from_pretrained(output_dir / "model")
    systems = {
        "start": predict(RAGPipeline.from_start(output_dir / "model"), rows, max_new_tokens=8),
        "bm25": predict(trained, rows, "retriever", max_new_tokens=8),
        "trained": predict(trained, rows, max_new_tokens=8),
    }
    report = compare(systems, target="trained", baselines=["start", "bm25"], ks=[1, NUM_SELECTED], seed=seed)
    print_report(report, console)
    console.print(
        "start: both models untrained. bm25: the trained generator reads BM25's first two passages. "
        "trained: it reads the trained selector's.",
        style="dim",
    )
    path = write_results(report, output_dir / "results.json", {"seconds": elapsed})
    print(f"Results: {path}\nPlot: {plot_comparison(report, output_dir / 'comparison.png')}")
