"""Reading and writing files, whole or not at all; imports nothing else of the package.

writing              files, JSON and JSON Lines, what an option names
folders, unfinished  whole folders and their locks; long outputs that a killed command goes on with
text_rows            JSON Lines, JSON, TSV and CSV, plain or compressed, row by row with their lines
markdown, wording    texts in Markdown, numbers with their nouns
"""
