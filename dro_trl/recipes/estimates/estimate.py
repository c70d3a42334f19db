"""What a recipe is expected to need: its options, its model's configuration and its data, put into the formulas."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from trl import ModelConfig

from dro_trl.lm import devices
from dro_trl.models.loading import starts_at_nothing
from dro_trl.models.reading import whole_name
from dro_trl.policies.base import policy_class
from dro_trl.recipes.arguments import DROScriptArguments, make_parts
from dro_trl.recipes.building import peft_config_of
from dro_trl.recipes.estimates import memory
from dro_trl.recipes.estimates.exchange import Exchanged, divided_time, exchanged_bytes
from dro_trl.recipes.estimates.flops import forward_flops, training_flops
from dro_trl.recipes.estimates.lengths import Lengths, QuestionLengths, StatedLengths, find_lengths, passages_read
from dro_trl.recipes.estimates.memory import ModelStep
from dro_trl.recipes.estimates.model_shapes import describe_model, load_config
from dro_trl.recipes.estimates.quantities import Backend, BackendName, ModelShape, Precision, Reading, Tuning
from dro_trl.recipes.file import find_recipe, read_recipe
from dro_trl.recipes.options import Given
from dro_trl.trainer.building import measures_from_a_copy
from dro_trl.trainer.dro_config import DROConfig
from dro_trl.trainer.starts import goes_on, start_names

QUANTISED = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}
"""Bytes of a quantised weight; at four bits with a float32 scale for each 64 (Dettmers et al., 2023, section 3)."""
DEEPSPEED, SHARDED = "DEEPSPEED", "FSDP"


@dataclass(frozen=True)
class Role:
    """One of the two models, as it is trained."""

    shape: ModelShape
    tuning: Tuning
    trained: int
    """Number of trained weights."""


@dataclass(frozen=True)
class Run:
    """All that the formulas ask about a run."""

    args: DROConfig
    selector: Role
    generator: Role
    precision: Precision
    backend: Backend
    lengths: Lengths
    base_bytes: float
    """Bytes of a weight of the base models' matrices: less than `precision.weights` where they are quantised."""
    reference: bool = False
    """Whether `kl_coef` is measured from a copy of the selector."""

    @property
    def adapters(self) -> bool:
        """Whether adapters are trained."""
        return any(role.tuning.adapted is not None for role in (self.selector, self.generator))

    @property
    def autoregressive(self) -> bool:
        """Whether selections are written token by token."""
        return bool(policy_class(self.args.policy).writes)


def read_backend(
    path: Path | None, gpu: bool, name: str | None = None, processes: int | None = None
) -> tuple[Backend, str]:
    """Return the backend that an accelerate config names, with options in its place, and its mixed precision.

    Raises:
        ValueError: If the config names a backend that is not known here.
    """
    path = find_recipe(str(path), "accelerate") if path else None
    config: dict[str, Any] = read_recipe(path) if path else {}
    deepspeed, kind = config.get("deepspeed_config") or {}, str(config.get("distributed_type", "NO"))
    count = processes or int(config.get("num_processes", 1))
    if kind not in (DEEPSPEED, SHARDED, "MULTI_GPU", "MULTI_CPU", "NO"):
        raise ValueError(f"{path}: distributed_type={kind!r} cannot be estimated; use one of recipes/accelerate")
    found = {DEEPSPEED: f"ZeRO-{deepspeed.get('zero_stage')}", SHARDED: "FSDP2"}.get(kind, "DDP")
    chosen: Any = name or (found if count > 1 or kind in (DEEPSPEED, SHARDED) else "one process")
    if chosen not in get_args(BackendName):
        source = f"--backend {chosen!r}" if name else f"{path}: {chosen!r}"
        raise ValueError(f"{source} is unknown; use one of {', '.join(get_args(BackendName))}")
    backend = Backend(
        chosen,
        count,
        offload_weights=deepspeed.get("offload_param_device", "none") not in (None, "none"),
        offload_optimizer=deepspeed.get("offload_optimizer_device", "none") not in (None, "none"),
        gpu=gpu,
    )
    return backend, str(config.get("mixed_precision", "no"))


