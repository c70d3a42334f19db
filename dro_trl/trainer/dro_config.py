"""The options of `DROTrainer`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from transformers import TrainingArguments

from dro_trl.lm.devices import settle_precision, with_trained_dtype
from dro_trl.lm.older_versions import adopt_checkpointing
from dro_trl.lm.prompts import PromptTexts, prompt_texts
from dro_trl.lm.turns import Chat
from dro_trl.losses.options import OVER_PASSAGES, LossOptions
from dro_trl.options.masking import guarded, masked
from dro_trl.options.values import Share, check_config
from dro_trl.options.yaml_text import read_yaml
from dro_trl.trainer.refused_options import check_options


@dataclass
class SelectionConfig(TrainingArguments):
    """Options on the rows, the passages and the policy, which a warm-up has as well."""

    _VALID_DICT_FIELDS = [
        *TrainingArguments._VALID_DICT_FIELDS,
        "activation_checkpointing_kwargs",
        "policy_kwargs",
        "prompt_texts",
        "chat_template_kwargs",
    ]

    # As in transformers, which calls them so from 5.23 on.
    activation_checkpointing: bool | None = field(
        default=None,
        metadata={
            "help": "Compute activations again in the backward pass, to save memory.",
            "nargs": "?",
            "const": True,
        },
    )
    activation_checkpointing_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Options of activation checkpointing, as transformers takes them."}
    )
    generator_name_or_path: str | None = field(
        default=None, metadata={"help": "Generator to start from; the selector's own start where not set."}
    )
    policy: str = field(default="dro_trl.PlackettLucePolicy", metadata={"help": "Dotted path of the policy's class."})
    policy_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of the policy, beside the tokenizer and num_selected."}
    )
    prompt_texts: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": "Words of the prompts that are not the default, by name; see `dro_trl.lm.prompts.PromptTexts`."
        },
    )
    chat: Chat = field(
        default="auto",
        metadata={
            "help": "Whether prompts go through the tokenizer's chat template: 'true', 'false', or 'auto', where it "
            "fits the model: where the model stops at what the template ends an answer with. What a base model's "
            "tokenizer comes with does not."
        },
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of the chat template, such as `{enable_thinking: false}`."}
    )
    chat_template_path: str | None = field(
        default=None,
        metadata={"help": "Chat template of both models: a `.jinja` file, or the name or folder of a tokenizer."},
    )
    max_thinking_tokens: NonNegativeInt = field(
        default=0,
        metadata={
            "help": "Longest thought, in tokens, that the generator writes before an answer; it is not scored and no "
            "part of the answer. None where 0."
        },
    )
    num_selected: PositiveInt = field(default=5, metadata={"help": "K, the number of passages in a selection."})
    num_candidates: PositiveInt = field(
        default=20, metadata={"help": "N, candidates that a `retriever` finds for datasets that have none."}
    )
    shuffle_candidates: bool = field(
        default=True,
        metadata={
            "help": "Show each training question's candidates in random order, so that the selector cannot learn the "
            "retriever's ranks in place of the passages."
        },
    )
    max_passage_tokens: PositiveInt | None = field(
        default=None,
        metadata={
            "help": "Cut the texts of passages, without their titles, to this many of the generator's tokens "
            "(counted, logged). Not where not set."
        },
    )
    answerable_only: bool = field(
        default=False,
        metadata={
            "help": "Train only on questions whose answer stands in a candidate and not in the question itself "
            "(counted, logged): the likelihood of any other says little of which passages to select."
        },
    )

    dataloader_persistent_workers: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Whether workers stay from epoch to epoch: they do where None."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.chat, bool):  # As YAML reads `true`.
            self.chat = "true" if self.chat else "false"
        for name in self._VALID_DICT_FIELDS:
            if isinstance(value := getattr(self, name), str) and value.startswith("{"):
                setattr(self, name, read_yaml(value, name))
        check_config(self)
        adopt_checkpointing(self)
        super().__post_init__()
        for name in ("hub_token", "model_init_kwargs"):  # Trainer pickles options beside a model, and uploads them.
            setattr(self, name, guarded(getattr(self, name, None), name))
        prompt_texts(self.prompt_texts)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return the options as they may be written, without secrets."""
        options: dict[str, Any] = masked(super().to_dict())
        return options

    @property
    def texts(self) -> PromptTexts:
        """The words of the prompts."""
        return prompt_texts(self.prompt_texts)  # type: ignore[arg-type]


