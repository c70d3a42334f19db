"""The models and tokenizers that a run starts from: read, frozen or given adapters, and put together."""

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel
from transformers.integrations import deepspeed

from dro_trl.lm.prompts import Tokenizer, render
from dro_trl.lm.turns import (
    Turns,
    check_turns,
    embedding_rows,
    keep_turns,
    read_turns,
    set_turns,
    stop_where_answers_end,
    turns_before,
)
from dro_trl.models.adapters import AdapterView, share_base, train_roles
from dro_trl.models.causal_lm import check_causal
from dro_trl.models.files import check_model_files, check_tokenizer_files, one_line
from dro_trl.models.quantised import keep_gradients
from dro_trl.models.reading import base_of, read_base, read_model, read_shared
from dro_trl.models.selector_generator import AnswerScorer, SelectorGenerator
from dro_trl.models.value_head import ValueHead
from dro_trl.policies.base import SelectionPolicy, load_policy
from dro_trl.trainer.dro_config import DROConfig, SelectionConfig

logger = logging.getLogger(__name__)


def load_model(model: str | PreTrainedModel, init_kwargs: Any = None) -> PreTrainedModel:
    """Return a model, loaded where a name or folder is given: in float32 unless `init_kwargs` say otherwise.

    A folder is named by its absolute path, so that a saved adapter finds it again from anywhere on this machine.
    An adapter comes as a `PeftModel` on its base.

    Raises:
        OSError: If a file is missing, the base of an adapter included.
        ValueError: If it is not a causal language model, a file is damaged, or its tensors are not those of the model.
    """
    if isinstance(model, str) and Path(model).is_dir():
        check_model_files(Path(model))
    check_causal(model, init_kwargs)
    if not isinstance(model, str):
        return model
    if Path(model).is_dir():
        model = str(Path(model).resolve())
    loaded: PreTrainedModel = read_model(model, **{"dtype": torch.float32, **(init_kwargs or {})})
    return loaded


@contextlib.contextmanager
def loading_whole() -> Iterator[None]:
    """Load models whole on each process in this context, where ZeRO-3 would shard them and no engine gather them.

    For models that the trainer does not know of, such as one that a reward calls.
    """
    active = deepspeed._hf_deepspeed_config_weak_ref and deepspeed._hf_deepspeed_config_weak_ref()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if active is not None:
            deepspeed.set_hf_deepspeed_config(active)


@dataclass
class Start:
    """What one of the two models starts from."""

    model: Any
    """A causal LM, a PEFT model whose adapter goes on, or an `AdapterView` of one that is shared."""
    name: str
    """Its name or absolute folder, empty for a model made in memory."""
    is_copy: bool = False
    """Whether it is a generator without a start of its own, whose tokenizer is the selector's as well."""
    turns: Turns | None = None
    """What it read around texts, as part of the finished pair that it is of."""

    def copy(self, init_kwargs: Any = None) -> Any:
        """Return a second model with the same weights; `init_kwargs` are those that it was loaded with.

        A model that was loaded under ZeRO-3 is in parts on several processes, and has to be loaded again.
        """
        model = self.model.model if isinstance(self.model, AdapterView) else self.model
        if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            return load_model(self.name, init_kwargs)
        return copy.deepcopy(model)


def load_shared(
    folders: dict[str, str], device: str | torch.device | None = None, init_kwargs: Any = None
) -> dict[str, AdapterView]:
    """Return the base that two adapters were trained on, with both, as a view of each.

    Args:
        folders: Those of the adapters, for `selector` and `generator`.
        device: Where the model goes; where it is loaded to where None.
        init_kwargs: For the base, as in `load_model`.

    Raises:
        ValueError: If their bases differ.
    """
    bases = {name: base_of(folder) for name, folder in folders.items()}
    if bases["selector"] != bases["generator"]:
        raise ValueError(
            f"{folders['selector']} is an adapter of {bases['selector']} and {folders['generator']} one of "
            f"{bases['generator']}, but shared_base is true; they need one base"
        )
    kwargs = {"dtype": torch.float32, **(init_kwargs or {})}
    base = read_base(bases["selector"], folders["selector"], kwargs)
    return read_shared(base if device is None else base.to(device), folders)


def prepare_model(model: PreTrainedModel, train: bool, peft_config: PeftConfig | None) -> nn.Module:
    """Freeze a model that is not trained, and put an adapter on one that is where a PEFT config is given.

    An adapter that the model has already goes on.
    """
    if not train:
        return model.requires_grad_(False)
    if isinstance(model, PeftModel):
        model.set_adapter(model.active_adapter)  # It was loaded frozen.
        return model
    if peft_config is None:
        return model
    _warn_of_nameless_base(model)
    try:
        return get_peft_model(keep_gradients(model), copy.deepcopy(peft_config))
    except ValueError as error:  # Its layers are none of the model's, or its sizes are none.
        raise ValueError(f"peft_config does not fit {model.name_or_path or 'the model'}: {error}") from error