def describe_run(
    script: Any,
    args: DROConfig,
    model: ModelConfig,
    backend: Backend,
    mixed_precision: str = "no",
    model_config: str | None = None,
    stated: StatedLengths | None = None,
) -> Run:
    """Put together what the formulas ask of a recipe.

    Args:
        script: Of the recipe.
        args: Of the recipe.
        model: Of the recipe.
        backend: How the work is divided.
        mixed_precision: Of the accelerate config.
        model_config: Where the model's configuration is, instead of `model_name_or_path`.
        stated: Lengths to use instead of the data.
    """
    kwargs: Any = args.model_init_kwargs or {}
    given = start_names(str(model.model_name_or_path), args.generator_name_or_path)
    names = {role: str(start) for role, start in given.items() if start}
    peft_config = peft_config_of(model, *([] if model_config else names.values()))
    device = torch.device("cuda" if backend.gpu else "cpu")
    hardware = replace(devices.find_hardware(), bfloat16=True)  # Of the GPU that a run is for, which need not be here.
    asked = kwargs.get("dtype", model.dtype or "float32")
    weights = devices.choose_trained_dtype(asked, device, peft_config is not None, hardware).itemsize
    config = load_config(model_config or whole_name(names["selector"]))
    checkpointing = bool(args.activation_checkpointing)

    def role(trained: bool, of: Any) -> Role:
        return Role(*describe_model(of, peft_config, trained, checkpointing))

    half = args.bf16 or args.fp16 or mixed_precision in ("bf16", "fp16")
    base = QUANTISED["4bit"] if model.load_in_4bit else QUANTISED["8bit"] if model.load_in_8bit else weights
    precision = Precision(weights, 2 if half else weights, adapters=4, autocast=half)
    if backend.deepspeed or backend.name == "FSDP2":  # They convert the model itself.
        computed = 2 if half else weights
        precision = Precision(computed, computed, adapters=computed)
    other = None if args.shared_base or model_config else names.get("generator")
    return Run(
        args=args,
        selector=role(args.train_selector, config),
        generator=role(args.train_generator, load_config(whole_name(other)) if other else config),
        precision=precision,
        backend=backend,
        lengths=find_lengths(script, args, names["selector"], stated),
        base_bytes=base,
        reference=has_reference(args, peft_config, None if model_config else names["selector"]),
    )


def has_reference(args: DROConfig, peft_config: Any, start: str | None) -> bool:
    """Whether a run holds a copy of its selector's start to measure `kl_coef` from.

    Args:
        args: Of the recipe.
        peft_config: The adapter that is trained, if one is.
        start: The selector's, None where it is not here to look at.
    """
    if not measures_from_a_copy(args, goes_on=True, switched_off_exactly=False):
        return False
    continued = start is not None and goes_on(start, peft_config, args.model_init_kwargs)
    exactly = starts_at_nothing(peft_config) or (args.shared_base and peft_config is not None)
    return measures_from_a_copy(args, continued, exactly)


def whole_bytes(run: Run, shape: ModelShape) -> float:
    """Return the bytes of a base model's weights."""
    outside = shape.parameters - shape.layers * shape.layer_weights
    return outside * run.precision.weights + shape.layers * shape.layer_weights * run.base_bytes


def frozen_memory(run: Run) -> float:
    """Return the bytes of the weights that are not trained: bases of adapters, and a copy of the selector's start."""

    def whole(role: Role) -> float:
        return whole_bytes(run, role.shape)

    shared = run.args.shared_base
    frozen = sum(whole(role) for role in [run.selector, *([] if shared else [run.generator])] if not role.tuning.full)
    if run.reference:
        frozen += whole(run.selector)
        if run.adapters:  # Which are part of what is copied; on a shared base both.
            copied = run.selector.trained + (run.generator.trained if shared else 0)
            frozen += copied * memory.trained_size(run.precision, True, run.backend)
    return frozen


def readings(run: Run, lengths: QuestionLengths, rows: int) -> tuple[Reading, Reading]:
    """Return what the selector and the generator read of a micro-batch of so many questions.

    Identical selections are scored once, and common beginnings read once; here all M of them differ, as far as there
    are so many, from the first passage on. Gold passages are one selection. The K that `loss_type="emdr2"` reads
    together, beside the single ones, are not counted.
    """
    args, k = run.args, passages_read(run.args)
    possible = 1 if args.loss_type == "supervised" else math.perm(max(args.num_candidates, k), k)
    prompts = rows * min(args.num_selections, possible)
    kwargs: Any = args.policy_kwargs or {}
    selector = Reading(
        rows * lengths.selector_rows,
        lengths.selector,
        rows * lengths.selector_kept,
        lengths.selector_compared,
        lengths.selector_longest,
        token_logps=kwargs.get("item_score") == "query_likelihood",
    )
    return selector, Reading(prompts, lengths.generator, prompts * lengths.answer)


