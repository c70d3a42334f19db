"""Saving the two models, each in a folder of its own that `from_pretrained` loads, and reading them back."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from dro_trl.files.folders import whole_folder
from dro_trl.files.writing import load_object, write_json
from dro_trl.lm.tokens import Tokenizer
from dro_trl.models.adapters import AdapterView
from dro_trl.models.files import ADAPTER_CONFIG, COPY_AGAIN, is_adapter, one_line
from dro_trl.models.merging import save_whole
from dro_trl.models.names import BASE, located, portable, settle
from dro_trl.models.names import CONFIG_NAME as CONFIG_NAME
from dro_trl.models.pair_config import check_config
from dro_trl.models.reading import base_of, is_adapter_source, read_base, read_into
from dro_trl.models.replacing import STAGING, replacing
from dro_trl.models.selector_generator import SelectorGenerator
from dro_trl.policies.score_weights import ScoreWeights, learnt_weight

CONFIG_FIELDS = (
    "policy",
    "policy_kwargs",
    "learnt_policy_kwargs",
    "prompt_texts",
    "chat",
    "chat_template_kwargs",
    "turns",
    "max_thinking_tokens",
    "num_selected",
    "num_candidates",
    "max_passage_tokens",
    "shared_base",
    "start",
    "start_policy_kwargs",
)
MODELS = ("selector", "generator")
VALUE_HEAD_NAME = "value_head.safetensors"


def save_models(
    pair: SelectorGenerator,
    folder: Path,
    tokenizers: dict[str, Tokenizer],
    state_dict: dict[str, Tensor] | None,
    home: Path | None = None,
) -> None:
    """Write `selector/` and `generator/` under `folder`, and beside them the value head where there is one.

    Args:
        pair: The models.
        folder: Made where it does not exist.
        tokenizers: For `selector` and `generator`.
        state_dict: The gathered weights of the whole module where they are sharded; read off the module where None.
        home: The folder where the pair will be, if another.

    Raises:
        ValueError: If weights that are sharded were not gathered.
    """
    for name in MODELS:
        prefix = "shared." if hasattr(pair, "shared") else f"{name}."
        part = None
        if state_dict is not None:
            part = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
            if not part:
                raise ValueError(
                    f"{folder}: the sharded weights of the {name} were not gathered, so there is nothing to save; set "
                    " zero3_save_16bit_model: true in accelerate's config of DeepSpeed"
                )
        model: Any = getattr(pair, name)
        model.save_pretrained(folder / name, state_dict=part)
        if is_adapter(folder / name):  # PEFT leaves out at which tokens answers end.
            model.generation_config.save_pretrained(folder / name)
        settle(folder / name, (home or folder) / name)
        tokenizers[name].save_pretrained(folder / name)
    if pair.value_head is not None:
        gathered = pair.state_dict() if state_dict is None else state_dict
        prefix = "value_head."
        save_file(
            {k.removeprefix(prefix): v.contiguous() for k, v in gathered.items() if k.startswith(prefix)},
            folder / VALUE_HEAD_NAME,
        )


def read_learnt(pair: SelectorGenerator, state_dict: dict[str, Tensor] | None) -> dict[str, float] | None:
    """Return the arguments of the policy that were learnt, None where none are; `state_dict` as in `save_models`."""
    if not isinstance(pair.score_weights, ScoreWeights):
        return None
    gathered = pair.state_dict() if state_dict is None else state_dict
    return pair.score_weights.learnt_kwargs(gathered["score_weights.weight"])


@contextmanager
def replacing_pair(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, whose pair takes the place of that in `folder`, `dro_config.json` last."""
    with replacing(folder, (*MODELS, VALUE_HEAD_NAME, "README.md"), (CONFIG_NAME,)) as staged:
        yield staged


def check_output(output: Path, starts: Mapping[str, Any]) -> None:
    """Refuse to write a pair over the models that it starts from.

    Raises:
        ValueError: If one of `starts` is where a model of the pair goes.
    """
    for name, start in starts.items():
        for model in MODELS:
            if start and Path(str(start)).is_dir() and Path(str(start)).resolve() == (output / model).resolve():
                raise ValueError(
                    f"output_dir={output}: its folder {model} is the start of the {name}, which would be lost; "
                    "give another output_dir"
                )


def copy_pair(folder: Path, output: Path) -> None:
    """Copy what makes a pair, and its model card, out of a checkpoint."""
    with replacing_pair(output) as staged:
        for name in MODELS:
            shutil.copytree(folder / name, staged / name)
            settle(staged / name, output / name, folder / name)
        for name in (VALUE_HEAD_NAME, "README.md"):
            if (folder / name).exists():
                shutil.copy(folder / name, staged / name)
        write_config(staged, read_config(folder), output)


