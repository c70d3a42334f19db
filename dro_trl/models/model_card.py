"""The model card that is saved beside a trained pair."""

import importlib.metadata
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache

from dro_trl.files import markdown
from dro_trl.models.names import is_on_hub, portable
from dro_trl.models.reading import base_of, is_adapter_source
from dro_trl.options.masking import masked

CITATION = """@article{shi2025direct,
  title   = {Direct Retrieval-augmented Optimization: Synergizing Knowledge Selection and Language Models},
  author  = {Shi, Zhengliang and others},
  journal = {arXiv preprint arXiv:2505.03075},
  year    = {2025}
}"""

OPTIONS = (
    "policy",
    "policy_kwargs",
    "learnt_policy_kwargs",
    "num_selected",
    "num_selections",
    "max_passage_tokens",
    "chat",
    "chat_template_kwargs",
    "max_thinking_tokens",
    "learning_rate",
    "generator_learning_rate",
    "control_variate",
    "entropy_coef",
    "kl_coef",
    "reward_temperature",
    "steps_per_estimation",
    "num_iterations",
    "seed",
)
_MEASURED = ("loss", "reward", "iw_bound", "selection_recall")
"""Measures of an evaluation that say how good a pair is."""
MEASURES = ("reward", "iw_bound", "ess", "entropy", "frac_unique_selections", "selection_recall")


def describe_card(
    folder: Path,
    starts: Collection[str | None],
    datasets: Mapping[str, str | None],
    log_history: Sequence[Mapping[str, Any]],
    repo_id: str | None = None,
    **data: Any,
) -> ModelCardData:
    """Return a card's metadata: what is known of the models and data, and nothing else.

    Args:
        folder: Of the card.
        starts: Names or folders that training started from.
        datasets: Names of the `train` and `eval` questions, as in a recipe.
        log_history: Of the trainer; the measures are those of its last evaluation.
        repo_id: Of the hub repository that the folder goes to, where it does.
        **data: Further entries.
    """
    bases = [base_of(str(s)) if Path(str(s)).is_dir() and is_adapter_source(str(s)) else s for s in starts if s]
    found = {portable(base, folder) for base in bases}
    named = sorted(str(name) for name in found if name and is_on_hub(name))
    licences = {_licence(str(base)) for base in bases}
    evaluated = {k: v for k, v in _last(log_history, "eval_loss").items() if k.removeprefix("eval_") in _MEASURED}
    of = datasets.get("eval") or datasets.get("train") or "evaluation questions"
    results = [
        EvalResult(
            task_type="question-answering",
            task_name="Question answering over retrieved passages",
            dataset_type=of if is_on_hub(of) else "custom",
            dataset_name=of if is_on_hub(of) else Path(of).name,
            metric_type=name.removeprefix("eval_"),
            metric_value=round(float(value), 4),
        )
        for name, value in evaluated.items()
        if math.isfinite(value)
    ]
    known = sorted({name for name in datasets.values() if name and is_on_hub(name)})
    return ModelCardData(
        base_model=(named[0] if len(named) == 1 else named) or None,
        datasets=known or None,
        license=next(iter(licences)) if len(licences) == 1 else None,
        pipeline_tag="text-generation",
        model_name=(repo_id or folder.resolve().name).rpartition("/")[2] if results else None,
        eval_results=results or None,
        **data,
    )


def _licence(base: str) -> str | None:
    """Return the licence that a base model's own card states, None where there is none on this machine."""
    path: Any = Path(base) / "README.md" if Path(base).is_dir() else None
    if is_on_hub(base):
        path = try_to_load_from_cache(base, "README.md")
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        return None
    stated = ModelCard.load(path, ignore_metadata_errors=True).data.license
    return stated if isinstance(stated, str) else None


