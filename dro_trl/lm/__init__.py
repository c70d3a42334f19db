"""One language model: what it reads, where and how.

prompts, turns, tokens, encoding  texts, what stands around them, and their token ids
packing, attention, logps         many continuations behind one prompt, read once; their log-probabilities
answer_passes, generation         answers scored in passes of a size, answers written
fitting, devices, compiling       lengths that fit a model, where and in what format it runs, compiled layers
sharding, older_versions          models in parts on several processes; what older libraries lack
"""
