"""What the commands do with a YAML file; `recipes/` beside the package holds those that come with it.

file, options, option_fields  finding and reading a recipe, and what it may say, without torch
paths                         what options and lines name, looked at without torch
arguments, building           its values as typed options, and what they mean
training, warmup, rehearsal   a recipe made into a training, and run; faults that a library would find late
processes, secrets            commands started as processes of their own, and what is hidden of them
runs/, studies/, estimates/   `dro-trl run`, `dro-trl compare`, `dro-trl estimate`
"""
