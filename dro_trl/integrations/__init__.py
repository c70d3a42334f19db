"""A trained selector where other libraries expect a reranker; each file needs the library of its extra.

langchain   a document compressor
llamaindex  a node postprocessor
haystack    a component
rankllm     requests with candidates, as objects or as JSON
"""
