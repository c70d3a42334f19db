"""What a run starts from: models as they are, adapters that go on or are merged first, parts of a finished pair."""

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from dro_trl.lm.sharding import loading_whole
from dro_trl.lm.turns import Turns, read_turns
from dro_trl.models.causal_lm import check_causal
from dro_trl.models.loading import Start, load_model, load_shared
from dro_trl.models.merging import save_whole
from dro_trl.models.names import find_pair
from dro_trl.models.reading import base_of, is_adapter_source
from dro_trl.models.replacing import replacing_model
from dro_trl.models.saving import CONFIG_NAME, MODELS, read_config
from dro_trl.records import differences
from dro_trl.trainer.refused_options import check_adapter

logger = logging.getLogger(__name__)

Given = str | PreTrainedModel | PeftModel

NOT_COMPARED = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_lora_weights",
    "init_weights",
    "peft_version",
    "revision",
    "task_type",
}
"""Fields of a PEFT config that say nothing of what the adapter computes or trains."""


def start_names(model: Given, generator: Given | None) -> dict[str, Given | None]:
    """Return what `selector` and `generator` start from; a finished pair's folder stands for its two models."""
    names = {"selector": model, "generator": generator or (model if find_pair(model) else None)}
    folders = {role: find_pair(given) for role, given in names.items()}
    return {role: str(folder / role) if (folder := folders[role]) else given for role, given in names.items()}


def adapter_config(name: Given | None) -> Any | None:
    """Return the PEFT config of an adapter, None for a model that has none.

    Raises:
        ValueError: If transformers put the adapter on the model, which PEFT then knows nothing of.
    """
    if isinstance(name, PeftModel):
        return name.peft_config[name.active_adapter]
    if isinstance(name, str):
        return PeftConfig.from_pretrained(name) if is_adapter_source(name) else None
    if getattr(name, "_hf_peft_config_loaded", False):
        raise ValueError(
            "the model holds an adapter that transformers put on it, over which another one would be put; give the "
            "adapter's folder, or load it with peft.AutoPeftModelForCausalLM"
        )
    return None


def goes_on(start: str, peft_config: PeftConfig | None, init_kwargs: Any = None) -> bool:
    """Whether training goes on with the adapter that a start has, since it is the one that is to be trained."""
    held = adapter_config(start)
    return held is not None and peft_config is not None and not _differing(held, peft_config, start, init_kwargs)


def load_starts(
    model: Given, generator: Given | None, args: Any, peft_config: PeftConfig | None = None
) -> dict[str, Start]:
    """Return what `selector` and `generator` start from.

    An adapter goes on where `peft_config` says what it is already. It is merged into its base before another one is
    put on it, or before all weights are trained.

    Args:
        model: The selector's start: a model, its name or folder, an adapter's, or a finished pair's.
        generator: The generator's, where it has one of its own.
        args: A `DROConfig`, which says how to load them, and whether they share their base; then both are one object.
        peft_config: Adapter to be trained; all weights are where None.

    Raises:
        ValueError: If the run would write over its start, or the starts do not go with a shared base or the config.
    """
    args.decide_dtype(adapters=peft_config is not None)
    given = start_names(model, generator)
    for start in (model, generator):
        if find_pair(start) == Path(str(args.output_dir)).resolve():
            raise ValueError(
                f"output_dir={args.output_dir} is the pair that training starts from, which would be written over; "
                "give another folder"
            )
    for config in (peft_config, *map(adapter_config, given.values())):
        check_adapter(config)
    turns = {role: turns_of_pair(start) for role, start in given.items()}
    if args.shared_base:
        starts = _load_shared(given, args, peft_config)
        return {role: replace(start, turns=turns[role]) for role, start in starts.items()}
    init, trained = args.model_init_kwargs, {"selector": args.train_selector, "generator": args.train_generator}
    own = given["generator"] is not None
    given["generator"] = given["generator"] or given["selector"]
    final: dict[str, Any] = {}
    for role in MODELS:
        alike = role == "generator" and given[role] is given["selector"] and len(set(trained.values())) == 1
        if alike:
            final[role] = final["selector"]
        else:
            final[role] = merged_where_needed(given[role], role, peft_config, args) if trained[role] else given[role]  # type: ignore[arg-type]
    for start in final.values():
        check_causal(start, init)  # Before the selector is loaded, which may take a while.
    starts = {"selector": _load_start(final["selector"], init)}
    if final["generator"] == final["selector"]:
        starts["generator"] = Start(starts["selector"].copy(init), starts["selector"].name, is_copy=not own)
    else:
        starts["generator"] = _load_start(final["generator"], init)
    return {role: replace(start, turns=turns[role]) for role, start in starts.items()}