@dataclass
class DROConfig(LossOptions, SelectionConfig):
    """Options of `DROTrainer`, beside those of `transformers.TrainingArguments`.

    `learning_rate` is the selector's. Defaults are those that learnt in the runs reported in the documentation.
    """

    _VALID_DICT_FIELDS = [*SelectionConfig._VALID_DICT_FIELDS, "model_init_kwargs"]

    # Models
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Keyword arguments of `from_pretrained`, for models given as strings. `dtype` is float32 unless "
            "given; 'auto' is bfloat16 under adapters where the device has it, else float32."
        },
    )
    train_selector: bool = field(default=True, metadata={"help": "Whether to update the selector."})
    train_generator: bool = field(default=True, metadata={"help": "Whether to update the generator."})
    generator_url: str | None = field(
        default=None,
        metadata={
            "help": "OpenAI-compatible server of a generator that is not trained, such as http://localhost:8000/v1: "
            "it writes the answers that are rewarded, and says how likely answers are where it can (vLLM). Here where "
            "not set."
        },
    )
    generator_model: str | None = field(
        default=None, metadata={"help": "What the server calls it; its only model if not given."}
    )
    shared_base: bool = field(
        default=False,
        metadata={
            "help": "Train the selector and the generator as two LoRA adapters on one base model, in half the memory."
        },
    )
    save_base: bool = field(
        default=False,
        metadata={"help": "Save the base of adapters with the final pair, in `base/`, so that it needs nothing else."},
    )
    disable_dropout: bool = field(
        default=True,
        metadata={"help": "Set every dropout to 0, so that a selection is drawn and trained by one model."},
    )

    # Estimation step
    num_selections: PositiveInt = field(
        default=8, metadata={"help": "M, the number of selections drawn for a question."}
    )
    temperature: PositiveFloat = field(
        default=1.0, metadata={"help": "Temperature of the draw; the weights correct for it exactly."}
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each reward function; all 1 where not set."}
    )
    likelihood_reduction: Literal["sum", "mean"] = field(
        default="sum", metadata={"help": "Over an answer's tokens: 'sum' (the likelihood) or 'mean'."}
    )
    likelihood_aliases: Literal["first", "best", "marginal"] = field(
        default="first", metadata={"help": "Over an answer's aliases: 'first', 'best' or 'marginal'."}
    )
    scoring_token_budget: PositiveInt | None = field(
        default=None,
        metadata={
            "help": "Most tokens, with padding if any, that the generator reads in a forward pass to score answers. "
            "Selections beyond that go through passes of their own, whose activations are made again in the backward "
            "pass, not kept. All go through one where not set; half of them, and so on, where memory runs out."
        },
    )
    min_generator_weight: Share = field(
        default=0.0,
        metadata={
            "help": "Selections that weigh less than this are left out of the generator's term: answers are scored "
            "without gradient first, and then again those of the others. Pays where few selections carry the weight. "
            "0 trains on all, in one pass. With loss_type 'dro'."
        },
    )
    steps_per_estimation: PositiveInt = field(
        default=1,
        metadata={
            "help": "Optimizer steps between two estimation steps: 1 is online, a whole pass over the data is the "
            "paper's alternation."
        },
    )
    num_iterations: PositiveInt = field(
        default=1, metadata={"help": "How often each estimated sample is used (mu); off-policy after the first."}
    )

    # Maximization step (beside `LossOptions`)
    generator_learning_rate: NonNegativeFloat | None = field(
        default=None, metadata={"help": "Initial learning rate of the generator; the selector's where not set."}
    )
    policy_learning_rate: NonNegativeFloat = field(
        default=1e-2, metadata={"help": "Initial learning rate of the policy's own weights (`learn_weights`)."}
    )
    generator_loss_coef: NonNegativeFloat = field(
        default=1.0, metadata={"help": "Lambda, weight of the generator's term."}
    )

    # Evaluation
    predict_with_generate: bool = field(
        default=False,
        metadata={
            "help": "Whether evaluations while training answer each question from the selection that the selector "
            "prefers: `eval_em`, `eval_f1` and, where gold passages are known, `eval_recall`."
        },
    )
    eval_max_new_tokens: PositiveInt = field(default=32, metadata={"help": "Longest of these answers, in tokens."})
    early_stopping_patience: PositiveInt | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations on end in which `metric_for_best_model` got no better. Not where "
            "not set."
        },
    )
    early_stopping_threshold: NonNegativeFloat = field(
        default=0.0, metadata={"help": "By how much it has to get better to count."}
    )

    # Logging
    log_selections: bool = field(
        default=False,
        metadata={
            "help": "Print a table of sampled selections every `logging_steps`, and log it to W&B, trackio and MLflow "
            "where `report_to` names them."
        },
    )
    num_selections_to_print: PositiveInt = field(default=4, metadata={"help": "Questions in that table."})

    # Defaults of TrainingArguments that differ here
    bf16: bool | None = field(  # type: ignore[assignment]
        default=False,
        metadata={
            "help": "Whether to compute in bfloat16 (mixed precision); None, which recipes have where they say "
            "nothing: where the device has it."
        },
    )
    learning_rate: float = field(default=3e-4, metadata={"help": "Initial learning rate of the selector."})
    logging_steps: float = field(default=10, metadata={"help": "Log every X update steps."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept off: rewards receive every column of the dataset."}
    )
    dataloader_drop_last: bool = field(
        default=False, metadata={"help": "Kept off: the sampler fills the last batch itself."}
    )

    def __post_init__(self) -> None:
        settle_precision(self)
        super().__post_init__()
        self.check_together()

    def check_together(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: Names them.
        """
        if not (self.train_selector or self.train_generator):
            raise ValueError("train_selector=False and train_generator=False leave nothing to train; set one to True")
        if self.generator_model and not self.generator_url:
            raise ValueError(f"generator_model={self.generator_model!r} is a model of a server; set generator_url")
        for name, wanted in (("train_generator", False), ("max_thinking_tokens", 0)):
            if self.generator_url and (value := getattr(self, name)) != wanted:
                why = "goes on serving the weights that it has" if name == "train_generator" else "writes no thoughts"
                raise ValueError(
                    f"generator_url={self.generator_url!r} and {name}={value} do not go together, since the server "
                    f"{why}; set {name} to {wanted}, or leave generator_url out"
                )
        if self.num_selections == 1 and self.train_selector:
            raise ValueError("num_selections=1 gives the selector no signal (its only weight is 1); use at least 2")
        if self.min_generator_weight and (self.loss_type != "dro" or not self.train_generator):
            raise ValueError(
                f"min_generator_weight={self.min_generator_weight} with loss_type={self.loss_type!r} and "
                f"train_generator={self.train_generator} leaves nothing out: it needs loss_type='dro' and a generator "
                "that is trained; set it to 0"
            )
        for name in ("entropy_coef", "kl_coef") if self.loss_type in (*OVER_PASSAGES, "supervised") else ():
            if getattr(self, name):
                raise ValueError(
                    f"loss_type={self.loss_type!r} and {name}={getattr(self, name)!r} do not go together, since that "
                    f"term is estimated from selections drawn from the policy, and none is drawn; set {name} to 0"
                )
        if self.torch_compile and self.shared_base and self.activation_checkpointing:
            raise ValueError(
                "torch_compile=True, shared_base=True and activation_checkpointing=True do not go together, since a "
                "compiled layer cannot be recomputed with the adapter that it had; set one of them to False"
            )
        if self.early_stopping_patience is not None:
            for name, unset, why in (
                ("metric_for_best_model", None, "does not say by what"),
                ("eval_strategy", "no", "needs evaluations"),
            ):
                if getattr(value := getattr(self, name), "value", value) == unset:
                    raise ValueError(
                        f"early_stopping_patience={self.early_stopping_patience} {why} ({name}={unset!r}); set {name}"
                    )
        check_options(self)

    def decide_dtype(self, adapters: bool) -> None:
        """Put the number format that models are loaded in where `model_init_kwargs` have a `dtype` of `auto`.

        Args:
            adapters: Whether adapters are trained.

        Raises:
            ValueError: If the `dtype` is none.
        """
        if self.model_init_kwargs:
            self.model_init_kwargs = with_trained_dtype(self.model_init_kwargs, self.device, adapters)  # type: ignore[arg-type]

    @property
    def on_policy(self) -> bool:
        """Whether each sample is used once, by the model that drew it: sampling and training share one forward."""
        return self.steps_per_estimation == 1 and self.num_iterations == 1
