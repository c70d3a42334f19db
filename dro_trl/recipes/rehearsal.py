"""What Trainer makes of its options only after everything is loaded, made once beforehand, so that mistakes show."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.utils.import_utils import is_bitsandbytes_available
from trl import ModelConfig, get_peft_config, get_quantization_config

from dro_trl.lm.devices import AUTO, launched_with
from dro_trl.trainer.refused_options import check_adapter


def rehearse(args: TrainingArguments, model: ModelConfig) -> None:
    """Make the adapter's config, the reporters, the optimizer and the schedule that a recipe asks for.

    Raises:
        Exception: Of the libraries, if they cannot be made of these options, or a package that they need is missing.
    """
    check_adapter(get_peft_config(model))
    if is_bitsandbytes_available():  # Else it is said where the weights are quantised.
        get_quantization_config(replace(model, dtype=None) if model.dtype == AUTO else model)
    if args.torch_compile:
        torch.compile(lambda: None, backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)
    for reporter in get_reporting_integration_callbacks(args.report_to):
        reporter()
    if args.deepspeed or launched_with("DEEPSPEED"):  # It makes both by a file of its own.
        return
    with _named(optim=args.optim, optim_args=args.optim_args):
        cls, options = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = cls([torch.nn.Parameter(torch.zeros(2, 2))], **options)
    with _named(lr_scheduler_type=args.lr_scheduler_type, lr_scheduler_kwargs=args.lr_scheduler_kwargs):
        get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=args.get_warmup_steps(100),
            num_training_steps=100,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,  # type: ignore[arg-type]
        )


@contextmanager
def _named(**values: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        plain = {name: getattr(value, "value", value) for name, value in values.items()}
        given = ", ".join(f"{name}={value!r}" for name, value in plain.items() if value)
        raise ValueError(f"{given}: {error}") from error
