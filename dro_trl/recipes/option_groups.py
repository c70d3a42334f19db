"""The lines that a recipe may have in groups, as the command line's help and the documentation show them."""

from collections.abc import Mapping

from dro_trl.options.values import Option

FURTHER = "Further options of Trainer"
"""The group of all that no other has: they do what they do in transformers and TRL."""

GROUPS = {
    "Study": "methods seeds equal_samples title num_examples eval_device eval_dtype max_new_tokens max_eval_samples",
    "Data": "dataset_name dataset_train_split dataset_streaming eval_dataset_name dataset_test_split "
    "max_train_samples on_bad_row answerable_only num_candidates shuffle_candidates max_passage_tokens",
    "Teacher": "teacher teacher_run",
    "Method": "loss_type num_selections temperature reward_funcs reward_weights reward_temperature control_variate "
    "entropy_coef kl_coef steps_per_estimation num_iterations epsilon epsilon_high scale_rewards vf_coef "
    "cliprange_value",
    "Selection": "num_selected policy policy_kwargs policy_learning_rate train_selector",
    "Generator": "generator_name_or_path train_generator generator_learning_rate generator_loss_coef "
    "min_generator_weight likelihood_reduction likelihood_aliases max_thinking_tokens scoring_token_budget "
    "generator_url generator_model",
    "Prompts": "prompt_texts chat chat_template_kwargs chat_template_path",
    "Models": "model_name_or_path model_revision dtype attn_implementation trust_remote_code model_init_kwargs "
    "shared_base save_base disable_dropout",
    "LoRA and quantisation": "use_peft lora_r lora_alpha lora_dropout lora_target_modules lora_target_parameters "
    "lora_modules_to_save lora_task_type use_rslora use_dora load_in_8bit load_in_4bit bnb_4bit_quant_type "
    "use_bnb_nested_quant bnb_4bit_quant_storage",
    "Trainer": "output_dir learning_rate num_train_epochs max_steps per_device_train_batch_size "
    "per_device_eval_batch_size gradient_accumulation_steps lr_scheduler_type warmup_steps optim weight_decay "
    "max_grad_norm bf16 activation_checkpointing activation_checkpointing_kwargs torch_compile seed use_cpu "
    "resume save_strategy save_steps save_total_limit eval_strategy eval_steps predict_with_generate "
    "eval_max_new_tokens load_best_model_at_end metric_for_best_model early_stopping_patience "
    "early_stopping_threshold logging_steps log_selections num_selections_to_print report_to run_name push_to_hub "
    "hub_model_id",
}
"""Options by group, those that are asked for most first; no command has all of them."""


def grouped(options: Mapping[str, Option]) -> dict[str, dict[str, Option]]:
    """Return options by group in the order of `GROUPS`, and those of no group at the end."""
    found = {group: {n: options[n] for n in names.split() if n in options} for group, names in GROUPS.items()}
    known = {name for names in found.values() for name in names}
    found[FURTHER] = {name: option for name, option in options.items() if name not in known}
    return {group: own for group, own in found.items() if own}
