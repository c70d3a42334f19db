"""From options to models: tokenizers, and the pair that is trained."""

from collections.abc import Mapping
from typing import Any

from peft import PeftConfig, PeftModel
from torch import nn

from dro_trl.lm.encoding import render
from dro_trl.lm.endpoint import GeneratorEndpoint
from dro_trl.lm.lora import join_lora
from dro_trl.lm.tokens import Tokenizer
from dro_trl.lm.turns import (
    check_turns,
    keep_turns,
    set_turns,
    stop_where_answers_end,
)
from dro_trl.losses.options import OVER_PASSAGES
from dro_trl.models.adapters import AdapterView, share_base, train_roles
from dro_trl.models.answers import AnswerScorer
from dro_trl.models.known_answers import KnownAnswers
from dro_trl.models.loading import (
    Start,
    _warn_of_nameless_base,
    is_switched_off_exactly,
    load_tokenizer,
    logger,
    prepare_model,
)
from dro_trl.models.quantised import keep_gradients
from dro_trl.models.selector_generator import SelectorGenerator
from dro_trl.models.value_head import ValueHead
from dro_trl.policies.base import SelectionPolicy, load_policy
from dro_trl.trainer.dro_config import DROConfig, SelectionConfig


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


def _check_policy(policy: SelectionPolicy, args: DROConfig) -> None:
    """Refuse a policy that says otherwise than the options do, or does not go with them."""
    if policy.num_selected != args.num_selected:
        raise ValueError(
            f"policy.num_selected={policy.num_selected} and num_selected={args.num_selected} differ; give one K"
        )
    if policy.texts != args.texts:
        raise ValueError(f"policy.texts and prompt_texts={args.prompt_texts} differ; give both the same")
    weights = policy.score_weights
    if weights is not None and weights.weight.requires_grad and not args.train_selector:
        raise ValueError(
            "learn_weights=True and train_selector=False: the policy's weights are learnt with the selector; set "
            "train_selector to True (learning_rate=0 leaves the model itself as it is), or learn_weights to False"
        )
    if policy.proposal == "every_passage":
        _check_every_passage(args)
    elif args.loss_type in OVER_PASSAGES:
        raise ValueError(
            f"loss_type={args.loss_type!r} and proposal={policy.proposal!r} do not go together, since that loss is a "
            "sum over single passages; set proposal='every_passage' (policy_kwargs of PlackettLucePolicy)"
        )


def _check_every_passage(args: DROConfig) -> None:
    """Refuse what estimates something from selections that were drawn, where none is."""
    for name, allowed in (("loss_type", ("dro", *OVER_PASSAGES)), ("entropy_coef", (0,)), ("kl_coef", (0,))):
        if getattr(args, name) not in allowed:
            raise ValueError(
                f"proposal='every_passage' and {name}={getattr(args, name)!r} do not go together, since that needs "
                f"selections drawn from the policy; set {name}={allowed[0]!r}, or proposal='policy'"
            )


def measures_from_a_copy(args: DROConfig, goes_on: bool, switched_off_exactly: bool) -> bool:
    """Whether `kl_coef` is measured from a copy of the selector's start, not from its base without the adapter.

    Args:
        args: The options.
        goes_on: Whether the selector starts with an adapter.
        switched_off_exactly: As `is_switched_off_exactly` says of it.
    """
    return bool(args.kl_coef > 0 and args.train_selector and (goes_on or not switched_off_exactly))


def _value_head(selector: Any, policy: SelectionPolicy) -> ValueHead:
    return ValueHead(selector.config.get_text_config().hidden_size, policy.state_pooling).to(selector.device)


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
        ConnectionError: If `args.generator_url` cannot be reached.
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
    known = None if args.train_generator else KnownAnswers()
    endpoint = GeneratorEndpoint(args.generator_url, args.generator_model) if args.generator_url else None
    scorer = AnswerScorer(tokenizers["generator"], all_aliases, args.texts, args.scoring_token_budget, known, endpoint)
    value_head = _value_head(models["selector"], policy) if args.loss_type == "ppo" and args.train_selector else None
    pair = SelectorGenerator(parts["selector"], parts["generator"], policy, scorer, reference, value_head)
    join_lora(pair)
    for module in pair.modules() if args.disable_dropout else ():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return pair