def _warn_of_nameless_base(model: PreTrainedModel) -> None:
    if not model.name_or_path:
        logger.warning(
            "the adapter of a model made in memory cannot be loaded from its folder alone, since it names no base "
            "model; save the model first, and give its folder"
        )


def load_tokenizer(
    source: str | Tokenizer, option: str = "processing_class", trust_remote_code: bool = False
) -> Tokenizer:
    """Return a tokenizer, loaded where a name or folder is given, with a padding token.

    Args:
        source: The tokenizer, or where it is.
        option: What to set where there is none, for the error.
        trust_remote_code: Whether to run code that comes with it.

    Raises:
        FileNotFoundError: If the folder holds none.
        ValueError: If the source is empty, as the name of a model made in memory is, a file is damaged, or there is no
            padding token.
    """
    if source == "":
        raise ValueError(
            f"{option} is not set, and the model, made in memory, has no folder with a tokenizer; pass one"
        )
    tokenizer = _read_tokenizer(source, trust_remote_code) if isinstance(source, str) else source
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"{option}: the tokenizer of {source if isinstance(source, str) else tokenizer.name_or_path!r} has "
                "neither a pad_token nor an eos_token; give it one of them"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_tokenizers(
    starts: Mapping[str, Start], args: SelectionConfig, *given: Tokenizer | None
) -> dict[str, Tokenizer]:
    """Return the tokenizers of a selector and a generator, with what their models read around texts.

    Args:
        starts: Of `selector` and `generator`: by where they stop they say whether a chat template fits. The tokenizer
            of a generator without a start of its own is the selector's.
        args: Say whether and how chat templates are applied.
        given: Of each a tokenizer, or None where it is beside the model.

    Raises:
        ValueError: If there is no tokenizer, or no chat template that was asked for.
    """
    found: dict[str, Tokenizer] = {}
    kwargs: Any = args.chat_template_kwargs
    loading: Any = getattr(args, "model_init_kwargs", None) or {}
    trusted = bool(loading.get("trust_remote_code"))
    for (name, start), own in zip(starts.items(), given, strict=True):
        if own is None and start.is_copy:
            found[name] = found["selector"]
            continue
        option = "processing_class" if name == "selector" else f"{name}_processing_class"
        tokenizer = load_tokenizer(own or start.name, option, trusted)
        if start.turns and own is None and args.chat == "auto" and not (kwargs or args.chat_template_path):
            logger.warning(f"{name}: prompts are read as in the pair that it starts from")
            found[name] = keep_turns(tokenizer, start.turns)
        else:
            found[name] = set_turns(tokenizer, args.chat, kwargs, args.chat_template_path, start.model, name)
    return found


def saved_tokenizers(
    folder: Path, turns: Mapping[str, Any] | None, trust_remote_code: bool = False
) -> dict[str, Tokenizer]:
    """Return the tokenizers that were saved with a pair, whose models read around texts what they read in training.

    Args:
        folder: The pair's.
        turns: What its `dro_config.json` says of them.
        trust_remote_code: As in `load_tokenizer`.

    Raises:
        ValueError: If `turns` are none.
    """
    found = {}
    for name in ("selector", "generator"):
        tokenizer = load_tokenizer(str(folder / name), trust_remote_code=trust_remote_code)
        if turns is None:
            kept = turns_before(tokenizer)
        else:
            kept = read_turns(turns.get(name), f"{folder / 'dro_config.json'}: turns.{name}")
        found[name] = keep_turns(tokenizer, kept)
    return found


def _read_tokenizer(source: str, trust_remote_code: bool) -> Tokenizer:
    if Path(source).is_dir():
        check_tokenizer_files(Path(source))
    with one_line(source, "a tokenizer"):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)


def check_loaded(model: Any, tokenizer: Tokenizer, source: str) -> None:
    """Refuse a model that does not run, and a tokenizer that writes texts with tokens it has no embeddings for.

    Special tokens may be beyond them, since none is written: that of Gemma 3 for images is, in its models of text.

    Raises:
        ValueError: If there are others, or the model's config says what fails only once it runs.
    """
    rows = embedding_rows(model)
    added = [str(token) for at, token in tokenizer.added_tokens_decoder.items() if at >= rows and not token.special]
    if tokenizer.vocab_size > rows or added:
        raise ValueError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens and the model embeddings for {rows} alone; it is "
            "another model's: save or copy it again"
        )
    with torch.no_grad(), one_line(source, "a causal LM", "run as"):
        model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device))


def _check_policy(policy: SelectionPolicy, args: DROConfig) -> None:
    """Refuse a policy that says otherwise than the options do, or does not go with them."""
    if policy.num_selected != args.num_selected:
        raise ValueError(
            f"policy.num_selected={policy.num_selected} and num_selected={args.num_selected} differ; give one K"
        )
    if getattr(policy, "texts", args.texts) != args.texts:
        raise ValueError(f"policy.texts and prompt_texts={args.prompt_texts} differ; give both the same")
    weights = getattr(policy, "score_weights", None)
    if weights is not None and weights.weight.requires_grad and not args.train_selector:
        raise ValueError(
            "learn_weights=True and train_selector=False: the policy's weights are learnt with the selector; set "
            "train_selector to True (learning_rate=0 leaves the model itself as it is), or learn_weights to False"
        )
    if getattr(policy, "proposal", "policy") == "every_passage":
        _check_every_passage(args)


