"""`dro-trl quickstart`: the whole method on an invented encyclopedia, from raw passages to answers."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

    from dro_trl.retrieval.base import Retriever
    from dro_trl.trainer.dro_trainer import DROTrainer

NUM_CANDIDATES = 8
NUM_SELECTED = 2
MAX_NEW_TOKENS = 8
RESULTS = "results.json"


def main(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where everything goes.")] = Path("quickstart"),
    seed: Annotated[int, typer.Option("--seed", help="Of the encyclopedia, the training and the bootstrap.")] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="A few questions only, to see every step work.")] = False,
) -> None:
    """Train a selector and a generator on a fictional encyclopedia, and compare them with where they started."""
    from rich.console import Console
    from transformers.utils import logging

    from dro_trl.data.attach import attach_candidates
    from dro_trl.data.encyclopedia import FictionalEncyclopedia
    from dro_trl.data.load import load_rag_dataset
    from dro_trl.files.folders import check_unwritten, owned
    from dro_trl.files.writing import write_jsonl
    from dro_trl.lm.devices import describe_training
    from dro_trl.models.gemma import gemma_3_270m
    from dro_trl.recipes.training import train_and_save
    from dro_trl.retrieval.pyserini import PyseriniRetriever

    check_unwritten(output_dir, ("data", "index", "model", RESULTS, "comparison.png"), ("data/corpus.jsonl",))
    context.with_resource(owned(output_dir))
    logging.disable_progress_bar()
    console = Console(highlight=False)
    num_train, num_eval = (8, 8) if fast else (160, 200)
    stage = Stages(console)
    stage.begin("Inventing an encyclopedia")
    data, index, model = (output_dir / name for name in ("data", "index", "model"))
    world = FictionalEncyclopedia.generate(seed, num_train, num_eval)
    world.write(data)
    console.print(f"{len(world.corpus)} passages, {num_train} training and {num_eval} held-out questions in {data}")

    stage.begin("Indexing it with Lucene and retrieving candidates")
    with PyseriniRetriever.build(data / "corpus.jsonl", index, overwrite=True) as retriever:
        train, held_out = (
            attach_candidates(load_rag_dataset(data / file, require_candidates=False), retriever, NUM_CANDIDATES)
            for file in ("train.jsonl", "eval.jsonl")
        )
        for name, dataset in (("train", train), ("eval", held_out)):
            write_jsonl(data / f"{name}.top{NUM_CANDIDATES}.jsonl", dataset.to_list())
        console.print(f"{NUM_CANDIDATES} candidates a question, in {data}; index in {index}")
        stage.begin("Loading Gemma 3 270M twice: as the selector and as the generator")
        trainer = make_trainer(str(gemma_3_270m()), train, model, seed)
        console.print(f"They run {describe_training(trainer.args)}")
        stage.begin(f"Training both on {num_train} questions")
        train_and_save(trainer)
        del trainer
        stage.begin(f"Evaluating on {num_eval} held-out questions about new entities")
        evaluate(model, output_dir, held_out, seed, console)
        stage.begin("Asking a held-out question")
        ask(model, index, retriever, held_out[0], console)
    stage.end()
    stage.report(output_dir / RESULTS)


class Stages:
    """Announces each stage, and says how long it took."""

    def __init__(self, console: "Console") -> None:
        self.seconds: dict[str, float] = {}
        self._console = console
        self._started = time.monotonic()
        self._name = ""

    def begin(self, name: str) -> None:
        """End the stage under way and begin the next."""
        self.end()
        self._name, self._begun = name, time.monotonic()
        self._console.rule(f"[bold]{name}", align="left")

    def end(self) -> None:
        """End the stage under way, if there is one."""
        if self._name:
            now = time.monotonic()
            self.seconds[self._name] = round(now - self._begun, 1)
            self._console.print(f"{now - self._begun:.0f} s ({now - self._started:.0f} s in all)", style="dim")
        self._name = ""

    def report(self, path: Path) -> None:
        """Print the seconds of all stages, and add them to the results at `path`."""
        from rich.table import Table

        from dro_trl.files.writing import load_object, write_json

        write_json(path, load_object(path, "run the quickstart again") | {"seconds": self.seconds})
        table = Table("stage", "seconds", title="Time", title_justify="left")
        for name, seconds in self.seconds.items():
            table.add_row(name, f"{seconds:.1f}")
        table.add_row("in all", f"{sum(self.seconds.values()):.1f}", style="bold")
        self._console.print(table)


def make_trainer(model: str, train: "Dataset", output_dir: Path, seed: int) -> "DROTrainer":
    """Return the trainer: the class of every run, with options that any recipe can set."""
    from peft import LoraConfig

    from dro_trl.trainer.dro_config import DROConfig
    from dro_trl.trainer.dro_trainer import DROTrainer

    args = DROConfig(
        str(output_dir),
        num_candidates=NUM_CANDIDATES,
        num_selected=NUM_SELECTED,
        num_selections=8,
        learning_rate=5e-4,
        generator_learning_rate=3e-4,
        entropy_coef=0.02,
        per_device_train_batch_size=4,
        num_train_epochs=1,
        weight_decay=0.0,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        bf16=None,  # Where the device has bfloat16.
        model_init_kwargs={"dtype": "auto"},
        seed=seed,
    )
    lora = LoraConfig(
        r=16,
        lora_alpha=16,
        target_modules=r".*\.layers\.(9|1[0-7])\..*_proj",  # The upper half: the backward pass stops there.
        task_type="CAUSAL_LM",
    )
    return DROTrainer(model=model, args=args, train_dataset=train, peft_config=lora)


def evaluate(model: Path, output_dir: Path, held_out: "Dataset", seed: int, console: "Console") -> None:
    """Compare the trained pair with its start and with BM25's order; write `results.json` and `comparison.png`."""
    from dro_trl.evaluation.evaluator import DEFAULT_SYSTEMS, evaluate_pair
    from dro_trl.evaluation.plots import plot_comparison
    from dro_trl.evaluation.report import print_report, write_results

    report, predictions = evaluate_pair(
        model, held_out.to_list(), DEFAULT_SYSTEMS[1:], seed=seed, max_new_tokens=MAX_NEW_TOKENS
    )
    print_report(report, console)
    console.print(
        "start: both models as they were. trained, retriever order: the trained generator reads BM25's first two "
        "passages. trained: it reads the trained selector's two.",
        style="dim",
    )
    path = write_results(report, output_dir / RESULTS, {"predictions": predictions})
    console.print(f"Results: {path}\nPlot: {plot_comparison(report, output_dir / 'comparison.png')}")


def ask(model: Path, index: Path, retriever: "Retriever", row: dict[str, object], console: "Console") -> None:
    """Ask the trained pair a held-out question, as `dro-trl ask` does."""
    from dro_trl.cli.ask import print_output
    from dro_trl.pipeline import RAGPipeline

    question, answers = str(row["question"]), row["answers"]
    console.print(f'dro-trl ask "{question}" --model {model} --index_dir {index}', style="dim", soft_wrap=True)
    print_output(RAGPipeline.from_pretrained(model, retriever=retriever)(question), console)
    console.print(f"The encyclopedia says: {answers}")