def _last(log_history: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next((record for record in reversed(log_history) if name in record), {})


def _shown(value: Any) -> Any:
    """Return a value as a card shows it: of a path on this machine its last part."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _usage(name: str) -> str:
    """Say how a pair is used, by its name on a hub or that of its folder."""
    return f"""```python
from dro_trl import PyseriniRetriever, RAGPipeline

folder = {json.dumps(name, ensure_ascii=False)}
pipeline = RAGPipeline.from_pretrained(folder, retriever=PyseriniRetriever("index"))
print(pipeline("Who wrote it?").answer)
```

The selector alone is a reranker, loaded without the generator:

```python
from dro_trl import Selector

Selector.from_pretrained(folder).rank("Who wrote it?", ["one passage", "another"], top_k=1)
```

Each model also loads alone, with `AutoModelForCausalLM.from_pretrained(folder, subfolder="selector")`; an adapter
whose base has no name on a hub does from inside its own folder: transformers looks for the base from where it runs."""


def _table(options: Mapping[str, Any]) -> str:
    """Return the rows of a table of options, without secrets."""
    return "\n".join(f"| `{name}` | {markdown.code_cell(value)} |" for name, value in masked(options).items())


def write_model_card(
    folder: Path,
    training: Mapping[str, Any],
    log_history: Sequence[Mapping[str, Any]],
    repo_id: str | None = None,
    datasets: Mapping[str, str | None] | None = None,
) -> None:
    """Write `README.md`: what the folder holds, how to use it, how it was trained, and what to cite.

    Args:
        folder: Where the two models are.
        training: Values of `DROConfig`.
        log_history: Of the trainer; the measures shown are those of its last record that has any.
        repo_id: Of the hub repository that the folder goes to, where it does.
        datasets: As in `describe_card`.
    """
    options = _table({name: training[name] for name in OPTIONS})
    last = _last(log_history, "reward")
    measures = "\n".join(f"| {name} | {last[name]:.3f} |" for name in MEASURES if name in last) or "| none logged | |"
    starts = (training.get("start") or {}).values()
    tags = ["dro", "trl", "retrieval-augmented-generation"]
    data = describe_card(folder, starts, datasets or {}, log_history, repo_id, library_name="dro-trl", tags=tags)
    card = ModelCard(f"""---
{data.to_yaml()}
---

# A selector and a generator trained by DRO

`selector/` chooses and orders retrieved passages, `generator/` answers from them. Both were trained together by
Direct Retrieval-augmented Optimization with [dro-trl](https://arxiv.org/abs/2505.03075).

{_usage(repo_id or folder.resolve().name)}

## Training

| option | value |
|---|---|
{options}

{_prompts(training["turns"])}

Means over the last logged steps:

| measure | value |
|---|---|
{measures}

Made with {_versions()}.

## Citation

```bibtex
{CITATION}
```
""")
    card.save(folder / "README.md")


WARMUP_OPTIONS = (
    "teacher",
    "teacher_run",
    "num_selected",
    "max_passage_tokens",
    "chat",
    "learning_rate",
    "num_train_epochs",
    "seed",
)


def write_warmup_card(
    folder: Path,
    facts: Mapping[str, Any],
    training: Mapping[str, Any],
    log_history: Sequence[Mapping[str, Any]] = (),
    datasets: Mapping[str, str | None] | None = None,
) -> None:
    """Write `README.md`: what the model is, what it started from and learnt, and what to cite.

    Args:
        folder: Where the model is.
        facts: `part` (selector or generator), and further lines of the table, such as its start and dataset.
        training: Values of `WarmupConfig`.
        log_history: Of the trainer.
        datasets: As in `describe_card`.
    """
    policy = ("policy", "policy_kwargs") if facts["part"] == "selector" else ()
    start = facts.get("start")
    facts = {**facts, "start": portable(start, folder)}
    shown = {**facts, **{name: training[name] for name in (*WARMUP_OPTIONS, *policy)}}
    options = _table({name: _shown(value) for name, value in shown.items()})
    tags = ["dro", "trl", "sft", "retrieval-augmented-generation"]
    data = describe_card(folder, [start], datasets or {}, log_history, library_name="transformers", tags=tags)
    ModelCard(f"""---
{data.to_yaml()}
---

# A {facts["part"]}, warmed up for DRO

Fine-tuned with TRL's `SFTTrainer` by [dro-trl](https://arxiv.org/abs/2505.03075), as the start of a
{facts["part"]} in Direct Retrieval-augmented Optimization.

| option | value |
|---|---|
{options}

Made with {_versions()}.

## Citation

```bibtex
{CITATION}
```
""").save(folder / "README.md")


def _prompts(turns: Mapping[str, Any]) -> str:
    """Say what the models of a pair read around texts."""
    said = [
        f"The {role} reads prompts {'in its chat template' if kept['chat'] else 'without a chat template'}; "
        f"an answer ends with {markdown.code(json.dumps(kept['end'])[1:-1])}."
        for role, kept in turns.items()
    ]
    return " ".join(said)


def _versions() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("trl", "transformers", "torch"))
