"""Datasets of questions; no module imports torch before it is called.

schema, columns, row_checks    what a row is, which columns are read how, what is wrong with one
load, text_row_reader, row_files  files as a `Dataset` that is not held in memory
given                          rows as programs have them: lists, data frames, streams
hub                            whether a name is that of a dataset on the hub
attach                         candidates of a retriever as a column
encyclopedia(_facts)           the made-up world that the quickstart trains on
formats/                       public datasets converted: a file for each, and `table` that lists them
"""
