"""Values that people write; imports no torch.

values     held against their types and ranges
yaml_text  YAML as it is meant
masking    secrets told by their names, and hidden
"""