def turns_of_pair(start: Given | None) -> Turns | None:
    """Return what a model of a finished pair read around texts, None for any other model."""
    folder = Path(start).resolve() if isinstance(start, str) else Path()
    path = folder.parent / CONFIG_NAME
    if not isinstance(start, str) or folder.name not in MODELS or not path.is_file():
        return None
    turns = read_config(folder.parent)["turns"]
    return read_turns(turns.get(folder.name), f"{path}: turns.{folder.name}") if turns else None


def _load_start(given: Given, init_kwargs: Any) -> Start:
    if isinstance(given, str):
        return Start(load_model(given, init_kwargs), _full_name(given))
    return Start(given, "" if isinstance(given, PeftModel) else str(given.name_or_path))


def _full_name(name: str) -> str:
    """Return a folder's absolute path, and any other name as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def merged_where_needed(start: Given, role: str, peft_config: PeftConfig | None, args: Any) -> Given:
    """Return a start whose adapter, if it has one, is the one to be trained.

    Another adapter is merged into its base, in a folder of its own under `args.output_dir`, which the new adapter is
    saved against.

    Raises:
        ValueError: If a PEFT model made in memory has another adapter.
    """
    held, init_kwargs = adapter_config(start), args.model_init_kwargs
    if held is None or (peft_config is None and not isinstance(start, str)):
        return start
    if peft_config is None:
        reason = "all weights are trained, since peft_config is None"
    else:
        differing = _differing(held, peft_config, start, init_kwargs)
        if not differing:
            logger.warning(f"the {role} goes on with the adapter of {_named(start)}")
            return start
        reason = f"a new adapter is trained, whose {'; '.join(differing)}"
    if not isinstance(start, str):
        raise ValueError(
            f"the {role} is a PEFT model, and peft_config is another ({reason}); give None to train its adapter "
            "further, or merge it first (merge_and_unload)"
        )
    folder = Path(str(args.output_dir)) / "start" / role
    logger.warning(f"the {role}'s adapter of {start} is merged into its base, in {folder}: {reason}")
    with args.main_process_first(local=False), loading_whole():
        if args.process_index == 0:
            loading = init_kwargs or {}
            with replacing_model(folder) as staged:
                save_whole(
                    Path(start), staged, loading.get("dtype") or torch.float32, bool(loading.get("trust_remote_code"))
                )
    return str(folder)


def _named(start: Given) -> str:
    return start if isinstance(start, str) else "a model made in memory"


def _differing(held: Any, asked: Any, start: Given, init_kwargs: Any) -> list[str]:
    """Say what an adapter that is asked for has that the one at hand has not."""
    model: Any = start
    named = base_of(start) if isinstance(start, str) else model.get_base_model().config
    completed = complete(asked, named, init_kwargs)
    return differences(_comparable(held), _comparable(completed))


def complete(asked: Any, base: Any, init_kwargs: Any = None) -> Any:
    """Return a PEFT config as PEFT completes it for a model: with each module's name in place of "all-linear" or None.

    Args:
        asked: The config.
        base: The model's config, or the name of the model.
        init_kwargs: How the model is loaded.
    """
    if isinstance(base, str):
        trusted = {k: v for k, v in (init_kwargs or {}).items() if k in ("trust_remote_code", "revision")}
        base = AutoConfig.from_pretrained(base, **trusted)
    completed = copy.deepcopy(asked)
    for name in ("init_lora_weights", "init_weights"):
        if hasattr(completed, name):
            setattr(completed, name, True)  # Others would compute something, and these weights are on no device.
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(copy.deepcopy(base))
        adapted: Any = get_peft_model(skeleton, completed)
    return adapted.peft_config["default"]


def _comparable(config: Any) -> dict[str, Any]:
    options = {name: value for name, value in config.to_dict().items() if name not in NOT_COMPARED}
    sets = {name: sorted(value) for name, value in options.items() if isinstance(value, (set, list, tuple))}
    plain: dict[str, Any] = json.loads(json.dumps(options | sets, default=str))
    return plain


def _load_shared(given: dict[str, Any], args: Any, peft_config: Any) -> dict[str, Start]:
    """Return the starts of two adapters on one base: both are one object, or views of one whose adapters go on."""
    configs = {role: adapter_config(start) for role, start in given.items()}
    if given["generator"] is None and configs["selector"] is None:
        base = given["selector"]
        named = _full_name(base) if isinstance(base, str) else base.name_or_path
        model = load_model(base, args.model_init_kwargs)
        return {"selector": Start(model, named), "generator": Start(model, named, is_copy=True)}
    if given["generator"] is None:
        given, configs = dict.fromkeys(MODELS, given["selector"]), dict.fromkeys(MODELS, configs["selector"])
    if None in configs.values() or not all(isinstance(start, str) for start in given.values()):
        raise ValueError(
            "shared_base=True trains the generator on the selector's base; give no generator, or two saved adapters "
            f"of one base ({' and '.join(map(_named, given.values()))} are none)"
        )
    differing = {
        role: [] if peft_config is None else _differing(config, peft_config, given[role], args.model_init_kwargs)
        for role, config in configs.items()
    }
    if peft_config is None or any(differing.values()):
        said = [f"{role}: {'; '.join(found)}" for role, found in differing.items() if found]
        raise ValueError(
            "shared_base=True goes on with two adapters as they are, since both cannot be merged into one base; give "
            f"the peft_config that they have ({', '.join(said) or 'it is None'}), or shared_base=False"
        )
    logger.warning(f"the selector and the generator go on with the adapters of {' and '.join(given.values())}")
    views = load_shared(given, init_kwargs=args.model_init_kwargs)
    return {role: Start(views[role], _full_name(given[role])) for role in MODELS}


def learnt_start(model: Given, policy: str | None, args: Any) -> dict[str, float] | None:
    """Return the policy's arguments that a finished pair has learnt, where this run starts from its selector.

    They are where a run's weights start; one whose policy is another starts where it says, which is logged.

    Args:
        model: The selector's start, as `load_starts` takes it.
        policy: Dotted path of the policy, None for an object.
        args: A `DROConfig`.
    """
    start = start_names(model, None)["selector"]
    folder = Path(start).resolve().parent if isinstance(start, str) else Path()
    if not isinstance(start, str) or Path(start).name != "selector" or not (folder / CONFIG_NAME).is_file():
        return None
    config, asked = read_config(folder), {"policy": policy, "prompt_texts": args.prompt_texts}
    asked["policy_kwargs"], config["policy_kwargs"] = (
        {k: v for k, v in (kwargs or {}).items() if k != "learn_weights"}
        for kwargs in (args.policy_kwargs, config["policy_kwargs"])
    )
    learnt: dict[str, float] | None = config["learnt_policy_kwargs"]
    if found := differences({name: config[name] for name in asked}, asked):
        logger.warning(
            f"this run starts from the pair in {folder} and reads it otherwise: {'; '.join(found)}"
            + (
                f"; the weights that its policy has learnt are left ({config['learnt_policy_kwargs']})"
                if learnt
                else ""
            )
        )
        return None
    return learnt