def in_one_pass(reading: Reading, budget: int | None) -> Reading:
    """Return what of a reading goes through one forward pass: as many rows as a budget of tokens has room for."""
    rows = reading.rows if budget is None else min(reading.rows, max(1, budget // reading.length))
    return replace(reading, rows=rows, kept=reading.kept * rows / reading.rows)


def model_step(run: Run, role: Role, reading: Reading) -> ModelStep:
    """Return what a model adds to a step's memory."""
    shape, tuning, precision, backend = role.shape, role.tuning, run.precision, run.backend
    logits, logits_kept = memory.logits_memory(shape, precision, reading)
    size = memory.trained_size(precision, tuning.adapted is not None, backend)
    head = shape.head_weights * size if tuning.full else 0.0
    return ModelStep(
        kept=memory.kept_activations(shape, precision, tuning, reading, backend.gpu)
        + memory.converted_weights(shape, precision, tuning),
        forward=memory.working_memory(shape, precision, tuning, reading, backward=False),
        backward=memory.working_memory(shape, precision, tuning, reading) if tuning.trained else 0.0,
        logits=logits,
        logits_kept=logits_kept if tuning.trained else 0.0,
        gradients=backend.share(2, role.trained * size),
        head_gradient=head,
    )


def estimate_memory(run: Run, rows: int | None = None) -> dict[str, Any]:
    """Return the bytes that a process needs: what stays, what a step adds at each of its moments, and the peak."""
    args, precision, backend = run.args, run.precision, run.backend
    roles = [run.selector, run.generator]
    trained = sum(role.trained for role in roles)
    optimizer = str(getattr(args.optim, "value", args.optim))
    state = memory.state_memory(trained, frozen_memory(run), precision, run.adapters, optimizer, backend)
    size = memory.trained_size(precision, run.adapters, backend)
    gathered = max(role.shape.head_weights + 2 * role.shape.layer_weights for role in roles)
    state["buffers"] = memory.communication_memory(trained, gathered, size, precision.compute, backend)
    host = {}
    if backend.offload_weights:
        host["weights"], state["weights"] = state["weights"], 0.0
    if backend.offload_optimizer:
        host |= {"optimizer": state["optimizer"], "gradients": state["gradients"]}
        state |= {"optimizer": 0.0, "gradients": 0.0}
    selector, generator = readings(run, run.lengths.longest, rows or args.per_device_train_batch_size)
    parts = [
        model_step(run, run.selector, selector),
        model_step(run, run.generator, in_one_pass(generator, args.scoring_token_budget)),
    ]
    if backend.offload_optimizer:
        parts = [replace(part, gradients=0.0, head_gradient=0.0) for part in parts]
    stays = args.gradient_accumulation_steps > 1 or backend.deepspeed
    moments = memory.phases(
        state["weights"] + state["optimizer"] + state["buffers"], parts[0], parts[1], gradients_stay=stays
    )
    peak = max(moments, key=moments.__getitem__)
    return {
        "state": state,
        "selector": asdict(parts[0]),
        "generator": asdict(parts[1]),
        "moments": moments,
        "peak_moment": peak,
        "peak": moments[peak],
        "host": host,
    }


def question_flops(run: Run) -> dict[str, float]:
    """Return the operations of one question in one step."""
    args = run.args
    selector, generator = readings(run, run.lengths.mean, 1)
    read = {"selector": (run.selector, selector), "generator": (run.generator, generator)}
    flops = {name: training_flops(role.shape, role.tuning, reading) for name, (role, reading) in read.items()}
    once = {name: sum(forward_flops(role.shape, reading)) for name, (role, reading) in read.items()}
    if not args.on_policy:  # Sampled and scored ahead, once for each question that is trained on num_iterations times.
        flops["estimation"] = (once["selector"] + once["generator"]) / args.num_iterations
    batch = readings(run, run.lengths.mean, args.per_device_train_batch_size)[1]
    again = 1 - in_one_pass(batch, args.scoring_token_budget).rows / batch.rows
    if again and args.train_generator:  # All passes but one are made again in the backward pass.
        flops["recomputation"] = again * once["generator"]
    if run.autoregressive:  # The prompt once more, and every choice in a forward pass of its own.
        flops["drawing"] = once["selector"] / (1 if args.on_policy else args.num_iterations)
    if args.kl_coef > 0 and args.train_selector:
        flops["reference"] = once["selector"]
    return flops


def estimate_time(run: Run, flops_per_second: float) -> dict[str, Any]:
    """Return operations and seconds of an optimizer step, and of the run where the number of questions is known."""
    args, parts = run.args, question_flops(run)
    in_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    step = sum(parts.values()) * in_step
    steps: int | None = args.max_steps if args.max_steps > 0 else None
    if steps is None and run.lengths.num_questions is not None:
        chunk = in_step * run.backend.processes * args.steps_per_estimation
        in_epoch = math.ceil(run.lengths.num_questions / chunk) * args.steps_per_estimation * args.num_iterations
        steps = math.ceil(args.num_train_epochs * in_epoch)
    return {
        "flops_of_a_question": parts,
        "flops_of_a_step": step,
        "flops_per_second": flops_per_second,
        "seconds_of_a_step": step / flops_per_second,
        "questions_of_a_step": in_step * run.backend.processes,
        "steps": steps,
        "seconds": None if steps is None else steps * step / flops_per_second,
    }


def estimate_exchange(run: Run, computing: float, bandwidth: float | None = None) -> dict[str, Any]:
    """Return what a process receives in an optimizer step, and the seconds of a step with it.

    Each model is gathered before a forward pass and before its backward pass; once more before the forward passes of
    an estimation step, of the reference, of each choice that is written, and of each pass that a budget of tokens asks
    for.

    Args:
        run: The run.
        computing: Seconds of its work alone.
        bandwidth: As in `divided_time`.
    """
    args, models = run.args, []
    roles = {"selector": run.selector, "generator": run.generator}
    passes = {name: 1.0 + role.tuning.trained for name, role in roles.items()}
    if not args.on_policy:
        passes = {name: count + 1 / args.num_iterations for name, count in passes.items()}
    if run.autoregressive:
        passes["selector"] += args.num_selected / (1 if args.on_policy else args.num_iterations)
    if run.reference:
        passes["selector"] += 1
    batch = readings(run, run.lengths.mean, args.per_device_train_batch_size)[1]
    passes["generator"] *= math.ceil(batch.rows / in_one_pass(batch, args.scoring_token_budget).rows)
    for name, role in roles.items():
        size = memory.trained_size(run.precision, role.tuning.adapted is not None, run.backend)
        # FSDP2 keeps trained weights in float32, and sends them in what is computed in.
        sent = role.trained * (run.precision.compute if run.backend.stage == 3 else size)
        base = 0.0 if role.tuning.full else whole_bytes(run, role.shape)
        models.append(Exchanged(sent + base, role.trained * size, passes[name]))
    received = exchanged_bytes(run.backend, args.gradient_accumulation_steps, models)
    seconds = divided_time(computing, sum(received.values()), bandwidth)
    return {"received": received, "bandwidth": bandwidth, "seconds": seconds}


def parse_for_any_machine(
    given: Given, launched: bool = False
) -> tuple[tuple[DROScriptArguments, DROConfig, ModelConfig], bool]:
    """Return a recipe's parts, and whether it is for a GPU: transformers refuses `bf16` where there is none.

    Args:
        given: Of the recipe.
        launched: Whether it is for processes that an accelerate config names, on a GPU each unless `use_cpu` is said.

    Raises:
        ValueError: As `make_parts`.
    """
    try:
        parts = make_parts(given, DROConfig, here=False)
    except ValueError:
        if torch.cuda.is_available():
            raise
        return make_parts(given.with_values(use_cpu=True), DROConfig, here=False), True
    if not parts[1].use_cpu or not launched:
        return parts, not parts[1].use_cpu
    _, args, _ = make_parts(given.with_values(bf16=False), DROConfig, here=False)  # Which leaves `use_cpu` as it was.
    return parts, not args.use_cpu


def describe_estimate(run: Run, flops_per_second: float, utilization: float, measured: bool) -> dict[str, Any]:
    """Return what an estimate rests on, as plain JSON."""
    roles = {"selector": run.selector, "generator": run.generator}
    return {
        "backend": asdict(run.backend),
        "precision": asdict(run.precision),
        "models": {
            name: {**asdict(role.shape), "trained": role.trained, "checkpointing": role.tuning.checkpointing}
            for name, role in roles.items()
        },
        "lengths": asdict(run.lengths),
        "rate": {"flops_per_second": flops_per_second, "measured_here": measured, "utilization": utilization},
    }
