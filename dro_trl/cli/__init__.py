"""The command `dro-trl`: one file a command, `app` registers them; nothing here is imported by the rest.

app               the group of commands, errors as one line
options, outputs  what several commands ask for, and which files they may write
"""
