"""What `dro-trl run` does: stages of commands, planned from one recipe, each run once and recognised by its record."""
