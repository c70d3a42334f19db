"""From a question to candidates; no module imports torch.

base, opening               what a retriever is, and the one that a command line names
pyserini, jvm, jvm_worker   BM25 over Lucene, in a process of its own
corpus, seen_ids            corpora as files, ids that come twice
questions, adding, progress questions of any number, read, answered and written as they come
trec_run, stored_run, gold  run files, and gold passages among what was found
"""
