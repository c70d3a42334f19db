"""Options of Trainer and kinds of adapters that would have no effect here, or a wrong one."""

from typing import Any

SINGLE = "is meant for a single model that Trainer calls itself, and would change nothing"
METRICS = "goes with `compute_metrics`, which a pair has none of"
ORDER = "would change the order in which questions come, which the sampler decides"

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "average_tokens_across_devices": ((True,), "would change nothing, since losses are means over questions"),
    "auto_find_batch_size": (
        (False,),
        "would start again with weights that were trained already, and with fewer questions a step; set "
        "per_device_train_batch_size and gradient_accumulation_steps, or scoring_token_budget",
    ),
    "batch_eval_metrics": ((False,), METRICS),
    "bf16_full_eval": (
        (False,),
        "would change nothing while training, and turn the weights themselves before; give the models a dtype",
    ),
    "dataloader_drop_last": ((False,), "would leave questions of the evaluation out"),
    "dataloader_in_order": ((True,), ORDER),
    "do_predict": ((False,), "asks for predictions, which `dro-trl evaluate` makes"),
    "eval_do_concat_batches": ((True,), METRICS),
    "eval_use_gather_object": ((False,), METRICS),
    "fp16_full_eval": (
        (False,),
        "would change nothing while training, and turn the weights themselves before; give the models a dtype",
    ),
    "group_by_length": ((False,), ORDER),
    "ignore_data_skip": ((False,), "would make a resumed run another one; interrupted runs go on exactly here"),
    "include_for_metrics": (([],), METRICS),
    "include_inputs_for_metrics": ((False,), METRICS),
    "include_num_input_tokens_seen": (("no", False), "looks for one model's inputs; `num_tokens` is logged anyway"),
    "include_tokens_per_second": ((False, None), "looks for one model's inputs; `num_tokens` is logged anyway"),
    "jit_mode_eval": ((False,), SINGLE),
    "label_names": ((None,), METRICS),
    "label_smoothing_factor": ((0, 0.0), SINGLE),
    "length_column_name": (("length", None), ORDER),
    "liger_kernel_config": ((None,), SINGLE),
    "neftune_noise_alpha": (
        (None,),
        "puts noise on the embeddings of a single model; of a pair, sampling and training would see different noise",
    ),
    "optim_target_modules": ((None,), "goes with optimizers that are refused here (GaLore, APOLLO)"),
    "parallelism_config": ((None,), "splits a single model; use DDP, FSDP2 or DeepSpeed, as recipes/accelerate does"),
    "past_index": ((-1,), SINGLE),
    "remove_unused_columns": ((False,), "would take the columns that rewards read"),
    "train_sampling_strategy": (("random",), ORDER),
    "use_cache": ((False, None), SINGLE),
    "use_liger_kernel": (
        (False,),
        "would change nothing, since transformers applies those kernels to a single model and not to a pair; or call "
        "liger-kernel's own function for the model's type before the models are loaded",
    ),
}
"""Fields of `TrainingArguments`, of some version, with the values that they may have and what is wrong with others."""

ACCELERATOR = {"split_batches": False, "dispatch_batches": None, "even_batches": True}
"""Fields of `accelerator_config`, whose other values would share questions out otherwise than the sampler does."""

OPTIMIZERS = ("galore", "apollo", "lomo", "adalomo")
"""Beginnings of the optimizers that make groups of their own, in which the models' learning rates would be lost."""

ADAPTERS = {
    "ADALORA": "its ranks are allocated by calls of a training loop of its own",
    "ADAPTION_PROMPT": "it takes each text for a row of its own",
    "POLY": "it wants a task id with each text",
    "SHADOW": "it computes another model's forward beside this one",
    "XLORA": "it mixes adapters by a forward of its own",
}
"""Kinds of adapters (`peft_type`) that a pair cannot have, and why."""


def check_adapter(config: Any | None) -> None:
    """Refuse an adapter that cannot be trained in a pair, or only without what it is for.

    Args:
        config: A PEFT config, None where there is no adapter.

    Raises:
        ValueError: Names the option, and what to give in its place.
    """
    if config is None:
        return
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or kind in ADAPTERS:
        why = ADAPTERS.get(kind, "its virtual tokens would have to stand in every text, which shares rows with others")
        raise ValueError(f"peft_config of the kind {kind} cannot be used here: {why}; use another, such as LoraConfig")
    for name, allowed, why in (
        ("task_type", (None, "CAUSAL_LM"), "both models are causal LMs"),
        ("alora_invocation_tokens", (None,), "no prompt here holds such tokens, so that nothing would be learnt"),
        ("layer_replication", (None,), "attention masks are made for the layers that the model has"),
        ("loftq_config", (None, {}), "the weights would have to be quantised first, which nothing here does"),
    ):
        value = getattr(config, name, allowed[0])
        if getattr(value, "value", value) not in allowed:
            raise ValueError(f"peft_config.{name}={value!r} cannot be used here: {why}; leave it {allowed[0]!r}")
    init = getattr(config, "init_lora_weights", True)
    if init in ("corda", "eva", "lora_ga"):
        raise ValueError(
            f"peft_config.init_lora_weights={init!r} cannot be used here: the weights would have to be computed "
            "from data first; put the adapter on the model, train from its folder, or leave it True"
        )


def check_options(args: Any) -> None:
    """Refuse options of `transformers.TrainingArguments` that would have no effect here, or a wrong one.

    Raises:
        ValueError: Names the option, its value, what is wrong with it and what to set.
    """
    for name, (allowed, why) in REFUSED.items():
        value = getattr(args, name, allowed[0])
        if value not in allowed:
            raise ValueError(f"{name}={value!r} {why}; leave it {allowed[0]!r}")
    for name, allowed_value in ACCELERATOR.items():
        value = getattr(args.accelerator_config, name, allowed_value)
        if value != allowed_value:
            raise ValueError(
                f"accelerator_config.{name}={value!r} would share questions out in another way than the sampler does; "
                f"leave it {allowed_value!r}"
            )
    optimizer = str(getattr(args.optim, "value", args.optim))
    if optimizer.startswith(OPTIMIZERS):
        raise ValueError(
            f"optim={optimizer!r} makes groups of weights of its own, in which the learning rates of the two models "
            "would be lost; use another, such as 'adamw_torch'"
        )
    if args.do_eval and str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
        raise ValueError("do_eval=True and eval_strategy='no' never evaluate; set eval_strategy to 'steps' or 'epoch'")
