"""`dro-trl quickstart`: the whole method on an invented encyclopedia, from raw passages to answers."""

import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

    from dro_trl.retrieval.base import Retriever
    from dro_trl.trainer.dro_trainer import DROTrainer


class Sizes(NamedTuple):
    """How much the selector sees of a question, and how much of that the generator."""

    num_candidates: int
    num_selected: int


TWO_HOPS = Sizes(num_candidates=8, num_selected=2)
THREE_HOPS = Sizes(num_candidates=10, num_selected=3)
MAX_NEW_TOKENS = 8
RESULTS = "results.json"

TwoHop = Annotated[
    float | None, typer.Option("--two_hop", help="Part of the questions, 0 to 1, that follow one link: two passages.")
]
ThreeHop = Annotated[
    float | None, typer.Option("--three_hop", help="Part that follow two links: three passages; K is 3 then, N 10.")
]
Comparison = Annotated[
    float | None, typer.Option("--comparison", help="Part that ask who is older, or younger: two passages.")
]


def main(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where everything goes.")] = Path("quickstart"),
    seed: Annotated[int, typer.Option("--seed", help="Of the encyclopedia, the training and the bootstrap.")] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="A few questions only, to see every step work.")] = False,
    two_hop: TwoHop = None,
    three_hop: ThreeHop = None,
    comparison: Comparison = None,
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
    sizes = THREE_HOPS if three_hop else TWO_HOPS
    stage = Stages(console)
    stage.begin("Inventing an encyclopedia")
    data, index, model = (output_dir / name for name in ("data", "index", "model"))
    shares = {"two_hop": two_hop, "three_hop": three_hop, "comparison": comparison}
    world = FictionalEncyclopedia.generate(seed, num_train, num_eval, **shares)
    for name, size in product(("train", "eval"), (TWO_HOPS, THREE_HOPS)):
        candidates_file(data, name, size).unlink(missing_ok=True)  # Of the world that was here before.
    world.write(data)
    console.print(f"{len(world.corpus)} passages, {num_train} training and {num_eval} held-out questions in {data}")

    stage.begin("Indexing it with Lucene and retrieving candidates")
    with PyseriniRetriever.build(data / "corpus.jsonl", index, overwrite=True) as retriever:
        train, held_out = (
            attach_candidates(load_rag_dataset(data / file, require_candidates=False), retriever, sizes.num_candidates)
            for file in ("train.jsonl", "eval.jsonl")
        )
        for name, dataset in (("train", train), ("eval", held_out)):
            write_jsonl(candidates_file(data, name, sizes), dataset.to_list())
        console.print(f"{sizes.num_candidates} candidates a question, in {data}; index in {index}")
        stage.begin("Loading Gemma 3 270M twice: as the selector and as the generator")
        trainer = make_trainer(str(gemma_3_270m()), train, model, seed, sizes)
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


def candidates_file(folder: Path, name: str, sizes: Sizes) -> Path:
    """Return where the questions of a part are with their candidates."""
    return folder / f"{name}.top{sizes.num_candidates}.jsonl"


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


def make_trainer(model: str, train: "Dataset", output_dir: Path, seed: int, sizes: Sizes = TWO_HOPS) -> "DROTrainer":
    """Return the trainer: the class of every run, with options that any recipe can set."""
    from peft import LoraConfig

    from dro_trl.trainer.dro_config import DROConfig
    from dro_trl.trainer.dro_trainer import DROTrainer

    args = DROConfig(
        str(output_dir),
        **sizes._asdict(),
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

    by = "kind" if "kind" in held_out.column_names else "hops"
    report, predictions = evaluate_pair(
        model, held_out.to_list(), DEFAULT_SYSTEMS[1:], seed=seed, max_new_tokens=MAX_NEW_TOKENS, by=by
    )
    print_report(report, console)
    console.print(
        "start: both models as they were. trained, retriever order: the trained generator reads BM25's first "
        "passages. trained: it reads as many that the trained selector chose.",
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
