"""How many operators a training step dispatches, by kind: what a GPU waits for where a step is little work.

    OMP_NUM_THREADS=1 python examples/benchmarks/operators_of_a_step.py
    OMP_NUM_THREADS=1 python examples/benchmarks/operators_of_a_step.py --compiled     # minutes more

A Qwen2 of 24 layers and 14 heads, as Qwen2.5 0.5B has them, but 56 wide, as selector and generator in float32, LoRA on
all linear layers of both, eight questions a step, N = 20 passages of 10 tokens, K = 5, M = 16: how wide a layer is and
how long a passage changes next to nothing. Counted are calls below autograd, of operators that a device or a view has
to answer: not what only calls others (`linear` is `t` and `addmm`), nor what those call inside. A kernel that the
compiler wrote is one. Of the third step, by torch.profiler.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from selector_memory import POLICIES
from small_models import questions, random_model, word_tokenizer
from small_runs import COMMON, NUM_SELECTED
from torch._inductor import config as inductor
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import TrainerCallback

from dro_trl import DROConfig, DROTrainer
from dro_trl.files.writing import write_json

SHAPE = {
    "hidden_size": 56,
    "intermediate_size": 112,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
KINDS = {
    "products": {"mm", "addmm", "addmm_", "bmm", "linear"},
    "attention": {
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    },
    "gathers": {"index", "index_select", "index_add", "index_add_", "gather", "cat", "new_zeros", "stack"},
    "views": {
        *("view", "_unsafe_view", "t", "transpose", "select", "slice", "squeeze", "unsqueeze", "expand", "detach"),
        *("as_strided", "alias", "split", "split_with_sizes", "unbind", "permute", "lift_fresh", "detach_", "narrow"),
        *("_reshape_alias", "diagonal", "unfold"),
    },
}
"""Names of operators; compiled kernels are `compiled`, and all that is left is `elementwise and other`."""
PHASES = ("drawing", "selector", "generator", "backward", "rest")


class CountedStep(TrainerCallback):
    """The operators of the last step, by phase and kind."""

    def __init__(self, trainer: DROTrainer) -> None:
        self._profiler = profile(activities=[ProfilerActivity.CPU])
        pair: Any = trainer.model
        trainer.accelerator.backward = _noted("backward", trainer.accelerator.backward)
        pair.policy.sample = _noted("selector", pair.policy.sample)
        pair.scorer.logps = _noted("generator", pair.scorer.logps)
        if hasattr(pair.policy, "_write"):
            pair.policy._write = _noted("drawing", pair.policy._write)
        trainer.add_callback(self)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps - 1:
            self._profiler.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            self._profiler.stop()

    def count(self) -> dict[str, Counter[str]]:
        """Return the counts of each phase by the operator's name."""
        events = self._profiler.events()
        spans = [(e.name[2:], e.time_range.start, e.time_range.end) for e in events if e.name.startswith("##")]
        found: dict[str, Counter[str]] = {phase: Counter() for phase in PHASES}
        for event in events:
            if _is_dispatched(event):
                at = event.time_range.start
                phases = {name for name, start, end in spans if start <= at < end}
                found[next((phase for phase in PHASES if phase in phases), "rest")][event.name] += 1
        return found


def _noted(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(f"##{phase}"):
            return function(*args, **kwargs)

    return call


def _is_compiled(name: str) -> bool:
    return "cpp_fused" in name or name.startswith("triton_")


def _is_operator(name: str) -> bool:
    return name.startswith(("aten::", "torch_", "prims::")) or _is_compiled(name)


_DISPATCHED = set(torch._C._dispatch_get_all_op_names())
_COMPOSITE: dict[str, bool] = {}


def _is_composite(name: str) -> bool:
    """Whether an operator does no more than call others."""
    if name not in _COMPOSITE:
        schemas = torch._C._jit_get_schemas_for_operator(name) if "::" in name else []
        plain = [schema for schema in schemas if "Dimname" not in str(schema)]
        overloads = {f"{s.name}.{s.overload_name}" if s.overload_name else s.name for s in plain}
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        _COMPOSITE[name] = any(has(overload, "CompositeImplicitAutograd") for overload in overloads & _DISPATCHED)
    return _COMPOSITE[name]


def _is_dispatched(event: Any) -> bool:
    if not _is_operator(event.name) or _is_composite(event.name):
        return False
    parent = event.cpu_parent
    while parent is not None:
        if _is_operator(parent.name) and not _is_composite(parent.name):
            return False
        parent = parent.cpu_parent
    return True


def kind_of(name: str) -> str:
    """Return the kind of an operator."""
    plain = name.removeprefix("aten::")
    if _is_compiled(name):
        return "compiled"
    return next((kind for kind, names in KINDS.items() if plain in names), "elementwise and other")


def count_step(
    policy: str, compiled: bool, layers: int = 24, questions_a_step: int = 8, num_selections: int = 16
) -> dict[str, Counter[str]]:
    """Train three steps, and return what `CountedStep.count` finds in the last."""
    torch.set_num_threads(1)
    path, kwargs = POLICIES[policy]
    rows = Dataset.from_list(questions(3 * questions_a_step, 20, 10))
    shape = {**SHAPE, "num_hidden_layers": layers}
    options: dict[str, Any] = {
        **COMMON,
        "max_steps": 3,
        "num_selections": num_selections,
        "num_selected": NUM_SELECTED,
    }
    options |= {"per_device_train_batch_size": questions_a_step, "use_cpu": True, "torch_compile": compiled}
    kernels = patch("dro_trl.lm.attention.attends_by_products", return_value=False)  # As on a GPU.
    with tempfile.TemporaryDirectory() as folder, inductor.patch("cpp.enable_kernel_profile", True), kernels:
        trainer = DROTrainer(
            model=random_model("qwen2", **shape).cpu(),
            generator=random_model("qwen2", **shape).cpu(),
            args=DROConfig(folder, **options),
            train_dataset=rows,
            processing_class=word_tokenizer(),
            generator_processing_class=word_tokenizer(),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        counted = CountedStep(trainer)
        trainer.train()
    return counted.count()


def table(found: dict[str, Counter[str]], title: str) -> Table:
    """Return the counts of each phase, by kind."""
    kinds = [*KINDS, "compiled", "elementwise and other"]
    shown = Table("", *kinds, "all", title=title)
    total: Counter[str] = Counter()
    for phase, names in found.items():
        by_kind: Counter[str] = Counter()
        for name, count in names.items():
            by_kind[kind_of(name)] += count
        total += by_kind
        shown.add_row(phase, *(str(by_kind[kind]) for kind in kinds), str(by_kind.total()))
    shown.add_row("all", *(str(total[kind]) for kind in kinds), str(total.total()))
    return shown


def main() -> None:
    """Count, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=["pointwise", "autoregressive"])
    parser.add_argument("--compiled", action="store_true", help="with torch_compile")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--questions", type=int, default=8, help="of a step")
    parser.add_argument("--num_selections", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("operators_of_a_step.json"))
    options = parser.parse_args()
    results = {}
    for policy in options.policies:
        sizes = options.layers, options.questions, options.num_selections
        results[policy] = found = count_step(policy, options.compiled, *sizes)
        Console(width=140).print(table(found, f"{policy}{', compiled' * options.compiled}"))
    write_json(options.output, results)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