def _check_every_passage(args: DROConfig) -> None:
    """Refuse what estimates something from selections that were drawn, where none is."""
    for name, needed in (("loss_type", "dro"), ("entropy_coef", 0), ("kl_coef", 0)):
        if getattr(args, name) != needed:
            raise ValueError(
                f"proposal='every_passage' and {name}={getattr(args, name)!r} do not go together, since that needs "
                f"selections drawn from the policy; set {name}={needed!r}, or proposal='policy'"
            )


def measures_from_a_copy(args: DROConfig, goes_on: bool, switched_off_exactly: bool) -> bool:
    """Whether `kl_coef` is measured from a copy of the selector's start, not from its base without the adapter.

    Args:
        args: The options.
        goes_on: Whether the selector starts with an adapter.
        switched_off_exactly: As `is_switched_off_exactly` says of it.
    """
    return bool(args.kl_coef > 0 and args.train_selector and (goes_on or not switched_off_exactly))


def is_switched_off_exactly(model: Any) -> bool:
    """Whether a model without its adapter is what the adapter starts from.

    Of one that goes on it is not, which is a matter of the start; nor where biases are trained, the base is changed,
    or the adapter does not start at nothing.
    """
    if isinstance(model, AdapterView):
        return True
    return starts_at_nothing(model.peft_config[model.active_adapter] if isinstance(model, PeftModel) else None)


def starts_at_nothing(config: PeftConfig | None) -> bool:
    """Whether a new adapter leaves a model what it is, so that the model without it is what it starts from."""
    if not isinstance(config, LoraConfig):
        return False
    return config.bias == "none" and config.init_lora_weights in (True, "gaussian", "orthogonal")


def make_pair(
    starts: dict[str, Start],
    tokenizers: dict[str, Tokenizer],
    args: DROConfig,
    policy: SelectionPolicy | None = None,
    peft_config: PeftConfig | None = None,
    all_aliases: bool = False,
    learnt: dict[str, float] | None = None,
) -> SelectorGenerator:
    """Return the composite module of a selector and a generator.

    Args:
        starts: Of `selector` and `generator`; with `args.shared_base` both are one object, or views of one.
        tokenizers: Theirs.
        args: Says which of them is trained.
        policy: Made from `args.policy` where None.
        peft_config: Adapter put on each model that is trained and has none.
        all_aliases: Score every alias of an answer, not the first alone.
        learnt: Arguments of the policy that take the place of those in `args`.

    Raises:
        ValueError: If the policy selects another number of passages or reads other texts than `args` say, its proposal
            does not go with `args`, the generator is to think and has no place for it, or `peft_config` does not allow
            for a shared base.
    """
    if policy is None:
        kwargs: Any = {**(args.policy_kwargs or {}), **(learnt or {})}  # type: ignore[dict-item]
        policy = load_policy(args.policy, tokenizers["selector"], args.num_selected, kwargs, args.texts)
    _check_policy(policy, args)
    models = {role: start.model for role, start in starts.items()}
    for name, model in models.items():
        check_turns(model, tokenizers[name], name)
        stop_where_answers_end(model, tokenizers[name])
    if args.max_thinking_tokens:
        render(tokenizers["generator"], "", think=True)  # Refuses now what has no place for a thought.
    trained = {"selector": args.train_selector, "generator": args.train_generator}
    parts: dict[str, Any]
    if isinstance(models["selector"], AdapterView):
        train_roles(models["selector"].model, trained)
        parts = models
    elif args.shared_base:
        _warn_of_nameless_base(models["selector"])
        parts = share_base(keep_gradients(models["selector"]), peft_config, trained)
    else:
        parts = {name: prepare_model(model, trained[name], peft_config) for name, model in models.items()}
    reference = None
    goes_on = isinstance(models["selector"], (PeftModel, AdapterView))
    if measures_from_a_copy(args, goes_on, is_switched_off_exactly(parts["selector"])):
        reference = Start(parts["selector"], starts["selector"].name).copy(args.model_init_kwargs)
    scorer = AnswerScorer(tokenizers["generator"], all_aliases, args.texts, args.scoring_token_budget)
    value_head = None
    if args.loss_type == "ppo" and args.train_selector:
        hidden_size = models["selector"].config.get_text_config().hidden_size
        value_head = ValueHead(hidden_size, getattr(policy, "state_pooling", "first")).to(models["selector"].device)
    pair = SelectorGenerator(parts["selector"], parts["generator"], policy, scorer, reference, value_head)
    for module in pair.modules() if args.disable_dropout else ():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return pair
