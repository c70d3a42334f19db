"""The model card that is saved beside a trained pair."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

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
MEASURES = ("reward", "iw_bound", "ess", "entropy", "frac_unique_selections", "selection_recall")


def write_model_card(
    folder: Path, training: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]], repo_id: str | None = None
) -> None:
    """Write `README.md`: what the folder holds, how to use it, how it was trained, and what to cite.

    Args:
        folder: Where the two models are.
        training: Values of `DROConfig`.
        log_history: Of the trainer; the measures shown are those of its last record that has any.
        repo_id: Of the hub repository that the folder goes to, where it does.
    """
    options = "\n".join(f"| `{name}` | `{training[name]}` |" for name in OPTIONS)
    last: Mapping[str, Any] = next((record for record in reversed(log_history) if "reward" in record), {})
    measures = "\n".join(f"| {name} | {last[name]:.3f} |" for name in MEASURES if name in last) or "| none logged | |"
    where = f'snapshot_download("{repo_id}")' if repo_id else f'"{folder.name}"'
    imported = "from huggingface_hub import snapshot_download\n\n" if repo_id else ""
    data = ModelCardData(library_name="dro-trl", tags=["dro", "trl", "retrieval-augmented-generation"])
    card = ModelCard(f"""---
{data.to_yaml()}
---

# A selector and a generator trained by DRO

`selector/` chooses and orders retrieved passages, `generator/` answers from them. Both were trained together by
Direct Retrieval-augmented Optimization with [dro-trl](https://arxiv.org/abs/2505.03075).

```python
{imported}from dro_trl import PyseriniRetriever, RAGPipeline

folder = {where}
pipeline = RAGPipeline.from_pretrained(folder, retriever=PyseriniRetriever("index"))
print(pipeline("Who wrote it?").answer)
```

Each model also loads alone, with `AutoModelForCausalLM.from_pretrained(f"{{folder}}/selector")`.

## Training

| option | value |
|---|---|
{options}

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
    "learning_rate",
    "num_train_epochs",
    "seed",
)


def write_warmup_card(folder: Path, facts: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    """Write `README.md`: what the model is, what it started from and learnt, and what to cite.

    Args:
        folder: Where the model is.
        facts: `part` (selector or generator), and further lines of the table, such as its start and dataset.
        training: Values of `WarmupConfig`.
    """
    policy = ("policy", "policy_kwargs") if facts["part"] == "selector" else ()
    shown = {**facts, **{name: training[name] for name in (*WARMUP_OPTIONS, *policy)}}
    options = "\n".join(f"| `{name}` | `{value}` |" for name, value in shown.items())
    data = ModelCardData(library_name="transformers", tags=["dro", "trl", "sft", "retrieval-augmented-generation"])
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


def _versions() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("trl", "transformers", "torch"))
