"""A trained pair read from its folder: its models or one of them, its tokenizers, and how it selects."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dro_trl.lm import prompts
from dro_trl.lm.devices import AUTO, choose_device, choose_dtype, describe
from dro_trl.lm.prompts import PromptTexts
from dro_trl.lm.tokens import Tokenizer
from dro_trl.models.files import check_model_files, check_tokenizer_files, one_line
from dro_trl.models.loading import check_loaded, load_for_use, saved_tokenizers
from dro_trl.models.names import pair_folder
from dro_trl.models.saving import CONFIG_NAME, MODELS, read_config, start_paths
from dro_trl.policies.base import SelectionPolicy, check_own, load_policy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedPair:
    """What a folder of `DROTrainer` holds, ready for use."""

    folder: Path
    config: dict[str, Any]
    """Its `dro_config.json`."""
    models: dict[str, Any]
    """Those that were asked for, by `selector` and `generator`: views of one model where their adapters lie on one
    base, and one object where both started from the same."""
    tokenizers: dict[str, Tokenizer]
    """Of both, whichever models are loaded: passages are cut by the generator's. One object where they are alike."""
    texts: PromptTexts
    policy: SelectionPolicy


def open_pair(
    name: str | Path,
    revision: str | None,
    device: str | torch.device,
    policy: SelectionPolicy | None,
    num_selected: int | None,
    model_kwargs: Mapping[str, Any],
    roles: Sequence[str] = MODELS,
    start: bool = False,
) -> OpenedPair:
    """Load what `DROTrainer` saved, or what that training started from.

    Args:
        name: Folder of the pair, or its name on a hub.
        revision: Branch, tag or commit of the repository.
        device: Where the models go, as `choose_device` takes it.
        policy: Needed where the pair was trained with a policy object.
        num_selected: K; what the pair was trained with where None.
        model_kwargs: For `from_pretrained` of the models.
        roles: Which of the two models to load.
        start: Whether to load the models that training started from.

    Raises:
        FileNotFoundError: If the folder is not one that `DROTrainer` wrote, or its start is not there any more.
        ValueError: If the pair was trained with a policy object, and none is given; if both a policy and K are; if it
            names a policy of others that is not trusted; if it started from no name or folder and `start` is asked
            for; or if there is no such device or dtype.
    """
    folder = pair_folder(name, revision)
    config = read_config(folder)
    if start:
        config["learnt_policy_kwargs"] = config["start_policy_kwargs"]
        paths = start_paths(folder, config)
    else:
        paths = {role: str(folder / role) for role in MODELS}
        for role in roles:
            check_model_files(Path(paths[role]))
    trusted = bool(model_kwargs.get("trust_remote_code"))
    _check_policy(folder, config, paths["selector"], policy, num_selected, trusted)
    device = choose_device(device)
    model_kwargs = {**model_kwargs, "dtype": choose_dtype(model_kwargs.get("dtype", AUTO), device)}
    logger.info(f"{' and '.join(paths[role] for role in roles)} run {describe(device, model_kwargs['dtype'])}")
    for role in MODELS:
        check_tokenizer_files(folder / role, saved=True)
    shared = bool(config.get("shared_base")) and not start
    models = load_for_use({role: paths[role] for role in roles}, device, model_kwargs, shared)
    # Of a start as well: it reads what training read.
    tokenizers = saved_tokenizers(folder, config["turns"], trusted)
    for role in roles:
        check_loaded(models[role], tokenizers[role], str(folder / role))
    texts = prompts.prompt_texts(config["prompt_texts"])
    if policy is None:
        kwargs = {**(config["policy_kwargs"] or {}), **(config["learnt_policy_kwargs"] or {})}
        with one_line(folder / CONFIG_NAME, f"a policy {config['policy']}"):
            k = num_selected or config["num_selected"]
            policy = load_policy(config["policy"], tokenizers["selector"], k, kwargs, texts)
    return OpenedPair(folder, config, models, tokenizers, texts, policy)


def _check_policy(
    folder: Path,
    config: Mapping[str, Any],
    selector: str,
    policy: SelectionPolicy | None,
    num_selected: int | None,
    trusted: bool,
) -> None:
    if policy is None and config["policy"] is None:
        raise ValueError(f"{selector} was trained with a policy object; pass policy=… to load it")
    if policy is not None and num_selected is not None:
        raise ValueError(
            f"num_selected={num_selected} and a policy of num_selected={policy.num_selected}: give one of them"
        )
    if policy is None and not trusted:
        check_own(config["policy"], folder / CONFIG_NAME)