def include_base(folder: Path) -> None:
    """Save the bases of a pair's adapters beside them, in `base/`, so that the pair needs nothing else.

    Raises:
        OSError: If a base is not there.
    """
    adapters = [name for name in MODELS if is_adapter_source(str(folder / name))]
    bases = {name: base_of(str(folder / name)) for name in adapters}
    homes = {base: folder / "base" / (name if len(set(bases.values())) > 1 else "") for name, base in bases.items()}
    for base, name in {base: name for name, base in bases.items()}.items():
        if Path(base).resolve() != homes[base].resolve():
            read_base(str(folder / name), {"dtype": "auto"}).save_pretrained(homes[base])
    for name, base in bases.items():
        config = load_object(folder / name / ADAPTER_CONFIG, COPY_AGAIN)
        write_json(folder / name / ADAPTER_CONFIG, {**config, BASE: portable(str(homes[base]), folder / name)})


def load_models(pair: SelectorGenerator, folder: Path) -> None:
    """Read the weights that `save_models` wrote into the models.

    Raises:
        OSError: If a model's folder or its weights are missing.
        ValueError: If they are damaged, or not those of these models.
    """
    if pair.value_head is not None:
        with one_line(folder / VALUE_HEAD_NAME, "a value head"):
            pair.value_head.load_state_dict(load_file(folder / VALUE_HEAD_NAME))
    if pair.score_weights is not None:
        learnt = read_config(folder)["learnt_policy_kwargs"]
        with one_line(folder / CONFIG_NAME, "learnt_policy_kwargs"):
            pair.score_weights.load_state_dict({"weight": learnt_weight(learnt)})
    for name in MODELS:
        model: Any = getattr(pair, name)
        peft_model, adapter = (model.model, name) if isinstance(model, AdapterView) else (model, "default")
        read_into(peft_model, folder / name, adapter)


def merge_adapters(folder: Path, output: Path, dtype: str = "float32", trust_remote_code: bool = False) -> None:
    """Write a trained pair as whole models, each adapter added to a copy of its base.

    Args:
        folder: What `DROTrainer` saved.
        output: Where the models go, whole or not at all; what `merge_adapters` wrote there before is replaced.
        dtype: Of the weights that are written.
        trust_remote_code: Whether to run code that comes with the models; the policy's is not run.

    Raises:
        FileNotFoundError: If the folder is not one that `DROTrainer` wrote.
        ValueError: If neither model is an adapter, one cannot be merged, or the output is the folder itself or where a
            base is. Nothing is written then.
        FileExistsError: If the output holds anything else than a merged pair.
    """
    config = read_config(folder)
    if output.resolve() == folder.resolve():
        raise ValueError(f"--output_dir {output} is the pair itself; give another folder")
    adapters = [name for name in MODELS if is_adapter_source(str(folder / name))]
    if not adapters:
        raise ValueError(f"{folder} holds no adapters: its models are whole already")
    check_output(output, {**config["start"], **{f"{name}'s base": base_of(str(folder / name)) for name in adapters}})
    with whole_folder(output, _is_of_merged) as partial:
        for name in MODELS:
            save_whole(folder / name, partial / name, dtype, trust_remote_code)
        write_config(partial, {**config, "shared_base": False}, output)


def _is_of_merged(path: Path) -> bool:
    files = (".json", ".safetensors", ".jinja", ".model", ".txt")
    return str(path) == CONFIG_NAME or (len(path.parts) == 2 and path.parts[0] in MODELS and path.suffix in files)


def write_config(folder: Path, options: Mapping[str, Any], home: Path | None = None) -> None:
    """Write what it takes to use the pair beside its weights: those of the options that selection depends on.

    Args:
        folder: Where it is written.
        options: Those, and others.
        home: The folder where the pair will be, if another; what it started from is named as seen from there.
    """
    config = {name: options[name] for name in CONFIG_FIELDS}
    config["start"] = {role: portable(start, home or folder) for role, start in options["start"].items()}
    write_json(folder / CONFIG_NAME, config)


def start_paths(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return what the selector and the generator of a pair started from: names on a hub, or folders.

    Raises:
        ValueError: If it was neither.
        FileNotFoundError: If such a folder is not there.
    """
    starts = {name: str(start or "") for name, start in config["start"].items()}
    for name, start in starts.items():
        if not start:
            raise ValueError(f"{folder} was trained from models in memory, so its start cannot be loaded (--no_start)")
        if Path(start).is_absolute() and not Path(start).is_dir():
            raise FileNotFoundError(
                f"{folder / CONFIG_NAME}: the {name} started from {start}, which does not exist; move it there, or "
                "evaluate without the start (--no_start)"
            )
    return starts


def read_config(folder: Path) -> dict[str, Any]:
    """Return the selection options that a trained pair was saved with.

    Raises:
        FileNotFoundError: If the folder is not one that `DROTrainer` wrote.
        ValueError: If an option is missing, unknown or has no valid value.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        torn = " (what is there was left by a save that was killed)" if (folder / STAGING).is_dir() else ""
        raise FileNotFoundError(f"{path} does not exist; give the output_dir of a DROTrainer run{torn}")
    config = load_object(path, COPY_AGAIN)
    check_config(path, config, CONFIG_FIELDS)
    config["start"] = {role: start and located(start, folder) for role, start in config["start"].items()}
    return {**dict.fromkeys(CONFIG_FIELDS), **config}
